//! A tenant as a worker thread has it: how far its log has been handed out, and to whom.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use indexmap::IndexMap;

use super::attach::{ConnectionId, Notice};
use super::registry::Entry;
use super::room::Rooms;
use crate::domain::Topic;
use crate::log::TenantLog;
use crate::sessions::{Grant, Pushed, SendQueue, audience_of, is_shown};
use crate::telemetry::Metrics;
use crate::wire::Event;

/// Events fetched from the log at once when the worker moves on.
pub(super) const ADVANCE_BATCH: usize = 256;

pub(super) struct Tenant {
    pub(super) log: Arc<TenantLog>,
    /// Everything up to here has been handed to the rooms.
    pub(super) delivered: u64,
    pub(super) topics: Rooms,
    pub(super) sessions: usize,
    /// Who is not live but catching up, and where they stand.
    pub(super) behind: HashMap<ConnectionId, u64>,
    /// Who has not been told yet that the log has started afresh, and until when all are.
    pub(super) untold: VecDeque<ConnectionId>,
    pub(super) tell_by: Instant,
}

impl Tenant {
    pub(super) fn fan_out(&self, event: &Arc<Event>, overflowed: &mut Vec<ConnectionId>) {
        let origin = event.origin();
        let span = tracing::debug_span!(
            "fan_out",
            tenant = %self.log.tenant(),
            event_id = event.position().map(tracing::field::display),
            request_id = origin.map(|origin| &*origin.request_id),
            trace_id = origin.map(|origin| tracing::field::display(origin.trace.trace_id())),
        );
        let _within = span.enter();
        let sessions = self.topics.deliver(event, overflowed);
        if sessions > 0 {
            tracing::debug!(sessions, "fanned out");
        }
    }

    /// Takes those who hear of an entity that has come into being out of its rooms, until they are judged again.
    pub(super) fn hold(&mut self, sessions: &mut IndexMap<ConnectionId, Entry>, created: &Event) {
        let after = created.seq();
        for (id, entry) in sessions {
            let is_live = entry.tenant == *self.log.tenant() && !self.behind.contains_key(id);
            if is_live && hears(&entry.grants, created.topic()) {
                self.topics.leave(*id, &entry.grants);
                self.behind.insert(*id, after);
                entry.tells_end = false;
                entry.handle.notify(Notice::Created { after });
            }
        }
    }
}

/// Whether any of these grants is about what happens in a topic's room.
fn hears(grants: &[Grant], topic: &Topic) -> bool {
    grants.iter().any(|grant| grant.selector.room().as_ref() == Some(topic))
}

/// Hands a session the few events between where it stands and where the worker does, so that it gets live
/// however fast others publish; the error is how far it got when they are too many or do not fit.
pub(super) fn top_up(
    (queue, grants, request): (&SendQueue, &[Grant], Option<u64>),
    own: &Tenant,
    after: u64,
    metrics: &Metrics,
) -> Result<(), u64> {
    let events =
        own.log.after(after, ADVANCE_BATCH).filter(|events| after + events.len() as u64 >= own.delivered);
    let mut reached = after;
    for event in events.ok_or(after)?.iter().take_while(|event| event.seq() <= own.delivered) {
        if event.is_internal() && hears(grants, event.topic()) {
            // it has to be judged again: it finds this in its next page
            return Err(reached);
        }
        if is_shown(grants, event) {
            let audience = audience_of(grants, event);
            if !queue.has_room_for(event, audience) {
                return Err(reached);
            }
            if queue.push_past(event, audience, request) == Pushed::Taken {
                metrics.replayed(1);
            }
        }
        reached = event.seq();
    }
    Ok(())
}
