//! What the log stands on: SQLite, PostgreSQL, or PostgreSQL and Redis.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{StartError, StartOptions};
use crate::bids;
use crate::bridge::{Access, BridgeOptions, BridgeThread, Clustered, IngestOptions, MirrorOptions};
use crate::clock::Clock;
use crate::domain::{TenantId, Topic};
use crate::log::{EventLog, Joins, LogObserver, LogOptions, TenantLogs};
use crate::settings::Settings;
use crate::storage::{Database, ServeLock, StoreError, check_writable};
use crate::telemetry::{Figures, Metrics, Samples};

/// Makes sure that no other process serves what one process alone may serve: an embedded database.
pub(super) fn lock(settings: &Settings) -> Result<Option<ServeLock>, StartError> {
    if !settings.redis.url.is_empty() {
        // the nodes of a cluster keep nothing of their own
        return Ok(None);
    }
    let data_dir = PathBuf::from(&settings.storage.data_dir);
    std::fs::create_dir_all(&data_dir)
        .map_err(|error| StoreError::Unavailable(format!("{}: {error}", data_dir.display())))?;
    let lock = ServeLock::take(&data_dir)?;
    check_writable(&data_dir)?;
    Ok(Some(lock))
}

/// What every log needs.
pub(super) type Means = (Database, Clock, Arc<Metrics>, Arc<dyn LogObserver>);

/// Opens the log; must run on the storage runtime.
pub(super) async fn open_log(
    settings: &Settings,
    options: StartOptions,
    (database, clock, metrics, observer): Means,
    server_id: Arc<str>,
    thread: Option<BridgeThread>,
) -> Result<EventLog, StartError> {
    let within = Duration::from_millis(settings.ranking.frame_ms);
    let most_bytes = settings.log.max_message_bytes;
    let joins = Joins { may_wait: bids::is_ranking, join: bids::joined, within, most_bytes };
    let limits = LogOptions::from(settings).joining((!within.is_zero()).then_some(joins));
    let Some(thread) = thread else {
        let data_dir = PathBuf::from(&settings.storage.data_dir);
        let place = (&*data_dir, options.new_epoch);
        tokio::spawn(show_own_figures(metrics.clone()));
        return Ok(EventLog::embedded(database, place, (clock, metrics), limits, observer).await?);
    };
    let bridge = BridgeOptions {
        access: Access {
            url: settings.redis.url.clone(),
            patience: Duration::from_millis(settings.redis.timeout_ms),
            tls_ca: PathBuf::from(&settings.redis.tls_ca),
            require_tls: settings.redis.require_tls,
            sentinel_login: (settings.redis.sentinel_user.clone(), settings.redis.sentinel_password.clone()),
        },
        prefix: settings.redis.prefix.clone(),
        server_id,
        new_epoch: options.new_epoch,
        ingest: settings.redis.ingest.then(|| ingest(settings)),
        mirror: settings.redis.mirror.then(|| MirrorOptions {
            user_events: settings.redis.mirror_user_events.clone(),
            all_rankings: settings.redis.mirror_all_rankings,
        }),
    };
    database.leave_log().await?;
    let logs = TenantLogs::new(database.clone(), (clock, metrics.clone()), limits, observer);
    let home = Clustered::start(bridge, database, logs.clone(), metrics, &thread).await?;
    Ok(EventLog::kept_by(logs, Arc::new(home)))
}

/// Where there are no other nodes, the figures of all are those of this one.
async fn show_own_figures(metrics: Arc<Metrics>) {
    let (mut samples, mut tick) = (Samples::default(), tokio::time::interval(Duration::from_secs(1)));
    loop {
        tick.tick().await;
        let counts = metrics.counts();
        let (figures, _) = samples.add(Instant::now(), counts);
        metrics.figures().show(Figures::of(counts.published, &[figures]));
    }
}

fn ingest(settings: &Settings) -> IngestOptions {
    let interop = &settings.redis.interop;
    let topic = |topic: &String| Topic::parse(topic).expect("checked with the settings");
    IngestOptions {
        tenant: TenantId::parse(&interop.tenant).expect("checked with the settings"),
        channels: interop.channels.iter().map(|(name, own)| (name.clone(), topic(own))).collect(),
        depth: settings.limits.json_depth,
    }
}
