//! Who may do what: keys, tickets, users behind services, revocation, and pages of other origins.

use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::support::{Answer, Api, Server, ServerOptions, Sse, eventually, run_cli};

fn scoped(server: &Server, scopes: &str) -> Api {
    server.new_key(&["--scopes", scopes]).1
}

fn stream_path(topics: &str) -> String {
    format!("/v2/realtime/stream?topics={topics}")
}

async fn listen_status(api: &Api, topics: &str) -> u16 {
    let response = api.request("GET", &stream_path(topics)).send().await;
    response.expect("an answer").status().as_u16()
}

/// The last event of a stream that the server ends.
async fn closed(stream: &mut Sse) -> Value {
    let events = stream.rest().await;
    let last = events.last().expect("a close");
    assert_eq!(last.event, "close", "{events:?}");
    last.data.clone()
}

async fn ticket(api: &Api, request: Value) -> String {
    let answer = api.post("/v2/realtime/tickets", &request).await.expect(201);
    assert!(answer["expires_at"].is_string());
    answer["ticket"].as_str().expect("a ticket").to_owned()
}

fn with_ticket(topics: &str, ticket: &str) -> String {
    format!("{}&ticket={ticket}", stream_path(topics))
}

/// The topics that a refused stream names.
fn named(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let errors = body["errors"].as_array().expect("errors");
    errors.iter().map(|error| error["message"].as_str().expect("a topic").to_owned()).collect()
}

#[tokio::test]
async fn a_stream_with_a_refused_topic_is_refused_and_names_it() {
    let server = Server::start();
    let (api, operator) = (scoped(&server, "subscribe"), server.operator());
    let answer = api.get(&stream_path("topic:a,admin,user:u1,fleet:*,fleet:a")).await;
    assert_eq!(named(&answer), ["admin", "user:u1", "fleet:*"]);
    assert_eq!(answer.problem(403), "forbidden_topics");
    let counted = "bongsu_auth_failures_total{reason=\"forbidden_topics\"}";
    assert_eq!(operator.metric(counted).await, 1.0);
    let many: Vec<String> = (0..129).map(|n| format!("topic:{n}")).collect();
    let answer = api.get(&stream_path(&many.join(","))).await;
    assert!(answer.text.contains("at most 128"));
    assert_eq!(answer.problem(400), "too_many_topics");
    assert_eq!(listen_status(&api, &many[..128].join(",")).await, 200);
    for malformed in ["", ",", "truck:1", "topic:", "topic:a%0d%0ab", "*"] {
        api.get(&stream_path(malformed)).await.problem(400);
    }
    api.get("/v2/realtime/stream").await.problem(400);
}

#[tokio::test]
async fn without_good_credentials_nothing_is_told() {
    let server = Server::start();
    let operator = server.operator();
    let anonymous = server.api().anonymous();
    let wrong = server.api_with("bk_wrong");
    for api in [&anonymous, &wrong] {
        for path in ["/v2/fleets", "/v2/realtime/stream?topics=truck:1", "/metrics"] {
            let answer = api.get(path).await;
            assert!(answer.headers.contains_key("www-authenticate"), "{path}");
            answer.problem(401);
        }
        let answer = api.post("/v2/events", &json!({"topic": "topic:a", "type": "tick", "data": 1})).await;
        answer.problem(401);
    }
    for api in [&anonymous, &wrong] {
        for path in ["/v2/events", "/v2/fleet/ei-update", "/v2/realtime/tickets"] {
            for body in ["{", "{\"colour\":\"red\"}"] {
                api.post_text(path, body).await.problem(401);
            }
        }
    }
    for (reason, count) in [("missing_credentials", 10.0), ("invalid_credentials", 10.0)] {
        let name = format!("bongsu_auth_failures_total{{reason=\"{reason}\"}}");
        assert_eq!(operator.metric(&name).await, count, "{reason}");
    }
    let bearer =
        anonymous.request("GET", "/v2/fleets").header("Authorization", format!("bearer {}", server.key()));
    Api::send(bearer).await.expect("an answer").expect(200);
    let basic =
        anonymous.request("GET", "/v2/fleets").header("Authorization", format!("Basic {}", server.key()));
    Api::send(basic).await.expect("an answer").problem(401);
}

