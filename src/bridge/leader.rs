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
use super::lanes::{BATCH_BYTES, count};
use super::lease::{Lease, LeaseKeeper};
use super::runs::Runs;
use super::store::{Request, Store};
use super::trimmer::Grown;
use crate::clock::jittered;
use crate::domain::TenantId;
use crate::log::{Joined, Joining, NodeNotice, Outgoing, TenantLogs, watch_outbox};
use crate::storage::{Database, OutboxRow, StoreError};
use crate::telemetry::{Metrics, crash_point};

/// A node wakes the leader, and the leader itself, at most once in this time.
const SPACING: Duration = Duration::from_millis(5);
/// How long a listener waits before it listens again.
const RELISTEN: Duration = Duration::from_millis(250);

/// How long a tenant whose log refuses is left alone, and one whose log is away or on its way.
const HOLD: Duration = Duration::from_secs(1);
const AWAY: Duration = Duration::from_millis(200);
/// A leader that has not reached some master for this long lets others try.
const UNREACHED: Duration = Duration::from_secs(10);

/// What other services are told whole is waited for so long by the rows that go out with it.
const WHOLE_WITHIN: Duration = Duration::from_millis(100);

type Lane = Vec<Row>;
/// Rows that can never be published, and why.
type Dead = (Vec<i64>, &'static str);

/// What goes out for one or more rows.
struct Row {
    /// The row that it is numbered by, and those that are told with it.
    id: i64,
    earlier: Vec<i64>,
    outgoing: Outgoing,
}

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
    /// Whose log refuses what it is given, and until when it is left alone: the others go on.
    held: HashMap<TenantId, Instant>,
    joining: Joining,
    /// Since when there is a master with rows waiting for it and no link to it.
    unreached: Option<Instant>,
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
            held: HashMap::new(),
            joining,
            unreached: None,
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
            self.unreached = None;
        }
        let limit = self.logs.options().relay_batch() as i64;
        let now = Instant::now();
        self.held.retain(|_, until| *until > now);
        let held: Vec<String> = self.held.keys().map(|tenant| tenant.as_str().to_owned()).collect();
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
        let (lanes, dead, is_cut) = self.sort(joined);
        for (ids, reason) in dead {
            for id in ids {
                self.bury(id, reason).await;
            }
        }
        let appends = lanes.into_iter().map(|(tenant, lane)| self.publish(tenant, lane, lease));
        let outcomes: Vec<_> = join_all(appends).await;
        let (mut all_well, mut is_useless) = (true, false);
        for (tenant, outcome) in outcomes {
            is_useless |= matches!(outcome, Err(BridgeError::Superseded | BridgeError::Unwilling(_)));
            match outcome {
                Ok(ids) => {
                    self.marked.insert(tenant, ids);
                }
                Err(error) => {
                    // what of it was appended all the same is asked before it is tried again
                    self.checked.remove(&tenant);
                    all_well &= self.hold(&tenant, &error);
                }
            }
        }
        if is_useless || self.unreached.is_some_and(|since| since.elapsed() >= UNREACHED) {
            // others may reach a better master
            self.unreached = None;
            self.keeper.step_aside().await;
            return None;
        }
        match (is_full || is_cut) && all_well {
            true => Some(Instant::now()),
            false => due.map(Instant::from_std),
        }
    }

    /// Rows by tenant, in the order of their commits, as many of each as one call carries; those that can never
    /// be published; whether some were left for the next time.
    fn sort(&self, joined: Vec<Joined>) -> (HashMap<TenantId, Lane>, Vec<Dead>, bool) {
        let (mut lanes, mut dead): (HashMap<_, Lane>, _) = (HashMap::new(), Vec::new());
        let (mut bytes, mut is_cut) = (HashMap::<TenantId, usize>::new(), false);
        // rows are stamped by the wall clock of the node that wrote them
        let (most, now) = (self.logs.options().most_message_bytes(), self.logs.clock().now());
        for own in joined {
            match Outgoing::read(&own.row, most, now) {
                Ok(outgoing) => {
                    let taken = bytes.entry(outgoing.tenant.clone()).or_default();
                    let is_first = *taken == 0;
                    *taken += outgoing.event.bytes().max(1);
                    if is_first || *taken <= BATCH_BYTES {
                        let Joined { row, earlier } = own;
                        let row = Row { id: row.id, earlier, outgoing };
                        lanes.entry(row.outgoing.tenant.clone()).or_default().push(row);
                    } else {
                        is_cut = true;
                    }
                }
                Err(reason) => dead.push((own.ids().collect(), reason)),
            }
        }
        (lanes, dead, is_cut)
    }

    /// Leaves a tenant alone for a while whose log refuses what it is given, or is away; whether the others may go on at once.
    fn hold(&mut self, tenant: &TenantId, error: &BridgeError) -> bool {
        let time = match error {
            BridgeError::Refused(_) | BridgeError::Unexpected(_) => {
                tracing::error!(%error, %tenant, "the log refuses what the outbox holds for it");
                HOLD
            }
            BridgeError::Moving(_) | BridgeError::Unwilling(_) => {
                tracing::warn!(%error, %tenant, "the outbox waits for the log");
                AWAY
            }
            _ if !self.store.is_linked_for(tenant) => {
                self.unreached.get_or_insert_with(Instant::now);
                AWAY
            }
            _ => {
                tracing::debug!(%error, %tenant, "the outbox could not be published");
                return false;
            }
        };
        self.held.insert(tenant.clone(), Instant::now() + time);
        true
    }

    /// Those rows that are not published yet: the others, which the log remembers, are marked, so that nothing is
    /// joined to them.
    async fn not_remembered(&mut self, mut rows: Vec<OutboxRow>) -> Vec<OutboxRow> {
        let tenants: HashSet<TenantId> =
            rows.iter().filter_map(|row| TenantId::parse(&row.tenant).ok()).collect();
        let unchecked = tenants.iter().filter(|tenant| !self.checked.contains(*tenant));
        let (own, all) = (&*self, &rows);
        let asks = unchecked.map(|tenant| async move { (tenant, own.remembered(tenant, all).await) });
        for (tenant, answer) in join_all(asks).await {
            match answer {
                Ok(remembered) => {
                    rows.retain(|row| !remembered.contains(&row.id));
                    self.marked.insert(tenant.clone(), remembered);
                    self.checked.insert(tenant.clone());
                }
                // they are remembered a little longer, and met again
                Err(error) => {
                    tracing::debug!(%error, %tenant, "what the log remembers could not be marked");
                }
            }
        }
        rows
    }

    /// The ids that the log remembers; their rows are gone, or dead.
    async fn remembered(&self, tenant: &TenantId, rows: &[OutboxRow]) -> Result<Vec<i64>, BridgeError> {
        let (run, ids) = self.store.relayed(tenant).await?;
        if ids.is_empty() {
            return Ok(ids);
        }
        let (most, now) = (self.logs.options().most_message_bytes(), self.logs.clock().now());
        for row in rows.iter().filter(|row| row.tenant == tenant.as_str() && ids.contains(&row.id)) {
            // what was told in its place is in the log
            if let Ok(Outgoing { dead: Some(reason), .. }) = Outgoing::read(row, most, now) {
                self.bury(row.id, reason).await;
            }
        }
        self.runs.mark(tenant, run, ids.clone()).await?;
        Ok(ids)
    }

    /// What other services are told of these rows in the place of their events, as far as that is known in time.
    async fn mirrored(&self, tenant: &TenantId, rows: &Lane) -> HashMap<i64, String> {
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
        rows: Lane,
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
        self.metrics.outbox_published(published.len() as u64);
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
            Ok(()) => self.metrics.outbox_dead(),
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
