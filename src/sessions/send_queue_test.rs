//! What a queue does with what it is offered.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::outgoing::Pushed;
use super::queue_metrics::QueueMetrics;
use super::send_queue::{QueueLimits, SendQueue};
use crate::clock::Clock;
use crate::domain::{Class, Epoch, EventName, Position, Timestamp, Topic};
use crate::telemetry::Metrics;
use crate::wire::{Audience, CloseCode, Content, Dialect, Event, EventParts, Framing};

pub(super) fn event(seq: u64, class: Class, key: &str) -> Arc<Event> {
    event_of(1, seq, class, key)
}

fn event_of(run: u64, seq: u64, class: Class, key: &str) -> Arc<Event> {
    let position = (class != Class::Volatile).then_some(Position { epoch: Epoch::new(run), seq });
    Arc::new(Event::new(EventParts {
        position,
        topic: Topic::parse("topic:t").unwrap(),
        name: EventName::trusted("tick"),
        class,
        key: Some(key.into()),
        version: None,
        at: Timestamp::from_micros(0),
        expires_at: None,
        full: Content::new(format!("{seq}")),
        public: None,
    }))
}

fn queue(items: usize) -> (SendQueue, Rc<QueueMetrics>) {
    let metrics = Rc::new(QueueMetrics::new(&Metrics::default(), Clock::system()));
    (SendQueue::new(Framing::SSE_DATA, QueueLimits { bytes: 100_000, items }, metrics.clone()), metrics)
}

fn drain(queue: &SendQueue) -> Vec<String> {
    let mut context = Context::from_waker(Waker::noop());
    let mut frames = Vec::new();
    while let Poll::Ready(Some(frame)) = queue.poll_next(&mut context) {
        frames.push(String::from_utf8(frame.to_vec()).unwrap());
    }
    frames
}

#[test]
fn a_full_queue_drops_volatile_before_it_conflates_and_conflates_before_it_overflows() {
    let (queue, metrics) = queue(4);
    queue.push_event(&event(1, Class::Latest, "a"), Audience::Full);
    queue.push_event(&event(0, Class::Volatile, ""), Audience::Full);
    queue.push_event(&event(2, Class::Durable, ""), Audience::Full);
    queue.push_event(&event(3, Class::Latest, "a"), Audience::Full);
    assert_eq!(queue.push_event(&event(4, Class::Durable, ""), Audience::Full), Pushed::Taken);
    assert_eq!((metrics.volatile_dropped.get(), metrics.conflated.get()), (1, 0));
    assert_eq!(queue.push_event(&event(5, Class::Durable, ""), Audience::Full), Pushed::Taken);
    assert_eq!(metrics.conflated.get(), 1);
    assert_eq!(queue.push_event(&event(6, Class::Latest, "a"), Audience::Full), Pushed::Taken);
    assert_eq!(queue.push_event(&event(0, Class::Volatile, ""), Audience::Full), Pushed::Dropped);
    assert_eq!(queue.push_event(&event(7, Class::Durable, ""), Audience::Full), Pushed::Overflow);
    let frames = drain(&queue);
    assert_eq!(frames[0], "event: tick\ndata: 6\n\n", "the newest value, in the oldest place, without id");
    assert!(frames[1..].iter().zip([2, 4, 5]).all(|(frame, seq)| frame.contains(&format!("-{seq}\n"))));
}

/// A ranking at this version, whole or as it changes.
fn ranking(seq: u64, version: Option<i64>, is_whole: bool) -> Arc<Event> {
    let parts = EventParts {
        position: (seq > 0).then_some(Position { epoch: Epoch::new(1), seq }),
        topic: Topic::parse("ranking:b").unwrap(),
        name: EventName::trusted("proposal_ranking_updated"),
        class: Class::Latest,
        key: Some("b".into()),
        version,
        at: Timestamp::from_micros(0),
        expires_at: None,
        full: Content::new(format!("{{\"version\":{seq},\"moves\":[1]}}")),
        public: None,
    };
    let event = Event::new(parts);
    Arc::new(if is_whole { event.whole() } else { event })
}

#[test]
fn a_ranking_in_the_place_of_others_says_nothing_of_the_one_before() {
    let (queue, _) = queue(2);
    for seq in 1..=3 {
        assert_eq!(queue.push_event(&ranking(seq, Some(1), false), Audience::Full), Pushed::Taken);
    }
    let expected = "event: proposal_ranking_updated\ndata: {\"version\":3,\"moves\":null}\n\n";
    assert_eq!(drain(&queue), [expected]);
}

