use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::commands::BACKOFF;
use super::error::BridgeError;
use super::hearing::Hearing;
use super::interop::{Interop, Unfit};
use super::lanes::count;
use super::lease::{Lease, LeaseKeeper};
use super::recent::Recent;
use super::servers::Connector;
use super::store::{Answer, Request, Store};
use super::trimmer::Grown;
use crate::clock::{jittered, random_u64};
use crate::domain::TenantId;
use crate::log::{Appended, Idempotency, NewEvent, Source, TenantLogs};
use crate::telemetry::Metrics;

/// Events that may wait for their append, in number and in bytes; further ones are dropped.
const WAITING: usize = 10_000;
const WAITING_BYTES: usize = 64 << 20;
/// What one append carries, at most, unless a single event has more.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 4 << 20;
/// How long an append is recognised when it is repeated because nobody knows what became of it.
const KEEP: Duration = Duration::from_secs(30);
/// How often it is looked whether the lease is still good.
const LOOK: Duration = Duration::from_millis(50);
/// How long what waits is appended after the end was asked for.
const LAST: Duration = Duration::from_secs(2);

/// Why something that was heard is lost.
const DROPS: &[&str] = &["queue_full", "lease_lost", "outcome_unknown"];

/// An event that another service has published.
pub(super) struct Heard {
    event: NewEvent,
    at: Instant,
    _room: OwnedSemaphorePermit,
}

/// What was heard and is not in the log yet, in order.
struct Waiting {
    next: mpsc::Receiver<Heard>,
    /// What is being appended.
    batch: Vec<Heard>,
    /// The name by which the log recognises it, however often its append is begun.
    name: u64,
}

/// The way into it, with the room that there is.
pub(super) struct Entrance {
    last: mpsc::Sender<Heard>,
    room: Arc<Semaphore>,
}

/// Ends this node's part in taking in what other services publish.
pub(super) struct Ingestion(mpsc::Sender<oneshot::Sender<()>>);

/// Takes what other services publish into a tenant's log, while this node holds the lease.
///
/// Subscribed only after the lease was won, and every append carries its fence: what is published is taken in
/// by one node, or, while none has the lease, by nobody.
pub(super) struct Ingest {
    pub connector: Connector,
    pub store: Store,
    pub grown: Grown,
    pub logs: Arc<TenantLogs>,
    pub metrics: Arc<Metrics>,
    pub keeper: Arc<LeaseKeeper>,
    pub lease: watch::Receiver<Option<Lease>>,
    pub recent: Arc<Recent>,
    pub interop: Interop,
    pub tenant: TenantId,
    /// The channel on which this node hears itself.
    pub probe: String,
}

enum End {
    Lost,
    Stopped(Option<oneshot::Sender<()>>),
}

impl Ingestion {
    /// Hears nothing more, and appends what waits.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.0.send(done).await.is_ok() {
            // one that has ended has nothing left to do
            let _ = stopped.await;
        }
    }
}

impl Entrance {
    /// False when there is no room.
    pub fn take(&self, event: NewEvent) -> bool {
        let bytes = u32::try_from(event.data.len()).unwrap_or(u32::MAX);
        let Ok(room) = self.room.clone().try_acquire_many_owned(bytes) else { return false };
        self.last.try_send(Heard { event, at: Instant::now(), _room: room }).is_ok()
    }
}

impl Waiting {
    fn new() -> (Entrance, Self) {
        let (last, next) = mpsc::channel(WAITING);
        let room = Arc::new(Semaphore::new(WAITING_BYTES));
        (Entrance { last, room }, Waiting { next, batch: Vec::new(), name: 0 })
    }

    /// Waits until there is a batch; false when nothing comes any more.
    async fn fill(&mut self) -> bool {
        if self.batch.is_empty() {
            let Some(first) = self.next.recv().await else { return false };
            let mut bytes = first.event.data.len();
            self.name = random_u64();
            self.batch.push(first);
            while self.batch.len() < BATCH
                && bytes < BATCH_BYTES
                && let Ok(next) = self.next.try_recv()
            {
                bytes += next.event.data.len();
                self.batch.push(next);
            }
        }
        true
    }

    /// Throws away what waits: how much it was.
    fn clear(&mut self) -> u64 {
        let mut count = std::mem::take(&mut self.batch).len() as u64;
        while self.next.try_recv().is_ok() {
            count += 1;
        }
        count
    }
}

impl Ingest {
    pub fn start(self) -> Ingestion {
        self.metrics.interop().name_reasons(&[Unfit::ALL, &["copy"]].concat(), DROPS);
        let (stop, stops) = mpsc::channel(1);
        tokio::spawn(self.run(stops));
        Ingestion(stop)
    }

