//! The single writer of the embedded log.
//!
//! ```text
//! publishes ──┐                      ┌─► windows ─► workers
//! outbox rows ┴─► one transaction ───┼─► log.head (before anybody sees anything)
//!                                    └─► answers
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::append::Source;
use super::batch::{Batch, Committed, Relay, new_tenant};
use super::head_file::{Head, HeadFile};
use super::joining::Joining;
use super::load::Load;
use super::outbox_watch::watch_outbox;
use super::recovery::Floors;
use super::retention::Retention;
use super::tenant_logs::{TenantLogs, TracedRow};
use super::{AppendRequest, Appended, LogError, TenantLog};
use crate::actor_kit::{Counted, Mailbox};
use crate::domain::{Epoch, TenantId};
use crate::storage::{LogWriter, StoreError, TenantRow};
use crate::telemetry::crash_point;

/// Requests and outbox rows gathered into one transaction at most.
const BATCH: usize = 1024;
/// Bytes gathered into one transaction, unless a single request has more.
const BATCH_BYTES: usize = 16 << 20;
/// A commit wakes the relay at most once in this time.
const RELAY_SPACING: Duration = Duration::from_millis(5);
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

pub(super) enum Job {
    Append {
        request: AppendRequest,
        source: Source,
        load: Load,
        reply: oneshot::Sender<Result<Vec<Appended>, LogError>>,
    },
    Open {
        tenant: TenantId,
        reply: oneshot::Sender<Result<Arc<TenantLog>, LogError>>,
    },
    Stop {
        reply: oneshot::Sender<()>,
    },
}

impl Job {
    /// What it takes in the log.
    fn bytes(&self) -> usize {
        match self {
            Job::Append { request, .. } => request.bytes(),
            Job::Open { .. } | Job::Stop { .. } => 0,
        }
    }
}

pub(super) struct Appender {
    pub(super) logs: Arc<TenantLogs>,
    jobs: mpsc::Receiver<Counted<Job>>,
    mailbox: Arc<Mailbox>,
    pub(super) writer: LogWriter,
    head_file: HeadFile,
    instance: String,
    /// The logs as last committed.
    pub(super) tenants: Arc<HashMap<TenantId, TenantRow>>,
    /// When the oldest entry of a tenant was appended, where known.
    pub(super) oldest_at: HashMap<TenantId, i64>,
    /// Whose logs have something to trim; a batch of one at a time, between commits.
    pub(super) trimming: VecDeque<TenantId>,
    pub(super) retention: Retention,
    joining: Arc<Mutex<Joining>>,
    /// Set when a commit's outcome is unknown: what is stored decides.
    pub(super) in_doubt: bool,
}

impl Appender {
    pub fn new(
        logs: Arc<TenantLogs>,
        (jobs, mailbox): (mpsc::Receiver<Counted<Job>>, Arc<Mailbox>),
        (writer, head_file, instance): (LogWriter, HeadFile, String),
        tenants: Vec<TenantRow>,
    ) -> Self {
        let retention = logs.options.retention;
        let tenants =
            tenants.into_iter().filter_map(|row| Some((TenantId::parse(&row.tenant).ok()?, row))).collect();
        let tenants = Arc::new(tenants);
        let joining = Arc::new(Mutex::new(Joining::new(logs.options.joins)));
        Appender {
            logs,
            jobs,
            mailbox,
            writer,
            head_file,
            instance,
            tenants,
            oldest_at: HashMap::new(),
            trimming: VecDeque::new(),
            retention,
            joining,
            in_doubt: false,
        }
    }

