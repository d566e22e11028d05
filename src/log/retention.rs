use std::collections::HashMap;
use std::time::Duration;

use super::floor::Floor;
use crate::domain::{EventName, Timestamp, Topic};
use crate::storage::{OldestRow, TenantRow};

/// How much of a tenant's log is kept for replay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retention {
    /// Most events.
    pub count: u64,
    /// Most bytes.
    pub bytes: u64,
    /// Longest time.
    pub age: Duration,
}

/// Which of the oldest entries go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trim {
    /// The last entry that goes.
    pub up_to: i64,
    /// How many go.
    pub count: u64,
    /// Their bytes.
    pub bytes: i64,
    /// What each topic loses; entries that had expired, or that no client would have seen, are no loss.
    pub floors: Vec<(Topic, Floor)>,
}

impl Retention {
    /// The longest run of the oldest entries that has to go; None when all may stay.
    pub fn plan(&self, tenant: &TenantRow, oldest: &[OldestRow], now: Timestamp) -> Option<Trim> {
        let earliest = now.minus(self.age).micros();
        let mut kept = (tenant.head - tenant.trimmed) as u64;
        let mut kept_bytes = tenant.bytes;
        let mut trim = Trim::default();
        let mut floors: HashMap<&str, Floor> = HashMap::new();
        for row in oldest {
            let over = kept > self.count || kept_bytes > self.bytes as i64 || row.at_us < earliest;
            if !over {
                break;
            }
            kept -= 1;
            kept_bytes -= row.bytes;
            trim.up_to = row.seq;
            trim.count += 1;
            trim.bytes += row.bytes;
            if row.expires_us.is_none_or(|at| at > now.micros()) && row.name != EventName::ENTITY_CREATED {
                floors.entry(&row.topic).or_default().pass(row.seq as u64, row.expires_us);
            }
        }
        trim.floors = floors
            .into_iter()
            .filter_map(|(topic, floor)| Some((Topic::parse(topic).ok()?, floor)))
            .collect();
        (trim.count > 0).then_some(trim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn tenant(head: i64, trimmed: i64, bytes: i64) -> TenantRow {
        TenantRow { tenant: "acme".into(), epoch: "0".into(), head, trimmed, bytes, global_floor: 0 }
    }

    fn row(seq: i64, topic: &str, age_s: i64, expired: bool) -> OldestRow {
        let at_us = NOW.micros() - age_s * 1_000_000;
        OldestRow {
            seq,
            topic: topic.into(),
            name: "tick".into(),
            at_us,
            expires_us: expired.then_some(at_us + 1),
            bytes: 10,
        }
    }

    const KEEP: Retention = Retention { count: 3, bytes: 1000, age: Duration::from_secs(100) };

    #[test]
    fn count_bytes_and_age_each_trim_the_oldest() {
        let rows: Vec<_> = (1..=5).map(|seq| row(seq, "topic:a", 0, false)).collect();
        assert_eq!(KEEP.plan(&tenant(5, 0, 50), &rows, NOW).unwrap().up_to, 2);
        assert_eq!(KEEP.plan(&tenant(3, 0, 1011), &rows[..3], NOW).unwrap().up_to, 2);
        let aged = [row(1, "topic:a", 101, false), row(2, "topic:a", 99, false)];
        assert_eq!(KEEP.plan(&tenant(2, 0, 20), &aged, NOW).unwrap().up_to, 1);
        assert_eq!(KEEP.plan(&tenant(3, 0, 30), &rows[..3], NOW), None);
    }

    #[test]
    fn floors_name_the_topics_that_lost_something_still_worth_sending() {
        let rows = [row(1, "topic:a", 0, false), row(2, "topic:b", 9, true), row(3, "topic:a", 0, false)];
        let trim = KEEP.plan(&tenant(6, 0, 60), &rows, NOW).unwrap();
        assert_eq!(trim.floors, [(Topic::parse("topic:a").unwrap(), Floor::lasting(3))]);
        assert_eq!((trim.count, trim.bytes), (3, 30));
    }

    #[test]
    fn what_no_client_would_have_seen_is_no_loss() {
        let created = OldestRow { name: EventName::ENTITY_CREATED.into(), ..row(1, "topic:a", 0, false) };
        let trim = KEEP.plan(&tenant(4, 0, 40), &[created], NOW).unwrap();
        assert_eq!((trim.up_to, trim.floors), (1, vec![]));
    }
}
