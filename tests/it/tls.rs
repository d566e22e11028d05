//! TLS to clients: streams, upgrades, certificates that are renewed, and whoever does not speak it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::tls::{Certificates, CurlStream, connect, curl};
use crate::support::{Raw, Server, ServerOptions, Ws, eventually};

const STREAM: &str = "/v2/realtime/stream?topics=topic:a";

struct Scene {
    certificates: Certificates,
    server: Server,
    key: String,
}

impl Scene {
    fn set(change: impl FnOnce(ServerOptions) -> ServerOptions) -> Self {
        let certificates = Certificates::new();
        let options = certificates.options().set("metrics.bind", "127.0.0.1:0");
        let server = Server::with(change(options));
        let key = format!("X-API-Key: {}", server.key());
        Scene { certificates, server, key }
    }

    async fn curl(&self, path: &str, args: &[&str]) -> Result<String, String> {
        let args = [&["-H", &self.key], args].concat();
        curl(&self.certificates.path("ca.pem"), self.server.address(), path, &args).await
    }

    fn listen(&self) -> CurlStream {
        let authority = self.certificates.path("ca.pem");
        CurlStream::open(&authority, self.server.address(), STREAM, &["-H", &self.key])
    }

    async fn publish(&self, data: u32) {
        let body = format!("{{\"topic\":\"topic:a\",\"type\":\"note\",\"data\":{data}}}");
        let args = ["-H", "Content-Type: application/json", "-d", &body];
        let answer = self.curl("/v2/events", &args).await.expect("an answer");
        assert!(answer.contains("\"duplicate\":false"), "{answer}");
    }

    async fn metric(&self, name: &str) -> f64 {
        let address = self.server.metrics_address().expect("an open port");
        crate::support::Api::new(address, None).metric(name).await
    }
}

