//! What is asked of another node, and what is passed on to it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::support::{Api, Nginx, Server};

/// A node that takes requests and breaks off, and the requests that it took.
struct Breaking {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<String>>>,
}

impl Breaking {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = Breaking { address: listener.local_addr().expect("an address"), taken: Arc::default() };
        let taken = own.taken.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.expect("a request");
                }
                taken.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
            }
        });
        own
    }
}

/// Three of them with nginx in front, and all that they take.
async fn breaking() -> (Nginx, impl Fn() -> Vec<String>) {
    breaking_behind(str::to_owned).await
}

/// The same with a change to the shipped file.
pub(super) async fn breaking_behind(change: impl Fn(&str) -> String) -> (Nginx, impl Fn() -> Vec<String>) {
    let nodes = [Breaking::start().await, Breaking::start().await, Breaking::start().await];
    let nginx = Nginx::with(&nodes.each_ref().map(|node| node.address), change).await;
    let taken =
        move || nodes.iter().flat_map(|node| std::mem::take(&mut *node.taken.lock().unwrap())).collect();
    (nginx, taken)
}

#[tokio::test]
async fn a_post_that_may_have_been_carried_out_is_not_sent_to_another_node() {
    let (nginx, taken) = breaking().await;
    let api = nginx.api("a-key");
    assert_eq!(api.post("/v2/events", &json!({"topic": "topic:news"})).await.problem(502), "no_node");
    let requests = taken();
    assert!(
        matches!(&requests[..], [one] if one.starts_with("POST /v2/events HTTP/1.1\r\n")),
        "{requests:?}"
    );
    // to ask again is safe
    assert_eq!(api.get("/v2/fleets").await.problem(502), "no_node");
    assert_eq!(taken().len(), 3);
}

#[tokio::test]
async fn whatever_could_not_be_sent_goes_to_another_node() {
    let server = Server::start();
    let (first, second) = (closed().await, closed().await);
    let nginx = Nginx::before(&[first, second, server.address()]).await;
    let api = nginx.api(server.key());
    for n in 0..12 {
        api.publish("topic:news", "headline", json!({"n": n})).await;
    }
    let logs = nginx.logs();
    assert!(logs.contains(&format!("{first}")) && logs.contains("\"upstream_status\":\"502"), "{logs}");
}

/// An address at which nobody listens.
async fn closed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address")
}

#[tokio::test]
async fn a_node_is_told_the_clients_address_and_nothing_that_the_client_made_up() {
    let (nginx, taken) = breaking().await;
    let request = nginx.api("a-key").request("POST", "/v2/events?x=%2f");
    let request = request
        .header("X-Forwarded-For", "203.0.113.9")
        .header("Forwarded", "for=203.0.113.9")
        .header("Upgrade", "h2c")
        .header("Connection", "Upgrade, HTTP2-Settings");
    assert_eq!(Api::send(request).await.expect("an answer").status, 502);
    let request = taken().pop().expect("a request").to_lowercase();
    assert!(request.starts_with("post /v2/events?x=%2f http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nhost: {}\r\n", nginx.address())), "{request}");
    assert!(request.contains("\r\nx-api-key: a-key\r\n"), "{request}");
    for absent in ["203.0.113.9", "\r\nforwarded:", "\r\nconnection:"] {
        assert!(!request.contains(absent), "{absent} in {request}");
    }
}

#[tokio::test]
async fn requests_are_limited_as_at_the_nodes() {
    let server = Server::start();
    let nginx = Nginx::before(&[server.address(); 3]).await;
    let api = nginx.api(server.key());
    let body = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    assert_ne!(api.post_text("/v2/events", body(1 << 20)).await.status, 413);
    let own = server.api().post_text("/v2/events", body((1 << 20) + 1)).await;
    let refused = api.post_text("/v2/events", body((1 << 20) + 1)).await;
    assert_eq!(refused.json()["title"], own.json()["title"]);
    assert_eq!(refused.problem(413), own.problem(413));
    let head = |bytes: usize| {
        let half = "x".repeat(bytes / 2);
        Api::send(api.request("GET", "/v2/fleets").header("X-Large", &half).header("X-Larger", &half))
    };
    assert_eq!(head(32_000).await.expect("an answer").status, 200);
    assert_eq!(head(33_000).await.expect("an answer").problem(431), "headers_too_large");
}
