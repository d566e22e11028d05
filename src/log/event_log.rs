use std::path::Path;
use std::sync::{Arc, RwLock};

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};

use super::append::{Source, to_event};
use super::appender::{Appender, Job};
use super::head_file::{Head, HeadFile, is_restored};
use super::load::Loads;
use super::recovery::Floors;
use super::shared::{LogObserver, LogOptions, Shared};
use super::tenant_log::WindowRead;
use super::{AppendRequest, Appended, LogError, NewEvent, Page, PageLimit, TenantLog};
use crate::actor_kit::{Counted, InFlightKeys, Mailbox};
use crate::clock::{Clock, random_u64};
use crate::domain::{Selector, TenantId};
use crate::storage::{Database, FloorRow, LogRow, LogTx, StoreError, TenantRow};
use crate::telemetry::Metrics;
use crate::wire::Event;

/// Entries of the database that one page of a replay looks at, at most.
const SPAN: u64 = 4096;
/// What is read at once when a cold window is filled.
const WARM_PAGE: PageLimit = PageLimit { events: 100, bytes: 1 << 20 };

/// A shared handle to the event log of every tenant.
#[derive(Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Counted<Job>>,
    mailbox: Arc<Mailbox>,
    in_flight: InFlightKeys,
    loads: Loads,
}

impl EventLog {
    /// Loads what is stored and starts the appender; must run on the storage runtime.
    ///
    /// A database that was restored from a backup, or `new_epoch`, starts every log afresh.
    pub async fn start(
        database: Database,
        (data_dir, new_epoch): (&Path, bool),
        (clock, metrics): (Clock, Arc<Metrics>),
        options: LogOptions,
        observer: Arc<dyn LogObserver>,
    ) -> Result<Self, StoreError> {
        let file_error = |error: std::io::Error| StoreError::Unavailable(format!("log.head: {error}"));
        let mut head_file = HeadFile::open(data_dir).map_err(file_error)?;
        let file_head = head_file.read().map_err(file_error)?;
        let loaded = database.log_transaction(move |tx| load(tx, file_head.as_ref(), new_epoch)).await?;
        head_file.write(&loaded.head).map_err(file_error)?;
        let relay_wake = Notify::new();
        let shared = Arc::new(Shared {
            database,
            clock,
            metrics,
            options,
            relay_wake,
            tenants: RwLock::default(),
            observer,
        });
        for (row, floors) in &loaded.tenants {
            let (Ok(tenant), Ok(epoch)) = (TenantId::parse(&row.tenant), row.epoch.parse()) else {
                return Err(StoreError::Unexpected(format!("log of tenant {:?}", row.tenant)));
            };
            let floors = Floors::stored(row, floors.clone());
            shared.insert(TenantLog::new(tenant, epoch, row.head as u64, floors));
        }
        let (jobs, receiver) = mpsc::channel(options.append_queue);
        let mailbox = Mailbox::new(options.append_queue, shared.metrics.mailboxes("appender"));
        let tenants = loaded.tenants.into_iter().map(|(row, _)| row).collect();
        let appender = Appender::new(
            shared.clone(),
            (receiver, mailbox.clone()),
            head_file,
            loaded.head.instance,
            tenants,
        );
        Handle::current().spawn(appender.run());
        let loads = Loads::new(options.append_queue_bytes);
        let log = EventLog { shared, jobs, mailbox, in_flight: InFlightKeys::default(), loads };
        log.report_windows();
        Ok(log)
    }

    fn report_windows(&self) {
        let shared = Arc::downgrade(&self.shared);
        self.shared.metrics.add_reading(Box::new(move |metrics| {
            let Some(shared) = shared.upgrade() else { return };
            let sizes = shared
                .all()
                .iter()
                .map(|log| log.window_size())
                .fold((0, 0), |sum, own| (sum.0 + own.0, sum.1 + own.1));
            metrics.window(sizes.0, sizes.1);
        }));
    }

    /// The clock that events are stamped and expire by.
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// A tenant's log, made on first use.
    pub async fn open(&self, tenant: &TenantId) -> Result<Arc<TenantLog>, LogError> {
        if let Some(log) = self.shared.tenant(tenant) {
            return Ok(log);
        }
        self.ask(|reply| Job::Open { tenant: tenant.clone(), reply }).await?
    }

