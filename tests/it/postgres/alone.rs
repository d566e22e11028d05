//! PostgreSQL without Redis: the database keeps the log, and one node serves it.

use serde_json::json;

use crate::support::postgres::sql;
use crate::support::{
    Backend, Burst, Postgres, Proxy, Server, ServerOptions, assert_kept, counts, eventually,
};

const PUBLISHERS: u64 = 4;

fn alone() -> ServerOptions {
    ServerOptions { backend: Some(Backend::Postgres), ..ServerOptions::default() }
}

/// The same database for a node with a data directory of its own.
fn beside(server: &Server) -> ServerOptions {
    ServerOptions { data_dir: None, ..server.options().clone() }
}

#[tokio::test]
async fn a_killed_node_keeps_every_answered_publish_once_and_in_order() {
    let mut server = Server::with(alone());
    let api = server.api();
    let cursor = api.publish("topic:burst", "before", 0.into()).await;
    let burst = Burst::start(&api, "topic:burst", PUBLISHERS);
    burst.reaches(60).await;
    server.kill();
    let answered = burst.cut().await;
    server.restart(|options| options);
    let mut stream = api.listen("topic:burst", Some(&cursor)).await;
    assert_eq!(stream.ready().await["recovered"], true);
    assert_kept(&counts(&stream.replayed().await, PUBLISHERS), &answered);
}

#[tokio::test]
async fn what_waits_in_the_outbox_is_published_by_the_next_start() {
    let mut server = Server::with(alone());
    let api = server.api();
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    let cursor = stream.ready().await["position"].as_str().expect("a position").to_owned();
    server.restart(|options| options.env("BONGSU_CRASH_AT", "fleets.after_commit"));
    let body = json!({"fleet_id": "FLT-A01", "new_ei": 1});
    let request = api.request("POST", "/v2/fleet/ei-update").json(&body);
    assert!(crate::support::Api::send(request).await.is_err(), "the server still answers");
    server.restart(|options| options.env("BONGSU_CRASH_AT", ""));
    let mut stream = api.listen("fleet:FLT-A01", Some(&cursor)).await;
    assert_eq!(stream.ready().await["recovered"], true);
    assert_eq!(stream.expect("ei_updated").await.data["data"]["version"], 1);
    assert_eq!(sql(server.database_url(), "SELECT count(*) FROM outbox"), "0");
}

#[tokio::test]
async fn a_restored_database_and_a_fresh_start_on_request_begin_a_new_epoch() {
    let mut server = Server::with(alone());
    let api = server.api();
    for change in [
        // as it was before the last commits
        (|server| drop(sql(server.database_url(), "UPDATE log_commits SET number = 0"))) as fn(&Server),
        |server| std::fs::remove_file(server.data_dir().join("log.head")).expect("it is there"),
    ] {
        let cursor = api.publish("topic:a", "tick", 0.into()).await;
        server.kill();
        change(&server);
        server.restart(|options| options);
        let ready = api.listen("topic:a", Some(&cursor)).await.ready().await;
        assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(false), &json!("epoch_changed")));
    }
    let cursor = api.publish("topic:a", "tick", 0.into()).await;
    server.renew_logs();
    let ready = api.listen("topic:a", Some(&cursor)).await.ready().await;
    assert_eq!(ready["reason"], "epoch_changed");
}

#[tokio::test]
async fn a_database_that_loses_commits_under_a_running_node_begins_a_new_epoch_in_place() {
    let server = Server::with(alone());
    let api = server.api();
    let mut stream = api.listen("topic:a", None).await;
    stream.ready().await;
    for n in 1..=3 {
        api.publish("topic:a", "tick", json!({"n": n})).await;
    }
    let cursor = stream.take(3).await[1].id.clone().expect("an id");
    // as a replica that was behind when it took over
    let behind = "DELETE FROM log_entries WHERE seq = 3; UPDATE log_tenants SET head = 2;
                  UPDATE log_commits SET number = number - 1";
    sql(server.database_url(), behind);
    let ready = stream.expect("ready").await.data;
    assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(false), &json!("epoch_changed")));
    let position = api.publish("topic:a", "tick", json!({"n": 4})).await;
    assert_eq!(stream.take(1).await[0].id, Some(position.clone()));
    assert_ne!(position.split_once('-').unwrap().0, cursor.split_once('-').unwrap().0, "the same epoch");
    let ready = api.listen("topic:a", Some(&cursor)).await.ready().await;
    assert_eq!(ready["reason"], "epoch_changed");
}

