//! Changes of a ranking that come in a hurry are told together.

use std::time::Instant;

use serde_json::{Value, json};

use super::watcher::Watcher;
use super::{draft, open_bid, proposal, ranking, step, submit};
use crate::support::client::with_seq;
use crate::support::{Server, ServerOptions, Sse, on_both_backends};

on_both_backends! {
    changes_in_a_hurry_are_told_together_and_say_what_each_has_moved,
    each_change_is_told_by_itself_where_that_is_wanted,
    what_is_said_of_a_bid_comes_after_what_was_said_of_its_ranking,
    what_waits_for_others_is_published_before_a_server_ends,
}

fn server(frame_ms: u64) -> Server {
    let options = ServerOptions::default().set("ranking.frame_ms", frame_ms).set("ranking.window", 3);
    Server::with(options.unlimited())
}

async fn frames_up_to(stream: &mut Sse, version: i64) -> Vec<Value> {
    let mut frames: Vec<Value> = Vec::new();
    while frames.last().is_none_or(|last| last["version"] != version) {
        frames.push(stream.take(1).await.remove(0).data["data"].clone());
    }
    frames
}

async fn changes_in_a_hurry_are_told_together_and_say_what_each_has_moved() {
    let server = server(200);
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    let mut stream = api.listen("ranking:B", None).await;
    stream.ready().await;
    let started = Instant::now();
    submit(&api, &bid, &proposal("P-0", 1)).await;
    // the first comes at once
    let mut frames = frames_up_to(&mut stream, 1).await;
    for number in 1..30 {
        submit(&api, &bid, &proposal(&format!("P-{number}"), 1 + (number * 7) % 30)).await;
    }
    frames.extend(frames_up_to(&mut stream, 30).await);
    // one at most in each 200 ms, beside the first
    let most = 2 + started.elapsed().as_millis() / 200;
    assert!((frames.len() as u128) <= most && frames.len() < 30, "{} of at most {most}", frames.len());
    let mut watcher = Watcher::default();
    for frame in &frames {
        assert_eq!(frame["from_version"], watcher.version(), "each goes on where the last one ended");
        watcher.take(frame);
    }
    assert_eq!(watcher.applied, frames.len());
    let all = ranking(&api, &bid, "").await;
    let fields = |row: &Value| (row["proposal_id"].clone(), row["price"].clone(), row["carrier_id"].clone());
    let rows = all["ranked_proposals"].as_array().expect("rows");
    assert_eq!(
        watcher.rows().iter().map(fields).collect::<Vec<_>>(),
        rows.iter().map(fields).collect::<Vec<_>>()
    );
    // and whoever comes later finds the same in the log
    let (again, position) = (frames.len(), all["position"].as_str().expect("a position"));
    let mut replay = api.listen("ranking:B", Some(&with_seq(position, 0))).await;
    replay.ready().await;
    assert_eq!(frames_up_to(&mut replay, 30).await.len(), again);
}

async fn each_change_is_told_by_itself_where_that_is_wanted() {
    let server = server(0);
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    let mut stream = api.listen("ranking:B", None).await;
    stream.ready().await;
    for number in 0..5 {
        submit(&api, &bid, &proposal(&format!("P-{number}"), 10)).await;
    }
    assert_eq!(frames_up_to(&mut stream, 5).await.len(), 5);
}

async fn what_is_said_of_a_bid_comes_after_what_was_said_of_its_ranking() {
    // nothing is told within the time of this test but for a reason
    let server = server(10_000);
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    let mut stream = api.listen("ranking:B,bid:B", None).await;
    stream.ready().await;
    submit(&api, &bid, &proposal("P-0", 10)).await;
    frames_up_to(&mut stream, 1).await;
    for number in 1..4 {
        submit(&api, &bid, &proposal(&format!("P-{number}"), 10)).await;
    }
    let started = Instant::now();
    step(&api, &bid, "close").await;
    let told: Vec<_> = stream.take(2).await.iter().map(|own| own.data["data"].clone()).collect();
    assert!(started.elapsed().as_secs() < 9, "it does not wait for its time");
    assert_eq!((&told[0]["from_version"], &told[0]["version"]), (&json!(1), &json!(4)));
    assert_eq!(told[1]["new_status"], "closed");
}

async fn what_waits_for_others_is_published_before_a_server_ends() {
    let mut server = server(10_000);
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    let mut stream = api.listen("ranking:B", None).await;
    stream.ready().await;
    submit(&api, &bid, &proposal("P-0", 10)).await;
    frames_up_to(&mut stream, 1).await;
    for number in 1..3 {
        submit(&api, &bid, &proposal(&format!("P-{number}"), 10)).await;
    }
    for node in 0..server.count() {
        server.signal_node(node, "TERM");
    }
    for node in 0..server.count() {
        server.node_ended(node).await;
    }
    for node in 0..server.count() {
        server.start_node(node);
    }
    let api = server.api();
    let position = api.get("/v2/bids/B").await.expect(200)["position"].as_str().expect("one").to_owned();
    let mut stream = api.listen("ranking:B", Some(&with_seq(&position, 0))).await;
    let replayed = stream.replayed().await;
    let versions: Vec<_> = replayed[1..].iter().map(|own| own.data["data"]["version"].clone()).collect();
    assert_eq!(versions, [json!(1), json!(3)]);
}
