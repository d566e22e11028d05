use std::path::Path;
use std::sync::Arc;

use super::append::Source;
use super::embedded::Embedded;
use super::home::{LogHome, NodeNotice};
use super::load::Loads;
use super::tenant_log::WindowRead;
use super::tenant_logs::{LogObserver, LogOptions, TellCreated, TellWhole, TenantLogs};
use super::{AppendRequest, Appended, LogError, NewEvent, Page, PageLimit, TenantLog};
use crate::actor_kit::InFlightKeys;
use crate::clock::Clock;
use crate::domain::{Cursor, Epoch, Position, Selector, TenantId};
use crate::storage::{Database, OutboxRow, StoreError};
use crate::telemetry::Metrics;
use crate::wire::Event;

/// Entries of the store that one page of a replay looks at, at most.
const SPAN: u64 = 4096;

/// A shared handle to the event log of every tenant.
#[derive(Clone)]
pub struct EventLog {
    logs: Arc<TenantLogs>,
    home: Arc<dyn LogHome>,
    in_flight: InFlightKeys,
    loads: Loads,
}

impl EventLog {
    /// The log in the tables of the database, written by this process alone; must run on the storage runtime.
    ///
    /// A database that was restored from a backup, or `new_epoch`, starts every log afresh.
    pub async fn embedded(
        database: Database,
        place: (&Path, bool),
        means: (Clock, Arc<Metrics>),
        options: LogOptions,
        observer: Arc<dyn LogObserver>,
    ) -> Result<Self, StoreError> {
        let (logs, home) = Embedded::start(database, place, means, options, observer).await?;
        Ok(EventLog::kept_by(logs, Arc::new(home)))
    }

    /// A log that is kept elsewhere; `home` brings whatever it numbers to `logs`.
    pub fn kept_by(logs: Arc<TenantLogs>, home: Arc<dyn LogHome>) -> Self {
        logs.report_windows();
        let loads = Loads::new(logs.options.append_queue_bytes);
        EventLog { logs, home, in_flight: InFlightKeys::default(), loads }
    }

    /// The clock that events are stamped and expire by.
    pub fn clock(&self) -> Clock {
        self.logs.clock
    }

    /// A tenant's log, made on first use.
    pub async fn open(&self, tenant: &TenantId) -> Result<Arc<TenantLog>, LogError> {
        self.home.open(tenant).await
    }

    /// The same, with whatever has to be known of it to judge this cursor.
    pub async fn open_at(
        &self,
        tenant: &TenantId,
        cursor: Option<Cursor>,
    ) -> Result<Arc<TenantLog>, LogError> {
        loop {
            let log = self.open_run_at(tenant, cursor).await?;
            // it may have started afresh, or been given up, meanwhile
            if self.present(tenant).is_some_and(|present| Arc::ptr_eq(&present, &log)) {
                return Ok(log);
            }
        }
    }

    async fn open_run_at(
        &self,
        tenant: &TenantId,
        cursor: Option<Cursor>,
    ) -> Result<Arc<TenantLog>, LogError> {
        let log = self.home.open_at(tenant, cursor).await?;
        if let Some(Cursor::At(position)) = cursor
            && position.epoch == log.epoch()
            && !log.covers(position.seq)
        {
            self.warm(&log).await?;
            if !log.covers(position.seq) {
                self.home.learn_floors(&log).await?;
            }
        }
        Ok(log)
    }

    /// The present run of a tenant's log, if it is open.
    pub fn present(&self, tenant: &TenantId) -> Option<Arc<TenantLog>> {
        self.logs.tenant(tenant)
    }

    /// The newest position of all that was ever acknowledged.
    ///
    /// While the log cannot be asked: the newest that this node has heard of, from which on nothing is missed
    /// either.
    pub async fn top(&self, tenant: &TenantId) -> Result<Position, LogError> {
        let top = self.home.top(tenant).await;
        top.or_else(|error| self.present(tenant).map(|log| log.head()).ok_or(error))
    }

    /// Whether other nodes write to the log, too.
    pub fn is_shared(&self) -> bool {
        self.home.is_shared()
    }

    /// Tells the other nodes something that is no event.
    pub fn announce(&self, notice: NodeNotice) {
        self.home.announce(notice);
    }