    /// Appends; nothing is delivered, and nothing answered, before it is committed.
    ///
    /// May be abandoned at any await: what was handed over is carried out all the same.
    pub async fn append(&self, request: AppendRequest) -> Result<Vec<Appended>, LogError> {
        let _in_flight = match &request.idempotency {
            Some(own) => {
                let key = format!("{}\n{}\n{}", request.tenant, own.principal, own.key);
                Some(self.in_flight.enter(key).ok_or(LogError::InProgress)?)
            }
            None => None,
        };
        let load = self.loads.enter(request.held_bytes()).ok_or_else(|| self.overloaded())?;
        let source = Source::current();
        self.ask(|reply| Job::Append { request, source, load, reply }).await?
    }

    /// Delivers to the sessions of this moment; waits, and may fail, only where the tenant's log has to be
    /// made first.
    pub async fn publish_volatile(&self, tenant: &TenantId, event: NewEvent) -> Result<(), LogError> {
        let source = Source::current();
        let log = self.open(tenant).await?;
        self.shared.send_volatile(&log, event, source);
        Ok(())
    }

    /// Whether the appender still takes requests.
    pub fn is_running(&self) -> bool {
        !self.jobs.is_closed()
    }

    /// A domain transaction has committed outbox rows.
    pub fn wake_relay(&self) {
        self.shared.relay_wake.notify_one();
    }

    /// Appends what waits, outbox rows included, and ends the appender.
    pub async fn stop(&self) {
        // an appender that is gone has nothing left to do
        let _ = self.ask(|reply| Job::Stop { reply }).await;
    }

    /// The next events of the selected topics after `after`.
    pub async fn read(
        &self,
        log: &Arc<TenantLog>,
        selectors: &Arc<[Selector]>,
        after: u64,
        limit: PageLimit,
    ) -> Result<Page, LogError> {
        let now = self.shared.clock.steady();
        let before = match log.select(selectors, after, (limit, now)) {
            WindowRead::Older { .. } => match self.warm(log).await {
                Ok(()) => log.select(selectors, after, (limit, now)),
                Err(error) => return Err(LogError::Unavailable(error.to_string())),
            },
            read => read,
        };
        match before {
            WindowRead::Evicted => Ok(Page::Evicted),
            WindowRead::Events { events, scanned_to } => {
                Ok(Page::Events { events: self.unexpired(events), scanned_to })
            }
            WindowRead::Older { before } => {
                let span = (after, before.min(after + SPAN));
                let page = self.read_store(log, selectors, span, limit).await;
                page.map_err(|error| LogError::Unavailable(error.to_string()))
            }
        }
    }

    async fn read_store(
        &self,
        log: &Arc<TenantLog>,
        selectors: &Arc<[Selector]>,
        (after, up_to): (u64, u64),
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        self.shared.metrics.log_store_read();
        let (rows, scanned_to) = self.rows_between(log.tenant(), selectors, (after, up_to), limit).await?;
        // trimming raises the floors first, so looking afterwards misses nothing that went meanwhile
        if log.is_evicted(selectors, after, self.shared.clock.steady()) {
            return Ok(Page::Evicted);
        }
        let epoch = log.head().epoch;
        let events = rows.into_iter().filter_map(|row| to_event(epoch, row).map(Arc::new));
        let selected =
            events.filter(|event| selectors.iter().any(|selector| selector.matches(event.topic())));
        Ok(Page::Events { events: self.unexpired(selected.collect()), scanned_to })
    }

