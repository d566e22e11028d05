//! A listener as a scenario sees it, whatever its transport.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::poll::Poller;
use super::{Api, Closed, Sse, SseEvent, Ws};

/// A way to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `/v2/realtime/stream`.
    Sse,
    /// The same with events in batches.
    SseBatches,
    /// `/v2/realtime/poll`, again and again.
    Poll,
    /// `/v2/realtime/ws`.
    WebSocket,
    /// The same with events in batches.
    WebSocketBatches,
}

/// Makes each scenario, a function of a [`Transport`], a test on every one of them: `name::sse`, …
///
/// The one list of transports that the scenarios run on.
macro_rules! on_every_transport {
    ($($scenario:ident),+ $(,)?) => {
        $(mod $scenario {
            use $crate::support::Transport;

            #[tokio::test]
            async fn sse() {
                super::$scenario(Transport::Sse).await;
            }

            #[tokio::test]
            async fn sse_batches() {
                super::$scenario(Transport::SseBatches).await;
            }

            #[tokio::test]
            async fn poll() {
                super::$scenario(Transport::Poll).await;
            }

            #[tokio::test]
            async fn websocket() {
                super::$scenario(Transport::WebSocket).await;
            }

            #[tokio::test]
            async fn websocket_batches() {
                super::$scenario(Transport::WebSocketBatches).await;
            }
        })+
    };
}
pub(crate) use on_every_transport;

/// Makes each scenario a test on every transport, embedded (`name::sse`, …) and in a cluster whose nodes take
/// turns (`in_a_cluster::name::sse`, …), and one over SSE on PostgreSQL without Redis (`on_postgres_alone::name`).
macro_rules! on_every_transport_of_both_backends {
    ($($scenario:ident),+ $(,)?) => {
        $crate::support::on_every_transport!($($scenario),+);

        mod in_a_cluster {
            use $crate::support::{Backend, Transport};

            $(async fn $scenario(transport: Transport) {
                Backend::Cluster.run(super::$scenario(transport)).await;
            })+

            $crate::support::on_every_transport!($($scenario),+);
        }

        mod on_postgres_alone {
            use $crate::support::{Backend, Transport};

            $(#[tokio::test]
            async fn $scenario() {
                Backend::Postgres.run(super::$scenario(Transport::Sse)).await;
            })+
        }
    };
}
pub(crate) use on_every_transport_of_both_backends;

/// Makes each scenario a test on both backends: `name::embedded`, `name::in_a_cluster`.
macro_rules! on_both_backends {
    ($($scenario:ident),+ $(,)?) => {
        $(mod $scenario {
            #[tokio::test]
            async fn embedded() {
                $crate::support::Backend::Embedded.run(super::$scenario()).await;
            }

            #[tokio::test]
            async fn in_a_cluster() {
                $crate::support::Backend::Cluster.run(super::$scenario()).await;
            }
        })+
    };
}
pub(crate) use on_both_backends;

/// What arrives on a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The first one; of a poll, only `position`, `recovered` and `reason` are told.
    Ready(Value),
    /// An event of a topic.
    Event(Event),
    /// A replay is complete, up to this position.
    Position(String),
    /// A sign of life, with the position it moves the cursor to; of a poll: an answer without events.
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

impl Event {
    fn of(object: &Value) -> Self {
        Event {
            name: object["event"].as_str().expect("a name").to_owned(),
            topic: object["topic"].as_str().expect("a topic").to_owned(),
            id: object["id"].as_str().map(str::to_owned),
            data: object["data"].clone(),
        }
    }
}

/// A frame, and where a reconnect would resume once it has been taken, if that is somewhere else.
type Arrival = (Frame, Option<String>);

enum Link {
    Sse(Sse),
    Poll(Polls),
    /// With whether it is being given what it missed: the same frame ends that and is the sign of life.
    WebSocket(Box<Ws>, bool),
}

/// One connection.
pub struct Client {
    link: Link,
    arrived: VecDeque<Arrival>,
    cursor: Option<String>,
}

impl Client {
    /// Connects to a stream, and reads the `ready` frame.
    pub async fn connect(api: &Api, topics: &str, cursor: Option<&str>) -> (Self, Value) {
        Self::over(Transport::Sse, api, topics, cursor).await
    }

    /// Connects, and reads the `ready` frame.
    pub async fn over(transport: Transport, api: &Api, topics: &str, cursor: Option<&str>) -> (Self, Value) {
        Self::try_over(transport, api, topics, cursor).await.expect("ready comes first")
    }

