use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::PageLimit;
use crate::domain::{Selector, Timestamp, Topic};
use crate::wire::Event;

/// How much of a tenant's log is kept in memory.
#[derive(Clone, Copy, Debug)]
pub struct WindowBudget {
    /// Most events.
    pub count: usize,
    /// Most bytes, frames included.
    pub bytes: usize,
    /// Longest time, seconds.
    pub seconds: u64,
}

impl WindowBudget {
    /// Events appended before this have been kept long enough.
    fn oldest(&self, now: Timestamp) -> Timestamp {
        now.minus(Duration::from_secs(self.seconds))
    }
}

/// The newest events of one tenant, without holes, indexed by topic.
#[derive(Debug, Default)]
pub(super) struct Window {
    events: VecDeque<Arc<Event>>,
    by_topic: HashMap<Topic, VecDeque<u64>>,
    /// Number of the event before the first one here.
    before: u64,
    bytes: usize,
}

impl Window {
    /// An empty window whose next event is `head + 1`.
    pub fn at(head: u64) -> Self {
        Window { before: head, ..Window::default() }
    }

    /// Number of the newest event.
    pub fn head(&self) -> u64 {
        self.before + self.events.len() as u64
    }

    /// Number of the event before the first one here.
    pub fn start(&self) -> u64 {
        self.before
    }

    /// Whether everything after `seq` is here.
    pub fn covers(&self, seq: u64) -> bool {
        seq >= self.before
    }

    /// Events held.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next event.
    ///
    /// # Panics
    /// When it is not the next one: a hole must never be shown.
    pub fn push(&mut self, event: Arc<Event>) {
        assert_eq!(event.seq(), self.head() + 1, "events enter the window in order");
        self.bytes += event.weight();
        self.by_topic.entry(event.topic().clone()).or_default().push_back(event.seq());
        self.events.push_back(event);
    }

    /// Puts older events in front of those here, newest first, as long as [`Window::shrink`] would leave
    /// them and none is missing; whether that was so for all.
    pub fn extend_back(&mut self, older: Vec<Arc<Event>>, budget: &WindowBudget, now: Timestamp) -> bool {
        let oldest = budget.oldest(now);
        for event in older.into_iter().rev() {
            let within = self.events.len() < budget.count && self.bytes + event.weight() <= budget.bytes;
            if event.seq() != self.before || !within || event.parts().at < oldest {
                return false;
            }
            self.bytes += event.weight();
            self.by_topic.entry(event.topic().clone()).or_default().push_front(event.seq());
            self.before -= 1;
            self.events.push_front(event);
        }
        true
    }

    /// Removes the oldest events beyond the budget or older than it allows; returns how many.
    pub fn shrink(&mut self, budget: &WindowBudget, now: Timestamp) -> usize {
        let oldest = budget.oldest(now);
        let mut removed = 0;
        while let Some(first) = self.events.front() {
            let within = self.events.len() <= budget.count && self.bytes <= budget.bytes;
            if within && first.parts().at >= oldest {
                break;
            }
            self.pop();
            removed += 1;
        }
        removed
    }

    /// Removes everything up to `seq`.
    pub fn drop_up_to(&mut self, seq: u64) {
        while self.before < seq && self.pop() {}
        self.before = self.before.max(seq);
    }

    /// Removes the oldest event.
    pub fn pop(&mut self) -> bool {
        let Some(event) = self.events.pop_front() else {
            return false;
        };
        self.before += 1;
        self.bytes -= event.weight();
        if let Some(seqs) = self.by_topic.get_mut(event.topic()) {
            seqs.pop_front();
            if seqs.is_empty() {
                self.by_topic.remove(event.topic());
            }
        }
        true
    }

    /// The event with number `seq`.
    pub fn get(&self, seq: u64) -> Option<&Arc<Event>> {
        let index = seq.checked_sub(self.before + 1)?;
        self.events.get(usize::try_from(index).ok()?)
    }

    /// Every event after `seq`, oldest first, at most `limit`.
    pub fn after(&self, seq: u64, limit: usize) -> Vec<Arc<Event>> {
        let skip = seq.saturating_sub(self.before) as usize;
        self.events.iter().skip(skip).take(limit).cloned().collect()
    }