#[tokio::test]
async fn a_second_node_without_redis_is_refused_and_told_why() {
    let mut server = Server::with(alone());
    let error = Server::refuse(beside(&server).set("storage.wait_ms", 300), "127.0.0.1:0");
    assert!(error.contains("another node serves this database without Redis"), "{error}");
    assert!(error.contains("redis.url"), "{error}");
    server.api().publish("topic:a", "tick", 0.into()).await;
    server.kill();
    // a lock that nobody holds any more keeps nobody out
    Server::with(beside(&server)).api().publish("topic:a", "tick", 1.into()).await;
}

#[tokio::test]
async fn a_node_that_has_lost_the_log_to_another_one_stops_serving_it() {
    let postgres = Postgres::start();
    let proxy = Proxy::to(postgres.address()).await;
    let url = proxy.url(&postgres.url(), postgres.address());
    let former = Server::with(ServerOptions::default().on_postgres(&url));
    let api = former.api();
    api.publish("topic:a", "tick", json!({"n": 1})).await;
    let mut stream = api.listen("topic:a", None).await;
    stream.ready().await;
    proxy.refuse();
    let next = Server::with(ServerOptions::default().on_postgres(&postgres.url()));
    let listening = next.api().listen("topic:a", None).await.ready().await;
    proxy.resume();
    // nothing of it is in the log, though the node has its connections back
    let event = json!({"topic": "topic:a", "type": "tick", "data": {"n": 2}});
    let refused = async || {
        let answer = api.post("/v2/events", &event).await;
        assert_eq!(answer.status, 503, "{}", answer.text);
        former.stderr().contains("another process has taken over the event log").then_some(())
    };
    eventually("the former node's insight", refused).await;
    assert_eq!(stream.expect("close").await.data["code"], 3002);
    eventually("its not being ready", async || (api.get("/ready").await.status == 503).then_some(())).await;
    next.api().publish("topic:a", "tick", json!({"n": 3})).await;
    let cursor = listening["position"].as_str().expect("a position");
    let mut stream = next.api().listen("topic:a", Some(cursor)).await;
    stream.ready().await;
    let events = stream.replayed().await;
    assert_eq!(events.iter().map(|event| event.data["data"]["n"].clone()).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn a_lost_connection_does_not_lose_the_log() {
    let postgres = Postgres::start();
    let server = Server::with(ServerOptions::default().on_postgres(&postgres.url()));
    let holding = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'";
    for number in 1..=2 {
        let holder =
            eventually("the lock", async || Some(postgres.sql(holding)).filter(|pid| !pid.is_empty())).await;
        postgres.sql(&format!("SELECT pg_terminate_backend({holder})"));
        eventually("the lock anew", async || {
            Some(postgres.sql(holding)).filter(|pid| !pid.is_empty() && *pid != holder)
        })
        .await;
        server.api().publish("topic:a", "tick", json!({"n": number})).await;
    }
}

#[tokio::test]
async fn a_lone_node_and_a_cluster_keep_out_of_each_others_way() {
    let mut lone = Server::with(alone());
    let cursor = lone.api().publish("topic:a", "tick", 0.into()).await;
    let clustered = ServerOptions { backend: Some(Backend::Cluster), ..beside(&lone) };
    let error = Server::refuse(
        clustered.clone().env("REDIS_URL", crate::support::redis::shared_url()),
        "127.0.0.1:0",
    );
    assert!(error.contains("without Redis"), "{error}");
    lone.kill();
    let mut cluster = Server::with(clustered.cluster(1));
    cluster.api().publish("topic:a", "tick", 1.into()).await;
    let error = Server::refuse(beside(&lone), "127.0.0.1:0");
    assert!(error.contains("the nodes of a cluster serve this database"), "{error}");
    cluster.signal("TERM");
    assert!(cluster.ended().await.success());
    // what the cluster has published meanwhile is not in the log that the node comes back to
    lone.restart(|options| options);
    let ready = lone.api().listen("topic:a", Some(&cursor)).await.ready().await;
    assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(false), &json!("epoch_changed")));
}
