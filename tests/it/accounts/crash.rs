//! A node that is killed in the middle: one event for each accepted command, all the same.

use std::os::unix::process::ExitStatusExt;

use serde_json::json;

use super::{impatient, on_both_backends, settled, speaking, state};
use crate::support::{Api, Client, Server, ServerOptions, Transport};

on_both_backends! {
    killed_after_the_command_was_committed,
    killed_when_the_job_was_taken,
    killed_before_what_follows_was_committed,
    killed_after_what_follows_was_committed,
}

async fn killed_after_the_command_was_committed() {
    one_event_for_each_command_over_a_crash_at("accounts.after_commit").await;
}

async fn killed_when_the_job_was_taken() {
    one_event_for_each_command_over_a_crash_at("jobs.taken").await;
}

async fn killed_before_what_follows_was_committed() {
    one_event_for_each_command_over_a_crash_at("accounts.before_follow_commit").await;
}

async fn killed_after_what_follows_was_committed() {
    one_event_for_each_command_over_a_crash_at("accounts.after_follow_commit").await;
}

/// Posts until the node is gone: with several nodes another one may be quicker to take a job.
async fn post_until_it_dies(api: &Api) -> usize {
    for number in 0..1000 {
        let request = api.request("POST", "/accounts").json(&json!({"name": "a", "balance": number}));
        let request = request.header("Idempotency-Key", format!("k{number}"));
        if Api::send(request).await.is_err() {
            return number;
        }
    }
    panic!("it did not die");
}

async fn one_event_for_each_command_over_a_crash_at(point: &str) {
    let mut server = Server::with(impatient(ServerOptions::default().unlimited()));
    let kim = speaking(&server, "kim");
    let (_, ready) = Client::over(Transport::Sse, &kim.at(0), "user:kim", None).await;
    let cursor = ready["position"].as_str().expect("a position").to_owned();
    server.kill_node(0);
    server.start_node_with(0, |options| options.env("BONGSU_CRASH_AT", point));
    let accepted = post_until_it_dies(&kim.at(0)).await;
    let status = server.node_ended(0).await;
    assert_eq!(status.signal(), Some(6), "{status}: not of the crash point");
    server.start_node(0);
    // accepted or not, its sender asks again
    let repeated = json!({"name": "a", "balance": accepted});
    kim.post_once("/accounts", &repeated, &format!("k{accepted}")).await.expect(201);
    settled(&server).await;
    let (accounts, snapshots) = state(&kim).await;
    let count = accepted + 1;
    assert_eq!(accounts.as_array().map(Vec::len), Some(count));
    let mut batches: Vec<&str> = snapshots
        .as_array()
        .expect("snapshots")
        .iter()
        .map(|row| row["id"].as_str().expect("an id").split(':').next().expect("a snapshot"))
        .collect();
    batches.dedup();
    if count < 20 {
        assert_eq!(batches.len(), count, "one snapshot for each command");
    }
    // by way of the outbox, too: it comes after all of them
    kim.call("PATCH", "/accounts/1", &json!({"name": "end"})).await.expect(200);
    let (mut client, ready) = Client::over(Transport::Sse, &kim, "user:kim", Some(&cursor)).await;
    assert_eq!(ready["recovered"], true);
    let mut events = 0;
    while client.event().await.name != "account.updated" {
        events += 1;
    }
    assert_eq!(events, count, "one event for each command");
}
