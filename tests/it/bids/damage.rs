//! A database that has changed behind the server's back: restored, or damaged.

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;

use super::{draft, ids, open_bid, proposal, proposals, ranking, server, soon, submit, with};
use crate::support::{Client, Server, ServerOptions};

fn alter(server: &Server, statements: &str) {
    let path = server.data_dir().join("bongsu.db");
    let mut database = SqliteConnection::establish(&path.to_string_lossy()).expect("the database opens");
    database.batch_execute("PRAGMA busy_timeout = 10000").expect("patient");
    database.batch_execute(statements).expect("altered");
}

#[tokio::test]
async fn what_a_restored_database_no_longer_has_is_ranked_no_more() {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    for (id, price) in [("P-1", 10), ("P-2", 5), ("P-3", 7)] {
        submit(&api, &bid, &proposal(id, price)).await;
    }
    alter(&server, "DELETE FROM proposals WHERE proposal_id <> 'P-1'; UPDATE bids SET ranking_version = 1");
    let shown = ranking(&api, &bid, "").await;
    assert_eq!((ids(&shown), &shown["version"]), (vec!["P-1".to_owned()], &json!(1)));
    let answer = submit(&api, &bid, &proposal("P-4", 20)).await;
    assert_eq!((&answer["rank"], &answer["version"]), (&json!(2), &json!(2)));
    alter(&server, "DELETE FROM proposals WHERE proposal_id = 'P-4'; UPDATE bids SET ranking_version = 1");
    let answer = submit(&api, &bid, &proposal("P-5", 1)).await;
    assert_eq!((&answer["rank"], &answer["total"], &answer["version"]), (&json!(1), &json!(2), &json!(2)));
}

#[tokio::test]
async fn a_damaged_bid_holds_up_no_other() {
    let server = server();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "bid:B", None).await;
    for (bid, opens_ms) in [("A", 600), ("B", 900)] {
        api.post("/v2/bids", &with(draft(bid), json!({"opens_at": soon(opens_ms)}))).await.expect(201);
    }
    alter(&server, "UPDATE bids SET criteria = '[]' WHERE bid_id = 'A'");
    assert_eq!(client.event().await.data["new_status"], "open");
    assert_eq!(api.get("/v2/bids/A").await.problem(500), "internal");
    assert!(server.stderr().contains("neither be opened nor closed"));
}

#[tokio::test]
async fn however_many_bids_are_damaged_the_others_open_and_close_in_time() {
    let server = server();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "bid:B", None).await;
    api.post("/v2/bids", &with(draft("D"), json!({"opens_at": soon(3_600_000)}))).await.expect(201);
    // more than one page of the timetable, some due at the same moment, all before the good one
    let mut statements = String::from(
        "BEGIN IMMEDIATE; CREATE TEMP TABLE damaged AS SELECT * FROM bids; UPDATE damaged SET criteria = '[]';",
    );
    for number in 0..450 {
        let due_us = number / 300;
        statements += &format!(
            "UPDATE damaged SET bid_id = 'D-{number}', due_us = {due_us}; INSERT INTO bids SELECT * FROM damaged;"
        );
    }
    alter(&server, &format!("{statements} COMMIT"));
    let times = json!({"opens_at": soon(600), "closes_at": soon(1200)});
    api.post("/v2/bids", &with(draft("B"), times)).await.expect(201);
    assert_eq!(client.event().await.data["new_status"], "open");
    assert_eq!(client.event().await.data["new_status"], "closed");
    let said = server.stderr();
    let complaints = said.lines().filter(|line| line.contains("neither be opened nor closed"));
    assert_eq!(complaints.count(), 450, "one of each, and not again at once");
}

#[tokio::test]
async fn more_than_may_wait_for_one_bid_are_turned_away_and_the_others_carried_out() {
    let server =
        Server::with(ServerOptions::default().set("ranking.queue", 3).set("storage.wait_ms", 20_000));
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    submit(&api, &bid, &proposal("P", 1)).await;
    let path = server.data_dir().join("bongsu.db");
    let mut other = SqliteConnection::establish(&path.to_string_lossy()).expect("the database opens");
    other.batch_execute("PRAGMA busy_timeout = 10000; BEGIN IMMEDIATE").expect("locked");
    let mut asked: FuturesUnordered<_> = (0..8)
        .map(|number| {
            let (api, path) = (server.api(), proposals(&bid));
            async move { api.post(&path, &proposal(&format!("P-{number}"), 1)).await }
        })
        .collect();
    for _ in 0..5 {
        let turned_away = asked.next().await.expect("an answer");
        assert!(turned_away.headers.contains_key("retry-after"));
        assert_eq!(turned_away.problem(503), "store_unavailable");
    }
    other.batch_execute("COMMIT").expect("unlocked");
    while let Some(answer) = asked.next().await {
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
    assert_eq!(ranking(&api, &bid, "").await["version"], 4);
}

#[tokio::test]
async fn a_bid_that_is_not_there_takes_no_memory() {
    let server = server();
    let api = server.api();
    for number in 0..10 {
        let bid = format!("B-{number}");
        assert_eq!(api.get(&format!("/v2/bids/{bid}/ranking")).await.problem(404), "no_such_bid");
        assert_eq!(api.post(&proposals(&bid), &proposal("P", 1)).await.problem(404), "no_such_bid");
    }
    assert_eq!(server.operator().metric("bongsu_ranking_actors").await, 0.0);
}