#[tokio::test]
async fn a_key_bound_to_a_user_has_that_users_rights() {
    let server = Server::start();
    let (_, alice) = server.new_key(&["--scopes", "publish,subscribe,admin", "--sub", "alice"]);
    let mut stream = alice.listen("user:alice,topic:a,fleet:a", None).await;
    assert_eq!(stream.ready().await["user_id"], "alice");
    for topic in ["user:bob", "order:1", "admin", "dashboard", "bid:*"] {
        assert_eq!(listen_status(&alice, topic).await, 403, "{topic}");
    }
    let event = json!({"topic": "topic:a", "type": "tick", "data": 1});
    alice.post("/v2/events", &event).await.problem(403);
    let reading = json!({"fleet_id": "FLT-1", "new_ei": 1});
    alice.post("/v2/fleet/ei-update", &reading).await.problem(403);
    alice.delete("/v2/admin/keys/none").await.problem(403);
    alice.get("/v2/fleets").await.expect(200);
}

#[tokio::test]
async fn identity_headers_are_refused_without_the_scope_for_them() {
    let server = Server::start();
    let send = async |api: &Api, headers: &[(&str, &str)]| {
        let request = api.request("GET", &stream_path("topic:a"));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        Api::send(request).await.expect("an answer")
    };
    for scopes in ["subscribe", "publish,subscribe,manage,admin"] {
        let api = scoped(&server, scopes);
        for header in ["x-user-id", "x-tenant-id"] {
            let answer = send(&api, &[(header, "default")]).await;
            assert_eq!(answer.problem(403), "identity_headers", "{header}");
        }
    }
    let (_, bound) = server.new_key(&["--scopes", "subscribe,act_as_user", "--sub", "alice"]);
    let answer = send(&bound, &[("x-user-id", "bob")]).await;
    assert_eq!(answer.problem(403), "identity_headers");
    let service = scoped(&server, "act_as_user");
    let answer = send(&service, &[("x-user-id", "bob"), ("x-tenant-id", "other")]).await;
    assert_eq!(answer.problem(403), "wrong_tenant");
    let answer = send(&service, &[("x-user-id", "")]).await;
    answer.problem(400);
    let request = service
        .request("GET", &stream_path("user:bob,topic:a"))
        .header("x-user-id", "bob")
        .header("x-tenant-id", "default");
    let ready = Sse::open(request).await.ready().await;
    assert_eq!((&ready["user_id"], &ready["tenant_id"]), (&json!("bob"), &json!("default")));
    let request = service.request("GET", &stream_path("user:carol")).header("x-user-id", "bob");
    let answer = Api::send(request).await.expect("an answer");
    assert_eq!(named(&answer), ["user:carol"], "then it is that user and nobody else");
}

async fn cut_within_a_second(stream: &mut Sse, since: Instant) {
    let close = closed(stream).await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    assert_eq!(
        close,
        json!({"code": 3500, "reason": "unauthenticated", "reconnect": false, "retry_ms": close["retry_ms"]})
    );
}

#[tokio::test]
async fn revoking_a_key_over_http_cuts_its_sessions() {
    let server = Server::start();
    let (admin, operator) = (scoped(&server, "admin"), server.operator());
    let (key_id, api) = server.new_key(&["--scopes", "subscribe"]);
    let (_, bystander) = server.new_key(&["--scopes", "subscribe"]);
    let mut streams = [api.listen("topic:a", None).await, api.listen("fleet:a", None).await];
    let mut other = bystander.listen("topic:a", None).await;
    for stream in streams.iter_mut().chain([&mut other]) {
        stream.ready().await;
    }
    let stranger = server.api_of("other", "admin");
    let path = format!("/v2/admin/keys/{key_id}");
    stranger.delete(&path).await.problem(404);
    let since = Instant::now();
    admin.delete(&path).await.expect(204);
    for stream in &mut streams {
        cut_within_a_second(stream, since).await;
    }
    let answer = api.get("/v2/fleets").await;
    assert!(answer.headers.contains_key("www-authenticate"));
    answer.problem(401);
    assert_eq!(listen_status(&api, "topic:a").await, 401);
    admin.delete(&path).await.expect(204);
    server.api().publish("topic:a", "tick", json!(1)).await;
    assert_eq!(other.expect("tick").await.data["data"], 1, "others stay");
    let closes = operator.get("/metrics").await.text;
    let line =
        closes.lines().find(|line| line.starts_with("bongsu_closes_total") && line.contains("code=\"3500\""));
    assert!(line.is_some_and(|line| line.ends_with(" 2")), "{line:?}");
}

