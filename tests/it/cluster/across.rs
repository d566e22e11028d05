//! What one node is told, the clients of every node hear.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Backend, Client, Server, ServerOptions, Transport, eventually, on_every_transport, pause,
};

on_every_transport! {
    an_update_posted_to_one_node_reaches_a_client_of_another,
    volatile_events_reach_the_clients_of_every_node,
}

async fn an_update_posted_to_one_node_reaches_a_client_of_another(transport: Transport) {
    Backend::Cluster
        .run(async {
            let server = Server::start();
            let (posted, heard) = (server.api().at(0), server.api().at(1));
            let (mut client, _) = Client::over(transport, &heard, "fleet:FLT-A01", None).await;
            for ei in [72.5, 60.25, 55.0] {
                let updated = posted.update_ei("FLT-A01", ei).await;
                let event = client.event().await;
                assert_eq!((event.name.as_str(), &event.data), ("ei_updated", &updated));
                assert!(event.id.is_some());
            }
        })
        .await;
}

async fn volatile_events_reach_the_clients_of_every_node(transport: Transport) {
    Backend::Cluster
        .run(async {
            let server = Server::with(ServerOptions::default().cluster(3));
            let mut clients = Vec::new();
            for node in 0..3 {
                clients.push(Client::over(transport, &server.api().at(node), "topic:a", None).await.0);
            }
            let api = server.api();
            // a poller hears only what comes while it waits
            let publishing = tokio::spawn(async move {
                let event = json!({"topic": "topic:a", "type": "blink", "class": "volatile", "data": {}});
                loop {
                    api.post("/v2/events", &event).await.expect(202);
                    pause(Duration::from_millis(20)).await;
                }
            });
            for client in &mut clients {
                let event = client.event().await;
                assert_eq!((event.name.as_str(), event.id), ("blink", None));
            }
            publishing.abort();
        })
        .await;
}

#[tokio::test]
async fn a_publish_repeated_at_another_node_gets_the_stored_answer() {
    let server = Server::with(ServerOptions::default().cluster(2));
    let event = json!({"topic": "topic:a", "type": "tick", "data": {"n": 1}});
    let first = server.api().at(0).post_once("/v2/events", &event, "only").await.expect(202);
    let again = server.api().at(1).post_once("/v2/events", &event, "only").await.expect(202);
    assert_eq!(first, again);
    let other = json!({"topic": "topic:a", "type": "tick", "data": {"n": 2}});
    let reused = server.api().at(1).post_once("/v2/events", &other, "only").await;
    assert_eq!(reused.problem(422), "idempotency_key_reused");
    assert_eq!(super::entries(&server, "default").len(), 1);
}

#[tokio::test]
async fn the_same_publish_sent_to_every_node_at_once_is_in_the_log_once() {
    let server = Server::with(ServerOptions::default().cluster(3));
    let event = json!({"topic": "topic:a", "type": "tick", "data": {"n": 1}});
    for round in 0..10 {
        let key = format!("key-{round}");
        let publish = |node| {
            let (api, event, key) = (server.api().at(node), event.clone(), key.clone());
            async move { api.post_once("/v2/events", &event, &key).await.expect(202) }
        };
        let (a, b, c) = tokio::join!(publish(0), publish(1), publish(2));
        assert_eq!((&a, &b), (&b, &c));
    }
    assert_eq!(super::entries(&server, "default").len(), 10);
}

#[tokio::test]
async fn a_command_repeated_at_another_node_is_carried_out_once() {
    let server = Server::with(ServerOptions::default().cluster(2));
    let update = json!({"fleet_id": "FLT-A01", "new_ei": 3});
    let path = "/v2/fleet/ei-update";
    let first = server.api().at(0).post_once(path, &update, "only").await.expect(200);
    let again = server.api().at(1).post_once(path, &update, "only").await.expect(200);
    assert_eq!((first["version"].as_i64(), &again), (Some(1), &first));
}

#[tokio::test]
async fn a_version_and_a_dedup_key_are_known_at_every_node() {
    let server = Server::with(ServerOptions::default().cluster(2));
    let versioned =
        |version: i64| json!({"topic": "topic:a", "type": "v", "key": "k", "version": version, "data": {}});
    // beyond what a double holds exactly
    let newest = 9_007_199_254_740_993_i64;
    server.api().at(0).post("/v2/events", &versioned(newest)).await.expect(202);
    let stale = server.api().at(1).post("/v2/events", &versioned(newest)).await;
    assert!(stale.text.contains(&newest.to_string()), "{}", stale.text);
    assert_eq!(stale.problem(409), "stale");
    server.api().at(1).post("/v2/events", &versioned(newest + 1)).await.expect(202);
    let named =
        json!({"topic": "topic:a", "type": "d", "dedup_key": "d", "dedup_window_ms": 20000, "data": {}});
    let first = server.api().at(0).post("/v2/events", &named).await.expect(202);
    let again = server.api().at(1).post("/v2/events", &named).await.expect(202);
    assert_eq!((&again["duplicate"], &again["position"]), (&json!(true), &first["position"]));
}

