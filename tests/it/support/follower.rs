//! Somebody who listens on, whatever becomes of the node that it listens at.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Api, Client, Frame, PATIENCE, Sse, Transport, pause};

/// How somebody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To topics over a transport.
    Topics(Transport, String),
    /// At the path of an event stream.
    Path(String),
}

/// An event, as far as every way tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: Value,
}

enum Link {
    Client(Box<Client>),
    Stream(Box<Sse>),
}

/// A listener that comes back with its cursor wherever it is let in.
pub struct Follower {
    way: Way,
    link: Link,
    home: Api,
    /// How many connections it took so far.
    pub connections: usize,
}

impl Follower {
    /// Listens at `api`, from a cursor on if there is one.
    pub async fn new(api: &Api, way: &Way, cursor: Option<&str>) -> Self {
        let link = connect(api, way, cursor).await;
        Follower { way: way.clone(), link, home: api.clone(), connections: 1 }
    }

    /// The same, coming back by way of another address.
    pub fn coming_back_to(self, api: &Api) -> Self {
        Follower { home: api.clone(), ..self }
    }

    /// How it listens.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// The next event, over as many connections as it takes.
    pub async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.link.next().await {
                return heard;
            }
            let cursor = self.link.cursor().expect("it was ready").to_owned();
            self.link = connect(&self.home, &self.way, Some(&cursor)).await;
            self.connections += 1;
        }
    }
}

/// Connects as soon as somebody lets it in; whoever was there before misses nothing.
async fn connect(api: &Api, way: &Way, cursor: Option<&str>) -> Link {
    let deadline = Instant::now() + PATIENCE;
    // not `eventually`, whose future cannot be given to another thread
    let (link, recovered) = loop {
        if let Some(connected) = try_connect(api, way, cursor).await {
            break connected;
        }
        assert!(Instant::now() < deadline, "waited in vain for a node");
        pause(Duration::from_millis(10)).await;
    };
    assert_eq!(recovered, cursor.map_or(Value::Null, |_| Value::Bool(true)), "{way:?} from {cursor:?}");
    link
}

/// None when nobody is there, or when it is told to come back.
async fn try_connect(api: &Api, way: &Way, cursor: Option<&str>) -> Option<(Link, Value)> {
    match way {
        Way::Topics(transport, topics) => {
            let (client, ready) = Client::try_over(*transport, api, topics, cursor).await?;
            Some((Link::Client(Box::new(client)), ready["recovered"].clone()))
        }
        Way::Path(path) => {
            let request = api.request("GET", path).header("Accept", "text/event-stream");
            let request = cursor.into_iter().fold(request, |own, cursor| own.header("Last-Event-ID", cursor));
            let mut stream = Sse::of(request.send().await.ok()?).await;
            let first = stream.next().await?;
            (first.event == "ready")
                .then(|| (Link::Stream(Box::new(stream)), first.data["recovered"].clone()))
        }
    }
}

impl Link {
    /// The next event; None at the connection's end.
    async fn next(&mut self) -> Option<Heard> {
        loop {
            match self {
                Link::Client(client) => match client.next().await? {
                    Frame::Event(event) => return Some(Heard { name: event.name, data: event.data }),
                    Frame::Close(_) => return None,
                    _ => {}
                },
                Link::Stream(stream) => {
                    let event = stream.next().await?;
                    match event.event.as_str() {
                        "close" => return None,
                        _ if event.is_control() => {}
                        _ => return Some(Heard { name: event.event, data: event.data }),
                    }
                }
            }
        }
    }

    fn cursor(&self) -> Option<&str> {
        match self {
            Link::Client(client) => client.cursor(),
            Link::Stream(stream) => stream.cursor.as_deref(),
        }
    }
}
