//! What becomes of sessions as time passes, and how they end.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::attach::{ConnectionId, Notice};
use super::registry::{Entry, Registry};
use crate::clock::random_u64;
use crate::domain::TenantId;
use crate::identity::Revoked;
use crate::wire::{CloseCode, Dialect};

/// How often a registry that drains is swept.
pub const DRAIN_STEP: Duration = Duration::from_millis(20);

impl Registry {
    /// Looks after every session: heartbeats, stalls, maximum age, a drain under way.
    pub fn sweep(&mut self, now: Instant) {
        let mut ends = Vec::new();
        let mut heartbeats: HashMap<(TenantId, u64, Dialect), Bytes> = HashMap::new();
        let wall = self.clock.now();
        let server_id = self.node.as_ref().map_or("", |(server_id, ..)| server_id);
        for (id, entry) in &mut self.sessions {
            if entry.queue.has_left() {
                ends.push((*id, None));
            } else if entry.queue.stalled_for(now) >= self.options.stall {
                ends.push((*id, Some(CloseCode::SlowConsumer)));
            } else if entry.credentials_end_at.is_some_and(|at| at <= now) {
                ends.push((*id, Some(CloseCode::Unauthenticated)));
            } else if entry.expires_at <= now {
                ends.push((*id, Some(CloseCode::MaximumAge)));
            } else if entry.heartbeat_at <= now
                && let Some(own) = self.tenants.get(&entry.tenant)
                && own.untold.is_empty()
            {
                entry.heartbeat_at = now + self.options.heartbeat_of(&entry.queue);
                let behind = own.behind.get(id).copied();
                let seq = behind.unwrap_or(own.delivered);
                let dialect = entry.queue.dialect();
                let beat = heartbeats
                    .entry((entry.tenant.clone(), seq, dialect))
                    .or_insert_with(|| dialect.heartbeat(own.log.position(seq), wall, server_id));
                // while it catches up, the queue may hold events beyond its last whole page
                if behind.is_none() || !entry.queue.is_beyond(own.log.position(seq)) {
                    entry.queue.push_heartbeat(beat.clone());
                }
            }
        }
        for (id, code) in ends {
            match code {
                Some(CloseCode::SlowConsumer) => self.cut(id, CloseCode::SlowConsumer),
                Some(code) => self.finish(id, code, code.default_retry()),
                None => drop(self.remove(id)),
            }
        }
        // a reader that takes its last frames drop by drop does not keep them for ever
        self.finishing.retain(|(until, queue)| {
            let over = queue.has_left() || *until <= now;
            if over {
                queue.leave();
            }
            !over
        });
        self.tell_renewed(now);
        self.drain_some(now);
    }

    /// Ends every session that lives by any of this.
    pub fn revoke(&mut self, revoked: &Revoked) {
        let end = |entry: &Entry| revoked.end_of(&entry.tenant, &entry.credentials);
        let ends = self.sessions.iter().filter_map(|(id, entry)| Some((*id, end(entry)?)));
        for (id, code) in ends.collect::<Vec<_>>() {
            // what waits for somebody who may no longer see it is thrown away
            self.cut(id, code);
        }
    }

    /// Ends every session from an address that may not connect any more.
    pub fn end_blocked(&mut self, is_blocked: impl Fn(IpAddr) -> bool) {
        let blocked = self.sessions.iter().filter(|(_, entry)| is_blocked(entry.about.peer));
        for id in blocked.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cut(id, CloseCode::Forbidden);
        }
    }

    /// Ends other sessions of a ticket that has a newer connection, here or on another worker.
    pub fn replace_ticket(&mut self, ticket_id: &str, newer: ConnectionId) {
        let older = self
            .sessions
            .iter()
            .filter(|(id, entry)| **id < newer && entry.credentials.ticket_id.as_deref() == Some(ticket_id));
        for id in older.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.finish(id, CloseCode::Replaced, CloseCode::Replaced.default_retry());
        }
    }

    /// Ends all sessions at an even pace, so that the last is told by `by`.
    pub fn drain(&mut self, by: Instant) {
        self.drain_by = Some(by);
    }

    /// Whether its sessions are being ended.
    #[cfg(test)]
    pub fn is_draining(&self) -> bool {
        self.drain_by.is_some()
    }

    pub(super) fn cut_slow(&mut self, ids: Vec<ConnectionId>) {
        for id in ids {
            self.cut(id, CloseCode::SlowConsumer);
        }
    }

    /// Ends a session, throwing away what waits.
    pub(super) fn cut(&mut self, id: ConnectionId, code: CloseCode) {
        if let Some(entry) = self.remove(id) {
            entry.queue.cut(code);
            entry.handle.notify(Notice::Closed(code));
        }
    }

    /// Ends a session after what waits.
    pub(super) fn finish(&mut self, id: ConnectionId, code: CloseCode, retry: Duration) {
        if let Some(entry) = self.remove(id) {
            entry.queue.finish(code, retry);
            entry.handle.notify(Notice::Closed(code));
            self.finishing.push((Instant::now() + self.options.stall, entry.queue));
        }
    }

    /// Ends as many sessions as the time left to the end of the drain asks for.
    fn drain_some(&mut self, now: Instant) {
        let Some(by) = self.drain_by else { return };
        let left = by.saturating_duration_since(now).as_millis().max(1) as usize;
        let count =
            (self.sessions.len() * DRAIN_STEP.as_millis() as usize).div_ceil(left).min(self.sessions.len());
        let ids: Vec<_> = self.sessions.keys().rev().take(count).copied().collect();
        for id in ids {
            let retry = self.options.retry_spread.mul_f64(random_u64() as f64 / u64::MAX as f64);
            self.finish(id, CloseCode::Draining, retry);
        }
    }
}
