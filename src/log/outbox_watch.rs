use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::tenant_logs::TenantLogs;
use crate::storage::StoreError;

/// The outbox is looked at without being woken, for rows that another process committed.
const RELAY_POLL: Duration = Duration::from_millis(100);

/// Every so many looks the rows are counted, too.
const COUNTED: u32 = 5;

/// Wakes the relay for rows that nobody woke it for: those of another process, or of the one before this
/// one. Apart from the appender, so that readers that hold every connection do not keep it from appending.
pub async fn watch_outbox(logs: Arc<TenantLogs>) {
    let mut poll = tokio::time::interval(RELAY_POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0_u32.. {
        poll.tick().await;
        // a long backlog takes long to count
        let is_filled = match round % COUNTED {
            0 => backlog(&logs).await > 0,
            _ => is_filled(&logs).await,
        };
        if is_filled {
            logs.relay_wake.notify_one();
        }
    }
}

async fn is_filled(logs: &TenantLogs) -> bool {
    let database = &logs.database;
    let look =
        async { crate::read!(database, |conn, q| Ok::<_, StoreError>(q::outbox::is_filled(conn).await?)) };
    look.await.unwrap_or(false)
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
    logs.metrics.log().outbox(waiting, lag as f64 / 1e6);
    waiting
}
