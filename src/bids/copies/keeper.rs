use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Followed;
use super::desk::{Copies, Listener, Said};
use super::listening::{Listening, MOST_BIDS};
use super::seen::{Question, Seen, whole_for_all};
use super::telling::Teller;
use crate::bids::ranking::{BidKey, BidRanking, Rankings};
use crate::bids::{Bid, Frame};
use crate::domain::{TenantId, TopicKind};
use crate::log::EventLog;
use crate::rooms::{ConnectionId, Workers};
use crate::storage::{Database, StoreError};
use crate::telemetry::Metrics;
use crate::wire::RANKING_UPDATED;

/// Carriers that are looked up at once.
const LOOKED_UP: usize = 500;
/// Parts of them in bids that are looked up at once.
const MOST_PARTS: i64 = 20_000;
/// Bids that are looked at at once: commands need the database, too.
const LOOKS: usize = 32;
/// Entries that are read at once.
const ENTRIES: usize = 256;
/// What nobody listens for is looked for this often; what failed is tried again.
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
    teller: Teller,
    options: CopyOptions,
    tenants: HashMap<TenantId, Tenant>,
    agenda: Agenda,
    work: JoinSet<Done>,
    /// Bids that are looked at at once.
    looking: Arc<Semaphore>,
}

/// When bids are to be looked at.
type Agenda = BTreeSet<(Instant, TenantId, Arc<str>)>;

struct Tenant {
    listening: Listening,
    is_looking_up: bool,
}

