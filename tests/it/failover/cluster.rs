use std::time::{Duration, Instant};

use serde_json::json;

use super::Stage;
use crate::support::redis::{GroupOptions, RedisCluster};

/// Who has the log of the tenant that everything happens in.
fn owner(redis: &RedisCluster) -> usize {
    redis.owner(redis.slot("{default}"))
}

#[tokio::test]
async fn a_master_that_is_killed_while_publishing_is_followed_by_its_replica() {
    let mut redis = RedisCluster::start().await;
    let stage = Stage::on(redis.url()).await;
    let old = owner(&redis);
    let fault = Instant::now();
    redis.kill(old);
    redis.failover_by_itself(old).await;
    stage.goes_on().await;
    let played = stage.end().await;
    played.assert_told(1);
    assert!(played.published.refused > 0, "the fault has happened");
    played.report("cluster, master killed", fault);
}

#[tokio::test]
async fn a_failover_and_the_way_back_are_two_runs_of_the_log() {
    let redis = RedisCluster::start().await;
    let stage = Stage::on(redis.url()).await;
    let first = owner(&redis);
    let fault = Instant::now();
    redis.failover(first).await;
    stage.goes_on().await;
    let second = owner(&redis);
    assert_ne!(second, first);
    redis.settled().await;
    redis.failover(second).await;
    stage.goes_on().await;
    assert_eq!(owner(&redis), first);
    let played = stage.end().await;
    played.assert_told(2);
    played.report("cluster, handed over", fault);
}

#[tokio::test]
async fn what_a_successor_has_not_got_is_told() {
    let mut redis = RedisCluster::start().await;
    let stage = Stage::on(redis.url()).await;
    let old = owner(&redis);
    redis.lag(old);
    stage.goes_on().await;
    let fault = Instant::now();
    redis.kill(old);
    redis.failover_by_itself(old).await;
    stage.goes_on().await;
    let played = stage.end().await;
    played.assert_told(1);
    played.report("cluster, master killed, replica behind", fault);
}

#[tokio::test]
async fn a_slot_that_moves_while_publishing_begins_a_new_run_and_loses_nothing() {
    let redis = RedisCluster::start().await;
    let stage = Stage::on(redis.url()).await;
    let (slot, from) = (redis.slot("{default}"), owner(&redis));
    let to = (0..3).find(|n| *n != from).expect("there are three masters");
    let fault = Instant::now();
    let moving = redis.begin_move(slot, to);
    // some keys here, some there
    assert!(redis.move_keys(&moving, 2) > 0);
    redis.finish(moving).await;
    stage.goes_on().await;
    redis.move_slot(slot, from).await;
    stage.goes_on().await;
    // the top of the log finds what is logged; only whoever is heard brings what is not
    for node in stage.server.api().everywhere() {
        let mut stream = node.listen("topic:v", None).await;
        stream.ready().await;
        let event = json!({"topic": "topic:v", "type": "v", "class": "volatile", "data": {}});
        node.post("/v2/events", &event).await.expect(202);
        assert_eq!(stream.take(1).await[0].event, "v");
    }
    let played = stage.end().await;
    played.assert_told(2);
    played.report("cluster, slot moved", fault);
}

#[tokio::test]
async fn a_master_that_is_cut_off_and_goes_on_answering_takes_nothing_that_is_lost() {
    let options = GroupOptions::default().timeout(Duration::from_secs(2));
    let mut redis = RedisCluster::with(options).await;
    let stage = Stage::on(redis.url()).await;
    let old = owner(&redis);
    let fault = Instant::now();
    redis.isolate(old);
    redis.failover_by_itself(old).await;
    stage.goes_on().await;
    redis.heal(old);
    redis.settled().await;
    stage.goes_on().await;
    let played = stage.end().await;
    played.assert_told(1);
    played.report("cluster, master cut off", fault);
}
