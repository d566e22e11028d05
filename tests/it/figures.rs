//! The few figures of all nodes together that dashboards show.

use serde_json::{Value, json};

use crate::support::{Api, Proxy, Redis, Server, ServerOptions, eventually};

/// None: the node knows of none.
async fn figures(api: &Api) -> Option<Value> {
    let answer = api.get("/v2/realtime/metrics").await;
    match answer.status {
        200 => Some(answer.json()),
        _ => {
            assert_eq!(answer.problem(503), "log_unavailable");
            None
        }
    }
}

/// Waits until what `api` is told has these values.
async fn told(api: &Api, connections: u64, total: u64) -> Value {
    eventually(&format!("{connections} connections and {total} messages"), async || {
        let told = figures(api).await?;
        let wanted = (&told["activeConnections"], &told["totalMessagesPublished"]);
        (wanted == (&json!(connections), &json!(total))).then_some(told)
    })
    .await
}

async fn are_those_of_every_node(server: &Server, nodes: usize) {
    let mut streams = Vec::new();
    for node in 0..nodes {
        let mut stream = server.api().at(node).listen("topic:a", None).await;
        stream.ready().await;
        streams.push(stream);
    }
    for number in 0..6 {
        server.api().at(number % nodes).publish("topic:a", "note", json!(number)).await;
    }
    for stream in &mut streams {
        stream.take(6).await;
    }
    for node in 0..nodes {
        let told = told(&server.api().at(node), nodes as u64, 6).await;
        let names: Vec<_> = told.as_object().expect("an object").keys().map(String::as_str).collect();
        let wanted = [
            "activeConnections",
            "averageMessageLatency",
            "errorRate",
            "messagesPerSecond",
            "totalMessagesPublished",
        ];
        assert_eq!(names, wanted);
        let rate = told["messagesPerSecond"].as_f64().expect("a number");
        assert!(rate > 0.0 && rate < 6.5 * nodes as f64, "{told}");
        let latency = told["averageMessageLatency"].as_f64().expect("a number");
        assert!(latency > 0.0 && latency < 10_000.0, "{told}");
        assert_eq!(told["errorRate"], 0.0);
    }
    drop(streams);
    told(&server.api(), 0, 6).await;
}

#[tokio::test]
async fn of_one_process_are_its_own() {
    are_those_of_every_node(&Server::start(), 1).await;
}

#[tokio::test]
async fn of_a_cluster_are_those_of_all_its_nodes_together() {
    // on a Redis of its own: what is counted there is this cluster's from the beginning
    let redis = Redis::start().await;
    let server = Server::with(ServerOptions::default().cluster(3).env("REDIS_URL", redis.url()));
    are_those_of_every_node(&server, 3).await;
}

#[tokio::test]
async fn outlive_a_node_and_its_connections_do_not() {
    let redis = Redis::start().await;
    let mut server = Server::with(ServerOptions::default().cluster(2).env("REDIS_URL", redis.url()));
    let mut stays = server.api().at(0).listen("topic:a", None).await;
    let mut goes = server.api().at(1).listen("topic:a", None).await;
    stays.ready().await;
    goes.ready().await;
    server.api().at(1).publish("topic:a", "note", json!(1)).await;
    told(&server.api(), 2, 1).await;
    server.kill_node(1);
    told(&server.api().at(0), 1, 1).await;
}

#[tokio::test]
async fn are_refused_while_the_nodes_cannot_tell_each_other_and_miss_nothing_afterwards() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let url = proxy.url(&redis.url(), redis.address());
    let server = Server::with(ServerOptions::default().cluster(1).env("REDIS_URL", url));
    server.api().publish("topic:a", "note", json!(1)).await;
    told(&server.api(), 0, 1).await;
    proxy.refuse();
    proxy.cut();
    eventually("a refusal", async || figures(&server.api()).await.is_none().then_some(())).await;
    proxy.resume();
    eventually("the log", async || {
        let event = json!({"topic": "topic:a", "type": "note", "data": 2});
        (server.api().post("/v2/events", &event).await.status == 202).then_some(())
    })
    .await;
    told(&server.api(), 0, 2).await;
}
