use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::tenant_logs::TenantLogs;
use crate::storage::StoreError;

/// The outbox is looked at without being woken, for rows that another process committed.
const RELAY_POLL: Duration = Duration::from_millis(100);

/// Wakes the relay for rows that nobody woke it for: those of another process, or of the one before this
/// one. Apart from the appender, so that readers that hold every connection do not keep it from appending.
pub async fn watch_outbox(logs: Arc<TenantLogs>) {
    let mut poll = tokio::time::interval(RELAY_POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        if backlog(&logs).await > 0 {
            logs.relay_wake.notify_one();
        }
    }
}

/// Outbox rows waiting; also tells the metrics.
async fn backlog(logs: &TenantLogs) -> i64 {
    let database = &logs.database;
    let backlog =
        async { crate::read!(database, |conn, q| Ok::<_, StoreError>(q::outbox::backlog(conn).await?)) };
    let Ok((waiting, oldest)) = backlog.await else {
        return 0;
    };
    // rows are stamped by the wall clock of the node that wrote them
    let lag = oldest.map_or(0, |oldest| (logs.clock.now().micros() - oldest).max(0));
    logs.metrics.outbox(waiting, lag as f64 / 1e6);
    waiting
}
