use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::error::BridgeError;
use super::holds::Holds;
use super::lanes::count;
use super::lease::{Lease, LeaseKeeper};
use super::rows::{Row, Sorted};
use super::runs::{Run, Runs};
use super::store::{Request, Store};
use super::trimmer::Grown;
use crate::clock::jittered;
use crate::domain::TenantId;
use crate::log::{Joining, NodeNotice, Outgoing, TenantLogs, watch_outbox};
use crate::storage::{Database, OutboxRow, StoreError};
use crate::telemetry::{Metrics, crash_point};

/// A node wakes the leader, and the leader itself, at most once in this time.
const SPACING: Duration = Duration::from_millis(5);
/// How long a listener waits before it listens again.
const RELISTEN: Duration = Duration::from_millis(250);

/// What other services are told whole is waited for so long by the rows that go out with it.
const WHOLE_WITHIN: Duration = Duration::from_millis(100);

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

/// Publishes the outbox of the cluster while this node holds the lease.
pub(super) struct Leader {
    database: Database,
    store: Store,
    grown: Grown,
    runs: Arc<Runs>,
    logs: Arc<TenantLogs>,
    metrics: Arc<Metrics>,
    keeper: Arc<LeaseKeeper>,
    lease: watch::Receiver<Option<Lease>>,
    /// The fence that `marked` and `checked` belong to.
    fence: u64,
    /// Outbox ids whose rows are gone and which the log still remembers.
    marked: HashMap<TenantId, Vec<i64>>,
    holds: Holds,
    joining: Joining,
    /// Whose log has been asked what an earlier leader left it to remember.
    checked: HashSet<TenantId>,
}

impl Leader {
    pub fn start(
        database: Database,
        (store, grown, runs): (Store, Grown, Arc<Runs>),
        logs: Arc<TenantLogs>,
        metrics: Arc<Metrics>,
    ) -> (Leadership, Arc<LeaseKeeper>, watch::Receiver<Option<Lease>>) {
        let (stop, stops) = mpsc::channel(1);
        let (keeper, lease) = LeaseKeeper::new(database.clone(), store.commands.clone(), metrics.clone());
        let joining = Joining::new(logs.options().joins());
        let own = Leader {
            database,
            store,
            grown,
            runs,
            logs,
            metrics,
            keeper: keeper.clone(),
            lease: lease.clone(),
            fence: 0,
            marked: HashMap::new(),
            holds: Holds::default(),
            joining,
            checked: HashSet::new(),
        };
        tokio::spawn(own.run(stops));
        (Leadership(stop), keeper, lease)
    }

    async fn run(mut self, mut stops: mpsc::Receiver<oneshot::Sender<()>>) {
        let (woken, mut wakes) = mpsc::channel(1);
        // dropped, and so ended, with this future
        let mut beside = JoinSet::new();
        beside.spawn(listen(self.database.clone(), woken));
        beside.spawn(watch_outbox(self.logs.clone()));
        let keeping = beside.spawn(self.keeper.clone().run());
        let mut looked = Instant::now() - SPACING;
        // when rows are due that have waited for others
        let mut due = None;
        let done = loop {
            let mut is_own = false;
            tokio::select! {
                done = stops.recv() => break done,
                () = self.logs.outbox_filled() => is_own = true,
                () = self.logs.leader_woken() => {}
                () = sleep_until(due.unwrap_or(looked)), if due.is_some() => {}
                Some(()) = wakes.recv() => {}
                Ok(()) = self.lease.changed() => {
                    if self.good_lease().is_none_or(|own| own.fence == self.fence) {
                        continue;
                    }
                }
            }
            sleep_until(looked + SPACING).await;
            looked = Instant::now();
            match self.good_lease() {
                Some(_) => {
                    due = self.relay(true).await;
                    while due.is_some_and(|at| at <= Instant::now()) {
                        due = self.relay(true).await;
                    }
                }
                None if is_own => self.wake_leader().await,
                None => {}
            }
        };
        keeping.abort();
        while self.relay(false).await.is_some() {}
        if self.lease.borrow().is_some() {
            self.keeper.give_back().await;
        }
        if let Some(done) = done {
            // whoever asked may have gone
            let _ = done.send(());
        }
    }

    fn good_lease(&self) -> Option<Lease> {
        self.lease.borrow().filter(Lease::is_good)
    }

