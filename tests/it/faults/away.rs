//! Connections that are asked for while the store is away: each is told when to come back, the way its client
//! understands, and what it brought is still good then.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::raw::RawAnswer;
use crate::support::{Api, Outsider, Raw, Server, ServerOptions, Ws, eventually};

/// A request with other headers, and a query for one topic and `more`.
async fn ask(server: &Server, path: &str, more: &str, headers: &str) -> Raw {
    let mut raw = Raw::connect(server.address()).await;
    raw.send(format!("GET {path}?topics=topic:away&{more} HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).await;
    raw
}

/// The answer to an EventSource; it must begin within a second, and tell to come back.
async fn stream_is_told(server: &Server, more: &str, headers: &str) {
    let asked = Instant::now();
    let headers = format!("Accept: text/event-stream\r\n{headers}");
    let mut raw = ask(server, "/v2/realtime/stream", more, &headers).await;
    raw.read_until("\n\n").await;
    assert!(asked.elapsed() < Duration::from_secs(1), "the first bytes came after {:?}", asked.elapsed());
    let text = raw.rest().await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("retry: "), "{text}");
    let [close] = &raw.events()[..] else { panic!("one event and no more: {text}") };
    assert_eq!((close.event.as_str(), &close.data["code"]), ("close", &json!(1001)), "{text}");
    assert_eq!(close.data["reconnect"], true);
}

fn assert_unavailable(answer: &RawAnswer) {
    let code = answer.problem(503);
    assert!(["store_unavailable", "not_in_time"].contains(&code.as_str()), "{code}");
    assert!(answer.header("retry-after").is_some_and(|after| after != "0"), "{answer:?}");
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// On each transport, with credentials that cannot be judged now.
async fn all_are_told(server: &Server, more: impl AsyncFn() -> String, headers: &str) {
    stream_is_told(server, &more().await, headers).await;
    // a client that asks for no event stream reads problems
    for path in ["/v2/realtime/stream", "/v2/realtime/poll"] {
        assert_unavailable(&ask(server, path, &more().await, headers).await.answer().await);
    }
    let headers = format!("{UPGRADE}{headers}");
    assert_unavailable(&ask(server, "/v2/realtime/ws", &more().await, &headers).await.answer().await);
}

async fn ticket(api: &Api) -> String {
    let issued = api.post("/v2/realtime/tickets", &json!({"topics": ["topic:away"]})).await.expect(201);
    format!("ticket={}", issued["ticket"].as_str().expect("a ticket"))
}

#[tokio::test]
async fn a_tickets_first_use_while_nothing_can_be_written_is_told_to_come_back_and_loses_nothing() {
    let server = Server::start();
    let api = server.api();
    api.publish("topic:away", "before", 0.into()).await;
    let tickets = [ticket(&api).await, ticket(&api).await, ticket(&api).await, ticket(&api).await];
    let next = std::cell::Cell::new(0);
    let mut outsider = Outsider::open(server.data_dir());
    outsider.run("BEGIN EXCLUSIVE");
    let unused = async || tickets[next.replace(next.get() + 1)].clone();
    all_are_told(&server, unused, "").await;
    outsider.run("ROLLBACK");
    let topics = "topics=topic:away";
    for path in ["/v2/realtime/stream", "/v2/realtime/poll"] {
        let of = usize::from(path.ends_with("poll")) * 2;
        let answer = api.anonymous().request("GET", &format!("{path}?{topics}&{}", tickets[of]));
        assert_eq!(answer.send().await.expect("an answer").status(), 200, "{path}");
    }
    let path = format!("/v2/realtime/ws?{topics}&{}", tickets[3]);
    let mut ws = Ws::try_open(server.address(), &path, &[]).await.expect("a connection");
    assert_eq!(ws.ready().await["topics"], json!(["topic:away"]));
}

#[tokio::test]
async fn credentials_that_cannot_be_looked_up_are_not_called_wrong() {
    let server = Server::start();
    let api = server.api();
    let mut outsider = Outsider::open(server.data_dir());
    let held = ticket(&api).await;
    let swap = |from: &str, to: &str| {
        ["security_state", "tickets"]
            .map(|table| format!("ALTER TABLE {table}{from} RENAME TO {table}{to};"))
            .concat()
    };
    outsider.run(&swap("", "_away"));
    all_are_told(&server, async || String::new(), "X-API-Key: bk_of_another_node\r\n").await;
    all_are_told(&server, async || held.clone(), "").await;
    let mut ws = Ws::try_open(server.address(), "/v2/realtime/ws", &[]).await.expect("a connection");
    assert_eq!(ws.refused("auth", json!({"token": "bk_of_another_node"})).await, "store_unavailable");
    let closed = ws.closed().await;
    let reason: Value = serde_json::from_str(&closed.reason).expect("JSON");
    assert_eq!((closed.code, reason["retry_ms"].is_u64()), (1001, true), "{closed:?}");
    // whom the node knows it lets in
    api.listen("topic:away", None).await.ready().await;
    outsider.run(&swap("_away", ""));
    let stranger = server.api_with("bk_of_another_node");
    eventually("a judgement", async || {
        (stranger.get("/v2/realtime/poll?topics=topic:away").await.status == 401).then_some(())
    })
    .await;
    let path = format!("/v2/realtime/stream?topics=topic:away&{held}");
    api.anonymous().stream(&path, None).await.ready().await;
}

#[tokio::test]
async fn a_connection_whose_log_cannot_be_made_is_told_to_come_back() {
    let server = Server::with(ServerOptions::default().set("storage.wait_ms", 300));
    let api = server.api_of("newcomers", "subscribe");
    let mut outsider = Outsider::open(server.data_dir());
    outsider.run("BEGIN EXCLUSIVE");
    stream_is_told(&server, "", &format!("X-API-Key: {}\r\n", api.key())).await;
    let polled = api.get("/v2/realtime/poll?topics=topic:away").await.expect(200);
    assert_eq!((&polled["close"]["code"], &polled["close"]["reconnect"]), (&json!(1001), &json!(true)));
    assert_eq!((&polled["events"], &polled["cursor"]), (&json!([]), &Value::Null));
    let mut ws = Ws::open(server.address(), api.key(), "topics=topic:away").await;
    assert_eq!(ws.closed().await.code, 1001);
    outsider.run("ROLLBACK");
    api.listen("topic:away", None).await.ready().await;
    let polled = api.get("/v2/realtime/poll?topics=topic:away").await.expect(200);
    assert!(polled["cursor"].is_string() && polled.get("close").is_none_or(Value::is_null), "{polled}");
    Ws::open(server.address(), api.key(), "topics=topic:away").await.ready().await;
}
