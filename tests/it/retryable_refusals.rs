//! What an EventSource must not give up over comes as a stream that says when to come back.

use serde_json::json;

use crate::support::raw::stream_request;
use crate::support::{Raw, Server, ServerOptions, eventually};

#[tokio::test]
async fn while_draining_a_stream_is_told_to_come_back_and_others_get_a_problem() {
    let mut server = Server::with(ServerOptions::default().set("drain.announce_ms", 3000));
    let key = server.key().to_owned();
    let mut held = server.api().listen("topic:a", None).await;
    held.ready().await;
    server.signal("TERM");
    let api = server.api();
    eventually("readiness to say no", async || (api.get("/ready").await.status == 503).then_some(())).await;
    assert_eq!(api.get("/ready").await.json()["accepting"], false);
    let mut raw = Raw::connect(server.address()).await;
    raw.send(stream_request(&key, "topic:a")).await;
    raw.read_until("event: close").await;
    raw.rest().await;
    assert!(raw.text().starts_with("HTTP/1.1 200"), "{}", raw.text());
    assert!(raw.text().contains("retry: "), "{}", raw.text());
    let mut raw = Raw::connect(server.address()).await;
    raw.send(stream_request(&key, "topic:a").replace("Accept: text/event-stream\r\n", "")).await;
    let answer = raw.answer().await;
    assert_eq!(answer.problem(503), "draining");
    let after = answer.header("retry-after").and_then(|after| after.parse::<u64>().ok());
    assert!(after.is_some_and(|after| after >= 1), "{answer:?}");
    let close = held.rest().await.pop().expect("a close");
    assert_eq!((close.event.as_str(), &close.data["code"]), ("close", &json!(3000)));
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_final_refusal_is_a_problem_even_to_an_event_source() {
    let server = Server::start();
    let other = server.create_key("publish");
    let cases = [
        ("nobody-has-this-key", "topic:a", 401),
        (other.as_str(), "topic:a", 403),
        (server.key(), "nonsense", 400),
    ];
    for (key, topics, status) in cases {
        let mut raw = Raw::connect(server.address()).await;
        raw.send(stream_request(key, topics)).await;
        let answer = raw.answer().await;
        answer.problem(status);
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{answer:?}");
    }
}
