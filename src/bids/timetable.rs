use std::time::Duration;

use super::events::status_changed;
use super::{Bid, Bids, Status};
use crate::domain::Timestamp;
use crate::storage::StoreError;

/// How often it is looked what other nodes have created.
const LOOK: Duration = Duration::from_secs(1);
/// Bids that are opened or closed in one go.
const ROUND: i64 = 200;

impl Bids {
    /// Opens and closes bids when their time has come, on the database's clock, for as long as this runs. Every node
    /// does so: the row's lock and its status decide.
    pub async fn keep_time(self) {
        loop {
            let wait = match self.open_and_close().await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::debug!(%error, "the timetable of bids could not be read");
                    LOOK
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait.min(LOOK)) => {}
                () = self.timetable_changed() => {}
            }
        }
    }

    /// Opens and closes what is due; how long until the next.
    async fn open_and_close(&self) -> Result<Duration, StoreError> {
        let (db, own_us) = (self.database(), self.clock().steady().micros());
        let (now, due, next) = crate::read!(db, |conn, q| {
            let now = q::time::now_us(conn, own_us).await?;
            let due = q::bids::due(conn, now, ROUND).await?;
            Ok::<_, StoreError>((now, due, q::bids::next_due(conn).await?))
        })?;
        let mut is_stuck = false;
        for (tenant, bid_id) in &due {
            match self.advance(tenant, bid_id).await {
                Ok(()) => {}
                // the others go on; it is met again
                Err(error @ StoreError::Unexpected(_)) => {
                    tracing::error!(%error, tenant, bid_id, "a bid can neither be opened nor closed");
                    is_stuck = true;
                }
                Err(error) => return Err(error),
            }
        }
        if !due.is_empty() {
            return Ok(if is_stuck { LOOK } else { Duration::ZERO });
        }
        Ok(next.map_or(LOOK, |next| Timestamp::from_micros(next).since(Timestamp::from_micros(now))))
    }

    /// Does what a bid's time has come for.
    async fn advance(&self, tenant: &str, bid_id: &str) -> Result<(), StoreError> {
        let (db, own_us) = (self.database(), self.clock().steady().micros());
        crate::write_tx!(db, |conn, q| {
            let Some(row) = q::bids::find_locked(conn, tenant, bid_id).await? else { return Ok(()) };
            let mut bid = Bid::read(row)?;
            let now = Timestamp::from_micros(q::time::now_us(conn, own_us).await?);
            if bid.due_at().is_none_or(|due| due > now) {
                // another node was first
                return Ok(());
            }
            let old = bid.status;
            bid.status = if old == Status::Draft { Status::Open } else { Status::Closed };
            bid.version += 1;
            bid.updated_at = now;
            q::bids::update(conn, &bid.row(tenant)).await?;
            q::outbox::insert(conn, &status_changed(tenant, &bid, old, Some("scheduled"), now, None)).await?;
            Ok(())
        })?;
        self.wake_relay();
        Ok(())
    }
}
