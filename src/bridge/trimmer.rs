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
                // it is looked at again before long; the others' masters may be there
                Err(error @ (BridgeError::Away(_) | BridgeError::Unlinked(_))) => {
                    tracing::debug!(%error, %tenant, "the log could not be trimmed");
                }
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
            self.metrics.log().trimmed(trimmed.count);
            if !trimmed.more {
                return self.store.trim_at(tenant, trimmed.due).await;
            }
        }
        Ok(())
    }
}

/// Which logs are to be trimmed, and when: one sorted set for all of them.
impl Store {
    /// These logs have grown: they are to be trimmed now.
    pub async fn want_trims(&self, tenants: &[TenantId]) -> Result<(), BridgeError> {
        if tenants.is_empty() {
            return Ok(());
        }
        let mut add = redis::cmd("ZADD");
        add.arg(self.keys.trims()).arg("LT");
        for tenant in tenants {
            add.arg(self.now().micros()).arg(tenant.as_str());
        }
        self.commands.run(&self.keys.trims(), &add).await
    }

    /// The next log that is to be trimmed for its age: not later than it already is.
    pub async fn trim_at(&self, tenant: &TenantId, due: Option<i64>) -> Result<(), BridgeError> {
        let Some(due) = due else { return Ok(()) };
        let key = self.keys.trims();
        self.commands.run(&key, redis::cmd("ZADD").arg(&key).arg("LT").arg(due).arg(tenant.as_str())).await
    }

    /// Whose logs are to be trimmed by now, or all; each is looked at again after `again` µs at the latest.
    pub async fn take_trims(&self, most: usize, again: i64, all: bool) -> Result<Vec<TenantId>, BridgeError> {
        let (key, now) = (self.keys.trims(), self.now().micros());
        let mut due = redis::cmd("ZRANGE");
        let by = if all { "+inf".to_owned() } else { now.to_string() };
        due.arg(&key).arg("-inf").arg(by).arg("BYSCORE").arg("LIMIT").arg(0).arg(most);
        let due: Vec<String> = self.commands.run(&key, &due).await?;
        let tenants: Vec<TenantId> = due.iter().filter_map(|own| TenantId::parse(own).ok()).collect();
        if !tenants.is_empty() {
            let mut later = redis::cmd("ZADD");
            later.arg(&key).arg("XX").arg("GT");
            for tenant in &tenants {
                later.arg(now + again).arg(tenant.as_str());
            }
            match self.commands.run::<i64>(&key, &later).await {
                // without room for that they are looked at in every round, which may make some
                Ok(_) | Err(BridgeError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(tenants)
    }
}
