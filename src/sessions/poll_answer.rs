use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Kind, Outgoing};
use crate::domain::Position;
use crate::wire::RecoveryFailure;

/// Largest answer, bytes, unless a single event is larger.
const MOST_BYTES: usize = 256 * 1024;
/// What an answer takes beside its events, at most.
const ENVELOPE: usize = 512;

/// What a long-poll is answered: the frames of its short session, put together.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub struct PollAnswer {
    /// Event objects, in order.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Box<RawValue>>,
    /// Where the next poll goes on: the position scanned, whether or not events were found. Null only when
    /// none was given and the session ended before it knew one.
    #[schema(value_type = Option<String>)]
    cursor: Option<Position>,
    /// Null when no cursor was given; false: reload, `reason` says why.
    recovered: Option<bool>,
    /// `epoch_changed`, `evicted`, `ahead` or `invalid`.
    #[schema(value_type = Option<String>)]
    reason: Option<RecoveryFailure>,
    /// Whether more waits already.
    more: bool,
    /// Why the session was ended: `{code, reason, reconnect, retry_ms}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    close: Option<Box<RawValue>>,
    #[serde(skip)]
    bytes: usize,
    #[serde(skip)]
    start: Option<Position>,
}

/// A frame that is not an event of a topic, as far as the answer needs to know it.
#[derive(Deserialize)]
struct Control {
    event: Option<String>,
    data: Option<Box<RawValue>>,
    position: Option<String>,
    close: Option<Box<RawValue>>,
}

/// What a proposal's place is told of.
#[derive(Deserialize, PartialEq, Eq)]
struct About {
    event: String,
    data: Proposal,
}

#[derive(Deserialize, PartialEq, Eq)]
struct Proposal {
    bid_id: String,
    proposal_id: String,
}

#[derive(Deserialize)]
struct Ready {
    position: String,
    recovered: Option<bool>,
    reason: Option<RecoveryFailure>,
}

impl PollAnswer {
    /// Without anything yet, to a client that stands at `cursor`.
    pub fn new(cursor: Option<Position>) -> Self {
        PollAnswer { cursor, start: cursor, ..PollAnswer::default() }
    }

