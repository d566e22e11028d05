use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::Level;

use super::About;
use super::outgoing::{Kind, Outgoing, Pushed};
use super::queue_metrics::QueueMetrics;
use super::waiting::{Item, Waiting, Way};
use crate::domain::Position;
use crate::wire::{Audience, CloseCode, Dialect, Event, Framing};

/// What may wait in one queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Most bytes; one larger item is taken when nothing else waits.
    pub bytes: usize,
    /// Most frames.
    pub items: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Takes and gives.
    Open,
    /// Gives what waits, then ends.
    Finishing,
    /// Gives its last frame, then ends; everything before it was thrown away.
    Cut,
    /// The reader is gone.
    Left,
}

/// The frames that wait for one connection; bounded in bytes and items, filled and drained on one thread.
///
/// The usual single frame sits inline; the deque beyond it is given back when empty.
pub struct SendQueue {
    framing: Framing,
    limits: QueueLimits,
    metrics: Rc<QueueMetrics>,
    state: Cell<State>,
    waiting: RefCell<Waiting>,
    bytes: Cell<usize>,
    /// Where the newest event taken stands.
    last: Cell<Option<Position>>,
    sent_bytes: Cell<u64>,
    progress: Cell<Instant>,
    reader: Cell<Option<Waker>>,
    writers: Cell<Vec<Waker>>,
    /// Bytes given to the socket's owner that the kernel has not taken.
    unsent: Cell<usize>,
    /// Whose it is, for the log.
    about: OnceCell<Rc<About>>,
}

impl std::fmt::Debug for SendQueue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let items = self.waiting.borrow().len();
        out.debug_struct("SendQueue").field("state", &self.state.get()).field("items", &items).finish()
    }
}

impl SendQueue {
    /// An empty queue for a connection that reads frames of this kind.
    pub fn new(framing: Framing, limits: QueueLimits, metrics: Rc<QueueMetrics>) -> Self {
        SendQueue {
            framing,
            limits,
            metrics,
            state: Cell::new(State::Open),
            waiting: RefCell::default(),
            bytes: Cell::new(0),
            last: Cell::new(None),
            sent_bytes: Cell::new(0),
            progress: Cell::new(Instant::now()),
            reader: Cell::new(None),
            writers: Cell::default(),
            unsent: Cell::new(0),
            about: OnceCell::new(),
        }
    }

    /// Says whose it is: the log lines of its deliveries tell.
    pub(super) fn tell_of(&self, about: Rc<About>) {
        // a connection is somebody's once and for all
        let _ = self.about.set(about);
    }

    /// How control frames for this queue are written.
    pub fn dialect(&self) -> Dialect {
        self.framing.dialect
    }

    /// Whether rankings go into it whole.
    pub fn takes_whole_rankings(&self) -> bool {
        self.framing.whole
    }

    /// Offers an event; the policy for a full queue is: drop volatile, conflate latest, else overflow.
    pub fn push_event(&self, event: &Arc<Event>, audience: Audience) -> Pushed {
        self.push(event, audience, Way::Live)
    }

    /// Adds an event of the past: to a connection that was away, or as its client's `request` asks for it, which
    /// does not move its cursor.
    pub fn push_past(&self, event: &Arc<Event>, audience: Audience, request: Option<u64>) -> Pushed {
        match request {
            None => self.push(event, audience, Way::Replayed),
            Some(request) => self.push_asked(event, audience, request),
        }
    }

    fn push(&self, event: &Arc<Event>, audience: Audience, way: Way) -> Pushed {
        let position = event.position();
        // a new run of the log counts from 1 again
        let is_repeated = position
            .zip(self.last.get())
            .is_some_and(|(own, last)| own.epoch == last.epoch && own.seq <= last.seq);
        if self.state.get() != State::Open || is_repeated || !self.framing.takes(event) {
            return Pushed::Ignored;
        }
        let frame = event.frame(self.framing.events, audience);
        let item = Item::Event { frame, event: event.clone(), audience, way };
        let pushed = self.admit(item);
        if position.is_some() && pushed == Pushed::Taken {
            self.last.set(position);
        }
        pushed
    }

    fn push_asked(&self, event: &Arc<Event>, audience: Audience, request: u64) -> Pushed {
        if self.state.get() != State::Open || !self.framing.takes(event) {
            return Pushed::Ignored;
        }
        let frame = event.replay_frame(self.framing.events, audience, request);
        self.append(Item::Event { frame, event: event.clone(), audience, way: Way::Asked });
        Pushed::Taken
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
        event.frame(self.framing.events, audience).len()
    }

    /// Lets what waits go out, then the reason, then ends.
    pub fn finish(&self, code: CloseCode, retry: Duration) {
        if self.state.get() == State::Open {
            self.append(Item::Control(self.dialect().close(code, retry)));
            self.state.set(State::Finishing);
        }
    }

    /// The same with the usual delay.
    pub fn finish_with(&self, code: CloseCode) {
        self.finish(code, code.default_retry());
    }

    /// Throws away what waits, and ends after the reason.
    pub fn cut(&self, code: CloseCode) {
        self.end(self.dialect().close(code, code.default_retry()));
    }

    /// Throws away what waits, and ends after this frame.
    pub fn end(&self, last: Bytes) {
        if self.state.get() == State::Left {
            return;
        }
        self.clear();
        self.append(Item::Control(last));
        self.state.set(State::Cut);
    }

    /// Whether what waited was thrown away; whoever holds frames back throws them away too.
    pub fn is_cut(&self) -> bool {
        self.state.get() == State::Cut
    }

