//! Our own events on the channels of the replaced systems.

use serde_json::{Value, json};

use super::{AT, end, is_heard_by, listen_everywhere, on, start, until_end};
use crate::support::{Program, Redis, Server, eventually, in_package};

async fn subscriber(redis: &Redis, channel: &str) -> Program {
    let script = in_package("tests/clients/redis_subscriber.py");
    let words = [script.to_str().expect("UTF-8"), &redis.url(), channel];
    let mut program = Program::start("/usr/bin/python3", &words, &[]);
    program.find(|line| line.contains("subscribed").then_some(())).await;
    program
}

async fn heard(program: &mut Program) -> Value {
    serde_json::from_str(&program.line().await.expect("a message")).expect("JSON")
}

#[tokio::test]
async fn a_subscriber_of_the_replaced_system_reads_our_updates_once() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 2).set("redis.mirror", true).set("redis.prefix", "mine:")).await;
    let mut subscriber = subscriber(&redis, "channel:ei:updates").await;
    let mut expected = Vec::new();
    for (old, new) in [(Value::Null, 72.5), (json!(72.5), 48.0)] {
        let answer = server.api().update_ei("FLT-A01", new).await;
        expected.push(json!({"fleet_id": "FLT-A01", "old_ei": old, "new_ei": answer["new_ei"],
            "ei_grade": answer["ei_grade"], "timestamp": answer["timestamp"], "_src": "mine:"}));
    }
    for expected in expected {
        let seen = heard(&mut subscriber).await;
        assert_eq!(seen["message"], expected);
        assert_eq!(seen["keys"], json!(["fleet_id", "old_ei", "new_ei", "ei_grade", "timestamp", "_src"]));
    }
    // what others publish is not published again, nor is what is not ours to say
    super::publish_lines(&redis, "channel:bid:status", ["'{}'".to_owned()].into_iter());
    server.api().publish("topic:a", "ei_updated", json!({"fleet_id": "F"})).await;
    assert_eq!(server.operator().metric("bongsu_mirrored_total").await, 2.0);
}

