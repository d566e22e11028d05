//! Commands and publishes: per principal, per topic, per tenant.

use serde_json::{Value, json};

use super::{event, refusals, retry_after};
use crate::support::{Server, ServerOptions, eventually};

fn batch(topic: &str, count: usize) -> Value {
    json!({"events": vec![event(topic); count]})
}

#[tokio::test]
async fn commands_of_a_principal_are_limited_and_others_are_not_hurt() {
    let options =
        ServerOptions::default().set("limits.key_commands_per_s", 1).set("limits.key_commands_burst", 3);
    let server = Server::with(options);
    let (api, other) = (server.api(), server.api_with(&server.create_key("publish")));
    let reading = |ei: u32| json!({"fleet_id": "FLT-A01", "new_ei": ei});
    for ei in 1..=3 {
        api.post("/v2/fleet/ei-update", &reading(ei)).await.expect(200);
    }
    assert_eq!(retry_after(&api.post("/v2/fleet/ei-update", &reading(4)).await, "commands"), 1);
    other.post("/v2/fleet/ei-update", &reading(5)).await.expect(200);
    // what was refused has changed nothing
    assert_eq!(api.get("/v2/fleets/FLT-A01").await.expect(200)["version"], 4);
    assert_eq!(refusals(&server, "commands").await, 1.0);
    let updates: Vec<Value> = (0..10).map(|ei| json!({"fleet_id": "FLT-B", "new_ei": ei})).collect();
    let answer = other.post("/v2/fleet/ei-update/batch", &json!({"updates": updates})).await;
    assert!(retry_after(&answer, "commands") >= 1, "each reading of a batch is a command");
}

#[tokio::test]
async fn commands_without_a_body_are_limited_as_those_with_one() {
    let options =
        ServerOptions::default().set("limits.key_commands_per_s", 1).set("limits.key_commands_burst", 2);
    let server = Server::with(options);
    for path in ["/v2/admin/keys/none", "/v2/realtime/tickets/none"] {
        let api = server.api_of("default", "admin");
        for _ in 0..2 {
            assert_eq!(api.delete(path).await.status, 404, "{path}");
        }
        retry_after(&api.delete(path).await, "commands");
    }
    let operator = server.operator();
    for _ in 0..2 {
        operator.request("POST", "/v2/admin/drain").send().await.expect("an answer");
    }
    let third = operator.request("POST", "/v2/admin/drain").send().await.expect("an answer");
    assert_eq!(third.status().as_u16(), 429);
}

#[tokio::test]
async fn events_of_a_principal_are_limited_one_by_one_in_batches_too() {
    let options =
        ServerOptions::default().set("limits.key_publishes_per_s", 1).set("limits.key_publishes_burst", 10);
    let server = Server::with(options);
    let (api, other) = (server.api(), server.api_with(&server.create_key("publish")));
    api.post("/v2/events/batch", &batch("topic:a", 8)).await.expect(202);
    let after = retry_after(&api.post("/v2/events/batch", &batch("topic:a", 8)).await, "publishes");
    assert!((5..=6).contains(&after), "{after}");
    api.publish("topic:a", "note", Value::Null).await;
    other.post("/v2/events/batch", &batch("topic:a", 10)).await.expect(202);
    // one publish to three topics is three events
    let three = json!({"topics": ["topic:a", "topic:b", "topic:c"], "type": "note", "data": 1});
    retry_after(&api.post("/v2/events", &three).await, "publishes");
    assert_eq!(refusals(&server, "publishes").await, 2.0);
}

#[tokio::test]
async fn events_on_a_topic_are_limited_whoever_publishes_them() {
    let options = ServerOptions::default()
        .set("limits.topic_publishes_per_s", 1)
        .set("limits.topic_publishes_burst", 2);
    let server = Server::with(options);
    let (api, other) = (server.api(), server.api_with(&server.create_key("publish")));
    api.publish("topic:a", "note", Value::Null).await;
    other.publish("topic:a", "note", Value::Null).await;
    assert_eq!(retry_after(&api.post("/v2/events", &event("topic:a")).await, "topic_publishes"), 1);
    api.publish("topic:b", "note", Value::Null).await;
    server.api_of("other", "publish").publish("topic:a", "note", Value::Null).await;
    assert_eq!(refusals(&server, "topic_publishes").await, 1.0);
}

#[tokio::test]
async fn a_tenants_quota_of_events_is_its_own() {
    let server = Server::with(ServerOptions::default().set("limits.tenant_events_per_min", 6));
    let (api, other) = (server.api(), server.api_of("other", "publish"));
    api.post("/v2/events/batch", &batch("topic:a", 6)).await.expect(202);
    let after = retry_after(&api.post("/v2/events", &event("topic:a")).await, "tenant_events");
    assert!((8..=10).contains(&after), "{after}");
    other.publish("topic:a", "note", Value::Null).await;
    let operator = server.operator();
    assert_eq!(operator.metric("bongsu_tenant_events_total{tenant=\"default\"}").await, 6.0);
    assert_eq!(operator.metric("bongsu_tenant_events_total{tenant=\"other\"}").await, 1.0);
    assert_eq!(refusals(&server, "tenant_events").await, 1.0);
}

#[tokio::test]
async fn limits_are_reread_on_sighup() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("bongsu.toml");
    let write = |burst: u32| {
        let text = format!("[limits]\nkey_commands_per_s = 1\nkey_commands_burst = {burst}\n");
        std::fs::write(&file, text).expect("written");
    };
    write(1);
    let args = vec!["--config".to_owned(), file.to_string_lossy().into_owned()];
    let server = Server::with(ServerOptions { args, ..ServerOptions::default() });
    let (api, reading) = (server.api(), json!({"fleet_id": "FLT-A01", "new_ei": 1}));
    api.post("/v2/fleet/ei-update", &reading).await.expect(200);
    retry_after(&api.post("/v2/fleet/ei-update", &reading).await, "commands");
    write(1000);
    server.signal("HUP");
    eventually("the new limits", async || {
        (api.post("/v2/fleet/ei-update", &reading).await.status == 200).then_some(())
    })
    .await;
    for _ in 0..20 {
        api.post("/v2/fleet/ei-update", &reading).await.expect(200);
    }
}
