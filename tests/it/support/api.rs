//! Calls over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PATIENCE, Sse, pause};

/// A caller with (or without) a key; of several nodes it calls the next one each time.
#[derive(Clone, Debug)]
pub struct Api {
    client: reqwest::Client,
    nodes: Arc<[SocketAddr]>,
    calls: Arc<AtomicUsize>,
    key: Option<String>,
    token: Option<String>,
    user: Option<String>,
}

/// Status and JSON body of an answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
    /// Body as text.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The body, after checking the status.
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// A problem's code, after checking status and content type.
    pub fn problem(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let body = self.json();
        assert_eq!(body["status"], status);
        body["code"].as_str().expect("a code").to_owned()
    }
}

impl Api {
    /// Calls to this address.
    pub fn new(address: SocketAddr, key: Option<String>) -> Self {
        Api::across(&[address], key)
    }

    /// Calls to each of these nodes in turn.
    pub fn across(nodes: &[SocketAddr], key: Option<String>) -> Self {
        // a provider that was installed before serves as well
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // no pooled connections: one that a killed server has left behind would fail the next call
        let client =
            reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
        Api { client, nodes: nodes.into(), calls: Arc::default(), key, token: None, user: None }
    }

    /// The same without a key.
    pub fn anonymous(&self) -> Self {
        Api { key: None, token: None, user: None, ..self.clone() }
    }

    /// The same with a token in place of a key.
    pub fn bearing(&self, token: &str) -> Self {
        Api { key: None, token: Some(token.to_owned()), user: None, ..self.clone() }
    }

    /// The same key speaking for a user.
    pub fn speaking_for(&self, user: &str) -> Self {
        Api { user: Some(user.to_owned()), ..self.clone() }
    }

    /// The headers that say who calls.
    pub fn credentials(&self) -> Vec<(&'static str, String)> {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let all =
            [("x-api-key", self.key.clone()), ("authorization", bearer), ("x-user-id", self.user.clone())];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Where it calls next.
    pub fn address(&self) -> SocketAddr {
        self.nodes[self.calls.fetch_add(1, Ordering::Relaxed) % self.nodes.len()]
    }

    /// The same, but always the node of this number.
    pub fn at(&self, node: usize) -> Self {
        Api { nodes: [self.nodes[node]].into(), ..self.clone() }
    }

    /// The same, but always the node that a scenario gives this number, from 1 on; where there is one node, it is
    /// all of them.
    pub fn node(&self, number: usize) -> Self {
        self.at((number - 1) % self.nodes.len())
    }

    /// The same for each node.
    pub fn everywhere(&self) -> Vec<Self> {
        (0..self.nodes.len()).map(|node| self.at(node)).collect()
    }

    /// The key.
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or_default()
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// A request to be sent with [`Api::send`]; the key is set.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        let request = self.client.request(method, self.url(path));
        self.credentials().into_iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    /// Sends; an error of the connection is an `Err`.
    pub async fn send(request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        Self::send(self.request("GET", path)).await.expect("an answer")
    }

    /// GET; None when nobody answers.
    pub async fn try_get(&self, path: &str) -> Option<Answer> {
        Self::send(self.request("GET", path)).await.ok()
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        Self::send(self.request("DELETE", path)).await.expect("an answer")
    }

    /// PUT, DELETE, … of JSON.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        Self::send(self.request(method, path).json(body)).await.expect("an answer")
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Self::send(self.request("POST", path).json(body)).await.expect("an answer")
    }

    /// POST of JSON with an `Idempotency-Key`.
    pub async fn post_once(&self, path: &str, body: &Value, key: &str) -> Answer {
        Self::send(self.request("POST", path).json(body).header("Idempotency-Key", key))
            .await
            .expect("an answer")
    }

    /// The same again and again, until somebody says that it is done.
    pub async fn post_until_done(&self, path: &str, body: &Value, key: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        // not `eventually`, whose future cannot be given to another thread
        loop {
            let request = self.request("POST", path).json(body).header("Idempotency-Key", key);
            if let Ok(answer) = Self::send(request).await {
                let is_for_now = matches!(answer.status, 502..=504)
                    || answer.status == 409 && answer.text.contains("idempotency_key_in_progress");
                if !is_for_now {
                    assert!(matches!(answer.status, 200..=202), "{path}: {}", answer.text);
                    return answer.json();
                }
            }
            assert!(Instant::now() < deadline, "waited in vain for an answer to {key}");
            pause(Duration::from_millis(10)).await;
        }
    }

    /// POST of any text as JSON.
    pub async fn post_text(&self, path: &str, body: impl Into<String>) -> Answer {
        let request = self.request("POST", path).header("Content-Type", "application/json").body(body.into());
        Self::send(request).await.expect("an answer")
    }

    /// Publishes a durable event; its position.
    pub async fn publish(&self, topic: &str, name: &str, data: Value) -> String {
        let answer =
            self.post("/v2/events", &json!({"topic": topic, "type": name, "data": data})).await.expect(202);
        answer["position"].as_str().expect("a position").to_owned()
    }

    /// Reports a fleet's carbon intensity.
    pub async fn update_ei(&self, fleet: &str, ei: f64) -> Value {
        self.post("/v2/fleet/ei-update", &json!({"fleet_id": fleet, "new_ei": ei})).await.expect(200)
    }

    /// Listens to topics.
    pub async fn listen(&self, topics: &str, cursor: Option<&str>) -> Sse {
        self.stream(&format!("/v2/realtime/stream?topics={topics}"), cursor).await
    }

    /// Opens a stream; panics unless it is one.
    pub async fn stream(&self, path: &str, cursor: Option<&str>) -> Sse {
        let mut request = self.request("GET", path).header("Accept", "text/event-stream");
        if let Some(cursor) = cursor {
            request = request.header("Last-Event-ID", cursor);
        }
        Sse::open(request).await
    }

    /// The value of a metric, labels as written (`bongsu_closes_total{…}`), of all nodes together; 0 while it
    /// has none.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for node in 0..self.nodes.len() {
            let answer = self.at(node).get("/metrics").await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let line = answer.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            sum += line.map_or(0.0, |value| value.trim().parse().expect("a number"));
        }
        sum
    }
}
