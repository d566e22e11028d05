use std::collections::HashMap;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::append::{Source, to_event, to_volatile};
use super::recovery::Floors;
use super::retention::Retention;
use super::{Joins, LogError, NewEvent, NodeNotice, TenantLog, WindowBudget};
use crate::clock::Clock;
use crate::domain::{Class, Epoch, TenantId, Timestamp};
use crate::settings::Settings;
use crate::storage::{Database, LogRow};
use crate::telemetry::Metrics;
use crate::wire::Event;

/// Told of an entity that has come into being; called from the appender, so it must not block.
pub type TellCreated = Box<dyn Fn(&TenantId, &Event) + Send + Sync>;

/// What others are told in the place of an event that tells only the beginning of it, if that is to be had: the data,
/// as everybody may see it.
pub type TellWhole =
    Box<dyn Fn(&TenantId, &NewEvent) -> Option<BoxFuture<'static, Option<String>>> + Send + Sync>;

/// Told of what the log has taken; called from the appender, so it must not block.
pub trait LogObserver: Send + Sync {
    /// A tenant's log has a new head.
    fn advanced(&self, log: &Arc<TenantLog>);
    /// A tenant's log has started afresh: what was open of it before is over.
    fn renewed(&self, log: &Arc<TenantLog>);
    /// Something of a tenant's log cannot be delivered: its sessions have to come back and reload.
    fn lost(&self, tenant: &TenantId);
    /// Another node says something that is no event.
    fn announced(&self, notice: &NodeNotice);
    /// An event to deliver now or never.
    fn volatile(&self, log: &Arc<TenantLog>, event: Arc<Event>);
}

/// All of them, in order.
impl LogObserver for Vec<Arc<dyn LogObserver>> {
    fn advanced(&self, log: &Arc<TenantLog>) {
        self.iter().for_each(|own| own.advanced(log));
    }

    fn renewed(&self, log: &Arc<TenantLog>) {
        self.iter().for_each(|own| own.renewed(log));
    }

    fn lost(&self, tenant: &TenantId) {
        self.iter().for_each(|own| own.lost(tenant));
    }

    fn announced(&self, notice: &NodeNotice) {
        self.iter().for_each(|own| own.announced(notice));
    }

    fn volatile(&self, log: &Arc<TenantLog>, event: Arc<Event>) {
        self.iter().for_each(|own| own.volatile(log, event.clone()));
    }
}

/// Limits of the log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    pub(super) retention: Retention,
    pub(super) max_trim_floors: usize,
    pub(super) window: WindowBudget,
    pub(super) window_total_bytes: usize,
    pub(super) max_message_bytes: usize,
    pub(super) append_queue: usize,
    pub(super) append_queue_bytes: usize,
    pub(super) relay_batch: usize,
    pub(super) joins: Option<Joins>,
    /// How long to wait for another node to leave the database.
    pub(super) lock_wait: Duration,
}

impl LogOptions {
    /// Most entries of one tenant that are kept for replay.
    pub fn most_entries(&self) -> u64 {
        self.retention.count
    }

    /// How long entries are kept, how many bytes of them, and how many topics have a floor of their own.
    pub fn kept_for(&self) -> (Duration, u64, usize) {
        (self.retention.age, self.retention.bytes, self.max_trim_floors)
    }

    /// Outbox rows that are published at once, at most.
    pub fn relay_batch(&self) -> usize {
        self.relay_batch
    }

    /// The same with outbox rows that go out as one.
    #[must_use]
    pub fn joining(self, joins: Option<Joins>) -> Self {
        LogOptions { joins, ..self }
    }

    /// Which outbox rows go out as one.
    pub fn joins(&self) -> Option<Joins> {
        self.joins
    }

    /// Most bytes of one event's data that the log takes from the outbox.
    pub fn most_message_bytes(&self) -> usize {
        self.max_message_bytes
    }
}

impl From<&Settings> for LogOptions {
    fn from(settings: &Settings) -> Self {
        let log = &settings.log;
        LogOptions {
            retention: Retention {
                count: log.retention_count,
                bytes: log.retention_bytes,
                age: Duration::from_secs(log.retention_s),
            },
            max_trim_floors: log.max_trim_floors,
            window: WindowBudget { count: log.window_count, bytes: log.window_bytes, seconds: log.window_s },
            window_total_bytes: log.window_total_bytes,
            max_message_bytes: log.max_message_bytes,
            append_queue: log.append_queue,
            append_queue_bytes: log.append_queue_bytes,
            relay_batch: log.relay_batch,
            joins: None,
            lock_wait: Duration::from_millis(settings.storage.wait_ms),
        }
    }
}

