use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::followed::Fresh;
use crate::rooms::ConnectionId;

/// What is known of a carrier that nobody listens for any more is kept this long: its clients come again.
const LINGER: Duration = Duration::from_secs(60);

/// A carrier that somebody listens for.
#[derive(Debug, Default)]
struct Carrier {
    listeners: HashSet<ConnectionId>,
    /// The bids that it takes part in; None while that is being looked up.
    bids: Option<HashSet<Arc<str>>>,
    /// Who waits for that.
    waiting: Vec<Fresh>,
    idle_since: Option<Instant>,
}

/// Who listens for which carriers of a tenant.
#[derive(Debug, Default)]
pub struct Carriers {
    by_name: HashMap<Arc<str>, Carrier>,
    /// Those that are to be looked up.
    unknown: HashSet<Arc<str>>,
}

impl Carriers {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether anybody listens for this one, or did so a moment ago.
    pub fn find(&self, name: &str) -> Option<&Arc<str>> {
        self.by_name.get_key_value(name).map(|(name, _)| name)
    }

    /// All of them.
    pub fn names(&self) -> impl Iterator<Item = Arc<str>> {
        self.by_name.keys().cloned()
    }

    /// A session listens for a carrier.
    pub fn join(&mut self, name: &Arc<str>, id: ConnectionId) {
        let own = self.entry(name);
        own.listeners.insert(id);
        own.idle_since = None;
    }

    /// Somebody wants to know where a carrier stands: in these bids, if they are known; otherwise when they are.
    pub fn ask(&mut self, name: &Arc<str>, fresh: &Fresh) -> Vec<Arc<str>> {
        let own = self.entry(name);
        match &own.bids {
            Some(bids) => bids.iter().cloned().collect(),
            None => {
                own.waiting.retain(|own| !own.is_gone());
                own.waiting.push(fresh.clone());
                Vec::new()
            }
        }
    }

    fn entry(&mut self, name: &Arc<str>) -> &mut Carrier {
        self.by_name.entry(name.clone()).or_insert_with(|| {
            self.unknown.insert(name.clone());
            Carrier::default()
        })
    }

    /// A session listens for a carrier no more.
    pub fn leave(&mut self, name: &str, id: ConnectionId, now: Instant) {
        if let Some(own) = self.by_name.get_mut(name)
            && own.listeners.remove(&id)
            && own.listeners.is_empty()
        {
            own.idle_since = Some(now);
        }
    }

    /// Who listens for a carrier.
    pub fn listeners(&self, name: &str) -> impl Iterator<Item = ConnectionId> {
        self.by_name.get(name).into_iter().flat_map(|own| own.listeners.iter().copied())
    }

    /// A carrier takes part in a bid.
    pub fn takes_part(&mut self, name: &str, bid: &Arc<str>) {
        if let Some(bids) = self.by_name.get_mut(name).and_then(|own| own.bids.as_mut()) {
            bids.insert(bid.clone());
        }
    }

    /// A carrier's part in a bid is over.
    pub fn parts(&mut self, name: &str, bid: &str) {
        if let Some(bids) = self.by_name.get_mut(name).and_then(|own| own.bids.as_mut()) {
            bids.remove(bid);
        }
    }

    /// Those that are to be looked up, some at a time.
    pub fn take_unknown(&mut self, most: usize) -> Vec<Arc<str>> {
        let some: Vec<Arc<str>> = self.unknown.iter().take(most).cloned().collect();
        for name in &some {
            self.unknown.remove(name);
        }
        some
    }

    /// A carrier could not be looked up.
    pub fn put_back(&mut self, names: Vec<Arc<str>>) {
        self.unknown.extend(names.into_iter().filter(|name| self.by_name.contains_key(name)));
    }

    /// A carrier was looked up; returns who waits for that.
    pub fn looked_up(&mut self, name: &str, bids: HashSet<Arc<str>>) -> Vec<Fresh> {
        let Some(own) = self.by_name.get_mut(name) else { return Vec::new() };
        own.bids.get_or_insert_default().extend(bids);
        std::mem::take(&mut own.waiting)
    }

    /// Nothing of what was looked up is sure any more; `tells`: whoever listens is told how things stand.
    pub fn forget_parts(&mut self, tells: bool) {
        for (name, own) in &mut self.by_name {
            own.bids = None;
            if tells {
                own.waiting.extend(own.listeners.iter().copied().map(Fresh::Session));
            }
            self.unknown.insert(name.clone());
        }
    }

    /// Lets those go that nobody has listened for of late; who takes part in which bids.
    pub fn let_go(&mut self, now: Instant) -> Vec<(Arc<str>, HashSet<Arc<str>>)> {
        let is_over = |own: &mut Carrier| own.idle_since.is_some_and(|since| since + LINGER <= now);
        let gone = self.by_name.extract_if(|_, own| is_over(own));
        let gone: Vec<_> = gone.map(|(name, own)| (name, own.bids.unwrap_or_default())).collect();
        self.unknown.retain(|name| self.by_name.contains_key(name));
        gone
    }
}