    async fn run(self, mut stops: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut lease = self.lease.clone();
        loop {
            let won = tokio::select! {
                won = lease.wait_for(|own| own.is_some_and(|own| own.is_good())) => {
                    won.ok().and_then(|own| *own)
                }
                done = stops.recv() => {
                    done.map(|done| done.send(()));
                    return;
                }
            };
            // without anybody who keeps a lease there is nothing to do any more
            let Some(Lease { fence, .. }) = won else { return };
            if let End::Stopped(done) = self.serve(fence, &mut stops).await {
                // whoever asked may have gone
                done.map(|done| done.send(()));
                return;
            }
        }
    }

    /// Hears and appends until the lease with this fence is lost.
    async fn serve(&self, fence: u64, stops: &mut mpsc::Receiver<oneshot::Sender<()>>) -> End {
        let (entrance, mut waiting) = Waiting::new();
        let mut hearing = Hearing::new(self, entrance);
        let end = tokio::select! {
            () = hearing.run() => End::Lost,
            () = self.append(&mut waiting, fence) => End::Lost,
            () = self.lost(fence) => End::Lost,
            done = stops.recv() => End::Stopped(done),
        };
        hearing.end(matches!(end, End::Stopped(_))).await;
        if let End::Stopped(_) = end {
            // what is late is counted below
            let _ = timeout(LAST, self.append(&mut waiting, fence)).await;
        }
        let lost = waiting.clear();
        if lost > 0 {
            tracing::warn!(lost, "the lease was lost before what other services published was in the log");
            self.metrics.interop().dropped("lease_lost", lost);
        }
        end
    }

    /// Whether the lease is good and still the one with this fence: under another one, other nodes may have
    /// taken in meanwhile what this one has heard.
    fn leads(&self, fence: u64) -> bool {
        self.lease.borrow().is_some_and(|own| own.fence == fence && own.is_good())
    }

    async fn lost(&self, fence: u64) {
        while self.leads(fence) {
            sleep(LOOK).await;
        }
    }

    /// Appends what comes, in order, until nothing comes any more or the lease is lost.
    async fn append(&self, waiting: &mut Waiting, fence: u64) {
        while waiting.fill().await {
            let (mut groups, mut accepted) = (Vec::new(), Instant::now());
            for heard in &waiting.batch {
                accepted = accepted.min(heard.at);
                groups.push(vec![heard.event.clone()]);
            }
            let idempotency = Idempotency {
                principal: "ingest".to_owned(),
                key: format!("{:016x}", waiting.name),
                request_hash: String::new(),
                keep: KEEP,
            };
            let source = Source { origin: None, accepted };
            let request =
                [Request { groups, source, idempotency: Some(idempotency), outbox_id: None, mirrored: None }];
            if !self.append_once(&request, fence).await {
                return;
            }
            waiting.batch.clear();
        }
    }

    /// Tries until it is known that the batch is in the log, or that it will not be; false when the lease is
    /// lost.
    async fn append_once(&self, request: &[Request; 1], fence: u64) -> bool {
        let (mut wait, mut unknown_since) = (BACKOFF.0, None);
        while self.leads(fence) {
            if unknown_since.is_some_and(|since: Instant| since.elapsed() + self.connector.patience() >= KEEP)
            {
                let lost = request[0].groups.len() as u64;
                tracing::warn!(lost, "what became of events of other services is not known");
                self.metrics.interop().dropped("outcome_unknown", lost);
                return true;
            }
            if !self.store.is_linked_for(&self.tenant) {
                sleep(BACKOFF.0).await;
                continue;
            }
            let (asked, server) = (Instant::now(), self.store.server_of(&self.tenant));
            let append = self.store.append(&self.tenant, (Some(fence), &[]), self.logs.options(), request);
            match append.await {
                Ok((run, answers)) => {
                    let taken = (&self.tenant, server);
                    self.recent.took(&self.store, taken, run, request.iter().cloned(), &answers);
                    self.grown.add(&self.tenant);
                    count(&self.metrics, request, &answers);
                    self.count(&answers);
                    return true;
                }
                Err(error) => {
                    tracing::debug!(%error, "what other services published could not be appended");
                    match error {
                        BridgeError::Fenced(stored) => self.fenced(stored).await,
                        error if error.is_known() => {}
                        _ => drop(unknown_since.get_or_insert(asked)),
                    }
                    sleep(jittered(wait, 0.5)).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
        false
    }

    fn count(&self, answers: &[Answer]) {
        let outcomes = answers.iter().flatten().flatten();
        let copies =
            outcomes.clone().filter(|own| matches!(own, Appended::At { duplicate: true, .. })).count();
        self.metrics.interop().ingested((outcomes.count() - copies) as u64);
        self.metrics.interop().refused("copy", copies as u64);
    }

    /// Another node leads, or the database has forgotten how far fences had risen.
    async fn fenced(&self, stored: u64) {
        self.metrics.bridge().fenced();
        if let Err(error) = self.keeper.rise_above(stored).await {
            tracing::debug!(%error, "the fence could not be raised");
        }
    }
}
