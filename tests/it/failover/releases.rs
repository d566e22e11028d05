//! Nodes of this release and of the next one share Redis and database: what each writes the other reads, and each takes over
//! from the other.

use std::time::Instant;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{FLEET, Stage, TOPIC, scenarios};
use crate::cluster::leader;
use crate::support::load::{Publishing, Reports};
use crate::support::redis::{self, RedisCluster};
use crate::support::{
    Api, Follower, Redis, Server, ServerOptions, Sse, Transport, Way, eventually, next_release,
};

fn nodes(count: usize) -> ServerOptions {
    ServerOptions::default().cluster(count).unlimited()
}

/// Nodes of which the second is of the next release.
fn of_two_releases(options: ServerOptions) -> Server {
    let mut server = Server::with(options);
    server.kill_node(1);
    server.start_node_with(1, |options| options.program(next_release()));
    server
}

/// Starts a node again by the binary that it was started by in [`of_two_releases`].
fn start_again(server: &mut Server, node: usize) {
    server.start_node_with(node, |options| if node == 1 { options.program(next_release()) } else { options });
}

/// Calls a command of Redis where the server's log is; `{}` stands for what the names of its keys begin with.
fn cli(server: &Server, args: &[&str]) -> String {
    let of = |name: &str| &server.options().env.iter().find(|own| own.0 == name).expect("a cluster's").1;
    let prefix = format!("{}{{default}}:", of("BONGSU__REDIS__PREFIX"));
    let args: Vec<String> = args.iter().map(|own| own.replace("{}", &prefix)).collect();
    redis::cli(of("REDIS_URL"), &args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Both have written to the log, each as its release does, and everybody could read all of it.
async fn assert_both_wrote(server: &Server) {
    let printed = cli(server, &["XRANGE", "{}log", "-", "+"]);
    let count = |line: &str| printed.lines().filter(|own| *own == line).count();
    let (all, by_next) = (count("data"), count("next"));
    assert!(by_next > 0 && by_next < all, "{by_next} of {all} entries have what the next release adds");
    assert_eq!(cli(server, &["HMGET", "{}meta", "layout", "since"]), "2\n1");
    assert_eq!(server.operator().metric("bongsu_bus_malformed_total").await, 0.0);
}

async fn listen_everywhere(server: &Server, topics: &str) -> Vec<Sse> {
    let mut streams = Vec::new();
    for api in server.api().everywhere() {
        let mut stream = api.listen(topics, None).await;
        stream.ready().await;
        streams.push(stream);
    }
    streams
}

#[tokio::test]
async fn what_is_said_at_nodes_of_either_release_is_heard_at_both_once_and_in_order() {
    let server = of_two_releases(nodes(2));
    let streams = listen_everywhere(&server, "fleet:FLT-A01,topic:a").await;
    let mut n = 0;
    for _ in 0..10 {
        for api in server.api().everywhere() {
            api.update_ei(FLEET, 1.0).await;
            for class in ["durable", "latest", "volatile"] {
                let event = json!({"topic": TOPIC, "type": "tick", "class": class, "data": {"n": n}});
                api.post("/v2/events", &event).await.expect(202);
                n += 1;
            }
        }
    }
    for mut stream in streams {
        let heard = stream.take(80).await;
        let of = |name: &str, field: &str| -> Vec<Value> {
            let own = heard.iter().filter(|event| event.event == name);
            own.map(|event| event.data["data"][field].clone()).collect()
        };
        assert_eq!(of("tick", "n"), (0..60).map(Value::from).collect::<Vec<_>>());
        assert_eq!(of("ei_updated", "version"), (1..=20).map(Value::from).collect::<Vec<_>>());
    }
    assert_both_wrote(&server).await;
}

#[tokio::test]
async fn a_cursor_of_either_release_is_good_at_both() {
    let mut server = of_two_releases(nodes(2));
    let before = server.api().publish(TOPIC, "before", json!({})).await;
    let mut cursors = vec![before.clone()];
    for n in 0..20 {
        cursors.push(server.api().at(n % 2).publish(TOPIC, "tick", json!({"n": n})).await);
    }
    // from memory, and then from the log
    for _ in 0..2 {
        for api in server.api().everywhere() {
            for (first, cursor) in cursors.iter().enumerate() {
                let mut stream = api.listen(TOPIC, Some(cursor)).await;
                assert_eq!(stream.ready().await["recovered"], true);
                let missed = stream.take(20 - first).await;
                let numbers: Vec<_> = missed.iter().map(|event| event.data["data"]["n"].clone()).collect();
                assert_eq!(numbers, (first..20).map(Value::from).collect::<Vec<_>>());
            }
        }
        for node in 0..2 {
            server.kill_node(node);
            start_again(&mut server, node);
        }
    }
    assert_both_wrote(&server).await;
}

#[tokio::test]
async fn what_nodes_of_two_releases_tell_each_other_is_understood_by_both() {
    let server = of_two_releases(nodes(2));
    let api = server.api();
    let issued = api.post("/v2/realtime/tickets", &json!({"topics": [TOPIC]})).await.expect(201);
    let ticket = issued["ticket"].as_str().expect("a ticket");
    let path = format!("/v2/realtime/stream?topics={TOPIC}&ticket={ticket}");
    let mut older = api.anonymous().at(0).stream(&path, None).await;
    older.ready().await;
    for node in [1, 0, 1] {
        let mut newer = api.anonymous().at(node).stream(&path, None).await;
        newer.ready().await;
        assert_eq!(older.expect("close").await.data["reason"], "replaced");
        older = newer;
    }
    let admin = server.api_with(&server.create_key("admin"));
    for node in [0, 1] {
        let (id, api) = server.new_key(&["--scopes", "subscribe"]);
        let mut stream = api.at(1 - node).listen(TOPIC, None).await;
        stream.ready().await;
        admin.at(node).delete(&format!("/v2/admin/keys/{id}")).await.expect(204);
        assert_eq!(stream.expect("close").await.data["code"], 3500);
    }
    // an outbox is filled at one node and published by the other, whichever leads
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    for version in 1..=10 {
        api.at(version % 2).update_ei(FLEET, 1.0).await;
        assert_eq!(stream.take(1).await[0].data["data"]["version"], version);
    }
    // and each knows what both of them do
    eventually("the figures of both nodes", async || {
        let mut open = Vec::new();
        for api in api.everywhere() {
            open.push(api.get("/v2/realtime/metrics").await.json()["activeConnections"].clone());
        }
        (open == [2, 2]).then_some(())
    })
    .await;
    assert_eq!(server.operator().metric("bongsu_bus_malformed_total").await, 0.0);
}

/// What there is in the end: the fleet's version, and how many counts were published.
type Goal = (i64, u64);

/// Hears a fleet and a topic up to the end, each once and in order, over any number of connections; how many there were.
async fn hear(mut own: Follower, mut goal: watch::Receiver<Option<Goal>>) -> usize {
    let (mut version, mut count) = (0, 0);
    while goal.borrow_and_update().is_none_or(|goal| goal != (version, count)) {
        tokio::select! {
            heard = own.next() => match heard.name.as_str() {
                "ei_updated" => {
                    version += 1;
                    assert_eq!(heard.data["version"], version, "a gap, a repetition or another order");
                }
                "counted" => {
                    assert_eq!(heard.data["count"], count, "a gap, a repetition or another order");
                    count += 1;
                }
                other => panic!("{other}"),
            },
            changed = goal.changed() => changed.expect("it is told in the end"),
        }
    }
    own.connections
}

/// Commands and publishes at any node, and those who hear of them.
struct Load {
    reports: Reports,
    publishing: Publishing,
    tell: watch::Sender<Option<Goal>>,
    hearers: Vec<JoinHandle<usize>>,
}

impl Load {
    /// With so many who listen at each node, over every transport.
    async fn start(server: &Server, each: usize) -> Self {
        let (tell, goal) = watch::channel(None);
        let mut hearers = Vec::new();
        for node in server.api().everywhere() {
            for number in 0..each {
                let transports = [Transport::Sse, Transport::WebSocket, Transport::SseBatches];
                let way = Way::Topics(transports[number % 3], format!("fleet:{FLEET},{TOPIC}"));
                let follower = Follower::new(&node, &way, None).await.coming_back_to(&server.api());
                hearers.push(tokio::spawn(hear(follower, goal.clone())));
            }
        }
        let reports = Reports::start_again(server.api(), FLEET);
        let load = Load { reports, publishing: Publishing::start(server.api(), TOPIC), tell, hearers };
        load.goes_on().await;
        load
    }

    async fn goes_on(&self) {
        self.reports.reaches(self.reports.count() + 20).await;
        self.publishing.goes_on().await;
    }

    /// Ends it, and waits until everybody has everything; how many connections that took.
    async fn end(self) -> usize {
        let goal = (self.reports.stop().await, self.publishing.stop().await.count());
        self.tell.send(Some(goal)).expect("they listen");
        let mut connections = 0;
        for hearer in self.hearers {
            connections += hearer.await.expect("each once and in order");
        }
        eprintln!("{} reports and {} counts over {connections} connections", goal.0, goal.1);
        connections
    }
}

#[tokio::test]
async fn the_lead_goes_from_one_release_to_the_other_and_back() {
    let mut server = of_two_releases(nodes(2));
    let load = Load::start(&server, 3).await;
    let operator = server.operator();
    let first = leader(&operator, [0, 1]).await;
    for old in [first, 1 - first] {
        let fault = Instant::now();
        server.kill_node(old);
        load.goes_on().await;
        assert_eq!(leader(&operator, [1 - old]).await, 1 - old);
        eprintln!("node {old} killed: the other one leads, and all goes on, after {:?}", fault.elapsed());
        start_again(&mut server, old);
        leader(&operator, [0, 1]).await;
    }
    assert!(load.end().await >= 6 + 6, "each had a node killed under it at least once");
    assert_both_wrote(&server).await;
}

/// What another service publishes is heard at these nodes.
async fn assert_taken_in(server: &Server, redis: &Redis, nodes: std::ops::Range<usize>) {
    let mut streams = Vec::new();
    for node in nodes {
        let mut stream = server.api().at(node).listen("fleet:FLT-OLD", None).await;
        stream.ready().await;
        streams.push(stream);
    }
    eventually("somebody to hear the channel", async || {
        let heard = redis.cli(&["PUBSUB", "NUMSUB", "channel:ei:updates"]);
        (heard == "channel:ei:updates\n1").then_some(())
    })
    .await;
    for n in 0..10 {
        let message = json!({"fleet_id": "FLT-OLD", "new_ei": n, "timestamp": "2026-01-02T03:04:05.000Z"});
        redis.cli(&["PUBLISH", "channel:ei:updates", &message.to_string()]);
        for stream in &mut streams {
            assert_eq!(stream.take(1).await[0].data["data"]["new_ei"], n);
        }
    }
}

#[tokio::test]
async fn either_release_takes_in_what_other_services_publish() {
    let redis = Redis::start().await;
    let mut server = of_two_releases(nodes(2).env("REDIS_URL", redis.url()));
    let operator = server.operator();
    let first = leader(&operator, [0, 1]).await;
    assert_taken_in(&server, &redis, 0..2).await;
    server.kill_node(first);
    let second = 1 - first;
    leader(&operator, [second]).await;
    assert_taken_in(&server, &redis, second..second + 1).await;
    start_again(&mut server, first);
    assert_both_wrote(&server).await;
}

#[tokio::test]
async fn nodes_of_two_releases_go_over_to_another_master_together() {
    let redis = RedisCluster::start().await;
    let stage = Stage::of(of_two_releases(nodes(3).env("REDIS_URL", redis.url()))).await;
    scenarios::killed_on(stage, "cluster, nodes of two releases", redis).await;
}

/// Replaces a node in order.
async fn replace(server: &mut Server, node: usize, change: impl FnOnce(ServerOptions) -> ServerOptions) {
    server.signal_node(node, "TERM");
    assert_eq!(server.node_ended(node).await.code(), Some(0));
    server.start_node_with(node, change);
    let api: Api = server.api().at(node);
    eventually("readiness", async || (api.get("/ready").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn heavy_an_upgrade_node_by_node_and_the_way_back_are_missed_by_nobody() {
    let mut server = Server::with(nodes(3).set("drain.retry_spread_ms", 1000));
    let load = Load::start(&server, 6).await;
    for node in 0..3 {
        replace(&mut server, node, |options| options.program(next_release())).await;
        load.goes_on().await;
    }
    // all of them are of the next release now
    let mark = server.api().publish("topic:mark", "mark", json!({})).await;
    let id = format!("{}-0", crate::support::client::seq(&mark));
    assert!(cli(&server, &["XRANGE", "{}log", &id, &id]).lines().any(|line| line == "next"));
    for node in 0..3 {
        replace(&mut server, node, |options| options).await;
        load.goes_on().await;
    }
    assert!(load.end().await >= 18 * 3, "the nodes were replaced under all of them");
    assert_both_wrote(&server).await;
}

#[tokio::test]
async fn what_only_a_later_release_can_read_is_refused_by_name_and_comes_once_it_can_be_read() {
    let server = Server::with(nodes(2));
    let mut streams = listen_everywhere(&server, "fleet:FLT-A01,topic:a").await;
    let api = server.api();
    // a message that came on the bus
    let message = ["9", "9", "8", "0000000000000000"].map(|part| format!("{}:{part},", part.len())).concat();
    assert_eq!(cli(&server, &["PUBLISH", "{}live", &message]), "2");
    let operator = server.operator();
    eventually("both nodes to pass it over", async || {
        (operator.metric("bongsu_bus_malformed_total").await == 2.0).then_some(())
    })
    .await;
    eventually("log lines that say why", async || {
        (server.stderr().matches("it was written by a newer release").count() == 2).then_some(())
    })
    .await;
    // the log itself
    cli(&server, &["HSET", "{}meta", "since", "9"]);
    let event = json!({"topic": TOPIC, "type": "tick", "data": {}});
    for api in api.everywhere() {
        assert_eq!(api.post("/v2/events", &event).await.problem(503), "log_unavailable");
        api.update_ei(FLEET, 1.0).await;
    }
    eventually("a log line that says why", async || {
        server.stderr().contains("the log was written by a newer release").then_some(())
    })
    .await;
    cli(&server, &["HSET", "{}meta", "since", "1"]);
    for stream in &mut streams {
        let heard = stream.take(2).await;
        let versions: Vec<_> = heard.iter().map(|event| event.data["data"]["version"].clone()).collect();
        assert_eq!(versions, [1, 2]);
    }
    api.post_until_done("/v2/events", &event, "again").await;
    for stream in &mut streams {
        assert_eq!(stream.take(1).await[0].event, "tick");
    }
}
