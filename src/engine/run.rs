use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::sync::mpsc;

use super::tls::Certificate;
use super::{FirstKey, StartError, Started, backing, blocks, first_key, jobs, reload, server, shutdown};
use crate::accounts::Accounts;
use crate::bids::Bids;
use crate::bids::copies::{Copies, CopyOptions, Keeper};
use crate::bids::ranking::{RankingOptions, RankingThreads, Rankings};
use crate::bridge::BridgeThread;
use crate::clock::{Clock, random_u64};
use crate::domain::Decimal;
use crate::fleets::{Fleets, GradeBounds};
use crate::http::{Gate, Services};
use crate::identity::{
    Authenticator, Compat, Jwks, KeyRing, Revocations, Tickets, Tokens, installation_secret,
};
use crate::jobs::{JobDesk, JobWake, Jobs};
use crate::limits::{Limiter, Rules};
use crate::log::{EventLog, LogObserver};
use crate::orders::Orders;
use crate::publishing::{PublishLimits, Publisher};
use crate::rooms::Workers;
use crate::settings::{Settings, resolve};
use crate::storage::{Commands, Database, DatabaseOptions, PostgresOptions, ServeLock, StorageRuntime};
use crate::telemetry::Metrics;
use crate::topics::Topics;

/// What one start is asked beyond the settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartOptions {
    /// Starts every log afresh: after the whole data directory was restored from a backup.
    pub new_epoch: bool,
}

/// Where the settings say that the database is.
pub fn database_options(settings: &Settings) -> DatabaseOptions {
    DatabaseOptions {
        url: settings.storage.database_url.clone(),
        data_dir: PathBuf::from(&settings.storage.data_dir),
        connections: settings.storage.read_connections,
        wait: Duration::from_millis(settings.storage.wait_ms),
        max_bytes: settings.storage.max_database_bytes,
        postgres: postgres_options(settings),
    }
}

fn postgres_options(settings: &Settings) -> PostgresOptions {
    let (storage, own) = (&settings.storage, &settings.server.server_id);
    let name = if own.is_empty() { std::process::id().to_string() } else { own.clone() };
    PostgresOptions {
        tls_ca: PathBuf::from(&storage.tls_ca),
        require_tls: storage.require_tls,
        statement_timeout: Duration::from_millis(storage.statement_timeout_ms),
        idle_transaction_timeout: Duration::from_millis(storage.idle_transaction_timeout_ms),
        application: format!("bongsu {name}"),
    }
}

/// What is up before the first socket.
struct Foundation {
    services: Services,
    first_key: Option<FirstKey>,
    lock: Option<ServeLock>,
    certificate: Option<Arc<Certificate>>,
    jobs: Jobs,
}

/// The engine's thread: starts, reports, waits for its end, stops.
pub(super) fn run(
    settings: Settings,
    options: StartOptions,
    report: &SyncSender<Result<Started, StartError>>,
    mut reloads: mpsc::Receiver<Box<Settings>>,
) {
    let fail = |error| {
        // whoever asked for the start is waiting for this
        let _ = report.send(Err(error));
    };
    let runtime = match StorageRuntime::start() {
        Ok(runtime) => runtime,
        Err(error) => return fail(StartError::Runtime(error.to_string())),
    };
    let handle = runtime.handle();
    let system = actix_rt::System::new();
    // the bridge of a cluster has a thread to itself: what the workers do cannot hold it up
    let bridge = (!settings.redis.url.is_empty()).then(actix_rt::Arbiter::new);
    let rankings: Vec<_> = (0..settings.ranking.threads).map(|_| actix_rt::Arbiter::new()).collect();
    let threads = Threads {
        bridge: bridge.as_ref().map(actix_rt::Arbiter::handle),
        rankings: rankings.iter().map(actix_rt::Arbiter::handle).collect(),
    };
    let foundation = match runtime.block_on(async { handle.spawn(lay(settings, options, threads)).await }) {
        Ok(Ok(foundation)) => foundation,
        Ok(Err(error)) => return fail(error),
        Err(error) => return fail(StartError::Runtime(error.to_string())),
    };
    let revocations = handle.spawn(watch_revocations(foundation.services.clone()));
    let block_list = handle.spawn(blocks::watch(foundation.services.clone()));
    let timetable = handle.spawn(foundation.services.bids.clone().keep_time());
    let copies = handle.spawn(copies(&foundation.services).run());
    system.block_on(async {
        match server::start(&foundation.services, foundation.certificate.as_ref()) {
            Ok(serving) => {
                let started = Started {
                    address: serving.address,
                    is_tls: foundation.certificate.is_some(),
                    metrics_address: serving.metrics_address,
                    first_key: foundation.first_key.clone(),
                    metrics: foundation.services.metrics.clone(),
                };
                let _ = report.send(Ok(started));
                // ends with its owner
                while let Some(settings) = reloads.recv().await {
                    reload::reload(&foundation.services, foundation.certificate.as_deref(), &settings);
                }
                shutdown::shutdown(&foundation.services, serving, &foundation.jobs).await;
            }
            Err(error) => fail(error),
        }
    });
    revocations.abort();
    block_list.abort();
    timetable.abort();
    copies.abort();
    for thread in bridge.into_iter().chain(rankings) {
        if thread.stop() && thread.join().is_err() {
            tracing::error!("a thread of actors panicked");
        }
    }
    drop(foundation.services);
    drop(runtime);
    drop(foundation.lock);
}

