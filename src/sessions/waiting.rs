use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::domain::{Class, EventName, Timestamp, Topic};
use crate::wire::{Audience, Event, Format};

/// How an event came to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As it was published; moves the client's cursor.
    Live,
    /// From the log, as the client was away; moves the client's cursor.
    Replayed,
    /// From the log, as a request of the client has asked for it.
    Asked,
    /// In the place of an older value.
    Conflated,
}

/// One frame that waits for its connection.
#[derive(Debug)]
pub(super) enum Item {
    /// One of the stream's own.
    Control(Bytes),
    /// An event.
    Event {
        /// Encoded.
        frame: Bytes,
        /// What it was encoded from.
        event: Arc<Event>,
        /// Which variant of it.
        audience: Audience,
        /// How it came here.
        way: Way,
    },
}

impl Item {
    /// Bytes of its frame.
    pub fn len(&self) -> usize {
        match self {
            Item::Control(frame) | Item::Event { frame, .. } => frame.len(),
        }
    }

    /// Whether its time to live has run out.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        matches!(self, Item::Event { event, .. } if event.is_expired(now))
    }

    /// Whether it is the first to be dropped.
    pub fn is_volatile(&self) -> bool {
        matches!(self, Item::Event { event, .. } if event.class() == Class::Volatile)
    }
}

/// What makes two values the same thing: topic, event name, key and variant.
#[derive(PartialEq, Eq, Hash)]
struct ConflationKey(Topic, EventName, Option<Box<str>>, Audience);

impl ConflationKey {
    fn of(item: &Item) -> Option<Self> {
        let Item::Event { event, audience, .. } = item else {
            return None;
        };
        let parts = event.parts();
        let latest = event.class() == Class::Latest;
        latest.then(|| ConflationKey(parts.topic.clone(), parts.name.clone(), parts.key.clone(), *audience))
    }
}

/// What waits in a queue, in order: the usual single frame inline, the deque beyond it given back when empty.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    first: Option<Item>,
    rest: VecDeque<Item>,
}

impl Waiting {
    /// Frames.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Bytes of all frames, counted.
    pub fn bytes(&self) -> usize {
        self.iter().map(Item::len).sum()
    }

    /// All frames, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Item> {
        self.first.iter().chain(&self.rest)
    }

    /// Adds the last one.
    pub fn push(&mut self, item: Item) {
        match self.first {
            None => self.first = Some(item),
            Some(_) => self.rest.push_back(item),
        }
    }

    /// Takes the first one.
    pub fn pop(&mut self) -> Option<Item> {
        let item = self.first.take()?;
        self.first = self.rest.pop_front();
        if self.rest.is_empty() && self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
        }
        Some(item)
    }

    /// Takes all.
    pub fn take_all(&mut self) -> VecDeque<Item> {
        let mut all = std::mem::take(&mut self.rest);
        if let Some(first) = self.first.take() {
            all.push_front(first);
        }
        all
    }

    /// Drops volatile events; returns how many.
    pub fn drop_volatile(&mut self) -> usize {
        let before = self.len();
        let mut all = self.take_all();
        all.retain(|item| !item.is_volatile());
        self.put_all(all);
        before - self.len()
    }

    /// Puts a newer value, without id, in the place of the oldest one it conflates, and removes the others;
    /// returns how many values it stands for.
    pub fn give_place_to(&mut self, newer: &Item, format: Format) -> usize {
        let Item::Event { event: newer, audience, .. } = newer else {
            return 0;
        };
        let mut conflated = 0;
        let mut all = self.take_all();
        all.retain_mut(|old| {
            let Item::Event { event, audience: own, .. } = old else {
                return true;
            };
            if own != audience || !event.is_conflated_by(newer) {
                return true;
            }
            conflated += 1;
            let is_oldest = conflated == 1;
            if is_oldest {
                *old = without_id(newer, *audience, format);
            }
            is_oldest
        });
        self.put_all(all);
        conflated
    }

    /// Leaves of each `latest` key the newest value, in the place of the oldest; returns how many went.
    pub fn conflate(&mut self, format: Format) -> usize {
        let before = self.len();
        let mut places: HashMap<ConflationKey, usize> = HashMap::new();
        let mut kept: VecDeque<Item> = VecDeque::with_capacity(before);
        for item in self.take_all() {
            let place = ConflationKey::of(&item).map(|key| *places.entry(key).or_insert(kept.len()));
            match (place, &item) {
                (Some(place), Item::Event { event, audience, .. }) if place < kept.len() => {
                    kept[place] = without_id(event, *audience, format);
                }
                _ => kept.push_back(item),
            }
        }
        self.put_all(kept);
        before - self.len()
    }

    fn put_all(&mut self, mut all: VecDeque<Item>) {
        self.first = all.pop_front();
        self.rest = all;
    }
}

fn without_id(event: &Arc<Event>, audience: Audience, format: Format) -> Item {
    let frame = event.frame_without_id(format, audience);
    Item::Event { frame, event: event.clone(), audience, way: Way::Conflated }
}
