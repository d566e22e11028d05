use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::waiting::{Item, Waiting};
use crate::clock::Clock;
use crate::telemetry::Metrics;
use crate::wire::{Audience, Event, Format};

/// What may wait in one queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Most bytes; one larger item is taken when nothing else waits.
    pub bytes: usize,
    /// Most frames.
    pub items: usize,
}

/// Counters that all queues of a worker share.
#[derive(Debug)]
pub struct QueueMetrics {
    delivered: Counter,
    seconds: Histogram,
    volatile_dropped: Counter,
    conflated: Counter,
    expired: Counter,
    discarded: Counter,
    clock: Clock,
}

impl QueueMetrics {
    /// Handles into an engine's metrics.
    pub fn new(metrics: &Metrics, clock: Clock) -> Self {
        QueueMetrics {
            delivered: metrics.delivered(),
            seconds: metrics.delivery_seconds(),
            volatile_dropped: metrics.dropped("volatile_queue_full"),
            conflated: metrics.dropped("conflated"),
            expired: metrics.dropped("expired"),
            discarded: metrics.dropped("connection_cut"),
            clock,
        }
    }
}

/// What became of an event offered to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits, or has replaced an older value.
    Taken,
    /// It was volatile and there was no room.
    Dropped,
    /// It was not for this queue any more: seen before, or the connection is ending.
    Ignored,
    /// It does not fit and must not be lost: the connection has to be cut.
    Overflow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Takes and gives.
    Open,
    /// Gives what waits, then ends.
    Finishing,
    /// The reader is gone.
    Left,
}

/// The frames that wait for one connection; bounded in bytes and items, filled and drained on one thread.
///
/// The usual single frame sits inline; the deque beyond it is given back when empty.
pub struct SendQueue {
    format: Format,
    limits: QueueLimits,
    metrics: Rc<QueueMetrics>,
    state: Cell<State>,
    waiting: RefCell<Waiting>,
    bytes: Cell<usize>,
    last_seq: Cell<u64>,
    sent_bytes: Cell<u64>,
    progress: Cell<Instant>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

impl std::fmt::Debug for SendQueue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let items = self.waiting.borrow().len();
        out.debug_struct("SendQueue").field("state", &self.state.get()).field("items", &items).finish()
    }
}

impl SendQueue {
    /// An empty queue for a connection that reads frames of `format`.
    pub fn new(format: Format, limits: QueueLimits, metrics: Rc<QueueMetrics>) -> Self {
        SendQueue {
            format,
            limits,
            metrics,
            state: Cell::new(State::Open),
            waiting: RefCell::default(),
            bytes: Cell::new(0),
            last_seq: Cell::new(0),
            sent_bytes: Cell::new(0),
            progress: Cell::new(Instant::now()),
            reader: Cell::new(None),
            writer: Cell::new(None),
        }
    }

    /// Offers an event; the policy for a full queue is: drop volatile, conflate latest, else overflow.
    pub fn push_event(&self, event: &Arc<Event>, audience: Audience) -> Pushed {
        let seq = event.seq();
        if self.state.get() != State::Open || (seq != 0 && seq <= self.last_seq.get()) {
            return Pushed::Ignored;
        }
        let item = Item::Event { frame: event.frame(self.format, audience), event: event.clone(), audience };
        let pushed = self.admit(item);
        if seq != 0 && pushed == Pushed::Taken {
            self.last_seq.set(seq);
        }
        pushed
    }

    /// Adds a control frame, whatever waits; there are only a few of them in a connection's life.
    pub fn push_control(&self, frame: Bytes) {
        if self.state.get() == State::Open {
            self.append(Item::Control(frame));
        }
    }

    /// Adds a heartbeat unless the queue is full: what waits then is sign of life enough.
    pub fn push_heartbeat(&self, frame: Bytes) {
        if self.state.get() == State::Open && self.fits(frame.len()) {
            self.append(Item::Control(frame));
        }
    }

