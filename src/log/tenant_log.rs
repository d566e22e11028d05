use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::PageLimit;
use super::floor::Floor;
use super::recovery::{Floors, Recovery, judge};
use super::window::{Window, WindowBudget};
use crate::domain::{Cursor, Epoch, Position, Selector, TenantId, Timestamp, Topic};
use crate::wire::Event;

/// A tenant's log as this process sees it: its head, its floors, and the newest events.
///
/// Shared by all threads; every lock is held for a moment and never across an await.
#[derive(Debug)]
pub struct TenantLog {
    tenant: TenantId,
    epoch: Epoch,
    /// Number of the event before the first one that this process was given.
    began: u64,
    /// Rises with every run that this process opens.
    run: u64,
    state: Mutex<State>,
    window_bytes: AtomicUsize,
    /// Held while the window is filled from the database; true once that was done.
    pub(super) warm: tokio::sync::Mutex<bool>,
    /// Held while floors are asked for where others raise them; when that was last done.
    pub floors_learned: tokio::sync::Mutex<Option<std::time::Instant>>,
}

static RUNS: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
struct State {
    window: Window,
    floors: Floors,
}

/// What the window can say about a read.
pub(super) enum WindowRead {
    /// Events of the selected topics may have been trimmed.
    Evicted,
    /// These match; everything up to `scanned_to` has been looked at.
    Events { events: Vec<Arc<Event>>, scanned_to: u64 },
    /// The read starts before the window, whose first event follows `before`.
    Older { before: u64 },
}

impl TenantLog {
    pub(super) fn new(tenant: TenantId, epoch: Epoch, head: u64, floors: Floors) -> Self {
        TenantLog {
            tenant,
            epoch,
            began: head,
            run: RUNS.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State { window: Window::at(head), floors }),
            window_bytes: AtomicUsize::new(0),
            warm: tokio::sync::Mutex::new(false),
            floors_learned: tokio::sync::Mutex::default(),
        }
    }

    /// Whose log this is.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Which run of the log this is.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Number of the event before the first one that this process was given of this run.
    pub fn began(&self) -> u64 {
        self.began
    }

    /// Whether this process opened this run after `other`.
    pub fn is_newer_than(&self, other: &TenantLog) -> bool {
        self.run > other.run
    }

    /// The position of the newest event.
    pub fn head(&self) -> Position {
        self.position(self.state().window.head())
    }

    /// The position with number `seq` in this run of the log.
    pub fn position(&self, seq: u64) -> Position {
        Position { epoch: self.epoch, seq }
    }

    /// What a cursor leads to for a connection with these topics, with the head it was judged against.
    pub fn recovery(
        &self,
        cursor: Option<Cursor>,
        selectors: &[Selector],
        now: Timestamp,
    ) -> (Recovery, Position) {
        let state = self.state();
        let head = state.window.head();
        (judge(cursor, (self.epoch, head), &state.floors, (selectors, now)), self.position(head))
    }

    /// Every event after `seq`, at most `limit`; None when the window no longer reaches back that far.
    pub fn after(&self, seq: u64, limit: usize) -> Option<Vec<Arc<Event>>> {
        let state = self.state();
        state.window.covers(seq).then(|| state.window.after(seq, limit))
    }

    pub(super) fn select(
        &self,
        selectors: &[Selector],
        after: u64,
        (limit, now): (PageLimit, Timestamp),
    ) -> WindowRead {
        let state = self.state();
        if state.floors.of(selectors, now) > after {
            return WindowRead::Evicted;
        }
        if !state.window.covers(after) {
            return WindowRead::Older { before: state.window.start() };
        }
        let (events, full) = state.window.select(selectors, after, limit);
        let scanned_to = events.last().filter(|_| full).map_or(state.window.head(), |event| event.seq());
        WindowRead::Events { events, scanned_to }
    }

    /// Whether events of the selected topics after `after` may have been trimmed.
    pub(super) fn is_evicted(&self, selectors: &[Selector], after: u64, now: Timestamp) -> bool {
        self.state().floors.of(selectors, now) > after
    }

    /// Shows committed events; returns the sizes of the window afterwards.
    pub(super) fn push(&self, events: Vec<Event>, budget: &WindowBudget, now: Timestamp) {
        let mut state = self.state();
        for event in events {
            state.window.push(Arc::new(event));
        }
        state.window.shrink(budget, now);
        self.measure(&state);
    }

    /// Puts older events in front of the window; false when not all of them would stay there.
    pub(super) fn extend_back(&self, older: Vec<Event>, budget: &WindowBudget, now: Timestamp) -> bool {
        let mut state = self.state();
        let all = state.window.extend_back(older.into_iter().map(Arc::new).collect(), budget, now);
        self.measure(&state);
        all
    }

    pub(super) fn shrink(&self, budget: &WindowBudget, now: Timestamp) {
        let mut state = self.state();
        state.window.shrink(budget, now);
        self.measure(&state);
    }

    /// Gives up to `count` of the oldest events back.
    pub(super) fn give_back(&self, count: usize) {
        let mut state = self.state();
        for _ in 0..count {
            state.window.pop();
        }
        self.measure(&state);
    }

    /// Raises floors before their events go, so that no reader misses that they went; returns what these are
    /// then, and the one of all topics if that has risen.
    pub(super) fn raise_floors(
        &self,
        floors: &[(Topic, Floor)],
        limit: usize,
    ) -> (Vec<(Topic, Floor)>, Option<u64>) {
        let mut state = self.state();
        (state.floors.raise(floors), state.floors.overflow(limit))
    }

    /// Takes back what a trim raised that may have come to nothing.
    pub(super) fn set_floors(&self, floors: Floors) {
        self.state().floors = floors;
    }

    /// Takes over floors that were read where the log is kept: the one of all topics, and steps by topic
    /// (`seq` or `seq:until`, comma-separated). Floors only rise.
    pub fn learn_floors(&self, all: u64, by_topic: &[(String, String)]) {
        let read = |(topic, steps): &(String, String)| Some((Topic::parse(topic).ok()?, Floor::read(steps)));
        let by_topic: Vec<_> = by_topic.iter().filter_map(read).collect();
        self.state().floors.learn(all, by_topic);
    }

    /// Whether all events after this number are in memory.
    pub fn covers(&self, seq: u64) -> bool {
        self.state().window.covers(seq)
    }

    pub(super) fn trimmed(&self, up_to: u64) {
        let mut state = self.state();
        state.window.drop_up_to(up_to);
        self.measure(&state);
    }

    /// Number of the event before the window's first one.
    pub(super) fn window_start(&self) -> u64 {
        self.state().window.start()
    }

    /// Events and bytes in the window.
    pub(super) fn window_size(&self) -> (usize, usize) {
        (self.state().window.len(), self.window_bytes())
    }

    pub(super) fn window_bytes(&self) -> usize {
        self.window_bytes.load(Ordering::Relaxed)
    }

    fn measure(&self, state: &State) {
        self.window_bytes.store(state.window.bytes(), Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the log is held")
    }
}
