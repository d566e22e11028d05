//! What the metrics say about traffic, and how a request is followed through the actors to its deliveries.

use serde_json::{Value, json};

use crate::support::{
    Answer, Api, Client, Logged, Server, ServerOptions, Transport, Ws, eventually, on_every_transport,
    run_cli, says,
};

/// A server, and where its metrics are open.
fn measured() -> (Server, Api) {
    let server = Server::with(ServerOptions::default().set("metrics.bind", "127.0.0.1:0"));
    let address = server.metrics_address().expect("an open port for metrics");
    (server, Api::new(address, None))
}

#[tokio::test]
async fn every_kind_of_actor_tells_its_handling_time_and_its_mailbox() {
    let (server, metrics) = measured();
    let text = metrics.get("/metrics").await.text;
    for actor in ["appender", "room_registry", "session"] {
        for series in ["mailbox_waiting", "mailbox_refused_total", "actor_handling_seconds_count"] {
            let series = format!("bongsu_{series}{{actor=\"{actor}\"}} ");
            assert!(text.contains(&series), "before any traffic: {series}");
        }
    }
    let handled = async |actor: &str| {
        metrics.metric(&format!("bongsu_actor_handling_seconds_count{{actor=\"{actor}\"}}")).await
    };
    let (api, before) = (server.api(), handled("appender").await);
    let started = std::time::Instant::now();
    let (mut client, _) = Client::over(Transport::WebSocket, &api, "topic:news", None).await;
    for number in 0..20 {
        api.publish("topic:news", "note", json!({"number": number})).await;
    }
    for _ in 0..20 {
        client.event().await;
    }
    // each publish was awaited, so each was a batch of its own, and each woke the only listener's worker
    assert!(handled("appender").await >= before + 20.0);
    assert!(handled("room_registry").await >= 20.0);
    assert!(handled("session").await >= 1.0, "it began");
    drop(client);
    for actor in ["appender", "room_registry", "session"] {
        let waiting = format!("bongsu_mailbox_waiting{{actor=\"{actor}\"}}");
        eventually("empty mailboxes", async || (metrics.metric(&waiting).await == 0.0).then_some(())).await;
        let sum = format!("bongsu_actor_handling_seconds_sum{{actor=\"{actor}\"}}");
        let (sum, most) = (metrics.metric(&sum).await, started.elapsed().as_secs_f64() * 16.0);
        assert!(sum > 0.0 && sum < most, "{actor}: {sum} s");
    }
}

#[tokio::test]
async fn only_what_is_live_counts_in_the_time_to_deliver() {
    let (server, metrics) = measured();
    for transport in [Transport::Sse, Transport::WebSocket] {
        times_what_is_live(&server, &metrics, transport).await;
    }
}

async fn times_what_is_live(server: &Server, metrics: &Api, transport: Transport) {
    let api = server.api();
    let count = async || metrics.metric("bongsu_delivery_seconds_count").await;
    let first = api.publish("topic:news", "note", json!({"number": 0})).await;
    let (mut client, _) = Client::over(transport, &api, "topic:news", None).await;
    let before = count().await;
    for number in 1..4 {
        api.publish("topic:news", "note", json!({"number": number})).await;
        client.event().await;
    }
    assert_eq!(count().await, before + 3.0);
    drop(client);
    let (mut client, ready) = Client::over(transport, &api, "topic:news", Some(&first)).await;
    assert_eq!(ready["recovered"], true);
    for _ in 1..4 {
        client.event().await;
    }
    assert_eq!(count().await, before + 3.0, "what was waited for is the client's own time");
}

