use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep};

use super::commands::Commands;
use super::error::BridgeError;
use super::figures::FigureKeeper;
use super::ingest::{Ingest, Ingestion};
use super::interop::Interop;
use super::keys::Keys;
use super::lanes::Lanes;
use super::leader::{Leader, Leadership};
use super::listener::Means;
use super::mirror::Mirror;
use super::options::BridgeOptions;
use super::redis_bridge_actor::{Await, BridgeThread, Linked, Open, RedisBridgeActor};
use super::runs::Runs;
use super::servers::{Connector, Lookout};
use super::store::{Request, Store};
use super::subscriber::Subscriber;
use super::trimmer::{Grown, Trimmer};
use crate::actor_kit::Port;
use crate::clock::random_u64;
use crate::domain::{Cursor, Epoch, Position, Selector, TenantId};
use crate::log::{
    AppendRequest, Appended, Load, LogError, LogHome, NewEvent, NodeNotice, Outgoing, PageLimit, Source,
    StoredPage, TenantLog, TenantLogs,
};
use crate::storage::{Database, OutboxRow};
use crate::telemetry::Metrics;
use crate::wire::Event;

/// What is read at once when a cold window is filled.
const WARM_PAGE: PageLimit = PageLimit { events: 500, bytes: 4 << 20 };
/// What one request may take in the log, bytes: Redis does nothing else while it is appended, and ends
/// subscribers that fall further behind than 32 MB.
const MOST_BYTES: usize = 16 << 20;
/// Pages of the past that a node reads at once: whoever comes back late does not keep Redis from what is new.
const READS: usize = 4;
/// How long the floors of a log are taken for what they were.
const FLOORS_GOOD: Duration = Duration::from_secs(1);
/// How often the log's clock is compared with the one of Redis.
const STEERING: Duration = Duration::from_secs(5);

/// The log of a cluster: kept by Redis, filled from the outbox by whichever node leads.
pub struct Clustered {
    logs: Arc<TenantLogs>,
    store: Store,
    bridge: Port<RedisBridgeActor>,
    lanes: Lanes,
    leadership: Leadership,
    ingestion: Option<Ingestion>,
    runtime: Handle,
    /// Pages of the past that are read at once.
    reading: Semaphore,
}

impl Clustered {
    /// Connects and begins to follow; must run on the storage runtime.
    pub async fn start(
        options: BridgeOptions,
        database: Database,
        logs: Arc<TenantLogs>,
        metrics: Arc<Metrics>,
        thread: &BridgeThread,
    ) -> Result<Self, BridgeError> {
        let connector = Connector::new(&options.access)?;
        let lookout = Lookout::start(&connector, metrics.clone()).await?;
        let commands = Commands::connect(connector.clone(), lookout, metrics.clone()).await?;
        let keys = Keys::new(&options.prefix);
        super::check::check(&commands, &keys).await?;
        let mirrors = options.mirror.is_some();
        let mirror = options.mirror.map(|own| Mirror {
            source: keys.source().to_owned(),
            user_events: own.user_events,
            all_rankings: own.all_rankings,
        });
        let store = Store::new(commands.clone(), keys.clone(), logs.clock(), mirror);
        store.steer().await?;
        if options.new_epoch {
            super::check::renew_logs(&commands, &keys).await?;
        }
        let runtime = Handle::current();
        // nodes that were given one name must not take each other's messages to themselves for their own
        let own_name = format!("{}.{:08x}", options.server_id, random_u64() as u32);
        let (subscriptions, subscriber) = Subscriber::new(Means {
            connector: connector.clone(),
            commands: commands.clone(),
            keys: keys.clone(),
            own_name: own_name.as_str().into(),
            nodes: keys.nodes(),
        });
        let runs = Arc::new(Runs::new(database.clone()));
        runtime.spawn(runs.clone().confirm());
        let means = (store.clone(), subscriptions, runs.clone());
        let (bridge, heard) =
            RedisBridgeActor::start(thread, means, logs.clone(), runtime.clone(), metrics.clone());
        runtime.spawn(subscriber.run(heard));
        runtime.spawn(look_after(store.clone(), bridge.clone()));
        let grown = Grown::default();
        let lanes =
            Lanes::new((store.clone(), grown.clone()), logs.clone(), runtime.clone(), metrics.clone());
        let (leadership, keeper, lease) =
            Leader::start(database, (store.clone(), grown.clone(), runs), logs.clone(), metrics.clone());
        let ingestion = options.ingest.map(|own| {
            let interop = Interop {
                channels: own.channels,
                source: keys.source().to_owned(),
                message_bytes: logs.options().most_message_bytes(),
                depth: own.depth,
            };
            let ingest = Ingest {
                connector,
                store: store.clone(),
                grown: grown.clone(),
                logs: logs.clone(),
                metrics: metrics.clone(),
                keeper: keeper.clone(),
                lease: lease.clone(),
                recent: lanes.recent(),
                interop,
                tenant: own.tenant,
                probe: keys.ingest_probe(&own_name),
            };
            ingest.start()
        });
        let figures = FigureKeeper {
            store: store.clone(),
            metrics: metrics.clone(),
            lease: lease.clone(),
            own_name,
            mirrors,
        };
        runtime.spawn(figures.run());
        let trimmer = Trimmer::new(store.clone(), logs.clone(), metrics, (keeper, lease), grown);
        runtime.spawn(trimmer.run());
        let reading = Semaphore::new(READS);
        Ok(Clustered { logs, store, bridge, lanes, leadership, ingestion, runtime, reading })
    }