#[tokio::test]
async fn revoking_a_key_on_the_command_line_cuts_its_sessions() {
    let server = Server::start();
    let (key_id, api) = server.new_key(&["--scopes", "subscribe"]);
    let mut stream = api.listen("topic:a", None).await;
    stream.ready().await;
    let data_dir = server.data_dir().to_string_lossy();
    let (status, _, err) = run_cli(&["key", "revoke", "--data-dir", &data_dir, &key_id]);
    assert!(status.success(), "{err}");
    cut_within_a_second(&mut stream, Instant::now()).await;
    api.get("/v2/fleets").await.problem(401);
    let (status, _, _) = run_cli(&["key", "revoke", "--data-dir", &data_dir, "none"]);
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_revoked_key_stays_revoked_across_a_restart() {
    let mut server = Server::start();
    let (key_id, api) = server.new_key(&["--scopes", "subscribe"]);
    api.get("/v2/fleets").await.expect(200);
    scoped(&server, "admin").delete(&format!("/v2/admin/keys/{key_id}")).await.expect(204);
    server.kill();
    server.restart(|options| options);
    api.get("/v2/fleets").await.problem(401);
}

#[tokio::test]
async fn a_ticket_opens_a_stream_and_its_reconnections() {
    let server = Server::start();
    let api = server.api();
    let anonymous = api.anonymous();
    let path = with_ticket("topic:a", &ticket(&api, json!({})).await);
    let mut stream = anonymous.stream(&path, None).await;
    stream.ready().await;
    api.publish("topic:a", "tick", json!(1)).await;
    assert_eq!(stream.expect("tick").await.data["data"], 1);
    let cursor = stream.cursor.clone();
    drop(stream);
    api.publish("topic:a", "tick", json!(2)).await;
    let mut stream = anonymous.stream(&path, cursor.as_deref()).await;
    assert_eq!(stream.ready().await["recovered"], true);
    assert_eq!(stream.expect("tick").await.data["data"], 2);
}

#[tokio::test]
async fn a_ticket_is_first_used_in_time_or_never() {
    let mut server = Server::with(ServerOptions::default().set("auth.ticket_first_use_s", 1));
    let api = server.api();
    let anonymous = api.anonymous();
    let used = with_ticket("topic:a", &ticket(&api, json!({})).await);
    anonymous.stream(&used, None).await.ready().await;
    let unused = with_ticket("topic:a", &ticket(&api, json!({})).await);
    let issued = Instant::now();
    eventually("the time for the first use passes", async || {
        (issued.elapsed() > Duration::from_millis(1100)).then_some(())
    })
    .await;
    assert_eq!(anonymous.get(&unused).await.problem(401), "expired_ticket");
    anonymous.stream(&used, None).await.ready().await;
    server.kill();
    server.restart(|options| options);
    anonymous.stream(&used, None).await.ready().await;
}

#[tokio::test]
async fn a_ticket_is_good_for_its_path_and_topics_only() {
    let server = Server::start();
    let api = server.api();
    let anonymous = api.anonymous();
    let own = ticket(&api, json!({"path": "/v2/realtime/ei-updates"})).await;
    let path = format!("/v2/realtime/ei-updates?fleet_ids=A&ticket={own}");
    anonymous.stream(&path, None).await.ready().await;
    let answer = anonymous.get(&with_ticket("fleet:A", &own)).await;
    assert_eq!(answer.problem(403), "ticket_path");
    let own = ticket(&api, json!({"topics": ["topic:a", "topic:b"]})).await;
    for topics in ["topic:a", "topic:b,topic:a"] {
        anonymous.stream(&with_ticket(topics, &own), None).await.ready().await;
    }
    let answer = anonymous.get(&with_ticket("topic:a,topic:c", &own)).await;
    assert!(answer.text.contains("topic:c"));
    assert_eq!(answer.problem(403), "ticket_topics");
    let answer = anonymous.get(&with_ticket("topic:a", "bt_wrong")).await;
    assert_eq!(answer.problem(401), "invalid_ticket");
    // a ticket is no more than its issuer
    let own = ticket(&scoped(&server, "subscribe"), json!({"topics": ["admin"]})).await;
    let answer = anonymous.get(&with_ticket("admin", &own)).await;
    assert_eq!(answer.problem(403), "forbidden_topics");
    for (request, field) in [
        (json!({"path": "relative"}), "path"),
        (json!({"topics": ["truck:1"]}), "topics"),
        (json!({"colour": "red"}), "colour"),
    ] {
        let answer = api.post("/v2/realtime/tickets", &request).await;
        assert_eq!(answer.json()["errors"][0]["field"], field);
        answer.problem(422);
    }
}

#[tokio::test]
async fn a_request_that_is_wrong_does_not_use_a_ticket_up() {
    let server = Server::start();
    let api = server.api();
    let anonymous = api.anonymous();
    let many: String = (0..129).map(|n| format!("topic:{n},")).collect();
    for (topics, code) in [
        ("truck:1", "invalid_parameter"),
        ("", "invalid_parameter"),
        (many.trim_end_matches(','), "too_many_topics"),
        ("admin", "forbidden_topics"),
    ] {
        let own = ticket(&api, json!({})).await;
        let answer = anonymous.get(&with_ticket(topics, &own)).await;
        let status = if code == "forbidden_topics" { 403 } else { 400 };
        assert_eq!(answer.problem(status), code);
        anonymous.stream(&with_ticket("topic:a", &own), None).await.ready().await;
    }
    // whoever has no ticket learns nothing about the topics
    assert_eq!(anonymous.get(&with_ticket("truck:1", "bt_wrong")).await.problem(401), "invalid_ticket");
}

#[tokio::test]
async fn a_newer_connection_of_a_ticket_replaces_the_older_one() {
    let server = Server::start();
    let api = server.api();
    let anonymous = api.anonymous();
    let own = ticket(&api, json!({})).await;
    let other = ticket(&api, json!({})).await;
    let mut bystander = anonymous.stream(&with_ticket("topic:a", &other), None).await;
    bystander.ready().await;
    let mut older = anonymous.stream(&with_ticket("topic:a", &own), None).await;
    older.ready().await;
    for _ in 0..4 {
        let mut newer = anonymous.stream(&with_ticket("topic:a", &own), None).await;
        newer.ready().await;
        let close = closed(&mut older).await;
        assert_eq!(
            (&close["code"], &close["reason"], &close["retry_ms"]),
            (&json!(1000), &json!("replaced"), &json!(600_000)),
            "two pages on one ticket do not take it from each other all the time"
        );
        older = newer;
    }
    api.publish("topic:a", "tick", json!(1)).await;
    for stream in [&mut older, &mut bystander] {
        assert_eq!(stream.expect("tick").await.data["data"], 1);
    }
}

#[tokio::test]
async fn a_ticket_dies_with_its_key() {
    let server = Server::start();
    let (key_id, api) = server.new_key(&["--scopes", "subscribe"]);
    let anonymous = api.anonymous();
    let path = with_ticket("topic:a", &ticket(&api, json!({})).await);
    let unused = with_ticket("topic:a", &ticket(&api, json!({})).await);
    let mut stream = anonymous.stream(&path, None).await;
    stream.ready().await;
    let since = Instant::now();
    let admin = scoped(&server, "admin");
    admin.delete(&format!("/v2/admin/keys/{key_id}")).await.expect(204);
    cut_within_a_second(&mut stream, since).await;
    for path in [path, unused] {
        assert_eq!(anonymous.get(&path).await.problem(401), "revoked");
    }
}

#[tokio::test]
async fn a_ticket_is_no_key_and_appears_in_no_log() {
    let server = Server::with(ServerOptions::default().env("LOG_LEVEL", "debug"));
    let api = server.api();
    let anonymous = api.anonymous();
    let own = ticket(&api, json!({})).await;
    anonymous.stream(&with_ticket("topic:a", &own), None).await.ready().await;
    for path in ["/v2/realtime/tickets", "/v2/events"] {
        let in_url = anonymous.post(&format!("{path}?ticket={own}"), &json!({})).await;
        in_url.problem(401);
        server.api_with(&own).post(path, &json!({})).await.problem(401);
    }
    anonymous.get(&format!("/v2/fleets?ticket={own}")).await.problem(401);
    let log = server.stderr();
    assert!(log.contains("/v2/realtime/stream"), "requests are logged");
    assert!(!log.contains(&own) && !log.contains(server.key()));
}

async fn from_origin(api: &Api, method: &str, path: &str, origin: &str) -> (u16, HeaderMap) {
    let mut request = api.request(method, path).header("Origin", origin);
    if method == "OPTIONS" {
        request = request
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "x-api-key,content-type,idempotency-key");
    }
    let response = request.send().await.expect("an answer");
    (response.status().as_u16(), response.headers().clone())
}