    /// Works until told to stop; what waits by then is still appended.
    pub async fn run(mut self) {
        // dropped, and so ended, with this future
        let mut watching = JoinSet::new();
        watching.spawn(watch_outbox(self.logs.clone()));
        let mut trim = tokio::time::interval(TRIM_INTERVAL);
        // where the store is away, trims that wait for it in vain do not come one after the other
        trim.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut relay_at: Option<tokio::time::Instant> = None;
        let mut last_relay = tokio::time::Instant::now() - RELAY_SPACING;
        while !self.writer.is_lost() {
            if self.writer.has_gone_back()
                && let Err(error) = self.renew().await
            {
                tracing::error!(%error, "the event log could not be begun anew");
            }
            let mut jobs = Vec::new();
            let mut relay = false;
            tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => jobs.push(job.open()),
                    None => return,
                },
                () = self.logs.relay_wake.notified() => {
                    let soon = last_relay + RELAY_SPACING;
                    relay_at = Some(relay_at.map_or(soon, |at| at.min(soon)));
                    continue;
                }
                () = sleep_until(relay_at) => relay = true,
                _ = trim.tick() => {
                    self.look_for_trims().await;
                    continue;
                }
                // as likely as what else is ready: neither waits long for the other
                () = std::future::ready(()), if !self.trimming.is_empty() => {
                    self.trim_some().await;
                    continue;
                }
            }
            relay |= relay_at.is_some_and(|at| at <= tokio::time::Instant::now());
            let mut bytes: usize = jobs.iter().map(Job::bytes).sum();
            while jobs.len() < BATCH
                && bytes < BATCH_BYTES
                && let Ok(job) = self.jobs.try_recv()
            {
                let job = job.open();
                bytes += job.bytes();
                jobs.push(job);
            }
            let started = Instant::now();
            let (stops, again) = self.serve(jobs, relay).await;
            self.mailbox.handled(started);
            if relay {
                last_relay = tokio::time::Instant::now();
                relay_at = again.map(|at| last_relay.max(at.into()));
            }
            if !stops.is_empty() {
                while matches!(
                    self.commit(Vec::new(), Relay::All(self.relay_batch())).await,
                    Ok((_, Some(_)))
                ) {}
                for stop in stops {
                    // whoever asked has given up waiting
                    let _ = stop.send(());
                }
                return;
            }
        }
        self.give_up();
    }

    /// Another process numbers the log now: whoever listens here has to go there.
    fn give_up(&self) {
        tracing::error!(error = %StoreError::TakenOver, "the event log is served no longer");
        self.logs.all().iter().for_each(|log| self.logs.lose(log.tenant()));
    }

    /// Carries out a batch, with outbox rows where `relay` says so; who asked to stop is for the caller.
    async fn serve(&mut self, jobs: Vec<Job>, relay: bool) -> (Vec<oneshot::Sender<()>>, Option<Instant>) {
        let (mut requests, mut replies, mut stops) = (Vec::new(), Vec::new(), Vec::new());
        for job in jobs {
            match job {
                Job::Append { request, source, load, reply } => {
                    requests.push((request, source));
                    replies.push((reply, load));
                }
                Job::Open { tenant, reply } => {
                    let opened = self.open(tenant).await;
                    // an answer nobody waits for any more is no loss
                    let _ = reply.send(opened.map_err(|error| LogError::Unavailable(error.to_string())));
                }
                Job::Stop { reply } => stops.push(reply),
            }
        }
        if requests.is_empty() && !relay {
            return (stops, None);
        }
        let relay = if relay { Relay::Due(self.relay_batch()) } else { Relay::None };
        match self.commit(requests, relay).await {
            Ok((answers, relay_again)) => {
                for ((reply, load), answer) in replies.into_iter().zip(answers) {
                    // whoever publishes again when answered finds the room
                    drop(load);
                    drop(reply.send(answer));
                }
                (stops, relay_again)
            }
            Err(error) => {
                let error = LogError::Unavailable(error.to_string());
                replies.into_iter().for_each(|(reply, _)| drop(reply.send(Err(error.clone()))));
                (stops, None)
            }
        }
    }

    fn relay_batch(&self) -> i64 {
        self.logs.options.relay_batch as i64
    }

    /// A tenant's log, made on first use.
    pub(super) async fn open(&mut self, tenant: TenantId) -> Result<Arc<TenantLog>, StoreError> {
        if self.in_doubt {
            self.settle().await?;
        }
        if let Some(log) = self.logs.tenant(&tenant) {
            return Ok(log);
        }
        let row = new_tenant(&tenant);
        let stored = row.clone();
        let saved = self.writer.transaction(move |tx| tx.save_tenant(&stored)).await;
        self.in_doubt = saved.is_err();
        saved.map(|()| self.adopt(&tenant, row))
    }

    /// Makes a stored tenant known to the process.
    fn adopt(&mut self, tenant: &TenantId, row: TenantRow) -> Arc<TenantLog> {
        let epoch: Epoch = row.epoch.parse().unwrap_or(Epoch::new(0));
        let log = TenantLog::new(tenant.clone(), epoch, row.head as u64, Floors::default());
        let log = self.logs.insert(log);
        Arc::make_mut(&mut self.tenants).insert(tenant.clone(), row);
        log
    }

    /// One transaction with everything that waits, then its effects; answers in the order of requests.
    pub(super) async fn commit(
        &mut self,
        requests: Vec<(AppendRequest, Source)>,
        relay: Relay,
    ) -> Result<(Vec<Result<Vec<Appended>, LogError>>, Option<Instant>), StoreError> {
        if self.in_doubt {
            self.settle().await?;
        }
        if relay != Relay::None {
            crash_point("relay.before_append");
        }
        let started = Instant::now();
        let mut batch = self.batch();
        let outcome = self.writer.transaction(move |tx| batch.carry_out(tx, &requests, relay)).await;
        let committed = match outcome {
            Ok(committed) => committed,
            Err(error) => {
                self.in_doubt = true;
                self.logs.metrics.log().refused("unavailable");
                tracing::error!(%error, "the event log could not be written");
                return Err(error);
            }
        };
        self.logs.metrics.log().committed(started.elapsed().as_secs_f64());
        crash_point("append.after_commit");
        let relay_again = committed.relay_again;
        let answers = self.show(committed);
        Ok((answers, relay_again))
    }

    pub(super) fn batch(&self) -> Batch {
        Batch {
            stored: self.tenants.clone(),
            changed: HashMap::new(),
            rows: Vec::new(),
            sources: Vec::new(),
            volatile: Vec::new(),
            source: None,
            now: self.logs.clock.steady(),
            max_message_bytes: self.logs.options.max_message_bytes,
            joining: self.joining.clone(),
        }
    }

    /// Notes what is shown from now on.
    pub(super) fn enter(&mut self, head: Head) {
        if let Err(error) = self.head_file.write(&head) {
            tracing::warn!(%error, "log.head could not be written; a restored backup may go unnoticed");
        }
        self.writer.saw(head.number);
        self.instance = head.instance;
    }

    /// Writes the head file, then shows committed events to windows and workers.
    fn show(&mut self, committed: Committed) -> Vec<Result<Vec<Appended>, LogError>> {
        self.enter(committed.head);
        let mut by_tenant: HashMap<String, Vec<TracedRow>> = HashMap::new();
        let sources = committed.sources.into_iter().chain(std::iter::repeat(None));
        for (row, source) in committed.rows.into_iter().zip(sources) {
            by_tenant.entry(row.tenant.clone()).or_default().push((row, source));
        }
        for (tenant, row) in committed.tenants {
            if self.logs.tenant(&tenant).is_none() {
                // opened by this very transaction: the window begins before its first event
                let first = by_tenant
                    .get(tenant.as_str())
                    .and_then(|rows| rows.first())
                    .map_or(row.head, |(first, _)| first.seq - 1);
                self.adopt(&tenant, TenantRow { head: first, ..row.clone() });
            }
            Arc::make_mut(&mut self.tenants).insert(tenant.clone(), row);
            if let (Some(log), Some(rows)) = (self.logs.tenant(&tenant), by_tenant.remove(tenant.as_str())) {
                self.logs.show(&log, rows);
            }
        }
        for (tenant, event, source) in committed.volatile {
            if let Some(log) = self.logs.tenant(&tenant) {
                self.logs.send_volatile(&log, event, source);
            }
        }
        self.logs.metrics.log().outbox_published(committed.relayed);
        for _ in 0..committed.dead {
            self.logs.metrics.log().outbox_dead();
        }
        committed.answers
    }

    /// After a transaction of unknown outcome: shows what it stored after all, and forgets what it did not trim.
    pub(super) async fn settle(&mut self) -> Result<(), StoreError> {
        let known: Vec<(String, i64)> =
            self.tenants.values().map(|row| (row.tenant.clone(), row.head)).collect();
        let (tenants, rows, floors, commit) = self
            .writer
            .transaction(move |tx| {
                let tenants = tx.tenants()?;
                let (mut rows, mut floors) = (Vec::new(), Vec::new());
                for row in &tenants {
                    floors.push((row.clone(), tx.floors(&row.tenant)?));
                    let head =
                        known.iter().find(|(tenant, _)| *tenant == row.tenant).map_or(0, |(_, head)| *head);
                    if row.head > head {
                        rows.extend(tx.entries_after(&row.tenant, head, i64::MAX)?);
                    }
                }
                Ok((tenants, rows, floors, tx.commit()?))
            })
            .await?;
        let number = commit.map_or(0, |(_, number)| number);
        let tenants =
            tenants.into_iter().filter_map(|row| Some((TenantId::parse(&row.tenant).ok()?, row))).collect();
        let head = Head { instance: self.instance.clone(), number };
        // what was volatile is not known any more, and was not answered
        let (answers, sources, volatile, relay_again) = (Vec::new(), Vec::new(), Vec::new(), None);
        let (relayed, dead) = (0, 0);
        self.show(Committed { answers, rows, sources, volatile, tenants, head, relayed, relay_again, dead });
        for (row, floors) in floors {
            if let Some(log) = TenantId::parse(&row.tenant).ok().and_then(|tenant| self.logs.tenant(&tenant))
            {
                log.set_floors(Floors::stored(&row, floors));
                log.trimmed(row.trimmed as u64);
            }
        }
        self.oldest_at.clear();
        self.in_doubt = false;
        Ok(())
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