#[tokio::test]
async fn the_database_pools_tell_their_size_their_use_and_the_waits_for_them() {
    let (server, metrics) = measured();
    let of = async |series: &str, pool: &str| {
        metrics.metric(&format!("bongsu_database_{series}{{pool=\"{pool}\"}}")).await
    };
    assert_eq!(of("connections_max", "write").await, 1.0, "SQLite has one writer");
    assert!(of("connections_max", "read").await >= 1.0);
    let before = (of("wait_seconds_count", "write").await, of("wait_seconds_count", "read").await);
    for number in 0..10 {
        server.api().publish("topic:news", "note", json!({"number": number})).await;
        assert_eq!(server.api().get("/v2/fleets").await.status, 200);
    }
    assert!(of("wait_seconds_count", "write").await >= before.0 + 10.0);
    assert!(of("wait_seconds_count", "read").await >= before.1 + 10.0);
    for pool in ["read", "write"] {
        let (most, used) = (of("connections_max", pool).await, of("connections_in_use", pool).await);
        assert!((0.0..=most).contains(&used), "{pool}: {used} of {most}");
        assert_eq!((of("waiting", pool).await, of("wait_timeouts_total", pool).await), (0.0, 0.0), "{pool}");
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A call that names itself and its place in a trace.
async fn traced(api: &Api, path: &str, name: &str, body: &Value) -> Answer {
    let request = api.request("POST", path).header("X-Request-Id", name);
    Api::send(request.header("traceparent", format!("00-{TRACE}-{CALLER}-01")).json(body))
        .await
        .expect("an answer")
}

/// The fields of one of the spans that a line lies in.
fn span<'a>(line: &'a Value, name: &str) -> &'a Value {
    let spans = line["spans"].as_array().map_or(&[][..], Vec::as_slice);
    spans.iter().find(|span| span["name"] == name).unwrap_or(&Value::Null)
}

/// What has to be told of each delivery of an event that came with [`traced`].
async fn delivered(logged: &Logged, request: &str, event_id: &str, ready: &Value) -> Value {
    let own = |line: &Value| says("delivered")(line) && span(line, "delivery")["request_id"] == request;
    let line = logged.line("combined.log", own).await;
    let delivery = span(&line, "delivery");
    assert_eq!((delivery["event_id"].as_str(), delivery["trace_id"].as_str()), (Some(event_id), Some(TRACE)));
    assert_eq!(delivery["tenant"], "default");
    if let Some(id) = ready["connection_id"].as_str() {
        assert_eq!(delivery["connection_id"], id);
    }
    delivery.clone()
}

async fn a_request_is_followed_through_the_actors_to_its_delivery(transport: Transport) {
    let logged = Logged::start("trace");
    let api = logged.server.api();
    let (mut client, ready) = Client::over(transport, &api, "topic:news", None).await;
    let body = json!({"topic": "topic:news", "type": "note", "data": {}});
    let answer = traced(&api, "/v2/events", "call-1", &body).await;
    let headers = answer.headers.clone();
    assert_eq!(headers["x-request-id"], "call-1");
    let told = headers["traceparent"].to_str().expect("text").to_owned();
    assert!(
        told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-01") && !told.contains(CALLER),
        "{told}"
    );
    let position = answer.expect(202)["position"].as_str().expect("a position").to_owned();
    client.event().await;

    let published = logged.line("combined.log", says("published")).await;
    let request = span(&published, "request");
    assert_eq!((request["request_id"].as_str(), request["trace_id"].as_str()), (Some("call-1"), Some(TRACE)));
    assert_eq!(
        (request["tenant"].as_str(), published["event_id"].as_str()),
        (Some("default"), Some(&*position))
    );
    let appended = logged.line("combined.log", says("appended")).await;
    assert_eq!(
        (appended["request_id"].as_str(), appended["trace_id"].as_str()),
        (Some("call-1"), Some(TRACE))
    );
    assert_eq!(
        (appended["event_id"].as_str(), appended["topic"].as_str()),
        (Some(&*position), Some("topic:news"))
    );
    // a poller comes for it later
    if transport != Transport::Poll {
        let fanned_out = logged.line("combined.log", says("fanned out")).await;
        let own = span(&fanned_out, "fan_out");
        assert_eq!((own["request_id"].as_str(), own["trace_id"].as_str()), (Some("call-1"), Some(TRACE)));
        assert_eq!((own["event_id"].as_str(), fanned_out["sessions"].as_u64()), (Some(&*position), Some(1)));
        assert_eq!(span(&fanned_out, "message")["actor"], "room_registry", "{fanned_out}");
    }
    delivered(&logged, "call-1", &position, &ready).await;
}
on_every_transport!(a_request_is_followed_through_the_actors_to_its_delivery);

#[tokio::test]
async fn a_change_is_followed_through_the_outbox_to_its_delivery() {
    let logged = Logged::start("info,bongsu::sessions=trace");
    let api = logged.server.api();
    let (mut client, ready) = Client::over(Transport::Sse, &api, "fleet:FLT-A01", None).await;
    let body = json!({"fleet_id": "FLT-A01", "new_ei": 50});
    traced(&api, "/v2/fleet/ei-update", "change-1", &body).await.expect(200);
    let event = client.event().await;
    delivered(&logged, "change-1", &event.id.expect("a position"), &ready).await;
}

