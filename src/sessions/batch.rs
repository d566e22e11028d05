use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Kind, Outgoing};
use crate::domain::{Position, Timestamp};
use crate::wire::Dialect;

/// How a client wants its events put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// A batch is sent at most this long after its first event came.
    pub within: Duration,
    /// Most events of a batch.
    pub events: usize,
}

/// Puts event objects together into `batch` events; all other frames go out as they are, in their place.
///
/// ```text
/// push(e1) push(e2) push(heartbeat) ──► pop() = batch [e1, e2] · pop() = heartbeat
/// ```
///
/// A batch is bounded in events, bytes and time. Nothing overtakes anything.
#[derive(Debug)]
pub struct Batcher {
    dialect: Dialect,
    batching: Batching,
    most_bytes: usize,
    events: Vec<Bytes>,
    bytes: usize,
    last_id: Option<Position>,
    due: Option<Instant>,
    ready: VecDeque<Bytes>,
}

impl Batcher {
    /// Without events; `most_bytes` bounds the events of a batch, unless a single one is larger.
    pub fn new(dialect: Dialect, batching: Batching, most_bytes: usize) -> Self {
        Batcher {
            dialect,
            batching,
            most_bytes,
            events: Vec::new(),
            bytes: 0,
            last_id: None,
            due: None,
            ready: VecDeque::new(),
        }
    }

    /// Takes the next frame of a [batched](crate::wire::Framing::batched) queue; `at` is written into a
    /// batch that this completes.
    pub fn push(&mut self, outgoing: Outgoing, now: Instant, at: Timestamp) {
        let Outgoing { frame, kind, lives_for } = outgoing;
        let Kind::Event(position) = kind else {
            self.flush(at);
            return self.ready.push_back(frame);
        };
        if self.bytes + frame.len() > self.most_bytes {
            self.flush(at);
        }
        // one that would expire in the meantime is not kept for longer than it lives
        let due = now + lives_for.unwrap_or(Duration::MAX).min(self.batching.within);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        self.bytes += frame.len();
        self.last_id = position.or(self.last_id);
        self.events.push(frame);
        if self.events.len() >= self.batching.events {
            self.flush(at);
        }
    }

    /// When the batch that is being put together has to go out.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Completes the batch.
    pub fn flush(&mut self, at: Timestamp) {
        if self.events.is_empty() {
            return;
        }
        let mut data = Vec::with_capacity(self.bytes + self.events.len() + 80);
        data.extend_from_slice(b"{\"type\":\"batch\",\"events\":[");
        for (index, event) in self.events.iter().enumerate() {
            if index > 0 {
                data.push(b',');
            }
            data.extend_from_slice(event);
        }
        data.extend_from_slice(format!("],\"timestamp\":\"{at}\"}}").as_bytes());
        let data = String::from_utf8(data).expect("event objects are text");
        self.ready.push_back(self.dialect.event("batch", self.last_id, &data));
        self.discard();
    }

    /// Forgets the events that have not gone out.
    pub fn discard(&mut self) {
        // a burst's memory is not kept
        self.events = Vec::new();
        (self.bytes, self.last_id, self.due) = (0, None, None);
    }

