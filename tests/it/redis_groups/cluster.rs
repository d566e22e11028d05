//! Three masters and their replicas.

use std::time::{Duration, Instant};

use super::{OldClient, took};
use crate::support::eventually;
use crate::support::redis::{GroupOptions, RedisCluster, shared_cluster_url};

#[tokio::test]
async fn a_master_that_is_killed_is_followed_by_its_replica() {
    let since = Instant::now();
    let mut cluster = RedisCluster::start().await;
    took("cluster started", since);
    assert_eq!(cluster.url().matches("127.").count(), 6);
    let slot = cluster.slot("a");
    let old = cluster.owner(slot);
    assert_eq!(cluster.cli(old, &["SET", "a", "1"]), "OK");
    cluster.replicated(old).await;
    let since = Instant::now();
    cluster.kill(old);
    let new = cluster.failover_by_itself(old).await;
    took("a killed master's successor", since);
    assert_eq!((new, cluster.owner(slot)), (cluster.replica_of(old), new));
    assert_eq!(cluster.cli(new, &["GET", "a"]), "1");
    let since = Instant::now();
    cluster.restart(old).await;
    cluster.settled().await;
    took("a restarted master is a replica", since);
    assert_eq!(cluster.info(old, "replication", "role"), "slave");
}

#[tokio::test]
async fn a_replica_takes_over_by_hand_and_gives_back() {
    let cluster = RedisCluster::start().await;
    for n in [0, 3, 0, 3] {
        let since = Instant::now();
        assert_eq!(cluster.failover(n).await, cluster.replica_of(n));
        took("failover by hand", since);
        assert_eq!(cluster.owner(0), cluster.replica_of(n));
        cluster.settled().await;
    }
}

#[tokio::test]
async fn a_slot_moves_with_its_keys() {
    let cluster = RedisCluster::start().await;
    let slot = cluster.slot("{a}");
    let from = cluster.owner(slot);
    let to = (from + 1) % 3;
    let keys: Vec<String> = (0..25).map(|n| format!("{{a}}{n}")).collect();
    for key in &keys {
        assert_eq!(cluster.cli(from, &["SET", key, key]), "OK");
    }
    let moving = cluster.begin_move(slot, to);
    assert_eq!(cluster.move_keys(&moving, 5), 5);
    let asked: Vec<String> = keys.iter().map(|key| cluster.cli(from, &["GET", key])).collect();
    assert_eq!(asked.iter().filter(|said| said.starts_with("ASK ")).count(), 5);
    assert!(cluster.cli(from, &["SET", "{a}new", "1"]).starts_with("ASK "));
    cluster.finish(moving).await;
    for key in &keys {
        assert_eq!(cluster.cli(to, &["GET", key]), *key);
    }
    assert!(cluster.cli(from, &["GET", &keys[0]]).starts_with("MOVED "));
    assert_eq!(cluster.owner(slot), to);
    cluster.move_slot(slot, from).await;
    assert_eq!(cluster.cli(from, &["GET", &keys[0]]), keys[0]);
}

/// A master that is cut off, and how.
async fn isolated(isolate: impl FnOnce(&mut RedisCluster, usize)) {
    let mut cluster = RedisCluster::start().await;
    let slot = cluster.slot("a");
    let old = cluster.owner(slot);
    let mut old_client = OldClient::to(cluster.address(old));
    isolate(&mut cluster, old);
    let since = Instant::now();
    assert_eq!(old_client.ask("SET a 1"), "+OK");
    assert_eq!(cluster.cli(old, &["SET", "a", "2"]), "OK");
    // it is of a minority, and notices after a while
    eventually("refusals", async || old_client.ask("SET a 3").starts_with("-CLUSTERDOWN").then_some(()))
        .await;
    took("an isolated master refuses", since);
    let new = cluster.failover_by_itself(old).await;
    took("an isolated master's successor", since);
    assert!(cluster.cli(old, &["GET", "a"]).starts_with("CLUSTERDOWN"));
    assert_eq!(cluster.cli(new, &["SET", "a", "4"]), "OK");
    let since = Instant::now();
    cluster.heal(old);
    cluster.settled().await;
    took("a healed master is a replica", since);
    assert_eq!((cluster.owner(slot), cluster.info(old, "replication", "role")), (new, "slave".to_owned()));
    assert!(old_client.ask("GET a").starts_with("-MOVED "));
}

#[tokio::test]
async fn an_isolated_master_answers_its_clients_until_it_is_healed() {
    isolated(|cluster, n| cluster.isolate(n)).await;
}

#[tokio::test]
async fn a_silenced_master_answers_its_clients_until_it_is_healed() {
    isolated(|cluster, n| cluster.silence(n)).await;
}

#[tokio::test]
async fn a_replica_that_lags_behind_loses_what_its_master_alone_has() {
    let mut cluster = RedisCluster::with(GroupOptions::default().timeout(Duration::from_secs(2))).await;
    let old = cluster.owner(cluster.slot("a"));
    assert_eq!(cluster.cli(old, &["SET", "a", "kept"]), "OK");
    cluster.replicated(old).await;
    cluster.lag(old);
    assert_eq!(cluster.cli(old, &["SET", "a", "lost"]), "OK");
    cluster.kill(old);
    let new = cluster.failover_by_itself(old).await;
    assert_eq!(cluster.cli(new, &["GET", "a"]), "kept");
}

#[tokio::test]
async fn nodes_speak_tls_to_whom_they_know() {
    let mut cluster = RedisCluster::with(GroupOptions::default().tls().user("bongsu", "secret")).await;
    let url = cluster.url();
    assert!(url.starts_with("rediss+cluster://bongsu:secret@127."), "{url}");
    let slot = cluster.slot("a");
    let old = cluster.owner(slot);
    assert_eq!(cluster.cli(old, &["SET", "a", "1"]), "OK");
    let to = (old + 1) % 3;
    cluster.move_slot(slot, to).await;
    assert_eq!(cluster.cli(to, &["GET", "a"]), "1");
    cluster.replicated(to).await;
    cluster.kill(to);
    let new = cluster.failover_by_itself(to).await;
    assert_eq!(cluster.cli(new, &["GET", "a"]), "1");
}

#[tokio::test]
async fn the_shared_cluster_is_whole() {
    let url = shared_cluster_url();
    let addresses: Vec<&str> = url.strip_prefix("redis+cluster://").unwrap().split(',').collect();
    assert_eq!(addresses.len(), 6);
    for address in addresses {
        let said = crate::support::redis::cli(&format!("redis://{address}"), &["CLUSTER", "INFO"]);
        assert!(said.contains("cluster_state:ok") && said.contains("cluster_slots_ok:16384"), "{said}");
    }
}
