use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::error::BridgeError;
use super::lease::{Lease, LeaseKeeper};
use super::store::Store;
use crate::domain::TenantId;
use crate::log::TenantLogs;
use crate::telemetry::Metrics;

/// How often logs that have grown, or grown old, are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// A log is looked at again after this, whatever was known of it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Entries that one call removes, at most.
const BATCH: usize = 500;
/// Logs that are looked at in one round, at most.
const ROUND: usize = 10_000;

/// Logs that this node has appended to since it last said so.
#[derive(Clone, Debug, Default)]
pub(super) struct Grown(Arc<Mutex<HashSet<TenantId>>>);

impl Grown {
    pub fn add(&self, tenant: &TenantId) {
        let mut own = self.0.lock().expect("no panic while held");
        if !own.contains(tenant) {
            own.insert(tenant.clone());
        }
    }

    fn take(&self) -> Vec<TenantId> {
        self.0.lock().expect("no panic while held").drain().collect()
    }
}

/// Tells whose logs have grown; on the leader, removes what retention no longer keeps.
pub(super) struct Trimmer {
    store: Store,
    logs: Arc<TenantLogs>,
    metrics: Arc<Metrics>,
    keeper: Arc<LeaseKeeper>,
    lease: watch::Receiver<Option<Lease>>,
    grown: Grown,
}

impl Trimmer {
    pub fn new(
        store: Store,
        logs: Arc<TenantLogs>,
        metrics: Arc<Metrics>,
        (keeper, lease): (Arc<LeaseKeeper>, watch::Receiver<Option<Lease>>),
        grown: Grown,
    ) -> Self {
        Trimmer { store, logs, metrics, keeper, lease, grown }
    }

    /// Works for as long as there is somebody to lead.
    pub async fn run(self) {
        let mut fence = 0;
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Arc::strong_count(&self.keeper) > 1 {
            tick.tick().await;
            let grown = self.grown.take();
            if let Err(error) = self.store.want_trims(&grown).await {
                tracing::debug!(%error, "logs that have grown could not be named");
                grown.iter().for_each(|tenant| self.grown.add(tenant));
            }
            let Some(lease) = self.leads() else { continue };
            // a new leader looks at every log: what is kept may have become less
            match self.trim(lease.fence != fence).await {
                Ok(()) => fence = lease.fence,
                Err(error) => tracing::debug!(%error, "the logs could not be trimmed"),
            }
        }
    }

    fn leads(&self) -> Option<Lease> {
        self.lease.borrow().filter(Lease::is_good)
    }

    async fn trim(&self, all: bool) -> Result<(), BridgeError> {
        let again = LOOK_AGAIN.as_micros() as i64;
        for tenant in self.store.take_trims(ROUND, again, all).await? {
            match self.trim_one(&tenant).await {
                Err(error @ BridgeError::Away(_)) => return Err(error),
                Err(BridgeError::Fenced(stored)) => {
                    self.metrics.bridge().fenced();
                    if let Err(error) = self.keeper.rise_above(stored).await {
                        tracing::debug!(%error, "the fence could not be raised");
                    }
                }
                // the others are trimmed all the same
                Err(error) => tracing::error!(%error, %tenant, "the log cannot be trimmed"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn trim_one(&self, tenant: &TenantId) -> Result<(), BridgeError> {
        // a backlog goes in small pieces, so that appends are not held up
        while let Some(lease) = self.leads() {
            let trimmed = self.store.trim(tenant, lease.fence, self.logs.options(), BATCH).await?;
            self.metrics.log_trimmed(trimmed.count);
            if !trimmed.more {
                return self.store.trim_at(tenant, trimmed.due).await;
            }
        }
        Ok(())
    }
}
