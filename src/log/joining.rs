//! Outbox rows that go out as one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::storage::OutboxRow;

/// Which rows may go out as one, and how.
#[derive(Clone, Copy, Debug)]
pub struct Joins {
    /// Whether a row may wait for others of its topic.
    pub may_wait: fn(&OutboxRow) -> bool,
    /// What both rows say, as one; None where that cannot be said.
    pub join: fn(&OutboxRow, &OutboxRow) -> Option<OutboxRow>,
    /// Those of one topic go out once in this time.
    pub within: Duration,
    /// Most bytes of what rows say as one.
    pub most_bytes: usize,
}

impl Joins {
    fn joined(&self, earlier: &OutboxRow, later: &OutboxRow) -> Option<OutboxRow> {
        let fits = |text: &String| text.len() <= self.most_bytes;
        (self.join)(earlier, later).filter(|own| fits(&own.data) && own.public.as_ref().is_none_or(fits))
    }
}

/// A row that goes out.
#[derive(Debug)]
pub struct Joined {
    /// What is published.
    pub row: OutboxRow,
    /// The rows that it stands for beside its own.
    pub earlier: Vec<i64>,
}

impl Joined {
    /// The ids of all rows that it stands for.
    pub fn ids(&self) -> impl Iterator<Item = i64> {
        self.earlier.iter().copied().chain([self.row.id])
    }
}

/// A tenant, and the id that topics of an entity have in common.
type Entity = (String, String);

/// When rows went out last.
#[derive(Debug, Default)]
pub struct Joining {
    joins: Option<Joins>,
    sent: HashMap<Entity, Instant>,
}

impl Joining {
    /// By these rules; without any, each row goes out by itself.
    pub fn new(joins: Option<Joins>) -> Self {
        Joining { joins, sent: HashMap::new() }
    }

    /// What goes out of rows that wait, in order, and when the first of those is due that go on waiting; none does
    /// unless `may_wait`. Whatever else is said of an entity comes after what was said before it.
    pub fn take(
        &mut self,
        rows: Vec<OutboxRow>,
        now: Instant,
        may_wait: bool,
    ) -> (Vec<Joined>, Option<Instant>) {
        let alone = |row| Joined { row, earlier: Vec::new() };
        let Some(joins) = self.joins else {
            return (rows.into_iter().map(alone).collect(), None);
        };
        self.sent.retain(|_, at| *at + joins.within > now);
        // after these nothing else is said of their entities: what waits, waits behind them
        let said = rows.iter().enumerate().filter(|(_, row)| !(joins.may_wait)(row));
        let said: HashMap<Entity, usize> = said.map(|(at, row)| (entity(row), at)).collect();
        let mut taken: Vec<Option<Joined>> = Vec::with_capacity(rows.len());
        // where the newest row of each entity stands that others may be joined to
        let (mut open, mut due) = (HashMap::<Entity, usize>::new(), None::<Instant>);
        for (place, row) in rows.into_iter().enumerate() {
            let entity = entity(&row);
            if !(joins.may_wait)(&row) {
                if open.remove(&entity).is_some() {
                    self.sent.insert(entity, now);
                }
                taken.push(Some(alone(row)));
                continue;
            }
            let is_last = said.get(&entity).is_none_or(|at| *at < place);
            let next = self.sent.get(&entity).map(|sent| *sent + joins.within);
            if let Some(next) = next.filter(|_| may_wait && is_last) {
                due = Some(due.map_or(next, |due| due.min(next)));
                continue;
            }
            let earlier = open.get(&entity).and_then(|at| taken[*at].as_ref().map(|own| (*at, own)));
            let next = earlier.and_then(|(at, own)| Some((at, joins.joined(&own.row, &row)?)));
            let joined = match next.and_then(|(at, row)| Some((taken[at].take()?, row))) {
                Some((own, row)) => Joined { earlier: own.ids().collect(), row },
                None => alone(row),
            };
            open.insert(entity, taken.len());
            taken.push(Some(joined));
        }
        self.sent.extend(open.into_keys().map(|entity| (entity, now)));
        (taken.into_iter().flatten().collect(), due)
    }
}