    /// Whether an event of this many bytes could be added without dropping anything.
    pub fn has_room_for(&self, event: &Event, audience: Audience) -> bool {
        self.fits(self.frame_len(event, audience))
    }

    /// Bytes that an event takes here.
    pub fn frame_len(&self, event: &Event, audience: Audience) -> usize {
        event.frame(self.format, audience).len()
    }

    /// Lets what waits go out, then `last`, then ends.
    pub fn finish(&self, last: Bytes) {
        if self.state.get() == State::Open {
            self.append(Item::Control(last));
            self.state.set(State::Finishing);
        }
    }

    /// Throws away what waits and ends after `last`.
    pub fn cut(&self, last: Bytes) {
        if self.state.get() == State::Left {
            return;
        }
        self.clear();
        self.append(Item::Control(last));
        self.state.set(State::Finishing);
    }

    /// The reader is gone: nothing is kept any more.
    pub fn leave(&self) {
        self.state.set(State::Left);
        self.clear();
        self.reader.take();
        self.wake(&self.writer);
    }

    /// Whether the reader is gone.
    pub fn has_left(&self) -> bool {
        self.state.get() == State::Left
    }

    /// Number of the newest event taken.
    pub fn last_seq(&self) -> u64 {
        self.last_seq.get()
    }

    /// Bytes handed to the socket so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }

    /// How long bytes have been waiting without any being taken.
    pub fn stalled_for(&self, now: Instant) -> Duration {
        match self.bytes.get() {
            0 => Duration::ZERO,
            _ => now.saturating_duration_since(self.progress.get()),
        }
    }

