//! One node at a time publishes the outbox, whatever becomes of it.

use std::time::{Duration, Instant};

use super::{entries, leader, versions, with_own_redis};
use crate::support::proxy::When;
use crate::support::{Proxy, Server, ServerOptions, eventually, pause, postgres};

#[tokio::test]
async fn a_leader_that_is_killed_is_replaced_within_two_seconds() {
    let mut server = Server::with(ServerOptions::default().cluster(3));
    let operator = server.operator();
    let mut nodes: Vec<usize> = (0..3).collect();
    let first = leader(&operator, nodes.clone()).await;
    nodes.retain(|node| *node != first);
    let api = server.api().at(nodes[0]);
    let mut stream = server.api().at(nodes[1]).listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    server.kill_node(first);
    let killed = Instant::now();
    api.update_ei("FLT-A01", 1.0).await;
    assert_eq!(versions(&stream.take(1).await), [1]);
    assert!(killed.elapsed() < Duration::from_secs(2), "published after {:?}", killed.elapsed());
    assert_ne!(leader(&operator, nodes).await, first);
}

#[tokio::test]
async fn a_leader_that_ends_in_order_is_replaced_at_once() {
    let mut server = Server::with(ServerOptions::default().cluster(2));
    let operator = server.operator();
    let first = leader(&operator, [0, 1]).await;
    let other = 1 - first;
    let mut stream = server.api().at(other).listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    server.signal_node(first, "TERM");
    assert_eq!(server.node_ended(first).await.code(), Some(0));
    let ended = Instant::now();
    server.api().at(other).update_ei("FLT-A01", 1.0).await;
    assert_eq!(versions(&stream.take(1).await), [1]);
    assert!(ended.elapsed() < Duration::from_secs(1), "published after {:?}", ended.elapsed());
}

#[tokio::test]
async fn what_a_stopped_leader_sends_late_is_refused() {
    let (redis, mut server) = with_own_redis(2).await;
    let proxy = Proxy::to(redis.address()).await;
    server.kill();
    // the first node, which reaches Redis by way of the proxy, leads
    let link = format!("redis://{}", proxy.address());
    server.start_node_with(0, |options| options.env("REDIS_URL", link));
    let operator = server.operator();
    leader(&operator, [0]).await;
    server.start_node(1);
    let api = server.api().at(1);
    api.update_ei("FLT-A01", 1.0).await;
    eventually("the first update in the log", async || {
        (entries(&server, "default").len() == 1).then_some(())
    })
    .await;
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    // what it sends from now on waits on its way, and it stops itself
    let mut held = proxy.cut_at(&["FLT-A01"], When::Held);
    api.update_ei("FLT-A01", 2.0).await;
    held.done().await;
    server.signal_node(0, "STOP");
    assert_eq!(entries(&server, "default").len(), 1, "nothing of it has arrived");
    // the other one leads, and publishes it
    assert_eq!(versions(&stream.take(1).await), [2]);
    api.update_ei("FLT-A01", 3.0).await;
    assert_eq!(versions(&stream.take(1).await), [3]);
    proxy.resume();
    eventually("the late append to be refused", async || {
        redis.cli(&["INFO", "errorstats"]).contains("errorstat_FENCED").then_some(())
    })
    .await;
    server.signal_node(0, "CONT");
    api.update_ei("FLT-A01", 4.0).await;
    assert_eq!(versions(&stream.take(1).await), [4]);
    let logged: Vec<_> = entries(&server, "default").iter().map(|entry| entry["version"].clone()).collect();
    assert_eq!(logged, [1, 2, 3, 4], "each once and in order");
    assert_eq!(leader(&operator, [0, 1]).await, 1);
}

