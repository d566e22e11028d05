//! The same limits on a WebSocket, whose requests pass none of the app's middleware.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{behind_a_proxy, refusals};
use crate::support::{Server, ServerOptions, Ws};

const PATH: &str = "/v2/realtime/ws?topics=topic:a";

async fn open_from(address: &str, server: &Server) -> Result<Ws, u16> {
    Ws::try_open(server.address(), PATH, &[("x-forwarded-for", address)]).await
}

fn strict(attempts: u32) -> ServerOptions {
    behind_a_proxy().set("limits.attempts_per_min", attempts).set("limits.failure_delay_max_ms", 0)
}

#[tokio::test]
async fn a_stranger_that_never_says_who_it_is_has_used_up_an_attempt() {
    let server = Server::with(strict(3).set("auth.websocket_timeout_ms", 100));
    for _ in 0..3 {
        let mut ws = open_from("198.51.100.1", &server).await.expect("a connection");
        assert_eq!(ws.closed().await.code, 3500);
    }
    assert_eq!(open_from("198.51.100.1", &server).await.err(), Some(429));
    assert!(open_from("192.0.2.1", &server).await.is_ok(), "others are not hurt");
    assert_eq!(refusals(&server, "attempts").await, 1.0);
}

#[tokio::test]
async fn a_wrong_token_uses_an_attempt_up_and_a_right_one_gives_it_back() {
    let server = Server::with(strict(3));
    for _ in 0..10 {
        let mut ws = open_from("198.51.100.1", &server).await.expect("a connection");
        ws.done("auth", json!({"token": server.key()})).await;
        ws.ready().await;
    }
    for _ in 0..10 {
        let headers = [("x-forwarded-for", "198.51.100.1"), ("x-api-key", server.key())];
        Ws::try_open(server.address(), PATH, &headers).await.expect("a connection").ready().await;
    }
    for _ in 0..3 {
        let mut ws = open_from("198.51.100.1", &server).await.expect("a connection");
        assert_eq!(ws.refused("auth", json!({"token": "nobody-has-this-key"})).await, "invalid_credentials");
        assert_eq!(ws.closed().await.code, 3500);
    }
    assert_eq!(open_from("198.51.100.1", &server).await.err(), Some(429));
}

#[tokio::test]
async fn a_place_that_is_not_free_is_told_with_the_time_to_come_back() {
    let server = Server::with(ServerOptions::default().set("limits.connections_per_tenant", 1));
    let mut first = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    first.ready().await;
    let with_key = Ws::try_open(server.address(), PATH, &[("x-api-key", server.key())]).await;
    assert_eq!(with_key.err(), Some(429));
    let mut second = Ws::try_open(server.address(), PATH, &[]).await.expect("a connection");
    let reply = second.ask("auth", json!({"token": server.key()})).await;
    assert_eq!(reply["error"]["code"], "rate_limited");
    assert_eq!(reply["error"]["retry_after_ms"], 10_000);
    let closed = second.closed().await;
    let reason: Value = serde_json::from_str(&closed.reason).expect("JSON");
    assert_eq!((closed.code, &reason["retry_ms"]), (3503, &json!(10_000)));
    assert_eq!(refusals(&server, "tenant_connections").await, 2.0);
}

#[tokio::test]
async fn publishes_and_commands_are_limited_by_the_same_buckets_as_over_http() {
    let options = ServerOptions::default()
        .set("limits.key_publishes_per_s", 1)
        .set("limits.key_publishes_burst", 2)
        .set("limits.key_commands_per_s", 1)
        .set("limits.key_commands_burst", 2);
    let server = Server::with(options);
    let mut ws = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    ws.ready().await;
    let event = super::event("topic:a");
    server.api().post("/v2/events", &event).await.expect(202);
    ws.done("publish", event.clone()).await;
    let reply = ws.ask("publish", event).await;
    assert_eq!(reply["error"]["code"], "rate_limited");
    assert!((1..=1000).contains(&reply["error"]["retry_after_ms"].as_u64().unwrap_or_default()), "{reply}");
    let command = json!({"name": "update_ei", "data": {"fleet_id": "FLT-A01", "new_ei": 1}});
    ws.done("command", command.clone()).await;
    ws.done("command", command.clone()).await;
    assert_eq!(ws.refused("command", command).await, "rate_limited");
    // the connection itself goes on
    ws.done("ping", json!({})).await;
    assert_eq!((refusals(&server, "publishes").await, refusals(&server, "commands").await), (1.0, 1.0));
}

#[tokio::test]
async fn deep_json_is_refused_over_a_websocket_too() {
    let server = Server::start();
    let mut ws = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    ws.ready().await;
    let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    ws.send_text(&format!(
        "{{\"id\":7,\"op\":\"publish\",\"topic\":\"topic:a\",\"type\":\"note\",\"data\":{nested}}}"
    ))
    .await;
    let reply = ws.next().await.expect("an answer");
    assert_eq!((&reply["reply"], &reply["error"]["code"]), (&json!(7), &json!("too_deep")));
}

#[tokio::test]
async fn a_block_ends_a_websocket_within_a_second() {
    let server = Server::with(behind_a_proxy());
    let headers = [("x-forwarded-for", "198.51.100.1"), ("x-api-key", server.key())];
    let mut ws = Ws::try_open(server.address(), PATH, &headers).await.expect("a connection");
    ws.ready().await;
    let mut bystander = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    bystander.ready().await;
    let since = Instant::now();
    server.operator().post("/v2/admin/blocklist", &json!({"cidr": "198.51.100.1"})).await.expect(201);
    assert_eq!(ws.closed().await.code, 3501);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    bystander.done("ping", json!({})).await;
    assert_eq!(Ws::try_open(server.address(), PATH, &headers).await.err(), Some(403));
}

#[tokio::test]
async fn what_a_connection_is_refused_is_counted_and_answered_more_and_more_slowly() {
    let options = behind_a_proxy().set("limits.attempts_per_min", 5).set("limits.failure_delay_max_ms", 160);
    let server = Server::with(options);
    let key = server.create_key("subscribe");
    let headers = [("x-forwarded-for", "198.51.100.1"), ("x-api-key", key.as_str())];
    let mut ws = Ws::try_open(server.address(), PATH, &headers).await.expect("a connection");
    ws.ready().await;
    let mut forbidden = async |count: u32| {
        let started = Instant::now();
        for _ in 0..count {
            let event = json!({"topic": "topic:a", "type": "note", "data": 1});
            assert_eq!(ws.refused("publish", event).await, "forbidden");
        }
        started.elapsed() / count
    };
    forbidden(40).await;
    let each = forbidden(20).await;
    assert!(each >= Duration::from_millis(18), "{each:?}");
    // wrong tokens are attempts, as they are in a handshake
    for _ in 0..5 {
        assert_eq!(ws.refused("auth", json!({"token": "nobody-has-this-key"})).await, "invalid_credentials");
    }
    assert_eq!(ws.refused("auth", json!({"token": "nobody-has-this-key"})).await, "rate_limited");
    assert_eq!(open_from("198.51.100.1", &server).await.err(), Some(429));
    ws.done("subscribe", json!({"topics": ["admin", "dashboard"]})).await;
    let operator = server.operator();
    for (reason, count) in [("forbidden", 60.0), ("invalid_credentials", 6.0), ("forbidden_topics", 1.0)] {
        let name = format!("bongsu_auth_failures_total{{reason=\"{reason}\"}}");
        assert_eq!(operator.metric(&name).await, count, "{reason}");
    }
}
