//! A master, its replicas and their sentinels.

use std::time::Instant;

use super::{OldClient, took};
use crate::support::eventually;
use crate::support::redis::{GroupOptions, Sentinels, shared_sentinel_url};

#[tokio::test]
async fn a_master_that_is_killed_has_a_successor_and_becomes_its_replica() {
    let since = Instant::now();
    let mut sentinels = Sentinels::start().await;
    took("sentinels started", since);
    let mut old = sentinels.master().await;
    assert_eq!(old, 0);
    assert_eq!(sentinels.url().matches("127.").count(), 3);
    for round in 0..2 {
        assert_eq!(sentinels.cli(old, &["SET", "round", &round.to_string()]), "OK");
        sentinels.replicated(old).await;
        let since = Instant::now();
        sentinels.kill(old);
        std::net::TcpStream::connect(sentinels.address(old)).expect_err("nobody listens");
        let new = sentinels.new_master(old).await;
        took("a killed master's successor", since);
        assert_eq!(sentinels.cli(new, &["GET", "round"]), round.to_string());
        let since = Instant::now();
        sentinels.restart(old).await;
        sentinels.settled().await;
        took("a restarted master is a replica", since);
        assert_eq!(sentinels.info(old, "replication", "role"), "slave");
        old = new;
    }
}

#[tokio::test]
async fn a_failover_by_hand_goes_there_and_back_again() {
    let sentinels = Sentinels::start().await;
    let mut master = sentinels.master().await;
    for _ in 0..3 {
        let since = Instant::now();
        let new = sentinels.failover().await;
        took("failover by hand", since);
        assert_ne!(new, master);
        sentinels.settled().await;
        took("and settled", since);
        assert_eq!(sentinels.info(master, "replication", "role"), "slave");
        master = new;
    }
}

/// An isolated master, and how it is isolated.
async fn isolated(isolate: impl FnOnce(&mut Sentinels)) {
    let mut sentinels = Sentinels::start().await;
    let mut old_client = OldClient::to(sentinels.address(0));
    assert_eq!(old_client.ask("SET a 1"), "+OK");
    sentinels.replicated(0).await;
    let since = Instant::now();
    isolate(&mut sentinels);
    let new = sentinels.new_master(0).await;
    took("an isolated master's successor", since);
    // two masters, and each has its clients
    assert_eq!(old_client.ask("SET a 2"), "+OK");
    assert_eq!(sentinels.cli(0, &["SET", "b", "2"]), "OK");
    assert_eq!(sentinels.info(0, "replication", "role"), "master");
    assert_eq!(sentinels.cli(new, &["SET", "a", "3"]), "OK");
    let since = Instant::now();
    sentinels.heal(0);
    sentinels.settled().await;
    took("a healed master is a replica", since);
    assert_eq!(sentinels.master().await, new);
    assert_eq!(sentinels.info(0, "replication", "role"), "slave");
    assert_eq!(sentinels.cli(0, &["MGET", "a", "b"]), "3");
}

#[tokio::test]
async fn an_isolated_master_answers_its_clients_until_it_is_healed() {
    isolated(|sentinels| sentinels.isolate(0)).await;
}

#[tokio::test]
async fn a_silenced_master_answers_its_clients_until_it_is_healed() {
    isolated(|sentinels| sentinels.silence(0)).await;
}

#[tokio::test]
async fn an_isolated_master_that_needs_a_replica_takes_no_more_writes() {
    let lines = ["min-replicas-to-write 1", "min-replicas-max-lag 1", "repl-backlog-ttl 0"];
    let options = lines.iter().fold(GroupOptions::default(), |options, line| options.set(line));
    let mut sentinels = Sentinels::with(options).await;
    assert_eq!(sentinels.cli(0, &["SET", "a", "1"]), "OK");
    sentinels.silence(0);
    let since = Instant::now();
    let refused = async || sentinels.cli(0, &["SET", "a", "2"]).starts_with("NOREPLICAS").then_some(());
    eventually("a refusal", refused).await;
    took("writes are refused", since);
    assert_eq!(sentinels.cli(0, &["GET", "a"]).lines().count(), 1);
}

#[tokio::test]
async fn replicas_that_lag_behind_lose_what_their_master_alone_has() {
    let mut sentinels = Sentinels::start().await;
    assert_eq!(sentinels.cli(0, &["SET", "a", "kept"]), "OK");
    sentinels.replicated(0).await;
    sentinels.lag(0);
    assert_eq!(sentinels.cli(0, &["SET", "a", "lost"]), "OK");
    sentinels.kill(0);
    let new = sentinels.new_master(0).await;
    sentinels.heal(0);
    assert_eq!(sentinels.cli(new, &["GET", "a"]), "kept");
}

#[tokio::test]
async fn a_stopped_master_is_a_replica_once_it_goes_on() {
    let sentinels = Sentinels::start().await;
    sentinels.signal(0, "STOP");
    sentinels.new_master(0).await;
    sentinels.signal(0, "CONT");
    sentinels.settled().await;
    assert_eq!(sentinels.info(0, "replication", "role"), "slave");
}

#[tokio::test]
async fn sentinels_and_their_servers_speak_tls_to_whom_they_know() {
    let mut sentinels = Sentinels::with(GroupOptions::default().tls().user("bongsu", "secret")).await;
    let url = sentinels.url();
    assert!(url.starts_with("rediss+sentinel://bongsu:secret@127."), "{url}");
    assert!(url.ends_with("/bongsu"), "{url}");
    assert!(sentinels.authority().is_file());
    let stranger = crate::support::redis::cli(&format!("redis://{}", sentinels.address(0)), &["PING"]);
    assert_eq!(stranger, "", "it speaks TLS and nothing else");
    sentinels.kill(0);
    let new = sentinels.new_master(0).await;
    assert_eq!(sentinels.cli(new, &["SET", "a", "1"]), "OK");
}

#[tokio::test]
async fn the_shared_sentinels_know_their_master() {
    let url = shared_sentinel_url();
    let (addresses, service) = url.strip_prefix("redis+sentinel://").unwrap().rsplit_once('/').unwrap();
    let mut masters: Vec<String> = Vec::new();
    for address in addresses.split(',') {
        let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service];
        masters.push(crate::support::redis::cli(&format!("redis://{address}"), &ask));
    }
    masters.dedup();
    let [master] = &masters[..] else { panic!("{masters:?}") };
    let url = format!("redis://{}", master.replace('\n', ":"));
    assert!(crate::support::redis::cli(&url, &["INFO", "replication"]).contains("connected_slaves:2"));
}
