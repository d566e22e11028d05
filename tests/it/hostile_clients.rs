//! Requests that no honest client sends: each gets a named answer or an end, and harms nobody else.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::raw::{RawAnswer, stream_request};
use crate::support::{Raw, Server, ServerOptions, Sse, eventually, peak_resident_bytes, resident_bytes};

const MIB: u64 = 1024 * 1024;

/// A server with a listener that has to get its events whatever others do.
struct Scene {
    server: Server,
    bystander: Sse,
    resident: u64,
    events: u64,
}

impl Scene {
    async fn set(options: ServerOptions) -> Self {
        let server = Server::with(options);
        let mut bystander = server.api().listen("topic:bystander", None).await;
        bystander.ready().await;
        let resident = resident_bytes(server.pid());
        Scene { server, bystander, resident, events: 0 }
    }

    async fn raw(&self) -> Raw {
        Raw::connect(self.server.address()).await
    }

    /// What a request is answered, on a connection of its own.
    async fn answer(&self, request: impl AsRef<[u8]>) -> RawAnswer {
        let mut raw = self.raw().await;
        raw.offer(request).await;
        raw.answer().await
    }

    fn post(&self, path: &str, headers: &str, body: &str) -> String {
        let (key, length) = (self.server.key(), body.len());
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
    }

    /// The code and the named fields of the problem that a publish of `body` is answered with.
    async fn refused(&self, body: &str, status: u16) -> (String, Vec<String>) {
        let answer = self.answer(self.post("/v2/events", "Content-Type: application/json\r\n", body)).await;
        let code = answer.problem(status);
        let problem: Value = serde_json::from_str(&answer.body).expect("JSON");
        let fields = problem["errors"].as_array().expect("errors").iter();
        let names = fields.map(|field| field["field"].as_str().expect("a name").to_owned());
        (code, names.collect())
    }

    /// The server is well, a normal client gets its event, and memory has not grown.
    async fn is_unharmed(&mut self) {
        let api = self.server.api();
        assert_eq!(api.get("/health").await.expect(200), json!({"status": "ok"}));
        self.events += 1;
        api.publish("topic:bystander", "noise", json!({"n": self.events})).await;
        let event = self.bystander.take(1).await.remove(0);
        assert_eq!(event.data["data"]["n"], self.events);
        let grown = resident_bytes(self.server.pid()).saturating_sub(self.resident);
        assert!(grown < 32 * MIB, "{grown} bytes");
    }
}