    async fn ask(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<Arc<TenantLog>, LogError>>) -> Asked,
    ) -> Result<Arc<TenantLog>, LogError> {
        let (reply, answer) = oneshot::channel();
        let told = match message(reply) {
            Asked::Open(open) => self.bridge.tell(open),
            Asked::Await(wait) => self.bridge.tell(wait),
        };
        told.map_err(|_| self.logs.overloaded())?;
        answer.await.map_err(|_| LogError::Unavailable("the log is not followed".into()))?
    }

    async fn open(&self, tenant: &TenantId) -> Result<Arc<TenantLog>, LogError> {
        match self.logs.tenant(tenant) {
            Some(log) => Ok(log),
            None => self.ask(|opener| Asked::Open(Open { tenant: tenant.clone(), opener })).await,
        }
    }

    /// A log that knows everything up to the cursor, or that nothing of it is to be had.
    async fn open_at(&self, tenant: &TenantId, cursor: Option<Cursor>) -> Result<Arc<TenantLog>, LogError> {
        let log = self.open(tenant).await?;
        match cursor {
            Some(Cursor::At(position)) if position.epoch != log.epoch() || position.seq > log.head().seq => {
                let wait = |waiter| Asked::Await(Await { tenant: tenant.clone(), position, waiter });
                self.ask(wait).await
            }
            _ => Ok(log),
        }
    }

    async fn append(
        &self,
        request: AppendRequest,
        source: Source,
        load: Load,
    ) -> Result<(Epoch, Vec<Appended>), LogError> {
        let bytes = request.bytes();
        if bytes > MOST_BYTES {
            return Err(LogError::TooLarge { bytes, most: MOST_BYTES });
        }
        let AppendRequest { tenant, groups, idempotency } = request;
        let request = Request { groups, source, idempotency, outbox_id: None, mirrored: None };
        self.lanes.append(tenant, request, bytes, load).await
    }
}

enum Asked {
    Open(Open),
    Await(Await),
}

/// Keeps the log's clock on the one of Redis, and tells the bridge when commands can be carried out again.
async fn look_after(store: Store, bridge: Port<RedisBridgeActor>) {
    let mut link = store.commands.watch();
    while bridge.is_open() {
        tokio::select! {
            () = sleep(STEERING) => {}
            changed = link.changed() => {
                if changed.is_err() {
                    return;
                }
                if store.commands.is_linked() {
                    // a bridge that is busy looks at every log's top by itself
                    let _ = bridge.tell(Linked);
                }
            }
        }
        if let Err(error) = store.steer().await {
            tracing::debug!(%error, "the clock of Redis could not be read");
        }
    }
}

impl LogHome for Clustered {
    fn open<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<Arc<TenantLog>, LogError>> {
        Clustered::open(self, tenant).boxed()
    }

