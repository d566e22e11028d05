//! What a client may ask over a WebSocket, as JSON text, and what it is answered.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{Position, Refusal, RefusalKind, Selector};
use crate::wire::{RecoveryFailure, parse};

/// One request: `{"id":n,"op":…}` and the fields of its operation.
#[derive(Debug)]
pub struct Request {
    /// Chosen by the client; the answer carries it.
    pub id: u64,
    /// What is asked.
    pub op: Op,
}

/// The operations.
#[derive(Debug)]
pub enum Op {
    /// Says who is there; later, that the same one is there with a newer token.
    Auth(Auth),
    /// Listen to more topics.
    Subscribe(Subscribe),
    /// Listen to fewer.
    Unsubscribe(Unsubscribe),
    /// An event, as in `POST /v2/events`.
    Publish(Box<RawValue>),
    /// A domain command.
    Command(Command),
    /// These events were shown.
    Ack(Ack),
    /// Is anybody there?
    Ping,
}

/// Fields of `auth`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// A key or a token.
    pub token: String,
    /// What to listen to from the start.
    pub topics: Option<Vec<String>>,
    /// Where to resume.
    pub cursor: Option<String>,
}

/// Fields of `subscribe`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// To what.
    pub topics: Vec<String>,
    /// From where on; from now on when not given.
    pub since: Option<String>,
}

/// Fields of `unsubscribe`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unsubscribe {
    /// From what.
    pub topics: Vec<String>,
}

/// Fields of `command`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Which.
    pub name: String,
    /// As the body over HTTP.
    pub data: Box<RawValue>,
    /// A repeated command gets the stored answer.
    pub idempotency_key: Option<String>,
}

/// Fields of `ack`, and the body of `POST /v2/realtime/ack`.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Positions, each by itself.
    pub ids: Vec<String>,
}

/// Why a text is no request.
#[derive(Debug)]
pub enum BadRequest {
    /// It has no readable `id`, so that it cannot be answered.
    Unanswerable,
    /// It is answered with this.
    Refused(u64, Refusal),
}

impl Request {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, BadRequest> {
        let mut fields: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_str(text).map_err(|_| BadRequest::Unanswerable)?;
        let id = fields.remove("id").and_then(|id| id.get().parse().ok()).ok_or(BadRequest::Unanswerable)?;
        let op = fields.remove("op").and_then(|op| serde_json::from_str::<String>(op.get()).ok());
        let rest = serde_json::to_string(&fields).expect("read from JSON");
        match op.as_deref() {
            Some(op) => Op::parse(op, rest).map(|op| Request { id, op }),
            None => Err(Refusal::invalid("op", "is required")),
        }
        .map_err(|refusal| BadRequest::Refused(id, refusal))
    }
}

