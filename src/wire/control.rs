use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CloseCode, Event, Format, RANKING_UPDATED, sse, websocket};
use crate::domain::{Position, Timestamp};

/// How a transport writes what is not an event: the beginning, the end, and where things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Events of a stream.
    Sse,
    /// The same, with a sign of life that has no name.
    SseUnnamed,
    /// Text and control frames.
    WebSocket,
    /// JSON objects that an answer is put together from.
    Poll,
}

/// How a connection's frames look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Events.
    pub events: Format,
    /// Everything else.
    pub dialect: Dialect,
    /// Whether it is given rankings whole, as the replaced systems gave them, and not as they change.
    pub whole: bool,
}

impl Framing {
    /// Whole event objects on an event stream.
    pub const SSE_OBJECT: Framing =
        Framing { events: Format::SseObject, dialect: Dialect::Sse, whole: false };
    /// The events' data alone on an event stream.
    pub const SSE_DATA: Framing = Framing { events: Format::SseData, dialect: Dialect::Sse, whole: false };
    /// What system 2 sent on a stream: unnamed events.
    pub const USER_EVENTS: Framing =
        Framing { events: Format::SseUnnamed, dialect: Dialect::SseUnnamed, whole: false };
    /// The native WebSocket protocol.
    pub const WEBSOCKET: Framing =
        Framing { events: Format::WebSocket, dialect: Dialect::WebSocket, whole: false };
    /// Long-poll answers.
    pub const POLL: Framing = Framing { events: Format::Json, dialect: Dialect::Poll, whole: false };

    /// The same with rankings whole.
    pub const fn with_whole_rankings(self) -> Framing {
        Framing { whole: true, ..self }
    }

    /// Whether an event is for such a connection. What others have published of rankings is whole, and of no version.
    pub fn takes(self, event: &Event) -> bool {
        let parts = event.parts();
        event.is_whole() == self.whole
            || parts.name.as_str() != RANKING_UPDATED
            || (self.whole && parts.version.is_none())
    }

    /// The same with event objects that are still to be put into batches.
    pub const fn batched(self) -> Framing {
        Framing { events: Format::Json, ..self }
    }
}

impl Dialect {
    /// A control event: `ready`, `unsubscribed`, `batch`.
    pub fn event(self, name: &str, id: Option<Position>, data: &str) -> Bytes {
        match self {
            Dialect::Sse | Dialect::SseUnnamed => sse::event_frame(name, id, data),
            Dialect::WebSocket => websocket::text_frame(&event_object(name, data)),
            Dialect::Poll => event_object(name, data).into(),
        }
    }

    /// The `ready` event; its id is the resume point.
    pub fn ready(self, ready: &Ready) -> Bytes {
        let data = serde_json::to_string(ready).expect("a ready frame is plain data");
        self.event("ready", Some(ready.position), &data)
    }

    /// Marks the end of a replay: the past is complete.
    pub fn position(self, position: Position) -> Bytes {
        let data = format!("{{\"position\":\"{position}\"}}");
        match self {
            Dialect::Sse | Dialect::SseUnnamed => sse::event_frame("position", Some(position), &data),
            Dialect::WebSocket => websocket::text_frame(&data),
            Dialect::Poll => data.into(),
        }
    }

    /// The periodic sign of life, which also moves a quiet client's cursor.
    pub fn heartbeat(self, position: Position, now: Timestamp, server_id: &str) -> Bytes {
        match self {
            Dialect::Sse => {
                let data = format!("{{\"type\":\"heartbeat\",\"timestamp\":\"{now}\"}}");
                sse::event_frame("heartbeat", Some(position), &data)
            }
            Dialect::SseUnnamed => {
                let (server_id, millis) = (serde_json::Value::from(server_id), now.micros() / 1000);
                let data = format!("{{\"type\":\"ping\",\"serverId\":{server_id},\"timestamp\":{millis}}}");
                sse::unnamed_frame(Some(position), &data)
            }
            Dialect::WebSocket => [self.position(position), websocket::ping_frame()].concat().into(),
            Dialect::Poll => self.position(position),
        }
    }

