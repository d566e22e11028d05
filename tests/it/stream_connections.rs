//! A stream is the same however its request comes: alone and whole, or in any other way that HTTP allows.

use std::time::Duration;

use serde_json::json;

use crate::support::raw::stream_request;
use crate::support::{Api, Raw, Server, ServerOptions, eventually, resident_bytes};

const CONNECTIONS: &str = r#"bongsu_connections{transport="sse",tenant="default"}"#;

/// How the same request comes, and what is read before the stream's own answer.
#[derive(Clone, Copy, Debug)]
enum Arrival {
    Whole,
    InPieces,
    WithALargeHead,
    WithAnEmptyBody,
    ByHttp10,
    AfterAnother,
    RightBehindAnother,
    RightBeforeAnother,
    AfterAnotherRightBeforeAnother,
}

const ARRIVALS: &[Arrival] = &[
    Arrival::Whole,
    Arrival::InPieces,
    Arrival::WithALargeHead,
    Arrival::WithAnEmptyBody,
    Arrival::ByHttp10,
    Arrival::AfterAnother,
    Arrival::RightBehindAnother,
    Arrival::RightBeforeAnother,
    Arrival::AfterAnotherRightBeforeAnother,
];

async fn open(server: &Server, arrival: Arrival, topics: &str) -> Raw {
    let mut raw = Raw::connect(server.address()).await;
    let request = stream_request(server.key(), topics);
    let with = |header: &str| request.replacen("\r\n", &format!("\r\n{header}\r\n"), 1);
    let health = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    match arrival {
        Arrival::Whole => raw.send(&request).await,
        Arrival::InPieces => {
            raw.drip(request.as_bytes(), Duration::from_micros(100)).await;
        }
        Arrival::WithALargeHead => raw.send(with(&format!("Cookie: a={}", "x".repeat(6000)))).await,
        Arrival::WithAnEmptyBody => raw.send(with("Content-Length: 0")).await,
        Arrival::ByHttp10 => raw.send(request.replacen("HTTP/1.1", "HTTP/1.0", 1)).await,
        Arrival::AfterAnother => {
            raw.send(health).await;
            assert_eq!(raw.answer().await.status, 200);
            raw.send(&request).await;
        }
        Arrival::AfterAnotherRightBeforeAnother => {
            raw.send(health).await;
            assert_eq!(raw.answer().await.status, 200);
            raw.send(format!("{request}{health}")).await;
        }
        Arrival::RightBehindAnother => {
            raw.send(format!("{health}{request}")).await;
            assert_eq!(raw.answer().await.status, 200);
        }
        Arrival::RightBeforeAnother => raw.send(format!("{request}{health}")).await,
    }
    raw.read_until("event: ready").await;
    raw.read_until("}\n\n").await;
    raw
}