    /// The reader has enough for now and comes back for the rest: only what it cannot come back for is lost.
    pub fn hand_back(&self) {
        let dropped = self.rewrite(Waiting::drop_volatile);
        self.metrics.discarded.inc_by(dropped as u64);
        self.waiting.borrow_mut().take_all();
        self.leave();
    }

    /// The reader is gone: nothing is kept any more.
    pub fn leave(&self) {
        self.state.set(State::Left);
        self.clear();
        self.wake_reader();
        self.wake_writers();
    }

    /// What the kernel has not taken of the frames given out; less than before is progress.
    pub fn set_unsent(&self, bytes: usize) {
        if bytes < self.unsent.replace(bytes) {
            self.progress.set(Instant::now());
        }
    }

    /// Whether the reader is gone.
    pub fn has_left(&self) -> bool {
        self.state.get() == State::Left
    }

    /// Whether it has taken an event beyond this position in the same run of the log.
    pub fn is_beyond(&self, position: Position) -> bool {
        self.last.get().is_some_and(|last| last.epoch == position.epoch && last.seq > position.seq)
    }

    /// Number of the newest event taken.
    #[cfg(test)]
    pub fn last_seq(&self) -> u64 {
        self.last.get().map_or(0, |last| last.seq)
    }

    /// Bytes handed to the socket so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }

    /// How long bytes have been waiting without any being taken.
    pub fn stalled_for(&self, now: Instant) -> Duration {
        match self.bytes.get() + self.unsent.get() {
            0 => Duration::ZERO,
            _ => now.saturating_duration_since(self.progress.get()),
        }
    }

    /// The next frame for the socket; None after the last one.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.poll_outgoing(context).map(|outgoing| outgoing.map(|outgoing| outgoing.frame))
    }

    /// The next frame with what it is; None after the last one.
    pub fn poll_outgoing(&self, context: &mut Context<'_>) -> Poll<Option<Outgoing>> {
        loop {
            let popped = self.waiting.borrow_mut().pop();
            let Some(item) = popped else { break };
            self.bytes.set(self.bytes.get() - item.len());
            self.progress.set(Instant::now());
            if self.bytes.get() <= self.limits.bytes / 4 {
                self.wake_writers();
            }
            if let Some(outgoing) = self.deliver(item) {
                return Poll::Ready(Some(outgoing));
            }
        }
        if self.state.get() != State::Open {
            return Poll::Ready(None);
        }
        self.reader.set(Some(context.waker().clone()));
        Poll::Pending
    }

    /// Bytes of the frame that comes next, if one waits.
    pub fn next_len(&self) -> Option<usize> {
        let (waiting, now) = (self.waiting.borrow(), self.metrics.clock.steady());
        waiting.iter().find(|item| !item.is_expired(now)).map(Item::len)
    }

    /// Ready once most of what waited is gone and `room` bytes fit, or the reader is gone.
    pub fn poll_drained(&self, context: &mut Context<'_>, room: usize) -> Poll<()> {
        let drained = self.bytes.get() <= self.limits.bytes / 4 && self.fits(room);
        if drained || self.state.get() != State::Open {
            return Poll::Ready(());
        }
        let mut writers = self.writers.take();
        if !writers.iter().any(|waker| waker.will_wake(context.waker())) {
            writers.push(context.waker().clone());
        }
        self.writers.set(writers);
        Poll::Pending
    }

    fn deliver(&self, item: Item) -> Option<Outgoing> {
        let outgoing = match item {
            Item::Control(frame) => Outgoing { frame, kind: Kind::Control, lives_for: None },
            Item::Event { frame, event, way, .. } => {
                let expires_at = event.parts().expires_at;
                let lives_for = expires_at.map(|at| at.since(self.metrics.clock.steady()));
                if lives_for == Some(Duration::ZERO) {
                    self.metrics.expired.inc();
                    return None;
                }
                self.metrics.delivered.inc();
                if way != Way::Replayed && way != Way::Asked {
                    self.metrics.seconds.observe(event.age().as_secs_f64());
                }
                if tracing::enabled!(Level::TRACE)
                    && let Some(about) = self.about.get()
                {
                    about.log_delivered(&event);
                }
                let kind = Kind::Event(event.position().filter(|_| matches!(way, Way::Live | Way::Replayed)));
                Outgoing { frame, kind, lives_for }
            }
        };
        self.sent_bytes.set(self.sent_bytes.get() + outgoing.frame.len() as u64);
        Some(outgoing)
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
        let conflated = self.rewrite(|waiting| waiting.give_place_to(&item, self.framing.events));
        self.metrics.conflated.inc_by(conflated as u64);
        // a longer value may have taken the place of a shorter one: the bound holds all the same
        if conflated > 0 && (self.bytes.get() <= self.limits.bytes || self.waiting.borrow().len() == 1) {
            return Pushed::Taken;
        }
        let conflated = self.rewrite(|waiting| waiting.conflate(self.framing.events));
        self.metrics.conflated.inc_by(conflated as u64);
        if !self.fits(item.len()) {
            return Pushed::Overflow;
        }
        self.append(item);
        Pushed::Taken
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
        if self.bytes.get() + self.unsent.get() == 0 {
            self.progress.set(Instant::now());
        }
        self.bytes.set(self.bytes.get() + item.len());
        items.push(item);
        let was_empty = items.len() == 1;
        drop(items);
        if was_empty {
            self.wake_reader();
        }
    }

    fn clear(&self) {
        let discarded = self.waiting.borrow_mut().take_all();
        let events = discarded.iter().filter(|item| matches!(item, Item::Event { .. })).count();
        self.metrics.discarded.inc_by(events as u64);
        self.bytes.set(0);
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wake_writers(&self) {
        self.writers.take().into_iter().for_each(Waker::wake);
    }
}