    /// Connects to a server that may be away or go away.
    pub async fn try_over(
        transport: Transport,
        api: &Api,
        topics: &str,
        cursor: Option<&str>,
    ) -> Option<(Self, Value)> {
        Self::begin(transport, api, topics, cursor).await.ok()
    }

    /// The same; the error is what it is told where it is told to come back, and None where nobody answers.
    pub async fn begin(
        transport: Transport,
        api: &Api,
        topics: &str,
        cursor: Option<&str>,
    ) -> Result<(Self, Value), Option<Value>> {
        let link = open(transport, api, topics, cursor).await.ok_or(None)?;
        let mut client = Client { link, arrived: VecDeque::new(), cursor: None };
        match client.next().await.ok_or(None)? {
            Frame::Ready(ready) => {
                assert_eq!(ready["position"].as_str(), client.cursor());
                Ok((client, ready))
            }
            Frame::Close(close) => Err(Some(close)),
            other => panic!("ready comes first, not {other:?}"),
        }
    }

    /// Where a reconnect would resume.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The next frame; None at the connection's end.
    pub async fn next(&mut self) -> Option<Frame> {
        while self.arrived.is_empty() {
            self.arrived = match &mut self.link {
                Link::Sse(stream) => arrivals(stream.next().await?),
                Link::Poll(polls) => polls.next().await?,
                Link::WebSocket(connection, is_behind) => said(connection.next().await, is_behind)?,
            };
        }
        let (frame, cursor) = self.arrived.pop_front()?;
        self.cursor = cursor.or(self.cursor.take());
        Some(frame)
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

async fn open(transport: Transport, api: &Api, topics: &str, cursor: Option<&str>) -> Option<Link> {
    Some(match transport {
        Transport::Sse => Link::Sse(open_stream(api, topics, "", cursor).await?),
        Transport::SseBatches => {
            Link::Sse(open_stream(api, topics, "&batch_ms=20&batch_max=7", cursor).await?)
        }
        Transport::WebSocket => Link::WebSocket(open_websocket(api, topics, "", cursor).await?, false),
        Transport::WebSocketBatches => {
            let connection = open_websocket(api, topics, "&batch_ms=20&batch_max=7", cursor).await?;
            Link::WebSocket(connection, false)
        }
        Transport::Poll => {
            let resumed = cursor.map(str::to_owned);
            Link::Poll(Polls { poller: Poller::new(api, topics, cursor), resumed, state: State::New })
        }
    })
}

async fn open_stream(api: &Api, topics: &str, more: &str, cursor: Option<&str>) -> Option<Sse> {
    let request = api.request("GET", &format!("/v2/realtime/stream?topics={topics}{more}"));
    let request = request.header("Accept", "text/event-stream");
    let request = match cursor {
        Some(cursor) => request.header("Last-Event-ID", cursor),
        None => request,
    };
    Some(Sse::of(request.send().await.ok()?).await)
}

async fn open_websocket(api: &Api, topics: &str, more: &str, cursor: Option<&str>) -> Option<Box<Ws>> {
    let cursor = cursor.map_or(String::new(), |cursor| format!("&cursor={cursor}"));
    let path = format!("/v2/realtime/ws?topics={topics}{more}{cursor}");
    let credentials = api.credentials();
    let headers: Vec<_> = credentials.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Ws::try_open(api.address(), &path, &headers).await.ok().map(Box::new)
}

/// What a message over a WebSocket brings; None when the connection broke.
fn said(message: Result<Value, Closed>, is_behind: &mut bool) -> Option<VecDeque<Arrival>> {
    let value = match message {
        Ok(value) => value,
        Err(Closed { code: 1005 | 1006, .. }) => return None,
        Err(Closed { code, reason }) => {
            let mut close: Value = serde_json::from_str(&reason).expect("the reason is JSON");
            close["code"] = code.into();
            close["reconnect"] = (!matches!(code, 3500..=3502 | 1002 | 1007 | 1009)).into();
            return Some(VecDeque::from([(Frame::Close(close), None)]));
        }
    };
    let id = value["id"].as_str().map(str::to_owned);
    let frame = match value["event"].as_str() {
        Some("batch") => {
            let last = value["data"]["events"].as_array().expect("events").iter().rev();
            let last = last.filter_map(|event| event["id"].as_str()).next().map(str::to_owned);
            return Some(batched(last, &value["data"]));
        }
        Some("ready") => {
            *is_behind = value["data"]["recovered"] == true;
            let position = value["data"]["position"].as_str().map(str::to_owned);
            return Some(VecDeque::from([(Frame::Ready(value["data"].clone()), position)]));
        }
        Some(_) => Frame::Event(Event::of(&value)),
        None => {
            let position = value["position"].as_str().expect("a position").to_owned();
            let frame = match std::mem::take(is_behind) {
                true => Frame::Position(position.clone()),
                false => Frame::Heartbeat(position.clone()),
            };
            return Some(VecDeque::from([(frame, Some(position))]));
        }
    };
    Some(VecDeque::from([(frame, id)]))
}

/// What an event of a stream brings: one frame, or those of a batch.
fn arrivals(message: SseEvent) -> VecDeque<Arrival> {
    let SseEvent { event: name, id, data } = message;
    let position = || id.clone().expect("an id");
    let frame = match name.as_str() {
        "batch" => return batched(id, &data),
        "ready" => Frame::Ready(data),
        "position" => {
            assert_eq!(data, json!({"position": position()}));
            Frame::Position(position())
        }
        "heartbeat" => Frame::Heartbeat(position()),
        "close" => Frame::Close(data),
        name => {
            let event = Event::of(&data);
            assert_eq!(event.name, name);
            if event.id.is_some() {
                assert_eq!(event.id, id, "the event object and the frame agree on the id");
            }
            Frame::Event(event)
        }
    };
    VecDeque::from([(frame, id)])
}

fn batched(id: Option<String>, data: &Value) -> VecDeque<Arrival> {
    assert_eq!(data["type"], "batch");
    let events: Vec<Event> = data["events"].as_array().expect("events").iter().map(Event::of).collect();
    assert!(!events.is_empty() && events.len() <= 7, "{data}");
    if let Some(last) = events.iter().rev().find_map(|event| event.id.clone()) {
        assert_eq!(Some(last), id, "a batch has the id of its last event that has one");
    }
    events.into_iter().map(|event| (Frame::Event(event.clone()), event.id)).collect()
}

/// Consecutive polls, as one connection.
struct Polls {
    poller: Poller,
    /// The cursor it began with.
    resumed: Option<String>,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// It has not asked yet.
    New,
    /// It is being given what it missed.
    Behind,
    /// It waits for what comes.
    Live,
    /// It was told to end.
    Over,
}

impl Polls {
    /// What the next answer brings; None when there is none, as when the server is away.
    async fn next(&mut self) -> Option<VecDeque<Arrival>> {
        let wait = match self.state {
            State::New | State::Behind => 0,
            State::Live => 1,
            State::Over => return None,
        };
        let before = self.poller.cursor.clone();
        let answer = self.poller.try_ask(wait).await?;
        if answer.status == 503 {
            return None;
        }
        let answer = answer.expect(200);
        let cursor = answer["cursor"].as_str().map(str::to_owned);
        let is_over = answer.get("close").is_some();
        let mut arrived = VecDeque::new();
        let is_first = self.state == State::New;
        if is_first && is_over && answer["recovered"].is_null() {
            // it ended before it was ready
        } else if is_first {
            let is_resumed = answer["recovered"] == true;
            let position = if is_resumed { self.resumed.clone() } else { cursor.clone() };
            let ready =
                json!({"position": position, "recovered": answer["recovered"], "reason": answer["reason"]});
            arrived.push_back((Frame::Ready(ready), position));
            let is_behind = is_resumed && (cursor != before || answer["more"] == true);
            self.state = if is_behind { State::Behind } else { State::Live };
        } else {
            assert_eq!((&answer["recovered"], &answer["reason"]), (&json!(true), &Value::Null), "{answer}");
        }
        let events = answer["events"].as_array().expect("events");
        for event in events.iter().map(Event::of) {
            arrived.push_back((Frame::Event(event.clone()), event.id));
        }
        match (self.state, answer["more"].as_bool().expect("more or not")) {
            (State::Behind, false) => {
                self.state = State::Live;
                arrived.push_back((Frame::Position(cursor.clone().expect("a cursor")), None));
            }
            (State::Live, false) if events.is_empty() && !is_first => {
                arrived.push_back((Frame::Heartbeat(cursor.clone().expect("a cursor")), None));
            }
            _ => {}
        }
        if let Some(close) = answer.get("close") {
            self.state = State::Over;
            arrived.push_back((Frame::Close(close.clone()), None));
        }
        if let Some(last) = arrived.back_mut() {
            last.1 = cursor;
        }
        Some(arrived)
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
