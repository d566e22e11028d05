//! What a viewer may not see never reaches it, on any way.

use serde_json::{Value, json};

use super::{
    draft, open_bid, proposal, proposals, ranking, revise, server, step, submit, user, user_with, with,
    withdraw,
};
use crate::support::{Api, Server, Sse, Ws, from_now, on_both_backends};

on_both_backends! {
    carriers_of_an_anonymous_bid_have_the_same_pseudonyms_everywhere,
    of_a_sealed_bid_others_learn_nothing,
}

// where others may not see them, ids are UUIDs
const ONE: &str = "0f1e2d3c-0000-4000-8000-000000000001";
const TWO: &str = "0f1e2d3c-0000-4000-8000-000000000002";
const THREE: &str = "0f1e2d3c-0000-4000-8000-000000000003";
const NONE: &str = "0f1e2d3c-0000-4000-8000-000000000007";

/// A proposal of the carrier of this number.
fn proposal_of(number: usize, price: u64) -> Value {
    let id = [ONE, TWO, THREE][number - 1];
    with(proposal(id, price), json!({"carrier_id": format!("carrier-P-{number}")}))
}

/// Everything that somebody was told, as text.
#[derive(Default)]
struct Told(String);

impl Told {
    fn hear(&mut self, own: impl std::fmt::Display) {
        self.0 += &own.to_string();
        self.0.push('\n');
    }

    fn knows_nothing_of(&self, words: &[&str]) {
        for word in words {
            assert!(!self.0.contains(word), "{word} in {}", self.0);
        }
    }
}

/// Hears everything up to the bid's award: live over SSE, replayed from `since`, and over WebSocket.
async fn eavesdrop(api: &Api, topics: &str, since: &str, told: &mut Told) {
    let mut replay =
        Sse::open(api.request("GET", &format!("/v2/realtime/stream?topics={topics}&cursor={since}"))).await;
    until_awarded(&mut replay, told).await;
    let credentials = api.credentials();
    let headers: Vec<_> = credentials.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let path = format!("/v2/realtime/ws?topics={topics}&cursor={since}");
    let mut ws = Ws::try_open(api.address(), &path, &headers).await.expect("open");
    loop {
        let frame = ws.next().await.expect("a frame");
        told.hear(&frame);
        if frame["data"]["new_status"] == "awarded" {
            return;
        }
    }
}

async fn until_awarded(stream: &mut Sse, told: &mut Told) {
    while let Some(event) = stream.next().await {
        told.hear(format!("{event:?}"));
        if event.data["data"]["new_status"] == "awarded" {
            return;
        }
    }
    panic!("the stream has ended: {}", told.0);
}

/// A user who speaks for the first carrier.
fn for_the_first(server: &Server) -> Api {
    let claims =
        json!({"sub": "kim", "roles": ["carrier"], "carriers": ["carrier-P-1"], "exp": from_now(600)});
    user_with(server, claims)
}

/// A bid with two carriers and a few changes, up to its award.
async fn played(server: &Server, bid: &str, visibility: &str) -> (Value, Value) {
    let (api, owner) = (server.api(), user(server, "owner-1", &["shipper"]));
    open_bid(&owner, &with(draft(bid), json!({"visibility": visibility}))).await;
    let one = submit(&user(server, "carrier-P-1", &["carrier"]), bid, &proposal_of(1, 10)).await;
    let two = submit(&user(server, "carrier-P-2", &["carrier"]), bid, &proposal_of(2, 20)).await;
    submit(&api, bid, &proposal_of(3, 15)).await;
    revise(&api, bid, TWO, &super::offer(5)).await;
    withdraw(&api, bid, THREE).await;
    (one, two)
}

