use super::plan::{Accepted, Plan};
use super::{BidRanking, Change, RankingOptions};
use crate::bids::events::{extended, ranking_updated};
use crate::bids::{Bid, Proposal};
use crate::domain::{Refusal, Timestamp};
use crate::storage::{IdempotencyRow, OutboxRow, ProposalRow};

/// What a turn writes, and what it answers.
pub(super) struct Writes {
    pub outcomes: Vec<Result<Accepted, Refusal>>,
    pub new: Vec<ProposalRow>,
    pub changed: Vec<ProposalRow>,
    pub outbox: Vec<OutboxRow>,
    pub answers: Vec<IdempotencyRow>,
}

/// Carries changes out on the ranking, in order, and says what follows: the same as if each had a turn of its own.
pub(super) fn plan_writes(
    (bid, ranking): (&mut Bid, &mut BidRanking),
    mut plan: Plan,
    changes: &[Change],
    stored: &[IdempotencyRow],
    (tenant, options): (&str, &RankingOptions),
    now: Timestamp,
) -> (Writes, Plan) {
    let mut outcomes = Vec::with_capacity(changes.len());
    let (mut answers, mut origin) = (Vec::<IdempotencyRow>::new(), None);
    for change in changes {
        let former = change.attempt.key().and_then(|(_, principal, key)| {
            // whoever gave up waiting and has come again may be in the same turn
            stored.iter().chain(&answers).find(|row| row.principal == principal && row.key == key)
        });
        if let Some(former) = former {
            outcomes.push(change.attempt.repeat(former));
            continue;
        }
        let asked = (&change.ask, &change.speaks);
        let outcome = plan.carry_out((bid, ranking), asked, options.most_proposals, now);
        if let Ok(accepted) = &outcome {
            answers.extend(change.attempt.row(accepted));
            origin = change.origin.clone().or(origin);
        }
        outcomes.push(outcome);
    }
    let mut outbox = Vec::new();
    let (mut new, mut changed) = (Vec::new(), Vec::new());
    if !plan.steps().is_empty() {
        bid.ranking_version = ranking.version();
        let rows = |own: Vec<&Proposal>| own.iter().map(|one| one.row(tenant, &bid.id)).collect();
        let touched = plan.touched(ranking);
        (new, changed) = (rows(touched.0), rows(touched.1));
        let steps = (&*ranking, plan.steps());
        outbox.push(ranking_updated(tenant, bid, steps, plan.from_version(), options.window, now, origin));
        outbox.extend(extensions(tenant, bid, plan.changes_of_best(), now));
    }
    (Writes { outcomes, new, changed, outbox, answers }, plan)
}

