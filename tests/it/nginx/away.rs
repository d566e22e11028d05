//! When no node answers.

use serde_json::{Value, json};

use super::cluster;
use crate::support::{Api, Nginx, Program, Server, ServerOptions, Sse, Ws};

/// What an EventSource is answered.
async fn event_source(api: &Api, path: &str) -> Sse {
    Sse::open(api.request("GET", path).header("Accept", "text/event-stream")).await
}

/// Checks that a stream consists of a close that says when to come back.
async fn assert_comes_back(stream: &mut Sse) {
    let events = stream.rest().await;
    let [close] = events.as_slice() else { panic!("{events:?}") };
    let retry_ms = close.data["retry_ms"].as_u64().expect("a delay");
    assert!((1000..5000).contains(&retry_ms), "{retry_ms}");
    assert_eq!(stream.retry_ms, Some(retry_ms), "EventSource is told too");
    let expected = json!({"code": 1001, "reason": "going_away", "reconnect": true, "retry_ms": retry_ms});
    assert_eq!((close.event.as_str(), &close.data, &close.id), ("close", &expected, &None));
}

fn assert_is_problem(answer: crate::support::Answer, status: u16) {
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let title = if status == 502 { "Bad Gateway" } else { "Gateway Timeout" };
    assert_eq!(answer.json()["title"], title);
    assert_eq!(answer.json()["errors"], json!([]));
    assert_eq!(answer.problem(status), "no_node");
}

#[tokio::test]
async fn an_event_source_is_told_to_come_back_and_others_get_a_problem() {
    let (mut server, nginx) = cluster(ServerOptions::default()).await;
    let api = nginx.api(server.key());
    let mut stream = api.listen("topic:news", None).await;
    stream.ready().await;
    let cursor = stream.cursor.clone().expect("an id");
    server.kill();
    assert_eq!(stream.next().await, None);
    for path in [
        "/v2/realtime/stream?topics=topic:news",
        "/v2/realtime/ei-updates?fleet_ids=FLT-A01",
        "/v2/realtime/bid-updates?bid_ids=1",
        "/v2/realtime/proposal-ranking-updates?bid_id=1",
        "/v2/realtime/order-updates?order_ids=1",
        "/events/sse",
        "/api/events/sse",
        "/api/sse?topics=news",
    ] {
        let mut stream = event_source(&api, path).await;
        assert_eq!(stream.headers["cache-control"], "no-cache, no-transform");
        assert_comes_back(&mut stream).await;
        // as at a node, whoever does not accept an event stream is told in another way
        assert_is_problem(api.get(path).await, 502);
    }
    assert_is_problem(api.get("/v2/fleets").await, 502);
    assert_is_problem(api.get("/v2/realtime/poll?topics=topic:news").await, 502);
    let event = json!({"topic": "topic:news", "type": "headline", "data": {"n": 1}});
    assert_is_problem(api.post("/v2/events", &event).await, 502);
    let path = "/v2/realtime/ws?topics=topic:news";
    let opened = Ws::try_open(nginx.address(), path, &[("x-api-key", server.key())]).await;
    assert_eq!(opened.err(), Some(502));

    (0..3).for_each(|node| server.start_node(node));
    server.api().publish("topic:news", "headline", json!({"n": 2})).await;
    let mut stream = comes_through(&api, &cursor).await;
    assert_eq!(stream.replayed().await.pop().expect("what was missed").data["data"], json!({"n": 2}));
}

/// Comes back, as it is told to, until a node answers.
async fn comes_through(api: &Api, cursor: &str) -> Sse {
    crate::support::eventually("a node", async || {
        let mut stream = api.listen("topic:news", Some(cursor)).await;
        let first = stream.next().await.expect("an event");
        (first.event == "ready").then_some(stream)
    })
    .await
}

