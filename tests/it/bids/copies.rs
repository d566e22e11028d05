//! What a node computes from its copies of rankings, whole rankings and places, over faults of what it copies them from.

use serde_json::{Value, json};

use super::{SECRET, draft, ids, offer, open_bid, proposal, revise, submit, user_with};
use crate::support::{Api, Postgres, Redis, Server, ServerOptions, Sse, eventually, from_now};

/// Lee, who speaks for these carriers.
async fn lee(server: &Server, carriers: &[&str]) -> Sse {
    let claims = json!({"sub": "lee", "roles": ["carrier"], "carriers": carriers, "exp": from_now(600)});
    let mut own = user_with(server, claims).at(0).listen("user:lee", None).await;
    own.ready().await;
    own
}

/// Lee, who speaks for the carrier of P-1, and an old client.
async fn listen(server: &Server) -> (Sse, Sse) {
    let own = lee(server, &["carrier-P-1"]).await;
    let path = "/v2/realtime/proposal-ranking-updates?bid_id=B";
    let mut whole = server.api().at(0).stream(path, None).await;
    whole.ready().await;
    (own, whole)
}

/// A bid with P-1 before P-2.
async fn bid_of_two(api: &Api) {
    open_bid(api, &draft("B")).await;
    submit(api, "B", &proposal("P-1", 10)).await;
    submit(api, "B", &proposal("P-2", 20)).await;
}

/// The rank of P-1 that is told next, over whatever else is.
async fn next_rank(stream: &mut Sse) -> Value {
    loop {
        let event = stream.next().await.expect("the stream stays open");
        if event.event == "my_proposal_rank" {
            assert_eq!(event.data["data"]["proposal_id"], "P-1");
            return event.data["data"]["rank"].clone();
        }
    }
}

/// Whole rankings up to the one of this version, over whatever else is said.
async fn whole_at(stream: &mut Sse, version: i64) -> Vec<String> {
    loop {
        let event = stream.next().await.expect("the stream stays open");
        if event.event == "proposal_ranking_updated" && event.data["version"] == version {
            return ids(&event.data);
        }
    }
}

#[tokio::test]
async fn copies_of_rankings_outlive_a_redis_that_comes_back_empty() {
    let mut redis = Redis::start().await;
    let options = ServerOptions::default().cluster(2).unlimited().env("JWT_SECRET", SECRET);
    let server = Server::with(options.env("REDIS_URL", redis.url()));
    let api = server.api();
    bid_of_two(&api).await;
    let (mut own, mut whole) = listen(&server).await;
    assert_eq!(next_rank(&mut own).await, 1);
    assert_eq!(whole_at(&mut whole, 2).await, ["P-1", "P-2"]);
    redis.kill();
    // the log says nothing of this until it is back
    revise(&api.at(1), "B", "P-2", &offer(1)).await;
    redis.restart().await;
    assert_eq!(next_rank(&mut own).await, 2);
    assert_eq!(whole_at(&mut whole, 3).await, ["P-2", "P-1"]);
    // and in the new run they go on
    revise(&api.at(1), "B", "P-1", &offer(0.5)).await;
    assert_eq!(next_rank(&mut own).await, 1);
    assert_eq!(whole_at(&mut whole, 4).await, ["P-1", "P-2"]);
}

#[tokio::test]
async fn who_begins_to_listen_while_postgres_is_away_is_told_where_it_stands_once_it_is_back() {
    let mut postgres = Postgres::start();
    let options = ServerOptions::default().on_postgres(&postgres.url()).unlimited().env("JWT_SECRET", SECRET);
    let server = Server::with(options);
    let api = server.api();
    bid_of_two(&api).await;
    let (mut first, _whole) = listen(&server).await;
    assert_eq!(next_rank(&mut first).await, 1);
    postgres.kill();
    eventually("readiness to be gone", async || (api.get("/ready").await.status == 503).then_some(())).await;
    let (mut own, mut whole) = listen(&server).await;
    postgres.restart();
    assert_eq!(next_rank(&mut own).await, 1);
    assert_eq!(whole_at(&mut whole, 2).await, ["P-1", "P-2"]);
    revise(&api, "B", "P-2", &offer(1)).await;
    assert_eq!(next_rank(&mut own).await, 2);
    assert_eq!(whole_at(&mut whole, 3).await, ["P-2", "P-1"]);
}

#[tokio::test]
async fn a_carrier_that_takes_part_in_very_many_bids_leaves_no_other_one_out() {
    let postgres = Postgres::start();
    let options = ServerOptions::default().on_postgres(&postgres.url()).unlimited().env("JWT_SECRET", SECRET);
    let server = Server::with(options);
    bid_of_two(&server.api()).await;
    // more than one look at the database takes, all of them newer than what the other one has
    let copies = "generate_series(1, 20001) n WHERE";
    postgres.sql(&format!(
        "INSERT INTO bids SELECT (jsonb_populate_record(b, jsonb_build_object('bid_id', 'X' || n))).* \
         FROM bids b, {copies} b.bid_id = 'B'; \
         INSERT INTO proposals SELECT (jsonb_populate_record(p, jsonb_build_object( \
             'bid_id', 'X' || n, 'updated_us', p.updated_us + 1000000000 + n))).* \
         FROM proposals p, {copies} p.bid_id = 'B' AND p.proposal_id = 'P-1'"
    ));
    let mut stream = lee(&server, &["carrier-P-1", "carrier-P-2"]).await;
    let (mut newest, mut other) = (false, false);
    while !(newest && other) {
        let told = stream.take(1).await.remove(0).data["data"].clone();
        newest |= told["bid_id"] == "X20001" && told["proposal_id"] == "P-1";
        other |= told["bid_id"] == "B" && told["proposal_id"] == "P-2" && told["rank"] == 2;
    }
}
