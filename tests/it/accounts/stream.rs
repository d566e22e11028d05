//! `/events/sse` and `/events/status`, as the clients of system 2 know them.

use serde_json::{Value, json};

use super::{anonymous, make, on_both_backends, speaking};
use crate::support::{Program, Server, ServerOptions, Sse, SseEvent, eventually};

on_both_backends! {
    events_are_unnamed_and_ready_and_close_are_named,
    a_client_without_credentials_resumes_by_its_last_event_id,
    the_eventsource_of_npm_needs_no_credentials,
    whoever_may_see_it_is_told_who_is_connected,
}

/// The next event that an EventSource gives to `onmessage`.
async fn message(stream: &mut Sse) -> SseEvent {
    loop {
        let event = stream.next().await.expect("an event");
        if event.event == "message" {
            return event;
        }
    }
}

async fn events_are_unnamed_and_ready_and_close_are_named() {
    let server =
        Server::with(anonymous().set("sessions.user_heartbeat_ms", 200).set("sessions.sweep_ms", 50));
    let nobody = server.api().anonymous().at(0);
    for path in ["/events/sse", "/api/events/sse"] {
        let mut stream = nobody.stream(path, None).await;
        let ready = stream.ready().await;
        assert_eq!((&ready["user_id"], &ready["topics"]), (&json!("123"), &json!(["user:123"])));
        assert_eq!((&ready["heartbeat_ms"], stream.retry_ms), (&json!(200), Some(1000)));
        let ping = message(&mut stream).await;
        assert_eq!(ping.data["type"], "ping");
        assert_eq!(ping.data["serverId"], ready["server_id"]);
        assert!(ping.data["timestamp"].as_i64().is_some_and(|millis| millis > 1_700_000_000_000));
        assert!(ping.id.is_some(), "it moves the cursor");
        make(&nobody, "a", 1.0).await;
        let event = eventually("the event", async || {
            Some(message(&mut stream).await).filter(|event| event.data["type"] != "ping")
        })
        .await;
        assert_eq!(event.data["eventType"], "snapshots.generated");
        assert!(event.data["snapshotCount"].is_u64() && event.data["serverId"] == ready["server_id"]);
        // what others publish for the user, whatever its data is
        server.api().publish("user:123", "note", json!([1])).await;
        let note = eventually("the note", async || {
            Some(message(&mut stream).await).filter(|event| event.data["type"] != "ping")
        })
        .await;
        assert_eq!(note.data, json!({"eventType": "note", "data": [1]}));
    }
    let mut stream = nobody.stream("/events/sse", None).await;
    stream.ready().await;
    server.signal_node(0, "TERM");
    let rest = stream.rest().await;
    assert_eq!(rest.last().map(|event| event.event.as_str()), Some("close"));
}

async fn a_client_without_credentials_resumes_by_its_last_event_id() {
    let server = Server::with(anonymous());
    let nobody = server.api().anonymous();
    let mut stream = nobody.stream("/events/sse", None).await;
    stream.ready().await;
    make(&nobody, "first", 1.0).await;
    assert_eq!(message(&mut stream).await.data["snapshotCount"], 1);
    let cursor = stream.cursor.clone();
    drop(stream);
    make(&nobody, "second", 1.0).await;
    let mut stream = nobody.stream("/events/sse", cursor.as_deref()).await;
    assert_eq!(stream.ready().await["recovered"], true);
    assert_eq!(message(&mut stream).await.data["snapshotCount"], 2);
    // without the setting nobody is let in, and those who are known hear their own
    let strict = Server::with(ServerOptions::default());
    for path in ["/events/sse", "/events/status", "/accounts", "/snapshots"] {
        assert_eq!(strict.api().anonymous().get(path).await.problem(401), "missing_credentials");
    }
    let kim = speaking(&strict, "kim");
    let mut stream = kim.stream("/events/sse", None).await;
    assert_eq!(stream.ready().await["topics"], json!(["user:kim"]));
    let ticket = kim.post("/v2/realtime/tickets", &json!({"path": "/events/sse"})).await.expect(201);
    let by_ticket = format!("/events/sse?ticket={}", ticket["ticket"].as_str().expect("a ticket"));
    let mut by_ticket = kim.anonymous().stream(&by_ticket, None).await;
    assert_eq!(by_ticket.ready().await["topics"], json!(["user:kim"]));
    make(&kim, "a", 1.0).await;
    for stream in [&mut stream, &mut by_ticket] {
        assert_eq!(message(stream).await.data["eventType"], "snapshots.generated");
    }
    // a ticket for other topics is not one for the user's own
    let ticket = kim.post("/v2/realtime/tickets", &json!({"topics": ["topic:news"]})).await.expect(201);
    let path = format!("/events/sse?ticket={}", ticket["ticket"].as_str().expect("a ticket"));
    assert_eq!(kim.anonymous().get(&path).await.status, 403);
}