/// What was found out.
enum Done {
    Seen(Box<(BidKey, Question, Result<Option<Seen>, StoreError>)>),
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
        let teller = Teller::new(workers, metrics, log.clock());
        let (tenants, agenda, work) = (HashMap::new(), BTreeSet::new(), JoinSet::new());
        let looking = Arc::new(Semaphore::new(LOOKS));
        Keeper { copies, log, database, rankings, teller, options, tenants, agenda, work, looking }
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
        if let Said::Listens { id, listener, afresh } = said {
            return self.listens(tenant, (id, listener, afresh), now);
        }
        let Some(own) = self.tenants.get_mut(tenant).map(|own| &mut own.listening) else { return };
        let touched = match said {
            Said::Listens { .. } => HashSet::new(),
            Said::Left(id) => own.left(id, now),
            Said::Owes { id, since, reply } => own.owes(id, since, reply),
        };
        self.schedule(tenant, touched);
    }

    fn listens(
        &mut self,
        tenant: &TenantId,
        (id, listener, afresh): (ConnectionId, Listener, bool),
        now: Instant,
    ) {
        if !self.tenants.contains_key(tenant) {
            self.copies.follow(tenant);
            // after that: what it takes from here on is told of
            let Some(log) = self.log.present(tenant) else { return };
            let own = Tenant { listening: Listening::new(log.head()), is_looking_up: false };
            self.tenants.insert(tenant.clone(), own);
        }
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        let touched = own.listening.listens(id, listener, afresh, now);
        self.schedule(tenant, touched);
    }

    /// Takes in what a log tells of rankings since it was last looked at.
    fn advance(&mut self, tenant: &TenantId) {
        let now = Instant::now();
        let (Some(own), Some(log)) = (self.tenants.get_mut(tenant), self.log.present(tenant)) else { return };
        let own = &mut own.listening;
        let mut touched = HashSet::new();
        loop {
            let events = match log.epoch() == own.seen.epoch {
                true => log.after(own.seen.seq, ENTRIES),
                false => None,
            };
            let Some(events) = events else {
                touched.extend(own.missed(log.head(), now));
                break;
            };
            touched.extend(events.iter().filter_map(|event| own.entry(event, now)));
            if events.len() < ENTRIES {
                break;
            }
        }
        self.schedule(tenant, touched);
    }

    /// Puts bids where they belong on the agenda, or forgets them.
    fn schedule(&mut self, tenant: &TenantId, bids: HashSet<Arc<str>>) {
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        let now = Instant::now();
        for bid in bids {
            let Some(followed) = own.listening.bids.get_mut(&bid) else { continue };
            schedule(&mut self.agenda, (tenant, &bid), followed, now);
            if followed.is_idle() {
                own.listening.bids.remove(&bid);
            }
        }
    }

    /// Begins what is due.
    fn look(&mut self) {
        let now = Instant::now();
        while let Some((at, tenant, bid_id)) = self.agenda.first().cloned()
            && at <= now
        {
            self.agenda.pop_first();
            let Some(own) = self.tenants.get_mut(&tenant).map(|own| &mut own.listening) else { continue };
            let Some(followed) = own.bids.get_mut(&bid_id) else { continue };
            followed.scheduled = None;
            if followed.due(now).is_none_or(|due| due > now) {
                // the entry of one that was forgotten, and is followed again
                schedule(&mut self.agenda, (&tenant, &bid_id), followed, now);
                continue;
            }
            let question = followed.question(own.carriers.names(), now);
            let key = BidKey { tenant, bid_id };
            let (rankings, clock) = (self.rankings.clone(), self.log.clock());
            let (asked, rows) = (question.clone(), (self.options.most, self.options.window));
            let look = move |bid: &Bid, ranking: &BidRanking| {
                Seen::new(bid, ranking, asked, rows, clock.now().to_string())
            };
            let looking = self.looking.clone();
            self.work.spawn(async move {
                let _turn = looking.acquire().await;
                let seen = rankings.look(&key, look).await;
                Done::Seen(Box::new((key, question, seen)))
            });
        }
        for (tenant, own) in self.tenants.iter_mut().filter(|(_, own)| !own.is_looking_up) {
            let names = own.listening.carriers.take_unknown(LOOKED_UP);
            if !names.is_empty() {
                own.is_looking_up = true;
                self.work.spawn(look_up(self.database.clone(), tenant.clone(), names));
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Seen(seen) => {
                let (key, question, seen) = *seen;
                self.seen(&key, &question, seen);
            }
            Done::LookedUp(tenant, names, found) => {
                let Some(own) = self.tenants.get_mut(&tenant) else { return };
                let found = match found {
                    Ok(found) => found,
                    Err(error) => {
                        tracing::debug!(%error, %tenant, "carriers could not be looked up");
                        // until the next sweep: it is not tried at once
                        return own.listening.carriers.put_back(names);
                    }
                };
                own.is_looking_up = false;
                let touched = own.listening.looked_up(names, found);
                self.schedule(&tenant, touched);
            }
        }
    }

    fn seen(&mut self, key: &BidKey, question: &Question, seen: Result<Option<Seen>, StoreError>) {
        let (tenant, bid, now) = (&key.tenant, &key.bid_id, Instant::now());
        let Some(own) = self.tenants.get_mut(tenant).map(|own| &mut own.listening) else { return };
        match seen {
            Ok(seen) => {
                for tell in own.answer(bid, question, seen, now) {
                    self.teller.tell((tenant, bid), own, tell);
                }
            }
            Err(error) => {
                tracing::debug!(%error, %tenant, %bid, "a ranking could not be looked at");
                if let Some(followed) = own.bids.get_mut(bid) {
                    followed.failed(question, now);
                }
            }
        }
        self.schedule(tenant, HashSet::from([bid.clone()]));
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        self.tenants.retain(|tenant, own| {
            // what failed is tried again
            own.is_looking_up = false;
            own.listening.let_go(now);
            let is_idle = own.listening.is_idle();
            if is_idle {
                self.copies.unfollow(tenant);
            }
            !is_idle
        });
    }
}

async fn look_up(database: Database, tenant: TenantId, names: Vec<Arc<str>>) -> Done {
    let asked: Vec<String> = names.iter().map(|name| (**name).to_owned()).collect();
    let owner = tenant.as_str().to_owned();
    let find = move |db: Database| async move {
        crate::read!(db, |conn, q| {
            let found = q::bids::of_carriers(conn, &owner, &asked, MOST_PARTS).await?;
            if (found.len() as i64) < MOST_PARTS {
                return Ok(found);
            }
            // some take part in so many that the others might be left out
            let mut found = Vec::new();
            for name in &asked {
                let one = std::slice::from_ref(name);
                found.extend(q::bids::of_carriers(conn, &owner, one, MOST_BIDS as i64).await?);
            }
            Ok(found)
        })
    };
    let found = database.run(find).await;
    Done::LookedUp(tenant, names, found)
}

fn schedule(
    agenda: &mut Agenda,
    (tenant, bid): (&TenantId, &Arc<str>),
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
