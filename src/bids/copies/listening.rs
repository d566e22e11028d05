use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use tokio::sync::oneshot;

use super::desk::{Listener, Owed};
use super::followed::{Fresh, Tell};
use super::seen::{Question, Seen};
use super::{Carriers, Followed};
use crate::bids::{Frame, Move, Status};
use crate::domain::{Position, Topic, TopicKind};
use crate::rooms::ConnectionId;
use crate::wire::{Event, EventParts, RANKING_UPDATED};

/// Bids in which one carrier is followed: those of its newest proposals.
pub(super) const MOST_BIDS: usize = 100;

/// The sessions of a tenant that are told what is computed, and the bids that they are told of.
///
/// Whatever happens returns the bids that are to be looked at again.
#[derive(Debug)]
pub struct Listening {
    /// Where the log stood when it was last looked at.
    pub seen: Position,
    pub carriers: Carriers,
    pub bids: HashMap<Arc<str>, Followed>,
    listeners: HashMap<ConnectionId, Listener>,
}

type Bids = HashSet<Arc<str>>;

impl Listening {
    /// Nobody, to a log that stands here.
    pub fn new(seen: Position) -> Self {
        let (carriers, bids, listeners) = (Carriers::default(), HashMap::new(), HashMap::new());
        Listening { seen, carriers, bids, listeners }
    }

    /// Whether there is nothing to remember.
    pub fn is_idle(&self) -> bool {
        self.listeners.is_empty() && self.carriers.is_empty() && self.bids.is_empty()
    }

    /// Where the user of a session is told things.
    pub fn topic_of(&self, id: ConnectionId) -> Option<&Topic> {
        self.listeners.get(&id)?.user.as_ref().map(|(topic, _)| topic)
    }

    /// A session is told this from now on; `afresh`: it is told how everything stands, not only what is new to it.
    pub fn listens(&mut self, id: ConnectionId, listener: Listener, afresh: bool, now: Instant) -> Bids {
        let mut touched = Bids::new();
        let former = self.listeners.insert(id, listener.clone()).unwrap_or_default();
        let was = |name: &Arc<str>| !afresh && former.carriers().any(|own| own == name);
        for carrier in listener.carriers() {
            self.carriers.join(carrier, id);
            if !listener.is_poll && !was(carrier) {
                touched.extend(self.ask(carrier, &Fresh::Session(id), None));
            }
        }
        for bid in listener.whole.iter().filter(|bid| afresh || !former.whole.contains(bid)) {
            self.follow(bid).listen(id);
            touched.insert(bid.clone());
        }
        for carrier in former.carriers().filter(|name| listener.carriers().all(|own| own != *name)) {
            self.carriers.leave(carrier, id, now);
        }
        touched.extend(self.leave(id, former.whole.iter().filter(|bid| !listener.whole.contains(bid))));
        touched
    }

    /// A session has ended.
    pub fn left(&mut self, id: ConnectionId, now: Instant) -> Bids {
        let former = self.listeners.remove(&id).unwrap_or_default();
        former.carriers().for_each(|name| self.carriers.leave(name, id, now));
        self.leave(id, former.whole.iter())
    }