#[tokio::test]
async fn a_snapshot_of_one_node_and_a_subscription_at_another_miss_nothing() {
    let server = Server::with(ServerOptions::default().cluster(2));
    let (one, other) = (server.api().at(0), server.api().at(1));
    for round in 1..=20 {
        one.update_ei("FLT-A01", 1.0).await;
        // state is never older than what was answered, and its position never newer than the state
        let snapshot = other.get("/v2/fleets/FLT-A01").await.expect(200);
        assert_eq!(snapshot["version"], round * 2 - 1);
        let position = snapshot["position"].as_str().expect("a position");
        one.update_ei("FLT-A01", 2.0).await;
        let mut stream = one.listen("fleet:FLT-A01", Some(position)).await;
        assert_eq!(stream.ready().await["recovered"], true);
        eventually("the next update", async || {
            let event = stream.next().await.expect("an event");
            (event.data["data"]["version"] == round * 2).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_cursor_ahead_of_a_node_waits_for_what_is_on_its_way() {
    let server = Server::with(ServerOptions::default().cluster(2));
    let (one, other) = (server.api().at(0), server.api().at(1));
    let mut slow = other.listen("topic:a", None).await;
    slow.ready().await;
    for n in 0..50 {
        let position = one.publish("topic:a", "tick", json!({"n": n})).await;
        // the other node may not have heard of it yet
        let mut stream = other.listen("topic:a", Some(&position)).await;
        let ready = stream.ready().await;
        assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(true), &Value::Null));
        assert_eq!(ready["position"], position.as_str());
    }
    assert_eq!(slow.take(50).await.len(), 50);
}

#[tokio::test]
async fn a_key_that_is_revoked_at_one_node_ends_its_streams_at_another() {
    let server = Server::with(ServerOptions::default().cluster(2));
    let admin = server.api_with(&server.create_key("admin"));
    let (id, api) = server.new_key(&["--scopes", "subscribe"]);
    let mut stream = api.at(1).listen("topic:a", None).await;
    stream.ready().await;
    assert_eq!(admin.at(0).delete(&format!("/v2/admin/keys/{id}")).await.status, 204);
    let close = stream.expect("close").await;
    assert_eq!(close.data["code"], 3500);
    eventually("the key to be unknown everywhere", async || {
        let statuses = [api.at(0).get("/v2/fleets").await.status, api.at(1).get("/v2/fleets").await.status];
        (statuses == [401, 401]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_newer_connection_of_a_ticket_at_another_node_replaces_the_older() {
    let server = Server::with(ServerOptions::default().cluster(2));
    let api = server.api();
    let issued = api.post("/v2/realtime/tickets", &json!({"topics": ["topic:a"]})).await.expect(201);
    let path =
        format!("/v2/realtime/stream?topics=topic:a&ticket={}", issued["ticket"].as_str().expect("a ticket"));
    let mut older = api.anonymous().at(0).stream(&path, None).await;
    older.ready().await;
    for node in [1, 0, 1] {
        let mut newer = api.anonymous().at(node).stream(&path, None).await;
        newer.ready().await;
        let close = older.expect("close").await;
        assert_eq!((&close.data["code"], &close.data["reason"]), (&json!(1000), &json!("replaced")));
        older = newer;
    }
    api.publish("topic:a", "tick", json!({})).await;
    assert_eq!(older.take(1).await[0].event, "tick");
}

#[tokio::test]
async fn what_follows_the_declaration_of_a_topic_at_another_node_reaches_its_members_only() {
    let server = Server::with(ServerOptions::default().cluster(2));
    let (one, other) = (server.api().at(0), server.api().at(1));
    let token = |user: &str| {
        let database = server.options().env.iter().find(|own| own.0 == "DATABASE_URL").expect("a cluster's");
        let env = [("DATABASE_URL", database.1.as_str())];
        let args = ["token", "create", "--sub", user, "--json"];
        let (status, out, err) = crate::support::run_cli_with(&env, &args);
        assert!(status.success(), "{err}");
        let made: Value = serde_json::from_str(&out).expect("JSON");
        made["token"].as_str().expect("a token").to_owned()
    };
    for round in 0..10 {
        let topic = format!("topic:closed{round}");
        let mut outsider = other.bearing(&token("lee")).listen(&format!("{topic},user:lee"), None).await;
        let start = outsider.ready().await["position"].as_str().expect("a position").to_owned();
        one.call("PUT", &format!("/v2/topics/closed{round}"), &json!({"membership": true})).await.expect(201);
        one.publish(&topic, "secret", json!({"n": "before the grant"})).await;
        let members = json!({"users": ["kim"]});
        one.post(&format!("/v2/topics/closed{round}/members"), &members).await.expect(200);
        // known at the other node at once, and from the grant on
        let mut member = other.bearing(&token("kim")).listen(&topic, Some(&start)).await;
        member.ready().await;
        one.publish(&topic, "secret", json!({"n": round})).await;
        assert_eq!(member.take(1).await[0].data["data"]["n"], round);
        let told = eventually("to be told", async || {
            let event = outsider.next().await.expect("open");
            assert_ne!(event.event, "secret");
            (event.event == "unsubscribed").then_some(event)
        });
        assert_eq!(told.await.data["topic"], topic.as_str());
    }
}