    fn open_at<'a>(
        &'a self,
        tenant: &'a TenantId,
        cursor: Option<Cursor>,
    ) -> BoxFuture<'a, Result<Arc<TenantLog>, LogError>> {
        Clustered::open_at(self, tenant, cursor).boxed()
    }

    fn learn_floors<'a>(&'a self, log: &'a Arc<TenantLog>) -> BoxFuture<'a, Result<(), LogError>> {
        let learn = async move {
            // whoever finds them older than this by the time it reads is told then
            let mut learned_at = log.floors_learned.lock().await;
            if learned_at.is_some_and(|at| at.elapsed() < FLOORS_GOOD) {
                return Ok(());
            }
            let (epoch, floors) = self.store.floors(log.tenant()).await?;
            if epoch == log.epoch() {
                log.learn_floors(floors.all, &floors.by_topic);
                *learned_at = Some(std::time::Instant::now());
            }
            Ok(())
        };
        learn.boxed()
    }

    fn append(
        &self,
        request: AppendRequest,
        source: Source,
        load: Load,
    ) -> BoxFuture<'_, Result<(Epoch, Vec<Appended>), LogError>> {
        Clustered::append(self, request, source, load).boxed()
    }

    fn hasten(&self, row: OutboxRow, load: Load) -> BoxFuture<'_, ()> {
        let hasten = async move {
            let (most, now) = (self.logs.options().most_message_bytes(), self.logs.clock().now());
            let Ok(Outgoing { tenant, event, source, dead: None }) = Outgoing::read(&row, most, now) else {
                return;
            };
            let bytes = event.bytes();
            let outbox_id = Some(row.id);
            let request =
                Request { groups: vec![vec![event]], source, idempotency: None, outbox_id, mirrored: None };
            if let Err(error) = self.lanes.append(tenant, request, bytes, load).await {
                tracing::debug!(%error, "an outbox row waits for its turn");
            }
        };
        hasten.boxed()
    }

    fn volatile(
        &self,
        tenant: TenantId,
        event: NewEvent,
        source: Source,
        load: Load,
    ) -> BoxFuture<'_, Result<(), LogError>> {
        let request = AppendRequest { tenant, groups: vec![vec![event]], idempotency: None };
        async move { Clustered::append(self, request, source, load).await.map(drop) }.boxed()
    }

    fn read<'a>(
        &'a self,
        log: &'a Arc<TenantLog>,
        selectors: &'a [Selector],
        span: (u64, u64),
        limit: PageLimit,
    ) -> BoxFuture<'a, Result<StoredPage, LogError>> {
        let read = async move {
            let _turn =
                self.reading.acquire().await.map_err(|error| LogError::Unavailable(error.to_string()))?;
            let past = self.store.read(log.tenant(), log.epoch(), Some(selectors), span, limit).await?;
            let past = past.ok_or_else(|| LogError::Unavailable("the log has started afresh".into()))?;
            log.learn_floors(past.floors.all, &past.floors.by_topic);
            let events = read_all(&past.entries, log, self.logs.clock().steady())?;
            Ok(StoredPage { events, scanned_to: past.scanned_to })
        };
        read.boxed()
    }

    fn newest<'a>(
        &'a self,
        log: &'a Arc<TenantLog>,
        up_to: u64,
    ) -> BoxFuture<'a, Result<Vec<Event>, LogError>> {
        let read = async move {
            let newest = self.store.newest(log.tenant(), log.epoch(), up_to, WARM_PAGE).await?;
            let newest = newest.ok_or_else(|| LogError::Unavailable("the log has started afresh".into()))?;
            read_all(&newest, log, self.logs.clock().steady())
        };
        read.boxed()
    }

    fn top<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<Position, LogError>> {
        let top = async move {
            let top = self.store.top(tenant).await?;
            Ok(Position { epoch: top.run.epoch, seq: top.seq })
        };
        top.boxed()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn announce(&self, notice: NodeNotice) {
        let store = self.store.clone();
        self.runtime.spawn(async move {
            if let Err(error) = store.tell_nodes(&notice).await {
                tracing::debug!(%error, "other nodes could not be told");
            }
        });
    }

    fn is_running(&self) -> bool {
        self.bridge.is_open() && self.store.commands.is_linked()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        let stop = async move {
            if let Some(ingestion) = &self.ingestion {
                ingestion.stop().await;
            }
            self.leadership.stop().await;
            let patience = Instant::now() + Duration::from_secs(5);
            while !self.lanes.is_idle() && Instant::now() < patience {
                sleep(Duration::from_millis(5)).await;
            }
        };
        stop.boxed()
    }
}

fn read_all(
    entries: &[super::envelope::Entry],
    log: &TenantLog,
    now: crate::domain::Timestamp,
) -> Result<Vec<Event>, LogError> {
    let read = entries.iter().map(|entry| entry.event(log.epoch(), now)).collect::<Result<_, _>>();
    read.map_err(|_| LogError::Unavailable("an entry of the log cannot be read".into()))
}