#[tokio::test]
async fn order_per_entity_holds_through_ten_forced_changes_of_leader() {
    let mut server = Server::with(ServerOptions::default().cluster(3));
    let operator = server.operator();
    let api = server.api();
    let mut streams = Vec::new();
    for fleet in ["FLT-A", "FLT-B"] {
        let mut stream = api.listen(&format!("fleet:{fleet}"), None).await;
        stream.ready().await;
        streams.push((fleet, stream));
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let reporting = ["FLT-A", "FLT-B"].map(|fleet| {
        let (api, stopped) = (api.clone(), stopped.clone());
        tokio::spawn(async move {
            let mut ei = 0;
            while !*stopped.borrow() {
                ei += 1;
                let update = serde_json::json!({"fleet_id": fleet, "new_ei": ei});
                // a node that is stopped or killed answers nobody: the next one does
                let sent = crate::support::Api::send(
                    api.request("POST", "/v2/fleet/ei-update").json(&update).timeout(Duration::from_secs(1)),
                );
                drop(sent.await);
                pause(Duration::from_millis(10)).await;
            }
        })
    });
    for round in 0..10 {
        let leading = leader(&operator, 0..3).await;
        let others: Vec<usize> = (0..3).filter(|node| *node != leading).collect();
        if round % 2 == 0 {
            server.kill_node(leading);
            leader(&operator, others).await;
            server.start_node(leading);
        } else {
            server.signal_node(leading, "STOP");
            leader(&operator, others).await;
            server.signal_node(leading, "CONT");
        }
    }
    stop.send(true).expect("they report");
    for reports in reporting {
        reports.await.expect("no panic");
    }
    for (fleet, _) in &streams {
        let last = api.update_ei(fleet, 1.5).await["version"].as_i64().expect("a version");
        let topic = format!("fleet:{fleet}");
        let logged = eventually("everything in the log", async || {
            let entries = entries(&server, "default");
            let own = entries.iter().filter(|entry| entry["topic"] == topic.as_str());
            let versions: Vec<_> = own.map(|entry| entry["version"].as_i64().expect("a version")).collect();
            (versions.last() == Some(&last)).then_some(versions)
        })
        .await;
        assert_eq!(logged, (1..=last).collect::<Vec<_>>(), "each once and in order");
        assert!(last > 50, "{last} updates amid the changes");
    }
    assert!(fence(&server) > 10, "the fence has risen with every change");
}

/// How often the lease has changed hands.
fn fence(server: &Server) -> i64 {
    let database = server.options().env.iter().find(|own| own.0 == "DATABASE_URL").expect("a cluster's");
    let args = [&database.1, "-Atc", "SELECT fence FROM relay_lease"];
    let output = std::process::Command::new("psql").args(args).output().expect("psql runs");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

#[tokio::test]
async fn a_database_that_has_forgotten_how_far_the_fence_had_risen_does_not_stop_the_relay() {
    let server = Server::with(ServerOptions::default().cluster(1));
    let api = server.api();
    api.update_ei("FLT-A01", 1.0).await;
    let of =
        |name: &str| server.options().env.iter().find(|own| own.0 == name).expect("a cluster's").1.clone();
    let meta = format!("{}{{default}}:meta", of("BONGSU__REDIS__PREFIX"));
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    // as after a restored backup
    crate::support::redis::cli(&of("REDIS_URL"), &["HSET", &meta, "fence", "41"]);
    api.update_ei("FLT-A01", 2.0).await;
    let heard = eventually("the update", async || {
        let event = stream.next().await.expect("open");
        (event.data["data"]["version"] == 2).then_some(())
    });
    heard.await;
    assert!(server.operator().metric("bongsu_fenced_total").await >= 1.0);
}

#[tokio::test]
async fn a_run_that_the_database_knows_and_that_is_long_gone_keeps_nothing_from_being_published() {
    let server = Server::with(ServerOptions::default().cluster(2));
    let (api, operator) = (server.api(), server.operator());
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    api.update_ei("FLT-A01", 1.0).await;
    let gone = [
        // as after a database that has lost what it had last
        "born_us = 1",
        // as after a Redis that was tried for a while; nobody has said for a minute that it is there
        "born_us = born_us + 1, met_at = now() - interval '61 seconds'",
    ];
    for gone in gone {
        let statement = format!("UPDATE log_runs SET epoch = 'ffffffffffffffff', {gone} RETURNING tenant");
        assert_eq!(postgres::sql(server.database_url(), &statement), "default");
        api.update_ei("FLT-A01", 2.0).await;
    }
    assert_eq!(versions(&stream.take(3).await), [1, 2, 3], "each once");
    eventually("the outbox to be empty", async || {
        (operator.metric("bongsu_outbox_waiting").await == 0.0).then_some(())
    })
    .await;
}
