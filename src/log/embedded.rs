use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::append::{Source, to_event};
use super::appender::{Appender, Job};
use super::head_file::{Head, HeadFile, is_restored};
use super::home::{LogHome, NodeNotice, StoredPage};
use super::load::Load;
use super::recovery::Floors;
use super::tenant_logs::{LogObserver, LogOptions, TenantLogs};
use super::{AppendRequest, Appended, LogError, NewEvent, PageLimit, TenantLog};
use crate::actor_kit::{Counted, Mailbox};
use crate::clock::{Clock, random_u64};
use crate::domain::{Cursor, Epoch, Position, Selector, TenantId};
use crate::storage::{
    Database, FloorRow, LogLock, LogRow, LogTx, LogWriter, OutboxRow, StoreError, TenantRow,
};
use crate::telemetry::Metrics;
use crate::wire::Event;

/// What is read at once when a cold window is filled.
const WARM_PAGE: PageLimit = PageLimit { events: 100, bytes: 1 << 20 };

/// The log in the tables of the database, written by this process alone.
pub(super) struct Embedded {
    logs: Arc<TenantLogs>,
    jobs: mpsc::Sender<Counted<Job>>,
    mailbox: Arc<Mailbox>,
    /// Keeps other nodes from the database.
    _lock: Option<LogLock>,
}

impl Embedded {
    /// Loads what is stored and starts the appender; must run on the storage runtime.
    ///
    /// A database that was restored from a backup, or `new_epoch`, starts every log afresh.
    pub async fn start(
        database: Database,
        (data_dir, new_epoch): (&Path, bool),
        (clock, metrics): (Clock, Arc<Metrics>),
        options: LogOptions,
        observer: Arc<dyn LogObserver>,
    ) -> Result<(Arc<TenantLogs>, Self), StoreError> {
        let file_error = |error: std::io::Error| StoreError::Unavailable(format!("log.head: {error}"));
        let mut head_file = HeadFile::open(data_dir).map_err(file_error)?;
        let file_head = head_file.read().map_err(file_error)?;
        let lock = database.lock_log(options.lock_wait).await?;
        let writer = LogWriter::new(database.clone(), &format!("{:016x}", random_u64()));
        let holder = writer.holder().to_owned();
        let start = move |tx: &mut LogTx<'_>| load(tx, &holder, file_head.as_ref(), new_epoch);
        let loaded = database.patient_log_transaction(start).await?;
        writer.saw(loaded.head.number);
        head_file.write(&loaded.head).map_err(file_error)?;
        let logs = TenantLogs::new(database, (clock, metrics), options, observer);
        for (row, floors) in &loaded.tenants {
            let (Ok(tenant), Ok(epoch)) = (TenantId::parse(&row.tenant), row.epoch.parse()) else {
                return Err(StoreError::Unexpected(format!("log of tenant {:?}", row.tenant)));
            };
            let floors = Floors::stored(row, floors.clone());
            logs.insert(TenantLog::new(tenant, epoch, row.head as u64, floors));
        }
        let (jobs, receiver) = mpsc::channel(options.append_queue);
        let mailbox = Mailbox::new(options.append_queue, logs.metrics.mailboxes("appender"));
        let tenants = loaded.tenants.into_iter().map(|(row, _)| row).collect();
        let waiting = (receiver, mailbox.clone());
        let appender =
            Appender::new(logs.clone(), waiting, (writer, head_file, loaded.head.instance), tenants);
        Handle::current().spawn(appender.run());
        Ok((logs.clone(), Embedded { logs, jobs, mailbox, _lock: lock }))
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, LogError> {
        let (reply, answer) = oneshot::channel();
        let job = self.mailbox.admit(job(reply)).map_err(|_| self.logs.overloaded())?;
        // what is admitted has room
        self.jobs.try_send(job).map_err(|_| LogError::Unavailable("the log has stopped".into()))?;
        answer.await.map_err(|_| LogError::Unavailable("the log has stopped".into()))
    }

    async fn open(&self, tenant: &TenantId) -> Result<Arc<TenantLog>, LogError> {
        if let Some(log) = self.logs.tenant(tenant).filter(|_| self.is_running()) {
            return Ok(log);
        }
        self.ask(|reply| Job::Open { tenant: tenant.clone(), reply }).await?
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
        self.logs.database.run(read).await
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
        self.logs.database.run(read).await
    }
}

fn unavailable(error: StoreError) -> LogError {
    LogError::Unavailable(error.to_string())
}

impl LogHome for Embedded {
    fn open<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<Arc<TenantLog>, LogError>> {
        Embedded::open(self, tenant).boxed()
    }

