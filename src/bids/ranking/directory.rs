use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::ranking_actor::{Look, Propose, RankingActor, RankingThreads};
use super::turn::{BidKey, Change, Means, Outcome};
use super::{BidRanking, RankingOptions};
use crate::actor_kit::{Port, PortError};
use crate::bids::Bid;
use crate::log::EventLog;
use crate::storage::{Database, StoreError};
use crate::telemetry::Metrics;

/// How often actors with nothing to do are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// The actors of bids: finds each, makes it when it is first needed, lets it go when it has been idle.
///
/// A message is counted (as pending) from when it is sent, under the directory's lock, until it is answered; an
/// actor is let go under the same lock, and only while nothing is pending: no message can be lost to one that goes.
#[derive(Clone)]
pub struct Rankings(Arc<Inner>);

/// The same for what the log itself holds: it does not keep them.
#[derive(Clone)]
pub struct WeakRankings(Weak<Inner>);

impl WeakRankings {
    /// The actors, if they are still there.
    pub fn upgrade(&self) -> Option<Rankings> {
        self.0.upgrade().map(Rankings)
    }
}

struct Inner {
    means: Means,
    runtime: Handle,
    threads: RankingThreads,
    actors: Mutex<HashMap<BidKey, Entry>>,
}

struct Entry {
    port: Port<RankingActor>,
    pending: Arc<AtomicUsize>,
    used: Instant,
}

/// A message that is not answered yet.
pub(super) struct Pending(Arc<AtomicUsize>);

impl Pending {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Pending(count.clone())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Rankings {
    /// Without any; to be called on the storage runtime.
    pub fn new(
        database: Database,
        log: EventLog,
        metrics: Arc<Metrics>,
        threads: RankingThreads,
        options: RankingOptions,
    ) -> Self {
        let means = Means { clock: log.clock(), database, log, metrics, options };
        let inner = Arc::new(Inner { means, runtime: Handle::current(), threads, actors: Mutex::default() });
        tokio::spawn(let_go(Arc::downgrade(&inner), options.idle));
        Rankings(inner)
    }

    /// For whoever must not keep them.
    pub fn downgrade(&self) -> WeakRankings {
        WeakRankings(Arc::downgrade(&self.0))
    }

    /// What actors are bounded by.
    pub fn options(&self) -> &RankingOptions {
        &self.0.means.options
    }

    /// Whether a bid has an actor at this moment.
    pub fn knows(&self, key: &BidKey) -> bool {
        self.0.actors.lock().expect("no panic while held").contains_key(key)
    }

    /// Has a change carried out in its turn.
    pub async fn change(&self, key: &BidKey, change: Change) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        self.tell(key, |port, pending| port.tell(Propose { change, reply, pending }))?;
        // a turn that broke off may have been committed
        outcome.await.unwrap_or_else(|_| Err(StoreError::InDoubt("the turn broke off".into())))
    }

    /// Looks at the ranking as it is stored at this moment; None: there is no such bid.
    pub async fn look<T: Send + 'static>(
        &self,
        key: &BidKey,
        look: impl FnOnce(&Bid, &BidRanking) -> T + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let (reply, seen) = oneshot::channel();
        let look = Box::new(move |seen: super::ranking_actor::Seen<'_>| {
            let seen = seen.map(|own| own.map(|(bid, ranking)| look(bid, ranking)));
            // whoever asked may have gone
            let _ = reply.send(seen);
        });
        self.tell(key, |port, pending| port.tell(Look { look, pending }))?;
        seen.await.unwrap_or_else(|_| Err(broken()))
    }

    fn tell(
        &self,
        key: &BidKey,
        send: impl FnOnce(&Port<RankingActor>, Pending) -> Result<(), PortError>,
    ) -> Result<(), StoreError> {
        let own = &self.0;
        let mut actors = own.actors.lock().expect("no panic while held");
        let entry = actors.entry(key.clone()).or_insert_with(|| {
            own.means.metrics.ranking().actors(1);
            own.start(key)
        });
        entry.used = Instant::now();
        if entry.pending.load(Ordering::Acquire) >= own.means.options.waiting {
            return Err(StoreError::Unavailable("too many changes of this bid wait already".into()));
        }
        let told = send(&entry.port, Pending::new(&entry.pending));
        match told {
            Ok(()) => Ok(()),
            Err(PortError::Full | PortError::Closed) => {
                // less waits than its mailbox holds: its thread is gone, the process ends
                actors.remove(key);
                Err(broken())
            }
        }
    }
}

impl Inner {
    fn start(&self, key: &BidKey) -> Entry {
        let port = RankingActor::start(key.clone(), &self.threads, self.means.clone(), self.runtime.clone());
        Entry { port, pending: Arc::default(), used: Instant::now() }
    }
}

fn broken() -> StoreError {
    StoreError::Unavailable("the ranking broke off".into())
}

/// An actor whose last port is dropped ends.
async fn let_go(directory: Weak<Inner>, idle: Duration) {
    let mut tick = tokio::time::interval(SWEEP.min(idle / 2).max(Duration::from_millis(1)));
    loop {
        tick.tick().await;
        let Some(own) = directory.upgrade() else { return };
        let mut actors = own.actors.lock().expect("no panic while held");
        let before = actors.len();
        actors.retain(|_, entry| entry.pending.load(Ordering::Acquire) > 0 || entry.used.elapsed() < idle);
        own.means.metrics.ranking().actors(actors.len() as i64 - before as i64);
    }
}