    fn leave<'a>(&mut self, id: ConnectionId, bids: impl Iterator<Item = &'a Arc<str>>) -> Bids {
        let left = bids.inspect(|bid| {
            if let Some(own) = self.bids.get_mut(*bid) {
                own.leave(id);
            }
        });
        left.cloned().collect()
    }

    /// A session that polls wants what it has not been told of all that has happened since.
    pub fn owes(
        &mut self,
        id: ConnectionId,
        since: Option<Position>,
        reply: oneshot::Sender<Vec<Arc<Event>>>,
    ) -> Bids {
        let mut touched = Bids::new();
        let Some((topic, carriers)) = self.listeners.get(&id).and_then(|own| own.user.clone()) else {
            return touched;
        };
        let since = since.filter(|since| since.epoch == self.seen.epoch).map(|since| since.seq);
        let fresh = Fresh::Owed(Owed::new(topic, reply));
        for carrier in &carriers {
            touched.extend(self.ask(carrier, &fresh, since));
        }
        touched
    }

    /// Somebody wants to know where a carrier stands: in the bids that may have changed since.
    fn ask(&mut self, carrier: &Arc<str>, fresh: &Fresh, since: Option<u64>) -> Bids {
        let bids = self.carriers.ask(carrier, fresh).into_iter();
        bids.filter(|bid| {
            let followed = self.follow(bid);
            let is_asked = since.is_none_or(|since| followed.has_changed_since(since));
            followed.ask(carrier, is_asked.then(|| fresh.clone()));
            is_asked
        })
        .collect()
    }

    fn follow(&mut self, bid: &Arc<str>) -> &mut Followed {
        self.bids.entry(bid.clone()).or_insert_with(|| Followed::new(self.seen.seq))
    }

    /// The log goes on with this.
    pub fn entry(&mut self, event: &Event, now: Instant) -> Option<Arc<str>> {
        self.seen.seq = event.seq();
        let parts = event.parts();
        match parts.topic.kind() {
            TopicKind::Bid => self.status(parts),
            TopicKind::Ranking if parts.name.as_str() == RANKING_UPDATED => self.ranking(parts, now),
            _ => None,
        }
    }

    fn ranking(&mut self, parts: &EventParts, now: Instant) -> Option<Arc<str>> {
        let id = parts.topic.id();
        if self.carriers.is_empty() && !self.bids.contains_key(id) {
            return None;
        }
        // what others publish on these channels is of no bid here
        let frame = Frame::read(parts.full.data())?;
        let come = self.come(&frame);
        let is_unclear = frame.moves.is_none() && !self.carriers.is_empty();
        if come.is_empty() && !is_unclear && !self.bids.contains_key(id) {
            return None;
        }
        let (bid, seq): (Arc<str>, _) = (id.into(), self.seen.seq);
        come.iter().for_each(|name| self.carriers.takes_part(name, &bid));
        let followed = self.follow(&bid);
        followed.entry(&frame, seq, &come, now);
        if is_unclear {
            followed.look_for_all();
        }
        Some(bid)
    }

    /// The carriers that somebody listens for whose proposals have become ranked.
    fn come(&self, frame: &Frame) -> Vec<Arc<str>> {
        let ranked = |own: &&Move| own.from.is_none() && own.to.is_some();
        let carrier = |own: &Move| {
            let shown = || frame.ranked_proposals.iter().find(|row| row.proposal_id == own.proposal_id);
            let row = own.row.as_ref().or_else(shown)?;
            self.carriers.find(&row.carrier_id).cloned()
        };
        frame.moves.iter().flatten().filter(ranked).filter_map(carrier).collect()
    }

    /// Of a bid that is over no place changes any more.
    fn status(&mut self, parts: &EventParts) -> Option<Arc<str>> {
        // what others publish has none, and ends nothing here
        parts.version?;
        #[derive(Deserialize)]
        struct Changed {
            new_status: Status,
        }
        let bid = self.bids.get_key_value(parts.topic.id())?.0.clone();
        let Changed { new_status } = serde_json::from_str(parts.full.data()).ok()?;
        if new_status.is_over() {
            self.end(&bid);
        }
        Some(bid)
    }

    fn end(&mut self, bid: &Arc<str>) {
        let gone = self.bids.get_mut(bid).map(Followed::end).unwrap_or_default();
        gone.iter().for_each(|name| self.carriers.parts(name, bid));
    }

    /// Entries have been missed: all is looked at anew. Where the log has started afresh, sessions ask by themselves
    /// when they have gone over to it.
    pub fn missed(&mut self, seen: Position, now: Instant) -> Bids {
        let tells = seen.epoch == self.seen.epoch;
        self.seen = seen;
        self.carriers.forget_parts(tells);
        self.bids.values_mut().for_each(|bid| bid.missed(seen.seq, tells, now));
        self.bids.keys().cloned().collect()
    }

    /// A bid has been looked at; None: there is no such bid.
    pub fn answer(
        &mut self,
        bid: &Arc<str>,
        question: &Question,
        seen: Option<Seen>,
        now: Instant,
    ) -> Vec<Tell> {
        let Some(followed) = self.bids.get_mut(bid) else { return Vec::new() };
        let Some(seen) = seen else {
            followed.absent();
            self.end(bid);
            return Vec::new();
        };
        let is_over = seen.is_over;
        let told = followed.answer(seen, now);
        for name in &question.carriers {
            match followed.has(name) {
                true => self.carriers.takes_part(name, bid),
                false => self.carriers.parts(name, bid),
            }
        }
        if is_over {
            self.end(bid);
        }
        told
    }

    /// The bids of carriers have been looked up: a carrier and a bid each, the newest first.
    pub fn looked_up(&mut self, names: Vec<Arc<str>>, found: Vec<(String, String)>) -> Bids {
        let mut bids: HashMap<String, Bids> = HashMap::new();
        for (carrier, bid) in found {
            let bids = bids.entry(carrier).or_default();
            if bids.len() < MOST_BIDS {
                bids.insert(bid.into());
            }
        }
        let mut touched = Bids::new();
        for name in names {
            let parts = bids.remove(&*name).unwrap_or_default();
            let waiting = self.carriers.looked_up(&name, parts.clone());
            for bid in parts {
                self.follow(&bid).ask(&name, waiting.iter().cloned());
                touched.insert(bid);
            }
        }
        touched
    }

    /// Forgets what nobody has asked for of late.
    pub fn let_go(&mut self, now: Instant) {
        for (name, bids) in self.carriers.let_go(now) {
            for bid in bids {
                self.bids.get_mut(&bid).into_iter().for_each(|own| own.forget(&name));
            }
        }
        self.bids.retain(|_, bid| !bid.is_idle());
    }
}