fn entity(row: &OutboxRow) -> Entity {
    let id = row.topic.split_once(':').map_or(row.topic.as_str(), |(_, id)| id);
    (row.tenant.clone(), id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows on `n:` topics are joined by putting their data together.
    fn joining() -> Joining {
        let join = |earlier: &OutboxRow, later: &OutboxRow| {
            let data = format!("{}{}", earlier.data, later.data);
            (!data.contains('!')).then(|| OutboxRow { data, ..later.clone() })
        };
        let may_wait = |row: &OutboxRow| row.topic.starts_with("n:");
        Joining::new(Some(Joins { may_wait, join, within: Duration::from_millis(50), most_bytes: 3 }))
    }

    fn rows(first: i64, texts: &[&str]) -> Vec<OutboxRow> {
        let row = |(index, text): (usize, &&str)| {
            let (topic, data) = text.split_once(' ').unwrap();
            let (topic, data) = (topic.to_owned(), data.to_owned());
            OutboxRow {
                id: first + index as i64,
                tenant: "t".to_owned(),
                topic,
                name: "e".to_owned(),
                class: "latest".to_owned(),
                key: None,
                version: None,
                data,
                public: None,
                created_us: 0,
                origin: None,
            }
        };
        texts.iter().enumerate().map(row).collect()
    }

    fn shown(joined: &[Joined]) -> Vec<String> {
        let text = |own: &Joined| {
            let ids: Vec<String> = own.ids().map(|id| id.to_string()).collect();
            format!("{} {} {}", own.row.topic, own.row.data, ids.join("+"))
        };
        joined.iter().map(text).collect()
    }

    #[test]
    fn rows_of_a_topic_go_out_as_one_and_at_most_once_in_a_while() {
        let (mut own, start) = (joining(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let (out, due) = own.take(rows(1, &["n:1 a", "x:9 b", "n:1 c", "n:2 d"]), start, true);
        assert_eq!(shown(&out), ["x:9 b 2", "n:1 ac 1+3", "n:2 d 4"]);
        assert_eq!(due, None);
        let (out, due) = own.take(rows(5, &["n:1 e", "n:3 f", "n:1 g"]), at(20), true);
        assert_eq!(shown(&out), ["n:3 f 6"], "the others wait");
        assert_eq!(due, Some(at(50)));
        let (out, due) = own.take(rows(5, &["n:1 e", "n:1 g", "n:1 h"]), at(50), true);
        assert_eq!(shown(&out), ["n:1 egh 5+6+7"]);
        assert_eq!(due, None);
    }

    #[test]
    fn what_is_said_of_an_entity_stays_in_order() {
        let (mut own, now) = (joining(), Instant::now());
        own.take(rows(1, &["n:1 a"]), now, true);
        let (out, due) = own.take(rows(2, &["n:1 b", "n:1 c", "bid:1 closed", "n:1 d"]), now, true);
        assert_eq!(shown(&out), ["n:1 bc 2+3", "bid:1 closed 4"]);
        assert_eq!(due, Some(now + Duration::from_millis(50)), "d waits");
    }

    #[test]
    fn what_cannot_be_said_as_one_is_said_one_after_the_other() {
        let (mut own, now) = (joining(), Instant::now());
        let (out, _) = own.take(rows(1, &["n:1 a", "n:1 !", "n:1 b"]), now, true);
        assert_eq!(shown(&out), ["n:1 a 1", "n:1 ! 2", "n:1 b 3"]);
        let (out, _) = own.take(rows(1, &["n:2 ab", "n:2 c", "n:2 d"]), now, true);
        assert_eq!(shown(&out), ["n:2 abc 1+2", "n:2 d 3"], "too much for one");
    }

    #[test]
    fn nothing_waits_where_nothing_may() {
        let (mut own, now) = (joining(), Instant::now());
        own.take(rows(1, &["n:1 a"]), now, true);
        let (out, due) = own.take(rows(2, &["n:1 b", "n:1 c"]), now, false);
        assert_eq!((shown(&out), due), (vec!["n:1 bc 2+3".to_owned()], None));
        let (out, due) = Joining::new(None).take(rows(2, &["n:1 b", "n:1 c"]), now, true);
        assert_eq!((shown(&out), due), (vec!["n:1 b 2".to_owned(), "n:1 c 3".to_owned()], None));
    }
}