#[test]
fn rankings_are_given_whole_or_as_they_change_and_those_of_others_to_everybody() {
    let metrics = Rc::new(QueueMetrics::new(&Metrics::default(), Clock::system()));
    let limits = QueueLimits { bytes: 100_000, items: 9 };
    let (changes, whole, others) =
        (ranking(1, Some(1), false), ranking(0, Some(1), true), ranking(2, None, false));
    for (framing, expected) in [
        (Framing::SSE_DATA, [Pushed::Taken, Pushed::Ignored, Pushed::Taken]),
        (Framing::SSE_DATA.with_whole_rankings(), [Pushed::Ignored, Pushed::Taken, Pushed::Taken]),
    ] {
        let queue = SendQueue::new(framing, limits, metrics.clone());
        let pushed = [&changes, &whole, &others].map(|event| queue.push_event(event, Audience::Full));
        assert_eq!(pushed, expected);
    }
}

#[test]
fn an_event_seen_before_is_ignored() {
    let (queue, _) = queue(4);
    assert_eq!(queue.push_event(&event(2, Class::Durable, ""), Audience::Full), Pushed::Taken);
    assert_eq!(queue.push_event(&event(2, Class::Durable, ""), Audience::Full), Pushed::Ignored);
    assert_eq!(queue.push_event(&event(1, Class::Durable, ""), Audience::Full), Pushed::Ignored);
}

#[test]
fn a_new_run_of_the_log_counts_from_one_again() {
    let (queue, _) = queue(4);
    assert_eq!(queue.push_event(&event(7, Class::Durable, ""), Audience::Full), Pushed::Taken);
    assert_eq!(queue.push_event(&event_of(2, 1, Class::Durable, ""), Audience::Full), Pushed::Taken);
    assert_eq!(queue.push_event(&event_of(2, 1, Class::Durable, ""), Audience::Full), Pushed::Ignored);
    let at = |run, seq| Position { epoch: Epoch::new(run), seq };
    assert!(queue.is_beyond(at(2, 0)) && !queue.is_beyond(at(2, 1)) && !queue.is_beyond(at(1, 0)));
}

#[test]
fn an_item_larger_than_the_queue_is_taken_when_nothing_else_waits() {
    let metrics = Rc::new(QueueMetrics::new(&Metrics::default(), Clock::system()));
    let queue = SendQueue::new(Framing::SSE_DATA, QueueLimits { bytes: 10, items: 4 }, metrics);
    assert_eq!(queue.push_event(&event(1, Class::Durable, ""), Audience::Full), Pushed::Taken);
    assert_eq!(queue.push_event(&event(2, Class::Durable, ""), Audience::Full), Pushed::Overflow);
}

#[test]
fn who_comes_back_for_the_rest_loses_only_what_is_volatile() {
    let (queue, metrics) = queue(4);
    queue.push_event(&event(1, Class::Durable, ""), Audience::Full);
    queue.push_event(&event(0, Class::Volatile, ""), Audience::Full);
    assert_eq!(queue.next_len(), Some(drain(&queue)[0].len()));
    assert_eq!(queue.next_len(), None);
    queue.push_event(&event(2, Class::Durable, ""), Audience::Full);
    queue.push_event(&event(0, Class::Volatile, ""), Audience::Full);
    queue.hand_back();
    assert!(queue.has_left());
    assert_eq!((metrics.discarded.get(), queue.next_len()), (1, None));
}

#[test]
fn a_cut_queue_ends_with_its_last_frame_only() {
    let (queue, metrics) = queue(4);
    queue.push_event(&event(1, Class::Durable, ""), Audience::Full);
    queue.cut(CloseCode::SlowConsumer);
    assert_eq!(queue.push_event(&event(2, Class::Durable, ""), Audience::Full), Pushed::Ignored);
    assert_eq!(
        drain(&queue),
        [Dialect::Sse.close(CloseCode::SlowConsumer, CloseCode::SlowConsumer.default_retry())]
    );
    assert_eq!(metrics.discarded.get(), 1);
    assert!(matches!(queue.poll_next(&mut Context::from_waker(Waker::noop())), Poll::Ready(None)));
}