#[tokio::test]
async fn what_follows_from_an_account_is_followed_through_its_job_to_its_delivery() {
    let logged = Logged::start("info,bongsu::sessions=trace");
    let api = logged.server.api_of("default", "act_as_user").speaking_for("kim");
    let (mut client, ready) = Client::over(Transport::Sse, &api, "user:kim", None).await;
    let body = json!({"name": "savings", "balance": 1});
    traced(&api, "/accounts", "account-1", &body).await.expect(201);
    let event = client.event().await;
    assert_eq!(event.name, "snapshots.generated");
    delivered(&logged, "account-1", &event.id.expect("a position"), &ready).await;
}

#[tokio::test]
async fn a_command_over_websocket_is_followed_as_a_request_of_its_connection() {
    let logged = Logged::start("trace");
    let bearer = format!("Bearer {}", token(&logged, "u-7", "manager"));
    let place = format!("00-{TRACE}-{CALLER}-00");
    let headers = [("authorization", &*bearer), ("x-request-id", "open-1"), ("traceparent", &*place)];
    let path = "/v2/realtime/ws?topics=topic:news";
    let mut client = Ws::try_open(logged.server.address(), path, &headers).await.expect("a connection");
    let ready = client.ready().await;
    let connected = logged.line("combined.log", says("connected")).await;
    let request = span(&connected, "request");
    assert_eq!((request["request_id"].as_str(), request["trace_id"].as_str()), (Some("open-1"), Some(TRACE)));
    assert_eq!(
        (request["user_id"].as_str(), &request["connection_id"]),
        (Some("u-7"), &ready["connection_id"])
    );
    let event = json!({"topic": "topic:news", "type": "note", "data": {}, "class": "durable"});
    client.done("publish", event).await;
    let event_id = client.event().await["id"].as_str().expect("a position").to_owned();
    let published = logged.line("combined.log", says("published")).await;
    let command = span(&published, "command");
    assert_eq!(
        (&command["connection_id"], command["user_id"].as_str()),
        (&ready["connection_id"], Some("u-7"))
    );
    let delivery = delivered(&logged, "open-1/1", &event_id, &ready).await;
    assert_eq!(
        (delivery["user_id"].as_str(), &delivery["request_id"]),
        (Some("u-7"), &command["request_id"])
    );
}

#[tokio::test]
async fn at_level_info_a_line_tells_its_request_and_nothing_is_said_of_events() {
    let logged = Logged::start("info");
    let operator = logged.server.operator();
    let body = json!({"cidr": "192.0.2.7", "reason": "a test"});
    traced(&operator, "/v2/admin/blocklist", "block-1", &body).await.expect(201);
    let line = logged.line("combined.log", says("a network is blocked")).await;
    let request = span(&line, "request");
    assert_eq!(
        (request["request_id"].as_str(), request["trace_id"].as_str()),
        (Some("block-1"), Some(TRACE))
    );
    let api = logged.server.api();
    let (mut client, _) = Client::over(Transport::Sse, &api, "topic:news,fleet:FLT-A01", None).await;
    api.publish("topic:news", "note", json!({})).await;
    client.event().await;
    api.update_ei("FLT-A01", 50.0).await;
    client.event().await;
    drop(client);
    logged.line("combined.log", says("disconnected")).await;
    for line in logged.lines("combined.log") {
        assert_eq!(line["level"], "INFO", "{line}");
        assert!(
            !["published", "appended", "fanned out", "delivered"].iter().any(|message| says(message)(&line))
        );
    }
}

#[tokio::test]
async fn what_is_no_place_in_a_trace_makes_a_new_one_begin() {
    let logged = Logged::start("debug");
    let api = logged.server.api();
    let ask = async |places: &[&str]| {
        let request = places
            .iter()
            .fold(api.request("GET", "/ready"), |request, place| request.header("traceparent", *place));
        Api::send(request).await.expect("an answer").headers["traceparent"].to_str().expect("text").to_owned()
    };
    let good = format!("00-{TRACE}-{CALLER}-01");
    assert!(ask(&[&good]).await.contains(TRACE));
    let mut seen = std::collections::BTreeSet::new();
    for places in [&[][..], &["00-hunter2"], &["Bearer hunter2"], &[&good, &good], &[&good.to_uppercase()]] {
        let told = ask(places).await;
        assert!(told.len() == 55 && !told.contains(TRACE) && told.ends_with("-00"), "{places:?}: {told}");
        assert!(seen.insert(told[3..35].to_owned()), "a trace of its own");
    }
    assert!(!logged.text("combined.log").contains("hunter2"));
}

