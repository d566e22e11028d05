use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout_at};

use super::job::{abandoned, failed};
use super::{Backoff, Delivery, Failure, JobRow, Kind, State};
use crate::clock::{Clock, random_u64};
use crate::storage::{Database, JobOutcome, StoreError};
use crate::telemetry::{Metrics, crash_point};

/// What a handler is given beyond the time of an attempt before its job is another's.
const GRACE: Duration = Duration::from_secs(1);
/// How often what has become of an attempt is tried to be written down.
const SETTLING: Duration = Duration::from_millis(200);
/// How often jobs are counted, and those that were done long ago forgotten.
const TIDYING: Duration = Duration::from_secs(2);
/// How many are forgotten, or found abandoned, in one transaction.
const BATCH: i64 = 200;

/// How an attempt ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The work is done, and the job is to be marked so.
    Done,
    /// The handler has marked it in the transaction of the work.
    Finished,
    /// The attempt was not the present one any more, and nothing was written.
    Late,
}

/// Does the work of one kind of job.
pub trait Handler: Send + Sync {
    /// What it does.
    fn kind(&self) -> Kind;

    /// One attempt; dropped when it takes too long.
    fn run(&self, job: JobRow) -> BoxFuture<'static, Result<Completion, Failure>>;
}

/// Tells this process's runner that there is something to do; many calls are one.
#[derive(Clone, Debug, Default)]
pub struct JobWake(Arc<Notify>);

impl JobWake {
    /// To be called after the commit.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// How jobs are run.
#[derive(Clone, Debug)]
pub struct JobOptions {
    /// How many of each channel are worked on at a time.
    pub channels: Vec<(&'static str, usize)>,
    /// How often jobs are looked for that another process has left.
    pub poll: Duration,
    /// How long one attempt may take.
    pub attempt: Duration,
    /// Delays between attempts.
    pub backoff: Backoff,
    /// How long jobs are kept that are done.
    pub keep_done: Duration,
}

/// The jobs that this node works on; its end waits for them.
#[derive(Clone)]
pub struct Jobs(Arc<Runner>);

struct Runner {
    database: Database,
    clock: Clock,
    metrics: Arc<Metrics>,
    options: JobOptions,
    handlers: HashMap<&'static str, Arc<dyn Handler>>,
    /// The kinds that it knows; others are left to newer nodes.
    kinds: Vec<&'static str>,
    channels: Vec<Channel>,
    wake: JobWake,
    running: watch::Sender<usize>,
    is_ending: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Channel {
    name: &'static str,
    most: usize,
    busy: AtomicUsize,
}

impl Channel {
    fn free(&self) -> usize {
        self.most.saturating_sub(self.busy.load(Ordering::Relaxed))
    }
}

impl Jobs {
    /// Begins to work; must run on the storage runtime.
    ///
    /// # Panics
    /// When a handler's channel is not among the options': a mistake in the composition.
    pub fn start(
        (database, clock): (Database, Clock),
        metrics: Arc<Metrics>,
        options: JobOptions,
        handlers: Vec<Arc<dyn Handler>>,
        wake: JobWake,
    ) -> Self {
        let channels: Vec<Channel> = options
            .channels
            .iter()
            .map(|(name, most)| Channel { name, most: *most, busy: AtomicUsize::new(0) })
            .collect();
        let kinds: Vec<Kind> = handlers.iter().map(|handler| handler.kind()).collect();
        for kind in &kinds {
            assert!(channels.iter().any(|own| own.name == kind.channel), "{}: no such channel", kind.channel);
        }
        metrics.jobs().expect(kinds.iter().map(|kind| (kind.name, kind.channel)));
        let runner = Arc::new(Runner {
            database,
            clock,
            metrics,
            options,
            kinds: kinds.iter().map(|kind| kind.name).collect(),
            handlers: kinds.iter().map(|kind| kind.name).zip(handlers).collect(),
            channels,
            wake,
            running: watch::Sender::new(0),
            is_ending: watch::Sender::new(false),
            task: Mutex::default(),
        });
        let task = tokio::spawn(runner.clone().run());
        tokio::spawn(runner.clone().tidy());
        *runner.task.lock().expect("no panic while held") = Some(task);
        Jobs(runner)
    }

