//! Reconnects are answered from each node's own window; the log is read as seldom as can be.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{metric_of, with_own_redis};
use crate::support::{Api, Redis, eventually};

async fn publish_many(api: &Api, topics: usize, count: usize) -> Vec<String> {
    let mut positions = Vec::new();
    for first in (0..count).step_by(500) {
        let events: Vec<Value> = (first..(first + 500).min(count))
            .map(|n| json!({"topic": format!("topic:t{}", n % topics), "type": "tick", "data": {"n": n / topics}}))
            .collect();
        let answer = api.post("/v2/events/batch", &json!({"events": events})).await.expect(202);
        let results = answer["results"].as_array().expect("results");
        positions.extend(results.iter().map(|own| own["position"].as_str().expect("a position").to_owned()));
    }
    positions
}

/// Calls of our functions, and reads of the stream within them, that Redis has carried out.
fn reads(redis: &Redis) -> (u64, u64) {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = |name: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.map_or(0, |rest| rest.split(',').next().expect("a number").parse().expect("a number"))
    };
    (calls("xrange"), calls("xrevrange"))
}

/// Listens to a topic from a cursor on; the numbers missed.
async fn resume(api: &Api, topic: usize, cursor: &str) -> Vec<u64> {
    let mut stream = api.listen(&format!("topic:t{topic}"), Some(cursor)).await;
    assert_eq!(stream.ready().await["recovered"], true);
    let replayed = stream.replayed().await;
    replayed.iter().map(|event| event.data["data"]["n"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn a_storm_of_reconnects_within_the_window_reads_nothing_from_redis() {
    let (redis, server) = with_own_redis(2).await;
    let mut held = server.api().at(0).listen("topic:other", None).await;
    held.ready().await;
    let positions = publish_many(&server.api(), 100, 1000).await;
    eventually("the node to have everything", async || {
        (metric_of(&server.operator(), 0, "bongsu_window_events").await == 1000.0).then_some(())
    })
    .await;
    // trimming looks at the stream, too: a node that does not lead does not
    let before = reads(&redis);
    let api = server.api().at(0);
    let storm = (0..200).map(|client| resume(&api, client % 100, &positions[0]));
    for (client, missed) in join_all(storm).await.into_iter().enumerate() {
        let first = u64::from(client % 100 == 0);
        assert_eq!(missed, (first..10).collect::<Vec<_>>());
    }
    let after = reads(&redis);
    assert_eq!(after.1, before.1, "nothing was read backwards");
    assert_eq!(metric_of(&server.operator(), 0, "bongsu_log_store_reads_total").await, 0.0);
    assert_eq!(metric_of(&server.operator(), 0, "bongsu_log_fills_total").await, 0.0);
}

#[tokio::test]
async fn a_cold_window_is_filled_once_however_many_resume_at_once() {
    let (redis, mut server) = with_own_redis(2).await;
    let positions = publish_many(&server.api(), 100, 1000).await;
    server.kill_node(1);
    server.start_node(1);
    let before = reads(&redis);
    let api = server.api().at(1);
    let storm = (0..200).map(|client| resume(&api, client % 100, &positions[0]));
    for missed in join_all(storm).await {
        assert!(missed.ends_with(&[9]));
    }
    let after = reads(&redis);
    // pages of 500, and one that finds that there is nothing before
    assert!(after.1 - before.1 <= 4, "{} reads for 200 clients", after.1 - before.1);
    assert_eq!(metric_of(&server.operator(), 1, "bongsu_log_store_reads_total").await, 0.0);
}

#[tokio::test]
async fn a_node_hears_only_of_tenants_that_it_has_sessions_of() {
    let (_redis, server) = with_own_redis(2).await;
    let (own, other) =
        (server.api_of("own", "publish,subscribe"), server.api_of("other", "publish,subscribe"));
    let mut stream = own.at(0).listen("topic:a", None).await;
    stream.ready().await;
    let operator = server.operator();
    let bytes = async || metric_of(&operator, 0, "bongsu_bus_bytes_total").await;
    let before = bytes().await;
    publish_many(&other.at(1), 10, 500).await;
    own.at(1).publish("topic:a", "tick", json!({})).await;
    assert_eq!(stream.take(1).await[0].event, "tick");
    assert!(bytes().await - before < 1000.0, "it has heard of the other tenant");
}
