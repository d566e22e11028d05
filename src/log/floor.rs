use crate::domain::Timestamp;
use crate::storage::FloorRow;

/// The number of an event, and how long it is missed once it is gone.
type Step = (u64, i64);

/// For ever: an event without time to live.
const LASTING: i64 = i64::MAX;

/// Most steps of one floor; more are told as if the one in between were missed for longer.
const MOST_STEPS: usize = 16;

/// Up to where one topic has been trimmed: later and later events that are missed for less and less long.
///
/// What has a time to live is missed until that is over; after it, it would not have been sent anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Floor(pub(super) Vec<Step>);

impl Floor {
    /// Below which everything is missed for ever.
    #[cfg(test)]
    pub fn lasting(seq: u64) -> Self {
        Floor(vec![(seq, LASTING)])
    }

    /// As the database has it.
    pub fn stored(row: &FloorRow) -> Self {
        let steps = row.steps.as_deref().and_then(|steps| serde_json::from_str(steps).ok());
        Floor(steps.unwrap_or_else(|| vec![(row.floor as u64, LASTING)]))
    }

    /// As Redis has it: `seq` or `seq:until`, comma-separated.
    pub fn read(steps: &str) -> Self {
        let step = |text: &str| match text.split_once(':') {
            Some((seq, until)) => Some((seq.parse().ok()?, until.parse().ok()?)),
            None => Some((text.parse().ok()?, LASTING)),
        };
        Floor(steps.split(',').filter_map(step).collect())
    }

    /// As the database has it: the highest number, and the steps where there is more to say.
    pub fn to_row(&self, tenant: &str, topic: &str) -> FloorRow {
        let is_plain = self.0.iter().all(|(_, until)| *until == LASTING);
        let steps = (!is_plain).then(|| serde_json::to_string(&self.0).expect("numbers"));
        FloorRow { tenant: tenant.to_owned(), topic: topic.to_owned(), floor: self.top() as i64, steps }
    }

    /// An event has gone that is missed until `expires_us`; those of a topic go in order.
    pub fn pass(&mut self, seq: u64, expires_us: Option<i64>) {
        self.raise((seq, expires_us.unwrap_or(LASTING)));
    }

    /// Adds a step that is not below those there are.
    pub fn raise(&mut self, (seq, until): Step) {
        while self.0.last().is_some_and(|(_, own)| *own <= until) {
            self.0.pop();
        }
        self.0.push((seq, until));
        if self.0.len() > MOST_STEPS {
            // the first lasts longest, the second reaches further
            let (_, longest) = self.0.remove(0);
            self.0[0].1 = longest;
        }
    }

    /// Number of the newest event that is gone and still missed; 0 for none.
    pub fn at(&self, now: Timestamp) -> u64 {
        let missed = self.0.iter().rev().find(|(_, until)| *until > now.micros());
        missed.map_or(0, |(seq, _)| *seq)
    }

    /// Number of the newest event that is gone.
    pub fn top(&self) -> u64 {
        self.0.last().map_or(0, |(seq, _)| *seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passed(gone: &[Option<i64>]) -> Floor {
        let mut floor = Floor::default();
        for (n, expires_us) in gone.iter().enumerate() {
            floor.pass(n as u64 + 1, *expires_us);
        }
        floor
    }

    proptest! {
        #[test]
        fn what_is_missed_is_the_newest_event_gone_that_has_not_expired(
            gone in prop::collection::vec(prop::option::of(1..20_i64), 0..12), now in 0..21_i64,
        ) {
            let is_missed = |expires_us: &Option<i64>| expires_us.is_none_or(|at| at > now);
            let expected = gone.iter().rposition(is_missed).map_or(0, |at| at as u64 + 1);
            let floor = passed(&gone);
            prop_assert_eq!(floor.at(Timestamp::from_micros(now)), expected);
            let stored = Floor::stored(&floor.to_row("acme", "topic:a"));
            prop_assert_eq!(stored.at(Timestamp::from_micros(now)), expected);
        }

        #[test]
        fn however_many_steps_nothing_missed_is_forgotten(
            gone in prop::collection::vec(prop::option::of(1..1000_i64), 0..200), now in 0..1001_i64,
        ) {
            let floor = passed(&gone);
            let is_missed = |expires_us: &Option<i64>| expires_us.is_none_or(|at| at > now);
            let least = gone.iter().rposition(is_missed).map_or(0, |at| at as u64 + 1);
            prop_assert!(floor.at(Timestamp::from_micros(now)) >= least);
            prop_assert!(floor.0.len() <= MOST_STEPS);
        }
    }
}
