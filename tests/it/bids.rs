//! Bids: their life, their proposals, who sees what of them, and that ranks are exact whoever is asked.

mod changes;
mod copies;
mod crash;
mod damage;
mod ears;
mod joined;
mod lifecycle;
mod model;
mod places;
mod veiled;
mod visibility;
mod watcher;
mod whole;

use serde_json::{Value, json};

use crate::support::{Api, Issuer, Server, ServerOptions, from_now};

pub(crate) const SECRET: &str = "a secret of at least thirty-two bytes";

fn server() -> Server {
    Server::with(ServerOptions::default().env("JWT_SECRET", SECRET).unlimited())
}

/// A user of the default tenant.
pub(crate) fn user(server: &Server, sub: &str, roles: &[&str]) -> Api {
    user_with(server, json!({"sub": sub, "roles": roles, "exp": from_now(600)}))
}

pub(crate) fn user_with(server: &Server, claims: Value) -> Api {
    server.api().anonymous().bearing(&Issuer::shared(SECRET, None).sign(&claims))
}

/// A bid that is in order, by price alone.
pub(crate) fn draft(id: &str) -> Value {
    json!({
        "bid_id": id,
        "title": "Busan to Incheon",
        "origin": {"city": "Busan"},
        "destination": "Incheon",
        "cargo": {"tonnes": 4},
        "criteria": [{"field": "price", "weight": 1, "direction": "asc", "reference": 100}],
        "visibility": "open",
    })
}

pub(crate) fn with(mut own: Value, fields: Value) -> Value {
    own.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    own
}

/// Creates a bid and opens it.
pub(crate) async fn open_bid(api: &Api, draft: &Value) -> String {
    let id = api.post("/v2/bids", draft).await.expect(201)["bid_id"].as_str().expect("an id").to_owned();
    step(api, &id, "open").await;
    id
}

pub(crate) async fn step(api: &Api, bid: &str, step: &str) -> Value {
    api.post(&format!("/v2/bids/{bid}/{step}"), &json!({})).await.expect(200)
}

fn offer(price: impl Into<Value>) -> Value {
    json!({"price": price.into(), "ei": 50, "lead_time_hours": 24})
}

pub(crate) fn proposal(id: &str, price: impl Into<Value>) -> Value {
    with(offer(price), json!({"proposal_id": id, "carrier_id": format!("carrier-{id}")}))
}

pub(crate) fn proposals(bid: &str) -> String {
    format!("/v2/bids/{bid}/proposals")
}

pub(crate) async fn submit(api: &Api, bid: &str, proposal: &Value) -> Value {
    api.post(&proposals(bid), proposal).await.expect(201)
}

async fn revise(api: &Api, bid: &str, id: &str, offer: &Value) -> Value {
    api.call("PUT", &format!("{}/{id}", proposals(bid)), offer).await.expect(200)
}

async fn withdraw(api: &Api, bid: &str, id: &str) -> Value {
    api.delete(&format!("{}/{id}", proposals(bid))).await.expect(200)
}

pub(crate) async fn ranking(api: &Api, bid: &str, query: &str) -> Value {
    api.get(&format!("/v2/bids/{bid}/ranking{query}")).await.expect(200)
}

/// The ids of ranked proposals, in order.
pub(crate) fn ids(ranking: &Value) -> Vec<String> {
    let rows = ranking["ranked_proposals"].as_array().expect("rows");
    rows.iter().map(|row| row["proposal_id"].as_str().expect("an id").to_owned()).collect()
}

/// So many milliseconds from now, RFC 3339.
fn soon(ms: i64) -> String {
    let now = bongsu::clock::Clock::system().now();
    bongsu::domain::Timestamp::from_micros(now.micros() + ms * 1000).to_string()
}
