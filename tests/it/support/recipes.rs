//! How every operation is asked for: one request each, with the names of entities left open.

use serde_json::Value;

use super::{Answer, Api};

/// A request that is in order.
#[derive(Debug)]
pub struct Recipe {
    /// As the OpenAPI document names it, or `WS` and the operation of a WebSocket.
    pub operation: &'static str,
    /// What follows the operation's path, or stands in its place.
    pub path: &'static str,
    /// JSON; empty: none.
    pub body: &'static str,
    /// What it is answered when it is allowed.
    pub granted: u16,
}

const fn recipe(operation: &'static str, path: &'static str, body: &'static str, granted: u16) -> Recipe {
    Recipe { operation, path, body, granted }
}

/// One per operation. `<fleet>`, `<account>`, `<topic>`, `<named>`, `<user>`, `<kicked>`, `<key>`, `<ticket>`, `<job>` and `<position>` are to be filled in.
pub const RECIPES: &[Recipe] = &[
    recipe("GET /v2/realtime/stream", "?topics=<topic>", "", 200),
    recipe("GET /v2/realtime/ei-updates", "?fleet_ids=<fleet>", "", 200),
    recipe("GET /v2/realtime/bid-updates", "?bid_ids=<fleet>", "", 200),
    recipe("GET /v2/realtime/proposal-ranking-updates", "?bid_id=<fleet>", "", 200),
    recipe("GET /v2/realtime/order-updates", "?order_ids=<fleet>", "", 200),
    recipe("GET /events/sse", "", "", 200),
    recipe("GET /api/events/sse", "", "", 200),
    recipe("GET /events/status", "", "", 200),
    recipe("GET /v2/realtime/poll", "?topics=<topic>&wait=0", "", 200),
    recipe("GET /v2/realtime/ws", "", "", 426),
    recipe("POST /v2/realtime/tickets", "", r#"{"topics":["<topic>"]}"#, 201),
    recipe("DELETE /v2/realtime/tickets/{ticket_id}", "/v2/realtime/tickets/<ticket>", "", 404),
    recipe("POST /v2/realtime/ack", "", r#"{"ids":["<position>"]}"#, 200),
    recipe("POST /v2/events", "", r#"{"topic":"<topic>","type":"note","data":1}"#, 202),
    recipe("POST /v2/events/batch", "", r#"{"events":[{"topic":"<topic>","type":"note","data":1}]}"#, 202),
    recipe("POST /v2/fleet/ei-update", "", r#"{"fleet_id":"<fleet>","new_ei":1}"#, 200),
    recipe("POST /v2/fleet/ei-update/batch", "", r#"{"updates":[{"fleet_id":"<fleet>","new_ei":1}]}"#, 200),
    recipe("GET /v2/fleets", "", "", 200),
    recipe("GET /v2/fleets/{id}", "/v2/fleets/<fleet>", "", 200),
    recipe("GET /v2/fleets/{id}/history", "/v2/fleets/<fleet>/history", "", 200),
    recipe("POST /v2/orders", "", r#"{"shipper":"<user>"}"#, 201),
    recipe("POST /v2/orders/{id}/status", "/v2/orders/<fleet>/status", r#"{"new_status":"assigned"}"#, 200),
    recipe("GET /v2/orders", "", "", 200),
    recipe("GET /v2/orders/{id}", "/v2/orders/<fleet>", "", 200),
    recipe(
        "POST /v2/bids",
        "",
        r#"{"title":"t","origin":"o","destination":"d","cargo":"c","visibility":"open",
            "criteria":[{"field":"price","weight":1,"direction":"asc","reference":1}]}"#,
        201,
    ),
    recipe("GET /v2/bids", "", "", 200),
    recipe("GET /v2/bids/{id}", "/v2/bids/<fleet>", "", 200),
    recipe("GET /v2/bids/{id}/ranking", "/v2/bids/<fleet>/ranking", "", 200),
    // the bid is called off
    recipe("POST /v2/bids/{id}/open", "/v2/bids/<fleet>/open", "", 409),
    recipe("POST /v2/bids/{id}/close", "/v2/bids/<fleet>/close", "", 409),
    recipe("POST /v2/bids/{id}/cancel", "/v2/bids/<fleet>/cancel", "", 409),
    recipe("POST /v2/bids/{id}/award", "/v2/bids/<fleet>/award", r#"{"proposal_id":"P"}"#, 409),
    recipe(
        "POST /v2/bids/{id}/proposals",
        "/v2/bids/<fleet>/proposals",
        r#"{"carrier_id":"<user>","price":1,"ei":1,"lead_time_hours":1}"#,
        409,
    ),
    recipe(
        "PUT /v2/bids/{id}/proposals/{proposal_id}",
        "/v2/bids/<fleet>/proposals/P",
        r#"{"price":1,"ei":1,"lead_time_hours":1}"#,
        409,
    ),
    recipe("DELETE /v2/bids/{id}/proposals/{proposal_id}", "/v2/bids/<fleet>/proposals/P", "", 409),
    recipe("POST /accounts", "", r#"{"name":"a","balance":1}"#, 201),
    recipe("PATCH /accounts/{id}", "/accounts/<account>", r#"{"name":"b"}"#, 200),
    recipe("GET /accounts", "", "", 200),
    recipe("GET /snapshots", "", "", 200),
    recipe("PUT /v2/topics/{name}", "/v2/topics/<named>", r#"{"membership":true}"#, 200),
    recipe("GET /v2/topics/{name}", "/v2/topics/<named>", "", 200),
    recipe("POST /v2/topics/{name}/members", "/v2/topics/<named>/members", r#"{"users":["<user>"]}"#, 200),
    recipe("DELETE /v2/topics/{name}/members", "/v2/topics/<named>/members", r#"{"users":["nobody"]}"#, 200),
    recipe("DELETE /v2/admin/keys/{key_id}", "/v2/admin/keys/<key>", "", 404),
    recipe("POST /v2/admin/kick", "", r#"{"user":"<kicked>"}"#, 200),
    recipe("GET /v2/admin/connections", "", "", 200),
    recipe("GET /v2/admin/jobs", "", "", 200),
    recipe("DELETE /v2/admin/jobs", "", "", 200),
    recipe("POST /v2/admin/jobs/{id}/retry", "/v2/admin/jobs/<job>/retry", "", 404),
    recipe("POST /v2/admin/blocklist", "", r#"{"cidr":"192.0.2.0/24"}"#, 201),
    recipe("GET /v2/admin/blocklist", "", "", 200),
    recipe("DELETE /v2/admin/blocklist", "", r#"{"cidr":"192.0.2.0/24"}"#, 204),
    recipe("POST /v2/admin/drain", "", "", 202),
    recipe("GET /v2/realtime/metrics", "", "", 200),
    recipe("GET /metrics", "", "", 200),
    recipe("GET /health", "", "", 200),
    recipe("GET /ready", "", "", 200),
    recipe("HEAD /health", "", "", 200),
    recipe("HEAD /ready", "", "", 200),
    recipe("GET /openapi.json", "", "", 200),
    recipe("WS publish", "", r#"{"topic":"<topic>","type":"note","data":1}"#, 200),
    recipe("WS command update_ei", "", r#"{"fleet_id":"<fleet>","new_ei":1}"#, 200),
    recipe("WS command create_order", "", r#"{"shipper":"<user>"}"#, 200),
    recipe("WS command set_order_status", "", r#"{"order_id":"<fleet>","new_status":"assigned"}"#, 200),
    recipe(
        "WS command create_bid",
        "",
        r#"{"title":"t","origin":"o","destination":"d","cargo":"c","visibility":"open",
            "criteria":[{"field":"price","weight":1,"direction":"asc","reference":1}]}"#,
        200,
    ),
    recipe("WS command open_bid", "", r#"{"bid_id":"<fleet>"}"#, 409),
    recipe("WS command close_bid", "", r#"{"bid_id":"<fleet>"}"#, 409),
    recipe("WS command cancel_bid", "", r#"{"bid_id":"<fleet>"}"#, 409),
    recipe("WS command award_bid", "", r#"{"bid_id":"<fleet>","proposal_id":"P"}"#, 409),
    recipe(
        "WS command submit_proposal",
        "",
        r#"{"bid_id":"<fleet>","carrier_id":"<user>","price":1,"ei":1,"lead_time_hours":1}"#,
        409,
    ),
    recipe(
        "WS command revise_proposal",
        "",
        r#"{"bid_id":"<fleet>","proposal_id":"P","price":1,"ei":1,"lead_time_hours":1}"#,
        409,
    ),
    recipe("WS command withdraw_proposal", "", r#"{"bid_id":"<fleet>","proposal_id":"P"}"#, 409),
    recipe("WS command create_account", "", r#"{"name":"a","balance":1}"#, 201),
    recipe("WS command update_account", "", r#"{"id":<account>,"name":"b"}"#, 200),
    recipe("WS ack", "", r#"{"ids":["<position>"]}"#, 200),
];

/// What is for everybody; a WebSocket asks for credentials once it is open.
pub const OPEN: &[&str] =
    &["GET /health", "HEAD /health", "GET /ready", "HEAD /ready", "GET /openapi.json", "GET /v2/realtime/ws"];

impl Recipe {
    /// That of an operation.
    pub fn of(operation: &str) -> &'static Recipe {
        let found = RECIPES.iter().find(|recipe| recipe.operation == operation);
        found.unwrap_or_else(|| panic!("no recipe for {operation}: add one to tests/it/support/recipes.rs"))
    }

    /// Its body with names filled in.
    pub fn body(&self, names: &[(&str, &str)]) -> Value {
        serde_json::from_str(&filled(self.body, names)).unwrap_or_default()
    }

    /// Its method and path over HTTP, with names filled in.
    pub fn target(&self, names: &[(&str, &str)]) -> (&'static str, String) {
        let (method, own) = self.operation.split_once(' ').expect("a method and a path");
        let path = if self.path.starts_with('/') { self.path } else { &format!("{own}{}", self.path) };
        (method, filled(path, names))
    }

    /// The request over HTTP, with names filled in.
    pub fn request(&self, api: &Api, names: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let (method, path) = self.target(names);
        let request = api.request(method, &path);
        if self.body.is_empty() { request } else { request.json(&self.body(names)) }
    }

    /// Sends it; a stream's answer is its head.
    pub async fn send(&self, api: &Api, names: &[(&str, &str)]) -> Answer {
        let response = self.request(api, names).send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let is_stream = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let text = if is_stream { String::new() } else { response.text().await.expect("text") };
        Answer { status, headers, text }
    }
}

fn filled(text: &str, names: &[(&str, &str)]) -> String {
    let named = |text: String, (name, value): &(&str, &str)| text.replace(&format!("<{name}>"), value);
    let text = names.iter().fold(text.to_owned(), named);
    assert!(!text.contains('<'), "{text}: a name is missing");
    text
}

/// Every operation that a server says it has, as `METHOD /path`.
pub async fn operations(api: &Api) -> Vec<String> {
    let document = api.get("/openapi.json").await.expect(200);
    let paths = document["paths"].as_object().expect("paths");
    let methods = ["get", "put", "post", "delete", "patch", "head", "options"];
    let of_path = |(path, item): (&String, &Value)| -> Vec<String> {
        let item = item.as_object().expect("operations");
        let own = item.keys().filter(|key| methods.contains(&key.as_str()));
        own.map(|method| format!("{} {path}", method.to_uppercase())).collect()
    };
    paths.iter().flat_map(of_path).collect()
}
