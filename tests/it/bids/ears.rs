//! Somebody who listens to a bid in every way there is, and keeps each byte.

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Api, PATIENCE, Poller, Ws};

/// What tells of the end of a bid named `B`.
const AWARDED: &str = r#""new_status":"awarded""#;

enum Line {
    Stream(reqwest::Response),
    WebSocket(Box<Ws>),
    Poll(Box<Poller>),
}

/// One way to listen, with what came by it so far.
pub struct Ear {
    way: String,
    line: Line,
    heard: String,
}

/// All by which somebody listens to the bid `B`.
pub struct Ears(Vec<JoinHandle<Ear>>);

impl Ears {
    /// Listens to these topics of the bid, live or from a cursor on; those in `refused` are asked for as well where
    /// that leaves the others. A stream of rankings alone ends with `last`, everything else with the bid's award.
    pub async fn open(api: &Api, topics: &str, refused: &str, (since, last): (Option<&str>, &str)) -> Self {
        let cursor = since.map_or(String::new(), |cursor| format!("&cursor={cursor}"));
        let stream = async |path: &str| {
            let path = format!("/v2/realtime/{path}{cursor}");
            let answer = api.request("GET", &path).header("Accept", "text/event-stream").send().await;
            Ear::new(path, Line::Stream(answer.expect("an answer")))
        };
        let websocket = async |topics: &str| {
            let (path, credentials) = (format!("/v2/realtime/ws?topics={topics}{cursor}"), api.credentials());
            let headers: Vec<_> = credentials.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let ws = Ws::try_open(api.address(), &path, &headers).await.expect("open");
            Ear::new(path, Line::WebSocket(Box::new(ws)))
        };
        let mut ears = vec![(stream("bid-updates?bid_ids=B").await, AWARDED)];
        for batches in ["", "&batch_ms=20&batch_max=7"] {
            ears.push((stream(&format!("stream?topics={topics}{batches}")).await, AWARDED));
            ears.push((websocket(&format!("{topics}{refused}{batches}")).await, AWARDED));
        }
        let poller = Box::new(Poller::new(api, topics, since));
        ears.push((Ear::new("poll".to_owned(), Line::Poll(poller)), AWARDED));
        if topics.contains("ranking:B") {
            ears.push((stream("proposal-ranking-updates?bid_id=B").await, last));
        }
        join_all(ears.iter_mut().map(|(ear, _)| ear.until("\"recovered\""))).await;
        let listening = ears.into_iter().map(|(mut ear, end)| {
            let end = end.to_owned();
            tokio::spawn(async move {
                ear.until(&end).await;
                ear
            })
        });
        Ears(listening.collect())
    }

    /// What came by each way up to its end, with the way's name.
    pub async fn heard(self) -> Vec<(String, String)> {
        let all = join_all(self.0).await.into_iter().map(|own| own.expect("no panic"));
        all.map(|ear| (ear.way, ear.heard)).collect()
    }
}

impl Ear {
    fn new(way: String, line: Line) -> Self {
        Ear { way, line, heard: String::new() }
    }

    /// Listens until it has heard this.
    async fn until(&mut self, end: &str) {
        while !self.heard.contains(end) {
            let more = timeout(PATIENCE, self.line.more()).await;
            self.heard += &more.unwrap_or_else(|_| panic!("{}: no {end} in {}", self.way, self.heard));
        }
    }
}

impl Line {
    /// What comes next, as it comes.
    async fn more(&mut self) -> String {
        match self {
            Line::Stream(answer) => {
                let piece = answer.chunk().await.expect("whole").expect("it goes on");
                // an event may be cut within a character; the names that matter have none of these
                String::from_utf8_lossy(&piece).into_owned()
            }
            Line::WebSocket(ws) => match ws.raw().await.expect("it goes on").expect("whole") {
                Message::Text(text) => text.to_string(),
                _ => String::new(),
            },
            Line::Poll(poller) => poller.try_ask(1).await.expect("an answer").text,
        }
    }
}