    /// The rows of a page, and up to where it reaches; larger ones than fit are not even read.
    async fn rows_between(
        &self,
        tenant: &TenantId,
        selectors: &[Selector],
        (after, up_to): (u64, u64),
        limit: PageLimit,
    ) -> Result<(Vec<LogRow>, u64), StoreError> {
        let exact = selectors.iter().map(|selector| match selector {
            Selector::Topic(topic) => Some(topic.as_str().to_owned()),
            Selector::Prefix { .. } => None,
        });
        let topics: Option<Vec<String>> = exact.collect();
        let (tenant, span) = (tenant.as_str().to_owned(), (after as i64, up_to as i64));
        let read = move |db: Database| async move {
            crate::read!(db, |conn, q| {
                let most = limit.events as i64;
                let sizes = match &topics {
                    Some(topics) => q::log::sizes_by_topics(conn, &tenant, topics, span, most).await?,
                    None => q::log::sizes(conn, &tenant, span, most).await?,
                };
                let taken = limit.take(sizes.iter().map(|(_, bytes)| *bytes as usize));
                let full = taken < sizes.len() || taken == limit.events;
                let seqs: Vec<i64> = sizes[..taken].iter().map(|(seq, _)| *seq).collect();
                let reached = seqs.last().filter(|_| full).map_or(up_to, |seq| *seq as u64);
                Ok((q::log::entries(conn, &tenant, seqs).await?, reached))
            })
        };
        self.shared.database.run(read).await
    }

    /// Fills a cold window once, however many ask for it: backwards, until something would not stay in it.
    ///
    /// What a commit's shrinking would take away again is not put in, so that this ends however fast
    /// others publish.
    async fn warm(&self, log: &Arc<TenantLog>) -> Result<(), StoreError> {
        let mut warm = log.warm.lock().await;
        while !*warm {
            let rows = self.rows_up_to(log.tenant(), log.window_start()).await?;
            let (epoch, is_last) = (log.head().epoch, rows.is_empty());
            let older = rows.into_iter().filter_map(|row| to_event(epoch, row)).collect();
            let (budget, now) = (self.shared.budget_of(log), self.shared.clock.steady());
            *warm = !log.extend_back(older, &budget, now) || is_last;
        }
        Ok(())
    }

    /// The newest rows up to this number, a page of them, in order.
    async fn rows_up_to(&self, tenant: &TenantId, up_to: u64) -> Result<Vec<LogRow>, StoreError> {
        let (tenant, up_to) = (tenant.as_str().to_owned(), up_to as i64);
        let read = move |db: Database| async move {
            crate::read!(db, |conn, q| {
                let sizes = q::log::newest_sizes(conn, &tenant, up_to, WARM_PAGE.events as i64).await?;
                let taken = WARM_PAGE.take(sizes.iter().map(|(_, bytes)| *bytes as usize));
                let seqs = sizes[..taken].iter().map(|(seq, _)| *seq).collect();
                Ok(q::log::entries(conn, &tenant, seqs).await?)
            })
        };
        self.shared.database.run(read).await
    }

    fn unexpired(&self, mut events: Vec<Arc<Event>>) -> Vec<Arc<Event>> {
        let now = self.shared.clock.steady();
        let before = events.len();
        events.retain(|event| !event.is_expired(now));
        if events.len() < before {
            self.shared.metrics.dropped("expired").inc_by((before - events.len()) as u64);
        }
        events
    }

    fn overloaded(&self) -> LogError {
        self.shared.metrics.log_refused("overloaded");
        LogError::Overloaded
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, LogError> {
        let (reply, answer) = oneshot::channel();
        let job = self.mailbox.admit(job(reply)).map_err(|_| self.overloaded())?;
        // what is admitted has room
        self.jobs.try_send(job).map_err(|_| LogError::Unavailable("the log has stopped".into()))?;
        answer.await.map_err(|_| LogError::Unavailable("the log has stopped".into()))
    }
}

struct Loaded {
    head: Head,
    tenants: Vec<(TenantRow, Vec<FloorRow>)>,
}

fn load(tx: &mut LogTx<'_>, file: Option<&Head>, new_epoch: bool) -> Result<Loaded, StoreError> {
    let stored = tx.commit()?.map(|(instance, number)| Head { instance, number });
    let restored = stored.as_ref().is_some_and(|stored| is_restored(stored, file));
    if restored {
        tracing::warn!(
            "the database is older than log.head: a restored backup; every log starts a new epoch"
        );
    }
    let head = match stored {
        Some(stored) if !restored && !new_epoch => stored,
        _ => {
            tx.forget_everything()?;
            let head = Head { instance: format!("{:016x}", random_u64()), number: 0 };
            tx.create_commit(&head.instance)?;
            head
        }
    };
    let mut tenants = Vec::new();
    for row in tx.tenants()? {
        let floors = tx.floors(&row.tenant)?;
        tenants.push((row, floors));
    }
    Ok(Loaded { head, tenants })
}