    /// Appends; nothing is delivered, and nothing answered, before it is committed. The outcome of each
    /// group, and the run of the log that their numbers belong to.
    ///
    /// May be abandoned at any await: what was handed over is carried out all the same.
    pub async fn append(&self, request: AppendRequest) -> Result<(Epoch, Vec<Appended>), LogError> {
        let _in_flight = match &request.idempotency {
            Some(own) => {
                let key = format!("{}\n{}\n{}", request.tenant, own.principal, own.key);
                Some(self.in_flight.enter(key).ok_or(LogError::InProgress)?)
            }
            None => None,
        };
        let load = self.loads.enter(request.held_bytes()).ok_or_else(|| self.logs.overloaded())?;
        self.home.append(request, Source::current(), load).await
    }

    /// Delivers to the sessions of this moment; waits, and may fail, only where the tenant's log has to be
    /// made first, or events go by way of other nodes.
    pub async fn publish_volatile(&self, tenant: &TenantId, event: NewEvent) -> Result<(), LogError> {
        let load = self.loads.enter(event.bytes()).ok_or_else(|| self.logs.overloaded())?;
        self.home.volatile(tenant.clone(), event, Source::current(), load).await
    }

    /// Whether the log takes requests at this moment.
    pub fn is_running(&self) -> bool {
        self.home.is_running()
    }

    /// From now on, whoever is told of new entities here is told before anybody can read the entry that says so.
    pub fn on_created(&self, tell: TellCreated) {
        self.logs.on_created(tell);
    }

    /// From now on, whoever is told of events that tell only the beginning of something outside this system is told
    /// all of it.
    pub fn on_whole(&self, tell: TellWhole) {
        self.logs.on_whole(tell);
    }

    /// A domain transaction has committed outbox rows.
    pub fn wake_relay(&self) {
        self.logs.relay_wake.notify_one();
    }

    /// Publishes a committed outbox row ahead of its turn, so that nothing that is asked for after this returns
    /// comes before it in the log.
    pub async fn hasten(&self, row: OutboxRow) {
        if let Some(load) = self.loads.enter(row.data.len()) {
            self.home.hasten(row, load).await;
        }
    }

    /// Appends what waits and ends.
    pub async fn stop(&self) {
        self.home.stop().await;
    }

    /// The next events of the selected topics after `after`.
    pub async fn read(
        &self,
        log: &Arc<TenantLog>,
        selectors: &Arc<[Selector]>,
        after: u64,
        limit: PageLimit,
    ) -> Result<Page, LogError> {
        let now = self.logs.clock.steady();
        let before = match log.select(selectors, after, (limit, now)) {
            WindowRead::Older { .. } => {
                self.warm(log).await?;
                log.select(selectors, after, (limit, now))
            }
            read => read,
        };
        match before {
            WindowRead::Evicted => Ok(Page::Evicted),
            WindowRead::Events { events, scanned_to } => {
                Ok(Page::Events { events: self.unexpired(events), scanned_to })
            }
            WindowRead::Older { before } => {
                self.read_store(log, selectors, (after, before.min(after + SPAN)), limit).await
            }
        }
    }

    async fn read_store(
        &self,
        log: &Arc<TenantLog>,
        selectors: &Arc<[Selector]>,
        (after, up_to): (u64, u64),
        limit: PageLimit,
    ) -> Result<Page, LogError> {
        self.logs.metrics.log().store_read();
        let stored = self.home.read(log, selectors, (after, up_to), limit).await?;
        // trimming raises the floors first, so looking afterwards misses nothing that went meanwhile
        if log.is_evicted(selectors, after, self.logs.clock.steady()) {
            return Ok(Page::Evicted);
        }
        let events = stored.events.into_iter().map(Arc::new);
        let selected =
            events.filter(|event| selectors.iter().any(|selector| selector.matches(event.topic())));
        Ok(Page::Events { events: self.unexpired(selected.collect()), scanned_to: stored.scanned_to })
    }

    /// Fills a cold window once, however many ask for it: backwards, until something would not stay in it.
    ///
    /// What a commit's shrinking would take away again is not put in, so that this ends however fast
    /// others publish.
    async fn warm(&self, log: &Arc<TenantLog>) -> Result<(), LogError> {
        let mut warm = log.warm.lock().await;
        while !*warm {
            let older = self.home.newest(log, log.window_start()).await?;
            let is_last = older.is_empty();
            let (budget, now) = (self.logs.budget_of(log), self.logs.clock.steady());
            *warm = !log.extend_back(older, &budget, now) || is_last;
        }
        Ok(())
    }

    fn unexpired(&self, mut events: Vec<Arc<Event>>) -> Vec<Arc<Event>> {
        let now = self.logs.clock.steady();
        let before = events.len();
        events.retain(|event| !event.is_expired(now));
        if events.len() < before {
            self.logs.metrics.dropped("expired").inc_by((before - events.len()) as u64);
        }
        events
    }
}