#[tokio::test]
async fn pages_of_listed_origins_may_use_the_api_and_no_others() {
    let listed = ["https://app.example", "http://localhost:3000"];
    let server = Server::with(ServerOptions::default().env("CORS_ORIGINS", listed.join(",")));
    let api = server.api();
    let paths = ["/v2/fleets", "/v2/realtime/stream?topics=topic:a"];
    for origin in listed {
        let (status, headers) = from_origin(&api.anonymous(), "OPTIONS", "/v2/events", origin).await;
        assert_eq!(status, 200);
        assert_eq!(headers["access-control-allow-origin"], origin);
        assert_eq!(headers["access-control-allow-credentials"], "true");
        let allowed = headers["access-control-allow-headers"].to_str().expect("text").to_lowercase();
        for name in ["x-api-key", "content-type", "idempotency-key", "last-event-id"] {
            assert!(allowed.contains(name), "{name} in {allowed}");
        }
        for path in paths {
            let (status, headers) = from_origin(&api, "GET", path, origin).await;
            assert_eq!((status, &headers["access-control-allow-origin"]), (200, &origin.parse().unwrap()));
        }
        // a page must be able to read why it was refused
        let (status, headers) = from_origin(&api.anonymous(), "GET", "/v2/fleets", origin).await;
        assert_eq!((status, &headers["access-control-allow-origin"]), (401, &origin.parse().unwrap()));
    }
    let closed = Server::start();
    for (api, origin) in [
        (&api, "https://evil.example"),
        (&api, "https://app.example.evil.example"),
        (&api, "http://app.example"),
        (&api, "null"),
        (&closed.api(), "https://app.example"),
    ] {
        let (_, headers) = from_origin(api, "OPTIONS", "/v2/events", origin).await;
        assert!(!headers.contains_key("access-control-allow-origin"), "{origin}");
        for path in paths {
            let (_, headers) = from_origin(api, "GET", path, origin).await;
            assert!(!headers.contains_key("access-control-allow-origin"), "{origin} {path}");
        }
    }
}

