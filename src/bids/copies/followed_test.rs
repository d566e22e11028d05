use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::desk::Owed;
use super::followed::{Followed, Fresh, Place, Tell};
use super::seen::{Listed, Question, Seen, Standing};
use crate::bids::{Frame, Frames, Move};
use crate::domain::Topic;

/// A bid as the database has it, with one carrier that somebody listens for.
#[derive(Clone, Debug)]
struct Truth {
    version: i64,
    /// The carrier's proposal: its number, the version of its last change, its rank.
    own: Option<(usize, i64, usize)>,
}

impl Truth {
    fn standing(&self) -> Option<Standing> {
        let (number, changed_at, rank) = self.own?;
        Some(Standing { proposal_id: name(number), changed_at, rank: Some(rank), total: 9 })
    }

    fn seen(&self, question: &Question) -> Seen {
        let whole = |listed: Option<Listed>| {
            let listed = listed.filter(|listed| listed.version != self.version);
            let from_version = listed.as_ref().map_or(self.version, |listed| listed.version);
            let since = listed.and_then(|listed| listed.since).filter(|since| since.version == self.version);
            let told = since.unwrap_or(Frame { moves: None, ..frame(from_version, self.version, None) });
            (Frames { full: told.written(), public: None }, Arc::default())
        };
        Seen {
            version: self.version,
            is_over: false,
            total: 9,
            whole: question.whole.clone().map(whole),
            standings: question.carriers.iter().map(|own| (own.clone(), self.standing())).collect(),
        }
    }
}

fn name(number: usize) -> Arc<str> {
    format!("p{number}").into()
}

fn carrier() -> Arc<str> {
    "kim".into()
}

/// A change that has moved these proposals; None: too many to say.
fn frame(from_version: i64, version: i64, moved: Option<&[usize]>) -> Frame {
    let own = |number: &usize| Move {
        proposal_id: name(*number).to_string(),
        from: Some(1),
        to: Some(2),
        row: None,
    };
    Frame {
        bid_id: "b".to_owned(),
        version,
        from_version,
        total: 9,
        ranked_proposals: Vec::new(),
        moves: moved.map(|moved| moved.iter().map(own).collect()),
        reset: moved.is_none(),
        truncated: None,
        timestamp: String::new(),
    }
}

/// Looks as soon as it is due, and gives what is told.
fn look(own: &mut Followed, truth: &Truth, now: Instant) -> Vec<Tell> {
    match own.due(now) {
        Some(due) if due <= now => {
            let question = own.question([carrier()].into_iter(), now);
            own.answer(truth.seen(&question), now)
        }
        _ => Vec::new(),
    }
}

fn places(told: &[Tell]) -> Vec<(Option<usize>, Option<usize>)> {
    let place = |tell: &Tell| match tell {
        Tell::Standing(_, Place { standing, previous_rank, .. }) => Some((*previous_rank, standing.rank)),
        _ => None,
    };
    told.iter().filter_map(place).collect()
}

#[test]
fn its_own_change_is_told_at_once_and_that_of_others_once_a_second() {
    let (mut own, start) = (Followed::new(0), Instant::now());
    let at = |ms| start + Duration::from_millis(ms);
    let mut truth = Truth { version: 1, own: Some((0, 1, 4)) };
    own.ask(&carrier(), [Fresh::Session(7)]);
    assert_eq!(places(&look(&mut own, &truth, start)), [(None, Some(4))]);
    truth = Truth { version: 2, own: Some((0, 2, 3)) };
    own.entry(&frame(1, 2, Some(&[0])), 12, &[], at(10));
    assert_eq!(places(&look(&mut own, &truth, at(10))), [(Some(4), Some(3))]);
    for step in 1..5 {
        truth = Truth { version: 2 + step, own: Some((0, 2, 3 + step as usize)) };
        own.entry(&frame(1 + step, 2 + step, Some(&[1])), 12 + step as u64, &[], at(100));
        assert_eq!(places(&look(&mut own, &truth, at(100))), []);
    }
    assert_eq!(own.due(at(100)), Some(at(1010)));
    assert_eq!(
        places(&look(&mut own, &truth, at(1010))),
        [(Some(3), Some(7))],
        "what came in between is not told"
    );
    assert_eq!(own.due(at(1010)), None);
}