    /// The end: why, whether to come back, and when.
    pub fn close(self, code: CloseCode, retry: Duration) -> Bytes {
        let retry_ms = retry.as_millis();
        match self {
            Dialect::Sse | Dialect::SseUnnamed => {
                let data = close_object(code, retry);
                format!("retry: {retry_ms}\nevent: close\ndata: {data}\n\n").into()
            }
            Dialect::WebSocket => {
                let reason = format!("{{\"reason\":\"{}\",\"retry_ms\":{retry_ms}}}", code.reason());
                websocket::close_frame(code.code(), &reason)
            }
            Dialect::Poll => format!("{{\"close\":{}}}", close_object(code, retry)).into(),
        }
    }

    /// That a topic is no longer heard.
    pub fn unsubscribed(self, topic: &dyn Display, code: &str) -> Bytes {
        let data = serde_json::json!({"topic": topic.to_string(), "code": code});
        self.event("unsubscribed", None, &data.to_string())
    }
}

fn event_object(name: &str, data: &str) -> String {
    format!("{{\"event\":\"{name}\",\"data\":{data}}}")
}

fn close_object(code: CloseCode, retry: Duration) -> String {
    let (number, reason, reconnect) = (code.code(), code.reason(), code.reconnect());
    let retry_ms = retry.as_millis();
    format!("{{\"code\":{number},\"reason\":\"{reason}\",\"reconnect\":{reconnect},\"retry_ms\":{retry_ms}}}")
}

/// Why a client that gave a cursor has to reload its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryFailure {
    /// The log has started afresh since.
    EpochChanged,
    /// Events of the connection's own topics may have been trimmed since.
    Evicted,
    /// The cursor lies beyond the top of the log.
    Ahead,
    /// The cursor cannot be read.
    Invalid,
}

impl RecoveryFailure {
    /// Every reason.
    pub const ALL: [RecoveryFailure; 4] = [
        RecoveryFailure::EpochChanged,
        RecoveryFailure::Evicted,
        RecoveryFailure::Ahead,
        RecoveryFailure::Invalid,
    ];

    /// The word on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            RecoveryFailure::EpochChanged => "epoch_changed",
            RecoveryFailure::Evicted => "evicted",
            RecoveryFailure::Ahead => "ahead",
            RecoveryFailure::Invalid => "invalid",
        }
    }
}

/// The first event of every connection.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// Unique in the cluster.
    pub connection_id: String,
    /// The node that serves the connection.
    pub server_id: Arc<str>,
    /// The tenant of the connection.
    pub tenant_id: String,
    /// The user, when the principal is one.
    pub user_id: Option<String>,
    /// The topics as granted.
    pub topics: Vec<String>,
    /// Distance of heartbeats, milliseconds.
    pub heartbeat_ms: u64,
    /// Where to resume from.
    pub position: Position,
    /// None when no cursor was given.
    pub recovered: Option<bool>,
    /// Why not, when `recovered` is false.
    pub reason: Option<RecoveryFailure>,
    /// Largest WebSocket frame accepted, bytes.
    pub max_frame_bytes: usize,
    /// Largest message accepted, bytes.
    pub max_message_bytes: usize,
    /// Most topics on one connection.
    pub max_topics: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_tells_both_the_transport_and_the_application() {
        let close = |dialect: Dialect| dialect.close(CloseCode::Draining, Duration::from_millis(250));
        let object = "{\"code\":3000,\"reason\":\"draining\",\"reconnect\":true,\"retry_ms\":250}";
        assert_eq!(close(Dialect::Sse), format!("retry: 250\nevent: close\ndata: {object}\n\n"));
        assert_eq!(close(Dialect::Poll), format!("{{\"close\":{object}}}"));
        let reason = "{\"reason\":\"draining\",\"retry_ms\":250}";
        let frame = close(Dialect::WebSocket);
        assert_eq!(&frame[..4], [0x88, reason.len() as u8 + 2, 0x0b, 0xb8]);
        assert_eq!(&frame[4..], reason.as_bytes());
    }

    #[test]
    fn every_close_fits_a_websocket_control_frame() {
        for code in CloseCode::ALL {
            assert!(Dialect::WebSocket.close(code, Duration::MAX).len() <= 127, "{code:?}");
        }
    }
}