    /// The events after `seq` that any selector matches, oldest first, and whether they fill the page.
    pub fn select(&self, selectors: &[Selector], seq: u64, limit: PageLimit) -> (Vec<Arc<Event>>, bool) {
        let mut found: Vec<u64> = Vec::new();
        for selector in selectors {
            match selector {
                Selector::Topic(topic) => {
                    if let Some(seqs) = self.by_topic.get(topic) {
                        let start = seqs.partition_point(|own| *own <= seq);
                        found.extend(seqs.iter().skip(start).take(limit.events));
                    }
                }
                Selector::Prefix { .. } => {
                    let later = self.events.iter().skip(seq.saturating_sub(self.before) as usize);
                    let matching = later.filter(|event| selector.matches(event.topic()));
                    found.extend(matching.take(limit.events).map(|event| event.seq()));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        let mut events: Vec<_> = found.into_iter().filter_map(|seq| self.get(seq).cloned()).collect();
        let taken = limit.take(events.iter().map(|event| event.weight()));
        let full = taken < events.len() || taken == limit.events;
        events.truncate(taken);
        (events, full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Class, Epoch, EventName, Position};
    use crate::wire::{Content, EventParts};
    use proptest::prelude::*;

    fn event(seq: u64, topic: u8) -> Arc<Event> {
        event_at(seq, topic, Timestamp::from_micros(seq as i64))
    }

    fn event_at(seq: u64, topic: u8, at: Timestamp) -> Arc<Event> {
        Arc::new(Event::new(EventParts {
            position: Some(Position { epoch: Epoch::new(1), seq }),
            topic: Topic::parse(&format!("topic:t{topic}")).unwrap(),
            name: EventName::trusted("tick"),
            class: Class::Durable,
            key: None,
            version: None,
            at,
            expires_at: None,
            full: Content::new("{}"),
            public: None,
        }))
    }

    const PLENTY: WindowBudget = WindowBudget { count: usize::MAX, bytes: usize::MAX, seconds: 1 };

    proptest! {
        #[test]
        fn selecting_equals_filtering_whatever_was_evicted(
            topics in prop::collection::vec(0u8..5, 0..80),
            evict in 0usize..80,
            wanted in prop::collection::btree_set(0u8..5, 0..5),
            prefix: bool,
            after in 0u64..90,
            limit in 1usize..20,
            bytes in 0usize..10_000,
        ) {
            let mut window = Window::at(10);
            for (index, topic) in topics.iter().enumerate() {
                window.push(event(11 + index as u64, *topic));
            }
            for _ in 0..evict { window.pop(); }
            let mut selectors: Vec<_> =
                wanted.iter().map(|topic| Selector::parse(&format!("topic:t{topic}")).unwrap()).collect();
            if prefix { selectors.push(Selector::parse("topic:t1*").unwrap()); }
            let expected: Vec<u64> = topics.iter().enumerate()
                .map(|(index, topic)| (11 + index as u64, *topic))
                .filter(|(seq, topic)| *seq > window.before.max(after) && (wanted.contains(topic) || (prefix && *topic == 1)))
                .map(|(seq, _)| seq).collect();
            let (events, full) = window.select(&selectors, after, PageLimit { events: limit, bytes });
            let selected: Vec<u64> = events.iter().map(|event| event.seq()).collect();
            prop_assert!(expected.starts_with(&selected));
            prop_assert!(full || selected == expected);
            let size: usize = events.iter().map(|event| event.weight()).sum();
            prop_assert!(selected.len() <= limit && (selected.len() <= 1 || size <= bytes));
            prop_assert!(selected.len() == limit.min(expected.len()) || size + event(1, 0).weight() > bytes);
            prop_assert_eq!(window.head(), 10 + topics.len() as u64);
        }

        #[test]
        fn filling_from_behind_gives_the_same_window(topics in prop::collection::vec(0u8..5, 1..40), cut in 0usize..40) {
            let events: Vec<_> = topics.iter().enumerate().map(|(index, topic)| event(1 + index as u64, *topic)).collect();
            let cut = cut.min(events.len());
            let mut window = Window::at(cut as u64);
            events[cut..].iter().for_each(|event| window.push(event.clone()));
            prop_assert!(window.extend_back(events[..cut].to_vec(), &PLENTY, Timestamp::from_micros(0)));
            let all: Vec<u64> = window.after(0, usize::MAX).iter().map(|event| event.seq()).collect();
            prop_assert_eq!(all, (1..=events.len() as u64).collect::<Vec<_>>());
            prop_assert_eq!(window.bytes(), events.iter().map(|event| event.weight()).sum::<usize>());
        }

        #[test]
        fn shrinking_takes_nothing_away_that_filling_from_behind_has_put_in(
            own in 0u64..20, older in 0u64..20, count in 0usize..30, bytes in 0usize..30_000, seconds in 0u64..30,
        ) {
            // an event a second
            let second = |seq: u64| Timestamp::from_micros(seq as i64 * 1_000_000);
            let (budget, now) = (WindowBudget { count, bytes, seconds }, second(older + own));
            let mut window = Window::at(older);
            (older + 1..=older + own).for_each(|seq| window.push(event_at(seq, 0, second(seq))));
            window.shrink(&budget, now);
            let all = window.extend_back((1..=older).map(|seq| event_at(seq, 0, second(seq))).collect(), &budget, now);
            prop_assert!(!all || older == 0 || window.start() == 0);
            prop_assert_eq!(window.shrink(&budget, now), 0);
        }
    }
}