    /// The next frame for the socket; None after the last one.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let popped = self.waiting.borrow_mut().pop();
            let Some(item) = popped else { break };
            self.bytes.set(self.bytes.get() - item.len());
            self.progress.set(Instant::now());
            if self.bytes.get() <= self.limits.bytes / 4 {
                self.wake(&self.writer);
            }
            if let Some(frame) = self.deliver(item) {
                return Poll::Ready(Some(frame));
            }
        }
        if self.state.get() != State::Open {
            return Poll::Ready(None);
        }
        self.reader.set(Some(context.waker().clone()));
        Poll::Pending
    }

    /// Ready once most of what waited is gone and `room` bytes fit, or the reader is gone.
    pub fn poll_drained(&self, context: &mut Context<'_>, room: usize) -> Poll<()> {
        let drained = self.bytes.get() <= self.limits.bytes / 4 && self.fits(room);
        if drained || self.state.get() != State::Open {
            return Poll::Ready(());
        }
        self.writer.set(Some(context.waker().clone()));
        Poll::Pending
    }

    fn deliver(&self, item: Item) -> Option<Bytes> {
        let frame = match item {
            Item::Control(frame) => frame,
            Item::Event { frame, event, .. } => {
                if event.parts().expires_at.is_some() && event.is_expired(self.metrics.clock.steady()) {
                    self.metrics.expired.inc();
                    return None;
                }
                self.metrics.delivered.inc();
                self.metrics.seconds.observe(event.age().as_secs_f64());
                frame
            }
        };
        self.sent_bytes.set(self.sent_bytes.get() + frame.len() as u64);
        Some(frame)
    }

    fn fits(&self, len: usize) -> bool {
        let items = self.waiting.borrow().len();
        items == 0 || (items < self.limits.items && self.bytes.get() + len <= self.limits.bytes)
    }

    fn admit(&self, item: Item) -> Pushed {
        if self.fits(item.len()) {
            self.append(item);
            return Pushed::Taken;
        }
        let dropped = self.rewrite(Waiting::drop_volatile);
        self.metrics.volatile_dropped.inc_by(dropped as u64);
        if self.fits(item.len()) {
            self.append(item);
            return Pushed::Taken;
        }
        if item.is_volatile() {
            self.metrics.volatile_dropped.inc();
            return Pushed::Dropped;
        }
        let conflated = self.rewrite(|waiting| waiting.give_place_to(&item, self.format));
        self.metrics.conflated.inc_by(conflated as u64);
        // a longer value may have taken the place of a shorter one: the bound holds all the same
        if conflated > 0 && (self.bytes.get() <= self.limits.bytes || self.waiting.borrow().len() == 1) {
            return Pushed::Taken;
        }
        let conflated = self.rewrite(|waiting| waiting.conflate(self.format));
        self.metrics.conflated.inc_by(conflated as u64);
        match self.fits(item.len()) {
            true => {
                self.append(item);
                Pushed::Taken
            }
            false => Pushed::Overflow,
        }
    }

    /// Changes what waits, and counts its bytes again.
    fn rewrite<R>(&self, change: impl FnOnce(&mut Waiting) -> R) -> R {
        let mut waiting = self.waiting.borrow_mut();
        let result = change(&mut waiting);
        self.bytes.set(waiting.bytes());
        result
    }

    fn append(&self, item: Item) {
        let mut items = self.waiting.borrow_mut();
        if items.len() == 0 {
            self.progress.set(Instant::now());
        }
        self.bytes.set(self.bytes.get() + item.len());
        items.push(item);
        let was_empty = items.len() == 1;
        drop(items);
        if was_empty {
            self.wake(&self.reader);
        }
    }

    fn clear(&self) {
        let discarded = self.waiting.borrow_mut().take_all();
        let events = discarded.iter().filter(|item| matches!(item, Item::Event { .. })).count();
        self.metrics.discarded.inc_by(events as u64);
        self.bytes.set(0);
    }

    fn wake(&self, waker: &Cell<Option<Waker>>) {
        if let Some(waker) = waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Class, Epoch, EventName, Position, Timestamp, Topic};
    use crate::wire::{Content, EventParts};

    fn event(seq: u64, class: Class, key: &str) -> Arc<Event> {
        let position = (class != Class::Volatile).then_some(Position { epoch: Epoch::new(1), seq });
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
        (SendQueue::new(Format::SseData, QueueLimits { bytes: 100_000, items }, metrics.clone()), metrics)
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
        assert_eq!(
            frames[0], "event: tick\ndata: 6\n\n",
            "the newest value, in the oldest place, without id"
        );
        assert!(frames[1..].iter().zip([2, 4, 5]).all(|(frame, seq)| frame.contains(&format!("-{seq}\n"))));
    }

    #[test]
    fn an_event_seen_before_is_ignored() {
        let (queue, _) = queue(4);
        assert_eq!(queue.push_event(&event(2, Class::Durable, ""), Audience::Full), Pushed::Taken);
        assert_eq!(queue.push_event(&event(2, Class::Durable, ""), Audience::Full), Pushed::Ignored);
        assert_eq!(queue.push_event(&event(1, Class::Durable, ""), Audience::Full), Pushed::Ignored);
    }

    #[test]
    fn an_item_larger_than_the_queue_is_taken_when_nothing_else_waits() {
        let metrics = Rc::new(QueueMetrics::new(&Metrics::default(), Clock::system()));
        let queue = SendQueue::new(Format::SseData, QueueLimits { bytes: 10, items: 4 }, metrics);
        assert_eq!(queue.push_event(&event(1, Class::Durable, ""), Audience::Full), Pushed::Taken);
        assert_eq!(queue.push_event(&event(2, Class::Durable, ""), Audience::Full), Pushed::Overflow);
    }

    #[test]
    fn a_cut_queue_ends_with_its_last_frame_only() {
        let (queue, metrics) = queue(4);
        queue.push_event(&event(1, Class::Durable, ""), Audience::Full);
        queue.cut(Bytes::from_static(b"bye"));
        assert_eq!(queue.push_event(&event(2, Class::Durable, ""), Audience::Full), Pushed::Ignored);
        assert_eq!(drain(&queue), ["bye"]);
        assert_eq!(metrics.discarded.get(), 1);
        assert!(matches!(queue.poll_next(&mut Context::from_waker(Waker::noop())), Poll::Ready(None)));
    }
}