#[test]
fn what_has_not_moved_is_not_told_again() {
    let (mut own, start) = (Followed::new(0), Instant::now());
    let truth = Truth { version: 1, own: Some((0, 1, 4)) };
    own.ask(&carrier(), [Fresh::Session(7)]);
    look(&mut own, &truth, start);
    own.entry(&frame(1, 2, Some(&[5])), 12, &[], start);
    let later = start + Duration::from_secs(1);
    assert_eq!(places(&look(&mut own, &Truth { version: 2, ..truth.clone() }, later)), []);
    own.ask(&carrier(), [Fresh::Session(8)]);
    let told = look(&mut own, &Truth { version: 2, ..truth }, later);
    let [Tell::StandingTo(Fresh::Session(8), place)] = &*told else { panic!("{told:?}") };
    assert_eq!((place.previous_rank, place.standing.rank, place.version), (None, Some(4), 2));
}

#[test]
fn a_proposal_that_is_gone_has_no_rank_any_more_and_another_takes_its_place() {
    let (mut own, now) = (Followed::new(0), Instant::now());
    own.ask(&carrier(), [Fresh::Session(7)]);
    look(&mut own, &Truth { version: 1, own: Some((0, 1, 4)) }, now);
    own.entry(&frame(1, 3, Some(&[0, 1])), 12, &[], now);
    let told = look(&mut own, &Truth { version: 3, own: Some((1, 3, 2)) }, now);
    assert_eq!(places(&told), [(Some(4), None), (None, Some(2))]);
    own.entry(&frame(3, 4, Some(&[1])), 13, &[], now);
    assert_eq!(places(&look(&mut own, &Truth { version: 4, own: None }, now)), [(Some(2), None)]);
    // who polls is told later, and nobody else again
    let (reply, _owed) = tokio::sync::oneshot::channel();
    let owed = Owed::new(Topic::parse("user:kim").unwrap(), reply);
    own.ask(&carrier(), [Fresh::Owed(owed), Fresh::Session(8)]);
    let told = look(&mut own, &Truth { version: 4, own: None }, now);
    let [Tell::StandingTo(Fresh::Owed(_), place)] = &*told else { panic!("{told:?}") };
    assert_eq!((&*place.standing.proposal_id, place.standing.rank), ("p1", None));
    own.entry(&frame(4, 5, Some(&[8])), 14, &[], now);
    assert_eq!(own.due(now), None, "nothing moves it");
    own.entry(&frame(5, 6, Some(&[2])), 15, &[carrier()], now);
    let again = look(&mut own, &Truth { version: 6, own: Some((2, 6, 1)) }, now);
    assert_eq!(places(&again), [(None, Some(1))]);
}

#[test]
fn a_carrier_that_comes_is_told_and_one_that_may_have_come_is_looked_for() {
    let (mut own, now) = (Followed::new(0), Instant::now());
    own.entry(&frame(0, 1, Some(&[0])), 1, &[carrier()], now);
    assert_eq!(places(&look(&mut own, &Truth { version: 1, own: Some((0, 1, 1)) }, now)), [(None, Some(1))]);
    let mut own = Followed::new(0);
    own.entry(&frame(0, 1, None), 1, &[], now);
    own.look_for_all();
    assert_eq!(places(&look(&mut own, &Truth { version: 1, own: None }, now)), []);
    assert!(own.is_idle());
    own.look_for_all();
    assert_eq!(places(&look(&mut own, &Truth { version: 1, own: Some((0, 1, 1)) }, now)), [(None, Some(1))]);
}

#[test]
fn what_could_not_be_looked_at_is_looked_at_again() {
    let (mut own, now) = (Followed::new(0), Instant::now());
    own.ask(&carrier(), [Fresh::Session(7)]);
    own.listen(7);
    let question = own.question(std::iter::empty(), now);
    own.failed(&question, now);
    let again = own.due(now).unwrap();
    assert!(again >= now + Duration::from_millis(500) && again <= now + Duration::from_millis(1500));
    let told = look(&mut own, &Truth { version: 1, own: Some((0, 1, 4)) }, again);
    assert_eq!(places(&told), [(None, Some(4))]);
    assert!(matches!(told[0], Tell::Whole(1, _)));
}

