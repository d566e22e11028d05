//! What one transaction of the appender does, on a blocking thread: decide, number, insert, mark.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::append::{Source, to_row};
use super::head_file::Head;
use super::joining::Joining;
use super::outgoing::Outgoing;
use super::{AppendRequest, Appended, LogError, NewEvent};
use crate::clock::random_u64;
use crate::domain::{Epoch, TenantId, Timestamp};
use crate::storage::{LogRow, LogTx, StoreError, TenantRow};

/// What one transaction did.
pub(super) struct Committed {
    pub answers: Vec<Result<Vec<Appended>, LogError>>,
    pub rows: Vec<LogRow>,
    /// Where the rows come from, in their order, as far as that is known.
    pub sources: Vec<Option<Source>>,
    /// Volatile events that are sent now that it is known that nobody sent them before.
    pub volatile: Vec<(TenantId, NewEvent, Source)>,
    pub tenants: HashMap<TenantId, TenantRow>,
    pub head: Head,
    pub relayed: u64,
    /// When there are more rows to relay, if that is known.
    pub relay_again: Option<Instant>,
    pub dead: u64,
}

/// A log that nothing was appended to yet.
pub(super) fn new_tenant(tenant: &TenantId) -> TenantRow {
    TenantRow {
        tenant: tenant.as_str().to_owned(),
        epoch: Epoch::new(random_u64()).to_string(),
        head: 0,
        trimmed: 0,
        bytes: 0,
        global_floor: 0,
    }
}

/// One transaction's work, on the blocking thread.
pub(super) struct Batch {
    /// The logs as last committed.
    pub stored: Arc<HashMap<TenantId, TenantRow>>,
    /// Those this transaction appends to.
    pub changed: HashMap<TenantId, TenantRow>,
    pub rows: Vec<LogRow>,
    pub sources: Vec<Option<Source>>,
    pub volatile: Vec<(TenantId, NewEvent, Source)>,
    /// Where what is being carried out comes from.
    pub source: Option<Source>,
    pub now: Timestamp,
    pub max_message_bytes: usize,
    pub joining: Arc<Mutex<Joining>>,
}

/// Which rows of the outbox a transaction takes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relay {
    /// None.
    None,
    /// Up to so many, but those that may wait for others.
    Due(i64),
    /// Up to so many.
    All(i64),
}