    /// Takes no more jobs, and waits for those that were begun.
    pub async fn stop(&self) {
        self.0.is_ending.send_replace(true);
        let task = self.0.task.lock().expect("no panic while held").take();
        if let Some(task) = task {
            // a task that panicked works on nothing, either
            let _ = task.await;
        }
        let mut running = self.0.running.subscribe();
        // its sender is ours
        let _ = running.wait_for(|running| *running == 0).await;
    }
}

/// A place among those of a channel, given back when dropped.
struct Slot {
    runner: Arc<Runner>,
    channel: usize,
}

impl Slot {
    fn take(runner: &Arc<Runner>, channel: usize) -> Self {
        runner.channels[channel].busy.fetch_add(1, Ordering::Relaxed);
        runner.running.send_modify(|running| *running += 1);
        Slot { runner: runner.clone(), channel }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.runner.channels[self.channel].busy.fetch_sub(1, Ordering::Relaxed);
        self.runner.running.send_modify(|running| *running -= 1);
        self.runner.wake.wake();
    }
}

impl Runner {
    /// Works until it is to end: whenever it is woken, when the next job is due, and every so often.
    async fn run(self: Arc<Self>) {
        let mut ending = self.is_ending.subscribe();
        while !*ending.borrow_and_update() {
            let pause = self.round().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "jobs could not be looked for");
                self.options.poll
            });
            tokio::select! {
                () = self.wake.0.notified() => {}
                () = sleep(pause) => {}
                _ = ending.changed() => {}
            }
        }
    }

    /// Takes what is due and begins it; how long there is nothing to do.
    async fn round(self: &Arc<Self>) -> Result<Duration, StoreError> {
        let (now_us, due_us) = self.look().await?;
        let wait = due_us.map_or(self.options.poll, |due_us| micros(due_us - now_us).min(self.options.poll));
        if !wait.is_zero() {
            return Ok(wait);
        }
        let began = Instant::now();
        let taken = self.take().await?;
        let nothing = taken.is_empty();
        for (job, slot) in taken {
            tokio::spawn(self.clone().work(job, slot, began));
        }
        // what is due and could not be had is another node's at this moment
        Ok(if nothing { self.options.poll } else { Duration::ZERO })
    }

    /// The present time, and when there is something to do, as long as there is a place for it.
    async fn look(&self) -> Result<(i64, Option<i64>), StoreError> {
        let (db, own_us) = (&self.database, self.clock.steady().micros());
        let free: Vec<&Channel> = self.channels.iter().filter(|own| own.free() > 0).collect();
        crate::read!(db, |conn, q| {
            let mut first = q::jobs::next_deadline(conn, &self.kinds).await?;
            for channel in free {
                let due = q::jobs::next_due(conn, channel.name, &self.kinds).await?;
                first = first.into_iter().chain(due).min();
            }
            Ok((q::time::now_us(conn, own_us).await?, first))
        })
    }

    /// Takes as many jobs of each channel as there are places, and says what becomes of those that were abandoned.
    async fn take(self: &Arc<Self>) -> Result<Vec<(JobRow, Slot)>, StoreError> {
        let (db, own_us) = (&self.database, self.clock.steady().micros());
        let lease_us = (self.options.attempt + GRACE).as_micros() as i64;
        let (rows, lost) = crate::write_tx!(db, |conn, q| {
            let now_us = q::time::now_us(conn, own_us).await?;
            let lost = q::jobs::abandoned(conn, &self.kinds, BATCH, now_us).await?;
            for job in &lost {
                let outcome = abandoned(job, self.delivery(job), now_us);
                q::jobs::settle(conn, (&job.job_id, job.attempts), &outcome).await?;
            }
            let mut rows = Vec::new();
            for (index, channel) in self.channels.iter().enumerate() {
                let free = channel.free() as i64;
                if free > 0 {
                    let wanted = (channel.name, &self.kinds[..]);
                    let own = q::jobs::take(conn, wanted, free, (now_us, now_us + lease_us)).await?;
                    rows.extend(own.into_iter().map(|row| (row, index)));
                }
            }
            Ok((rows, lost))
        })?;
        for job in &lost {
            tracing::warn!(
                job_id = job.job_id,
                kind = job.kind,
                attempt = job.attempts,
                "a job was abandoned"
            );
            self.metrics.jobs().ended(self.known(&job.kind), "abandoned");
        }
        Ok(rows.into_iter().map(|(row, channel)| (row, Slot::take(self, channel))).collect())
    }

