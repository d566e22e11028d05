use std::sync::Arc;
use std::time::{Duration, Instant};

use super::desk::Listener;
use super::listening::Listening;
use crate::domain::{Class, Epoch, EventName, Position, Timestamp, Topic};
use crate::wire::{Content, Event, EventParts};

fn at(seq: u64) -> Position {
    Position { epoch: Epoch::new(1), seq }
}

fn listener(carriers: &[&str], whole: &[&str]) -> Listener {
    let texts = |own: &[&str]| own.iter().map(|own| Arc::from(*own)).collect();
    let topic = Topic::parse("user:kim").unwrap();
    let user = (!carriers.is_empty()).then(|| (topic, texts(carriers)));
    Listener { user, whole: texts(whole), is_poll: false }
}

fn event(seq: u64, topic: &str, name: &str, data: &str) -> Event {
    Event::new(EventParts {
        position: Some(at(seq)),
        topic: Topic::parse(topic).unwrap(),
        name: EventName::trusted(name),
        class: Class::Latest,
        key: None,
        version: Some(1),
        at: Timestamp::from_micros(0),
        expires_at: None,
        full: Content::new(data),
        public: None,
    })
}

/// A proposal of this carrier that has become the first of a bid.
fn come(seq: u64, bid: &str, carrier: &str) -> Event {
    let row = format!(
        r#"{{"proposal_id":"p","carrier_id":"{carrier}","rank":1,"previous_rank":null,"score":1,"price":1,"ei":1,"lead_time_hours":1}}"#
    );
    let moves = r#"[{"proposal_id":"p","from":null,"to":1}]"#;
    let data = format!(
        r#"{{"bid_id":"{bid}","version":1,"from_version":0,"total":1,"ranked_proposals":[{row}],"moves":{moves},"timestamp":"t"}}"#
    );
    event(seq, &format!("ranking:{bid}"), "proposal_ranking_updated", &data)
}

fn names(own: &Listening, carrier: &str) -> Vec<u64> {
    own.carriers.listeners(carrier).collect()
}

#[test]
fn a_session_leaves_what_it_no_longer_hears() {
    let (mut own, now) = (Listening::new(at(0)), Instant::now());
    own.listens(1, listener(&["a", "b"], &["x", "y"]), true, now);
    own.listens(2, listener(&["a"], &["x"]), true, now);
    assert_eq!((names(&own, "a").len(), names(&own, "b"), own.bids.len()), (2, vec![1], 2));
    // afresh or not, as after a token that states other carriers while it was catching up
    own.listens(1, listener(&["b"], &["y"]), true, now);
    assert_eq!((names(&own, "a"), names(&own, "b")), (vec![2], vec![1]));
    own.left(1, now);
    own.left(2, now);
    assert!(names(&own, "a").is_empty() && names(&own, "b").is_empty());
    own.let_go(now + Duration::from_secs(59));
    assert!(!own.is_idle(), "its clients may come again");
    own.let_go(now + Duration::from_secs(60));
    assert!(own.is_idle());
}

#[test]
fn carriers_are_looked_up_once_and_again_when_something_was_missed() {
    let (mut own, now) = (Listening::new(at(0)), Instant::now());
    own.listens(1, listener(&["a"], &[]), true, now);
    own.listens(2, listener(&["a"], &[]), true, now);
    let asked = own.carriers.take_unknown(9);
    assert_eq!(asked, [Arc::from("a")]);
    assert_eq!(own.looked_up(asked, vec![("a".into(), "x".into())]), ["x".into()].into());
    assert!(own.carriers.take_unknown(9).is_empty());
    // who comes now is told of what is known
    assert_eq!(own.listens(3, listener(&["a"], &[]), true, now), ["x".into()].into());
    assert!(own.listens(3, listener(&["a"], &[]), false, now).is_empty(), "it has been told");
    assert_eq!(own.missed(at(9), now), ["x".into()].into());
    assert_eq!(own.carriers.take_unknown(9), [Arc::from("a")]);
}

#[test]
fn an_entry_concerns_those_who_listen_for_the_bid_or_for_a_carrier_in_it() {
    let (mut own, now) = (Listening::new(at(0)), Instant::now());
    assert_eq!(own.entry(&come(1, "x", "a"), now), None);
    own.listens(1, listener(&["a"], &["y"]), true, now);
    assert_eq!(own.entry(&come(2, "x", "b"), now), None, "of a carrier that nobody listens for");
    assert_eq!(own.entry(&come(3, "x", "a"), now), Some("x".into()));
    assert_eq!(own.entry(&come(4, "y", "b"), now), Some("y".into()), "whoever is in it");
    assert_eq!(own.entry(&event(5, "ranking:x", "proposal_ranking_updated", "{\"rows\":[]}"), now), None);
    assert_eq!(own.entry(&event(6, "topic:x", "note", "{}"), now), None);
    assert_eq!(own.seen, at(6));
    assert!(own.bids["x"].has("a"));
    let over = r#"{"new_status":"awarded"}"#;
    own.entry(&event(7, "bid:x", "bid_status_changed", over), now);
    assert!(!own.bids["x"].has("a"));
    own.let_go(now);
    assert!(!own.bids.contains_key("x"));
}