/// The threads of actors that belong to no worker.
struct Threads {
    bridge: Option<BridgeThread>,
    rankings: RankingThreads,
}

async fn lay(settings: Settings, options: StartOptions, threads: Threads) -> Result<Foundation, StartError> {
    let certificate = Certificate::load(&settings)?;
    let clock = if threads.bridge.is_some() { Clock::steered() } else { Clock::system() };
    let lock = backing::lock(&settings)?;
    let metrics = Arc::new(Metrics::default());
    let runtime = tokio::runtime::Handle::current();
    let database = Database::open(&database_options(&settings), runtime, &metrics).await?;
    database.migrate().await?;
    let keys = KeyRing::load(database.clone()).await?;
    let address = resolve(&settings.server.bind).map_err(|error| StartError::Listen {
        address: settings.server.bind.clone(),
        problem: error.to_string(),
    })?;
    let development = keys.development_key_ids();
    if !address.ip().is_loopback() && !development.is_empty() {
        return Err(StartError::DevelopmentKeys { address, key_ids: development.join(" ") });
    }
    let mut own_first_key = None;
    if address.ip().is_loopback() && keys.is_empty() {
        own_first_key = Some(first_key::create(&database, clock).await?);
        keys.refresh().await?;
    }
    let wake = JobWake::default();
    let means = (clock, metrics, wake.clone());
    let services = assemble(settings, (options, threads), database, means, keys).await?;
    let jobs = jobs::start(&services, wake);
    Ok(Foundation { services, first_key: own_first_key, lock, certificate, jobs })
}

async fn assemble(
    settings: Settings,
    (options, threads): (StartOptions, Threads),
    database: Database,
    (clock, metrics, wake): (Clock, Arc<Metrics>, JobWake),
    keys: KeyRing,
) -> Result<Services, StartError> {
    let workers = Arc::new(Workers::default());
    let revocations = Arc::new(Revocations::load(database.clone(), Arc::new(keys), clock).await?);
    let tokens = tokens(&settings, &database, clock, &metrics).await?;
    let authenticator =
        Authenticator::new(revocations.clone(), tokens, Compat::from(&settings.compat), clock);
    let server_id: Arc<str> = match settings.server.server_id.as_str() {
        "" => format!("node-{:08x}", random_u64() as u32).into(),
        own => own.into(),
    };
    // first those that sessions may ask about what they are given
    let copies = Copies::default();
    let observers: Vec<Arc<dyn LogObserver>> = vec![Arc::new(copies.clone()), workers.clone()];
    let means: backing::Means = (database.clone(), clock, metrics.clone(), Arc::new(observers));
    let log = backing::open_log(&settings, options, means, server_id.clone(), threads.bridge).await?;
    let tickets = Tickets::new(
        database.clone(),
        revocations.clone(),
        clock,
        Duration::from_secs(settings.auth.ticket_first_use_s),
        Duration::from_secs(settings.auth.ticket_lifetime_s),
    );
    let limiter = Limiter::new(Rules::of(&settings), settings.limits.tracked, clock, metrics.clone());
    let limiter = Arc::new(limiter);
    let reported = limiter.clone();
    metrics.add_reading(Box::new(move |metrics| reported.report(metrics)));
    let blocks = Arc::new(blocks::load(&settings, database.clone(), clock, metrics.clone()).await?);
    let keep = Duration::from_secs(settings.idempotency.command_s);
    let patience = Duration::from_millis(settings.storage.statement_timeout_ms);
    let commands = Commands::new(log.clock(), keep, patience);
    let orders = Orders::new(database.clone(), log.clone(), commands.clone());
    let history = settings.fleets.history;
    let fleets = Fleets::new(database.clone(), log.clone(), bounds(&settings), history, commands.clone());
    let bids = bids(&settings, (&database, &log), metrics.clone(), commands.clone(), threads.rankings);
    let (means, attempts) =
        ((database.clone(), log.clone()), (settings.jobs.max_attempts, settings.accounts.max_per_user));
    let accounts = Accounts::new(means, commands, server_id.clone(), wake.clone(), attempts);
    let topics = Topics::load(database.clone(), log.clone()).await?;
    let publish_limits = PublishLimits {
        event_bytes: settings.log.max_event_bytes,
        dedup_window: Duration::from_millis(settings.idempotency.dedup_window_ms),
    };
    let jobs = JobDesk::new(database.clone(), log.clock(), wake);
    let keep = Duration::from_secs(settings.idempotency.publish_s);
    let publisher = Publisher::new(log.clone(), limiter.clone(), publish_limits, keep);
    Ok(Services {
        gate: Arc::new(Gate::new(&settings, limiter, blocks.clone(), metrics.clone())),
        settings: Arc::new(settings),
        blocks,
        server_id,
        database,
        log,
        revocations,
        authenticator,
        tickets,
        topics,
        fleets,
        bids,
        copies,
        orders,
        accounts,
        jobs,
        publisher,
        workers,
        metrics,
        draining: Arc::new(AtomicBool::new(false)),
        connections: Arc::new(AtomicU64::new(0)),
    })
}

