use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::events::status_changed;
use super::{Bid, Bids, Status};
use crate::domain::Timestamp;
use crate::storage::StoreError;

/// How often it is looked what other nodes have created.
const LOOK: Duration = Duration::from_secs(1);
/// Bids that are looked up in one go.
const PAGE: i64 = 200;
/// A bid that cannot be read is left alone for this long.
const AGAIN: Duration = Duration::from_secs(60);

/// Bids that cannot be read, by tenant and id, and when they are tried again. Other nodes may well read them.
type Damaged = HashMap<(String, String), Instant>;

impl Bids {
    /// Opens and closes bids when their time has come, on the database's clock, for as long as this runs. Every node
    /// does so: the row's lock and its status decide.
    pub async fn keep_time(self) {
        let mut damaged = Damaged::new();
        loop {
            let wait = match self.open_and_close(&mut damaged).await {
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
    async fn open_and_close(&self, damaged: &mut Damaged) -> Result<Duration, StoreError> {
        damaged.retain(|_, again| *again > Instant::now());
        let (db, own_us) = (self.database(), self.clock().steady().micros());
        let now = crate::read!(db, |conn, q| q::time::now_us(conn, own_us).await)?;
        let mut has_advanced = false;
        let mut after = (i64::MIN, String::new(), String::new());
        loop {
            let page = crate::read!(db, |conn, q| q::bids::due(conn, &after, now, PAGE).await)?;
            let is_last = (page.len() as i64) < PAGE;
            for (due_us, tenant, bid_id) in page {
                has_advanced |= self.advance_unless_damaged(&tenant, &bid_id, damaged).await?;
                after = (due_us, tenant, bid_id);
            }
            if is_last {
                break;
            }
        }
        if has_advanced {
            // what was opened may have to be closed
            return Ok(Duration::ZERO);
        }
        let own_us = self.clock().steady().micros();
        let (now, next) = crate::read!(db, |conn, q| {
            let next = q::bids::next_due(conn, now).await?;
            Ok::<_, StoreError>((q::time::now_us(conn, own_us).await?, next))
        })?;
        Ok(next.map_or(LOOK, |next| Timestamp::from_micros(next).since(Timestamp::from_micros(now))))
    }

    /// Does what a bid's time has come for, if it can be read: one that cannot holds up no other.
    async fn advance_unless_damaged(
        &self,
        tenant: &str,
        bid_id: &str,
        damaged: &mut Damaged,
    ) -> Result<bool, StoreError> {
        let key = (tenant.to_owned(), bid_id.to_owned());
        if damaged.contains_key(&key) {
            return Ok(false);
        }
        match self.advance(tenant, bid_id).await {
            Err(error @ StoreError::Unexpected(_)) => {
                tracing::error!(%error, tenant, bid_id, "a bid can neither be opened nor closed");
                damaged.insert(key, Instant::now() + AGAIN);
                Ok(false)
            }
            outcome => outcome,
        }
    }

    /// Does what a bid's time has come for; whether that was anything.
    async fn advance(&self, tenant: &str, bid_id: &str) -> Result<bool, StoreError> {
        let (db, own_us) = (self.database(), self.clock().steady().micros());
        let has_advanced = crate::write_tx!(db, |conn, q| {
            let Some(row) = q::bids::find_locked(conn, tenant, bid_id).await? else { return Ok(false) };
            let mut bid = Bid::read(row)?;
            let now = Timestamp::from_micros(q::time::now_us(conn, own_us).await?);
            if bid.due_at().is_none_or(|due| due > now) {
                // another node was first
                return Ok(false);
            }
            let old = bid.status;
            bid.status = if old == Status::Draft { Status::Open } else { Status::Closed };
            bid.version += 1;
            bid.updated_at = now;
            q::bids::update(conn, &bid.row(tenant)).await?;
            q::outbox::insert(conn, &status_changed(tenant, &bid, old, Some("scheduled"), now, None)).await?;
            Ok(true)
        })?;
        self.wake_relay();
        Ok(has_advanced)
    }
}
