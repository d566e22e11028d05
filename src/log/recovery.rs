use std::collections::HashMap;

use super::floor::Floor;
use crate::domain::{Cursor, Epoch, Selector, Timestamp, Topic};
use crate::storage::{FloorRow, TenantRow};
use crate::wire::RecoveryFailure;

/// What a cursor leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// No cursor was given: live from the head.
    Fresh,
    /// The cursor is the head: nothing was missed.
    Current,
    /// Everything after this number has to be replayed.
    Replay {
        /// The cursor's number.
        after: u64,
    },
    /// The client has to reload its state, and is live from the head.
    Failed(RecoveryFailure),
}

impl Recovery {
    /// The `recovered` of the `ready` frame.
    pub fn recovered(self) -> Option<bool> {
        match self {
            Recovery::Fresh => None,
            Recovery::Current | Recovery::Replay { .. } => Some(true),
            Recovery::Failed(_) => Some(false),
        }
    }

    /// The `reason` of the `ready` frame.
    pub fn reason(self) -> Option<RecoveryFailure> {
        match self {
            Recovery::Failed(reason) => Some(reason),
            _ => None,
        }
    }

    /// The word counted in metrics.
    pub fn outcome(self) -> &'static str {
        match self {
            Recovery::Fresh => "fresh",
            Recovery::Current => "current",
            Recovery::Replay { .. } => "replayed",
            Recovery::Failed(reason) => reason.as_str(),
        }
    }
}

/// Up to where each topic has been trimmed; only trimming of own topics makes a cursor unusable.
#[derive(Debug, Default)]
pub(super) struct Floors {
    by_topic: HashMap<Topic, Floor>,
    global: u64,
}

impl Floors {
    /// As the database has them.
    pub fn stored(row: &TenantRow, by_topic: Vec<FloorRow>) -> Self {
        let read = |own: FloorRow| Some((Topic::parse(&own.topic).ok()?, Floor::stored(&own)));
        Floors { by_topic: by_topic.into_iter().filter_map(read).collect(), global: row.global_floor as u64 }
    }

    /// Number of the newest event of the selected topics that may have been trimmed and is still missed.
    pub fn of(&self, selectors: &[Selector], now: Timestamp) -> u64 {
        let own = selectors.iter().map(|selector| match selector {
            Selector::Topic(topic) => self.by_topic.get(topic).map_or(0, |floor| floor.at(now)),
            Selector::Prefix { .. } => {
                let matching = self.by_topic.iter().filter(|(topic, _)| selector.matches(topic));
                matching.map(|(_, floor)| floor.at(now)).max().unwrap_or(0)
            }
        });
        own.max().unwrap_or(0).max(self.global)
    }

    /// Raises the floors of topics whose events go; returns what they are then.
    pub fn raise(&mut self, floors: &[(Topic, Floor)]) -> Vec<(Topic, Floor)> {
        let raised = floors.iter().map(|(topic, floor)| {
            let own = self.by_topic.entry(topic.clone()).or_default();
            floor.0.iter().for_each(|step| own.raise(*step));
            (topic.clone(), own.clone())
        });
        raised.collect()
    }

    /// Takes over what another node has raised.
    pub fn learn(&mut self, all: u64, by_topic: Vec<(Topic, Floor)>) {
        self.global = self.global.max(all);
        let newer = by_topic.into_iter().filter(|(_, floor)| floor.top() > self.global);
        self.by_topic.extend(newer);
        self.by_topic.retain(|_, floor| floor.top() > self.global);
    }

    /// When more than `limit` topics have a floor, the lower half share the global one; returns it.
    pub fn overflow(&mut self, limit: usize) -> Option<u64> {
        if self.by_topic.len() <= limit {
            return None;
        }
        let mut floors: Vec<u64> = self.by_topic.values().map(Floor::top).collect();
        let middle = floors.len() / 2;
        self.global = self.global.max(*floors.select_nth_unstable(middle).1);
        self.by_topic.retain(|_, floor| floor.top() > self.global);
        Some(self.global)
    }
}

/// Judges a cursor against a log that reaches from its floors to its head.
pub(super) fn judge(
    cursor: Option<Cursor>,
    (epoch, head): (Epoch, u64),
    floors: &Floors,
    (selectors, now): (&[Selector], Timestamp),
) -> Recovery {
    let position = match cursor {
        None => return Recovery::Fresh,
        Some(Cursor::Unreadable) => return Recovery::Failed(RecoveryFailure::Invalid),
        Some(Cursor::At(position)) => position,
    };
    if position.epoch != epoch {
        Recovery::Failed(RecoveryFailure::EpochChanged)
    } else if position.seq > head {
        Recovery::Failed(RecoveryFailure::Ahead)
    } else if floors.of(selectors, now) > position.seq {
        Recovery::Failed(RecoveryFailure::Evicted)
    } else if position.seq == head {
        Recovery::Current
    } else {
        Recovery::Replay { after: position.seq }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Position;

    fn topic(id: &str) -> Topic {
        Topic::parse(&format!("topic:{id}")).unwrap()
    }

    fn selectors(ids: &[&str]) -> Vec<Selector> {
        ids.iter().map(|id| Selector::parse(&format!("topic:{id}")).unwrap()).collect()
    }

    const NOW: Timestamp = Timestamp::from_micros(1000);

    #[test]
    fn every_cursor_has_one_outcome() {
        let mut floors = Floors::default();
        floors.raise(&[(topic("a"), Floor::lasting(40))]);
        let epoch = Epoch::new(1);
        let at = |epoch, seq| Some(Cursor::At(Position { epoch, seq }));
        let judged = |cursor, ids: &[&str]| judge(cursor, (epoch, 100), &floors, (&selectors(ids), NOW));
        assert_eq!(judged(None, &["a"]), Recovery::Fresh);
        assert_eq!(judged(Some(Cursor::Unreadable), &["a"]), Recovery::Failed(RecoveryFailure::Invalid));
        assert_eq!(judged(at(Epoch::new(2), 50), &["a"]), Recovery::Failed(RecoveryFailure::EpochChanged));
        assert_eq!(judged(at(epoch, 101), &["a"]), Recovery::Failed(RecoveryFailure::Ahead));
        assert_eq!(judged(at(epoch, 100), &["a"]), Recovery::Current);
        assert_eq!(judged(at(epoch, 40), &["a"]), Recovery::Replay { after: 40 });
        assert_eq!(judged(at(epoch, 39), &["a", "b"]), Recovery::Failed(RecoveryFailure::Evicted));
        assert_eq!(judged(at(epoch, 0), &["b"]), Recovery::Replay { after: 0 });
        assert_eq!(judged(at(epoch, 39), &["*"]), Recovery::Failed(RecoveryFailure::Evicted));
    }

    #[test]
    fn too_many_floors_become_one_that_is_never_too_low() {
        let mut floors = Floors::default();
        floors.raise(&(0..10).map(|n| (topic(&format!("t{n}")), Floor::lasting(10 + n))).collect::<Vec<_>>());
        assert_eq!(floors.overflow(10), None);
        floors.raise(&[(topic("t10"), Floor::lasting(20))]);
        assert_eq!(floors.overflow(10), Some(15));
        assert_eq!(floors.of(&selectors(&["t3"]), NOW), 15);
        assert_eq!(floors.of(&selectors(&["never-trimmed"]), NOW), 15);
        assert_eq!(floors.of(&selectors(&["t10"]), NOW), 20);
    }
}
