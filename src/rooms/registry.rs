use std::collections::{HashMap, HashSet, VecDeque, hash_map};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use indexmap::IndexMap;

use super::attach::{
    Attach, Attached, Connection, ConnectionId, Joined, Notice, RegistryOptions, SessionHandle, Standing,
    Widened,
};
use super::room::Rooms as TenantTopics;
use crate::clock::{Clock, jittered};
use crate::domain::{TenantId, Topic};
use crate::identity::{Credentials, Revoked};
use crate::log::{Recovery, TenantLog};
use crate::sessions::{About, Grant, Pushed, SendQueue, audience_of, is_shown};
use crate::telemetry::Metrics;
use crate::wire::{CloseCode, Dialect, Event};

/// Events fetched from the log at once when the worker moves on.
const ADVANCE_BATCH: usize = 256;

pub(super) struct Entry {
    pub(super) tenant: TenantId,
    pub(super) grants: Arc<[Grant]>,
    pub(super) queue: Rc<SendQueue>,
    pub(super) handle: Box<dyn SessionHandle>,
    credentials: Credentials,
    pub(super) about: Rc<About>,
    /// Whether its client is told when it has caught up; who was only judged again was never behind for it.
    pub(super) tells_end: bool,
    heartbeat_at: Instant,
    expires_at: Instant,
    /// When its token runs out, whatever the machine's clock does meanwhile.
    credentials_end_at: Option<Instant>,
}

