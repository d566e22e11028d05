use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::desk::Owed;
use super::seen::{Listed, Question, Seen, Standing};
use crate::bids::{Frame, Frames};
use crate::clock::jittered;
use crate::rooms::ConnectionId;

/// Where a proposal of a carrier stands is told once in this time when others move it.
const SPACING: Duration = Duration::from_secs(1);
/// After a look that failed, the next one comes so much later.
const AGAIN: Duration = Duration::from_secs(1);
/// Changes that are kept to say what has become of the ranking that was told last.
const MOST_CHANGES: usize = 64;

/// Somebody who is told how things stand, whether or not they have changed.
#[derive(Clone, Debug)]
pub enum Fresh {
    /// A session that has just gone live.
    Session(ConnectionId),
    /// A long-poll that is about to be answered.
    Owed(Arc<Owed>),
}

impl Fresh {
    /// Whether it needs not be told any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Fresh::Owed(owed) if owed.is_gone())
    }
}

/// What somebody is to be told of a bid.
#[derive(Debug)]
pub enum Tell {
    /// The whole ranking has changed: all that listen for it.
    Whole(i64, Frames),
    /// The whole ranking as it is: these.
    WholeTo(Vec<ConnectionId>, i64, Frames),
    /// Where a carrier's proposal stands: all that listen for it.
    Standing(Arc<str>, Place),
    /// The same to somebody who has just come.
    StandingTo(Fresh, Place),
}

/// Where a proposal stands, with where it was said to stand before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub standing: Standing,
    /// Its rank as it was told before; None: it was not, or not ranked.
    pub previous_rank: Option<usize>,
    /// The ranking's version.
    pub version: i64,
}

/// A carrier that takes part.
#[derive(Debug, Default)]
struct Own {
    told: Option<Standing>,
    told_at: Option<Instant>,
    due: Option<Instant>,
    fresh: Vec<Fresh>,
    /// Whether it takes part no more: who polls is still to hear of it.
    is_gone: bool,
}

/// A bid that sessions of this node are told about.
#[derive(Debug)]
pub struct Followed {
    /// When the keeper looks at it next.
    pub scheduled: Option<Instant>,
    is_busy: bool,
    retry_at: Option<Instant>,
    /// Who is told the whole ranking.
    whole: HashSet<ConnectionId>,
    /// Those of them who have not been told any yet.
    new: Vec<ConnectionId>,
    /// What all of them were told last, what has become of it, and the newest version there is.
    listed: Option<Listed>,
    since: Vec<Frame>,
    newest: i64,
    /// The same when it was last asked.
    asked: i64,
    own: HashMap<Arc<str>, Own>,
    /// Set when it is not known who has come: all carriers that anybody listens for are looked for.
    looks_for_all: bool,
    /// Up to this number nothing is known of when it changed.
    followed_from: u64,
    changed_at: Option<u64>,
}

impl Followed {
    /// A bid of which entries are seen that come after this number.
    pub fn new(after: u64) -> Self {
        Followed {
            scheduled: None,
            is_busy: false,
            retry_at: None,
            whole: HashSet::new(),
            new: Vec::new(),
            listed: None,
            since: Vec::new(),
            newest: 0,
            asked: 0,
            own: HashMap::new(),
            looks_for_all: false,
            followed_from: after,
            changed_at: None,
        }
    }

    /// Whether nobody is told about it.
    pub fn is_idle(&self) -> bool {
        self.whole.is_empty() && self.own.is_empty() && !self.looks_for_all && !self.is_busy
    }

    /// A session is told the whole ranking from now on, and at once.
    pub fn listen(&mut self, id: ConnectionId) {
        self.whole.insert(id);
        self.new.push(id);
    }

    /// A session is told the whole ranking no more.
    pub fn leave(&mut self, id: ConnectionId) {
        self.whole.remove(&id);
        self.new.retain(|own| *own != id);
        if self.whole.is_empty() {
            self.listed = None;
            self.since.clear();
        }
    }

    /// A carrier takes part, and somebody wants to know where it stands.
    pub fn ask(&mut self, carrier: &Arc<str>, fresh: impl IntoIterator<Item = Fresh>) {
        let own = self.own.entry(carrier.clone()).or_default();
        own.fresh.retain(|own| !own.is_gone());
        own.fresh.extend(fresh);
    }

