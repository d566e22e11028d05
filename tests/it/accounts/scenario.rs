//! Systems 2 and 3: accounts → internal event → snapshots → stream, on any server, over the death of one.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{anonymous, impatient, make, on_both_backends, settled};
use crate::support::nginx::balanced;
use crate::support::{Api, Follower, Nginx, Server, Sse, Way};

on_both_backends! {
    an_account_posted_to_one_node_is_told_on_the_stream_of_another_with_the_first_ones_name,
    clients_of_a_node_that_is_killed_come_back_elsewhere_and_miss_nothing,
}

async fn start() -> (Server, Api, Option<Nginx>) {
    let (server, api, nginx) = balanced(impatient(anonymous())).await;
    (server, api.anonymous(), nginx)
}

/// A node by its number in the scenario.
fn node(server: &Server, number: usize) -> Api {
    server.api().anonymous().node(number)
}

async fn name(api: &Api) -> Value {
    api.get("/events/status").await.expect(200)["serverId"].clone()
}

/// The next event with a type.
async fn event(stream: &mut Sse) -> Option<Value> {
    loop {
        let event = stream.next().await?;
        if event.event == "message" && event.data["eventType"].is_string() {
            return Some(event.data);
        }
    }
}

async fn an_account_posted_to_one_node_is_told_on_the_stream_of_another_with_the_first_ones_name() {
    let (server, balanced, _nginx) = start().await;
    let mut held_by_1 = node(&server, 1).stream("/events/sse", None).await;
    assert_eq!(held_by_1.ready().await["server_id"], name(&node(&server, 1)).await);
    let mut through_the_balancer = balanced.stream("/events/sse", None).await;
    through_the_balancer.ready().await;
    let made = make(&node(&server, 2), "savings", 12.5).await;
    assert_eq!(made["id"], 1);
    for stream in [&mut held_by_1, &mut through_the_balancer] {
        let told = event(stream).await.expect("the event");
        assert_eq!((&told["eventType"], &told["snapshotCount"]), (&json!("snapshots.generated"), &json!(1)));
        assert_eq!(told["serverId"], name(&node(&server, 2)).await);
    }
    // and posted wherever the balancer likes
    for count in 2..=4 {
        make(&balanced, "more", 1.0).await;
        let told = event(&mut held_by_1).await.expect("the event");
        assert_eq!(told["snapshotCount"], count);
        assert_eq!(event(&mut through_the_balancer).await, Some(told));
    }
    let names = [name(&node(&server, 1)).await, name(&node(&server, 2)).await, name(&node(&server, 3)).await];
    assert_eq!(names[0] == names[1] || names[1] == names[2], server.count() == 1);
}

/// The counts that a client was told, up to the end.
async fn follow(mut follower: Follower) -> (Vec<u64>, usize) {
    let mut counts = Vec::new();
    loop {
        let told = follower.next().await.data;
        match told["eventType"].as_str() {
            Some("account.updated") => return (counts, follower.connections),
            Some(_) => counts.push(told["snapshotCount"].as_u64().expect("a count")),
            None => assert_eq!(told["type"], "ping"),
        }
    }
}

async fn clients_of_a_node_that_is_killed_come_back_elsewhere_and_miss_nothing() {
    const ACCOUNTS: u64 = 12;
    let (mut server, balanced, _nginx) = start().await;
    let (mut followers, way) = (Vec::new(), Way::Path("/events/sse".to_owned()));
    for number in 1..=3 {
        let follower = Follower::new(&node(&server, number), &way, None).await;
        followers.push(follow(follower.coming_back_to(&balanced)));
    }
    let scenario = async {
        for number in 1..=ACCOUNTS {
            if number == ACCOUNTS / 2 {
                server.kill_node(0);
                if server.count() == 1 {
                    server.start_node(0);
                }
            }
            let body = json!({"name": "a", "balance": number});
            balanced.post_until_done("/accounts", &body, &format!("k{number}")).await;
        }
        settled(&server).await;
        // by way of the outbox, too: it comes after all of them
        let end = json!({"name": "end"});
        node(&server, server.count()).call("PATCH", "/accounts/1", &end).await.expect(200);
    };
    let (clients, ()) = tokio::join!(join_all(followers), scenario);
    assert!(clients[0].1 >= 2, "it was cut");
    for (counts, _) in &clients {
        assert_eq!(counts.len() as u64, ACCOUNTS, "one for each account: {counts:?}");
    }
}
