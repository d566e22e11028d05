//! Limits: what is over one is refused by name, counted, and told when to come back; others are not hurt.

mod addresses;
mod attempts;
mod block_list;
mod connections;
mod gate;
mod rates;
mod websocket;

use serde_json::{Value, json};

use crate::support::{Answer, Api, Server, ServerOptions, Sse};

/// A server to which loopback is a reverse proxy, so that a test can come from any address.
fn behind_a_proxy() -> ServerOptions {
    ServerOptions::default().set("server.trusted_proxies", "127.0.0.0/8")
}

/// What somebody at `address` is answered.
async fn from(address: &str, api: &Api, path: &str) -> Answer {
    let request = api.request("GET", path).header("X-Forwarded-For", address);
    Api::send(request).await.expect("an answer")
}

/// What an EventSource at `address` is answered: the stream, whatever its first events are.
async fn listen_from(address: &str, api: &Api) -> Sse {
    let request =
        api.request("GET", "/v2/realtime/stream?topics=topic:a").header("Accept", "text/event-stream");
    Sse::open(request.header("X-Forwarded-For", address)).await
}

/// The `close` that a stream consists of which was refused for a limit: when to come back, milliseconds.
async fn refused(stream: &mut Sse) -> u64 {
    let events = stream.rest().await;
    let [close] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((close.event.as_str(), &close.data["code"]), ("close", &json!(3503)), "{close:?}");
    assert_eq!(close.data["reconnect"], true);
    let retry_ms = close.data["retry_ms"].as_u64().expect("a delay");
    assert_eq!(stream.retry_ms, Some(retry_ms), "EventSource is told too");
    retry_ms
}

/// The seconds after which an answer says to come back, after checking that it is 429 for this limit.
fn retry_after(answer: &Answer, limit: &str) -> u64 {
    assert_eq!(answer.clone().problem(429), "rate_limited");
    assert_eq!(answer.json()["errors"][0], json!({"field": "limit", "message": limit}));
    answer.headers["retry-after"].to_str().expect("text").parse().expect("seconds")
}

async fn refusals(server: &Server, reason: &str) -> f64 {
    server.operator().metric(&format!("bongsu_limited_total{{reason=\"{reason}\"}}")).await
}

fn event(topic: &str) -> Value {
    json!({"topic": topic, "type": "note", "data": null})
}
