//! What retention no longer keeps goes, oldest first, a batch at a time between commits.

use std::sync::Arc;

use super::appender::Appender;
use crate::domain::{TenantId, Timestamp};
use crate::storage::{FloorRow, LogTx, StoreError};

/// Entries that one transaction removes, at most: what waits for the log waits for one of these.
pub(super) const TRIM_BATCH: i64 = 2000;

impl Appender {
    /// Finds the logs that hold more than retention keeps.
    pub(super) async fn look_for_trims(&mut self) {
        if self.in_doubt
            && let Err(error) = self.settle().await
        {
            tracing::debug!(%error, "nothing is trimmed before the last outcome is known");
            return;
        }
        let now = self.logs.clock.steady();
        let earliest = now.minus(self.retention.age).micros();
        let due = self.tenants.iter().filter(|(tenant, row)| {
            let over = (row.head - row.trimmed) as u64 > self.retention.count
                || row.bytes as u64 > self.retention.bytes;
            let aged = row.head > row.trimmed && self.oldest_at.get(*tenant).is_none_or(|at| *at < earliest);
            over || aged
        });
        self.trimming = due.map(|(tenant, _)| tenant.clone()).collect();
        self.logs.shrink_windows(now);
        if let Err(error) = self.writer.transaction(move |tx| tx.forget_expired(now.micros())).await {
            tracing::debug!(%error, "expired answers could not be forgotten");
        }
    }

    /// Removes the oldest of what retention no longer keeps, of one log; false when there is no more to do.
    pub(super) async fn trim_some(&mut self) -> bool {
        let Some(tenant) = self.trimming.pop_front() else {
            return false;
        };
        let now = self.logs.clock.steady();
        match self.trim_batch(&tenant, now).await {
            Ok(true) => self.trimming.push_back(tenant),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, %tenant, "the event log could not be trimmed");
                // what is left is found again once the outcome of this is known
                self.trimming.clear();
                self.in_doubt = true;
            }
        }
        true
    }

    /// Trims one batch; true when there may be more to trim.
    async fn trim_batch(&mut self, tenant: &TenantId, now: Timestamp) -> Result<bool, StoreError> {
        if self.in_doubt {
            self.settle().await?;
        }
        let (Some(row), Some(log)) = (self.tenants.get(tenant).cloned(), self.logs.tenant(tenant)) else {
            return Ok(false);
        };
        let (name, after) = (row.tenant.clone(), row.trimmed);
        let oldest = self.writer.transaction(move |tx| tx.oldest(&name, after, TRIM_BATCH)).await?;
        let Some(trim) = self.retention.plan(&row, &oldest, now) else {
            match oldest.first() {
                Some(first) => self.oldest_at.insert(tenant.clone(), first.at_us),
                // the last trim has taken everything: what comes next is looked at again
                None => self.oldest_at.remove(tenant),
            };
            return Ok(false);
        };
        self.oldest_at.remove(tenant);
        // floors rise first: a reader that finds the events gone also finds why
        let (floors, global) = log.raise_floors(&trim.floors, self.logs.options.max_trim_floors);
        let mut next = row;
        next.trimmed = trim.up_to;
        next.bytes -= trim.bytes;
        next.global_floor = global.map_or(next.global_floor, |floor| next.global_floor.max(floor as i64));
        let floors: Vec<FloorRow> =
            floors.iter().map(|(topic, floor)| floor.to_row(&next.tenant, topic.as_str())).collect();
        let (stored, up_to) = (next.clone(), trim.up_to);
        let work = move |tx: &mut LogTx<'_>| {
            tx.trim(&stored.tenant, up_to, &floors)?;
            if global.is_some() {
                tx.drop_floors(&stored.tenant, stored.global_floor)?;
            }
            tx.save_tenant(&stored)
        };
        self.writer.transaction(work).await?;
        log.trimmed(trim.up_to as u64);
        Arc::make_mut(&mut self.tenants).insert(tenant.clone(), next);
        self.logs.metrics.log().trimmed(trim.count);
        Ok(trim.count == TRIM_BATCH as u64)
    }
}
