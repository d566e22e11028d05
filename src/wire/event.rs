use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{json, sse, websocket};
use crate::domain::{Class, EventName, Origin, Position, Timestamp, Topic};

/// The shape in which a transport writes an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// SSE whose `data` is the whole event object (`/v2/realtime/stream`).
    SseObject,
    /// SSE whose `data` is the event's data alone (all other SSE endpoints).
    SseData,
    /// SSE without a name, whose `data` is `{"eventType":…}` with the event's data in it (system 2).
    SseUnnamed,
    /// A WebSocket text frame that holds the event object.
    WebSocket,
    /// The event object alone: what batches and long-poll answers are made of.
    Json,
}

const FORMATS: usize = 5;

/// The name of what tells that the proposals of a bid have another order.
pub const RANKING_UPDATED: &str = "proposal_ranking_updated";

/// Which variant of an event a viewer may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Audience {
    /// Everything.
    Full,
    /// What everybody may see.
    Public,
}

/// One variant of an event's data with its frames, each encoded at most once and then shared.
#[derive(Debug)]
pub struct Content {
    data: Arc<str>,
    with_id: [OnceLock<Bytes>; FORMATS],
    without_id: [OnceLock<Bytes>; FORMATS],
}

impl Content {
    /// `data` is compact JSON: one line.
    pub fn new(data: impl Into<Arc<str>>) -> Self {
        let data = data.into();
        debug_assert!(!data.contains(['\r', '\n']));
        Content { data, with_id: Default::default(), without_id: Default::default() }
    }

    /// The data as compact JSON.
    pub fn data(&self) -> &str {
        &self.data
    }
}

/// What an [`Event`] is made of.
#[derive(Debug)]
pub struct EventParts {
    /// Its place in the tenant's log; none for events that are never logged.
    pub position: Option<Position>,
    /// The topic it is sent on.
    pub topic: Topic,
    /// Its name.
    pub name: EventName,
    /// How much of its history matters.
    pub class: Class,
    /// What a `latest` event is the newest of, within topic and name.
    pub key: Option<Box<str>>,
    /// Version of the entity it tells about.
    pub version: Option<i64>,
    /// When it was appended, on the log's clock.
    pub at: Timestamp,
    /// When it stops being worth sending, on the log's clock.
    pub expires_at: Option<Timestamp>,
    /// What full viewers see.
    pub full: Content,
    /// What everybody else sees, where that differs.
    pub public: Option<Content>,
}

/// An event on its way to clients; shared by all sessions of the process.
#[derive(Debug)]
pub struct Event {
    parts: EventParts,
    accepted: Instant,
    origin: Option<Arc<Origin>>,
    is_whole: bool,
}

impl Event {
    /// An event accepted just now.
    pub fn new(parts: EventParts) -> Self {
        Event { parts, accepted: Instant::now(), origin: None, is_whole: false }
    }

    /// The same with the request that it comes from, and when that was accepted.
    pub fn of(self, origin: Option<Arc<Origin>>, accepted: Instant) -> Self {
        Event { origin, accepted, ..self }
    }

    /// The same, which tells all of what its kind usually tells the beginning of.
    #[must_use]
    pub fn whole(self) -> Self {
        Event { is_whole: true, ..self }
    }

    /// Whether it tells all of what its kind usually tells the beginning of.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The request that it comes from, where somebody follows it.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// What it is made of.
    pub fn parts(&self) -> &EventParts {
        &self.parts
    }

    /// Its place in the log, if it has one.
    pub fn position(&self) -> Option<Position> {
        self.parts.position
    }

    /// The number of its place in the log; 0 for events that are never logged.
    pub fn seq(&self) -> u64 {
        self.parts.position.map_or(0, |position| position.seq)
    }

    /// The topic it is sent on.
    pub fn topic(&self) -> &Topic {
        &self.parts.topic
    }

    /// Whether it is for nodes only, and never sent to clients.
    pub fn is_internal(&self) -> bool {
        self.parts.name.as_str() == EventName::ENTITY_CREATED
    }

    /// How much of its history matters.
    pub fn class(&self) -> Class {
        self.parts.class
    }

    /// Time since it was accepted; of what was loaded from the log, since then.
    pub fn age(&self) -> Duration {
        self.accepted.elapsed()
    }

    /// Whether its time to live has run out.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.parts.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether it was appended up to `mark`, in the same run of the log.
    pub fn is_up_to(&self, mark: Option<Position>) -> bool {
        let marked = mark.zip(self.parts.position);
        marked.is_some_and(|(mark, at)| at.epoch == mark.epoch && at.seq <= mark.seq)
    }

    /// Whether `other` is a newer value of the same thing.
    pub fn is_conflated_by(&self, other: &Event) -> bool {
        let (own, new) = (&self.parts, &other.parts);
        own.class == Class::Latest
            && new.class == Class::Latest
            && own.key == new.key
            && own.name == new.name
            && own.topic == new.topic
    }

    /// Bytes that keeping this event costs, its shared frames included.
    pub fn weight(&self) -> usize {
        let parts = &self.parts;
        let data = parts.full.data.len() + parts.public.as_ref().map_or(0, |public| public.data.len());
        3 * data + parts.topic.as_str().len() + parts.name.as_str().len() + 512
    }

    /// The encoded frame, with the event's position as id.
    pub fn frame(&self, format: Format, audience: Audience) -> Bytes {
        let content = self.content(audience);
        content.with_id[format as usize].get_or_init(|| self.encode(format, content, true)).clone()
    }