/// A token of a user.
fn token(logged: &Logged, sub: &str, role: &str) -> String {
    let data_dir = logged.server.data_dir().to_string_lossy().into_owned();
    let (status, out, err) =
        run_cli(&["token", "create", "--sub", sub, "--roles", role, "--json", "--data-dir", &data_dir]);
    assert!(status.success(), "{err}");
    let created: Value = serde_json::from_str(&out).expect("JSON");
    created["token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn no_span_and_no_line_of_any_level_holds_a_secret() {
    let logged = Logged::start("trace");
    let api = logged.server.api();
    let ticket = async |path: &str| {
        let issued = api.post("/v2/realtime/tickets", &json!({"path": path, "topics": ["topic:news"]})).await;
        assert!((200..300).contains(&issued.status), "{}", issued.text);
        issued.json()["ticket"].as_str().expect("a ticket").to_owned()
    };
    let (for_stream, for_socket) = (ticket("/v2/realtime/stream").await, ticket("/v2/realtime/ws").await);
    let token = token(&logged, "kim", "customer");

    // each way to show a credential, for connections that get events and requests that do not get through
    let path = format!("/v2/realtime/stream?topics=topic:news&ticket={for_stream}");
    let mut stream = api.anonymous().stream(&path, None).await;
    stream.ready().await;
    let path = format!("/v2/realtime/ws?topics=topic:news&ticket={for_socket}");
    let mut socket = Ws::try_open(logged.server.address(), &path, &[]).await.expect("a connection");
    socket.ready().await;
    let mut stranger =
        Ws::try_open(logged.server.address(), "/v2/realtime/ws", &[]).await.expect("a connection");
    stranger.done("auth", json!({"token": token, "topics": ["user:kim"]})).await;
    stranger.ready().await;
    stranger.done("auth", json!({"token": token})).await;
    assert!(api.bearing(&token).get("/v2/realtime/poll?topics=user:kim&wait=0").await.status == 200);
    let event =
        json!({"topic": "topic:news", "type": "note", "data": {"text": "between-us"}, "class": "durable"});
    traced(&api, "/v2/events", "call-1", &event).await.expect(202);
    stream.expect("note").await;
    socket.event().await;
    logged.line("combined.log", says("delivered")).await;
    let wrong = api.bearing("neverissued.neverissued.neverissued");
    assert_eq!(wrong.get("/v2/fleets?secret=in-a-query").await.status, 401);
    let odd = api.request("GET", "/v2/fleets").header("X-Request-Id", "hunter2 hunter2");
    Api::send(odd.header("Cookie", "session=hunter2").header("tracestate", "a=hunter2"))
        .await
        .expect("an answer");
    drop((stream, socket, stranger));
    logged.line("combined.log", says("disconnected")).await;
    for (place, text) in
        [("combined.log", logged.text("combined.log")), ("standard error", logged.server.stderr())]
    {
        for secret in [
            api.key(),
            &for_stream,
            &for_socket,
            &token,
            "neverissued",
            "between-us",
            "in-a-query",
            "hunter2",
        ] {
            assert!(!text.contains(secret), "{place} holds {secret}");
        }
    }
}

#[tokio::test]
async fn whatever_is_answered_503_is_counted_upgrades_too() {
    let (server, metrics) = measured();
    let drain = server.operator().request("POST", "/v2/admin/drain");
    assert_eq!(Api::send(drain).await.expect("an answer").status, 202);
    let before = metrics.metric("bongsu_unavailable_answers_total").await;
    let headers = [("x-api-key", server.key())];
    let refused = Ws::try_open(server.address(), "/v2/realtime/ws?topics=topic:news", &headers).await;
    assert_eq!(refused.err(), Some(503));
    assert_eq!(server.api().get("/v2/realtime/stream?topics=topic:news").await.status, 503);
    assert_eq!(metrics.metric("bongsu_unavailable_answers_total").await, before + 2.0);
}