impl Op {
    fn parse(op: &str, rest: String) -> Result<Self, Refusal> {
        let fields = rest.as_bytes();
        Ok(match op {
            "auth" => Op::Auth(parse(fields)?),
            "subscribe" => Op::Subscribe(parse(fields)?),
            "unsubscribe" => Op::Unsubscribe(parse(fields)?),
            "publish" => Op::Publish(RawValue::from_string(rest).expect("written as JSON")),
            "command" => Op::Command(parse(fields)?),
            "ack" => Op::Ack(parse(fields)?),
            "ping" => {
                let Nothing {} = parse(fields)?;
                Op::Ping
            }
            other => {
                let detail =
                    format!("there is no operation {:?}", other.chars().take(64).collect::<String>());
                return Err(Refusal { code: "unknown_op", ..Refusal::invalid("op", detail) });
            }
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Reads topics; those that are none are told apart.
pub fn read_topics(texts: &[String]) -> (Vec<Selector>, Vec<Refused>) {
    let (mut selectors, mut refused, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for text in texts {
        match Selector::parse(text) {
            Ok(selector) if !seen.insert(selector.clone()) => {}
            Ok(selector) => selectors.push(selector),
            Err(_) => {
                refused.push(Refused { topic: text.chars().take(200).collect(), code: "invalid_topic" })
            }
        }
    }
    (selectors, refused)
}

/// A topic that was not granted.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// As it was asked for.
    pub topic: String,
    /// Why.
    pub code: &'static str,
}

/// The answer to `subscribe`.
#[derive(Debug, Serialize)]
pub struct Subscribed {
    /// What is heard now of what was asked for.
    pub topics: Vec<String>,
    /// What is not.
    pub refused: Vec<Refused>,
    /// From where on it is heard.
    pub position: Position,
    /// As in `ready`, about `since`.
    pub recovered: Option<bool>,
    /// As in `ready`.
    pub reason: Option<RecoveryFailure>,
}

/// The answer to a request, whose data is JSON.
pub fn reply(id: u64, outcome: Result<&str, &Refusal>) -> String {
    match outcome {
        Ok(data) => format!("{{\"reply\":{id},\"ok\":true,\"data\":{data}}}"),
        Err(refusal) => {
            let mut message = refusal.detail.clone();
            for (field, problem) in &refusal.fields {
                let _ = write!(message, "; {field}: {problem}");
            }
            let retry_after_ms = refusal.retry_after.map(|after| after.as_millis().max(1) as u64);
            let error = ErrorObject { code: refusal.code, message, retry_after_ms };
            let error = serde_json::to_string(&error).expect("texts are plain data");
            format!("{{\"reply\":{id},\"ok\":false,\"error\":{error}}}")
        }
    }
}

#[derive(Serialize)]
struct ErrorObject {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// More topics than one connection may have.
pub fn too_many_topics(asked: usize, limit: usize) -> Refusal {
    let detail = format!("{asked} topics asked for, at most {limit} are allowed on one connection");
    Refusal::new(RefusalKind::Malformed, "too_many_topics", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> (u64, &'static str) {
        match Request::parse(text) {
            Err(BadRequest::Refused(id, refusal)) => (id, refusal.code),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_operation_is_read_and_unknown_fields_are_named() {
        let op = |text| Request::parse(text).unwrap().op;
        assert!(matches!(op(r#"{"id":1,"op":"ping"}"#), Op::Ping));
        assert!(matches!(op(r#"{"op":"auth","id":1,"token":"t"}"#), Op::Auth(_)));
        assert!(matches!(op(r#"{"id":1,"op":"subscribe","topics":["a"],"since":"x"}"#), Op::Subscribe(_)));
        let Op::Publish(body) = op(r#"{"id":1,"op":"publish","topic":"topic:a","data":{"n":1.50}}"#) else {
            panic!("a publish");
        };
        assert_eq!(body.get(), r#"{"data":{"n":1.50},"topic":"topic:a"}"#);
        assert_eq!(refused(r#"{"id":7,"op":"ping","x":1}"#), (7, "unknown_field"));
        assert_eq!(refused(r#"{"id":7,"op":"dance"}"#), (7, "unknown_op"));
        assert_eq!(refused(r#"{"id":7}"#), (7, "invalid_field"));
        assert_eq!(refused(r#"{"id":7,"op":"subscribe"}"#), (7, "invalid_field"));
        for text in ["", "1", "[]", "{", "{}", r#"{"id":-1,"op":"ping"}"#, r#"{"id":"1","op":"ping"}"#] {
            assert!(matches!(Request::parse(text), Err(BadRequest::Unanswerable)), "{text}");
        }
    }

    #[test]
    fn a_reply_is_one_line_of_json_whatever_is_in_its_message() {
        let refusal = Refusal::invalid("a\"b", "line\nbreak \\");
        let text = reply(3, Err(&refusal));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((value["reply"].as_u64(), value["ok"].as_bool()), (Some(3), Some(false)));
        assert!(!text.contains('\n'));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}", op in "[a-z]{0,12}", field in "[a-z]{1,8}", value in ".{0,20}") {
            let _ = Request::parse(&text);
            let made = serde_json::json!({"id": 1, "op": op, field: value}).to_string();
            let _ = Request::parse(&made);
        }
    }
}
