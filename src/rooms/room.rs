use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;

use super::ConnectionId;
use crate::domain::{Position, Selector, Topic};
use crate::sessions::{Grant, Pushed, SendQueue};
use crate::wire::{Audience, Event};

#[derive(Debug)]
struct Member {
    queue: Rc<SendQueue>,
    audience: Audience,
    /// What was appended up to here is not for it.
    since: Option<Position>,
}

/// Members lie densely, for the fan-out, and are found by connection, so that only who joined leaves.
type Room = IndexMap<ConnectionId, Member>;

/// The rooms of one tenant: one per topic, and one per prefix that somebody subscribed to.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    by_topic: HashMap<Topic, Room>,
    by_prefix: Vec<(Selector, Room)>,
}

impl Rooms {
    pub fn enter(&mut self, id: ConnectionId, grants: &[Grant], queue: &Rc<SendQueue>) {
        for grant in apart(grants) {
            let member = Member { queue: queue.clone(), audience: grant.audience, since: grant.since };
            match &grant.selector {
                Selector::Topic(topic) => self.by_topic.entry(topic.clone()).or_default().insert(id, member),
                Selector::Prefix { .. } => self.prefix_room(&grant.selector).insert(id, member),
            };
        }
    }

    pub fn leave(&mut self, id: ConnectionId, grants: &[Grant]) {
        for grant in apart(grants) {
            match &grant.selector {
                Selector::Topic(topic) => {
                    if let Some(room) = self.by_topic.get_mut(topic) {
                        room.swap_remove(&id);
                        if room.is_empty() {
                            self.by_topic.remove(topic);
                        }
                    }
                }
                Selector::Prefix { .. } => {
                    self.prefix_room(&grant.selector).swap_remove(&id);
                    self.by_prefix.retain(|(_, room)| !room.is_empty());
                }
            }
        }
    }

    /// Offers an event to everybody who hears its topic; collects those it no longer fits. Returns how many
    /// have taken it.
    pub fn deliver(&self, event: &Arc<Event>, overflowed: &mut Vec<ConnectionId>) -> usize {
        if event.is_internal() {
            return 0;
        }
        let mut taken = 0;
        let exact = self.by_topic.get(event.topic()).into_iter();
        let prefixed = self.by_prefix.iter().filter(|(selector, _)| selector.matches(event.topic()));
        for (id, member) in exact.chain(prefixed.map(|(_, room)| room)).flatten() {
            if event.is_up_to(member.since) {
                continue;
            }
            match member.queue.push_event(event, member.audience) {
                Pushed::Taken => taken += 1,
                Pushed::Overflow => overflowed.push(*id),
                Pushed::Dropped | Pushed::Ignored => {}
            }
        }
        taken
    }

    fn prefix_room(&mut self, selector: &Selector) -> &mut Room {
        let found = self.by_prefix.iter().position(|(own, _)| own == selector);
        let index = found.unwrap_or_else(|| {
            self.by_prefix.push((selector.clone(), Room::new()));
            self.by_prefix.len() - 1
        });
        &mut self.by_prefix[index].1
    }
}

/// A session's grants without those that another of its grants covers: each event reaches it once.
///
/// Prefixes are granted in full only, so the one that covers shows no less.
fn apart(grants: &[Grant]) -> impl Iterator<Item = &Grant> {
    let prefixes: Vec<_> =
        grants.iter().filter(|grant| matches!(grant.selector, Selector::Prefix { .. })).collect();
    let covered = move |grant: &Grant| {
        let others = prefixes.iter().filter(|own| own.selector != grant.selector);
        others.into_iter().any(|own| own.selector.covers(&grant.selector))
    };
    grants.iter().filter(move |grant| !covered(grant))
}