    /// Nobody listens for a carrier any more.
    pub fn forget(&mut self, carrier: &str) {
        self.own.remove(carrier);
    }

    /// All carriers that anybody listens for may take part.
    pub fn look_for_all(&mut self) {
        self.looks_for_all = true;
    }

    /// Entries have been missed: what was told may be old. It is told anew, unless whoever listens asks by itself.
    pub fn missed(&mut self, after: u64, tells: bool, now: Instant) {
        (self.followed_from, self.changed_at, self.listed) = (after, None, None);
        self.since.clear();
        if tells {
            self.new = self.whole.iter().copied().collect();
            self.own.values_mut().for_each(|own| own.due = Some(now));
        }
    }

    /// No proposal changes any more; the carriers that have taken part.
    pub fn end(&mut self) -> Vec<Arc<str>> {
        self.own.drain().map(|(name, _)| name).collect()
    }

    /// Whether a carrier takes part, as far as is known.
    pub fn has(&self, carrier: &str) -> bool {
        self.own.contains_key(carrier)
    }

    /// Whether it has changed, or may have, after this number.
    pub fn has_changed_since(&self, seq: u64) -> bool {
        self.changed_at.map_or(seq < self.followed_from, |at| at > seq)
    }

    /// The log tells of a change, which has brought these carriers.
    pub fn entry(&mut self, frame: &Frame, seq: u64, come: &[Arc<str>], now: Instant) {
        self.changed_at = Some(seq);
        self.newest = self.newest.max(frame.version);
        if !self.whole.is_empty() {
            let stands_at = self.since.last().map(|last| last.version).or(self.listed_version());
            if stands_at != Some(frame.from_version) || self.since.len() >= MOST_CHANGES {
                self.since.clear();
            } else {
                self.since.push(frame.clone());
            }
        }
        let moved = frame
            .moves
            .as_ref()
            .map(|moves| moves.iter().map(|own| own.proposal_id.as_str()).collect::<HashSet<_>>());
        for own in self.own.values_mut().filter(|own| !own.is_gone) {
            let is_own = moved
                .as_ref()
                .zip(own.told.as_ref())
                .is_none_or(|(moved, told)| moved.contains(&*told.proposal_id));
            let next = if is_own { now } else { own.told_at.map_or(now, |at| now.max(at + SPACING)) };
            own.due = Some(own.due.map_or(next, |due| due.min(next)));
        }
        for carrier in come {
            self.own.entry(carrier.clone()).or_default().due = Some(now);
        }
        self.looks_for_all |= moved.is_none();
    }