/// What verifies users' tokens; its key set is fetched from now on.
async fn tokens(
    settings: &Settings,
    database: &Database,
    clock: Clock,
    metrics: &Arc<Metrics>,
) -> Result<Tokens, StartError> {
    let jwks = match settings.jwt.jwks_url.is_empty() {
        true => None,
        false => {
            let runtime = tokio::runtime::Handle::current();
            let jwks = Jwks::new(&settings.jwt, runtime.clone(), metrics.clone())
                .map_err(|error| StartError::Unsupported(format!("jwt.jwks_url: {error}")))?;
            runtime.spawn(jwks.clone().keep_fresh());
            Some(jwks)
        }
    };
    let secret = installation_secret(database, clock).await?;
    Tokens::new(&settings.jwt, &secret, jwks, clock).map_err(StartError::Unsupported)
}

fn bids(
    settings: &Settings,
    (database, log): (&Database, &EventLog),
    metrics: Arc<Metrics>,
    commands: Commands,
    threads: RankingThreads,
) -> Bids {
    let own = &settings.ranking;
    let options = RankingOptions {
        most_proposals: own.max_proposals,
        window: own.window,
        waiting: own.queue,
        batch: own.batch,
        idle: Duration::from_millis(own.idle_ms),
    };
    let rankings = Rankings::new(database.clone(), log.clone(), metrics, threads, options);
    Bids::new(database.clone(), log.clone(), commands, rankings)
}

/// Who keeps what sessions are told of rankings.
fn copies(services: &Services) -> Keeper {
    let own = &services.settings.ranking;
    let options = CopyOptions { most: own.full_max, window: own.window };
    let means = (services.log.clone(), services.database.clone(), services.bids.rankings().clone());
    let keeper = Keeper::new(
        services.copies.clone(),
        means,
        (services.workers.clone(), services.metrics.clone()),
        options,
    );
    keeper.tell_others();
    keeper
}

fn bounds(settings: &Settings) -> GradeBounds {
    let mut bounds = [Decimal::from_millionths(0); 4];
    for (bound, text) in bounds.iter_mut().zip(&settings.fleets.grade_bounds) {
        *bound = Decimal::parse(text).expect("validated with the settings");
    }
    GradeBounds(bounds)
}

/// Reads what was revoked and granted often enough that it reaches live sessions within a second.
async fn watch_revocations(services: Services) {
    let mut tick = tokio::time::interval(Duration::from_millis(services.settings.auth.revocation_poll_ms));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = services.revocations.refresh().await {
            tracing::warn!(%error, "revocations could not be read");
        }
        let revoked = services.revocations.take();
        if !revoked.is_empty() {
            let (keys, tickets, users) = (revoked.keys.len(), revoked.tickets.len(), revoked.kicked.len());
            tracing::info!(keys, tickets, users, "credentials were revoked");
            services.workers.revoke(revoked);
        }
        if let Err(error) = services.topics.refresh().await {
            tracing::warn!(%error, "declared topics could not be read");
        }
        services.recheck_topics();
    }
}
