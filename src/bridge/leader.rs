use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::error::BridgeError;
use super::store::{Request, Store};
use crate::clock::{jittered, random_u64};
use crate::domain::TenantId;
use crate::log::{Outgoing, TenantLogs};
use crate::storage::{Database, OutboxRow, StoreError};
use crate::telemetry::{Metrics, crash_point};

/// A lease is good for this long on the database's clock.
const LEASE: Duration = Duration::from_millis(1500);
const RENEWAL: Duration = Duration::from_millis(500);
/// The leader stops this much before its lease runs out, for whatever its clock and the link lose.
const MARGIN: Duration = Duration::from_millis(200);
/// How long the others wait before they ask for the lease again.
const ATTEMPT: Duration = Duration::from_millis(250);
/// The outbox is looked at without being woken.
const POLL: Duration = Duration::from_millis(100);
/// A node wakes the leader, and the leader itself, at most once in this time.
const SPACING: Duration = Duration::from_millis(5);
const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// Entries that one call removes, at most.
const TRIM_BATCH: usize = 500;

/// Ends this node's part in publishing the outbox.
pub(super) struct Leadership(mpsc::Sender<oneshot::Sender<()>>);

impl Leadership {
    /// Publishes what waits, if this node leads, and gives the lease back.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.0.send(done).await.is_ok() {
            // one that has ended has nothing left to do
            let _ = stopped.await;
        }
    }
}

/// Publishes the outbox of the cluster while this node holds the lease, and trims the logs.
pub(super) struct Leader {
    database: Database,
    store: Store,
    logs: Arc<TenantLogs>,
    metrics: Arc<Metrics>,
    holder: String,
    /// Outbox ids whose rows are gone and which the log still remembers.
    marked: HashMap<TenantId, Vec<i64>>,
    /// Whose logs are trimmed: those that this leader has appended to, or that this node follows.
    known: std::collections::HashSet<TenantId>,
}

/// How long a lease is good, by this node's clock.
#[derive(Clone, Copy)]
struct Lease {
    fence: u64,
    until: Instant,
}

impl Leader {
    pub fn start(
        database: Database,
        store: Store,
        logs: Arc<TenantLogs>,
        metrics: Arc<Metrics>,
    ) -> Leadership {
        let (stop, stops) = mpsc::channel(1);
        let holder = format!("{:016x}", random_u64());
        let (marked, known) = (HashMap::new(), Default::default());
        let own = Leader { database, store, logs, metrics, holder, marked, known };
        tokio::spawn(own.run(stops));
        Leadership(stop)
    }

    async fn run(mut self, mut stops: mpsc::Receiver<oneshot::Sender<()>>) {
        let (woken, mut wakes) = mpsc::channel(1);
        let listening = tokio::spawn(listen(self.database.clone(), woken));
        let mut lease: Option<Lease> = None;
        let mut renew_at = Instant::now();
        let mut trim = interval(TRIM_INTERVAL);
        trim.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look_at = Instant::now();
        let done = loop {
            tokio::select! {
                done = stops.recv() => break done,
                () = sleep_until(renew_at) => {
                    lease = self.renew(lease).await;
                    renew_at = Instant::now() + if lease.is_some() { RENEWAL } else { jittered(ATTEMPT, 0.4) };
                }
                _ = trim.tick(), if lease.is_some() => self.trim(lease).await,
                () = self.logs.outbox_filled() => match lease {
                    Some(_) => look_at = look_at.min(Instant::now() + SPACING),
                    None => self.wake_leader().await,
                },
                Some(()) = wakes.recv() => look_at = look_at.min(Instant::now() + SPACING),
                () = sleep_until(look_at) => {
                    let more = match lease {
                        Some(own) if Instant::now() < own.until => self.relay(own).await,
                        _ => false,
                    };
                    look_at = Instant::now() + if more { Duration::ZERO } else { POLL };
                }
            }
        };
        if let Some(own) = lease {
            while Instant::now() < own.until && self.relay(own).await {}
            if let Err(error) = self
                .database
                .run({
                    let holder = self.holder.clone();
                    move |db| async move { db.give_lease_back(&holder).await }
                })
                .await
            {
                tracing::debug!(%error, "the lease could not be given back");
            }
            self.metrics.bridge().leads(false);
        }
        listening.abort();
        if let Some(done) = done {
            // whoever asked may have gone
            let _ = done.send(());
        }
    }

    async fn renew(&mut self, former: Option<Lease>) -> Option<Lease> {
        let (asked, holder) = (Instant::now(), self.holder.clone());
        let taken =
            self.database.run(move |db| async move { db.take_lease(&holder, LEASE.as_secs_f64()).await });
        let lease = match taken.await {
            Ok(fence) => fence.map(|fence| Lease { fence, until: asked + LEASE - MARGIN }),
            Err(error) => {
                tracing::debug!(%error, "the lease could not be asked for");
                // good for as long as it was
                former.filter(|own| Instant::now() < own.until)
            }
        };
        match (former, lease) {
            (None, Some(own)) => {
                tracing::info!(fence = own.fence, "this node publishes the outbox");
                self.metrics.bridge().leads(true);
                self.marked.clear();
            }
            (Some(_), None) => {
                tracing::info!("another node publishes the outbox");
                self.metrics.bridge().leads(false);
            }
            _ => {}
        }
        lease
    }

