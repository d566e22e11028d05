//! PostgreSQL goes away and comes back: what is answered meanwhile, and what is left of it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Api, Postgres, Proxy, Server, ServerOptions, Sse, eventually};

const FLEETS: usize = 4;
const COUNT: u64 = 30;

/// Takes every event that is under way; the versions of each fleet in the order in which they arrived.
async fn versions(stream: &mut Sse) -> Vec<Vec<u64>> {
    let mut versions = vec![Vec::new(); FLEETS];
    for event in stream.take(FLEETS * COUNT as usize).await {
        assert_eq!(event.event, "ei_updated");
        let data = &event.data["data"];
        let fleet: usize = data["fleet_id"].as_str().expect("text")[4..].parse().expect("a number");
        versions[fleet].push(data["version"].as_u64().expect("a number"));
    }
    versions
}

#[tokio::test]
async fn commands_outlive_a_killed_postgres_and_nothing_is_lost_or_doubled() {
    let mut postgres = Postgres::start();
    let server = Server::with(ServerOptions::default().on_postgres(&postgres.url()));
    let api = server.api();
    let topics: Vec<String> = (0..FLEETS).map(|fleet| format!("fleet:FLT-{fleet}")).collect();
    let mut stream = api.listen(&topics.join(","), None).await;
    stream.ready().await;
    let (answered, refused) = (Cell::new(0), [const { Cell::new(0) }; FLEETS]);
    let command = async |fleet: usize| {
        for count in 1..=COUNT {
            let body = json!({"fleet_id": format!("FLT-{fleet}"), "new_ei": count});
            let key = format!("{fleet}-{count}");
            let answer = eventually("an answer", async || {
                let answer = api.post_once("/v2/fleet/ei-update", &body, &key).await;
                if answer.status == 503 {
                    assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
                    refused[fleet].set(refused[fleet].get() + 1);
                    return None;
                }
                Some(answer.expect(200))
            });
            assert_eq!(answer.await["version"], count, "carried out twice, or not at all");
            answered.set(answered.get() + 1);
        }
    };
    let fault = async {
        eventually("answers", async || (answered.get() >= COUNT).then_some(())).await;
        postgres.kill();
        eventually("commands that are refused", async || {
            refused.iter().all(|own| own.get() > 0).then_some(())
        })
        .await;
        assert_eq!(api.get("/ready").await.status, 503);
        postgres.restart();
    };
    tokio::join!(fault, join_all((0..FLEETS).map(command)));
    let whole: Vec<u64> = (1..=COUNT).collect();
    assert_eq!(versions(&mut stream).await, vec![whole; FLEETS]);
    eventually("readiness", async || (api.get("/ready").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn connections_that_postgres_has_ended_cost_one_failure_each_at_most() {
    let postgres = Postgres::start();
    let server = Server::with(ServerOptions::default().on_postgres(&postgres.url()));
    let api = server.api();
    for round in 1..=3 {
        let ended: u64 = postgres
            .sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'bongsu %'")
            .parse()
            .expect("a number");
        let failures = Cell::new(0);
        eventually("an update", async || {
            let answer =
                api.post("/v2/fleet/ei-update", &json!({"fleet_id": "FLT-A01", "new_ei": round})).await;
            failures.set(failures.get() + u64::from(answer.status == 503));
            (answer.status == 200).then_some(())
        })
        .await;
        assert!(ended > 1 && failures.get() < ended, "{} of {ended}", failures.get());
        assert_eq!(api.get("/v2/fleets/FLT-A01").await.expect(200)["version"], round);
    }
}

#[tokio::test]
async fn a_link_that_has_gone_silent_is_answered_503_in_bounded_time_and_given_up() {
    let postgres = Postgres::start();
    let proxy = Proxy::to(postgres.address()).await;
    let options = ServerOptions::default().on_postgres(&proxy.url(&postgres.url(), postgres.address()));
    let server = Server::with(options.set("storage.statement_timeout_ms", 400).set("storage.wait_ms", 1000));
    let api = server.api();
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    let update = async |api: &Api| {
        let begun = Instant::now();
        let answer = api.post("/v2/fleet/ei-update", &json!({"fleet_id": "FLT-A01", "new_ei": 1})).await;
        (answer.status, begun.elapsed())
    };
    assert_eq!(update(&api).await.0, 200);
    proxy.pause();
    for _ in 0..3 {
        let updates = (0..4).map(|_| update(&api));
        for (status, time) in join_all(updates).await {
            assert_eq!(status, 503);
            assert!(time < Duration::from_secs(5), "{time:?}");
        }
    }
    proxy.resume();
    eventually("an update", async || (update(&api).await.0 == 200).then_some(())).await;
    assert_eq!(
        api.get("/v2/fleets/FLT-A01").await.expect(200)["version"],
        2,
        "what was refused was not done"
    );
    let events: Vec<u64> =
        stream.take(2).await.iter().map(|event| event.data["data"]["version"].as_u64().unwrap()).collect();
    assert_eq!(events, [1, 2]);
}