#[tokio::test]
async fn a_ticket_issued_for_a_user_carries_that_users_rights_and_not_the_keys() {
    let server = Server::start();
    let api = server.api_with(&server.create_key("act_as_user,subscribe"));
    let request = api.request("POST", "/v2/realtime/tickets").header("x-user-id", "alice").json(&json!({}));
    let issued = Api::send(request).await.expect("an answer").expect(201);
    let ticket = issued["ticket"].as_str().expect("a ticket");
    let anonymous = api.anonymous();
    let path = |topics: &str| format!("/v2/realtime/stream?topics={topics}&ticket={ticket}");
    assert_eq!(anonymous.get(&path("user:bob")).await.problem(403), "forbidden_topics");
    let mut stream = anonymous.stream(&path("user:alice"), None).await;
    assert_eq!(stream.ready().await["user_id"], "alice");
    // from its first use on it is good for that one stream
    assert_eq!(anonymous.get(&path("fleet:1")).await.problem(403), "ticket_topics");
    anonymous.stream(&path("user:alice"), None).await.ready().await;
}

#[tokio::test]
async fn a_revocation_is_carried_out_whoever_notices_it_first() {
    let server = Server::with(ServerOptions::default().set("auth.revocation_poll_ms", 400));
    let (admin, wrong) = (server.api_of("default", "admin"), server.api_with("bk_wrong"));
    for _ in 0..5 {
        let (key_id, api) = server.new_key(&["--scopes", "subscribe"]);
        let mut stream = api.listen("topic:news", None).await;
        stream.ready().await;
        admin.delete(&format!("/v2/admin/keys/{key_id}")).await.expect(204);
        // a request with an unknown key makes the server look for changed keys at once
        assert_eq!(wrong.get("/v2/fleets").await.status, 401);
        let end = stream.rest().await;
        assert_eq!(end.last().map(|event| &event.data["code"]), Some(&json!(3500)), "{end:?}");
    }
}