#[test]
fn a_poll_is_owed_what_has_changed_since_its_cursor_and_what_nobody_knows_of() {
    let (mut own, now) = (Followed::new(10), Instant::now());
    assert!(own.has_changed_since(9) && !own.has_changed_since(10));
    own.entry(&frame(0, 1, Some(&[0])), 12, &[carrier()], now);
    assert!(own.has_changed_since(11) && !own.has_changed_since(12));
    let truth = Truth { version: 1, own: Some((0, 1, 4)) };
    look(&mut own, &truth, now);
    let (reply, mut owed) = tokio::sync::oneshot::channel();
    own.ask(&carrier(), [Fresh::Owed(Owed::new(Topic::parse("user:kim").unwrap(), reply))]);
    assert!(owed.try_recv().is_err());
    let told = look(&mut own, &truth, now);
    assert!(matches!(&*told, [Tell::StandingTo(Fresh::Owed(_), _)]), "{told:?}");
    drop(told);
    assert!(owed.try_recv().is_ok(), "answered when nobody adds to it any more");
}

/// What the frames of whole rankings say of versions: of which, from which, and whether moves are told.
fn wholes(told: &[Tell]) -> Vec<(i64, i64, bool)> {
    let read = |frames: &Frames| {
        let frame = Frame::read(&frames.full).unwrap();
        (frame.from_version, frame.version, frame.moves.is_some())
    };
    let whole = |tell: &Tell| match tell {
        Tell::Whole(_, frames) | Tell::WholeTo(_, _, frames) => Some(read(frames)),
        _ => None,
    };
    told.iter().filter_map(whole).collect()
}

#[test]
fn a_whole_ranking_says_what_has_moved_since_the_one_before_where_that_is_known() {
    let (mut own, now) = (Followed::new(0), Instant::now());
    let truth = |version| Truth { version, own: None };
    own.listen(7);
    assert_eq!(wholes(&look(&mut own, &truth(3), now)), [(3, 3, false)]);
    own.entry(&frame(3, 4, Some(&[0])), 20, &[], now);
    own.entry(&frame(4, 6, Some(&[1])), 21, &[], now);
    assert_eq!(wholes(&look(&mut own, &truth(6), now)), [(3, 6, true)]);
    // the copy is ahead of the log
    own.entry(&frame(6, 7, Some(&[0])), 22, &[], now);
    assert_eq!(wholes(&look(&mut own, &truth(9), now)), [(6, 9, false)]);
    own.entry(&frame(7, 9, Some(&[0])), 23, &[], now);
    assert_eq!(own.due(now), None, "all of it has been told");
    own.entry(&frame(9, 10, Some(&[0])), 24, &[], now);
    // an entry that comes while it is looked
    let question = own.question(std::iter::empty(), now);
    own.entry(&frame(10, 11, Some(&[0])), 25, &[], now);
    assert_eq!(wholes(&own.answer(truth(10).seen(&question), now)), [(9, 10, true)]);
    assert_eq!(wholes(&look(&mut own, &truth(11), now)), [(10, 11, true)]);
    own.listen(8);
    let told = look(&mut own, &truth(11), now);
    assert!(matches!(&*told, [Tell::WholeTo(ids, 11, _)] if **ids == [8]), "{told:?}");
    own.leave(7);
    own.leave(8);
    assert!(own.is_idle());
}

#[test]
fn a_ranking_that_has_gone_back_is_told_once_and_followed_from_there() {
    let (mut own, now) = (Followed::new(0), Instant::now());
    let truth = |version| Truth { version, own: None };
    own.listen(7);
    look(&mut own, &truth(3), now);
    own.entry(&frame(3, 4, Some(&[0])), 20, &[], now);
    assert_eq!(wholes(&look(&mut own, &truth(1), now)), [(3, 1, false)], "the database was restored");
    assert_eq!(own.due(now), None, "and that is all there is");
    own.entry(&frame(1, 2, Some(&[0])), 21, &[], now);
    assert_eq!(wholes(&look(&mut own, &truth(2), now)), [(1, 2, true)]);
}

