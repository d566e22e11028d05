//! Whole rankings, for clients of the systems that took no moves.

use serde_json::{Value, json};

use super::watcher::Watcher;
use super::{SECRET, draft, ids, offer, open_bid, proposal, ranking, revise, submit, user, with, withdraw};
use crate::support::{Api, Server, ServerOptions, Sse, on_both_backends};

on_both_backends! {
    an_old_client_is_given_the_whole_ranking_at_once_and_at_every_change,
    a_ranking_that_is_too_long_is_given_by_its_window,
    an_old_client_sees_no_more_than_it_may,
    old_clients_of_every_node_hold_what_is_stored_in_the_end,
}

fn server(full_max: usize) -> Server {
    let options = ServerOptions::default().set("ranking.window", 2).set("ranking.full_max", full_max);
    Server::with(options.env("JWT_SECRET", SECRET).unlimited())
}

async fn listen(api: &Api, bid: &str, cursor: Option<&str>) -> Sse {
    let path = format!("/v2/realtime/proposal-ranking-updates?bid_id={bid}");
    let mut stream = api.stream(&path, cursor).await;
    stream.ready().await;
    stream
}

async fn frame(stream: &mut Sse) -> Value {
    let event = stream.take(1).await.remove(0);
    assert_eq!(event.event, "proposal_ranking_updated");
    event.data
}

/// Frames up to the one of this version.
async fn reaches(stream: &mut Sse, version: i64) -> Value {
    loop {
        let frame = frame(stream).await;
        if frame["version"] == version {
            return frame;
        }
    }
}

async fn an_old_client_is_given_the_whole_ranking_at_once_and_at_every_change() {
    let server = server(100);
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    for number in 0..5 {
        submit(&api, &bid, &proposal(&format!("P-{number}"), 10 + number)).await;
    }
    let mut stream = listen(&api, &bid, None).await;
    let first = frame(&mut stream).await;
    assert_eq!(ids(&first), ["P-0", "P-1", "P-2", "P-3", "P-4"]);
    assert_eq!((&first["version"], &first["total"]), (&json!(5), &json!(5)));
    assert!(first["truncated"].is_null() && first["timestamp"].is_string(), "{first}");
    let stored = ranking(&api, &bid, "").await;
    assert_eq!(first["ranked_proposals"], stored["ranked_proposals"]);
    let mut watcher = Watcher::default();
    watcher.take(&first);
    revise(&api, &bid, "P-4", &offer(1)).await;
    let next = reaches(&mut stream, 6).await;
    assert_eq!(ids(&next), ["P-4", "P-0", "P-1", "P-2", "P-3"]);
    assert_eq!(next["ranked_proposals"][0]["previous_rank"], 5);
    assert_eq!(next["ranked_proposals"][1]["previous_rank"], 1);
    watcher.take(&next);
    withdraw(&api, &bid, "P-0").await;
    let last = reaches(&mut stream, 7).await;
    watcher.take(&last);
    assert_eq!(ids(&last), ["P-4", "P-1", "P-2", "P-3"]);
    assert_eq!(watcher.rows().len(), 4);
    // who comes again is given what is now, once, and nothing of what was
    let cursor = stream.cursor.clone().expect("ready has an id");
    let mut again = listen(&api, &bid, Some(&cursor)).await;
    assert_eq!(frame(&mut again).await["version"], 7);
    submit(&api, &bid, &proposal("P-9", 50)).await;
    assert_eq!(frame(&mut again).await["version"], 8);
    // others are given the window, as before
    let mut stream = api.listen("ranking:B", None).await;
    stream.ready().await;
    submit(&api, &bid, &proposal("P-8", 60)).await;
    assert_eq!(ids(&stream.take(1).await[0].data["data"]), ["P-4", "P-1"]);
}

async fn a_ranking_that_is_too_long_is_given_by_its_window() {
    let server = server(3);
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    for number in 0..3 {
        submit(&api, &bid, &proposal(&format!("P-{number}"), 10 + number)).await;
    }
    let mut stream = listen(&api, &bid, None).await;
    assert_eq!(ids(&frame(&mut stream).await).len(), 3);
    submit(&api, &bid, &proposal("P-3", 20)).await;
    let cut = reaches(&mut stream, 4).await;
    assert_eq!(ids(&cut), ["P-0", "P-1"]);
    assert_eq!((&cut["total"], &cut["truncated"]), (&json!(4), &json!(true)));
    withdraw(&api, &bid, "P-0").await;
    let whole = reaches(&mut stream, 5).await;
    assert_eq!((ids(&whole).len(), &whole["truncated"]), (3, &Value::Null));
}

async fn an_old_client_sees_no_more_than_it_may() {
    let server = server(100);
    let (owner, lee) = (user(&server, "owner", &["shipper"]), user(&server, "lee", &["carrier"]));
    let hidden = with(draft("A"), json!({"visibility": "anonymous"}));
    let bid = open_bid(&owner, &hidden).await;
    let id = |number: u64| format!("{number}a0dfc6e-7e6f-4bd7-8f4d-6a5c1f0e2b3c");
    for number in 0..4 {
        submit(&server.api(), &bid, &proposal(&id(number), 10 + number)).await;
    }
    let (mut full, mut public) = (listen(&owner, &bid, None).await, listen(&lee, &bid, None).await);
    let seen = frame(&mut full).await;
    assert_eq!(ids(&seen), [0, 1, 2, 3].map(id));
    let told = frame(&mut public).await;
    assert_eq!(ids(&told).len(), 4);
    revise(&server.api(), &bid, &id(3), &offer(1)).await;
    let told = format!("{told}{}", reaches(&mut public, 5).await);
    assert!(!told.contains("a0dfc6e") && !told.contains("carrier-"), "{told}");
    assert_eq!(ids(&reaches(&mut full, 5).await)[0], id(3));
    open_bid(&owner, &with(draft("S"), json!({"visibility": "sealed"}))).await;
    let path = "/v2/realtime/proposal-ranking-updates?bid_id=S";
    assert_eq!(lee.get(path).await.problem(403), "forbidden_topics");
    submit(&server.api(), "S", &proposal(&id(0), 1)).await;
    assert_eq!(reaches(&mut listen(&owner, "S", None).await, 1).await["total"], 1);
}

async fn old_clients_of_every_node_hold_what_is_stored_in_the_end() {
    let server = server(100);
    let nodes = server.api().everywhere();
    let bid = open_bid(&nodes[0], &draft("B")).await;
    let mut streams = Vec::new();
    for api in &nodes {
        streams.push((listen(api, &bid, None).await, Watcher::default()));
    }
    let changes = (0..40).map(|number| {
        let (api, bid) = (&nodes[number % nodes.len()], bid.clone());
        async move { submit(api, &bid, &proposal(&format!("P-{number}"), 1 + (number * 7) % 40)).await }
    });
    futures_util::future::join_all(changes).await;
    let stored = ranking(&nodes[0], &bid, "").await;
    for (stream, watcher) in &mut streams {
        while watcher.version() < 40 {
            watcher.take(&frame(stream).await);
        }
        let rows: Vec<_> = watcher.rows().iter().map(|row| row["proposal_id"].clone()).collect();
        assert_eq!(rows, ids(&stored));
    }
}
