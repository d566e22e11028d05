//! Systems 2 and 3: accounts → internal event → snapshots → stream, on any server, over the death of one.

use serde_json::{Value, json};

use super::{anonymous, impatient, make, on_both_backends, settled};
use crate::support::{Api, Backend, Nginx, Server, Sse, eventually};

on_both_backends! {
    an_account_posted_to_one_node_is_told_on_the_stream_of_another_with_the_first_ones_name,
    clients_of_a_node_that_is_killed_come_back_elsewhere_and_miss_nothing,
}

/// Three nodes, or the one there is, and what stands before them.
async fn start() -> (Server, Api, Option<Nginx>) {
    let options = impatient(anonymous().set("server.trusted_proxies", "127.0.0.1"));
    if Backend::of_this_test() == Backend::Embedded {
        let server = Server::with(options);
        let api = server.api().anonymous();
        return (server, api, None);
    }
    let server = Server::with(options.cluster(3));
    let nginx = Nginx::before(&server.addresses()).await;
    let api = Api::new(nginx.address(), None);
    (server, api, Some(nginx))
}

/// A node by its number in the scenario; where there is one, it is all of them.
fn node(server: &Server, number: usize) -> Api {
    server.api().anonymous().at((number - 1) % server.count())
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

/// A client that comes back with its cursor wherever it is let in; the counts it was told up to the end.
async fn follow(api: &Api, mut stream: Sse) -> (Vec<u64>, usize) {
    let (mut counts, mut connections) = (Vec::new(), 1);
    loop {
        while let Some(told) = event(&mut stream).await {
            if told["eventType"] == "account.updated" {
                return (counts, connections);
            }
            counts.push(told["snapshotCount"].as_u64().expect("a count"));
        }
        let cursor = stream.cursor.clone().expect("it was ready");
        stream = eventually("a node", async || {
            let request = api.request("GET", "/events/sse").header("Accept", "text/event-stream");
            let answer = request.header("Last-Event-ID", &cursor).send().await.ok()?;
            if answer.status() != 200 {
                return None;
            }
            let mut stream = Sse::of(answer).await;
            let first = stream.next().await?;
            // the balancer tells to come back where no node answers
            (first.event == "ready").then(|| {
                assert_eq!(first.data["recovered"], true, "{first:?}");
                stream
            })
        })
        .await;
        connections += 1;
    }
}

async fn clients_of_a_node_that_is_killed_come_back_elsewhere_and_miss_nothing() {
    const ACCOUNTS: u64 = 12;
    let (mut server, balanced, _nginx) = start().await;
    let mut streams = Vec::new();
    for number in 1..=3 {
        let mut stream = node(&server, number).stream("/events/sse", None).await;
        stream.ready().await;
        streams.push(stream);
    }
    let post = async |number: u64| {
        let body = json!({"name": "a", "balance": number});
        eventually("the account", async || {
            let request = balanced.request("POST", "/accounts").json(&body);
            let answer = Api::send(request.header("Idempotency-Key", format!("k{number}"))).await.ok()?;
            (answer.status == 201).then_some(())
        })
        .await;
    };
    let scenario = async {
        for number in 1..=ACCOUNTS {
            if number == ACCOUNTS / 2 {
                server.kill_node(0);
                if server.count() == 1 {
                    server.start_node(0);
                }
            }
            post(number).await;
        }
        settled(&server).await;
        // by way of the outbox, too: it comes after all of them
        let end = json!({"name": "end"});
        node(&server, server.count()).call("PATCH", "/accounts/1", &end).await.expect(200);
    };
    let [first, second, third] = streams.try_into().ok().expect("three");
    let follow_all =
        async { tokio::join!(follow(&balanced, first), follow(&balanced, second), follow(&balanced, third)) };
    let (clients, ()) = tokio::join!(follow_all, scenario);
    let (killed, others) = (clients.0, [clients.1, clients.2]);
    assert!(killed.1 >= 2, "it was cut");
    for (counts, _) in [&killed].into_iter().chain(&others) {
        assert_eq!(counts.len() as u64, ACCOUNTS, "one for each account: {counts:?}");
    }
}
