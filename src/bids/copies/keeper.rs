use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::desk::{Copies, Listener, Owed, Said};
use super::followed::{Fresh, Place, Tell};
use super::seen::{Question, Seen, whole_for_all};
use super::{Carriers, Followed};
use crate::bids::ranking::{BidKey, BidRanking, Rankings};
use crate::bids::{Bid, Frame, Frames, Move, Status};
use crate::domain::{Class, Epoch, EventName, TenantId, Topic, TopicKind};
use crate::log::EventLog;
use crate::rooms::{ConnectionId, Workers};
use crate::storage::{Database, StoreError};
use crate::telemetry::Metrics;
use crate::wire::{Content, Event, EventParts, RANKING_UPDATED};

/// Carriers that are looked up at once.
const LOOKED_UP: usize = 500;
/// Bids in which one carrier is followed: those of its newest proposals.
const MOST_BIDS: usize = 100;
/// Entries that are read at once.
const ENTRIES: usize = 256;
/// Carriers that nobody listens for are looked for this often; what failed is tried again.
const SWEEP: Duration = Duration::from_secs(1);

/// Bounds of what is computed.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions {
    /// Rows of a whole ranking.
    pub most: usize,
    /// Rows that are told of one that is too long for that.
    pub window: usize,
}

/// Keeps what this node's sessions are told of rankings up to date.
pub struct Keeper {
    copies: Copies,
    log: EventLog,
    database: Database,
    rankings: Rankings,
    workers: Arc<Workers>,
    metrics: Arc<Metrics>,
    options: CopyOptions,
    tenants: HashMap<TenantId, Tenant>,
    /// When bids are to be looked at.
    agenda: BTreeSet<(Instant, TenantId, Arc<str>)>,
    work: JoinSet<Done>,
}

struct Tenant {
    epoch: Epoch,
    /// Entries up to here have been seen.
    seen: u64,
    listeners: HashMap<ConnectionId, Listener>,
    carriers: Carriers,
    bids: HashMap<Arc<str>, Followed>,
    is_looking_up: bool,
}

/// What was found out.
enum Done {
    Seen(BidKey, Question, Result<Option<Seen>, StoreError>),
    LookedUp(TenantId, Vec<Arc<str>>, Result<Vec<(String, String)>, StoreError>),
}

impl Keeper {
    /// Serves those who say to `copies` that they listen.
    pub fn new(
        copies: Copies,
        (log, database, rankings): (EventLog, Database, Rankings),
        (workers, metrics): (Arc<Workers>, Arc<Metrics>),
        options: CopyOptions,
    ) -> Self {
        let (tenants, agenda, work) = (HashMap::new(), BTreeSet::new(), JoinSet::new());
        Keeper { copies, log, database, rankings, workers, metrics, options, tenants, agenda, work }
    }

    /// Has other services told rankings whole.
    pub fn tell_others(&self) {
        let (rankings, rows) = (self.rankings.downgrade(), (self.options.most, self.options.window));
        self.log.on_whole(Box::new(move |tenant, event| {
            if event.topic.kind() != TopicKind::Ranking || event.name.as_str() != RANKING_UPDATED {
                return None;
            }
            let key = BidKey { tenant: tenant.clone(), bid_id: event.topic.id().into() };
            let (rankings, told_at) = (rankings.upgrade()?, Frame::read(&event.data)?.timestamp);
            let told = async move {
                let look = move |bid: &Bid, ranking: &BidRanking| whole_for_all(bid, ranking, rows, told_at);
                rankings.look(&key, look).await.ok().flatten()
            };
            Some(told.boxed())
        }));
    }