#[tokio::test]
async fn a_stream_over_tls_is_a_stream() {
    let scene = Scene::set(|options| options);
    let mut stream = scene.listen();
    stream.until("event: ready").await;
    for number in 0..3 {
        scene.publish(number).await;
        stream.until(&format!("\"data\":{number}")).await;
    }
    let head = scene.curl("/health", &["--head", "-X", "GET", "--http2"]).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "only HTTP/1.1 is offered: {head}");
    assert!(head.contains("strict-transport-security: max-age=31536000"), "{head}");
    drop(stream);
    eventually("the client's leaving to be noticed", async || {
        let name = "bongsu_connections{transport=\"sse\",tenant=\"default\"}";
        (scene.metric(name).await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_replay_over_tls_does_not_wait_for_what_comes_next() {
    let scene = Scene::set(|options| options.set("sessions.heartbeat_ms", 60_000));
    let publisher = connect(&scene.certificates.path("ca.pem"), scene.server.address()).await;
    let headers = [("x-api-key", scene.server.key())];
    let mut ws = Ws::over(publisher, "localhost", "/v2/realtime/ws", &headers).await.expect("a WebSocket");
    ws.ready().await;
    let first = ws.done("publish", json!({"topic": "topic:a", "type": "note", "data": 0})).await;
    let text = "x".repeat(60_000);
    for number in 1..=60 {
        ws.done("publish", json!({"topic": "topic:a", "type": "note", "data": {"n": number, "text": text}}))
            .await;
    }
    let resume = format!("Last-Event-ID: {}", first["id"].as_str().expect("an id"));
    // slower than it is sent: the socket is full until the end
    let args = ["-H", &scene.key, "-H", &resume, "--limit-rate", "2M"];
    let authority = scene.certificates.path("ca.pem");
    let mut stream = CurlStream::open(&authority, scene.server.address(), STREAM, &args);
    stream.until("\"n\":60").await;
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let scene = Scene::set(|options| options);
    for version in ["1.2", "1.3"] {
        scene.curl("/health", &["--tlsv1.2", "--tls-max", version]).await.expect("an answer");
    }
    let old = ["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"];
    assert!(scene.curl("/health", &old).await.is_err());
    assert!(scene.metric("bongsu_tls_failures_total{reason=\"refused\"}").await >= 1.0);
}

#[tokio::test]
async fn upgrades_come_through_tls() {
    let scene = Scene::set(|options| options);
    let headers =
        ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="];
    let args: Vec<&str> = headers.iter().flat_map(|header| ["-H", header]).collect();
    let answer = scene.curl("/v2/realtime/nowhere", &args).await.expect("an answer");
    let problem: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(problem["code"], "no_websocket");
}

#[tokio::test]
async fn a_websocket_over_tls_is_a_websocket() {
    let scene = Scene::set(|options| options);
    let stream = connect(&scene.certificates.path("ca.pem"), scene.server.address()).await;
    let path = "/v2/realtime/ws?topics=topic:a";
    let mut ws =
        Ws::over(stream, "localhost", path, &[("x-api-key", scene.server.key())]).await.expect("a WebSocket");
    ws.ready().await;
    // larger than any buffer on the way
    let text = "x".repeat(60_000);
    for number in 0..20 {
        ws.done("publish", json!({"topic": "topic:a", "type": "note", "data": {"n": number, "text": text}}))
            .await;
    }
    for number in 0..20 {
        let event = ws.event().await;
        assert_eq!(
            (&event["data"]["n"], event["data"]["text"].as_str()),
            (&json!(number), Some(text.as_str()))
        );
    }
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_ended_at_once() {
    let scene = Scene::set(|options| options.set("server.tls_handshake_timeout_ms", 60_000));
    let mut raw = Raw::connect(scene.server.address()).await;
    raw.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // the end comes long before the time for a handshake is over
    assert!(!raw.rest().await.contains("HTTP/1.1"));
    assert_eq!(scene.metric("bongsu_tls_failures_total{reason=\"refused\"}").await, 1.0);
}

#[tokio::test]
async fn a_handshake_that_stalls_is_ended_in_time() {
    let scene = Scene::set(|options| options.set("server.tls_handshake_timeout_ms", 300));
    let since = Instant::now();
    let mut raw = Raw::connect(scene.server.address()).await;
    // the head of a record that never comes
    raw.send([22, 3, 1, 2, 0]).await;
    raw.rest().await;
    assert!(since.elapsed() >= Duration::from_millis(300));
    assert_eq!(scene.metric("bongsu_tls_failures_total{reason=\"timeout\"}").await, 1.0);
}

#[tokio::test]
async fn a_thousand_stalled_handshakes_keep_nobody_out() {
    let scene =
        Scene::set(|options| options.set("server.workers", 1).set("server.tls_handshake_timeout_ms", 60_000));
    let mut held = Vec::new();
    for _ in 0..1000 {
        let mut raw = Raw::connect(scene.server.address()).await;
        raw.send([22]).await;
        held.push(raw);
    }
    assert_eq!(scene.curl("/health", &[]).await.expect("an answer"), "{\"status\":\"ok\"}");
    assert!(held.iter().step_by(100).all(|raw| !raw.is_over()), "they are still there");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_after_sighup_and_open_streams_stay() {
    let scene = Scene::set(|options| options);
    let mut stream = scene.listen();
    stream.until("event: ready").await;
    let former = scene.certificates.path("former.pem");
    std::fs::copy(scene.certificates.path("ca.pem"), &former).expect("copied");
    let believes_former = async || curl(&former, scene.server.address(), "/health", &[]).await.is_ok();
    // what cannot be read changes nothing
    let (key, intact) = (scene.certificates.path("key.pem"), scene.certificates.path("intact.pem"));
    std::fs::rename(&key, &intact).expect("moved");
    scene.server.signal("HUP");
    eventually("the complaint", async || {
        scene.server.stderr().contains("the former one stays").then_some(())
    })
    .await;
    assert!(believes_former().await);
    scene.certificates.renew();
    assert!(believes_former().await, "not before it is asked to");
    scene.server.signal("HUP");
    eventually("the renewed certificate", async || (!believes_former().await).then_some(())).await;
    scene.publish(7).await;
    stream.until("\"data\":7").await;
}

#[tokio::test]
async fn a_start_without_a_usable_certificate_says_why() {
    let (one, other) = (Certificates::new(), Certificates::new());
    let mixed = one.options().set("server.tls_key", other.path("key.pem").display());
    assert!(Server::refuse(mixed, "127.0.0.1:0").contains("server.tls_key"));
    let missing = one.options().set("server.tls_cert", "/nowhere/cert.pem");
    assert!(Server::refuse(missing, "127.0.0.1:0").contains("/nowhere/cert.pem"));
    let no_certificate = one.options().set("server.tls_cert", one.path("key.pem").display());
    assert!(Server::refuse(no_certificate, "127.0.0.1:0").contains("holds no certificate"));
    let half = one.options().set("server.tls_key", "");
    assert!(Server::refuse(half, "127.0.0.1:0").contains("server.tls_key"));
    let plain = ServerOptions::default().set("server.require_tls", true);
    assert!(Server::refuse(plain, "0.0.0.0:0").contains("server.require_tls"));
}