    /// When it is to be looked at next.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.is_busy {
            return None;
        }
        let is_asked = |own: &Own| !own.fresh.is_empty();
        let at_once = self.is_changed() || !self.new.is_empty() || self.looks_for_all;
        let due = match at_once || self.own.values().any(is_asked) {
            true => Some(now),
            false => self.own.values().filter_map(|own| own.due).min(),
        };
        due.map(|due| self.retry_at.map_or(due, |retry| due.max(retry)))
    }

    /// What is to be found out now; `all` are the carriers that anybody listens for.
    pub fn question(&mut self, all: impl Iterator<Item = Arc<str>>, now: Instant) -> Question {
        (self.is_busy, self.retry_at, self.asked) = (true, None, self.newest);
        let is_all = std::mem::take(&mut self.looks_for_all);
        let is_due = |own: &Own| !own.fresh.is_empty() || own.due.is_some_and(|due| due <= now);
        let mut carriers: Vec<_> = if is_all { all.collect() } else { Vec::new() };
        for (name, own) in self.own.iter_mut().filter(|(_, own)| is_all || is_due(own)) {
            own.due = None;
            carriers.extend((!is_all).then(|| name.clone()));
        }
        let is_whole = self.is_changed() || !self.new.is_empty();
        let since = || {
            let mut changes = self.since.iter().cloned();
            let first = changes.next()?;
            changes.try_fold(first, Frame::then)
        };
        let listed = || self.listed.clone().map(|listed| Listed { since: since(), ..listed });
        Question { whole: is_whole.then(listed), carriers, is_all }
    }

    fn listed_version(&self) -> Option<i64> {
        self.listed.as_ref().map(|listed| listed.version)
    }

    fn is_changed(&self) -> bool {
        !self.whole.is_empty() && self.listed_version().unwrap_or(0) < self.newest
    }

    /// It could not be looked at: it is tried again.
    pub fn failed(&mut self, question: &Question, now: Instant) {
        self.is_busy = false;
        self.retry_at = Some(now + jittered(AGAIN, 0.5));
        self.looks_for_all |= question.is_all;
        for carrier in &question.carriers {
            if let Some(own) = self.own.get_mut(carrier) {
                own.due = Some(now);
            }
        }
    }

    /// There is no such bid.
    pub fn absent(&mut self) {
        self.is_busy = false;
        (self.listed, self.newest) = (None, 0);
        self.new.clear();
    }

    /// What has been found, and is to be told.
    pub fn answer(&mut self, seen: Seen, now: Instant) -> Vec<Tell> {
        self.is_busy = false;
        if self.newest == self.asked {
            // even where that is less: the database was restored
            self.newest = seen.version;
        }
        let mut tell = Vec::new();
        if let Some((whole, ranks)) = seen.whole {
            let (version, new) = (seen.version, std::mem::take(&mut self.new));
            // what came in meanwhile goes on from here, or leads nowhere
            self.since.retain(|own| own.version > version);
            if self.since.first().is_some_and(|own| own.from_version != version) {
                self.since.clear();
            }
            if self.listed_version() != Some(version) {
                self.listed = Some(Listed { version, ranks, since: None });
                tell.push(Tell::Whole(version, whole));
            } else if !new.is_empty() {
                tell.push(Tell::WholeTo(new, version, whole));
            }
        }
        for (carrier, standing) in seen.standings {
            self.place(&carrier, standing, (seen.version, seen.total), now, &mut tell);
        }
        tell
    }

    fn place(
        &mut self,
        carrier: &Arc<str>,
        standing: Option<Standing>,
        seen: (i64, usize),
        now: Instant,
        tell: &mut Vec<Tell>,
    ) {
        if standing.is_none() && !self.own.contains_key(carrier) {
            return;
        }
        let own = self.own.entry(carrier.clone()).or_default();
        own.place(carrier, standing, seen, now, tell);
        if own.told.is_none() {
            // it was not there when anybody looked
            self.own.remove(carrier);
        }
    }
}

impl Own {
    /// It has been found to stand here, or to take part no more; what is to be told of that.
    fn place(
        &mut self,
        carrier: &Arc<str>,
        standing: Option<Standing>,
        (version, total): (i64, usize),
        now: Instant,
        tell: &mut Vec<Tell>,
    ) {
        let (mut fresh, told) = (std::mem::take(&mut self.fresh), self.told.take());
        let was_gone = std::mem::replace(&mut self.is_gone, standing.is_none());
        let place =
            |standing: &Standing, previous_rank| Place { standing: standing.clone(), previous_rank, version };
        let is_other =
            |told: &&Standing| standing.as_ref().is_none_or(|own| own.proposal_id != told.proposal_id);
        let left = told.as_ref().filter(is_other).map(|told| Standing { rank: None, total, ..told.clone() });
        if let Some(left) = left.as_ref().filter(|_| !was_gone) {
            let previous_rank = told.as_ref().and_then(|told| told.rank);
            tell.push(Tell::Standing(carrier.clone(), place(left, previous_rank)));
        }
        let former = told.filter(|_| left.is_none());
        let mut previous_rank = None;
        let Some(now_at) = standing.or(left) else { return };
        let is_own = former.as_ref().is_none_or(|told| told.changed_at != now_at.changed_at);
        let is_changed = former.as_ref() != Some(&now_at);
        let next = self.told_at.map_or(now, |at| at + SPACING);
        let is_told = !self.is_gone && (is_own || (is_changed && next <= now));
        if is_told {
            previous_rank = former.as_ref().and_then(|told| told.rank);
            tell.push(Tell::Standing(carrier.clone(), place(&now_at, previous_rank)));
            self.told_at = Some(now);
        } else if is_changed && !self.is_gone {
            self.due = Some(self.due.map_or(next, |due| due.min(next)));
        }
        self.told = if is_told || self.is_gone { Some(now_at.clone()) } else { former };
        // where all that listen have been told, or who comes has nothing there any more; polls have a way of their own
        if is_told || self.is_gone {
            fresh.retain(|own| matches!(own, Fresh::Owed(_)));
        }
        tell.extend(fresh.into_iter().map(|fresh| Tell::StandingTo(fresh, place(&now_at, previous_rank))));
    }
}
