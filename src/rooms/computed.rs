//! What a node computes for its own sessions, beside what the log tells.

use std::sync::Arc;

use super::{ConnectionId, Registry};
use crate::domain::TenantId;
use crate::sessions::{Pushed, audience_of, is_shown};
use crate::wire::Event;

impl Registry {
    /// Hands an event that was computed here to live sessions: to these, or to all that hear its topic.
    pub fn tell(&mut self, tenant: &TenantId, event: &Arc<Event>, to: Option<&[ConnectionId]>) {
        let Some(own) = self.tenants.get(tenant) else {
            return;
        };
        let mut overflowed = Vec::new();
        match to {
            None => own.fan_out(event, &mut overflowed),
            Some(ids) => {
                for id in ids {
                    let Some(entry) = self.sessions.get(id) else { continue };
                    // who is catching up is told when it has
                    let is_live = entry.tenant == *tenant && !own.behind.contains_key(id);
                    if !is_live || !is_shown(&entry.grants, event) {
                        continue;
                    }
                    let pushed = entry.queue.push_event(event, audience_of(&entry.grants, event));
                    overflowed.extend((pushed == Pushed::Overflow).then_some(*id));
                }
            }
        }
        self.cut_slow(overflowed);
    }
}
