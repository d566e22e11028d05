//! How a node finds its Redis, logs in there, and uses all of it.

use serde_json::json;

use crate::support::redis::{GroupOptions, RedisCluster, Sentinels, needed_commands};
use crate::support::{Program, Server, ServerOptions, eventually, in_package, redis};

const USER: &str = "node";
const PASSWORD: &str = "p@ss:word";

fn at(url: impl ToString) -> ServerOptions {
    ServerOptions::default().cluster(2).unlimited().env("REDIS_URL", url)
}

/// An event of a command and those that were published, at one node, come to whoever listens at the other.
async fn serves(server: &Server) {
    let api = server.api();
    // a topic of its own: a successor tells once more what was published in the second before it took over
    let topic = format!("topic:{:016x}", bongsu::clock::random_u64());
    let mut stream = api.at(0).listen(&format!("fleet:FLT-A01,{topic}"), None).await;
    stream.ready().await;
    api.at(1).update_ei("FLT-A01", 1.0).await;
    assert_eq!(stream.take(1).await[0].event, "ei_updated");
    api.at(1).publish(&topic, "tick", json!({})).await;
    assert_eq!(stream.take(1).await[0].event, "tick");
    api.at(1)
        .post("/v2/events", &json!({"topic": topic, "type": "t", "class": "volatile", "data": {}}))
        .await
        .expect(202);
    assert_eq!(stream.take(1).await[0].event, "t");
}

#[tokio::test]
async fn nodes_find_the_master_by_way_of_sentinels() {
    let server = Server::with(at(redis::shared_sentinel_url()));
    serves(&server).await;
    let operator = server.operator();
    for (name, value) in [("bongsu_redis_masters", 2.0), ("bongsu_redis_linked{link=\"commands\"}", 2.0)] {
        assert_eq!(operator.metric(name).await, value, "{name}, of two nodes");
    }
}

#[tokio::test]
async fn nodes_use_all_masters_of_a_cluster() {
    let server = Server::with(at(redis::shared_cluster_url()));
    serves(&server).await;
    let operator = server.operator();
    for link in ["commands", "subscriber"] {
        let linked = format!("bongsu_redis_linked{{link=\"{link}\"}}");
        let all = async || (operator.metric(&linked).await == 6.0).then_some(());
        eventually("links of two nodes to three masters", all).await;
    }
    assert_eq!(operator.metric("bongsu_redis_masters").await, 6.0);
    // some of them on each
    for tenant in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let api = server.api_of(tenant, "publish,subscribe");
        let mut stream = api.at(0).listen("topic:a", None).await;
        stream.ready().await;
        for n in 0..3 {
            api.at(1).publish("topic:a", "tick", json!({"n": n})).await;
        }
        let heard: Vec<_> =
            stream.take(3).await.iter().map(|event| event.data["data"]["n"].clone()).collect();
        assert_eq!(heard, [0, 1, 2], "{tenant}");
    }
}

#[tokio::test]
async fn sentinels_and_servers_with_users_are_spoken_to_over_tls() {
    let redis = Sentinels::with(GroupOptions::default().user(USER, PASSWORD).tls()).await;
    let options = at(redis.url())
        .set("redis.sentinel_user", USER)
        .set("redis.sentinel_password", PASSWORD)
        .set("redis.tls_ca", redis.authority().display())
        .set("redis.require_tls", true);
    let server = Server::with(options);
    serves(&server).await;
    redis.failover().await;
    back(&server).await;
    serves(&server).await;
}

#[tokio::test]
async fn a_cluster_with_users_is_spoken_to_over_tls() {
    let redis = RedisCluster::with(GroupOptions::default().user(USER, PASSWORD).tls()).await;
    let options =
        at(redis.url()).set("redis.tls_ca", redis.authority().display()).set("redis.require_tls", true);
    let server = Server::with(options);
    serves(&server).await;
    redis.failover(redis.owner(redis.slot("{default}"))).await;
    back(&server).await;
    serves(&server).await;
}

#[tokio::test]
async fn sentinels_and_servers_that_are_called_by_names_are_found_by_them() {
    let redis = Sentinels::with(GroupOptions::default().named()).await;
    let server = Server::with(at(redis.url()));
    serves(&server).await;
    redis.failover().await;
    back(&server).await;
    serves(&server).await;
}

#[tokio::test]
async fn a_cluster_whose_servers_are_called_by_names_is_spoken_to_by_them() {
    let redis = RedisCluster::with(GroupOptions::default().named()).await;
    let server = Server::with(at(redis.url()));
    serves(&server).await;
    redis.failover(redis.owner(redis.slot("{default}"))).await;
    back(&server).await;
    serves(&server).await;
}

