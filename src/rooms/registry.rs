use std::collections::{HashMap, HashSet, VecDeque, hash_map};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use indexmap::IndexMap;

use super::attach::{
    Attach, Attached, Connection, ConnectionId, Joined, Notice, RegistryOptions, SessionHandle, Standing,
    Widened,
};
use super::room::Rooms;
use super::tenant::{ADVANCE_BATCH, Tenant, top_up};
use crate::clock::{Clock, jittered};
use crate::domain::{TenantId, Topic};
use crate::identity::Credentials;
use crate::log::{Recovery, TenantLog};
use crate::sessions::{About, Grant, SendQueue, is_shown};
use crate::telemetry::Metrics;
use crate::wire::{CloseCode, Event};

pub(super) struct Entry {
    pub(super) tenant: TenantId,
    pub(super) grants: Arc<[Grant]>,
    pub(super) queue: Rc<SendQueue>,
    pub(super) handle: Box<dyn SessionHandle>,
    pub(super) credentials: Credentials,
    pub(super) about: Rc<About>,
    /// Whether its client is told when it has caught up; who was only judged again was never behind for it.
    pub(super) tells_end: bool,
    pub(super) heartbeat_at: Instant,
    pub(super) expires_at: Instant,
    /// When its token runs out, whatever the machine's clock does meanwhile.
    pub(super) credentials_end_at: Option<Instant>,
}

/// The sessions and rooms of one worker thread.
pub struct Registry {
    pub(super) options: RegistryOptions,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tenants: HashMap<TenantId, Tenant>,
    pub(super) sessions: IndexMap<ConnectionId, Entry>,
    /// What every connection is told about the node: its id, largest message in bytes, most topics.
    pub(super) node: Option<(Arc<str>, usize, usize)>,
    /// Queues that are sending their last frames, and until when they may.
    pub(super) finishing: Vec<(Instant, Rc<SendQueue>)>,
    pub(super) drain_by: Option<Instant>,
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
            topics: Rooms::default(),
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
        own.topics = Rooms::default();
        for (id, entry) in self.sessions.iter().filter(|(_, entry)| entry.tenant == *tenant) {
            if let hash_map::Entry::Vacant(live) = own.behind.entry(*id) {
                live.insert(after);
                entry.handle.notify(Notice::FellBehind { after });
            }
        }
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Entry> {
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
