//! What every request has to pass, on the app's way and on the upgrade's, and what every answer carries.

use serde_json::{Value, json};

use super::{behind_a_proxy, refusals};
use crate::support::raw::RawAnswer;
use crate::support::{Api, Raw, Server, ServerOptions};

async fn answer(server: &Server, head: &str) -> RawAnswer {
    let mut raw = Raw::connect(server.address()).await;
    raw.send(format!("{head}\r\n\r\n")).await;
    raw.answer().await
}

fn upgrade(headers: &str) -> String {
    format!(
        "GET /v2/realtime/anything HTTP/1.1\r\nHost: rt.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=={headers}"
    )
}

const HARDENING: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("cache-control", "no-store"),
];

#[tokio::test]
async fn a_page_of_a_foreign_origin_opens_no_websocket() {
    let server = Server::with(ServerOptions::default().set("cors.allowed_origins", "https://app.example"));
    let allowed = ["", "\r\nOrigin: https://app.example", "\r\nOrigin: https://rt.example"];
    for origin in allowed {
        assert_eq!(answer(&server, &upgrade(origin)).await.problem(404), "no_websocket", "{origin}");
    }
    for origin in ["https://evil.example", "null", "https://app.example.evil", "http://rt.example:8080"] {
        let refused = answer(&server, &upgrade(&format!("\r\nOrigin: {origin}"))).await;
        assert_eq!(refused.problem(403), "forbidden_origin", "{origin}");
    }
    assert_eq!(refusals(&server, "forbidden_origin").await, 4.0);
}

#[tokio::test]
async fn upgrades_are_connection_attempts() {
    let options = behind_a_proxy().set("limits.attempts_per_min", 3).set("limits.failure_delay_max_ms", 0);
    let server = Server::with(options);
    let from = |address: &str| upgrade(&format!("\r\nX-Forwarded-For: {address}"));
    for _ in 0..3 {
        assert_eq!(answer(&server, &from("198.51.100.1")).await.status, 404);
    }
    let refused = answer(&server, &from("198.51.100.1")).await;
    assert_eq!(refused.problem(429), "rate_limited");
    let after = refused.header("retry-after").and_then(|after| after.parse::<u64>().ok());
    assert!(after.is_some_and(|after| (15..=20).contains(&after)), "{refused:?}");
    assert_eq!(answer(&server, &from("192.0.2.1")).await.status, 404);
    assert_eq!(refusals(&server, "attempts").await, 1.0);
}

#[tokio::test]
async fn every_answer_names_its_request_and_says_what_browsers_may_not_do_with_it() {
    let server = Server::start();
    let key = server.key();
    let get =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nX-Request-Id: mine-1");
    let heads = [get("/v2/fleets"), get("/v2/nowhere"), get("/health"), upgrade("\r\nX-Request-Id: mine-1")];
    for head in heads {
        let answer = answer(&server, &head).await;
        for (name, value) in HARDENING {
            assert_eq!(answer.header(name), Some(value), "{name}: {answer:?}");
        }
        assert_eq!(answer.header("x-request-id"), Some("mine-1"));
        assert_eq!(answer.header("strict-transport-security"), None, "only over TLS");
    }
    let made_up = answer(&server, "GET /health HTTP/1.1\r\nHost: a\r\nX-Request-Id: a b\"c").await;
    assert_eq!(made_up.header("x-request-id").map(str::len), Some(36), "{made_up:?}");
    let stream = server.api().listen("topic:a", None).await;
    assert_eq!(stream.headers["cache-control"], "no-cache, no-transform", "a stream keeps its own");
    assert_eq!(stream.headers["x-content-type-options"], "nosniff");
}

#[tokio::test]
async fn a_large_head_is_refused_by_name_on_both_ways() {
    let options = ServerOptions::default().set("server.max_headers", 20).set("server.max_header_bytes", 2048);
    let server = Server::with(options);
    let many = "\r\nX-A: 1".repeat(20);
    let long = format!("\r\nX-Long: {}", "a".repeat(2048));
    for extra in [&many, &long] {
        let plain = format!("GET /health HTTP/1.1\r\nHost: a{extra}");
        assert_eq!(answer(&server, &plain).await.problem(431), "headers_too_large");
        assert_eq!(answer(&server, &upgrade(extra)).await.problem(431), "headers_too_large");
    }
    let path = format!("GET /health?{} HTTP/1.1\r\nHost: a", "a".repeat(2048));
    assert_eq!(answer(&server, &path).await.problem(431), "headers_too_large");
    assert_eq!(refusals(&server, "headers").await, 5.0);
}

#[tokio::test]
async fn deep_json_is_refused_wherever_it_would_only_be_passed_on() {
    let server = Server::start();
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let body = |depth| format!("{{\"topic\":\"topic:a\",\"type\":\"note\",\"data\":{}}}", nested(depth));
    let api: Api = server.api();
    api.post_text("/v2/events", body(63)).await.expect(202);
    for depth in [64, 200, 100_000] {
        assert_eq!(api.post_text("/v2/events", body(depth)).await.problem(400), "too_deep", "{depth}");
    }
    let batch = format!("{{\"events\":[{}]}}", body(62));
    assert_eq!(api.post_text("/v2/events/batch", batch).await.problem(400), "too_deep");
    let quoted = json!({"topic": "topic:a", "type": "note", "data": nested(1000)});
    let published: Value = api.post("/v2/events", &quoted).await.expect(202);
    assert_eq!(published["duplicate"], false, "brackets within texts do not nest");
}