    fn open_at<'a>(
        &'a self,
        tenant: &'a TenantId,
        _: Option<Cursor>,
    ) -> BoxFuture<'a, Result<Arc<TenantLog>, LogError>> {
        // the only writer knows the head and every floor
        Embedded::open(self, tenant).boxed()
    }

    fn learn_floors<'a>(&'a self, _: &'a Arc<TenantLog>) -> BoxFuture<'a, Result<(), LogError>> {
        // the only trimmer is this process
        async { Ok(()) }.boxed()
    }

    fn append(
        &self,
        request: AppendRequest,
        source: Source,
        load: Load,
    ) -> BoxFuture<'_, Result<(Epoch, Vec<Appended>), LogError>> {
        let append = async move {
            let tenant = request.tenant.clone();
            let appended = self.ask(|reply| Job::Append { request, source, load, reply }).await??;
            let log = self.open(&tenant).await?;
            Ok((log.epoch(), appended))
        };
        append.boxed()
    }

    fn hasten(&self, _: OutboxRow, _: Load) -> BoxFuture<'_, ()> {
        // this process alone judges its sessions, by what it has stored
        async {}.boxed()
    }

    fn volatile(
        &self,
        tenant: TenantId,
        event: NewEvent,
        source: Source,
        _: Load,
    ) -> BoxFuture<'_, Result<(), LogError>> {
        let send = async move {
            let log = self.open(&tenant).await?;
            self.logs.send_volatile(&log, event, source);
            Ok(())
        };
        send.boxed()
    }

    fn read<'a>(
        &'a self,
        log: &'a Arc<TenantLog>,
        selectors: &'a [Selector],
        span: (u64, u64),
        limit: PageLimit,
    ) -> BoxFuture<'a, Result<StoredPage, LogError>> {
        let read = async move {
            let page = self.rows_between(log.tenant(), selectors, span, limit).await;
            let (rows, scanned_to) = page.map_err(unavailable)?;
            let events = rows.into_iter().filter_map(|row| to_event(log.epoch(), row)).collect();
            Ok(StoredPage { events, scanned_to })
        };
        read.boxed()
    }

    fn newest<'a>(
        &'a self,
        log: &'a Arc<TenantLog>,
        up_to: u64,
    ) -> BoxFuture<'a, Result<Vec<Event>, LogError>> {
        let read = async move {
            let rows = self.rows_up_to(log.tenant(), up_to).await.map_err(unavailable)?;
            Ok(rows.into_iter().filter_map(|row| to_event(log.epoch(), row)).collect())
        };
        read.boxed()
    }

    fn top<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<Position, LogError>> {
        async move { Ok(self.open(tenant).await?.head()) }.boxed()
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn announce(&self, _: NodeNotice) {
        // there is no other node
    }

    fn is_running(&self) -> bool {
        !self.jobs.is_closed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        // an appender that is gone has nothing left to do
        async move { drop(self.ask(|reply| Job::Stop { reply }).await) }.boxed()
    }
}

struct Loaded {
    head: Head,
    tenants: Vec<(TenantRow, Vec<FloorRow>)>,
}

fn load(
    tx: &mut LogTx<'_>,
    holder: &str,
    file: Option<&Head>,
    new_epoch: bool,
) -> Result<Loaded, StoreError> {
    let stored = tx.take_over(holder)?.map(|(instance, number)| Head { instance, number });
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
            tx.create_commit(&head.instance, holder)?;
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