async fn carriers_of_an_anonymous_bid_have_the_same_pseudonyms_everywhere() {
    let server = server();
    let (api, owner) = (server.api(), user(&server, "owner-1", &["shipper"]));
    let watcher = for_the_first(&server);
    let since = api.publish("topic:a", "note", json!(0)).await;
    let (one, two) = played(&server, "B", "anonymous").await;
    let mut told = Told::default();
    // itself it knows
    let own = &one["pseudonym"];
    assert_eq!((&one["proposal_id"], &one["carrier_id"]), (&json!(ONE), &json!("carrier-P-1")));
    let shown = ranking(&watcher, "B", "").await;
    told.hear(&shown);
    let rows = shown["ranked_proposals"].as_array().expect("rows");
    let names = |row: &Value| (row["proposal_id"].clone(), row["carrier_id"].clone(), row["price"].clone());
    let pseudonym =
        |own: &Value, price: i64| (own["proposal_id"].clone(), own["carrier_id"].clone(), json!(price));
    assert_eq!(
        rows.iter().map(names).collect::<Vec<_>>(),
        [pseudonym(&two["pseudonym"], 5), pseudonym(own, 10)]
    );
    let around = ranking(&watcher, "B", &format!("?around={ONE}&limit=1")).await;
    assert_eq!(names(&around["ranked_proposals"][0]), pseudonym(own, 10), "its own place by its own name");
    told.hear(&around);
    let others = watcher.get(&format!("/v2/bids/B/ranking?around={TWO}")).await;
    told.hear(&others.text);
    assert_eq!(others.problem(404), "no_such_proposal");
    step(&owner, "B", "close").await;
    owner.post("/v2/bids/B/award", &json!({"proposal_id": TWO})).await.expect(200);
    let seen = watcher.get("/v2/bids/B").await.expect(200);
    assert_eq!(seen["awarded_proposal_id"], two["pseudonym"]["proposal_id"]);
    told.hear(&seen);
    told.hear(watcher.get("/v2/bids").await.expect(200));
    eavesdrop(&watcher, "bid:B,ranking:B", &since, &mut told).await;
    assert!(told.0.contains(two["pseudonym"]["proposal_id"].as_str().expect("an id")));
    assert!(told.0.contains(own["carrier_id"].as_str().expect("an id")));
    told.knows_nothing_of(&[ONE, TWO, THREE, "carrier-P"]);
    // the owner sees who it is, and so does a service that manages
    for api in [&owner, &api] {
        let shown = ranking(api, "B", "").await;
        assert_eq!(super::ids(&shown), [TWO, ONE]);
        assert_eq!(api.get("/v2/bids/B").await.expect(200)["awarded_proposal_id"], TWO);
    }
}

async fn of_a_sealed_bid_others_learn_nothing() {
    let server = server();
    let (api, owner) = (server.api(), user(&server, "owner-1", &["shipper"]));
    let watcher = for_the_first(&server);
    let since = api.publish("topic:a", "note", json!(0)).await;
    let (one, _) = played(&server, "B", "sealed").await;
    assert_eq!((&one["rank"], &one["total"]), (&json!(1), &json!(1)), "how its own proposal stands");
    let mut told = Told::default();
    let around = [ONE, TWO].map(|id| format!("?around={id}"));
    for query in ["", &around[0], &around[1], "?offset=1"] {
        let answer = watcher.get(&format!("/v2/bids/B/ranking{query}")).await;
        told.hear(&answer.text);
        assert_eq!(answer.problem(403), "sealed");
    }
    for answer in [
        watcher.delete(&format!("{}/{TWO}", proposals("B"))).await,
        watcher.delete(&format!("{}/{NONE}", proposals("B"))).await,
    ] {
        told.hear(&answer.text);
        assert_eq!(answer.problem(404), "no_such_proposal");
    }
    step(&owner, "B", "close").await;
    owner.post("/v2/bids/B/award", &json!({"proposal_id": TWO})).await.expect(200);
    let seen = watcher.get("/v2/bids/B").await.expect(200);
    assert_eq!((&seen["awarded_proposal_id"], &seen["ranking_version"]), (&Value::Null, &Value::Null));
    told.hear(&seen);
    for topics in ["ranking:B", "bid:B,ranking:B"] {
        let answer = watcher.get(&format!("/v2/realtime/stream?topics={topics}")).await;
        told.hear(&answer.text);
        assert_eq!(answer.problem(403), "forbidden_topics");
    }
    eavesdrop(&watcher, "bid:B", &since, &mut told).await;
    told.knows_nothing_of(&[ONE, TWO, THREE, "carrier-P", "\"price\":5", "\"price\":10"]);
    assert_eq!(super::ids(&ranking(&owner, "B", "").await), [TWO, ONE]);
    let mut heard = Told::default();
    eavesdrop(&owner, "bid:B,ranking:B", &since, &mut heard).await;
    assert!(heard.0.contains("carrier-P-1") && heard.0.contains("proposal_ranking_updated"), "{}", heard.0);
}
