//! What happens to the sessions of a tenant whose log has started afresh.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attach::{Hello, Notice};
use super::registry::Registry;
use super::room::Rooms;
use crate::domain::TenantId;
use crate::log::{Recovery, TenantLog};
use crate::wire::{CloseCode, RecoveryFailure};

/// All sessions of a tenant are told within this, so that not all of them reload at once.
const SPREAD: Duration = Duration::from_secs(5);

impl Registry {
    /// Goes over to a new run of a tenant's log. Its sessions stay open: each is told that it has to reload,
    /// one after the other, and then gets everything of the new run.
    pub fn renew_log(&mut self, log: &Arc<TenantLog>, now: Instant) {
        let tenant = log.tenant();
        let Some(own) = self.tenants.get_mut(tenant).filter(|own| log.is_newer_than(&own.log)) else {
            return;
        };
        own.log = log.clone();
        own.delivered = log.head().seq;
        own.topics = Rooms::default();
        own.behind.clear();
        own.untold.clear();
        own.tell_by = now + SPREAD;
        for (id, entry) in self.sessions.iter_mut().filter(|(_, entry)| entry.tenant == *tenant) {
            own.behind.insert(*id, log.began());
            own.untold.push_back(*id);
            entry.tells_end = true;
            entry.handle.notify(Notice::Renewed);
        }
        tracing::info!(%tenant, sessions = own.untold.len(), epoch = %log.epoch(), "the log starts afresh");
        self.tell_some(tenant, now);
    }

    /// Ends every session of a tenant of whose log something cannot be delivered.
    pub fn lose(&mut self, tenant: &TenantId) {
        let own = self.sessions.iter().filter(|(_, entry)| entry.tenant == *tenant);
        for id in own.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.finish(id, CloseCode::InsufficientState, CloseCode::InsufficientState.default_retry());
        }
    }

    /// Tells the next of those who have not been told, of every tenant.
    pub(super) fn tell_renewed(&mut self, now: Instant) {
        let waiting = self.tenants.iter().filter(|(_, own)| !own.untold.is_empty());
        for tenant in waiting.map(|(tenant, _)| tenant.clone()).collect::<Vec<_>>() {
            self.tell_some(&tenant, now);
        }
    }

    fn tell_some(&mut self, tenant: &TenantId, now: Instant) {
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        let left = own.tell_by.saturating_duration_since(now).max(self.options.sweep);
        let share = self.options.sweep.as_secs_f64() / left.as_secs_f64();
        let count = (own.untold.len() as f64 * share).ceil() as usize;
        let recovery = Recovery::Failed(RecoveryFailure::EpochChanged);
        let (after, position) = (own.log.began(), own.log.position(own.log.began()));
        for id in own.untold.drain(..count.min(own.untold.len())) {
            let (Some(entry), Some(node)) = (self.sessions.get(&id), &self.node) else { continue };
            let (server_id, max_message_bytes, max_topics) = node.clone();
            let hello = Hello {
                connection_id: entry.about.connection_id.to_string(),
                server_id,
                user_id: entry.about.user_id.as_deref().map(str::to_owned),
                max_message_bytes,
                max_topics,
            };
            let heartbeat = self.options.heartbeat_of(&entry.queue);
            let ready = hello.ready(tenant, (recovery, position), &entry.grants, heartbeat);
            entry.queue.push_control(entry.queue.dialect().ready(&ready));
            self.metrics.recovered(recovery.outcome());
            entry.handle.notify(Notice::FellBehind { after });
        }
    }
}
