//! A node that is killed at the worst moments: what it had committed is published once all the same.

use std::os::unix::process::ExitStatusExt;

use serde_json::json;

use super::{entries, leader, versions};
use crate::support::{Api, Server, ServerOptions, eventually, postgres};

/// Two nodes, of which the first one leads and ends at `point`.
async fn armed(point: &str) -> Server {
    let mut server = Server::with(ServerOptions::default().cluster(2));
    server.api().update_ei("FLT-A01", 1.0).await;
    eventually("nothing to be left for the leader", async || {
        let waiting = server.operator().metric("bongsu_outbox_waiting").await;
        (waiting == 0.0 && entries(&server, "default").len() == 1).then_some(())
    })
    .await;
    server.kill();
    server.start_node_with(0, |options| options.env("BONGSU_CRASH_AT", point));
    let operator = server.operator();
    leader(&operator, [0]).await;
    server.start_node(1);
    server
}

/// An update posted to the node that does not lead is heard there once, though the leader ends at `point`.
async fn an_update_whose_leader_is_killed_at(point: &str) {
    let mut server = armed(point).await;
    let api = server.api().at(1);
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    api.update_ei("FLT-A01", 2.0).await;
    assert_eq!(server.node_ended(0).await.signal(), Some(6), "not of the crash point");
    let events = stream.take(1).await;
    api.update_ei("FLT-A01", 3.0).await;
    let events = [events, stream.take(1).await].concat();
    assert_eq!(versions(&events), [2, 3], "each once and in order");
    let logged: Vec<_> = entries(&server, "default").iter().map(|entry| entry["version"].clone()).collect();
    assert_eq!(logged, [1, 2, 3], "in the log, too");
    eventually("the outbox to be empty", async || {
        (server.operator().at(1).metric("bongsu_outbox_waiting").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_update_whose_leader_is_killed_before_the_append_is_published_once() {
    an_update_whose_leader_is_killed_at("relay.before_append").await;
}

#[tokio::test]
async fn an_update_whose_leader_is_killed_between_publish_and_mark_is_published_once() {
    an_update_whose_leader_is_killed_at("relay.before_mark").await;
}

#[tokio::test]
async fn an_update_whose_node_is_killed_between_commit_and_publish_is_published_once() {
    let mut server = Server::with(ServerOptions::default().cluster(2));
    let operator = server.operator();
    let leading = leader(&operator, [0, 1]).await;
    let dying = 1 - leading;
    server.kill_node(dying);
    server.start_node_with(dying, |options| options.env("BONGSU_CRASH_AT", "fleets.after_commit"));
    let api = server.api().at(leading);
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    let update = json!({"fleet_id": "FLT-A01", "new_ei": 1});
    let dying_api = server.api().at(dying);
    Api::send(dying_api.request("POST", "/v2/fleet/ei-update").json(&update)).await.expect_err("killed");
    assert_eq!(server.node_ended(dying).await.signal(), Some(6), "not of the crash point");
    let events = stream.take(1).await;
    api.update_ei("FLT-A01", 2.0).await;
    assert_eq!(versions(&[events, stream.take(1).await].concat()), [1, 2]);
}

#[tokio::test]
async fn a_row_that_can_never_be_published_is_kept_over_the_death_of_who_told_instead() {
    let mut server = armed("relay.before_mark").await;
    let api = server.api().at(1);
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    // larger than any message may be
    let row = "INSERT INTO outbox (tenant, topic, name, class, data, created_us) VALUES \
               ('default', 'fleet:FLT-A01', 'ei_updated', 'latest', '{\"x\":\"' || repeat('y', 1100000) || '\"}', 0)";
    postgres::sql(server.database_url(), row);
    assert_eq!(server.node_ended(0).await.signal(), Some(6), "not of the crash point");
    let heard = stream.take(1).await;
    assert_eq!(
        (heard[0].event.as_str(), &heard[0].data["data"]["reason"]),
        ("reset", &json!("event_too_large"))
    );
    let dead = "SELECT dead_reason FROM outbox";
    let is_dead =
        async || postgres::sql(server.database_url(), dead).contains("log.max_message_bytes").then_some(());
    eventually("the row to be dead", is_dead).await;
    // whoever leads next has told once, and leaves it where it is
    let operator = server.operator();
    server.start_node(0);
    server.kill_node(1);
    leader(&operator, [0]).await;
    server.start_node(1);
    let mut stream = server.api().at(1).listen("fleet:FLT-A01", stream.cursor.as_deref()).await;
    stream.ready().await;
    server.api().at(1).update_ei("FLT-A01", 2.0).await;
    assert_eq!(stream.take(1).await[0].event, "ei_updated");
    assert_eq!(postgres::sql(server.database_url(), "SELECT count(*) FROM outbox").trim(), "1");
}

#[tokio::test]
async fn a_publish_whose_node_is_killed_before_the_answer_is_answered_by_its_key_at_another() {
    let mut server = Server::with(ServerOptions::default().cluster(2));
    server.kill_node(0);
    server.start_node_with(0, |options| options.env("BONGSU_CRASH_AT", "append.after_commit"));
    let (dying, api) = (server.api().at(0), server.api().at(1));
    let mut stream = api.listen("topic:a", None).await;
    stream.ready().await;
    let event = json!({"topic": "topic:a", "type": "tick", "data": {"n": 1}});
    let publish =
        |api: &Api| api.request("POST", "/v2/events").json(&event).header("Idempotency-Key", "only");
    Api::send(publish(&dying)).await.expect_err("killed before the answer");
    assert_eq!(server.node_ended(0).await.signal(), Some(6), "not of the crash point");
    let answer = Api::send(publish(&api)).await.expect("an answer").expect(202);
    let heard = stream.take(1).await;
    assert_eq!(heard[0].id.as_deref(), answer["position"].as_str());
    assert_eq!(entries(&server, "default").len(), 1);
}
