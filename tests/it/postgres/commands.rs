//! A command is carried out once, whichever node is asked and whatever is cut.

use serde_json::json;

use crate::support::postgres::sql;
use crate::support::{Answer, Api, Holding, Postgres, Proxy, Server, ServerOptions, When, eventually};

async fn update(api: &Api, fleet: &str, ei: u64, key: Option<&str>) -> Answer {
    let request = api.request("POST", "/v2/fleet/ei-update").json(&json!({"fleet_id": fleet, "new_ei": ei}));
    let request = key.into_iter().fold(request, |request, key| request.header("Idempotency-Key", key));
    Api::send(request).await.expect("an answer")
}

async fn version(api: &Api, fleet: &str) -> u64 {
    let answer = api.get(&format!("/v2/fleets/{fleet}")).await;
    answer.expect(200)["version"].as_u64().expect("a number")
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_settled_by_what_is_stored() {
    let postgres = Postgres::start();
    let proxy = Proxy::to(postgres.address()).await;
    let url = proxy.url(&postgres.url(), postgres.address());
    let server = Server::with(ServerOptions::default().on_postgres(&url));
    let api = server.api();
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    for (number, when) in [(1, When::Asked), (2, When::COMMITTED)] {
        let mut cut = proxy.cut_at(&["FLT-A01", "COMMIT"], when);
        let key = format!("key-{number}");
        let first = update(&api, "FLT-A01", number, Some(&key)).await.expect(200);
        cut.done().await;
        assert_eq!((&first["version"], version(&api, "FLT-A01").await), (&json!(number), number), "{when:?}");
        assert_eq!(update(&api, "FLT-A01", number, Some(&key)).await.expect(200), first);
        assert_eq!(stream.expect("ei_updated").await.data["data"]["version"], number);
    }
    // without a key nobody can tell whether a repetition would be the second one
    for (when, stored) in [(When::Asked, 2), (When::COMMITTED, 3)] {
        let mut cut = proxy.cut_at(&["FLT-A01", "COMMIT"], when);
        let answer = update(&api, "FLT-A01", 9, None).await;
        cut.done().await;
        assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
        assert_eq!(answer.problem(503), "store_unavailable");
        assert_eq!(version(&api, "FLT-A01").await, stored, "{when:?}");
    }
    assert_eq!(stream.expect("ei_updated").await.data["data"]["version"], 3);
}

#[tokio::test]
async fn a_publish_whose_commit_is_not_answered_is_in_the_log_once() {
    let postgres = Postgres::start();
    let proxy = Proxy::to(postgres.address()).await;
    let url = proxy.url(&postgres.url(), postgres.address());
    let server = Server::with(ServerOptions::default().on_postgres(&url));
    let api = server.api();
    let mut stream = api.listen("topic:a", None).await;
    stream.ready().await;
    for (number, when) in [(1, When::Asked), (2, When::COMMITTED), (3, When::COMMITTED)] {
        let mut cut = proxy.cut_at(&["topic:a", "COMMIT"], when);
        let event = json!({"topic": "topic:a", "type": "tick", "data": {"n": number}});
        let key = format!("key-{number}");
        let first = api.post_once("/v2/events", &event, &key).await;
        cut.done().await;
        assert_eq!(first.problem(503), "log_unavailable");
        let answer = eventually("an answer", async || {
            let answer = api.post_once("/v2/events", &event, &key).await;
            (answer.status != 503).then_some(answer)
        });
        answer.await.expect(202);
        assert_eq!(stream.expect("tick").await.data["data"]["n"], number, "{when:?}");
    }
}

/// Makes updates of fleets wait for the lock 42.
const GATE: &str = "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql
                    AS 'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END';
                    CREATE TRIGGER gate BEFORE INSERT ON fleets FOR EACH ROW EXECUTE FUNCTION gate()";

async fn waits_at_the_gate(url: &str) {
    let waiting = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
                   WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted";
    eventually("a transaction at the gate", async || (sql(url, waiting) == "1").then_some(())).await;
}

#[tokio::test]
async fn two_nodes_never_carry_out_the_same_key_at_once() {
    let server = Server::with(ServerOptions::default().cluster(2).set("storage.wait_ms", 20_000));
    let (api, url) = (server.api(), server.database_url());
    let (one, other) = (api.at(0), api.at(1));
    sql(url, GATE);
    let gate = Holding::open(url, "SELECT pg_advisory_xact_lock(42)");
    let first = tokio::spawn({
        let one = one.clone();
        async move { update(&one, "FLT-A01", 1, Some("key")).await }
    });
    waits_at_the_gate(url).await;
    let meanwhile = update(&other, "FLT-A01", 1, Some("key")).await;
    assert_eq!(meanwhile.problem(409), "idempotency_key_in_progress");
    drop(gate);
    let first = first.await.expect("no panic").expect(200);
    assert_eq!(update(&other, "FLT-A01", 1, Some("key")).await.expect(200), first);
    assert_eq!(version(&other, "FLT-A01").await, 1);
}

#[tokio::test]
async fn a_key_that_a_killed_node_was_at_is_free_again() {
    let mut server = Server::with(ServerOptions::default().cluster(2).set("storage.wait_ms", 20_000));
    let (api, url) = (server.api(), server.database_url().to_owned());
    let (one, other) = (api.at(0), api.at(1));
    sql(&url, GATE);
    let gate = Holding::open(&url, "SELECT pg_advisory_xact_lock(42)");
    let lost = tokio::spawn(async move {
        let request = one.request("POST", "/v2/fleet/ei-update");
        Api::send(request.json(&json!({"fleet_id": "FLT-A01", "new_ei": 1})).header("Idempotency-Key", "key"))
            .await
    });
    waits_at_the_gate(&url).await;
    server.kill_node(0);
    assert!(lost.await.expect("no panic").is_err(), "the node still answers");
    drop(gate);
    let answer = eventually("a free key", async || {
        let answer = update(&other, "FLT-A01", 1, Some("key")).await;
        (answer.status != 409).then_some(answer)
    });
    assert_eq!(answer.await.expect(200)["version"], 1);
    assert_eq!(version(&other, "FLT-A01").await, 1);
}