#[derive(Clone, Debug)]
enum Happens {
    /// The carrier's own proposal changes: which, and its rank then; None: it is withdrawn.
    Own(Option<(usize, usize)>),
    /// Another one does, and the carrier's has this rank then.
    Other(usize),
    /// The next entry comes.
    Entry,
    /// A look begins, or ends.
    Look,
    /// Time goes by, ms.
    Wait(u64),
    /// A look fails.
    Fail,
    /// Somebody else listens.
    Join,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (prop::option::weighted(0.8, (0usize..2, 1usize..9))).prop_map(Happens::Own),
        (1usize..9).prop_map(Happens::Other),
        (1usize..9).prop_map(Happens::Other),
        Just(Happens::Entry),
        Just(Happens::Entry),
        Just(Happens::Look),
        Just(Happens::Look),
        (1u64..700).prop_map(Happens::Wait),
        Just(Happens::Fail),
        Just(Happens::Join),
    ]
}

proptest! {
    /// Whatever happens in whatever order, in the end everybody has been told where the proposal stands and the
    /// whole ranking's version; and what others have moved was told at most once a second.
    #[test]
    fn in_the_end_everybody_knows(steps in prop::collection::vec(happens(), 1..60)) {
        let (mut own, mut now) = (Followed::new(0), Instant::now());
        let mut truth = Truth { version: 1, own: Some((0, 1, 1)) };
        let mut entries = std::collections::VecDeque::new();
        let mut asked: Option<(Question, Truth)> = None;
        let (mut told, mut listed, mut seq) = (None, 0, 0);
        let mut last: Option<(Instant, i64)> = None;
        own.ask(&carrier(), [Fresh::Session(1)]);
        own.listen(1);
        let quiet = std::iter::repeat_n([Happens::Entry, Happens::Look, Happens::Look, Happens::Wait(1000)], 80);
        for step in steps.into_iter().chain(quiet.flatten()) {
            match step {
                Happens::Own(place) => {
                    let moved: Vec<usize> = truth.own.iter().chain(&place.map(|(number, rank)| (number, 0, rank)))
                        .map(|(number, ..)| *number).collect();
                    let version = truth.version + 1;
                    entries.push_back((frame(truth.version, version, Some(&moved)), place.is_some()));
                    truth = Truth { version, own: place.map(|(number, rank)| (number, version, rank)) };
                }
                Happens::Other(rank) => {
                    let version = truth.version + 1;
                    entries.push_back((frame(truth.version, version, Some(&[8])), false));
                    truth.version = version;
                    truth.own = truth.own.map(|(number, changed_at, _)| (number, changed_at, rank));
                }
                Happens::Entry => {
                    if let Some((frame, has_come)) = entries.pop_front() {
                        seq += 1;
                        let come: Vec<_> = has_come.then(carrier).into_iter().collect();
                        own.entry(&frame, seq, &come, now);
                    }
                }
                Happens::Wait(ms) => now += Duration::from_millis(ms),
                Happens::Join => own.ask(&carrier(), [Fresh::Session(2)]),
                Happens::Fail => {
                    if let Some((question, _)) = asked.take() {
                        own.failed(&question, now);
                    }
                }
                Happens::Look => match asked.take() {
                    None => {
                        if own.due(now).is_some_and(|due| due <= now) {
                            asked = Some((own.question([carrier()].into_iter(), now), truth.clone()));
                        }
                    }
                    Some((question, then)) => {
                        for tell in own.answer(then.seen(&question), now) {
                            match tell {
                                Tell::Standing(_, place) => {
                                    let changed_at = place.standing.changed_at;
                                    let is_own = place.standing.rank.is_none()
                                        || last.is_none_or(|(_, own)| own != changed_at);
                                    prop_assert!(is_own || last.unwrap().0 + Duration::from_secs(1) <= now);
                                    last = Some((now, changed_at));
                                    told = place.standing.rank.map(|_| place.standing);
                                }
                                Tell::StandingTo(_, place) => prop_assert_eq!(Some(place.standing), then.standing()),
                                Tell::Whole(version, _) | Tell::WholeTo(_, version, _) => {
                                    prop_assert!(version >= listed, "never an older one");
                                    listed = version;
                                }
                            }
                        }
                    }
                },
            }
        }
        prop_assert_eq!(told, truth.standing());
        prop_assert_eq!(listed, truth.version);
        prop_assert_eq!(own.due(now), None);
    }
}