/// Publishes until it is taken.
async fn back(server: &Server) {
    eventually("publishes to be taken", async || {
        let event = json!({"topic": "topic:b", "type": "tick", "data": {}});
        (server.api().post("/v2/events", &event).await.status == 202).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_the_documentation_says_a_user_needs_is_enough_in_a_cluster() {
    let redis = RedisCluster::start().await;
    for n in 0..redis.count() {
        let rule = ["ACL", "SETUSER", USER, "on", ">secret", "~mine:*", "&mine:*", "-@all"];
        assert_eq!(redis.cli(n, &rule), "OK");
        for command in needed_commands() {
            // some are of later versions
            redis.cli(n, &["ACL", "SETUSER", USER, &format!("+{command}")]);
        }
    }
    let url = redis.url().replace("redis+cluster://", &format!("redis+cluster://{USER}:secret@"));
    let server = Server::with(at(url).set("redis.prefix", "mine:").set("redis.ingest", false));
    serves(&server).await;
}

#[tokio::test]
async fn a_cluster_takes_in_and_mirrors_what_is_published_at_any_of_its_servers() {
    let redis = RedisCluster::start().await;
    let server = Server::with(at(redis.url()).set("redis.mirror", true));
    let mut stream = server.api().listen("fleet:FLT-OLD", None).await;
    stream.ready().await;
    eventually("somebody to take it in", async || {
        (server.operator().metric("bongsu_ingesting").await == 1.0).then_some(())
    })
    .await;
    for n in 0..3 {
        let message = json!({"fleet_id": "FLT-OLD", "new_ei": n, "timestamp": "2026-01-02T03:04:05.000Z"});
        redis.cli(n, &["PUBLISH", "channel:ei:updates", &message.to_string()]);
        let event = &stream.take(1).await[0];
        assert_eq!((event.event.as_str(), &event.data["data"]["new_ei"]), ("ei_updated", &json!(n)));
    }
    // and who listens anywhere hears of us
    let script = in_package("tests/clients/redis_subscriber.py");
    let url = format!("redis://{}", redis.address(2));
    let arguments = [script.to_str().expect("UTF-8"), &url, "channel:ei:updates"];
    let mut listener = Program::start("/usr/bin/python3", &arguments, &[]);
    listener.find(|line| line.contains("subscribed").then_some(())).await;
    server.api().update_ei("FLT-NEW", 2.0).await;
    listener.find(|line| line.contains("FLT-NEW").then_some(())).await;
    // figures for other services, key by key wherever each lives
    eventually("the figures", async || {
        let find = |n: usize| redis.cli(n, &["GET", "metrics:realtime:connections"]);
        (0..3).any(|n| find(n) == "1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_found_is_named() {
    let refused = |url: String| {
        Server::refuse(ServerOptions::default().cluster(1).env("REDIS_URL", url), "127.0.0.1:0")
    };
    let sentinels = redis::shared_sentinel_url();
    let (servers, _) = sentinels.rsplit_once('/').expect("a service");
    for (url, words) in [
        (format!("{servers}/unknown"), ["redis.url", "unknown"]),
        (servers.to_owned(), ["redis.url", "names no service"]),
        ("redis+sentinel://127.0.0.1:1/bongsu".to_owned(), ["redis.url", "cannot be reached"]),
        ("redis+cluster://127.0.0.1:1".to_owned(), ["redis.url", "cannot be reached"]),
        (redis::shared_cluster_url() + "/3", ["redis.url", "no databases"]),
        (redis::shared_url().replace("redis://", "redis+cluster://"), ["redis.url", "cluster"]),
    ] {
        let said = refused(url);
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
}

#[tokio::test]
async fn a_node_starts_while_one_of_the_masters_is_away_and_says_so() {
    // what the others have is served
    let options = GroupOptions::default().set("cluster-require-full-coverage no");
    let mut redis = RedisCluster::with(options).await;
    let mut server = Server::with(at(redis.url()));
    let owner = |tenant: &str| redis.owner(redis.slot(&format!("{{{tenant}}}")));
    let away = owner("default");
    let tenant = (0..99).map(|n| format!("t{n}")).find(|name| owner(name) != away).expect("one of many");
    let replica = redis.replica_of(away);
    redis.kill(replica);
    redis.kill(away);
    server.kill_node(1);
    server.start_node(1);
    let (api, operator) = (server.api_of(&tenant, "publish,subscribe").at(1), server.operator().at(1));
    let mut stream = api.listen("topic:a", None).await;
    stream.ready().await;
    api.publish("topic:a", "tick", json!({})).await;
    assert_eq!(stream.take(1).await[0].event, "tick");
    let event = json!({"topic": "topic:a", "type": "tick", "data": {}});
    assert_eq!(server.api().at(1).post("/v2/events", &event).await.problem(503), "log_unavailable");
    for (name, value) in [("bongsu_redis_masters", 3.0), ("bongsu_redis_linked{link=\"commands\"}", 2.0)] {
        assert_eq!(operator.metric(name).await, value, "{name}");
    }
    // logs that cannot be reached cannot start afresh
    server.kill_node(0);
    let options = ServerOptions { args: vec!["--new-epoch".into()], ..server.options().clone() };
    let said = Server::refuse(options, "127.0.0.1:0");
    assert!(said.contains("a master is away") && said.contains("--new-epoch"), "{said}");
}

#[tokio::test]
async fn masters_that_take_writes_without_replicas_are_warned_of() {
    let server = Server::with(at(redis::shared_sentinel_url()));
    eventually("the warning", async || server.stderr().contains("min-replicas-to-write").then_some(())).await;
}