    /// The next frame that is complete.
    pub fn pop(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Epoch;
    use crate::wire::{CloseCode, SseDecoder};
    use proptest::prelude::*;
    use serde_json::Value;

    const AT: Timestamp = Timestamp::from_micros(0);
    const WITHIN: Duration = Duration::from_millis(100);

    fn position(seq: u64) -> Position {
        Position { epoch: Epoch::new(1), seq }
    }

    fn event(seq: Option<u64>, text: &str) -> Outgoing {
        let frame = Bytes::from(format!("{{\"data\":\"{text}\"}}"));
        Outgoing { frame, kind: Kind::Event(seq.map(position)), lives_for: None }
    }

    fn control(frame: Bytes) -> Outgoing {
        Outgoing { frame, kind: Kind::Control, lives_for: None }
    }

    fn batcher(events: usize, bytes: usize) -> Batcher {
        Batcher::new(Dialect::Sse, Batching { within: WITHIN, events }, bytes)
    }

    /// What a client makes of frames: for each of its events the name, the id, and the data of all in a batch.
    fn read(batcher: &mut Batcher) -> Vec<(String, Option<String>, Vec<String>)> {
        let mut read = Vec::new();
        while let Some(frame) = batcher.pop() {
            for message in SseDecoder::default().feed(&frame) {
                let data: Value = serde_json::from_str(&message.data).unwrap();
                let events = data["events"].as_array().cloned().unwrap_or_default();
                let texts = events.iter().map(|event| event["data"].as_str().unwrap().to_owned()).collect();
                read.push((message.event, message.id, texts));
            }
        }
        read
    }

    fn batch(id: Option<u64>, texts: &[&str]) -> (String, Option<String>, Vec<String>) {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        ("batch".to_owned(), id.map(|seq| position(seq).to_string()), texts)
    }

    #[test]
    fn a_batch_carries_the_id_of_its_last_event_that_has_one() {
        let (mut batcher, now) = (batcher(3, 1000), Instant::now());
        for (seq, text) in [(Some(4), "a"), (Some(5), "b"), (None, "c"), (None, "d"), (None, "e")] {
            batcher.push(event(seq, text), now, AT);
        }
        assert_eq!(read(&mut batcher), [batch(Some(5), &["a", "b", "c"])]);
        batcher.flush(AT);
        assert_eq!(read(&mut batcher), [batch(None, &["d", "e"])]);
        batcher.flush(AT);
        assert_eq!(read(&mut batcher), [], "nothing is no batch");
    }

    #[test]
    fn what_is_not_an_event_goes_out_after_the_events_before_it() {
        let (mut batcher, now) = (batcher(50, 1000), Instant::now());
        batcher.push(control(Dialect::Sse.position(position(3))), now, AT);
        assert_eq!(read(&mut batcher)[0].0, "position", "at once when nothing waits");
        batcher.push(event(Some(4), "a"), now, AT);
        batcher.push(control(Dialect::Sse.heartbeat(position(4), AT, "a")), now, AT);
        batcher.push(event(Some(5), "b"), now, AT);
        batcher.push(control(Dialect::Sse.close(CloseCode::Draining, Duration::ZERO)), now, AT);
        let read = read(&mut batcher);
        let names: Vec<&str> = read.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["batch", "heartbeat", "batch", "close"]);
        assert_eq!((&read[0], &read[2]), (&batch(Some(4), &["a"]), &batch(Some(5), &["b"])));
    }

    #[test]
    fn a_batch_is_due_its_time_after_its_first_event_or_before_one_of_them_expires() {
        let (mut batcher, start) = (batcher(50, 1000), Instant::now());
        let step = Duration::from_millis(30);
        assert_eq!(batcher.due(), None);
        batcher.push(event(Some(1), "a"), start, AT);
        batcher.push(event(Some(2), "b"), start + step, AT);
        assert_eq!(batcher.due(), Some(start + WITHIN));
        let short = Outgoing { lives_for: Some(Duration::from_millis(5)), ..event(Some(3), "c") };
        batcher.push(short, start + step, AT);
        assert_eq!(batcher.due(), Some(start + Duration::from_millis(35)));
        batcher.flush(AT);
        assert_eq!(batcher.due(), None);
    }

    #[test]
    fn an_event_larger_than_a_batch_goes_alone() {
        let (mut batcher, now) = (batcher(50, 100), Instant::now());
        let large = "x".repeat(300);
        for (seq, text) in [(1, "a"), (2, &large), (3, "b")] {
            batcher.push(event(Some(seq), text), now, AT);
        }
        batcher.flush(AT);
        let expected = [batch(Some(1), &["a"]), batch(Some(2), &[&large]), batch(Some(3), &["b"])];
        assert_eq!(read(&mut batcher), expected);
    }

