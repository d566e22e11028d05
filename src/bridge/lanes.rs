use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::BridgeError;
use super::store::{Answer, Request, Store};
use super::trimmer::Grown;
use crate::domain::{Class, Epoch, TenantId};
use crate::log::{Appended, Load, LogError, TenantLogs};
use crate::telemetry::{Metrics, crash_point};

/// Requests that one call carries, at most.
const BATCH: usize = 512;
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
        Lanes { store, grown, logs, runtime, metrics, busy: Arc::default() }
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
        let begins = {
            let mut busy = self.busy.lock().expect("no panic while held");
            let begins = !busy.contains_key(&tenant);
            busy.entry(tenant.clone()).or_default().push_back(waiting);
            begins
        };
        if begins {
            self.runtime.spawn(self.clone().work(tenant));
        }
        answer.await.map_err(|_| LogError::Unavailable("the log has stopped".into()))?
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.busy.lock().expect("no panic while held").is_empty()
    }

    async fn work(self, tenant: TenantId) {
        while let Some(batch) = self.next(&tenant) {
            let (requests, replies): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|own| (own.request, (own.reply, own._load))).unzip();
            let (started, was_linked) = (Instant::now(), self.store.commands.is_linked());
            let appended = self.store.append(&tenant, (None, &[]), self.logs.options(), &requests).await;
            crash_point("append.after_commit");
            match appended {
                Ok((epoch, answers)) => {
                    self.metrics.log_committed(started.elapsed().as_secs_f64());
                    self.grown.add(&tenant);
                    count(&self.metrics, &requests, &answers);
                    for ((reply, load), answer) in replies.into_iter().zip(answers) {
                        // whoever publishes again when answered finds the room
                        drop(load);
                        drop(reply.send(answer.map(|outcomes| (epoch, outcomes))));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, %tenant, "the event log could not be written");
                    self.metrics.log_refused("unavailable");
                    let error = match error {
                        // it was asked, and may do it yet
                        BridgeError::Away(_) if was_linked => LogError::InDoubt,
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