    /// Publishes some of what waits; true when there may be more at once.
    async fn relay(&mut self, lease: Lease) -> bool {
        let limit = self.logs.options().relay_batch() as i64;
        let read = |db: Database| async move {
            crate::read!(db, |conn, q| Ok::<_, StoreError>((
                q::outbox::waiting(conn, limit).await?,
                q::outbox::backlog(conn).await?
            )))
        };
        let (rows, backlog) = match self.database.run(read).await {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(%error, "the outbox could not be read");
                return false;
            }
        };
        let now = self.logs.clock().steady();
        let lag = backlog.1.map_or(0, |oldest| (now.micros() - oldest).max(0));
        self.metrics.outbox(backlog.0, lag as f64 / 1e6);
        if rows.is_empty() {
            return false;
        }
        crash_point("relay.before_append");
        let is_full = rows.len() as i64 == limit;
        let (lanes, dead) = self.sort(rows);
        for (id, reason) in dead {
            self.bury(id, reason).await;
        }
        let appends = lanes.into_iter().map(|(tenant, lane)| self.publish(tenant, lane, lease));
        let outcomes: Vec<_> = join_all(appends).await;
        let mut all_well = true;
        for (tenant, outcome) in outcomes {
            match outcome {
                Ok(ids) => {
                    self.known.insert(tenant.clone());
                    self.marked.insert(tenant, ids);
                }
                Err(error) => {
                    tracing::debug!(%error, %tenant, "the outbox could not be published");
                    all_well = false;
                }
            }
        }
        is_full && all_well
    }

    /// Rows by tenant, in the order of their commits, and those that can never be published.
    fn sort(
        &self,
        rows: Vec<OutboxRow>,
    ) -> (HashMap<TenantId, Vec<(i64, Outgoing)>>, Vec<(i64, &'static str)>) {
        let (mut lanes, mut dead): (HashMap<_, Vec<_>>, _) = (HashMap::new(), Vec::new());
        let (most, now) = (self.logs.options().most_message_bytes(), self.logs.clock().steady());
        for row in rows {
            match Outgoing::read(&row, most, now) {
                Ok(outgoing) => lanes.entry(outgoing.tenant.clone()).or_default().push((row.id, outgoing)),
                Err(reason) => dead.push((row.id, reason)),
            }
        }
        (lanes, dead)
    }

    /// Appends a tenant's rows and marks them; their ids, which the log remembers until it is told that they
    /// are marked.
    async fn publish(
        &self,
        tenant: TenantId,
        rows: Vec<(i64, Outgoing)>,
        lease: Lease,
    ) -> (TenantId, Result<Vec<i64>, BridgeError>) {
        let (mut ids, mut dead, mut requests) = (Vec::new(), Vec::new(), Vec::new());
        for (id, Outgoing { event, source, dead: reason, .. }) in rows {
            dead.extend(reason.map(|reason| (id, reason)));
            ids.push(id);
            requests.push(Request {
                groups: vec![vec![event]],
                source,
                idempotency: None,
                outbox_id: Some(id),
            });
        }
        let marked = self.marked.get(&tenant).map_or(&[][..], Vec::as_slice);
        let appended =
            self.store.append(&tenant, (Some(lease.fence), marked), self.logs.options(), &requests);
        if let Err(error) = appended.await {
            if matches!(error, BridgeError::Fenced) {
                self.metrics.bridge().fenced();
            }
            return (tenant, Err(error));
        }
        crash_point("relay.before_mark");
        for (id, reason) in &dead {
            self.bury(*id, reason).await;
        }
        let published: Vec<i64> =
            ids.iter().copied().filter(|id| dead.iter().all(|(own, _)| own != id)).collect();
        self.metrics.outbox_published(published.len() as u64);
        let mark = move |db: Database| async move {
            crate::write_tx!(db, |conn, q| Ok(q::outbox::mark_published(conn, published).await?))
        };
        let outcome = self.database.run(mark).await.map(|()| ids);
        (tenant, outcome.map_err(|error| BridgeError::Away(error.to_string())))
    }

    /// Keeps a row that can never be published.
    async fn bury(&self, id: i64, reason: &'static str) {
        tracing::error!(outbox_id = id, reason, "an outbox row can never be published");
        let mark = move |db: Database| async move {
            crate::write_tx!(db, |conn, q| Ok(q::outbox::mark_dead(conn, id, reason).await?))
        };
        match self.database.run(mark).await {
            Ok(()) => self.metrics.outbox_dead(),
            // it is met again
            Err(error) => tracing::debug!(%error, "a dead row could not be marked"),
        }
    }

    /// Removes what retention no longer keeps.
    async fn trim(&mut self, lease: Option<Lease>) {
        let Some(lease) = lease.filter(|own| Instant::now() < own.until) else { return };
        self.known.extend(self.logs.all().iter().map(|log| log.tenant().clone()));
        for tenant in &self.known {
            match self.store.trim(tenant, lease.fence, self.logs.options(), TRIM_BATCH).await {
                Ok((count, _)) => self.metrics.log_trimmed(count),
                Err(error) => {
                    tracing::debug!(%error, %tenant, "the log could not be trimmed");
                    return;
                }
            }
        }
    }

    async fn wake_leader(&self) {
        if let Err(error) = self.database.run(|db| async move { db.wake_leader().await }).await {
            // it looks by itself before long
            tracing::debug!(%error, "the leader could not be woken");
        }
        sleep(SPACING).await;
    }
}

/// Passes wake-ups of other nodes on.
async fn listen(database: Database, woken: mpsc::Sender<()>) {
    loop {
        if let Ok(mut wakes) = database.outbox_wakes().await {
            while wakes.next().await.is_ok() {
                // one that waits is enough for any number
                let _ = woken.try_send(());
            }
        }
        sleep(jittered(ATTEMPT, 0.5)).await;
    }
}