    /// Publishes some of what waits, if this node leads; when there is more, if that is known. Rows that may wait for
    /// others do so where `may_wait`.
    async fn relay(&mut self, may_wait: bool) -> Option<Instant> {
        let lease = self.good_lease()?;
        if lease.fence != self.fence {
            // what was before is another leader's, even where that was this node
            self.fence = lease.fence;
            self.marked.clear();
            self.checked.clear();
        }
        if self.store.commands.is_linked_everywhere() {
            self.holds.all_reached();
        }
        let limit = self.logs.options().relay_batch() as i64;
        let (now, held) = (Instant::now(), self.holds.names());
        let read = |db: Database| async move {
            crate::read!(db, |conn, q| Ok::<_, StoreError>(q::outbox::waiting(conn, &held, limit).await?))
        };
        let rows = match self.database.run(read).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::debug!(%error, "the outbox could not be read");
                return None;
            }
        };
        if rows.is_empty() {
            return None;
        }
        crash_point("relay.before_append");
        let is_full = rows.len() as i64 == limit;
        let rows = self.not_remembered(rows).await;
        let (joined, due) = self.joining.take(rows, now.into_std(), may_wait && !is_full);
        let most = self.logs.options().most_message_bytes();
        let Sorted { lanes, dead, is_cut } = Sorted::of(joined, most, self.logs.clock().now());
        for (ids, reason) in dead {
            for id in ids {
                self.bury(id, reason).await;
            }
        }
        let appends = lanes.into_iter().map(|(tenant, lane)| self.publish(tenant, lane, lease));
        let outcomes: Vec<_> = join_all(appends).await;
        let mut all_well = true;
        for (tenant, outcome) in outcomes {
            match outcome {
                Ok(ids) => {
                    self.marked.insert(tenant, ids);
                }
                Err(error) => {
                    // what of it was appended all the same is asked before it is tried again
                    self.checked.remove(&tenant);
                    let is_linked = self.store.is_linked_for(&tenant);
                    all_well &= self.holds.hold(&tenant, &error, is_linked);
                }
            }
        }
        if self.holds.take_useless() {
            tracing::info!("a master that others may have a better one for takes no outbox rows");
            self.keeper.step_aside().await;
            return None;
        }
        match (is_full || is_cut) && all_well {
            true => Some(Instant::now()),
            false => due.map(Instant::from_std),
        }
    }

    /// Those rows that are not published yet: the others, which the log remembers, are marked, so that nothing is
    /// joined to them; where it cannot be asked the tenant's wait.
    async fn not_remembered(&mut self, mut rows: Vec<OutboxRow>) -> Vec<OutboxRow> {
        let tenants: HashSet<TenantId> =
            rows.iter().filter_map(|row| TenantId::parse(&row.tenant).ok()).collect();
        let unchecked: Vec<&TenantId> =
            tenants.iter().filter(|tenant| !self.checked.contains(*tenant)).collect();
        let asked = join_all(unchecked.iter().map(|tenant| self.store.relayed(tenant))).await;
        for (tenant, answer) in unchecked.into_iter().zip(asked) {
            let outcome = match answer {
                Ok((run, ids)) => {
                    let (known, others): (Vec<_>, Vec<_>) = rows
                        .into_iter()
                        .partition(|row| row.tenant == tenant.as_str() && ids.contains(&row.id));
                    rows = others;
                    self.settle(tenant, run, ids, &known).await
                }
                Err(error) => {
                    rows.retain(|row| row.tenant != tenant.as_str());
                    Err(error)
                }
            };
            match outcome {
                Ok(ids) => {
                    self.marked.insert(tenant.clone(), ids);
                    self.checked.insert(tenant.clone());
                }
                // they are remembered a little longer, and met again: a link that has just broken may still seem to be there
                Err(error) => drop(self.holds.hold(tenant, &error, false)),
            }
        }
        rows
    }

    /// The rows of these ids, which the log remembers, are marked, or dead; `known` are those that still wait.
    async fn settle(
        &self,
        tenant: &TenantId,
        run: Run,
        ids: Vec<i64>,
        known: &[OutboxRow],
    ) -> Result<Vec<i64>, BridgeError> {
        if ids.is_empty() {
            return Ok(ids);
        }
        let (most, now) = (self.logs.options().most_message_bytes(), self.logs.clock().now());
        for row in known {
            // what was told in its place is in the log
            if let Ok(Outgoing { dead: Some(reason), .. }) = Outgoing::read(row, most, now) {
                self.bury(row.id, reason).await;
            }
        }
        self.runs.mark(tenant, run, ids.clone()).await?;
        Ok(ids)
    }

    /// What other services are told of these rows in the place of their events, as far as that is known in time.
    async fn mirrored(&self, tenant: &TenantId, rows: &[Row]) -> HashMap<i64, String> {
        let mut found = HashMap::new();
        if !self.store.mirrors() {
            return found;
        }
        let whole = |row| async move {
            let Row { id, outgoing, .. }: &Row = row;
            Some((*id, self.logs.whole(tenant, &outgoing.event).await?))
        };
        let mut looks: FuturesUnordered<_> = rows.iter().map(whole).collect();
        let in_time = async {
            while let Some(told) = looks.next().await {
                found.extend(told);
            }
        };
        // what is not known by then goes out by its beginning
        let _ = timeout(WHOLE_WITHIN, in_time).await;
        found
    }

    /// Appends a tenant's rows and marks them; their ids, which the log remembers until it is told that they
    /// are marked.
    async fn publish(
        &self,
        tenant: TenantId,
        rows: Vec<Row>,
        lease: Lease,
    ) -> (TenantId, Result<Vec<i64>, BridgeError>) {
        let (mut ids, mut dead, mut requests) = (Vec::new(), Vec::new(), Vec::new());
        let mut mirrored = self.mirrored(&tenant, &rows).await;
        for Row { id, earlier, outgoing: Outgoing { event, source, dead: reason, .. } } in rows {
            dead.extend(reason.map(|reason| (id, reason)));
            let request = |groups, id, mirrored| Request {
                groups,
                source: source.clone(),
                idempotency: None,
                outbox_id: Some(id),
                mirrored,
            };
            // those that are told with it leave their ids, and nothing else
            requests.extend(earlier.iter().map(|id| request(Vec::new(), *id, None)));
            requests.push(request(vec![vec![event]], id, mirrored.remove(&id)));
            ids.extend(earlier.into_iter().chain([id]));
        }
        let marked = self.marked.get(&tenant).map_or(&[][..], Vec::as_slice);
        let appended =
            self.store.append(&tenant, (Some(lease.fence), marked), self.logs.options(), &requests);
        let (run, answers) = match appended.await {
            Ok(answered) => answered,
            Err(error) => {
                self.refused(&error).await;
                return (tenant, Err(error));
            }
        };
        self.grown.add(&tenant);
        count(&self.metrics, &requests, &answers);
        crash_point("relay.before_mark");
        for (id, reason) in &dead {
            self.bury(*id, reason).await;
        }
        let published: Vec<i64> =
            ids.iter().copied().filter(|id| dead.iter().all(|(own, _)| own != id)).collect();
        self.metrics.log().outbox_published(published.len() as u64);
        let marked = self.runs.mark(&tenant, run, published).await;
        (tenant, marked.map(|()| ids))
    }

    /// An append that a later fence has refused: another node leads, or the database has forgotten how far
    /// fences had risen.
    async fn refused(&self, error: &BridgeError) {
        if let BridgeError::Fenced(stored) = error {
            self.metrics.bridge().fenced();
            if let Err(error) = self.keeper.rise_above(*stored).await {
                tracing::debug!(%error, "the fence could not be raised");
            }
        }
    }

    /// Keeps a row that can never be published.
    async fn bury(&self, id: i64, reason: &'static str) {
        tracing::error!(outbox_id = id, reason, "an outbox row can never be published");
        let mark = move |db: Database| async move {
            crate::write_tx!(db, |conn, q| Ok(q::outbox::mark_dead(conn, id, reason).await?))
        };
        match self.database.run(mark).await {
            Ok(()) => self.metrics.log().outbox_dead(),
            // it is met again
            Err(error) => tracing::debug!(%error, "a dead row could not be marked"),
        }
    }

    /// By way of Redis, which is quicker, or else of the database.
    async fn wake_leader(&self) {
        if self.store.tell_nodes(&NodeNotice::OutboxFilled).await.is_ok() {
            return;
        }
        if let Err(error) = self.database.run(|db| async move { db.wake_leader().await }).await {
            // it looks by itself before long
            tracing::debug!(%error, "the leader could not be woken");
        }
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
        sleep(jittered(RELISTEN, 0.5)).await;
    }
}
