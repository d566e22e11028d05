//! Nodes that end, in order or not: their clients go on elsewhere and miss nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::leader;
use crate::support::nginx::Nginx;
use crate::support::{
    Api, PATIENCE, Server, ServerOptions, Sse, allow_sockets, eventually, eventually_counts, pause,
};

const CLIENTS: usize = 5000;
const TOPICS: usize = 50;
const EVENTS: u64 = 20;

/// What has become of the clients so far.
#[derive(Default)]
struct Tally {
    connected: AtomicUsize,
    resumed: AtomicUsize,
    done: AtomicUsize,
}

/// Listens until it has every event of its topic: dense, each once and in order, over any number of connections.
async fn follow(api: Api, topic: String, tally: Arc<Tally>) {
    let (mut next, mut cursor) = (0, None::<String>);
    while next < EVENTS {
        let Some(mut stream) = try_listen(&api, &topic, cursor.as_deref()).await else {
            pause(Duration::from_millis(20)).await;
            continue;
        };
        let Some(ready) = stream.next().await.filter(|event| event.event == "ready") else { continue };
        match cursor {
            None => drop(tally.connected.fetch_add(1, Ordering::Relaxed)),
            Some(_) => {
                assert_eq!(ready.data["recovered"], true, "{}", ready.data);
                tally.resumed.fetch_add(1, Ordering::Relaxed);
            }
        }
        cursor = stream.cursor.clone();
        while next < EVENTS
            && let Some(event) = stream.next().await
        {
            match event.event.as_str() {
                "tick" => {
                    assert_eq!(event.data["data"]["n"], next, "a gap, a repetition or another order");
                    next += 1;
                }
                "close" => break,
                _ => {}
            }
            cursor = stream.cursor.clone();
        }
    }
    tally.done.fetch_add(1, Ordering::Relaxed);
}

async fn try_listen(api: &Api, topic: &str, cursor: Option<&str>) -> Option<Sse> {
    let request = api.request("GET", &format!("/v2/realtime/stream?topics={topic}"));
    let request = request.header("Accept", "text/event-stream");
    let request = match cursor {
        Some(cursor) => request.header("Last-Event-ID", cursor),
        None => request,
    };
    let response = request.send().await.ok().filter(|response| response.status() == 200)?;
    Some(Sse::of(response).await)
}

