//! Events put together on a client's request.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Server, ServerOptions, Sse, SseEvent, eventually};

fn path(parameters: &str) -> String {
    format!("/v2/realtime/stream?topics=topic:a&{parameters}")
}

async fn publish(server: &Server, numbers: std::ops::Range<u64>, pad: usize) -> Vec<String> {
    let event = |n| json!({"topic": "topic:a", "type": "tick", "data": {"n": n, "pad": "x".repeat(pad)}});
    let events: Vec<Value> = numbers.map(event).collect();
    let answer = server.api().post("/v2/events/batch", &json!({"events": events})).await.expect(202);
    let results = answer["results"].as_array().expect("results");
    results.iter().map(|item| item["position"].as_str().expect("a position").to_owned()).collect()
}

fn numbers(batch: &SseEvent) -> Vec<u64> {
    let events = batch.data["events"].as_array().expect("events");
    events.iter().map(|event| event["data"]["n"].as_u64().expect("a number")).collect()
}

async fn open(server: &Server, parameters: &str) -> Sse {
    let mut stream = server.api().stream(&path(parameters), None).await;
    stream.ready().await;
    stream
}

#[tokio::test]
async fn a_batch_holds_event_objects_and_has_the_id_of_the_last() {
    let server = Server::start();
    let mut stream = open(&server, "batch_ms=100&batch_max=50").await;
    let positions = publish(&server, 0..3, 0).await;
    let batch = stream.expect("batch").await;
    assert_eq!(batch.id.as_deref(), Some(positions[2].as_str()));
    let time = |value: &Value| value.as_str().expect("a time").to_owned();
    let ts = time(&batch.data["events"][0]["ts"]);
    let event = |n: usize| json!({"event": "tick", "topic": "topic:a", "id": positions[n], "ts": ts, "data": {"n": n, "pad": ""}});
    let timestamp = time(&batch.data["timestamp"]);
    assert!(timestamp.len() == 24 && timestamp.ends_with('Z'), "{timestamp}");
    let expected = json!({"type": "batch", "events": [event(0), event(1), event(2)], "timestamp": timestamp});
    assert_eq!(batch.data, expected);
}

#[tokio::test]
async fn streams_of_data_alone_get_batches_of_event_objects_as_well() {
    let server = Server::start();
    let api = server.api();
    let mut stream = api.stream("/v2/realtime/ei-updates?fleet_ids=F-1,F-2&batch_ms=300", None).await;
    stream.ready().await;
    for (fleet, ei) in [("F-1", 70.0), ("F-2", 80.0), ("F-3", 1.0), ("F-1", 90.0)] {
        api.update_ei(fleet, ei).await;
    }
    let mut heard = Vec::new();
    while heard.len() < 3 {
        let batch = stream.expect("batch").await;
        for event in batch.data["events"].as_array().expect("events") {
            assert_eq!(event["event"], "ei_updated");
            assert!(event["id"].is_string());
            heard.push((
                event["topic"].as_str().expect("a topic").to_owned(),
                event["data"]["new_ei"].clone(),
            ));
        }
    }
    let expected = [("fleet:F-1", json!(70)), ("fleet:F-2", json!(80)), ("fleet:F-1", json!(90))];
    assert_eq!(heard, expected.map(|(topic, ei)| (topic.to_owned(), ei)));
}

#[tokio::test]
async fn a_client_resumes_exactly_from_the_id_of_a_batch() {
    let server = Server::start();
    let api = server.api();
    let mut stream = open(&server, "batch_max=4&batch_ms=50").await;
    publish(&server, 0..4, 0).await;
    let batch = stream.expect("batch").await;
    assert_eq!(numbers(&batch), [0, 1, 2, 3]);
    drop(stream);
    publish(&server, 4..10, 0).await;
    let mut stream = api.stream(&path("batch_max=4&batch_ms=50"), batch.id.as_deref()).await;
    assert_eq!(stream.ready().await["recovered"], true);
    // the end of the replay is told after the replay's last batch
    assert_eq!(numbers(&stream.expect("batch").await), [4, 5, 6, 7]);
    let last = stream.expect("batch").await;
    assert_eq!(numbers(&last), [8, 9]);
    assert_eq!(stream.expect("position").await.id, last.id);
}