impl Batch {
    pub fn carry_out(
        &mut self,
        tx: &mut LogTx<'_>,
        requests: &[(AppendRequest, Source)],
        relay: Relay,
    ) -> Result<Committed, StoreError> {
        let (relayed, dead, relay_again) = self.relay(tx, relay)?;
        let mut answers = Vec::with_capacity(requests.len());
        for (request, source) in requests {
            self.source = Some(source.clone());
            answers.push(self.answer(tx, request)?);
        }
        tx.insert_entries(&self.rows)?;
        for row in self.changed.values() {
            tx.save_tenant(row)?;
        }
        let (instance, number) = tx.advance_commit()?;
        let head = Head { instance, number };
        let (rows, tenants) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.changed));
        let (sources, volatile) = (std::mem::take(&mut self.sources), std::mem::take(&mut self.volatile));
        Ok(Committed { answers, rows, sources, volatile, tenants, head, relayed, relay_again, dead })
    }

    /// Appends waiting outbox rows and marks them, in the order of their commits.
    fn relay(&mut self, tx: &mut LogTx<'_>, relay: Relay) -> Result<(u64, u64, Option<Instant>), StoreError> {
        let (limit, may_wait) = match relay {
            Relay::None => return Ok((0, 0, None)),
            Relay::Due(limit) => (limit, true),
            Relay::All(limit) => (limit, false),
        };
        let (waiting, now) = (tx.outbox(limit)?, Instant::now());
        let is_full = waiting.len() as i64 == limit;
        let joined =
            self.joining.lock().expect("no panic while held").take(waiting, now, may_wait && !is_full);
        let (joined, due) = joined;
        let mut published = Vec::with_capacity(joined.len());
        let mut dead_rows = Vec::new();
        for own in &joined {
            match Outgoing::read(&own.row, self.max_message_bytes, self.now) {
                Ok(Outgoing { tenant, event, source, dead }) => {
                    self.source = Some(source);
                    // it is published, or counts as published because a newer version is in the log
                    self.append_group(tx, &tenant, &[event])?;
                    published.extend(&own.earlier);
                    match dead {
                        None => published.push(own.row.id),
                        Some(reason) => dead_rows.push((own.row.id, reason)),
                    }
                }
                Err(reason) => dead_rows.extend(own.ids().map(|id| (id, reason))),
            }
        }
        for (id, reason) in &dead_rows {
            tracing::error!(outbox_id = id, reason, "an outbox row can never be published");
            tx.mark_dead(*id, reason)?;
        }
        tx.mark_published(&published)?;
        Ok((published.len() as u64, dead_rows.len() as u64, if is_full { Some(now) } else { due }))
    }

    fn answer(
        &mut self,
        tx: &mut LogTx<'_>,
        request: &AppendRequest,
    ) -> Result<Result<Vec<Appended>, LogError>, StoreError> {
        let tenant = request.tenant.as_str();
        if let Some(own) = &request.idempotency
            && let Some((hash, answer)) = tx.answer(tenant, &own.principal, &own.key, self.now.micros())?
        {
            if hash != own.request_hash {
                return Ok(Err(LogError::KeyReused));
            }
            return Ok(serde_json::from_str(&answer).map_err(|error| {
                tracing::error!(%error, tenant, key = own.key, "a stored answer cannot be read");
                LogError::Unreadable
            }));
        }
        let mut outcomes = Vec::with_capacity(request.groups.len());
        for group in &request.groups {
            outcomes.push(self.append_group(tx, &request.tenant, group)?);
        }
        if let Some(own) = &request.idempotency {
            let answer = serde_json::to_string(&outcomes).expect("outcomes are plain data");
            let until = self.now.plus(own.keep).micros();
            tx.save_answer((tenant, &own.principal, &own.key), &own.request_hash, &answer, until)?;
        }
        Ok(Ok(outcomes))
    }

    /// All entries of a group get the next numbers, or none does; volatile ones get none.
    fn append_group(
        &mut self,
        tx: &mut LogTx<'_>,
        tenant: &TenantId,
        group: &[NewEvent],
    ) -> Result<Appended, StoreError> {
        let head = self.log_of(tenant).head;
        let volatile = group.iter().all(NewEvent::is_volatile);
        let mut rows = Vec::with_capacity(group.len());
        let mut named_before = None;
        for event in group {
            let named = event.dedup.as_ref().map(|dedup| dedup.key.as_str());
            if let Some(key) = named
                && let Some(seq) =
                    tx.duplicate_of(tenant.as_str(), event.topic.as_str(), key, self.now.micros())?
            {
                named_before = named_before.max(Some(seq));
                continue;
            }
            let seq = if volatile { 0 } else { (head + 1) as u64 + rows.len() as u64 };
            let row = to_row(tenant, seq, self.now, event);
            if let Some(version) = event.version
                && let Some(stored) = tx.version(&row)?.filter(|stored| *stored >= version)
            {
                return Ok(Appended::Stale { stored });
            }
            rows.push((row, event));
        }
        if let (true, Some(seq)) = (rows.is_empty(), named_before) {
            return Ok(Appended::At { seq: if volatile { 0 } else { seq as u64 }, duplicate: true });
        }
        for (row, event) in rows {
            self.take(tx, tenant, row, event)?;
        }
        let seq = if volatile { 0 } else { self.log_of(tenant).head as u64 };
        Ok(Appended::At { seq, duplicate: false })
    }

    /// The log of a tenant as this transaction leaves it.
    fn log_of(&mut self, tenant: &TenantId) -> &mut TenantRow {
        let stored = &self.stored;
        let found = || stored.get(tenant).cloned().unwrap_or_else(|| new_tenant(tenant));
        self.changed.entry(tenant.clone()).or_insert_with(found)
    }

    fn take(
        &mut self,
        tx: &mut LogTx<'_>,
        tenant: &TenantId,
        row: LogRow,
        event: &NewEvent,
    ) -> Result<(), StoreError> {
        if let Some(version) = event.version {
            // that of a volatile event is kept as long as what is in the log by now
            let seq = if event.is_volatile() { self.log_of(tenant).head } else { row.seq };
            tx.save_version(&row, version, seq)?;
        }
        if let Some(dedup) = &event.dedup {
            let until = self.now.plus(dedup.window).micros();
            tx.save_dedup(&row, &dedup.key, until)?;
        }
        if event.is_volatile() {
            let source = self.source.clone().unwrap_or_else(Source::current);
            self.volatile.push((tenant.clone(), event.clone(), source));
            return Ok(());
        }
        let own = self.log_of(tenant);
        own.head = row.seq;
        own.bytes += row.bytes;
        self.rows.push(row);
        self.sources.push(self.source.clone());
        Ok(())
    }
}