    /// Whether a frame of this many bytes may be added; the first event always may.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.events.is_empty() || self.bytes + bytes + ENVELOPE < MOST_BYTES
    }

    /// Adds the next frame.
    pub fn take(&mut self, outgoing: Outgoing) {
        match outgoing.kind {
            Kind::Control => self.control(&outgoing.frame),
            Kind::Event(position) => {
                self.add(&outgoing.frame);
                position.into_iter().for_each(|position| self.reach(position));
            }
        }
    }

    /// Everything up to `position` that concerns the client is in the answer.
    pub fn reach(&mut self, position: Position) {
        let is_passed = |own: Position| own.epoch == position.epoch && own.seq >= position.seq;
        if !self.cursor.is_some_and(is_passed) {
            self.cursor = Some(position);
        }
    }

    /// More waits than is in the answer.
    pub fn cut_short(&mut self) {
        self.more = true;
    }

    /// Forgets its events: the client may not see them any more, or gets them again.
    pub fn forget(&mut self) {
        self.events.clear();
        self.bytes = 0;
        self.cursor = self.start;
    }

    /// Whether it tells a live client something that is worth answering for.
    pub fn has_news(&self) -> bool {
        !self.events.is_empty() || self.recovered != Some(true)
    }

    fn add(&mut self, frame: &[u8]) {
        self.bytes += frame.len() + 1;
        self.events.push(serde_json::from_slice(frame).expect("frames of this dialect are JSON"));
    }

    /// Adds an event that says how something stands, in place of what was said of that before.
    pub fn tell_at_last(&mut self, frame: Bytes) {
        let about = |frame: &[u8]| serde_json::from_slice::<About>(frame).ok();
        let own = about(&frame);
        self.events.retain(|event| own.is_none() || about(event.get().as_bytes()) != own);
        self.add(&frame);
    }

    fn control(&mut self, frame: &[u8]) {
        let control: Control = serde_json::from_slice(frame).expect("frames of this dialect are JSON");
        match (control.event.as_deref(), control.data) {
            (Some("ready"), Some(data)) => {
                let ready: Ready = serde_json::from_str(data.get()).expect("as it is written");
                (self.recovered, self.reason) = (ready.recovered, ready.reason);
                self.cursor = ready.position.parse().ok();
            }
            (Some(_), _) => self.add(frame),
            (None, _) => {}
        }
        if let Some(position) = control.position.and_then(|text| text.parse().ok()) {
            self.reach(position);
        }
        self.close = control.close.or(self.close.take());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::{Epoch, Topic};
    use crate::wire::{CloseCode, Dialect, Ready as ReadyFrame};

    fn position(seq: u64) -> Position {
        Position { epoch: Epoch::new(1), seq }
    }

    fn ready(seq: u64, recovered: Option<bool>, reason: Option<RecoveryFailure>) -> Outgoing {
        control(Dialect::Poll.ready(&ReadyFrame {
            connection_id: "n.1".to_owned(),
            server_id: "n".into(),
            tenant_id: "default".to_owned(),
            user_id: None,
            topics: vec!["topic:a".to_owned()],
            heartbeat_ms: 1,
            position: position(seq),
            recovered,
            reason,
            max_frame_bytes: 1,
            max_message_bytes: 1,
            max_topics: 1,
        }))
    }

    fn control(frame: Bytes) -> Outgoing {
        Outgoing { frame, kind: Kind::Control, lives_for: None }
    }

    fn event(seq: Option<u64>, bytes: usize) -> Outgoing {
        let frame = Bytes::from(format!("{{\"fill\":\"{}\"}}", "x".repeat(bytes.saturating_sub(11))));
        Outgoing { frame, kind: Kind::Event(seq.map(position)), lives_for: None }
    }

    fn text(answer: &PollAnswer) -> String {
        serde_json::to_string(answer).unwrap()
    }

    fn json_of(answer: &PollAnswer) -> Value {
        serde_json::from_str(&text(answer)).unwrap()
    }

    #[test]
    fn an_answer_tells_what_its_session_was_told() {
        let mut answer = PollAnswer::new(Some(position(3)));
        answer.take(ready(3, Some(true), None));
        assert!(!answer.has_news());
        answer.take(event(Some(4), 20));
        answer.take(control(Dialect::Poll.position(position(9))));
        assert!(answer.has_news());
        let own = "0000000000000001-9";
        let expected = json!({"events": [{"fill": "xxxxxxxxx"}], "cursor": own, "recovered": true, "reason": null, "more": false});
        assert_eq!(json_of(&answer), expected);
        answer.take(control(Dialect::Poll.unsubscribed(&Topic::parse("topic:a").unwrap(), "forbidden")));
        answer.take(control(Dialect::Poll.close(CloseCode::Draining, Duration::from_millis(7))));
        let told = json_of(&answer);
        assert_eq!(
            told["events"][1],
            json!({"event": "unsubscribed", "data": {"topic": "topic:a", "code": "forbidden"}})
        );
        let close = json!({"code": 3000, "reason": "draining", "reconnect": true, "retry_ms": 7});
        assert_eq!((&told["close"], &told["cursor"]), (&close, &json!(own)));
    }

    #[test]
    fn a_first_call_and_a_failed_recovery_are_news_by_themselves() {
        let mut first = PollAnswer::new(None);
        first.take(ready(3, None, None));
        assert!(first.has_news());
        let mut failed = PollAnswer::new(Some(position(1)));
        failed.take(ready(3, Some(false), Some(RecoveryFailure::Evicted)));
        assert!(failed.has_news());
        let expected = json!({"events": [], "cursor": "0000000000000001-3", "recovered": false, "reason": "evicted", "more": false});
        assert_eq!(json_of(&failed), expected);
    }

    #[test]
    fn the_cursor_never_goes_back_within_an_epoch() {
        let mut answer = PollAnswer::new(Some(position(7)));
        answer.reach(position(5));
        assert_eq!(answer.cursor, Some(position(7)));
        // a conflated value has no id and moves nothing
        answer.take(event(None, 20));
        assert_eq!(answer.cursor, Some(position(7)));
        let next = Position { epoch: Epoch::new(2), seq: 0 };
        answer.reach(next);
        assert_eq!(answer.cursor, Some(next));
    }

    #[test]
    fn what_is_forgotten_is_asked_for_again() {
        let mut answer = PollAnswer::new(Some(position(3)));
        answer.take(ready(3, Some(true), None));
        answer.take(event(Some(4), 20));
        answer.forget();
        answer.take(control(Dialect::Poll.close(CloseCode::Unauthenticated, Duration::ZERO)));
        let told = json_of(&answer);
        assert_eq!((&told["events"], &told["cursor"]), (&json!([]), &json!("0000000000000001-3")));
    }

    #[test]
    fn an_answer_is_bounded_in_bytes_and_takes_at_least_one_event() {
        let mut answer = PollAnswer::new(Some(position(0)));
        answer.take(ready(0, Some(true), None));
        assert!(answer.has_room_for(MOST_BYTES * 2));
        let mut count = 0;
        while answer.has_room_for(1000) {
            count += 1;
            answer.take(event(Some(count), 1000));
        }
        answer.cut_short();
        answer.take(control(Dialect::Poll.close(CloseCode::InsufficientState, Duration::MAX)));
        let length = text(&answer).len();
        assert!(length <= MOST_BYTES && length > MOST_BYTES - 2048, "{length}");
        assert_eq!(json_of(&answer)["more"], true);
    }
}