    /// The encoded frame without id: a conflated value sent in its predecessor's place.
    pub fn frame_without_id(&self, format: Format, audience: Audience) -> Bytes {
        let content = self.content(audience);
        content.without_id[format as usize].get_or_init(|| self.encode(format, content, false)).clone()
    }

    fn content(&self, audience: Audience) -> &Content {
        match audience {
            Audience::Full => &self.parts.full,
            Audience::Public => self.parts.public.as_ref().unwrap_or(&self.parts.full),
        }
    }

    fn encode(&self, format: Format, content: &Content, with_id: bool) -> Bytes {
        let id = self.parts.position.filter(|_| with_id);
        let name = self.parts.name.as_str();
        let data: Cow<'_, str> = match with_id {
            true => Cow::Borrowed(&content.data),
            false => by_itself(name, &content.data),
        };
        match format {
            Format::SseObject => sse::event_frame(name, id, &self.object(&data, id, None)),
            Format::SseData => sse::event_frame(name, id, &data),
            Format::SseUnnamed => sse::unnamed_frame(id, &typed(name, &data)),
            Format::WebSocket => websocket::text_frame(&self.object(&data, id, None)),
            Format::Json => self.object(&data, id, None).into(),
        }
    }

    /// A frame that belongs to the replay that a client's request asked for; made for one connection.
    pub fn replay_frame(&self, format: Format, audience: Audience, request: u64) -> Bytes {
        let object = self.object(&self.content(audience).data, self.parts.position, Some(request));
        match format {
            Format::WebSocket => websocket::text_frame(&object),
            _ => object.into(),
        }
    }

    /// The event object: `{"event","topic","id"?,"replay"?,"ts","data"}`.
    fn object(&self, data: &str, id: Option<Position>, replay: Option<u64>) -> String {
        let parts = &self.parts;
        let id = id.map_or(String::new(), |id| format!("\"id\":\"{id}\","));
        let replay = replay.map_or(String::new(), |request| format!("\"replay\":{request},"));
        // event names and topics hold no character that JSON would have to escape
        format!(
            "{{\"event\":\"{}\",\"topic\":\"{}\",{id}{replay}\"ts\":\"{}\",\"data\":{data}}}",
            parts.name.as_str(),
            parts.topic,
            parts.at
        )
    }
}

/// Data without what it says of the value before, which its reader has not got: the `moves` of a ranking.
fn by_itself<'a>(name: &str, data: &'a str) -> Cow<'a, str> {
    #[derive(serde::Deserialize)]
    struct Differences<'a> {
        #[serde(borrow)]
        moves: &'a RawValue,
    }
    // an array would be read as the fields in order
    if name != RANKING_UPDATED || !data.starts_with('{') {
        return Cow::Borrowed(data);
    }
    let Ok(Differences { moves }) = serde_json::from_str(data) else {
        return Cow::Borrowed(data);
    };
    // a part of the very text
    let start = moves.get().as_ptr() as usize - data.as_ptr() as usize;
    Cow::Owned(format!("{}null{}", &data[..start], &data[start + moves.get().len()..]))
}

/// `{"eventType":…, …data}`, without an `eventType` of the data's own; data that is no object is its own field.
fn typed(name: &str, data: &str) -> String {
    // escaped or not
    let may_be_typed = data.contains("\"eventType\"") || data.contains("\\u00");
    if may_be_typed && let Some(fields) = json::fields_without(data, "eventType") {
        return format!("{{\"eventType\":\"{name}\"{fields}}}");
    }
    // event names hold no character that JSON would have to escape
    match data.strip_prefix('{') {
        Some("}") => format!("{{\"eventType\":\"{name}\"}}"),
        Some(fields) => format!("{{\"eventType\":\"{name}\",{fields}"),
        None => format!("{{\"eventType\":\"{name}\",\"data\":{data}}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ranking_in_the_place_of_others_says_nothing_of_the_one_before() {
        let data = r#"{"a":[],"moves":[{"row":{"moves":[]}}],"z":"moves"}"#;
        assert_eq!(by_itself(RANKING_UPDATED, data), r#"{"a":[],"moves":null,"z":"moves"}"#);
        for (name, data) in
            [("other", data), (RANKING_UPDATED, r#"{"sealed":true}"#), (RANKING_UPDATED, "[1]")]
        {
            assert_eq!(by_itself(name, data), data);
        }
    }

    #[test]
    fn an_unnamed_event_says_its_type_beside_its_data() {
        assert_eq!(typed("a.b", r#"{"n":{"m":1}}"#), r#"{"eventType":"a.b","n":{"m":1}}"#);
        assert_eq!(typed("a", "{}"), r#"{"eventType":"a"}"#);
        for data in ["[1]", "1", "\"{}\"", "null", r#"["eventType"]"#] {
            assert_eq!(typed("a", data), format!(r#"{{"eventType":"a","data":{data}}}"#));
        }
    }

    #[test]
    fn an_unnamed_event_has_one_type_and_that_is_its_name() {
        for (data, fields) in [
            (r#"{"eventType":"b"}"#, ""),
            (r#"{"n":1,"eventType":{"a":[1]},"m":2}"#, r#","n":1,"m":2"#),
            (r#"{"event\u0054ype":"b","n":1.50}"#, r#","n":1.50"#),
            (r#"{"n":{"eventType":"b"},"m":"eventType"}"#, r#","n":{"eventType":"b"},"m":"eventType""#),
        ] {
            assert_eq!(typed("a", data), format!(r#"{{"eventType":"a"{fields}}}"#));
        }
    }
}