    /// Works for as long as this runs; on the storage runtime.
    pub async fn run(mut self) {
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let next = self.agenda.first().map(|(at, ..)| (*at).into());
            tokio::select! {
                () = self.copies.woken() => {}
                Some(done) = self.work.join_next() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => tracing::error!(%error, "a look at a ranking broke off"),
                },
                () = tokio::time::sleep_until(next.unwrap_or_else(tokio::time::Instant::now)), if next.is_some() => {}
                _ = sweep.tick() => self.sweep(),
            }
            let waiting = self.copies.take();
            // first the log: what sessions say may refer to it
            waiting.advanced.iter().for_each(|tenant| self.advance(tenant));
            for (tenant, said) in waiting.said {
                self.hear(&tenant, said);
            }
            self.look();
        }
    }

    fn hear(&mut self, tenant: &TenantId, said: Said) {
        let now = Instant::now();
        match said {
            Said::Listens { id, listener, afresh } => self.listens(tenant, id, listener, afresh),
            Said::Left(id) => {
                let Some(own) = self.tenants.get_mut(tenant) else { return };
                let Some(former) = own.listeners.remove(&id) else { return };
                former.carriers().for_each(|name| own.carriers.leave(name, id, now));
                for bid in &former.whole {
                    if let Some(own) = self.tenants.get_mut(tenant).and_then(|own| own.bids.get_mut(bid)) {
                        own.leave(id);
                    }
                    self.schedule(tenant, bid);
                }
            }
            Said::Owes { id, since, reply } => {
                let Some(own) = self.tenants.get_mut(tenant) else { return };
                let Some((topic, carriers)) = own.listeners.get(&id).and_then(|own| own.user.clone()) else {
                    return;
                };
                let since = since.filter(|since| since.epoch == own.epoch).map(|since| since.seq);
                let fresh = Fresh::Owed(Owed::new(topic, reply));
                for carrier in &carriers {
                    for bid in own.carriers.ask(carrier, &fresh) {
                        let followed = own.bids.entry(bid.clone()).or_insert_with(|| Followed::new(own.seen));
                        if since.is_none_or(|since| followed.has_changed_since(since)) {
                            followed.ask(carrier, [fresh.clone()]);
                        }
                        schedule(&mut self.agenda, tenant, &bid, followed, now);
                    }
                }
            }
        }
    }

    fn listens(&mut self, tenant: &TenantId, id: ConnectionId, listener: Listener, afresh: bool) {
        let now = Instant::now();
        let Some(own) = self.tenant(tenant) else { return };
        let former = own.listeners.insert(id, listener.clone());
        let former = former.filter(|_| !afresh);
        let (mut heard, mut listed) = (HashSet::new(), HashSet::new());
        if let Some(former) = &former {
            heard.extend(former.carriers().cloned());
            listed.extend(former.whole.iter().cloned());
        }
        let mut touched = Vec::new();
        for carrier in listener.carriers().filter(|own| !heard.remove(*own)) {
            own.carriers.join(carrier, id);
            if listener.is_poll {
                continue;
            }
            let fresh = Fresh::Session(id);
            for bid in own.carriers.ask(carrier, &fresh) {
                let followed = own.bids.entry(bid.clone()).or_insert_with(|| Followed::new(own.seen));
                followed.ask(carrier, [fresh.clone()]);
                touched.push(bid);
            }
        }
        for bid in listener.whole.iter().filter(|own| !listed.remove(*own)) {
            own.bids.entry(bid.clone()).or_insert_with(|| Followed::new(own.seen)).listen(id);
            touched.push(bid.clone());
        }
        // what is left of them it hears no more
        heard.iter().for_each(|name| own.carriers.leave(name, id, now));
        for bid in listed {
            own.bids.get_mut(&bid).into_iter().for_each(|bid| bid.leave(id));
            touched.push(bid);
        }
        for bid in touched {
            self.schedule(tenant, &bid);
        }
    }

    /// A tenant whose log is followed, from now on if it was not.
    fn tenant(&mut self, tenant: &TenantId) -> Option<&mut Tenant> {
        if !self.tenants.contains_key(tenant) {
            self.copies.follow(tenant);
            // after that: what it takes from here on is told of
            let head = self.log.present(tenant)?.head();
            let own = Tenant {
                epoch: head.epoch,
                seen: head.seq,
                listeners: HashMap::new(),
                carriers: Carriers::default(),
                bids: HashMap::new(),
                is_looking_up: false,
            };
            self.tenants.insert(tenant.clone(), own);
        }
        self.tenants.get_mut(tenant)
    }

    /// Takes in what a log tells of rankings since it was last looked at.
    fn advance(&mut self, tenant: &TenantId) {
        let now = Instant::now();
        let (Some(own), Some(log)) = (self.tenants.get_mut(tenant), self.log.present(tenant)) else { return };
        if log.epoch() != own.epoch {
            own.epoch = log.epoch();
            return self.restart(tenant, log.head().seq);
        }
        let mut touched = HashSet::new();
        loop {
            let Some(events) = log.after(own.seen, ENTRIES) else {
                return self.restart(tenant, log.head().seq);
            };
            for event in &events {
                own.seen = event.seq();
                touched.extend(own.entry(event, now));
            }
            if events.len() < ENTRIES {
                break;
            }
        }
        for bid in touched {
            self.schedule(tenant, &bid);
        }
    }

    /// Entries have been missed: all is looked at anew.
    fn restart(&mut self, tenant: &TenantId, head: u64) {
        let now = Instant::now();
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        own.seen = head;
        own.carriers.forget_parts();
        own.bids.values_mut().for_each(|bid| bid.missed(head, now));
        for bid in own.bids.keys().cloned().collect::<Vec<_>>() {
            self.schedule(tenant, &bid);
        }
    }

    /// Puts a bid where it belongs on the agenda, or forgets it.
    fn schedule(&mut self, tenant: &TenantId, bid: &Arc<str>) {
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        let Some(followed) = own.bids.get_mut(bid) else { return };
        schedule(&mut self.agenda, tenant, bid, followed, Instant::now());
        if followed.is_idle() {
            own.bids.remove(bid);
        }
    }

    /// Begins what is due.
    fn look(&mut self) {
        let now = Instant::now();
        while let Some((at, tenant, bid_id)) = self.agenda.first().cloned()
            && at <= now
        {
            self.agenda.pop_first();
            let Some(own) = self.tenants.get_mut(&tenant) else { continue };
            let Some(followed) = own.bids.get_mut(&bid_id) else { continue };
            followed.scheduled = None;
            let question = followed.question(own.carriers.names(), now);
            let key = BidKey { tenant, bid_id };
            let (rankings, clock) = (self.rankings.clone(), self.log.clock());
            let (asked, rows) = (question.clone(), (self.options.most, self.options.window));
            self.work.spawn(async move {
                let seen = rankings
                    .look(&key, move |bid, ranking| {
                        Seen::new(bid, ranking, asked, rows, clock.now().to_string())
                    })
                    .await;
                Done::Seen(key, question, seen)
            });
        }
        for (tenant, own) in &mut self.tenants {
            if own.is_looking_up {
                continue;
            }
            let names = own.carriers.take_unknown(LOOKED_UP);
            if names.is_empty() {
                continue;
            }
            own.is_looking_up = true;
            let (database, tenant) = (self.database.clone(), tenant.clone());
            self.work.spawn(async move {
                let asked: Vec<String> = names.iter().map(|name| (**name).to_owned()).collect();
                let owner = tenant.as_str().to_owned();
                let find = move |db: Database| async move {
                    crate::read!(db, |conn, q| Ok(q::bids::of_carriers(conn, &owner, &asked).await?))
                };
                let found = database.run(find).await;
                Done::LookedUp(tenant, names, found)
            });
        }
    }

    fn done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Seen(key, question, seen) => {
                let (tenant, bid) = (&key.tenant, &key.bid_id);
                let Some(own) = self.tenants.get_mut(tenant) else { return };
                let Some(followed) = own.bids.get_mut(bid) else { return };
                let mut gone = Vec::new();
                let told = match seen {
                    Ok(Some(seen)) => {
                        let is_over = seen.is_over;
                        let told = followed.answer(seen, now);
                        gone.extend(question.carriers.into_iter().filter(|name| !followed.has(name)));
                        gone.extend(is_over.then(|| followed.end()).into_iter().flatten());
                        told
                    }
                    Ok(None) => {
                        gone.extend(followed.end());
                        followed.absent();
                        Vec::new()
                    }
                    Err(error) => {
                        tracing::debug!(%error, %tenant, %bid, "a ranking could not be looked at");
                        followed.failed(&question, now);
                        Vec::new()
                    }
                };
                gone.iter().for_each(|name| own.carriers.parts(name, bid));
                let taking = told.iter().filter_map(|tell| match tell {
                    Tell::Standing(name, place) => place.standing.rank.is_some().then(|| name.clone()),
                    _ => None,
                });
                taking.for_each(|name| own.carriers.takes_part(&name, bid));
                self.schedule(tenant, bid);
                told.into_iter().for_each(|tell| self.tell(tenant, bid, tell));
            }
            Done::LookedUp(tenant, names, found) => self.looked_up(&tenant, names, found),
        }
    }

    fn looked_up(
        &mut self,
        tenant: &TenantId,
        names: Vec<Arc<str>>,
        found: Result<Vec<(String, String)>, StoreError>,
    ) {
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, %tenant, "carriers could not be looked up");
                // `is_looking_up` stays until the next sweep: it is not tried at once
                return own.carriers.put_back(names);
            }
        };
        own.is_looking_up = false;
        let mut bids: HashMap<String, HashSet<Arc<str>>> = HashMap::new();
        for (carrier, bid) in found {
            let bids = bids.entry(carrier).or_default();
            if bids.len() < MOST_BIDS {
                bids.insert(bid.into());
            }
        }
        let mut touched = HashSet::new();
        for name in names {
            let parts = bids.remove(&*name).unwrap_or_default();
            let waiting = own.carriers.looked_up(&name, parts.clone());
            for bid in parts {
                let followed = own.bids.entry(bid.clone()).or_insert_with(|| Followed::new(own.seen));
                followed.ask(&name, waiting.iter().cloned());
                touched.insert(bid);
            }
        }
        for bid in touched {
            self.schedule(tenant, &bid);
        }
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        let mut touched = Vec::new();
        for (tenant, own) in &mut self.tenants {
            // what failed is tried again
            own.is_looking_up = false;
            for (name, bids) in own.carriers.let_go(now) {
                for bid in bids {
                    own.bids.get_mut(&bid).into_iter().for_each(|own| own.forget(&name));
                    touched.push((tenant.clone(), bid));
                }
            }
            own.bids.retain(|_, bid| !bid.is_idle());
        }
        touched.iter().for_each(|(tenant, bid)| self.schedule(tenant, bid));
        self.tenants.retain(|tenant, own| {
            let is_used = !own.listeners.is_empty() || !own.carriers.is_empty() || !own.bids.is_empty();
            if !is_used {
                self.copies.unfollow(tenant);
            }
            is_used
        });
    }

    fn tell(&self, tenant: &TenantId, bid: &Arc<str>, tell: Tell) {
        let Some(own) = self.tenants.get(tenant) else { return };
        let some = |ids: Vec<ConnectionId>| Some(ids.into());
        match tell {
            Tell::Whole(version, frames) => {
                self.workers.tell(tenant, self.whole(bid, version, frames), None);
            }
            Tell::WholeTo(ids, version, frames) => {
                self.workers.tell(tenant, self.whole(bid, version, frames), some(ids));
            }
            Tell::Standing(carrier, place) => {
                let mut by_topic: HashMap<&Topic, Vec<ConnectionId>> = HashMap::new();
                for id in own.carriers.listeners(&carrier) {
                    if let Some((topic, _)) = own.listeners.get(&id).and_then(|own| own.user.as_ref()) {
                        by_topic.entry(topic).or_default().push(id);
                    }
                }
                for (topic, ids) in by_topic {
                    self.workers.tell(tenant, self.place(topic, bid, &place), some(ids));
                }
            }
            Tell::StandingTo(Fresh::Session(id), place) => {
                if let Some((topic, _)) = own.listeners.get(&id).and_then(|own| own.user.as_ref()) {
                    self.workers.tell(tenant, self.place(topic, bid, &place), some(vec![id]));
                }
            }
            Tell::StandingTo(Fresh::Owed(owed), place) => owed.add(self.place(owed.topic(), bid, &place)),
        }
    }

    fn whole(&self, bid: &str, version: i64, frames: Frames) -> Arc<Event> {
        self.metrics.ranking().computed("whole");
        let topic = Topic::parse(&format!("{}:{bid}", TopicKind::Ranking.as_str())).expect("of a bid");
        let (full, public) = (Content::new(frames.full), frames.public.map(Content::new));
        let parts = EventParts {
            version: Some(version),
            public,
            ..self.parts(topic, RANKING_UPDATED, bid.to_owned(), full)
        };
        Arc::new(Event::new(parts).whole())
    }

    fn place(&self, topic: &Topic, bid: &str, place: &Place) -> Arc<Event> {
        self.metrics.ranking().computed("place");
        let standing = &place.standing;
        let data = serde_json::json!({
            "bid_id": bid,
            "proposal_id": &*standing.proposal_id,
            "rank": standing.rank,
            "previous_rank": place.previous_rank,
            "total": standing.total,
            "version": place.version,
        });
        let key = format!("{bid} {}", standing.proposal_id);
        let parts = self.parts(topic.clone(), "my_proposal_rank", key, Content::new(data.to_string()));
        Arc::new(Event::new(parts))
    }

    fn parts(&self, topic: Topic, name: &'static str, key: String, full: Content) -> EventParts {
        EventParts {
            position: None,
            topic,
            name: EventName::trusted(name),
            class: Class::Latest,
            key: Some(key.into()),
            version: None,
            at: self.log.clock().steady(),
            expires_at: None,
            full,
            public: None,
        }
    }
}

