use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::scenarios::Listening;
use super::{Stage, scenarios};
use crate::support::redis::{GroupOptions, RedisCluster};
use crate::support::{Server, ServerOptions, eventually};

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

#[tokio::test]
async fn a_slot_that_moves_in_silence_is_missed_by_who_listens() {
    let redis = RedisCluster::start().await;
    let listening = Listening::to(redis.url()).await;
    let slot = redis.slot("{default}");
    let from = redis.owner(slot);
    redis.move_slot(slot, (from + 1) % 3).await;
    listening.goes_on().await;
}

/// As where its only replica is away: commands for its tenants wait, and those for others do not.
#[tokio::test]
async fn a_master_that_takes_no_writes_holds_up_nobody_elses_commands() {
    let options = GroupOptions::default().set("min-replicas-to-write 1").set("min-replicas-max-lag 1");
    let mut redis = RedisCluster::with(options.set("cluster-require-full-coverage no")).await;
    let options = ServerOptions::default().cluster(2).unlimited().env("REDIS_URL", redis.url());
    // less than what will wait
    let server = Server::with(options.set("log.relay_batch", 10));
    let owner = |tenant: &str| redis.owner(redis.slot(&format!("{{{tenant}}}")));
    let sick = owner("default");
    let tenant = (0..99).map(|n| format!("t{n}")).find(|name| owner(name) != sick).expect("one of many");
    let (own, other) = (server.api(), server.api_of(&tenant, "publish,subscribe,manage"));
    let mut streams = [own.listen("fleet:F", None).await, other.listen("fleet:F", None).await];
    for stream in &mut streams {
        stream.ready().await;
    }
    let replica = redis.replica_of(sick);
    redis.kill(replica);
    let event = json!({"topic": "topic:a", "type": "tick", "data": {}});
    eventually("its master to refuse", async || {
        (own.post("/v2/events", &event).await.status == 503).then_some(())
    })
    .await;
    let [waits, goes_on] = &mut streams;
    for n in 1..=40 {
        own.update_ei("F", f64::from(n)).await;
        other.update_ei("F", f64::from(n)).await;
        let told = goes_on.take(1).await.remove(0);
        assert_eq!(told.data["data"]["version"], n);
    }
    let leaderships = server.operator().metric("bongsu_leaderships_total").await;
    assert!(leaderships <= 8.0, "the lead changed {leaderships} times");
    redis.restart(replica).await;
    let versions: Vec<_> =
        waits.take(40).await.iter().map(|told| told.data["data"]["version"].clone()).collect();
    assert_eq!(versions, (1..=40).map(Value::from).collect::<Vec<_>>());
}