#[tokio::test]
async fn a_full_batch_does_not_wait_and_a_full_one_is_as_large_as_was_asked() {
    let server = Server::start();
    let mut stream = open(&server, "batch_max=10&batch_ms=5000").await;
    let started = Instant::now();
    publish(&server, 0..30, 0).await;
    for first in [0, 10, 20] {
        let batch = stream.expect("batch").await;
        assert_eq!(numbers(&batch), (first..first + 10).collect::<Vec<_>>());
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes() {
    let server = Server::with(ServerOptions::default().set("sessions.queue_bytes", 16_384));
    let api = server.api();
    let first = publish(&server, 0..1, 0).await;
    publish(&server, 1..101, 1000).await;
    let mut stream = api.stream(&path("batch_max=1000&batch_ms=5000"), Some(&first[0])).await;
    stream.ready().await;
    let mut heard = Vec::new();
    while heard.len() < 100 {
        let batch = stream.expect("batch").await;
        assert!(batch.data.to_string().len() <= 16_384 + 100);
        heard.extend(numbers(&batch));
    }
    assert_eq!(heard, (1..101).collect::<Vec<_>>());
}

#[tokio::test]
async fn heartbeats_and_the_end_come_after_the_events_before_them() {
    let options = ServerOptions::default().set("sessions.heartbeat_ms", 300).set("sessions.sweep_ms", 20);
    let mut server = Server::with(options);
    let mut stream = open(&server, "batch_max=1000&batch_ms=5000").await;
    let started = Instant::now();
    let positions = publish(&server, 0..2, 0).await;
    let mut event = stream.next().await.expect("an event");
    while event.event == "heartbeat" {
        // one that was under way before the events
        event = stream.next().await.expect("an event");
    }
    assert_eq!((event.event.as_str(), numbers(&event)), ("batch", vec![0, 1]));
    assert_eq!(stream.expect("heartbeat").await.id.as_deref(), Some(positions[1].as_str()));
    assert!(started.elapsed() < Duration::from_secs(4), "the heartbeat did not wait for the batch");
    publish(&server, 2..5, 0).await;
    server.signal("TERM");
    let rest = stream.rest().await;
    let heard: Vec<u64> = rest.iter().filter(|event| event.event == "batch").flat_map(numbers).collect();
    assert_eq!(heard, [2, 3, 4]);
    let close = rest.last().expect("a close");
    assert_eq!((close.event.as_str(), &close.data["code"]), ("close", &json!(3000)));
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn volatile_events_are_batched_too_and_move_no_cursor() {
    let server = Server::start();
    let api = server.api();
    let mut stream = open(&server, "batch_max=2").await;
    let before = stream.cursor.clone();
    for n in 0..2 {
        let event = json!({"topic": "topic:a", "type": "typing", "class": "volatile", "data": {"n": n}});
        api.post("/v2/events", &event).await.expect(202);
    }
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let batch = stream.expect("batch").await;
        assert!(
            batch.data["events"].as_array().expect("events").iter().all(|event| event.get("id").is_none())
        );
        heard.extend(numbers(&batch));
    }
    assert_eq!((heard, &stream.cursor), (vec![0, 1], &before));
}

#[tokio::test]
async fn batches_within_their_ranges_only() {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    for (parameters, field) in [
        ("batch_ms=9", "batch_ms"),
        ("batch_ms=5001", "batch_ms"),
        ("batch_ms=", "batch_ms"),
        ("batch_ms=0.1", "batch_ms"),
        ("batch_max=0", "batch_max"),
        ("batch_max=1001", "batch_max"),
        ("batch_ms=100&batch_max=many", "batch_max"),
    ] {
        for own in [path(parameters), format!("/v2/realtime/bid-updates?bid_ids=b&{parameters}")] {
            let answer = api.get(&own).await;
            assert_eq!(answer.status, 400, "{own}: {}", answer.text);
            assert_eq!(answer.json()["errors"][0]["field"], field, "{own}");
        }
    }
    assert_eq!(operator.metric(r#"bongsu_connects_total{transport="sse"}"#).await, 0.0);
    // either alone is enough
    for parameters in ["batch_ms=10", "batch_ms=5000&batch_max=1", "batch_max=1000"] {
        let mut stream = open(&server, parameters).await;
        publish(&server, 0..1, 0).await;
        assert_eq!(numbers(&stream.expect("batch").await), [0], "{parameters}");
    }
    eventually("all have left", async || {
        let open = operator.metric(r#"bongsu_connections{transport="sse",tenant="default"}"#).await;
        (open == 0.0).then_some(())
    })
    .await;
}