    /// One attempt, to its end; it `began` before it was taken, so that it ends before it is another node's.
    async fn work(self: Arc<Self>, job: JobRow, _slot: Slot, began: Instant) {
        crash_point("jobs.taken");
        let kind = self.known(&job.kind);
        let attempt = AssertUnwindSafe(self.handlers[kind].run(job.clone())).catch_unwind();
        let ended = match timeout_at(began + self.options.attempt, attempt).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => Err(Failure::passing("its handler panicked")),
            Err(_) => Err(Failure::passing("it took too long")),
        };
        self.metrics.jobs().took(kind, began.elapsed().as_secs_f64());
        let until = began + self.options.attempt + GRACE;
        let outcome = match ended {
            Ok(Completion::Finished) => "done",
            Ok(Completion::Late) => "late",
            Ok(Completion::Done) => self.settle(&job, None, until).await,
            Err(failure) => self.settle(&job, Some(failure), until).await,
        };
        self.metrics.jobs().ended(kind, outcome);
    }

    /// Writes down what has become of an attempt, as long as it is this node's; what that is.
    async fn settle(&self, job: &JobRow, failure: Option<Failure>, until: Instant) -> &'static str {
        let chance = random_u64() as f64 / u64::MAX as f64;
        if let Some(failure) = &failure {
            let (kind, attempt, reason) = (&job.kind, job.attempts, &failure.reason);
            tracing::warn!(job_id = job.job_id, kind, attempt, reason, "a job failed");
        }
        loop {
            match self.write_outcome(job, failure.clone(), chance).await {
                Ok(Some(state)) => return state.as_str(),
                Ok(None) => return "late",
                Err(error) if Instant::now() >= until => {
                    tracing::warn!(%error, job_id = job.job_id, "what became of a job could not be stored");
                    return "late";
                }
                Err(_) => sleep(SETTLING).await,
            }
        }
    }

    async fn write_outcome(
        &self,
        job: &JobRow,
        failure: Option<Failure>,
        chance: f64,
    ) -> Result<Option<State>, StoreError> {
        let (db, own_us) = (&self.database, self.clock.steady().micros());
        crate::write_tx!(db, |conn, q| {
            let Some(failure) = &failure else {
                return Ok(q::jobs::finish(conn, job, own_us).await?.then_some(State::Done));
            };
            let now_us = q::time::now_us(conn, own_us).await?;
            let outcome: JobOutcome = failed(job, failure, (self.options.backoff, chance), now_us);
            let is_own = q::jobs::settle(conn, (&job.job_id, job.attempts), &outcome).await?;
            Ok(State::parse(outcome.state).filter(|_| is_own))
        })
    }

    fn delivery(&self, job: &JobRow) -> Delivery {
        self.handlers[job.kind.as_str()].kind().delivery
    }

    /// The name of a kind that this node knows, as it takes no others.
    fn known(&self, kind: &str) -> &'static str {
        self.handlers[kind].kind().name
    }

    /// Counts jobs, and forgets those that were done long ago, until the runner's end.
    async fn tidy(self: Arc<Self>) {
        let mut ending = self.is_ending.subscribe();
        let mut tick = tokio::time::interval(TIDYING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*ending.borrow_and_update() {
            tokio::select! {
                _ = tick.tick() => {}
                _ = ending.changed() => continue,
            }
            if let Err(error) = self.tidy_once().await {
                tracing::warn!(%error, "jobs could not be counted");
            }
        }
    }

    async fn tidy_once(&self) -> Result<(), StoreError> {
        let (db, own_us) = (&self.database, self.clock.steady().micros());
        let keep_us = self.options.keep_done.as_micros() as i64;
        let (now_us, figures, is_old) = crate::read!(db, |conn, q| {
            let now_us = q::time::now_us(conn, own_us).await?;
            let is_old = q::jobs::has_done(conn, now_us - keep_us).await?;
            Ok::<_, StoreError>((now_us, q::jobs::figures(conn).await?, is_old))
        })?;
        self.metrics.jobs().show(
            &figures
                .iter()
                .map(|own| {
                    let age = own.due_us.map_or(Duration::ZERO, |due_us| micros(now_us - due_us));
                    (own.state.clone(), own.channel.clone(), own.count, age)
                })
                .collect::<Vec<_>>(),
        );
        let mut is_old = is_old;
        while is_old {
            let forgotten =
                crate::write_tx!(db, |conn, q| Ok(
                    q::jobs::forget_done(conn, now_us - keep_us, BATCH).await?
                ))?;
            is_old = forgotten as i64 == BATCH;
        }
        Ok(())
    }
}

/// A time span; none where it is negative.
fn micros(span: i64) -> Duration {
    Duration::from_micros(u64::try_from(span).unwrap_or(0))
}
