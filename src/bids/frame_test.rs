use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::ranking::BidRanking;
use super::{Criteria, Frame, Frames, Move, Proposal, RankedProposal, Step, Terms};
use crate::domain::{Decimal, Timestamp, Visibility};

const WINDOW: usize = 3;

fn terms(price: i64) -> Terms {
    let own = Decimal::from_millionths;
    Terms { price: own(price), ei: own(1), lead_time_hours: own(1), rating: None }
}

fn ranking() -> BidRanking {
    let criteria = r#"[{"field":"price","weight":1,"direction":"asc","reference":1}]"#;
    BidRanking::new(Criteria::check(serde_json::from_str(criteria).unwrap()).unwrap(), None)
}

/// Submits, revises or withdraws a proposal.
fn step(ranking: &mut BidRanking, (number, price, is_withdrawn): (usize, i64, bool)) -> Step {
    let id: Arc<str> = format!("p{number}").into();
    let at = Timestamp::from_micros(0);
    let proposal = Proposal {
        id: id.clone(),
        carrier: format!("c{number}").into(),
        terms: terms(price),
        withdrawn: is_withdrawn,
        version: ranking.version() + 1,
        submitted_at: at,
        updated_at: at,
    };
    let carrier = proposal.carrier.clone();
    let splice = ranking.put(proposal);
    Step { splice, carrier, terms: terms(price), score: ranking.ranked(&id).map(|own| own.score) }
}

/// A frame for each of these batches of changes, and all that is ranked after each.
fn frames(
    batches: &[Vec<(usize, i64, bool)>],
    visibility: Visibility,
) -> Vec<(Frames, Vec<(String, String)>)> {
    let mut ranking = ranking();
    let frames = batches.iter().map(|batch| {
        let from = ranking.version();
        let steps: Vec<Step> = batch.iter().map(|change| step(&mut ranking, *change)).collect();
        let now = Timestamp::from_micros(0);
        let told = Frames::new("b", (&ranking, &steps), from, WINDOW, (visibility, "secret"), now);
        let rows = ranking.window(0, usize::MAX);
        let list = rows.iter().map(|own| (own.proposal.id.to_string(), own.proposal.terms.price.to_string()));
        (told, list.collect())
    });
    frames.collect()
}

/// Somebody who holds the whole list and follows it by frames.
#[derive(Clone, Default)]
struct Follower {
    list: Vec<String>,
    prices: HashMap<String, String>,
}

impl Follower {
    fn take(&mut self, frame: &Frame) {
        for Move { proposal_id, from, to, row } in frame.moves.iter().flatten() {
            if let Some(from) = from {
                assert_eq!(self.list.remove(from - 1), *proposal_id);
            }
            if let Some(to) = to {
                self.list.insert(to - 1, proposal_id.clone());
            }
            self.learn(row.iter());
        }
        self.learn(frame.ranked_proposals.iter());
    }

    fn learn<'a>(&mut self, rows: impl Iterator<Item = &'a RankedProposal>) {
        self.prices.extend(rows.map(|row| (row.proposal_id.clone(), row.price.get().to_owned())));
    }

    fn rows(&self) -> Vec<(String, String)> {
        self.list.iter().map(|id| (id.clone(), self.prices[id].clone())).collect()
    }
}

fn changes() -> impl Strategy<Value = Vec<Vec<(usize, i64, bool)>>> {
    let change = (0usize..9, 1i64..30, prop::bool::weighted(0.2));
    prop::collection::vec(prop::collection::vec(change, 1..6), 2..9)
}

proptest! {
    /// However many frames are joined, they make of the list at their beginning the one at their end, rows
    /// included, and say which rank each row had at their beginning.
    #[test]
    fn joined_frames_say_what_each_said(batches in changes(), first in 0usize..9) {
        let told = frames(&batches, Visibility::Open);
        let first = first % told.len();
        let mut follower = Follower::default();
        for (frames, list) in &told[..first] {
            follower.take(&Frame::read(&frames.full).unwrap());
            prop_assert_eq!(&follower.rows(), list);
        }
        let before = follower.list.clone();
        let each = told[first..].iter().map(|(frames, _)| Frame::read(&frames.full).unwrap());
        let joined = each.reduce(|earlier, later| earlier.then(later).unwrap()).unwrap();
        follower.take(&joined);
        prop_assert_eq!(&follower.rows(), &told.last().unwrap().1);
        prop_assert_eq!(joined.total, follower.list.len());
        for row in &joined.ranked_proposals {
            let former = before.iter().position(|id| *id == row.proposal_id).map(|place| place + 1);
            prop_assert_eq!(row.previous_rank, former);
        }
    }
}

#[test]
fn what_was_out_of_the_ranking_in_between_has_the_rank_that_it_had_before() {
    let there = [vec![(0, 1, false), (7, 1, false)], vec![(7, 1, true)], vec![(7, 1, false)]];
    let told = frames(&there, Visibility::Open);
    let frame = |at: usize| Frame::read(&told[at].0.full).unwrap();
    let joined = frame(1).then(frame(2)).unwrap();
    assert_eq!(joined.ranked_proposals[1].previous_rank, Some(2));
    // and in one turn
    let told = frames(&[there[0].clone(), [there[1].clone(), there[2].clone()].concat()], Visibility::Open);
    assert_eq!(Frame::read(&told[1].0.full).unwrap().ranked_proposals[1].previous_rank, Some(2));
}

#[test]
fn frames_that_do_not_follow_on_one_another_are_not_joined() {
    let told = frames(&[vec![(1, 1, false)], vec![(2, 2, false)], vec![(3, 3, false)]], Visibility::Open);
    let frame = |at: usize| Frame::read(&told[at].0.full).unwrap();
    assert!(frame(0).then(frame(2)).is_none());
    assert!(frame(1).then(frame(0)).is_none());
    assert!(frame(0).then(Frame { bid_id: "other".into(), ..frame(1) }).is_none());
}

#[test]
fn moves_that_take_too_much_when_they_are_joined_are_left_out() {
    let batch = |start: usize| (start..start + 150).map(|number| (number, 9, false)).collect::<Vec<_>>();
    let told = frames(&[batch(0), batch(150), vec![(0, 8, false)]], Visibility::Anonymous);
    let frame = |at: usize| Frame::read(&told[at].0.full).unwrap();
    assert!(frame(0).moves.is_some() && frame(1).moves.is_some());
    let joined = frame(0).then(frame(1)).unwrap();
    assert!(joined.moves.is_none() && joined.reset);
    assert_eq!((joined.from_version, joined.version, joined.total), (0, 300, 300));
    let joined = joined.then(frame(2)).unwrap();
    assert!(joined.moves.is_none() && joined.reset);
    assert_eq!(joined.ranked_proposals[0].previous_rank, None, "it was not ranked at version 0");
    for (at, full) in [frame(0), frame(1)].into_iter().enumerate() {
        let public = Frame::read(told[at].0.public.as_ref().unwrap()).unwrap();
        assert_eq!(public.total, full.total);
        assert!(public.ranked_proposals.iter().all(|row| row.proposal_id.starts_with("p-")));
    }
}
