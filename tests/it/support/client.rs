//! A listener as a scenario sees it, whatever its transport.

use serde_json::Value;

use super::{Api, Sse};

/// What arrives on a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The first one.
    Ready(Value),
    /// An event of a topic.
    Event(Event),
    /// A replay is complete, up to this position.
    Position(String),
    /// A sign of life, with the position it moves the cursor to.
    Heartbeat(String),
    /// The server ends the connection.
    Close(Value),
}

/// An event of a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its topic.
    pub topic: String,
    /// Its position; volatile and conflated events have none.
    pub id: Option<String>,
    /// Its data.
    pub data: Value,
}

/// One connection. So far all of them are `/v2/realtime/stream`.
pub struct Client(Sse);

impl Client {
    /// Connects, and reads the `ready` frame.
    pub async fn connect(api: &Api, topics: &str, cursor: Option<&str>) -> (Self, Value) {
        let mut client = Client(api.listen(topics, cursor).await);
        match client.next().await {
            Some(Frame::Ready(ready)) => {
                assert_eq!(ready["position"].as_str(), client.cursor());
                (client, ready)
            }
            other => panic!("ready comes first, not {other:?}"),
        }
    }

    /// Connects to a server that may be away or go away.
    pub async fn try_connect(request: reqwest::RequestBuilder) -> Option<(Self, Value)> {
        let mut client = Client(Sse::of(request.send().await.ok()?).await);
        match client.next().await? {
            Frame::Ready(ready) => Some((client, ready)),
            Frame::Close(_) => None,
            other => panic!("ready comes first, not {other:?}"),
        }
    }

    /// Where a reconnect would resume.
    pub fn cursor(&self) -> Option<&str> {
        self.0.cursor.as_deref()
    }

    /// The next frame; None at the connection's end.
    pub async fn next(&mut self) -> Option<Frame> {
        let event = self.0.next().await?;
        let id = || event.id.clone().expect("an id");
        Some(match event.event.as_str() {
            "ready" => Frame::Ready(event.data),
            "position" => {
                assert_eq!(event.data, serde_json::json!({"position": id()}));
                Frame::Position(id())
            }
            "heartbeat" => Frame::Heartbeat(id()),
            "close" => Frame::Close(event.data),
            name => {
                assert_eq!(event.data["event"], name);
                let id = event.data["id"].as_str().map(str::to_owned);
                if id.is_some() {
                    assert_eq!(id, event.id, "the event object and the frame agree on the id");
                }
                Frame::Event(Event {
                    name: name.to_owned(),
                    topic: event.data["topic"].as_str().expect("a topic").to_owned(),
                    id,
                    data: event.data["data"].clone(),
                })
            }
        })
    }

    /// The next event of a topic, heartbeats and the end of a replay aside.
    pub async fn event(&mut self) -> Event {
        loop {
            match self.next().await {
                Some(Frame::Event(event)) => return event,
                Some(Frame::Position(_) | Frame::Heartbeat(_)) => {}
                other => panic!("an event comes, not {other:?}"),
            }
        }
    }

    /// What is replayed, up to the frame that ends the replay.
    pub async fn replay(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            match self.next().await {
                Some(Frame::Event(event)) => events.push(event),
                Some(Frame::Position(_)) => return events,
                Some(Frame::Heartbeat(_)) => {}
                other => panic!("a replay ends with its position, not {other:?}"),
            }
        }
    }
}

/// The number of a position.
pub fn seq(position: &str) -> u64 {
    let (_, number) = position.split_once('-').expect("<epoch>-<seq>");
    number.parse().expect("a number")
}

/// The position `number` in the same run of the log.
pub fn with_seq(position: &str, number: u64) -> String {
    let (epoch, _) = position.split_once('-').expect("<epoch>-<seq>");
    format!("{epoch}-{number}")
}