fn schedule(
    agenda: &mut BTreeSet<(Instant, TenantId, Arc<str>)>,
    tenant: &TenantId,
    bid: &Arc<str>,
    followed: &mut Followed,
    now: Instant,
) {
    let due = followed.due(now);
    if followed.scheduled.zip(due).is_some_and(|(at, due)| at <= due) {
        return;
    }
    if let Some(at) = followed.scheduled.take() {
        agenda.remove(&(at, tenant.clone(), bid.clone()));
    }
    if let Some(at) = due {
        agenda.insert((at, tenant.clone(), bid.clone()));
        followed.scheduled = Some(at);
    }
}

impl Tenant {
    /// Takes in what an entry tells of a ranking that somebody here listens for; the bid, if it does.
    fn entry(&mut self, event: &Event, now: Instant) -> Option<Arc<str>> {
        let parts = event.parts();
        if parts.topic.kind() == TopicKind::Bid {
            return self.status(parts);
        }
        if parts.topic.kind() != TopicKind::Ranking
            || parts.name.as_str() != RANKING_UPDATED
            || (self.carriers.is_empty() && !self.bids.contains_key(parts.topic.id()))
        {
            return None;
        }
        // what others publish on these channels is of no bid here
        let frame = Frame::read(parts.full.data())?;
        let come = self.come(&frame);
        let is_unclear = frame.moves.is_none() && !self.carriers.is_empty();
        if come.is_empty() && !is_unclear && !self.bids.contains_key(parts.topic.id()) {
            return None;
        }
        let bid: Arc<str> = parts.topic.id().into();
        come.iter().for_each(|name| self.carriers.takes_part(name, &bid));
        let seq = event.seq();
        let followed = self.bids.entry(bid.clone()).or_insert_with(|| Followed::new(seq));
        followed.entry(&frame, seq, &come, now);
        if is_unclear {
            followed.look_for_all();
        }
        Some(bid)
    }

    /// Takes in what an entry tells of a bid's status: of one that is over no place changes any more.
    fn status(&mut self, parts: &EventParts) -> Option<Arc<str>> {
        #[derive(Deserialize)]
        struct Changed {
            new_status: Status,
        }
        let bid = self.bids.get_key_value(parts.topic.id())?.0.clone();
        let followed = self.bids.get_mut(&bid)?;
        let Changed { new_status } = serde_json::from_str(parts.full.data()).ok()?;
        if new_status.is_over() {
            followed.end().iter().for_each(|name| self.carriers.parts(name, &bid));
        }
        Some(bid)
    }

    /// The carriers that somebody listens for whose proposals have become ranked.
    fn come(&self, frame: &Frame) -> Vec<Arc<str>> {
        let ranked = |own: &&Move| own.from.is_none() && own.to.is_some();
        let carrier = |own: &Move| {
            let row = own
                .row
                .as_ref()
                .or_else(|| frame.ranked_proposals.iter().find(|row| row.proposal_id == own.proposal_id));
            self.carriers.find(&row?.carrier_id).cloned()
        };
        frame.moves.iter().flatten().filter(ranked).filter_map(carrier).collect()
    }
}