/// Moves the end of the bid for each change of the best that comes late, as late as that is after the one before.
fn extensions(tenant: &str, bid: &mut Bid, changes_of_best: usize, now: Timestamp) -> Vec<OutboxRow> {
    let mut rows = Vec::new();
    for _ in 0..changes_of_best {
        let end = bid.anti_sniping.zip(bid.closes_at).and_then(|(own, end)| own.extended(end, now));
        let Some(end) = end else { break };
        bid.closes_at = Some(end);
        rows.push(extended(tenant, bid, now));
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::bids::ranking::{Ask, Speaks};
    use crate::bids::{About, AntiSniping, Criteria, Status, Terms};
    use crate::clock::Clock;
    use crate::domain::{Decimal, EntityId, TenantId, Visibility};
    use crate::storage::{Attempt, BidRow, CommandKey, Commands};

    const NOW: i64 = 1_000_000;
    const OPTIONS: RankingOptions = RankingOptions {
        most_proposals: 6,
        window: 5,
        waiting: 100,
        batch: 100,
        idle: Duration::from_secs(1),
    };

    /// An open bid that ends so many µs from now.
    fn bid(left_us: i64, anti_sniping: AntiSniping) -> Bid {
        let (at, any) = (Timestamp::from_micros, || RawValue::from_string("1".into()).unwrap());
        let criteria = r#"[{"field":"price","weight":1,"direction":"asc","reference":1}]"#;
        Bid {
            id: "B".into(),
            owner: None,
            about: About { title: "t".into(), origin: any(), destination: any(), cargo: any() },
            criteria: Criteria::check(serde_json::from_str(criteria).unwrap()).unwrap(),
            visibility: Visibility::Open,
            max_ei: None,
            status: Status::Open,
            opens_at: None,
            closes_at: Some(at(NOW + left_us)),
            anti_sniping: Some(anti_sniping),
            secret: "s".into(),
            awarded: None,
            order_id: None,
            version: 1,
            ranking_version: 0,
            created_at: at(0),
            updated_at: at(0),
        }
    }

    /// An attempt at a command, recognised by its key if it has one.
    fn attempt(key: Option<&str>) -> Attempt {
        let commands = Commands::new(Clock::system(), Duration::from_secs(60), Duration::ZERO);
        let key = key.map(|key| CommandKey {
            principal: "kim".into(),
            key: key.into(),
            request_hash: "the same".into(),
        });
        let tenant = TenantId::default_tenant();
        let own = commands.once(&tenant, key, async |attempt| Ok(Ok(attempt)));
        own.now_or_never().expect("nothing is waited for").expect("an attempt")
    }

    fn change(ask: Ask, key: Option<&str>) -> Change {
        Change { ask, speaks: Speaks::ForAny, attempt: attempt(key), origin: None }
    }

    fn terms(price: i64) -> Terms {
        let of = Decimal::from_millionths;
        Terms { price: of(price), ei: of(0), lead_time_hours: of(0), rating: None }
    }

    fn submit(number: usize, price: i64) -> Ask {
        let id = |kind| EntityId::parse(&format!("{kind}-{number}")).unwrap();
        Ask::Submit { proposal_id: id("p"), carrier_id: id("c"), terms: terms(price) }
    }

    /// What becomes of a bid, and what was answered, told of the bid and stored as answers.
    #[derive(Debug, PartialEq)]
    struct Became {
        bid: BidRow,
        ranks: Vec<String>,
        outcomes: Vec<String>,
        told: Vec<String>,
        answers: usize,
    }

    fn carry_out<'a>(mut bid: Bid, turns: impl Iterator<Item = &'a [Change]>) -> Became {
        let mut ranking = BidRanking::of(&bid);
        let (mut outcomes, mut told, mut answers) = (Vec::new(), Vec::new(), 0);
        for changes in turns {
            let (plan, now) = (Plan::new(&ranking), Timestamp::from_micros(NOW));
            let own = (&mut bid, &mut ranking);
            let (writes, _) = plan_writes(own, plan, changes, &[], ("acme", &OPTIONS), now);
            outcomes.extend(writes.outcomes.iter().map(|own| match own {
                Ok(accepted) => serde_json::to_string(accepted).unwrap(),
                Err(refusal) => refusal.to_string(),
            }));
            let of_the_bid = writes.outbox.into_iter().filter(|row| row.topic == "bid:B");
            told.extend(of_the_bid.map(|row| row.data));
            answers += writes.answers.len();
        }
        let ranked = ranking.window(0, usize::MAX).into_iter();
        let ranks = ranked.map(|own| format!("{own:?}")).collect();
        Became { bid: bid.row("acme"), ranks, outcomes, told, answers }
    }

    proptest! {
        /// However changes are put together in turns, it comes to the same.
        #[test]
        fn turns_of_many_changes_are_what_turns_of_one_are(
            asked in prop::collection::vec((0u8..4, 0usize..5, 0i64..6), 1..25),
            together in 2usize..26,
            (left_us, window_us, extend_us) in (1i64..60, 1i64..60, 1i64..20),
        ) {
            let id = |number| EntityId::parse(&format!("p-{number}")).unwrap();
            let changes: Vec<Change> = asked
                .into_iter()
                .map(|(kind, number, price)| match kind {
                    0 => Ask::Withdraw { proposal_id: id(number) },
                    1 => Ask::Revise { proposal_id: id(number), terms: terms(price) },
                    _ => submit(number, price),
                })
                .map(|ask| change(ask, None))
                .collect();
            let own = bid(left_us, AntiSniping { window_us, extend_us });
            let each = carry_out(own.clone(), changes.chunks(1));
            prop_assert_eq!(&each, &carry_out(own, changes.chunks(together)));
        }
    }

    #[test]
    fn a_change_of_the_best_that_is_undone_in_the_same_turn_extends_the_bid_all_the_same() {
        let withdraw = Ask::Withdraw { proposal_id: EntityId::parse("p-2").unwrap() };
        let changes = [submit(1, 10), submit(2, 5), withdraw].map(|ask| change(ask, None));
        let own = bid(50, AntiSniping { window_us: 60, extend_us: 4 });
        let became = carry_out(own, [&changes[..]].into_iter());
        // 50 + 4, + 4, + 4: each of the three is within 60 of the end before it
        assert_eq!((became.bid.closes_us, became.told.len()), (Some(NOW + 62), 3));
        let own = bid(58, AntiSniping { window_us: 60, extend_us: 4 });
        let became = carry_out(own, [&changes[..]].into_iter());
        assert_eq!(became.bid.closes_us, Some(NOW + 62), "62 is not");
    }

    #[test]
    fn the_best_extends_the_bid_by_another_offer_and_not_by_the_same_one() {
        let revise =
            |price| Ask::Revise { proposal_id: EntityId::parse("p-1").unwrap(), terms: terms(price) };
        let changes = [submit(1, 10), revise(10), revise(10), revise(9)].map(|ask| change(ask, None));
        let own = bid(50, AntiSniping { window_us: 60, extend_us: 4 });
        let became = carry_out(own, [&changes[..]].into_iter());
        assert_eq!((became.bid.closes_us, became.bid.ranking_version), (Some(NOW + 58), 4));
    }

    #[test]
    fn a_key_that_is_there_twice_in_a_turn_is_carried_out_once() {
        let once = [change(submit(1, 10), Some("k")), change(submit(2, 5), Some("other"))];
        let changes = [&once[..], &once[..1]].concat();
        let own = bid(50, AntiSniping { window_us: 1, extend_us: 1 });
        let became = carry_out(own, [&changes[..]].into_iter());
        assert_eq!(became.outcomes[0], became.outcomes[2]);
        assert!(became.outcomes[2].contains("\"version\":1"), "{became:?}");
        assert_eq!((became.bid.ranking_version, became.answers, became.ranks.len()), (2, 2, 2));
    }
}
