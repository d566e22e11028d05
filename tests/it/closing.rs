//! How the server ends a stream by itself, and what it tells the client to do next.

use serde_json::json;

use crate::support::{Outsider, Server, ServerOptions};

#[tokio::test]
async fn a_connection_at_its_maximum_age_is_told_to_come_back_at_once_and_misses_nothing() {
    let options = ServerOptions::default().set("sessions.max_age_s", 1).set("sessions.sweep_ms", 50);
    let server = Server::with(options);
    let api = server.api();
    let mut stream = api.listen("topic:news", None).await;
    stream.ready().await;
    api.publish("topic:news", "headline", json!({"n": 1})).await;
    let events = stream.rest().await;
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[0].data["data"]["n"], 1);
    let expected = json!({"code": 3003, "reason": "maximum_age", "reconnect": true, "retry_ms": 0});
    assert_eq!((events[1].event.as_str(), &events[1].data), ("close", &expected));
    assert_eq!(stream.retry_ms, Some(0));
    api.publish("topic:news", "headline", json!({"n": 2})).await;
    let mut again = api.listen("topic:news", stream.cursor.as_deref()).await;
    assert_eq!(again.ready().await["recovered"], true);
    assert_eq!(again.take(1).await[0].data["data"]["n"], 2);
    let closes = r#"bongsu_closes_total{transport="sse",code="3003",reason="maximum_age"}"#;
    assert!(server.operator().metric(closes).await >= 1.0);
}

#[tokio::test]
async fn a_stream_whose_position_cannot_be_known_in_time_is_told_to_come_back() {
    let options =
        ServerOptions::default().set("sessions.ready_timeout_ms", 300).set("storage.wait_ms", 10_000);
    let server = Server::with(options);
    // a tenant that has no log yet needs a write, and the database is locked
    let api = server.api_of("newcomer", "subscribe,publish");
    let mut outsider = Outsider::open(server.data_dir());
    outsider.run("BEGIN EXCLUSIVE");
    let mut stream = api.listen("topic:news", None).await;
    let events = stream.rest().await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0].event.as_str(), events[0].data["code"].as_u64()), ("close", Some(1001)));
    assert_eq!(events[0].data["reconnect"], true);
    drop(outsider);
    api.listen("topic:news", None).await.ready().await;
}
