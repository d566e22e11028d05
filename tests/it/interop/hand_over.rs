//! The node that takes in what others publish goes, and another one takes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::{listen_everywhere, on, start};
use crate::support::{Redis, Server, Sse, eventually, redis};

/// Publishes numbers from 0 on, one after the other, until it is told to stop; how many.
fn count_on(url: String, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            tick(&url, count);
            count += 1;
        }
        count
    })
}

fn tick(url: &str, n: u64) {
    redis::cli(url, &["PUBLISH", "channel:events", &json!({"type": "tick", "n": n}).to_string()]);
}

async fn number(stream: &mut Sse) -> u64 {
    let event = stream.take(1).await.remove(0);
    event.data["data"]["n"].as_u64().expect("a number")
}

async fn ingester(server: &Server) -> usize {
    let operator = server.operator();
    eventually("a node that takes in what is published", async || {
        for node in 0..server.count() {
            if operator.at(node).metric("bongsu_ingesting").await == 1.0 {
                return Some(node);
            }
        }
        None
    })
    .await
}

/// Ends the node that ingests by `end`, and once another one has taken over, `after` it; what the nodes left have seen
/// then has one hole at most, and no repetition.
async fn survives(end: impl FnOnce(&mut Server, usize), after: impl AsyncFnOnce(&Server, usize)) {
    let redis = Redis::start().await;
    let mut server = start(&redis, on(&redis, 3)).await;
    let gone = ingester(&server).await;
    let operator = server.operator();
    let mut streams = listen_everywhere(&server, "topic:events").await;
    streams.remove(gone);
    let [first, second] = &mut streams[..] else { panic!("two are left") };
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = count_on(redis.url(), stop.clone());
    let mut seen = vec![number(first).await];
    while seen.len() < 20 {
        seen.push(number(first).await);
    }
    end(&mut server, gone);
    let left: Vec<usize> = (0..3).filter(|node| *node != gone).collect();
    let of_those_left = async |name: &str| {
        let mut sum = 0.0;
        for node in &left {
            sum += operator.at(*node).metric(name).await;
        }
        sum
    };
    eventually("another node to take over", async || {
        (of_those_left("bongsu_ingest_takeovers_total").await == 1.0).then_some(())
    })
    .await;
    after(&server, gone).await;
    stop.store(true, Ordering::Relaxed);
    let last = publishing.join().expect("no panic");
    tick(&redis.url(), last);
    while seen.last() != Some(&last) {
        seen.push(number(first).await);
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "each once and in order: {seen:?}");
    let holes: Vec<_> = seen.windows(2).filter(|pair| pair[0] + 1 != pair[1]).collect();
    assert!(seen[0] == 0 && holes.len() <= 1, "{holes:?}");
    let mut others = Vec::new();
    while others.last() != Some(&last) {
        others.push(number(second).await);
    }
    assert_eq!(others, seen, "the same at every node");
    let gap = of_those_left("bongsu_ingest_gap_seconds_total").await;
    assert!(gap > 0.0 && gap < 10.0, "nobody heard for {gap} s");
}

#[tokio::test]
async fn when_the_node_that_ingests_is_killed_another_one_goes_on_and_nothing_comes_twice() {
    survives(|server, node| server.kill_node(node), async |_, _| {}).await;
}

#[tokio::test]
async fn when_the_node_that_ingests_is_terminated_another_one_goes_on_and_nothing_comes_twice() {
    survives(|server, node| server.signal_node(node, "TERM"), async |_, _| {}).await;
}

#[tokio::test]
async fn a_node_that_stood_still_takes_nothing_in_that_another_one_has_taken_in() {
    let resume = async |server: &Server, node| {
        server.signal_node(node, "CONT");
        let operator = server.operator().at(node);
        eventually("it to notice that another one leads", async || {
            (operator.metric("bongsu_ingesting").await == 0.0).then_some(())
        })
        .await;
    };
    survives(|server, node| server.signal_node(node, "STOP"), resume).await;
}
