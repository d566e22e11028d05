use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::commands::Commands;
use crate::clock::{jittered, random_u64};
use crate::storage::{Database, LeaseLink, StoreError};
use crate::telemetry::Metrics;

/// A lease is good for this long on the database's clock.
const LEASE: Duration = Duration::from_millis(1500);
const RENEWAL: Duration = Duration::from_millis(500);
/// The leader stops this much before its lease runs out, for whatever its clock and the link lose.
const MARGIN: Duration = Duration::from_millis(200);
/// How long the others wait before they ask for the lease again.
const ATTEMPT: Duration = Duration::from_millis(250);

/// A node that has had no link to Redis for this long does not lead.
const UNLINKED: Duration = Duration::from_secs(1);

/// How long whoever steps aside leaves the lease to others.
const ASIDE: Duration = Duration::from_secs(2);

/// Being the one node that publishes the outbox, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// Rises with every change of leader: the log refuses what an earlier leader sends late.
    pub fence: u64,
    /// How long it is good, by this node's clock.
    until: Instant,
}

impl Lease {
    pub fn is_good(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Asks for the lease, and renews it while this node has it.
pub(super) struct LeaseKeeper {
    database: Database,
    metrics: Arc<Metrics>,
    commands: Commands,
    /// Until when others may have it first.
    aside: watch::Sender<Instant>,
    holder: String,
    held: watch::Sender<Option<Lease>>,
}

impl LeaseKeeper {
    /// Also shows what is held.
    pub fn new(
        database: Database,
        commands: Commands,
        metrics: Arc<Metrics>,
    ) -> (Arc<Self>, watch::Receiver<Option<Lease>>) {
        let (held, shown) = watch::channel(None);
        let aside = watch::Sender::new(Instant::now());
        let holder = format!("{:016x}", random_u64());
        (Arc::new(LeaseKeeper { database, metrics, commands, aside, holder, held }), shown)
    }

    /// Works until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut next = Instant::now();
        let (mut link, mut linked_at) = (None, Instant::now());
        loop {
            sleep_until(next.max(self.aside())).await;
            if Instant::now() < self.aside() {
                continue;
            }
            if self.commands.is_linked() {
                linked_at = Instant::now();
            } else if linked_at.elapsed() >= UNLINKED {
                // others may reach what this node does not
                if self.held.borrow().is_some() {
                    self.give_back().await;
                }
                next = Instant::now() + jittered(ATTEMPT, 0.4);
                continue;
            }
            let (former, asked) = (*self.held.borrow(), Instant::now());
            let lease = match timeout(LEASE, self.take(&mut link)).await {
                Ok(Ok(fence)) => fence.map(|fence| Lease { fence, until: asked + LEASE - MARGIN }),
                failed => {
                    if let Ok(Err(error)) = failed {
                        tracing::debug!(%error, "the lease could not be asked for");
                    }
                    link = None;
                    // good for as long as it was
                    former.filter(Lease::is_good)
                }
            };
            if Instant::now() < self.aside() {
                // asked for before it stepped aside
                self.give_back().await;
                continue;
            }
            self.tell(former, lease);
            next = Instant::now() + if lease.is_some() { RENEWAL } else { jittered(ATTEMPT, 0.4) };
        }
    }

    fn aside(&self) -> Instant {
        *self.aside.borrow()
    }

    async fn take(&self, link: &mut Option<LeaseLink>) -> Result<Option<u64>, StoreError> {
        let own = match link {
            Some(own) => own,
            None => link.insert(self.database.lease_link().await?),
        };
        own.take(&self.holder, LEASE.as_secs_f64()).await
    }

    fn tell(&self, former: Option<Lease>, lease: Option<Lease>) {
        match (former, lease) {
            (None, Some(own)) => tracing::info!(fence = own.fence, "this node publishes the outbox"),
            (Some(_), None) => tracing::info!("this node publishes the outbox no longer"),
            _ => {}
        }
        if former.is_some() != lease.is_some() {
            self.metrics.bridge().leads(lease.is_some());
        }
        self.held.send_replace(lease);
    }

    /// The log knows of this fence: one that is not greater is of no use, even to who holds the lease.
    pub async fn rise_above(&self, fence: u64) -> Result<(), StoreError> {
        let holder = self.holder.clone();
        self.database.run(move |db| async move { db.raise_fence(&holder, fence).await }).await
    }

    /// Lets another node lead at once, and does not compete with it for a while.
    pub async fn step_aside(&self) {
        self.aside.send_replace(Instant::now() + ASIDE);
        self.give_back().await;
    }

    /// Lets another node lead at once.
    pub async fn give_back(&self) {
        let former = *self.held.borrow();
        self.tell(former, None);
        let holder = self.holder.clone();
        if let Err(error) =
            self.database.run(move |db| async move { db.give_lease_back(&holder).await }).await
        {
            tracing::debug!(%error, "the lease could not be given back");
        }
    }
}