#[tokio::test]
async fn a_stream_is_the_same_however_its_request_comes() {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    for (number, &arrival) in ARRIVALS.iter().enumerate() {
        let topic = format!("topic:{number}");
        let mut raw = open(&server, arrival, &topic).await;
        let head = raw.text().to_lowercase();
        for header in ["content-type: text/event-stream", "x-request-id: ", "date: "] {
            assert!(head.contains(header), "{arrival:?}: no {header} in {head}");
        }
        // without chunks it is the connection's end that ends the answer
        let (of_http10, is_chunked) =
            (matches!(arrival, Arrival::ByHttp10), head.contains("transfer-encoding: chunked"));
        assert_eq!(is_chunked, !of_http10, "{arrival:?}: {head}");
        assert!(of_http10 || head.contains("connection: close"), "{arrival:?}: {head}");
        // one small, one larger than anything that is put together before it is written
        for (n, fill) in [(1, 10), (2, 60_000)] {
            api.publish(&topic, "noise", json!({"n": n, "pad": "x".repeat(fill)})).await;
            raw.read_until_number(n).await;
        }
        let events = raw.events();
        let names: Vec<_> = events.iter().map(|event| (event.event.as_str(), event.number())).collect();
        assert_eq!(names, [("ready", None), ("noise", Some(1)), ("noise", Some(2))], "{arrival:?}");
        raw.finish().await;
        eventually("the session's end", async || (operator.metric(CONNECTIONS).await == 0.0).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn a_stream_that_ends_ends_its_connection_after_the_reason() {
    // what was asked behind it on a connection that was used before is answered, then there is this wait
    let server = Server::with(ServerOptions::default().set("server.keep_alive_ms", 1000));
    let mut streams = Vec::new();
    for &arrival in ARRIVALS {
        streams.push((arrival, open(&server, arrival, "topic:a").await));
    }
    let operator = server.operator();
    Api::send(operator.request("POST", "/v2/admin/drain")).await.expect("an answer").expect(202);
    for (arrival, mut raw) in streams {
        raw.rest().await;
        let close = raw.events().pop().expect("events");
        let told = (close.event.as_str(), close.data["code"].as_u64());
        assert_eq!(told, ("close", Some(3000)), "{arrival:?}");
    }
}

#[tokio::test]
async fn a_refused_stream_is_answered_in_full() {
    let server = Server::start();
    let mut raw = Raw::connect(server.address()).await;
    raw.send(stream_request("bk_wrong", "topic:a")).await;
    let answer = raw.answer().await;
    assert_eq!(
        (answer.problem(401), answer.header("connection")),
        ("invalid_credentials".to_owned(), Some("close"))
    );
    assert_eq!(raw.rest().await, "");
}

#[tokio::test]
async fn what_a_listener_sends_is_read_and_thrown_away() {
    let server = Server::start();
    let mut raw = open(&server, Arrival::Whole, "topic:a").await;
    let resident = resident_bytes(server.pid());
    for _ in 0..256 {
        raw.send([b'x'; 65_536]).await;
    }
    server.api().publish("topic:a", "noise", json!({"n": 1, "pad": ""})).await;
    raw.read_until_number(1).await;
    assert!(resident_bytes(server.pid()).saturating_sub(resident) < 4 << 20);
}

#[tokio::test]
async fn a_connection_without_a_word_is_ended_in_time() {
    let server = Server::with(ServerOptions::default().set("server.request_head_timeout_ms", 500));
    let mut raw = Raw::connect(server.address()).await;
    assert_eq!(raw.rest().await, "");
}

#[tokio::test]
async fn a_used_connection_waits_for_its_next_request_and_not_during_an_answer() {
    let options = ServerOptions::default().set("server.request_head_timeout_ms", 500);
    let server = Server::with(options.set("server.keep_alive_ms", 1000));
    let api = server.api();
    let mut stream = open(&server, Arrival::AfterAnother, "topic:a").await;
    let mut poll = Raw::connect(server.address()).await;
    poll.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(poll.answer().await.status, 200);
    let cursor = api.publish("topic:b", "noise", json!({})).await;
    let path = format!("/v2/realtime/poll?topics=topic:a&cursor={cursor}&wait=3");
    poll.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n", server.key())).await;
    let started = std::time::Instant::now();
    assert_eq!(poll.answer().await.status, 200);
    assert!(started.elapsed() >= Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(poll.rest().await, "");
    api.publish("topic:a", "noise", json!({"n": 1, "pad": ""})).await;
    stream.read_until_number(1).await;
}

#[tokio::test]
async fn a_request_that_was_sent_on_before_the_last_answer_is_answered_in_its_own_time() {
    let options = ServerOptions::default().set("server.request_head_timeout_ms", 500);
    let server = Server::with(options.set("server.keep_alive_ms", 1000));
    let cursor = server.api().publish("topic:b", "noise", json!({})).await;
    let mut raw = Raw::connect(server.address()).await;
    let path = format!("/v2/realtime/poll?topics=topic:a&cursor={cursor}&wait=3");
    let poll = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n", server.key());
    raw.send(format!("GET /health HTTP/1.1\r\nHost: a\r\n\r\n{poll}")).await;
    assert_eq!(raw.answer().await.status, 200);
    assert_eq!(raw.answer().await.status, 200);
}