#[tokio::test]
async fn events_of_users_are_read_on_user_events_with_their_time_and_node() {
    let redis = Redis::start().await;
    let options = on(&redis, 2).set("redis.mirror", true).set("redis.prefix", "mine:");
    let server = start(&redis, options.set("compat.anonymous_user", "123")).await;
    let mut subscriber = subscriber(&redis, "user-events").await;
    let nobody = server.api().anonymous().at(1);
    let node = nobody.get("/events/status").await.expect(200)["serverId"].clone();
    nobody.post("/accounts", &json!({"name": "savings", "balance": 12.5})).await.expect(201);
    let told = heard(&mut subscriber).await;
    assert_eq!(told["keys"], json!(["userId", "eventType", "data", "_src"]));
    let message = &told["message"];
    assert_eq!((&message["userId"], &message["_src"]), (&json!("123"), &json!("mine:")));
    assert_eq!(message["eventType"], "snapshots.generated");
    assert_eq!((&message["data"]["snapshotCount"], &message["data"]["serverId"]), (&json!(1), &node));
    assert!(message["data"]["timestamp"].is_string());
    nobody.call("PATCH", "/accounts/1", &json!({"balance": 7})).await.expect(200);
    let message = heard(&mut subscriber).await["message"].clone();
    assert_eq!(
        (&message["eventType"], &message["data"]["accountId"]),
        (&json!("account.updated"), &json!("1"))
    );
    assert_eq!((&message["data"]["changes"], &message["data"]["serverId"]), (&json!({"balance": 7}), &node));
    // neither comes back
    eventually("both to be heard and left", async || {
        let own = server.operator().metric("bongsu_ingest_refused_total{reason=\"own\"}").await;
        (own == 2.0).then_some(())
    })
    .await;
    let snapshots = nobody.get("/snapshots").await.expect(200)["snapshots"].clone();
    assert_eq!(snapshots.as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn what_this_cluster_has_mirrored_does_not_come_back_to_it_and_reaches_another() {
    let redis = Redis::start().await;
    let own = start(&redis, on(&redis, 2).set("redis.mirror", true).set("redis.prefix", "own:")).await;
    let another = Server::with(on(&redis, 1).set("redis.mirror", true).set("redis.prefix", "another:"));
    is_heard_by(&redis, 2).await;
    let mut here = listen_everywhere(&own, "fleet:F,topic:events").await.remove(0);
    let mut there = listen_everywhere(&another, "fleet:F,topic:events").await.remove(0);
    own.api().update_ei("F", 1.0).await;
    let ingested = there.take(1).await.remove(0);
    assert_eq!(ingested.data["data"]["version"], Value::Null);
    let forged = json!({"fleet_id": "F", "new_ei": 9, "timestamp": AT, "_src": "own:"}).to_string();
    assert_eq!(redis.cli(&["PUBLISH", "channel:ei:updates", &forged]), "2");
    assert_eq!(there.take(1).await[0].data["data"]["new_ei"], 9);
    assert_eq!(redis.cli(&["PUBLISH", "channel:events", "{\"type\":\"end\"}"]), "2");
    let seen = until_end(&mut here).await;
    assert_eq!(seen.len(), 1, "its own update, once: {seen:?}");
    assert_eq!(seen[0].1["version"], 1);
    assert_eq!(own.operator().metric("bongsu_ingest_refused_total{reason=\"own\"}").await, 2.0);
    // what was taken in is not mirrored on
    assert_eq!(until_end(&mut there).await, []);
    assert_eq!(another.operator().metric("bongsu_mirrored_total").await, 0.0);
}

#[tokio::test]
async fn the_figures_of_all_nodes_are_written_down_every_second() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 2).set("redis.mirror", true).set("redis.prefix", "own:")).await;
    let mut streams =
        [server.api().listen("topic:a", None).await, server.api().at(1).listen("topic:a", None).await];
    for stream in &mut streams {
        stream.ready().await;
    }
    // what is left of a node of another release, and of one that ended long ago
    redis.cli(&["HSET", "own:figures", "other", "{}"]);
    let old = json!({"at": 1, "figures": {"connections": 9, "published": 0, "delivered": 0, "waited_us": 0,
        "failed": 0, "span_us": 0}});
    redis.cli(&["HSET", "own:figures", "old", &old.to_string()]);
    server.api().publish("topic:a", "note", 1.into()).await;
    let read = |name: &str| redis.cli(&["GET", &format!("metrics:realtime:{name}")]);
    eventually("two connections and one message", async || {
        (read("connections") == "2" && read("messages") == "1").then_some(())
    })
    .await;
    let told = server.api().get("/v2/realtime/metrics").await.json();
    assert_eq!((&told["activeConnections"], &told["totalMessagesPublished"]), (&json!(2), &json!(1)));
    for name in ["messages_per_sec", "avg_latency_ms", "error_rate"] {
        assert!(read(name).parse::<f64>().is_ok_and(|own| own >= 0.0), "{name}: {}", read(name));
    }
    eventually("the others to be removed", async || {
        (redis.cli(&["HLEN", "own:figures"]) == "3").then_some(())
    })
    .await;
    // again and again
    redis.cli(&["DEL", "metrics:realtime:connections"]);
    eventually("the figures", async || (read("connections") == "2").then_some(())).await;
}

#[tokio::test]
async fn nothing_is_mirrored_unless_it_is_asked_for() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 1)).await;
    let mut stream = listen_everywhere(&server, "fleet:F,topic:events").await.remove(0);
    server.api().update_ei("F", 1.0).await;
    stream.take(1).await;
    end(&redis);
    stream.expect("end").await;
    let operator = server.operator();
    assert_eq!(operator.metric("bongsu_mirrored_total").await, 0.0);
    assert_eq!(operator.metric("bongsu_ingest_refused_total{reason=\"own\"}").await, 0.0);
    let told = async || (server.api().get("/v2/realtime/metrics").await.status == 200).then_some(());
    eventually("figures", told).await;
    assert_eq!(redis.cli(&["KEYS", "metrics:*"]), "");
}
