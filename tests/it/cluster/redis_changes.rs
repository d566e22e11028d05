//! Redis becomes another one under a running cluster, or has no room left.

use serde_json::{Value, json};

use super::with_own_redis;
use crate::support::proxy::When;
use crate::support::{Proxy, Redis, Server, ServerOptions, eventually, redis};

#[tokio::test]
async fn a_master_that_becomes_a_replica_is_left_and_one_that_comes_back_is_a_new_epoch() {
    let (redis, server) = with_own_redis(2).await;
    let other = Redis::start().await;
    let api = server.api();
    let mut stream = api.at(0).listen("topic:a", None).await;
    stream.ready().await;
    api.publish("topic:a", "tick", json!({"n": 0})).await;
    stream.take(1).await;
    let port = other.address().port().to_string();
    assert_eq!(redis.cli(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    eventually("both nodes to say that they are not ready", async || {
        // asking is what tells
        let event = json!({"topic": "topic:a", "type": "tick", "data": {}});
        for node in 0..2 {
            assert_eq!(api.at(node).post("/v2/events", &event).await.status, 503);
        }
        let statuses = [api.at(0).get("/ready").await.status, api.at(1).get("/ready").await.status];
        (statuses == [503, 503]).then_some(())
    })
    .await;
    assert_eq!(redis.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    eventually("publishes to be taken again", async || {
        let event = json!({"topic": "topic:a", "type": "tick", "data": {"n": 1}});
        (api.post("/v2/events", &event).await.status == 202).then_some(())
    })
    .await;
    let ready = stream.ready().await;
    assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(false), &json!("epoch_changed")));
    assert_eq!(stream.take(1).await[0].data["data"]["n"], 1);
}

#[tokio::test]
async fn a_redis_without_room_refuses_publishes_and_retention_makes_room_again() {
    let redis = Redis::start().await;
    let options = ServerOptions::default()
        .cluster(2)
        .unlimited()
        .env("REDIS_URL", redis.url())
        .set("log.retention_count", 400)
        .set("log.peak_rate_per_s", 1);
    let mut server = Server::with(options);
    let fill = "x".repeat(20_000);
    let events = |count: u64| {
        let event =
            |n| json!({"topic": format!("topic:t{n}"), "type": "tick", "data": {"n": n, "fill": fill}});
        json!({"events": (0..count).map(event).collect::<Vec<_>>()})
    };
    for _ in 0..10 {
        server.api().post("/v2/events/batch", &events(40)).await.expect(202);
    }
    let used: u64 = redis
        .cli(&["INFO", "memory"])
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok())
        .expect("a number");
    redis.cli(&["CONFIG", "SET", "maxmemory", &(used - 1_000_000).to_string()]);
    assert_eq!(server.api().post("/v2/events/batch", &events(1)).await.problem(503), "log_unavailable");
    // less is kept from now on
    server.restart(|options| options.set("log.retention_count", 100));
    eventually("room", async || {
        (server.api().post("/v2/events/batch", &events(1)).await.status == 202).then_some(())
    })
    .await;
    assert!(server.operator().metric("bongsu_log_trimmed_total").await >= 100.0);
}

#[tokio::test]
async fn what_an_ingesting_node_that_ends_has_on_its_way_enters_once() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let link = format!("redis://{}", proxy.address());
    let mut server = Server::with(ServerOptions::default().cluster(1).env("REDIS_URL", link));
    eventually("the node to ingest", async || {
        (server.operator().metric("bongsu_ingesting").await == 1.0).then_some(())
    })
    .await;
    let mut held = proxy.cut_at(&["FLT-LATE"], When::Held);
    let message =
        json!({"fleet_id": "FLT-LATE", "new_ei": 1, "timestamp": "2026-01-02T03:04:05.000Z"}).to_string();
    assert_eq!(redis.cli(&["PUBLISH", "channel:ei:updates", &message]), "1");
    held.done().await;
    server.signal_node(0, "TERM");
    eventually("the node to be ending", async || server.stderr().contains("draining").then_some(())).await;
    proxy.resume();
    assert_eq!(server.node_ended(0).await.code(), Some(0));
    let prefix =
        &server.options().env.iter().find(|own| own.0 == "BONGSU__REDIS__PREFIX").expect("a cluster's").1;
    let key = format!("{prefix}{{default}}:log");
    let printed = redis::cli(&redis.url(), &["XRANGE", &key, "-", "+"]);
    let entries: Vec<Value> = printed
        .lines()
        .filter(|line| line.starts_with("{\"event\""))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
}
