use std::time::{Duration, Instant};

use serde_json::json;

use super::{Stage, scenarios};
use crate::support::redis::{GroupOptions, RedisCluster};

#[tokio::test]
async fn a_master_that_is_killed_while_publishing_is_followed_by_its_replica() {
    scenarios::killed("cluster", RedisCluster::start().await).await;
}

#[tokio::test]
async fn a_master_that_is_killed_in_silence_is_missed_by_who_listens() {
    scenarios::killed_in_silence(RedisCluster::start().await).await;
}

#[tokio::test]
async fn a_failover_and_the_way_back_are_two_runs_of_the_log() {
    scenarios::handed_over_there_and_back("cluster", RedisCluster::start().await).await;
}

#[tokio::test]
async fn what_a_successor_has_not_got_is_told() {
    scenarios::killed_before_its_replicas_have_it_all("cluster", RedisCluster::start().await).await;
}

#[tokio::test]
async fn a_master_that_is_cut_off_and_goes_on_answering_takes_nothing_that_is_lost() {
    let options = GroupOptions::default().timeout(Duration::from_secs(2));
    scenarios::cut_off("cluster", RedisCluster::with(options).await).await;
}

#[tokio::test]
async fn a_slot_that_moves_while_publishing_begins_a_new_run_and_loses_nothing() {
    let redis = RedisCluster::start().await;
    let stage = Stage::on(redis.url()).await;
    let slot = redis.slot("{default}");
    let from = redis.owner(slot);
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