#[tokio::test]
async fn what_a_node_answers_itself_is_passed_on_unchanged() {
    let server = Server::with(ServerOptions::default());
    let nginx = Nginx::before(&[server.address(); 3]).await;
    let api = nginx.api(server.key());
    let stranger = nginx.api("nobody-has-this-key");
    let path = "/v2/realtime/stream?topics=topic:news";
    let accepting =
        |api: &Api, path: &str| Api::send(api.request("GET", path).header("Accept", "text/event-stream"));
    let refused = accepting(&stranger, path).await.expect("an answer");
    assert!(refused.headers.contains_key("www-authenticate"));
    assert_eq!(refused.problem(401), "invalid_credentials");
    let refused = accepting(&api, "/v2/realtime/stream?topics=nonsense").await.expect("an answer");
    refused.problem(400);
    let operator = nginx.api(&server.create_key("operator"));
    operator.post("/v2/admin/drain", &Value::Null).await.expect(202);
    let ready = api.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["accepting"]), (503, &json!(false)));
    assert_eq!(api.get("/v2/realtime/poll?topics=topic:news").await.problem(503), "draining");
    let events = event_source(&api, path).await.rest().await;
    assert_eq!(events[0].data["code"], 3000, "{events:?}");
}

#[tokio::test]
async fn heavy_the_eventsource_of_a_browser_comes_back_when_all_nodes_were_away() {
    let mut client = Program::node("browser.mjs", &["ready,headline,close"], &[]);
    let first: Value = serde_json::from_str(&client.line().await.expect("its origin")).expect("JSON");
    let origin = first["origin"].as_str().expect("an origin");
    let options = ServerOptions::default().set("cors.allowed_origins", origin).set("sessions.retry_ms", 200);
    let (mut server, nginx) = cluster(options).await;
    let api = nginx.api(server.key());
    let wanted = json!({"path": "/v2/realtime/stream", "topics": ["topic:news"]});
    let ticket = api.post("/v2/realtime/tickets", &wanted).await.expect(201);
    let ticket = ticket["ticket"].as_str().expect("a ticket");
    client.say(&format!("go {}&ticket={ticket}", api.url("/v2/realtime/stream?topics=topic:news"))).await;
    seen(&mut client, "ready").await;
    server.kill();
    assert_eq!(seen(&mut client, "close").await["code"], 1001);
    (0..3).for_each(|node| server.start_node(node));
    server.api().publish("topic:news", "headline", json!({"n": 1})).await;
    assert_eq!(seen(&mut client, "headline").await["data"], json!({"n": 1}));
    assert!(client.end().await.success());
}

/// The data of the next event of this name; a client that gives up on the way fails.
async fn seen(client: &mut Program, name: &str) -> Value {
    let wanted = |line: &str| {
        let seen: Value = serde_json::from_str(line).expect("JSON");
        assert_ne!(seen["readyState"], 2, "it gave up: {line}");
        (seen["event"] == name).then(|| seen["data"].clone())
    };
    client.find(wanted).await
}

#[tokio::test]
async fn a_node_that_says_nothing_in_time_is_504() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let hurried = |text: &str| text.replace("proxy_read_timeout 30s", "proxy_read_timeout 100ms");
    let nginx = Nginx::with(&[silent.local_addr().expect("an address"); 3], hurried).await;
    assert_is_problem(nginx.api("a-key").get("/v2/fleets").await, 504);
}

#[tokio::test]
async fn nodes_that_are_back_get_streams_at_once_though_none_ends() {
    let (mut server, nginx) = cluster(ServerOptions::default()).await;
    let api = nginx.api(server.key());
    server.kill();
    for _ in 0..6 {
        assert_comes_back(&mut event_source(&api, "/v2/realtime/stream?topics=topic:news").await).await;
    }
    server.restart(|options| options);
    let mut streams = Vec::new();
    for _ in 0..12 {
        let mut stream = api.listen("topic:news", None).await;
        stream.ready().await;
        streams.push(stream);
    }
}
