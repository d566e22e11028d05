use std::sync::Arc;
use std::time::Duration;

use super::StartError;
use crate::clock::Clock;
use crate::http::Services;
use crate::limits::Blocks;
use crate::settings::Settings;
use crate::storage::Database;
use crate::telemetry::Metrics;

/// The block list as the file and the database have it.
pub(super) async fn load(
    settings: &Settings,
    database: Database,
    clock: Clock,
    metrics: Arc<Metrics>,
) -> Result<Blocks, StartError> {
    let blocks = Blocks::load(database, clock, metrics).await?;
    let file = &settings.limits.block_list_file;
    blocks
        .read_file(file)
        .map_err(|problem| StartError::Unsupported(format!("limits.block_list_file: {problem}")))?;
    Ok(blocks)
}

/// Reads the list's generation often enough that a block cuts live sessions within a second, on every node.
pub(super) async fn watch(services: Services) {
    let mut tick = tokio::time::interval(Duration::from_millis(services.settings.auth.revocation_poll_ms));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = services.blocks.refresh().await {
            tracing::warn!(%error, "the block list could not be read");
        }
        if services.blocks.take_changed() {
            services.workers.end_blocked(&services.blocks);
        }
    }
}