#[tokio::test]
async fn a_request_head_that_comes_byte_by_byte_is_ended_in_time() {
    let mut scene = Scene::set(ServerOptions::default().set("server.request_head_timeout_ms", 500)).await;
    let mut raw = scene.raw().await;
    let started = Instant::now();
    let head = format!("GET /health HTTP/1.1\r\nX-Slow: {}", "a".repeat(2000));
    let sent = raw.drip(head.as_bytes(), Duration::from_millis(10)).await;
    assert!(sent < head.len(), "all of it was taken");
    // the clock of these timeouts moves in steps of half a second
    assert!((250..3000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert!(raw.rest().await.starts_with("HTTP/1.1 408 "));
    // saying nothing at all is no better
    let started = Instant::now();
    scene.raw().await.rest().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_request_body_that_comes_byte_by_byte_is_ended_in_time() {
    let mut scene = Scene::set(ServerOptions::default().set("server.request_body_timeout_ms", 500)).await;
    let mut raw = scene.raw().await;
    let request = scene.post("/v2/events", "Content-Type: application/json\r\n", &" ".repeat(2000));
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    raw.send(format!("{head}\r\n\r\n")).await;
    let started = Instant::now();
    let sent = raw.drip(body.as_bytes(), Duration::from_millis(10)).await;
    assert!(sent < body.len(), "all of it was taken");
    assert!((500..3000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert_eq!(raw.answer().await.problem(408), "body_timeout");
    scene.is_unharmed().await;
}

#[tokio::test]
async fn ten_megabytes_of_headers_are_refused_without_being_kept() {
    let mut scene = Scene::set(ServerOptions::default()).await;
    let one = format!("X-Huge: {}\r\n", "a".repeat(10 * 1024 * 1024));
    let many: String = (0..200_000).map(|n| format!("X-Header-{n}: {:030}\r\n", n)).collect();
    for headers in [one, many] {
        let mut raw = scene.raw().await;
        raw.offer(format!("GET /health HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).await;
        let text = raw.rest().await;
        let refused = text.is_empty() || text.starts_with("HTTP/1.1 4");
        assert!(refused, "{text}");
        scene.is_unharmed().await;
    }
}

#[tokio::test]
async fn too_many_or_invalid_topics_are_refused_by_name() {
    let mut scene = Scene::set(ServerOptions::default()).await;
    let key = scene.server.key().to_owned();
    let topics = |count: usize| (0..count).map(|n| format!("topic:{n}")).collect::<Vec<_>>().join(",");
    for count in [129, 3000] {
        let answer = scene.answer(stream_request(&key, &topics(count))).await;
        assert_eq!(answer.problem(400), "too_many_topics");
        assert!(answer.body.contains("128"), "{}", answer.body);
    }
    let mut raw = scene.raw().await.listen(&key, &topics(128)).await;
    raw.finish().await;
    let mut raw = scene.raw().await;
    raw.offer(stream_request(&key, &topics(100_000))).await;
    let text = raw.rest().await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    for topic in
        ["", ",", "nokind", "nosuch:1", "topic:", ":a", "topic:a%20b", "topic:a%00b", "topic:%ff", "topic:*"]
    {
        let answer = scene.answer(stream_request(&key, topic)).await;
        assert!([400, 403].contains(&answer.status), "{topic}: {answer:?}");
        answer.problem(answer.status);
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn line_breaks_in_what_a_client_sends_never_become_line_breaks_of_the_answer() {
    let mut scene = Scene::set(ServerOptions::default()).await;
    let key = scene.server.key().to_owned();
    let marker = "injected: yes";
    for hole in [
        "%0d%0ainjected:%20yes",
        "%0ainjected:%20yes",
        "%0dinjected:%20yes",
        "%E2%80%A8%0a%0ainjected:%20yes",
    ] {
        let targets = [
            format!("/v2/realtime/stream?topics=topic:a{hole}"),
            format!("/v2/realtime/stream?topics=topic:a&cursor={hole}"),
            format!("/v2/realtime/stream?topics=topic:a&ticket={hole}"),
            format!("/v2/realtime/stream?topics=topic:a&{hole}=1"),
            format!("/v2/realtime/ei-updates?fleet_ids=a{hole}"),
            format!("/v2/realtime/bid-updates?bid_ids={hole}"),
            format!("/v2/realtime/proposal-ranking-updates?bid_id=a{hole}"),
            format!("/v2/realtime/order-updates?order_ids=a{hole}"),
            format!("/v2/fleet/{hole}"),
            format!("/nowhere{hole}"),
        ];
        for target in targets {
            let mut raw = scene.raw().await;
            raw.send(format!(
                "GET {target} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nX-Request-Id: a{hole}\r\n\r\n"
            ))
            .await;
            raw.read_until("\r\n\r\n").await;
            if raw.text().starts_with("HTTP/1.1 200") {
                raw.read_until("event: ready").await;
                raw.read_until("}\n\n").await;
            }
            let text = raw.text();
            let broken =
                text.lines().any(|line| line.starts_with(marker)) || text.contains(&format!("\r{marker}"));
            assert!(!broken, "{target}: {text}");
        }
    }
    for (hole, readable) in [("\n", false), ("\r", false), ("%0d%0a", true), ("\\r\\n", true)] {
        let mut raw = scene.raw().await;
        let header = format!("Last-Event-ID: a{hole}{marker}");
        let request = stream_request(&key, "topic:a");
        raw.send(format!("{}{header}\r\n\r\n", request.strip_suffix("\r\n").expect("its end"))).await;
        if readable {
            raw.read_until("event: ready").await;
            raw.read_until("}\n\n").await;
            assert!(raw.text().contains("\"reason\":\"invalid\""), "{}", raw.text());
        } else {
            raw.read_until("\r\n\r\n").await;
        }
        assert!(!raw.text().contains(marker), "{}", raw.text());
    }
    for hole in ["\\n", "\\r", "\\r\\n", "\\u2028"] {
        let answer =
            scene.refused(&format!("{{\"topic\":\"topic:a{hole}b\",\"type\":\"t\",\"data\":1}}"), 422).await;
        assert_eq!(answer.1, ["topic"]);
        let answer =
            scene.refused(&format!("{{\"topic\":\"topic:a\",\"type\":\"t{hole}x\",\"data\":1}}"), 422).await;
        assert_eq!(answer.1, ["type"]);
    }
    // line breaks between the tokens of data are no part of it, those within its strings stay escaped
    let mut stream = scene.server.api().listen("topic:a", None).await;
    stream.ready().await;
    let body = "{\"topic\":\"topic:a\",\"type\":\"t\",\"data\":\r\n{\"text\":\r\n\"a\\r\\nid: 1\\n\\nevent: close\"}\n}";
    scene.server.api().post_text("/v2/events", body).await.expect(202);
    assert_eq!(stream.expect("t").await.data["data"], json!({"text": "a\r\nid: 1\n\nevent: close"}));
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_it_says_its_length_or_not() {
    let mut scene = Scene::set(ServerOptions::default()).await;
    let body = " ".repeat(1024 * 1024 + 1);
    let json = "Content-Type: application/json\r\n";
    let answer = scene.answer(scene.post("/v2/events", json, &body)).await;
    assert_eq!(answer.problem(413), "body_too_large");
    let key = scene.server.key().to_owned();
    let head = format!(
        "POST /v2/events HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{json}Transfer-Encoding: chunked\r\n\r\n"
    );
    let answer = scene.answer(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())).await;
    assert_eq!(answer.problem(413), "body_too_large");
    // a length alone is enough, and what is promised is not waited for
    let answer = scene
        .answer(format!("POST /v2/events HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{json}Content-Length: 99999999999\r\n\r\n"))
        .await;
    assert_eq!(answer.problem(413), "body_too_large");
    let at_limit = format!("{{{}\"x\":1}}", " ".repeat(1024 * 1024 - 7));
    assert_eq!(scene.refused(&at_limit, 422).await.0, "unknown_field");
    scene.is_unharmed().await;
}

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be_are_named() {
    let mut scene = Scene::set(ServerOptions::default()).await;
    let good = r#"{"topic":"topic:a","type":"t","data":1}"#;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        let answer = scene.answer(scene.post("/v2/events", &format!("Content-Type: {kind}\r\n"), good)).await;
        assert_eq!(answer.problem(415), "unsupported_type", "{kind}");
    }
    let unknown = scene.refused(r#"{"topic":"topic:a","type":"t","data":1,"surprise":2}"#, 422).await;
    assert_eq!(unknown, ("unknown_field".to_owned(), vec!["surprise".to_owned()]));
    for text in
        ["", "{", r#"{"topic":"topic:a","type":"t","data":"#, "nonsense", &format!("{good}x"), "\u{0}"]
    {
        assert_eq!(scene.refused(text, 400).await.0, "malformed_json", "{text}");
    }
    let deep =
        format!(r#"{{"topic":"topic:a","type":"t","data":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(
        scene.answer(scene.post("/v2/events", "Content-Type: application/json\r\n", &deep)).await.status
            < 500
    );
    let numbers = scene
        .refused(r#"{"topic":"topic:a","type":"t","data":1,"version":99999999999999999999999}"#, 422)
        .await;
    assert_eq!(numbers.1, ["version"]);
    let key = scene.server.key().to_owned();
    let mut invalid = format!("POST /v2/events HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: 43\r\n\r\n").into_bytes();
    invalid.extend_from_slice(b"{\"topic\":\"topic:a\",\"type\":\"t\",\"data\":\"\xff\xfe..\"}");
    let answer = scene.answer(&invalid).await;
    assert!([400, 422].contains(&answer.status), "{answer:?}");
    answer.problem(answer.status);
    scene.is_unharmed().await;
}

#[tokio::test]
async fn requests_that_two_readers_could_read_differently_are_refused() {
    let mut scene = Scene::set(ServerOptions::default()).await;
    let key = scene.server.key().to_owned();
    let head = format!(
        "POST /v2/events HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
    );
    let hidden = "GET /v2/hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let shapes = [
        format!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Content-Length: 1\r\nContent-Length: 2\r\n\r\n{{}}{hidden}"),
        format!("Content-Length: +2\r\n\r\n{{}}{hidden}"),
        format!("Content-Length: 2, 2\r\n\r\n{{}}{hidden}"),
        format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n-2\r\n{{}}\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{{}}\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"),
    ];
    for shape in shapes {
        let mut raw = scene.raw().await;
        raw.offer(format!("{head}{shape}")).await;
        raw.finish().await;
        let text = raw.rest().await;
        // nothing behind it is taken for a request
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{shape}: {text}");
        assert!(text.starts_with("HTTP/1.1 4"), "{shape}: {text}");
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_request_pipelined_behind_a_stream_is_never_answered_into_it() {
    let mut scene = Scene::set(ServerOptions::default()).await;
    let key = scene.server.key().to_owned();
    let mut raw = scene.raw().await;
    let hidden = "GET /v2/hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    raw.send(format!("{}{}", stream_request(&key, "topic:a"), hidden.repeat(20))).await;
    raw.read_until("event: ready").await;
    scene.server.api().publish("topic:a", "t", json!({"n": 1, "of": 1})).await;
    raw.read_until_number(1).await;
    assert_eq!(raw.text().matches("HTTP/1.1").count(), 1);
    scene.is_unharmed().await;
}

#[tokio::test]
async fn bytes_sent_on_an_open_stream_are_not_collected() {
    let mut scene = Scene::set(ServerOptions::default().set("server.stall_timeout_ms", 1000)).await;
    let key = scene.server.key().to_owned();
    let mut raw = scene.raw().await.listen(&key, "topic:a").await;
    let piece = vec![b'x'; 1024 * 1024];
    let mut sent = 0;
    while sent < 64 && tokio::time::timeout(Duration::from_secs(3), raw.offer(&piece)).await == Ok(true) {
        sent += 1;
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn old_and_absurd_requests_are_answered() {
    let mut scene = Scene::set(ServerOptions::default()).await;
    let mut raw = scene.raw().await;
    raw.send("GET /health HTTP/1.0\r\n\r\n").await;
    assert!(raw.rest().await.ends_with("{\"status\":\"ok\"}"));
    let key = scene.server.key().to_owned();
    let mut raw = scene.raw().await;
    raw.send(stream_request(&key, "topic:a").replace("HTTP/1.1", "HTTP/1.0")).await;
    raw.read_until("event: ready").await;
    for (method, path) in
        [("BREW", "/v2/events"), ("TRACE", "/health"), ("CONNECT", "/health"), ("G3T", "/v2/realtime/stream")]
    {
        let answer =
            scene.answer(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!([400, 404, 405].contains(&answer.status), "{method}: {answer:?}");
    }
    for garbage in [
        "\u{1}\u{2}\u{3}\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\r\n\r\n",
    ] {
        let mut raw = scene.raw().await;
        raw.send(garbage).await;
        let text = raw.rest().await;
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 400"), "{garbage:?}: {text}");
    }
    // of two keys one counts, and which does not depend on luck: the wrong one comes first here
    let doubled = format!(
        "GET /v2/realtime/stream?topics=topic:a HTTP/1.1\r\nHost: a\r\nX-API-Key: wrong\r\nX-API-Key: {key}\r\n\r\n"
    );
    assert_eq!(scene.answer(doubled).await.problem(401), "invalid_credentials");
    scene.is_unharmed().await;
}

#[tokio::test]
async fn an_upgrade_to_websocket_where_there_is_none_is_answered_by_name_and_closed() {
    let mut scene = Scene::set(ServerOptions::default()).await;
    for path in ["/", "/health", "/v2/realtime/stream", "/nowhere", "/socket.io/?EIO=4&transport=websocket"] {
        let mut raw = scene.raw().await;
        raw.send(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))
        .await;
        assert_eq!(raw.answer().await.problem(404), "no_websocket", "{path}");
        assert_eq!(raw.rest().await, "", "{path}");
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn secrets_never_reach_the_log() {
    let options = ServerOptions::default().set("logging.level", "trace").set("logging.format", "json");
    let scene = Scene::set(options).await;
    let api = scene.server.api();
    let ticket = api.post("/v2/realtime/tickets", &json!({"topics": ["topic:a"]})).await.expect(201);
    let ticket = ticket["ticket"].as_str().expect("a ticket").to_owned();
    let wrong = "a-key-that-nobody-has-been-given";
    for (secret, sign) in [(ticket.as_str(), "event: ready"), (wrong, "HTTP/1.0 401")] {
        let mut raw = scene.raw().await;
        raw.send(format!("GET /v2/realtime/stream?topics=topic:a&ticket={secret} HTTP/1.0\r\n\r\n")).await;
        raw.read_until(sign).await;
    }
    for header in ["X-API-Key: ", "Authorization: Bearer "] {
        for key in [scene.server.key(), wrong] {
            scene
                .answer(format!(
                    "GET /metrics?api_key={key} HTTP/1.1\r\n{header}{key}\r\nConnection: close\r\n\r\n"
                ))
                .await;
        }
    }
    api.anonymous().get(&format!("/nowhere?key={wrong}")).await.problem(404);
    eventually("the last request's line", async || scene.server.stderr().contains("/nowhere").then_some(()))
        .await;
    let log = scene.server.stderr();
    for secret in [scene.server.key(), &ticket, wrong] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{line:?}");
    }
}

#[tokio::test]
async fn a_batch_of_large_events_on_many_topics_costs_its_bytes_once_in_memory() {
    let mut scene = Scene::set(ServerOptions::default().set("log.window_bytes", MIB)).await;
    let api = scene.server.api();
    let fill = "x".repeat(65_000);
    let batch = |class: &str, part: usize| {
        let topics: Vec<_> = (0..128).map(|n| format!("topic:{class}-{part}-{n}")).collect();
        let event = json!({"topics": topics, "type": "large", "class": class, "data": fill});
        json!({"events": vec![event; 5]})
    };
    for class in ["durable", "volatile"] {
        let batches = [batch(class, 0), batch(class, 1)];
        let sent = batches.iter().map(|batch| api.post("/v2/events/batch", batch));
        for answer in futures_util::future::join_all(sent).await {
            let results = answer.expect(202)["results"].clone();
            assert!(results.as_array().expect("results").iter().all(|result| result["status"] == 202));
        }
    }
    let grown = peak_resident_bytes(scene.server.pid()) - scene.resident;
    // 650 kB came in and 83 MB went to the disk; then the same to nobody
    assert!(grown < 40 * MIB, "{} MiB", grown / MIB);
    scene.is_unharmed().await;
}

#[tokio::test]
async fn publishes_beyond_what_may_wait_for_the_log_are_refused_and_the_others_are_in_it() {
    let mut scene = Scene::set(ServerOptions::default().set("log.append_queue_bytes", 65_536)).await;
    let api = scene.server.api();
    let large = json!({"topic": "topic:a", "type": "large", "data": "x".repeat(30_000)});
    let sent = (0..60).map(|_| api.post("/v2/events", &large));
    let answers = futures_util::future::join_all(sent).await;
    let taken = answers.iter().filter(|answer| answer.status == 202).count();
    assert!((2..60).contains(&taken), "{taken}");
    for answer in answers.into_iter().filter(|answer| answer.status != 202) {
        assert_eq!(answer.problem(503), "overloaded");
    }
    let operator = scene.server.operator();
    let durable = r#"bongsu_events_published_total{class="durable"}"#;
    assert_eq!(operator.metric(durable).await, taken as f64);
    assert_eq!(
        operator.metric(r#"bongsu_log_refused_total{reason="overloaded"}"#).await,
        (60 - taken) as f64
    );
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_second_request_head_that_does_not_end_is_ended_in_time_too() {
    let options = ServerOptions::default().set("server.request_head_timeout_ms", 500);
    let mut scene = Scene::set(options.set("server.keep_alive_ms", 1000)).await;
    let mut raw = scene.raw().await;
    raw.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 200);
    let started = Instant::now();
    raw.send("GET /health HTTP/1.1\r\nX-Slow: ").await;
    raw.rest().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    scene.is_unharmed().await;
}

/// How long the server bears a connection with this on it until it ends it.
async fn ends_after(raw: &mut Raw, bytes: &str, pause: Duration) -> u128 {
    let started = Instant::now();
    let sent = raw.drip(bytes.as_bytes(), pause).await;
    assert!(pause.is_zero() || sent < bytes.len(), "all of it was taken");
    raw.rest().await;
    started.elapsed().as_millis()
}

#[tokio::test]
async fn a_later_request_head_on_a_connection_has_no_more_time_than_the_first() {
    let options = ServerOptions::default().set("server.request_head_timeout_ms", 500);
    let mut scene = Scene::set(options.set("server.keep_alive_ms", 6000)).await;
    let slow = format!("X-Slow: {}", "a".repeat(2000));
    let whole = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    let half = "GET /health HTTP/1.1\r\nHost: a\r\n";
    for (rest, pause) in [(half.to_owned(), 0), (format!("{half}{slow}"), 10)] {
        let mut raw = scene.raw().await;
        for _ in 0..2 {
            raw.send(whole).await;
            assert_eq!(raw.answer().await.status, 200);
        }
        let after = ends_after(&mut raw, &rest, Duration::from_millis(pause)).await;
        assert!((450..3000).contains(&after), "{after} ms");
    }
    scene.is_unharmed().await;
}