/// A row with where it comes from, where that is known.
pub(super) type TracedRow = (LogRow, Option<Source>);

/// The log of every tenant as this process sees it: what the handle, the readers and the writer have in common.
pub struct TenantLogs {
    /// Where outbox rows are, and the log itself when it is embedded.
    pub(super) database: Database,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) options: LogOptions,
    pub(super) relay_wake: Notify,
    leader_wake: Notify,
    tenants: RwLock<HashMap<TenantId, Arc<TenantLog>>>,
    observer: Arc<dyn LogObserver>,
    created: OnceLock<TellCreated>,
    whole: OnceLock<TellWhole>,
}

impl TenantLogs {
    /// Without tenants.
    pub fn new(
        database: Database,
        (clock, metrics): (Clock, Arc<Metrics>),
        options: LogOptions,
        observer: Arc<dyn LogObserver>,
    ) -> Arc<Self> {
        let (relay_wake, leader_wake, tenants) = (Notify::new(), Notify::new(), RwLock::default());
        let (created, whole) = (OnceLock::new(), OnceLock::new());
        Arc::new(TenantLogs {
            database,
            clock,
            metrics,
            options,
            relay_wake,
            leader_wake,
            tenants,
            observer,
            created,
            whole,
        })
    }

    /// Whoever is told of new entities; the first counts.
    pub(super) fn on_created(&self, tell: TellCreated) {
        let _ = self.created.set(tell);
    }

    /// Whoever knows what events tell only the beginning of; the first counts.
    pub(super) fn on_whole(&self, tell: TellWhole) {
        let _ = self.whole.set(tell);
    }

    /// What others are told in the place of an event that tells only the beginning of it; None where it tells all, or
    /// where the rest is not to be had.
    pub async fn whole(&self, tenant: &TenantId, event: &NewEvent) -> Option<String> {
        self.whole.get()?(tenant, event)?.await
    }

    /// A domain transaction of this process has committed outbox rows since this was last awaited.
    pub async fn outbox_filled(&self) {
        self.relay_wake.notified().await;
    }

    /// The clock that events are stamped and expire by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Limits of the log.
    pub fn options(&self) -> &LogOptions {
        &self.options
    }

    /// A tenant's log, if it is open.
    pub fn tenant(&self, tenant: &TenantId) -> Option<Arc<TenantLog>> {
        self.tenants.read().expect("no panic while held").get(tenant).cloned()
    }

    pub(super) fn insert(&self, log: TenantLog) -> Arc<TenantLog> {
        let log = Arc::new(log);
        self.tenants.write().expect("no panic while held").insert(log.tenant().clone(), log.clone());
        log
    }

    /// Opens a run of a tenant's log, whose first event here will be the one after `before`; where another run
    /// was open, its sessions are told.
    pub fn begin(&self, tenant: &TenantId, epoch: Epoch, before: u64) -> Arc<TenantLog> {
        let log = Arc::new(TenantLog::new(tenant.clone(), epoch, before, Floors::default()));
        let former = self.tenants.write().expect("no panic while held").insert(tenant.clone(), log.clone());
        if former.is_some() {
            self.observer.renewed(&log);
        }
        log
    }

    /// Something of a tenant's log can no longer be had: its sessions are ended.
    pub fn lose(&self, tenant: &TenantId) {
        self.observer.lost(tenant);
    }

    /// Another node says something that is no event.
    pub fn hear(&self, notice: &NodeNotice) {
        match notice {
            NodeNotice::OutboxFilled => self.leader_wake.notify_one(),
            NodeNotice::TicketReplaced { .. } => self.observer.announced(notice),
        }
    }

    /// Another node has committed outbox rows since this was last awaited.
    pub async fn leader_woken(&self) {
        self.leader_wake.notified().await;
    }

    /// Forgets a tenant's log.
    pub fn end(&self, tenant: &TenantId) {
        self.tenants.write().expect("no panic while held").remove(tenant);
    }