/// Publishes one more event on every topic, again with its key until it is answered.
async fn publish_round(api: &Api, n: u64) {
    let events: Vec<Value> = (0..TOPICS)
        .map(|topic| json!({"topic": format!("topic:t{topic}"), "type": "tick", "data": {"n": n}}))
        .collect();
    let body = json!({"events": events});
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < deadline {
        let request =
            api.request("POST", "/v2/events/batch").json(&body).header("Idempotency-Key", format!("r{n}"));
        match Api::send(request).await {
            Ok(answer) if answer.status == 202 => return,
            _ => pause(Duration::from_millis(10)).await,
        }
    }
    panic!("an answer in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_five_thousand_clients_of_a_killed_node_resume_elsewhere_and_miss_nothing() {
    allow_sockets();
    let options = ServerOptions::default().cluster(3).unlimited().set("limits.key_publishes_per_s", 0);
    let options = options.set("limits.key_connects_per_min", 0);
    // whoever came first hears something while the others still come, however long that takes
    let mut server = Server::with(options.set("sessions.heartbeat_ms", 10_000));
    let nginx = Nginx::before(&server.addresses()).await;
    // all of them come to the first node, which is the only one there is
    server.kill_node(1);
    server.kill_node(2);
    let tally = Arc::new(Tally::default());
    let listener = nginx.api(server.key());
    let mut clients: Vec<_> = Vec::new();
    for client in 0..CLIENTS {
        let topic = format!("topic:t{}", client % TOPICS);
        clients.push(tokio::spawn(follow(listener.clone(), topic, tally.clone())));
        if client % 100 == 99 {
            eventually_counts("clients", (client as u64).saturating_sub(200), || {
                // those that have not connected yet are bounded
                tally.connected.load(Ordering::Relaxed) as u64
            })
            .await;
        }
    }
    let connected = || tally.connected.load(Ordering::Relaxed) as u64;
    eventually_counts("clients", CLIENTS as u64, connected).await;
    server.start_node(1);
    server.start_node(2);
    let publisher = server.api().at(1);
    for n in 0..EVENTS / 2 {
        publish_round(&publisher, n).await;
    }
    let publishing = tokio::spawn(async move {
        for n in EVENTS / 2..EVENTS {
            publish_round(&publisher, n).await;
            pause(Duration::from_millis(100)).await;
        }
    });
    pause(Duration::from_millis(250)).await;
    assert_eq!(tally.resumed.load(Ordering::Relaxed), 0);
    server.kill_node(0);
    publishing.await.expect("published");
    eventually_counts("clients that have everything", CLIENTS as u64, || {
        tally.done.load(Ordering::Relaxed) as u64
    })
    .await;
    for client in clients {
        client.await.expect("each once and in order");
    }
    assert!(tally.resumed.load(Ordering::Relaxed) >= CLIENTS, "the fault has happened to all of them");
    let operator = server.operator();
    for reason in ["epoch_changed", "evicted", "ahead", "invalid"] {
        let name = format!("bongsu_recoveries_total{{outcome=\"{reason}\"}}");
        for node in [1, 2] {
            assert_eq!(operator.at(node).metric(&name).await, 0.0, "{reason}");
        }
    }
}

#[tokio::test]
async fn a_node_that_is_terminated_amid_a_burst_tells_its_clients_and_nothing_is_lost() {
    let mut server = Server::with(ServerOptions::default().cluster(3).set("drain.window_s", 5));
    let tally = Arc::new(Tally::default());
    let ending = leader(&server.operator(), 0..3).await;
    let rest: Vec<usize> = (0..3).filter(|node| *node != ending).collect();
    let clients: Vec<_> = (0..60)
        .map(|client| {
            let topic = format!("topic:t{}", client % TOPICS);
            tokio::spawn(follow(server.api(), topic, tally.clone()))
        })
        .collect();
    eventually_counts("clients", 60, || tally.connected.load(Ordering::Relaxed) as u64).await;
    let api = server.api();
    let publishing = tokio::spawn(async move {
        for n in 0..EVENTS {
            publish_round(&api, n).await;
            pause(Duration::from_millis(50)).await;
        }
    });
    let mut reports = Vec::new();
    for n in 0..20 {
        if n == 5 {
            server.signal_node(ending, "TERM");
        }
        reports.push(server.api().at(rest[n % 2]).update_ei("FLT-A01", 1.0).await["version"].clone());
    }
    assert_eq!(server.node_ended(ending).await.code(), Some(0));
    publishing.await.expect("published");
    for client in clients {
        client.await.expect("each once and in order");
    }
    assert!(tally.resumed.load(Ordering::Relaxed) >= 20, "those of the node that ended");
    let logged = eventually("every update in the log", async || {
        let entries = super::entries(&server, "default");
        let own = entries.iter().filter(|entry| entry["event"] == "ei_updated");
        let versions: Vec<Value> = own.map(|entry| entry["version"].clone()).collect();
        (versions.len() >= 20).then_some(versions)
    });
    assert_eq!(logged.await, reports);
}

#[tokio::test]
async fn a_node_whose_clock_is_wrong_by_an_hour_neither_expires_nor_revives_anything() {
    for seconds in ["+3600", "-3600"] {
        let mut server = Server::with(ServerOptions::default().cluster(2));
        server.kill_node(0);
        let library = crate::faults::clock::library();
        server.start_node_with(0, |options| {
            let options = options.env("LD_PRELOAD", library.display()).env("FAKETIME", seconds);
            options.env("FAKETIME_DONT_FAKE_MONOTONIC", 1).env("DONT_FAKE_MONOTONIC", 1)
        });
        let (wrong, right) = (server.api().at(0), server.api().at(1));
        let event =
            |n: u64, ttl: u64| json!({"topic": "topic:a", "type": "tick", "ttl_s": ttl, "data": {"n": n}});
        let first = right.publish("topic:a", "before", json!({})).await;
        wrong.post("/v2/events", &event(1, 60)).await.expect(202);
        right.post("/v2/events", &event(2, 60)).await.expect(202);
        for api in [&wrong, &right] {
            let mut stream = api.listen("topic:a", Some(&first)).await;
            assert_eq!(stream.ready().await["recovered"], true);
            let missed = stream.replayed().await;
            let numbers: Vec<_> = missed.iter().map(|event| event.data["data"]["n"].clone()).collect();
            assert_eq!(numbers, [1, 2], "{seconds}");
        }
        // expired on the clock of the log, and on no other
        right.post("/v2/events", &event(3, 1)).await.expect(202);
        for api in [&wrong, &right] {
            eventually("its time to be over", async || {
                let mut stream = api.listen("topic:a", Some(&first)).await;
                stream.ready().await;
                (stream.replayed().await.len() == 2).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_new_node_takes_load_at_once() {
    let mut server = Server::with(ServerOptions::default().cluster(2));
    server.kill_node(1);
    let first = server.api().at(0).publish("topic:a", "tick", json!({"n": 0})).await;
    server.start_node(1);
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = server.api().at(1).listen("topic:a", Some(&first)).await;
        assert_eq!(stream.ready().await["recovered"], true);
        streams.push(stream);
    }
    server.api().at(0).publish("topic:a", "tick", json!({"n": 1})).await;
    let heard =
        futures_util::stream::iter(streams).then(async |mut stream| stream.take(1).await[0].data.clone());
    let heard: Vec<Value> = heard.collect().await;
    assert!(heard.iter().all(|event| event["data"]["n"] == 1));
}
