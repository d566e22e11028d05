use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::error::BridgeError;
use super::recent::Recent;
use super::store::{Answer, Request, Store};
use super::trimmer::Grown;
use crate::domain::{Class, Epoch, TenantId};
use crate::log::{Appended, Load, LogError, TenantLogs};
use crate::telemetry::{Metrics, crash_point};

/// Requests that one call carries, at most.
const BATCH: usize = 512;
/// How soon what a former master took is brought to its successor where that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes that one call carries, unless a single request has more.
pub(super) const BATCH_BYTES: usize = 4 << 20;

struct Waiting {
    request: Request,
    bytes: usize,
    _load: Load,
    reply: oneshot::Sender<Result<(Epoch, Vec<Appended>), LogError>>,
}

/// A lane per tenant: one call at a time, and whatever comes meanwhile shares the next.
#[derive(Clone)]
pub(super) struct Lanes {
    store: Store,
    grown: Grown,
    logs: Arc<TenantLogs>,
    runtime: Handle,
    metrics: Arc<Metrics>,
    recent: Arc<Recent>,
    /// Those that have something to do; a tenant without one starts its own.
    busy: Arc<Mutex<HashMap<TenantId, VecDeque<Waiting>>>>,
}

impl Lanes {
    pub fn new(
        (store, grown): (Store, Grown),
        logs: Arc<TenantLogs>,
        runtime: Handle,
        metrics: Arc<Metrics>,
    ) -> Self {
        let recent = Arc::new(Recent::new());
        let own = Lanes { store, grown, logs, runtime, metrics, recent, busy: Arc::default() };
        own.runtime.spawn(own.clone().follow_masters());
        own
    }

    /// Appends; what was handed over is carried out even where nobody waits for it any more.
    pub async fn append(
        &self,
        tenant: TenantId,
        request: Request,
        bytes: usize,
        load: Load,
    ) -> Result<(Epoch, Vec<Appended>), LogError> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { request, bytes, _load: load, reply };
        self.enter(tenant, Some(waiting));
        answer.await.map_err(|_| LogError::Unavailable("the log has stopped".into()))?
    }

    /// Takes a place in a tenant's lane, or none; a lane that is not busy gets to work.
    fn enter(&self, tenant: TenantId, waiting: Option<Waiting>) {
        let begins = {
            let mut busy = self.busy.lock().expect("no panic while held");
            let begins = !busy.contains_key(&tenant);
            busy.entry(tenant.clone()).or_default().extend(waiting);
            begins
        };
        if begins {
            self.runtime.spawn(self.clone().work(tenant));
        }
    }

    /// Has what a former master took brought to its successor, whether somebody publishes there or not.
    async fn follow_masters(self) {
        let mut links = self.store.commands.watch();
        // a lane that could not bring it is sent again
        while !matches!(timeout(AGAIN, links.changed()).await, Ok(Err(_))) {
            for tenant in self.recent.elsewhere(|tenant| self.store.server_of(tenant)) {
                self.enter(tenant, None);
            }
        }
    }

    /// Appends again what a former master took when its successor's run had begun.
    async fn bring_along(&self, tenant: &TenantId) -> Result<(), BridgeError> {
        let Some(server) = self.store.server_of(tenant) else { return Ok(()) };
        if !self.recent.is_elsewhere(tenant, &server) {
            return Ok(());
        }
        let run = self.store.top(tenant).await?.run;
        let left = self.recent.beside(tenant, run);
        if left.is_empty() {
            self.recent.settle(tenant, &server, run);
            return Ok(());
        }
        let mut rest = left.as_slice();
        while !rest.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            while count < BATCH.min(rest.len()) && (count == 0 || bytes + rest[count].bytes() <= BATCH_BYTES)
            {
                bytes += rest[count].bytes();
                count += 1;
            }
            let (piece, later) = rest.split_at(count);
            self.store.append(tenant, (None, &[]), self.logs.options(), piece).await?;
            rest = later;
        }
        tracing::info!(%tenant, count = left.len(), "what a former master of Redis took was published again");
        self.metrics.bridge().carried(left.len());
        self.grown.add(tenant);
        self.recent.settle(tenant, &server, run);
        self.recent.keep(tenant, &server, run, left);
        Ok(())
    }

    /// What this node has appended lately for those who publish.
    pub fn recent(&self) -> Arc<Recent> {
        self.recent.clone()
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.busy.lock().expect("no panic while held").is_empty()
    }

    async fn work(self, tenant: TenantId) {
        loop {
            if let Err(error) = self.bring_along(&tenant).await {
                tracing::debug!(%error, %tenant, "what a former master took waits");
            }
            let Some(batch) = self.next(&tenant) else { return };
            let (requests, replies): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|own| (own.request, (own.reply, own._load))).unzip();
            let started = Instant::now();
            let server = self.store.server_of(&tenant);
            let appended = self.store.append(&tenant, (None, &[]), self.logs.options(), &requests).await;
            crash_point("append.after_commit");
            match appended {
                Ok((run, answers)) => {
                    self.metrics.log().committed(started.elapsed().as_secs_f64());
                    self.grown.add(&tenant);
                    count(&self.metrics, &requests, &answers);
                    self.recent.took(&self.store, (&tenant, server), run, requests, &answers);
                    for ((reply, load), answer) in replies.into_iter().zip(answers) {
                        // whoever publishes again when answered finds the room
                        drop(load);
                        drop(reply.send(answer.map(|outcomes| (run.epoch, outcomes))));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, %tenant, "the event log could not be written");
                    self.metrics.log().refused("unavailable");
                    let error = match error {
                        // it was asked, and may do it yet, or has done it
                        BridgeError::Away(_) | BridgeError::Unexpected(_) => LogError::InDoubt,
                        other => LogError::from(other),
                    };
                    replies.into_iter().for_each(|(reply, _)| drop(reply.send(Err(error.clone()))));
                }
            }
        }
    }

    /// The next batch; the lane ends where there is none.
    fn next(&self, tenant: &TenantId) -> Option<Vec<Waiting>> {
        let mut busy = self.busy.lock().expect("no panic while held");
        let queue = busy.get_mut(tenant)?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(first) = queue.front()
            && batch.len() < BATCH
            && (batch.is_empty() || bytes + first.bytes <= BATCH_BYTES)
        {
            bytes += first.bytes;
            batch.extend(queue.pop_front());
        }
        if batch.is_empty() {
            busy.remove(tenant);
            return None;
        }
        Some(batch)
    }
}

/// Counts what was published, by class.
pub(super) fn count(metrics: &Metrics, requests: &[Request], answers: &[Answer]) {
    for (request, answer) in requests.iter().zip(answers) {
        for (group, outcome) in request.groups.iter().zip(answer.iter().flatten()) {
            if let Appended::At { duplicate: false, .. } = outcome {
                let class = group.first().map_or(Class::Durable, |event| event.class);
                metrics.published(class.as_str(), group.len() as u64);
            }
        }
    }
}