    /// Forgets a tenant's log if nobody has it but this table and the caller; whether it did.
    pub fn end_unused(&self, tenant: &TenantId) -> bool {
        let mut tenants = self.tenants.write().expect("no panic while held");
        let is_unused = tenants.get(tenant).is_none_or(|log| Arc::strong_count(log) <= 2);
        if is_unused {
            tenants.remove(tenant);
        }
        is_unused
    }

    /// The log of every tenant that is open.
    pub fn all(&self) -> Vec<Arc<TenantLog>> {
        self.tenants.read().expect("no panic while held").values().cloned().collect()
    }

    /// Makes committed rows visible to this process.
    pub(super) fn show(&self, log: &Arc<TenantLog>, rows: Vec<TracedRow>) {
        for class in [Class::Durable, Class::Latest] {
            let count = rows.iter().filter(|(row, _)| row.class == class.as_str()).count();
            self.metrics.published(class.as_str(), count as u64);
        }
        let epoch = log.epoch();
        let event = |(row, source): TracedRow| {
            let event = to_event(epoch, row)?;
            Some(match source {
                Some(Source { origin, accepted }) => event.of(origin, accepted),
                None => event,
            })
        };
        self.show_events(log, rows.into_iter().filter_map(event).collect());
    }

    /// Makes the next events of a tenant's log visible to this process.
    ///
    /// # Panics
    /// When they are not the next ones.
    pub fn show_events(&self, log: &Arc<TenantLog>, events: Vec<Event>) {
        for event in &events {
            let (origin, tenant) = (event.origin(), log.tenant());
            tracing::debug!(
                %tenant,
                event_id = event.position().map(tracing::field::display),
                topic = %event.topic(),
                request_id = origin.map(|origin| &*origin.request_id),
                trace_id = origin.map(|origin| tracing::field::display(origin.trace.trace_id())),
                "appended"
            );
        }
        if let Some(tell) = self.created.get() {
            events.iter().filter(|event| event.is_internal()).for_each(|event| tell(log.tenant(), event));
        }
        log.push(events, &self.options.window, self.clock.steady());
        self.metrics.log().head(log.tenant().as_str(), log.head().seq);
        self.keep_total();
        self.observer.advanced(log);
    }

    /// Sends an event to those who listen at this moment.
    pub(super) fn send_volatile(&self, log: &Arc<TenantLog>, event: NewEvent, source: Source) {
        self.metrics.published(Class::Volatile.as_str(), 1);
        let event = to_volatile(event, self.clock.steady()).of(source.origin, source.accepted);
        self.show_volatile(log, event);
    }

    /// The same of one that was published elsewhere.
    pub fn show_volatile(&self, log: &Arc<TenantLog>, event: Event) {
        self.observer.volatile(log, Arc::new(event));
    }

    /// What a request is told that finds no room.
    pub fn overloaded(&self) -> LogError {
        self.metrics.log().refused("overloaded");
        LogError::Overloaded
    }

    /// Tells the metrics what the windows hold, whenever they are read.
    pub(super) fn report_windows(self: &Arc<Self>) {
        let logs = Arc::downgrade(self);
        self.metrics.add_reading(Box::new(move |metrics| {
            let Some(logs) = logs.upgrade() else { return };
            let sizes = logs
                .all()
                .iter()
                .map(|log| log.window_size())
                .fold((0, 0), |sum, own| (sum.0 + own.0, sum.1 + own.1));
            metrics.log().window(sizes.0, sizes.1);
        }));
    }

    /// Takes from every window what has been kept long enough.
    pub fn shrink_windows(&self, now: Timestamp) {
        for log in self.all() {
            log.shrink(&self.options.window, now);
        }
    }

    /// What a window may hold while the others are as large as they are.
    pub(super) fn budget_of(&self, log: &TenantLog) -> WindowBudget {
        let all: usize = self.all().iter().map(|log| log.window_bytes()).sum();
        let room = self.options.window_total_bytes.saturating_sub(all);
        let own = &self.options.window;
        WindowBudget { bytes: own.bytes.min(log.window_bytes() + room), ..*own }
    }

    /// Takes from the largest window while all together exceed their budget.
    fn keep_total(&self) {
        let all = self.all();
        while all.iter().map(|log| log.window_bytes()).sum::<usize>() > self.options.window_total_bytes {
            let Some(largest) = all.iter().max_by_key(|log| log.window_bytes()) else {
                return;
            };
            largest.give_back(64);
        }
    }
}