async fn the_eventsource_of_npm_needs_no_credentials() {
    let server = Server::with(anonymous().set("sessions.retry_ms", 200));
    let url = server.api().anonymous().at(0).url("/events/sse");
    let client = Program::node("eventsource.mjs", &[&url, "message"], &[]);
    is_told_over_a_kill(client, server).await;
}

#[tokio::test]
async fn heavy_the_eventsource_of_a_browser_needs_no_credentials() {
    let mut client = Program::node("browser.mjs", &["message"], &[]);
    let first: Value = serde_json::from_str(&client.line().await.expect("its origin")).expect("JSON");
    let origin = first["origin"].as_str().expect("an origin");
    let server = Server::with(anonymous().set("cors.allowed_origins", origin));
    client.say(&format!("go {}", server.api().anonymous().url("/events/sse"))).await;
    is_told_over_a_kill(client, server).await;
}

/// A stock client hears by `onmessage` of an account before a kill, and of one after it.
async fn is_told_over_a_kill(mut client: Program, mut server: Server) {
    let nobody = server.api().anonymous();
    client.find(|line| line.contains("\"ready\"").then_some(())).await;
    make(&nobody, "first", 1.0).await;
    let counts = async |client: &mut Program| -> u64 {
        client
            .find(|line| {
                let seen: Value = serde_json::from_str(line).expect("JSON");
                seen["data"]["snapshotCount"].as_u64().filter(|_| seen["event"] == "message")
            })
            .await
    };
    assert_eq!(counts(&mut client).await, 1);
    server.kill();
    server.restart(|options| options);
    make(&nobody, "second", 1.0).await;
    assert_eq!(counts(&mut client).await, 2);
    assert!(client.end().await.success());
}

async fn whoever_may_see_it_is_told_who_is_connected() {
    let server = Server::with(anonymous());
    let nobody = server.api().anonymous().at(0);
    let status = async || nobody.get("/events/status").await.expect(200);
    let before = status().await;
    assert_eq!((&before["connectedUsers"], &before["activeStreams"]), (&json!([]), &json!(0)));
    let kim = speaking(&server, "kim").at(0);
    let mut streams =
        vec![nobody.stream("/events/sse", None).await, nobody.stream("/events/sse", None).await];
    streams.push(kim.stream("/events/sse", None).await);
    let mut name = Value::Null;
    for stream in &mut streams {
        name = stream.ready().await["server_id"].clone();
    }
    let shown = status().await;
    let expected = json!({"connectedUsers": ["123", "kim"], "activeStreams": 3, "serverId": name,
        "redisConnected": !super::is_embedded()});
    assert_eq!(shown, expected);
    drop(streams);
    eventually("their end", async || (status().await["activeStreams"] == 0).then_some(())).await;
    // whoever shows credentials goes by its rights
    assert_eq!(kim.get("/events/status").await.problem(403), "forbidden");
    for scope in ["admin", "manage"] {
        server.api_of("default", scope).get("/events/status").await.expect(200);
    }
    assert_eq!(server.api_of("other", "admin").get("/events/status").await.expect(200)["activeStreams"], 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_after_as_many_events_as_may_wait() {
    // neither for its bytes nor for its silence
    let options = anonymous().set("sessions.queue_bytes", 1 << 30).set("server.stall_timeout_ms", 60_000);
    let server = Server::with(options);
    let (nobody, publisher, operator) = (server.api().anonymous(), server.api(), server.operator());
    let mut slow = nobody.stream("/events/sse", None).await;
    slow.ready().await;
    let cut = r#"bongsu_closes_total{transport="sse",code="3001",reason="slow_consumer"}"#;
    assert_eq!(operator.metric(cut).await, 0.0);
    // more than the kernel's buffers take, and a hundred
    let event = json!({"topic": "user:123", "type": "note", "data": "x".repeat(20_000)});
    let batch = json!({"events": vec![event; 50]});
    for _ in 0..6 {
        publisher.post("/v2/events/batch", &batch).await.expect(202);
    }
    eventually("it to be cut", async || (operator.metric(cut).await == 1.0).then_some(())).await;
    eventually("the close", async || {
        let event = slow.next().await.expect("the close");
        (event.event == "close").then(|| assert_eq!(event.data["code"], 3001))
    })
    .await;
}