pub(super) struct Tenant {
    pub(super) log: Arc<TenantLog>,
    /// Everything up to here has been handed to the rooms.
    pub(super) delivered: u64,
    pub(super) topics: TenantTopics,
    sessions: usize,
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
    fn hold(&mut self, sessions: &mut IndexMap<ConnectionId, Entry>, created: &Event) {
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

/// The sessions and rooms of one worker thread.
pub struct Registry {
    pub(super) options: RegistryOptions,
    clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tenants: HashMap<TenantId, Tenant>,
    pub(super) sessions: IndexMap<ConnectionId, Entry>,
    /// What every connection is told about the node: its id, largest message in bytes, most topics.
    pub(super) node: Option<(Arc<str>, usize, usize)>,
    /// Queues that are sending their last frames, and until when they may.
    finishing: Vec<(Instant, Rc<SendQueue>)>,
    drain_by: Option<Instant>,
}

impl Registry {
    /// Without sessions.
    pub fn new(options: RegistryOptions, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Registry {
            options,
            clock,
            metrics,
            tenants: HashMap::new(),
            sessions: IndexMap::new(),
            node: None,
            finishing: Vec::new(),
            drain_by: None,
        }
    }

    /// Sessions held.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is held.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Takes a session in: judges its cursor, says `ready`, and joins it at once unless it has to catch up.
    pub fn attach(&mut self, attach: Attach, now: Instant) -> Attached {
        let tenant = attach.log.tenant().clone();
        self.replace_older(&attach.credentials, attach.id);
        let (recovery, stands_at) = self.judge(&attach);
        self.metrics.recovered(recovery.outcome());
        let seq = match recovery {
            Recovery::Replay { after } => after,
            _ => stands_at,
        };
        let position =
            self.tenants.get(&tenant).map_or(attach.log.position(seq), |own| own.log.position(seq));
        let told = (recovery, position);
        let heartbeat = self.options.heartbeat_of(&attach.queue);
        let ready = attach.hello.ready(&tenant, told, &attach.grants, heartbeat);
        attach.queue.push_control(attach.queue.dialect().ready(&ready));
        self.node = Some((attach.hello.server_id, attach.hello.max_message_bytes, attach.hello.max_topics));
        let behind = match recovery {
            Recovery::Replay { after } => Some(after),
            _ => None,
        };
        let entry = Entry {
            tenant: tenant.clone(),
            grants: attach.grants,
            queue: attach.queue,
            handle: attach.handle,
            credentials_end_at: self.end_of(&attach.credentials, now),
            credentials: attach.credentials,
            about: attach.about,
            tells_end: true,
            heartbeat_at: now + heartbeat,
            expires_at: now + jittered(self.options.max_age, 0.1),
        };
        self.sessions.insert(attach.id, entry);
        match behind {
            Some(after) => {
                if let Some(own) = self.tenants.get_mut(&tenant) {
                    own.behind.insert(attach.id, after);
                }
                Attached::Behind { after }
            }
            None => {
                self.enter(attach.id);
                Attached::Live
            }
        }
    }

    /// A session has everything up to `after`; joins it when that is where the worker stands.
    pub fn join(&mut self, id: ConnectionId, after: u64) -> Joined {
        let Some(tenant) = self.sessions.get(&id).map(|entry| entry.tenant.clone()) else {
            return Joined::Live;
        };
        if let Some(own) = self.tenants.get_mut(&tenant) {
            own.behind.insert(id, after);
        }
        self.advance(&tenant);
        let Some((entry, own)) = self.sessions.get_mut(&id).zip(self.tenants.get_mut(&tenant)) else {
            return Joined::Live;
        };
        if own.delivered > after
            && let Err(reached) = top_up((&entry.queue, &entry.grants, None), own, after, &self.metrics)
        {
            own.behind.insert(id, reached);
            return Joined::Behind { after: reached };
        }
        own.behind.remove(&id);
        if std::mem::replace(&mut entry.tells_end, true) {
            entry.queue.push_control(entry.queue.dialect().position(own.log.position(own.delivered)));
        }
        self.enter(id);
        Joined::Live
    }

    /// Adds grants to a live session, where the worker stands; `replayed` says up to where the client has
    /// been given the events of these topics by which request, if it asked for those of the past.
    pub fn widen(&mut self, id: ConnectionId, added: &[Grant], replayed: Option<(u64, u64)>) -> Widened {
        let Some(tenant) = self.sessions.get(&id).map(|entry| entry.tenant.clone()) else {
            return Widened::Gone;
        };
        self.advance(&tenant);
        let Some((entry, own)) = self.sessions.get_mut(&id).zip(self.tenants.get_mut(&tenant)) else {
            return Widened::Gone;
        };
        if own.behind.contains_key(&id) {
            return Widened::NotLive;
        }
        if let Some((after, request)) = replayed
            && own.delivered > after
            && let Err(reached) = top_up((&entry.queue, added, Some(request)), own, after, &self.metrics)
        {
            return Widened::Behind { after: reached };
        }
        own.topics.leave(id, &entry.grants);
        let kept = entry.grants.iter().filter(|old| added.iter().all(|new| new.selector != old.selector));
        entry.grants = kept.chain(added).cloned().collect();
        own.topics.enter(id, &entry.grants, &entry.queue);
        Widened::Live { position: own.log.position(own.delivered), grants: entry.grants.clone() }
    }

    /// Changes or takes grants of a session; returns what it keeps.
    pub fn regrant(
        &mut self,
        id: ConnectionId,
        kept: impl Fn(&Grant) -> Option<Grant>,
    ) -> Option<Arc<[Grant]>> {
        let entry = self.sessions.get_mut(&id)?;
        let own = self.tenants.get_mut(&entry.tenant)?;
        own.topics.leave(id, &entry.grants);
        entry.grants = entry.grants.iter().filter_map(kept).collect();
        if !own.behind.contains_key(&id) {
            own.topics.enter(id, &entry.grants, &entry.queue);
        }
        Some(entry.grants.clone())
    }

    /// How far a session has been given what it may hear; None before it is attached and after its end.
    pub fn standing(&self, id: ConnectionId) -> Option<Standing> {
        let entry = self.sessions.get(&id)?;
        let own = self.tenants.get(&entry.tenant)?;
        if own.untold.contains(&id) {
            return None;
        }
        let behind = own.behind.get(&id).copied();
        let position = own.log.position(behind.unwrap_or(own.delivered));
        Some(Standing { position, is_live: behind.is_none() })
    }

    /// The run of the log that a session is given, once it is attached.
    pub fn log_of(&self, id: ConnectionId) -> Option<Arc<TenantLog>> {
        let entry = self.sessions.get(&id)?;
        Some(self.tenants.get(&entry.tenant)?.log.clone())
    }

    /// The client has left, or its connection broke.
    pub fn leave(&mut self, id: ConnectionId) {
        self.remove(id);
    }

    /// Hands everything that the tenant's log has taken since to its rooms.
    pub fn advance(&mut self, tenant: &TenantId) {
        let Some(own) = self.tenants.get_mut(tenant) else {
            return;
        };
        let mut overflowed = Vec::new();
        loop {
            let Some(events) = own.log.after(own.delivered, ADVANCE_BATCH) else {
                self.demote(tenant);
                break;
            };
            for event in &events {
                if event.is_internal() {
                    own.hold(&mut self.sessions, event);
                }
                own.fan_out(event, &mut overflowed);
                own.delivered = event.seq();
            }
            if events.len() < ADVANCE_BATCH {
                break;
            }
        }
        self.cut_slow(overflowed);
    }

    /// Hands a volatile event to its room.
    pub fn volatile(&mut self, tenant: &TenantId, event: &Arc<Event>) {
        let Some(own) = self.tenants.get_mut(tenant) else {
            return;
        };
        let mut overflowed = Vec::new();
        own.fan_out(event, &mut overflowed);
        let behind = own.behind.keys().filter_map(|id| self.sessions.get(id));
        let missed = behind.filter(|entry| is_shown(&entry.grants, event)).count();
        if missed > 0 {
            self.metrics.dropped("catching_up").inc_by(missed as u64);
        }
        self.cut_slow(overflowed);
    }

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

    /// A session lives by newer credentials from now on.
    pub fn renew(&mut self, id: ConnectionId, credentials: Credentials, now: Instant) {
        let end_at = self.end_of(&credentials, now);
        if let Some(entry) = self.sessions.get_mut(&id) {
            entry.credentials_end_at = end_at;
            entry.credentials = credentials;
        }
    }

    /// Has the sessions that hear any of these topics judged again.
    pub fn recheck(&self, topics: &HashSet<(TenantId, Topic)>) {
        for entry in self.sessions.values() {
            let hears = |grant: &Grant| {
                let room = grant.selector.room();
                topics.iter().any(|(tenant, topic)| *tenant == entry.tenant && room.as_ref() == Some(topic))
            };
            if entry.grants.iter().any(hears) {
                entry.handle.notify(Notice::Recheck);
            }
        }
    }

    /// Ends every session from an address that may not connect any more.
    pub fn end_blocked(&mut self, is_blocked: impl Fn(IpAddr) -> bool) {
        let blocked = self.sessions.iter().filter(|(_, entry)| is_blocked(entry.about.peer));
        for id in blocked.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cut(id, CloseCode::Forbidden);
        }
    }

    /// The first `limit` sessions of a tenant after a connection's number, by number.
    pub fn connections(&self, tenant: &TenantId, after: ConnectionId, limit: usize) -> Vec<Connection> {
        let own = self.sessions.iter().filter(|(id, entry)| **id > after && entry.tenant == *tenant);
        let mut own: Vec<_> = own.collect();
        own.sort_unstable_by_key(|(id, _)| **id);
        own.truncate(limit);
        let shown = |(id, entry): (&ConnectionId, &Entry)| Connection {
            id: *id,
            connection_id: entry.about.connection_id.to_string(),
            user_id: entry.about.user_id.as_deref().map(str::to_owned),
            transport: entry.about.transport,
            address: entry.about.peer,
            user_agent: entry.about.user_agent.to_string(),
            topics: entry.grants.len(),
            age: entry.about.opened.elapsed(),
        };
        own.into_iter().map(shown).collect()
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

    fn end_of(&self, credentials: &Credentials, now: Instant) -> Option<Instant> {
        let left = credentials.expires_at?.since(self.clock.now());
        now.checked_add(left)
    }

    fn replace_older(&mut self, credentials: &Credentials, newer: ConnectionId) {
        if let Some(ticket_id) = credentials.ticket_id.clone() {
            self.replace_ticket(&ticket_id, newer);
        }
    }

    /// Takes the session into account, and tells what its cursor leads to, against the number that the
    /// worker then stands at.
    fn judge(&mut self, attach: &Attach) -> (Recovery, u64) {
        let tenant = attach.log.tenant().clone();
        if self.tenants.get(&tenant).is_some_and(|own| attach.log.is_newer_than(&own.log)) {
            self.renew_log(&attach.log, Instant::now());
        }
        let own = self.tenants.entry(tenant.clone()).or_insert_with(|| Tenant {
            log: attach.log.clone(),
            delivered: attach.log.head().seq,
            topics: TenantTopics::default(),
            sessions: 0,
            behind: HashMap::new(),
            untold: VecDeque::new(),
            tell_by: Instant::now(),
        });
        // counted before anything is delivered: that may cut the tenant's last other session
        own.sessions += 1;
        let selectors: Vec<_> = attach.grants.iter().map(|grant| grant.selector.clone()).collect();
        let log = own.log.clone();
        let (recovery, head) = log.recovery(attach.cursor, &selectors, self.clock.steady());
        self.advance(&tenant);
        let stands_at = self.tenants.get(&tenant).map_or(head.seq, |own| own.delivered);
        match recovery {
            // the log moved on between the judgement and now
            Recovery::Current if stands_at > head.seq => (Recovery::Replay { after: head.seq }, stands_at),
            recovery => (recovery, stands_at),
        }
    }

    fn enter(&mut self, id: ConnectionId) {
        let Some(entry) = self.sessions.get(&id) else {
            return;
        };
        if let Some(own) = self.tenants.get_mut(&entry.tenant) {
            own.topics.enter(id, &entry.grants, &entry.queue);
        }
    }

    /// The window has moved past the worker: its live sessions catch up from the log instead.
    fn demote(&mut self, tenant: &TenantId) {
        let Some(own) = self.tenants.get_mut(tenant) else {
            return;
        };
        let after = own.delivered;
        own.delivered = own.log.head().seq;
        own.topics = TenantTopics::default();
        for (id, entry) in self.sessions.iter().filter(|(_, entry)| entry.tenant == *tenant) {
            if let hash_map::Entry::Vacant(live) = own.behind.entry(*id) {
                live.insert(after);
                entry.handle.notify(Notice::FellBehind { after });
            }
        }
    }

    pub(super) fn cut_slow(&mut self, ids: Vec<ConnectionId>) {
        for id in ids {
            self.cut(id, CloseCode::SlowConsumer);
        }
    }

    /// Ends a session, throwing away what waits.
    fn cut(&mut self, id: ConnectionId, code: CloseCode) {
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
            let retry =
                self.options.retry_spread.mul_f64(crate::clock::random_u64() as f64 / u64::MAX as f64);
            self.finish(id, CloseCode::Draining, retry);
        }
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Entry> {
        let entry = self.sessions.swap_remove(&id)?;
        if let Some(own) = self.tenants.get_mut(&entry.tenant) {
            own.topics.leave(id, &entry.grants);
            own.behind.remove(&id);
            own.sessions -= 1;
            if own.sessions == 0 {
                self.tenants.remove(&entry.tenant);
            }
        }
        Some(entry)
    }
}

/// Hands a session the few events between where it stands and where the worker does, so that it gets live
/// however fast others publish; the error is how far it got when they are too many or do not fit.
fn top_up(
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

/// How often a registry that drains is swept.
pub const DRAIN_STEP: Duration = Duration::from_millis(20);

impl Drop for Registry {
    fn drop(&mut self) {
        // after a panic the sessions resume elsewhere, or here in the rebuilt registry
        for (_, entry) in self.sessions.drain(..) {
            let code = CloseCode::GoingAway;
            entry.queue.cut(code);
            entry.handle.notify(Notice::Closed(code));
        }
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Registry").field("sessions", &self.sessions.len()).finish()
    }
}