    #[test]
    fn the_frame_is_the_one_that_is_specified_on_every_transport() {
        for (dialect, expected) in [
            (Dialect::Sse, "event: batch\nid: 0000000000000001-7\ndata: DATA\n\n"),
            (Dialect::Poll, "{\"event\":\"batch\",\"data\":DATA}"),
        ] {
            let mut batcher = Batcher::new(dialect, Batching { within: WITHIN, events: 1 }, 1000);
            batcher.push(event(Some(7), "a"), Instant::now(), AT);
            let data = "{\"type\":\"batch\",\"events\":[{\"data\":\"a\"}],\"timestamp\":\"1970-01-01T00:00:00.000Z\"}";
            assert_eq!(batcher.pop().unwrap(), expected.replace("DATA", data));
        }
        let mut batcher = Batcher::new(Dialect::WebSocket, Batching { within: WITHIN, events: 1 }, 1000);
        batcher.push(event(Some(7), "a"), Instant::now(), AT);
        let frame = batcher.pop().unwrap();
        assert!(frame[2..].starts_with(b"{\"event\":\"batch\",\"data\":{\"type\":\"batch\",\"events\":["));
    }

    #[derive(Clone, Debug)]
    enum Input {
        Event { has_id: bool, text: String },
        Control,
        Time(u64),
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            6 => (any::<bool>(), "[a-zé]{0,40}").prop_map(|(has_id, text)| Input::Event { has_id, text }),
            1 => Just(Input::Control),
            2 => (0u64..120).prop_map(Input::Time),
        ]
    }

    proptest! {
        #[test]
        fn taken_apart_again_the_batches_are_the_sequence_that_went_in(
            inputs in prop::collection::vec(input(), 0..120),
            events in 1usize..9,
            bytes in 10usize..300,
        ) {
            let (mut batcher, mut now) = (batcher(events, bytes), Instant::now());
            let (mut expected, mut seen, mut seq) = (Vec::new(), Vec::new(), 0);
            let mut last_id = None;
            let mut ids = Vec::new();
            let mut waiting_since = None;
            for input in inputs {
                match input {
                    Input::Event { has_id, text } => {
                        seq += 1;
                        let id = has_id.then_some(seq);
                        batcher.push(event(id, &text), now, AT);
                        last_id = id.or(last_id);
                        expected.push(text);
                        waiting_since.get_or_insert(now);
                    }
                    Input::Control => {
                        batcher.push(control(Dialect::Sse.position(position(seq))), now, AT);
                        expected.push("|".to_owned());
                        last_id = Some(seq);
                    }
                    Input::Time(millis) => {
                        now += Duration::from_millis(millis);
                        if batcher.due().is_some_and(|due| due <= now) {
                            batcher.flush(AT);
                        }
                    }
                }
                for (name, id, texts) in read(&mut batcher) {
                    prop_assert!(texts.len() <= events);
                    let size: usize = texts.iter().map(|text| text.len() + 11).sum();
                    prop_assert!(texts.len() <= 1 || size <= bytes);
                    ids.extend(id.map(|id| id.parse::<Position>().unwrap().seq));
                    match name.as_str() {
                        "batch" => seen.extend(texts),
                        _ => seen.push("|".to_owned()),
                    }
                    waiting_since = None;
                }
                // what is still held back came after the last frame that went out, and has a time
                prop_assert_eq!(seen.len() < expected.len(), batcher.due().is_some());
                prop_assert!(waiting_since.is_none_or(|since| now < since + WITHIN || batcher.due().is_none()));
            }
            batcher.flush(AT);
            for (_, id, texts) in read(&mut batcher) {
                ids.extend(id.map(|id| id.parse::<Position>().unwrap().seq));
                seen.extend(texts);
            }
            prop_assert_eq!(seen, expected);
            prop_assert!(ids.is_sorted(), "{:?}", ids);
            prop_assert_eq!(ids.last().copied(), last_id);
        }
    }
}
