//! Readers that are slow, that stop, or that are gone: cut in time, counted, and a burden to nobody.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::raw::RawEvent;
use crate::support::{Api, Raw, Server, ServerOptions, eventually, not_tested, pause, resident_bytes};

const CONNECTIONS: &str = r#"bongsu_connections{transport="sse",tenant="default"}"#;
const CUT: &str = r#"bongsu_closes_total{transport="sse",code="3001",reason="slow_consumer"}"#;
const LEFT: &str = r#"bongsu_closes_total{transport="sse",code="0",reason="client_left"}"#;
const DISCARDED: &str = r#"bongsu_events_dropped_total{reason="connection_cut"}"#;
const VOLATILE_DROPPED: &str = r#"bongsu_events_dropped_total{reason="volatile_queue_full"}"#;
const CONFLATED: &str = r#"bongsu_events_dropped_total{reason="conflated"}"#;

/// As small a receive buffer as the kernel gives.
const TINY: usize = 1;
const MIB: u64 = 1024 * 1024;

/// Publishes events numbered from `from`, each with about `bytes` of data, in as few requests as may be.
async fn publish_many(api: &Api, topic: &str, class: &str, numbers: std::ops::Range<u64>, bytes: usize) {
    let pad = "x".repeat(bytes);
    let numbers: Vec<u64> = numbers.collect();
    for part in numbers.chunks((900_000 / (bytes + 150)).clamp(1, 1000)) {
        let event = |n: &u64| json!({"topic": topic, "type": "noise", "class": class, "key": "k", "data": {"n": n, "pad": pad}});
        let events: Vec<_> = part.iter().map(event).collect();
        let answer = api.post("/v2/events/batch", &json!({"events": events})).await.expect(202);
        let results = answer["results"].as_array().expect("results");
        assert!(results.iter().all(|result| result["status"] == 202), "{answer}");
    }
}

async fn reaches(operator: &Api, metric: &str, value: f64) {
    eventually(&format!("{metric} {value}"), async || (operator.metric(metric).await == value).then_some(()))
        .await;
}

/// How long a reader that does not read had got nothing more when its connection ended: what its kernel still
/// takes for it is progress.
async fn idle_at_its_end(reader: &Raw) -> Duration {
    let (mut unread, mut progress) = (reader.unread(), Instant::now());
    let patience = Instant::now() + Duration::from_secs(60);
    while !reader.is_over() && Instant::now() < patience {
        let now = reader.unread();
        if now > unread {
            (unread, progress) = (now, Instant::now());
        }
        pause(Duration::from_millis(20)).await;
    }
    progress.elapsed()
}

fn operator(server: &Server) -> Api {
    server.api_with(&server.create_key("operator"))
}

fn quick() -> ServerOptions {
    ServerOptions::default().set("server.stall_timeout_ms", 1000).set("sessions.sweep_ms", 100)
}

#[tokio::test]
async fn a_reader_that_stops_is_cut_when_nothing_has_moved_for_the_stall_time() {
    let server = Server::with(quick());
    let (api, operator) = (server.api(), operator(&server));
    let reader = Raw::connect_narrow(server.address(), TINY).await;
    let reader = reader.listen(server.key(), "topic:busy").await;
    reaches(&operator, CONNECTIONS, 1.0).await;
    let before = Instant::now();
    // more than the kernel takes, less than the queue's bound
    publish_many(&api, "topic:busy", "durable", 0..220, 1000).await;
    let published = Instant::now();
    assert!(!reader.is_over());
    reaches(&operator, CONNECTIONS, 0.0).await;
    assert!(before.elapsed() >= Duration::from_millis(900), "cut by the queue's bound");
    assert!(published.elapsed() < Duration::from_secs(3), "{:?}", published.elapsed());
    assert_eq!(operator.metric(CUT).await, 1.0);
    assert!(operator.metric(DISCARDED).await > 0.0);
    eventually("the socket's end", async || reader.is_over().then_some(())).await;
    assert!(published.elapsed() < Duration::from_secs(4), "{:?}", published.elapsed());
}

#[tokio::test]
async fn a_poller_that_does_not_read_its_answer_is_gone_when_nothing_has_moved_for_the_stall_time() {
    let server = Server::with(quick());
    let (api, operator) = (server.api(), operator(&server));
    let first = api.publish("topic:busy", "noise", json!({"n": 0})).await;
    publish_many(&api, "topic:busy", "durable", 1..400, 1000).await;
    let mut reader = Raw::connect_narrow(server.address(), TINY).await;
    let key = server.key();
    let request = format!(
        "GET /v2/realtime/poll?topics=topic:busy&cursor={first} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n"
    );
    reader.send(&request).await;
    let asked = Instant::now();
    let polls = r#"bongsu_connects_total{transport="poll"}"#;
    reaches(&operator, polls, 1.0).await;
    // it holds no session while its answer waits to be read
    reaches(&operator, r#"bongsu_connections{transport="poll",tenant="default"}"#, 0.0).await;
    assert!(!reader.is_over());
    eventually("the socket's end", async || reader.is_over().then_some(())).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_reader_that_stops_is_gone_within_ten_seconds_by_default() {
    let server = Server::start();
    let (api, operator) = (server.api(), operator(&server));
    let within = Raw::connect_narrow(server.address(), TINY).await;
    let within = within.listen(server.key(), "topic:within").await;
    let beyond = Raw::connect_narrow(server.address(), TINY).await;
    let beyond = beyond.listen(server.key(), "topic:beyond").await;
    let resident = resident_bytes(server.pid());
    let before = Instant::now();
    publish_many(&api, "topic:within", "durable", 0..220, 1000).await;
    publish_many(&api, "topic:beyond", "durable", 0..2000, 1000).await;
    let published = Instant::now();
    // the bound of the queue ends the one at once
    reaches(&operator, CUT, 1.0).await;
    assert!(published.elapsed() < Duration::from_secs(3), "{:?}", published.elapsed());
    assert!(operator.metric(DISCARDED).await > 0.0);
    let (within, beyond) = tokio::join!(idle_at_its_end(&within), idle_at_its_end(&beyond));
    reaches(&operator, CONNECTIONS, 0.0).await;
    // the first one stalls somewhere between these two moments
    assert!(before.elapsed() >= Duration::from_secs(8), "{:?}", before.elapsed());
    assert!(within.max(beyond) < Duration::from_millis(10_500), "{within:?} {beyond:?}");
    assert_eq!(operator.metric(CUT).await, 2.0);
    let grown = resident_bytes(server.pid()).saturating_sub(resident);
    assert!(grown < 32 * MIB, "{grown} bytes");
}

#[tokio::test]
async fn a_reader_that_stops_on_a_quiet_topic_is_gone_by_its_heartbeats() {
    let server = Server::with(quick().set("sessions.heartbeat_ms", 100));
    let operator = operator(&server);
    let reader = Raw::connect_narrow(server.address(), TINY).await;
    let reader = reader.listen(server.key(), "topic:quiet").await;
    reaches(&operator, CONNECTIONS, 1.0).await;
    reaches(&operator, CONNECTIONS, 0.0).await;
    eventually("the socket's end", async || reader.is_over().then_some(())).await;
    // where the kernel still had room, it is the one that gave up
    assert_eq!(operator.metric(CUT).await + operator.metric(LEFT).await, 1.0);
}

#[tokio::test]
async fn a_trickle_reader_is_cut_by_the_bound_of_its_queue_and_resumes_without_loss() {
    let server = Server::start();
    let (api, operator) = (server.api(), operator(&server));
    let reader = Raw::connect_narrow(server.address(), TINY).await;
    let mut reader = reader.listen(server.key(), "topic:busy").await;
    let mut published = 0;
    let press = async {
        while operator.metric(CUT).await == 0.0 {
            publish_many(&api, "topic:busy", "durable", published..published + 50, 1000).await;
            published += 50;
        }
    };
    tokio::select! {
        () = press => {}
        _ = reader.trickle_until("event: close", 100, Duration::from_millis(20)) => panic!("closed before it was counted"),
    }
    assert!(operator.metric(DISCARDED).await > 0.0);
    reader.rest().await;
    let events = reader.events();
    let close = events.last().expect("events");
    assert_eq!((close.event.as_str(), close.data["code"].as_u64()), ("close", Some(3001)));
    assert_eq!(close.data["reconnect"], true);
    let cursor = events.iter().rev().find_map(|event| event.id.clone()).expect("an id");
    let mut numbers: Vec<u64> = events.iter().filter_map(|event| event.number()).collect();
    assert!(!numbers.is_empty() && (numbers.len() as u64) < published);
    let mut stream = api.listen("topic:busy", Some(&cursor)).await;
    assert_eq!(stream.ready().await["recovered"], true);
    let missed = stream.take((published - numbers.len() as u64) as usize).await;
    numbers.extend(missed.iter().filter_map(|event| event.data["data"]["n"].as_u64()));
    assert_eq!(numbers, (0..published).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_closes_or_resets_is_noticed_at_once() {
    let server = Server::start();
    let operator = operator(&server);
    for round in ["closes", "half-closes", "resets"] {
        let left = operator.metric(LEFT).await;
        let reader = Raw::connect(server.address()).await;
        let mut reader = reader.listen(server.key(), "topic:quiet").await;
        reaches(&operator, CONNECTIONS, 1.0).await;
        let started = Instant::now();
        let kept = match round {
            "closes" => {
                drop(reader);
                None
            }
            "half-closes" => {
                reader.finish().await;
                Some(reader)
            }
            _ => {
                reader.reset();
                None
            }
        };
        reaches(&operator, CONNECTIONS, 0.0).await;
        assert!(started.elapsed() < Duration::from_secs(2), "{round}: {:?}", started.elapsed());
        assert_eq!(operator.metric(LEFT).await, left + 1.0, "{round}");
        drop(kept);
    }
}

/// A network of its own, in which the server and a client of curl's live.
struct Network(String);

impl Network {
    /// None where such a network cannot be made.
    fn make() -> Option<Self> {
        let name = format!("bongsu-test-{}", std::process::id());
        let network = Network(name.clone());
        let made = ip(&["netns", "add", &name]) && network.set_link("up");
        made.then_some(network)
    }

    fn set_link(&self, state: &str) -> bool {
        ip(&["-n", &self.0, "link", "set", "lo", state])
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    fn metric(&self, server: &Server, key: &str, name: &str) -> Option<f64> {
        let output = self
            .inside("curl")
            .args(["-s", "-m", "5", "-H", &format!("X-API-Key: {key}")])
            .arg(format!("http://{}/metrics", server.address()))
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.parse().ok()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.0]);
    }
}

fn ip(words: &[&str]) -> bool {
    let output = Command::new("ip").args(words).output();
    output.is_ok_and(|output| output.status.success())
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed_within_two_heartbeats() {
    let Some(network) = Network::make() else {
        not_tested("a client that vanishes: no network namespace can be made here");
        return;
    };
    let mut options = quick().set("sessions.heartbeat_ms", 2000).set("logging.level", "debug");
    options.under = ["ip", "netns", "exec", &network.0].map(str::to_owned).to_vec();
    let server = Server::with(options);
    let key = server.create_key("operator");
    let mut client = network
        .inside("curl")
        .args(["-sN", "-H", &format!("X-API-Key: {}", server.key())])
        .arg(format!("http://{}/v2/realtime/stream?topics=topic:quiet", server.address()))
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("curl runs");
    eventually("the connection", async || {
        (network.metric(&server, &key, CONNECTIONS) == Some(1.0)).then_some(())
    })
    .await;
    assert!(network.set_link("down"));
    let silent = Instant::now();
    eventually("its end", async || server.stderr().contains("disconnected").then_some(())).await;
    assert!(silent.elapsed() < Duration::from_secs(4), "{:?}", silent.elapsed());
    // the client was still there and had not been told: nothing came through
    assert!(client.try_wait().expect("it is ours").is_none());
    assert!(network.set_link("up"));
    eventually("the figures", async || network.metric(&server, &key, CONNECTIONS)).await;
    assert_eq!(network.metric(&server, &key, CONNECTIONS), Some(0.0));
    client.kill().expect("it runs");
    client.wait().expect("it ends");
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_a_long_replay_while_the_server_keeps_none_of_it_for_it() {
    let server = Server::start();
    let (api, operator) = (server.api(), operator(&server));
    let first = api.publish("topic:long", "noise", json!({"n": 0})).await;
    publish_many(&api, "topic:long", "durable", 1..50_001, 300).await;
    let resident = resident_bytes(server.pid());
    let reader = Raw::connect_narrow(server.address(), 32 * 1024).await;
    let mut reader = reader.resume(server.key(), "topic:long", Some(&first)).await;
    let pause = Duration::from_millis(2);
    assert!(reader.trickle_until("\"n\":25000,", 16 * 1024, pause).await);
    // what is for those who are live at this moment is not for it
    let volatile = json!({"topic": "topic:long", "type": "tick", "class": "volatile", "data": {}});
    assert_eq!(api.post("/v2/events", &volatile).await.status, 202);
    assert_eq!(operator.metric(r#"bongsu_events_dropped_total{reason="catching_up"}"#).await, 1.0);
    // it stands in the middle, and the second half is in the log alone
    let grown = resident_bytes(server.pid()).saturating_sub(resident);
    assert!(grown < 24 * MIB, "{grown} bytes");
    assert!(reader.trickle_until("event: position", 16 * 1024, pause).await);
    let grown = resident_bytes(server.pid()).saturating_sub(resident);
    assert!(grown < 24 * MIB, "{grown} bytes");
    let numbers: Vec<u64> = reader.events().iter().filter_map(|event| event.number()).collect();
    assert!(numbers.into_iter().eq(1..50_001));
    assert!(operator.metric("bongsu_log_store_reads_total").await > 0.0);
    assert_eq!(operator.metric("bongsu_events_replayed_total").await, 50_000.0);
    assert_eq!((operator.metric(CUT).await, operator.metric(DISCARDED).await), (0.0, 0.0));
}

#[tokio::test]
async fn slow_readers_of_large_replayed_events_cost_a_page_of_bytes_each() {
    const READERS: u64 = 24;
    // all but the newest few are in the database alone
    let server = Server::with(ServerOptions::default().set("log.window_bytes", 65_536));
    let api = server.api();
    let first = api.publish("topic:large", "noise", json!({"n": 0})).await;
    publish_many(&api, "topic:large", "durable", 1..201, 60_000).await;
    let resident = resident_bytes(server.pid());
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let reader = Raw::connect_narrow(server.address(), 32 * 1024).await;
        readers.push(reader.resume(server.key(), "topic:large", Some(&first)).await);
    }
    let operator = operator(&server);
    eventually("each has its first page", async || {
        (operator.metric("bongsu_log_store_reads_total").await >= READERS as f64).then_some(())
    })
    .await;
    let grown = resident_bytes(server.pid()).saturating_sub(resident);
    // a queue and a page of 256 KiB each; all that is to be replayed would be 12 MB each
    assert!(grown < READERS * MIB * 3 / 2, "{grown} bytes");
    // and the rest comes page by page
    let reader = &mut readers[0];
    reader.read_until("event: position").await;
    let numbers: Vec<u64> = reader.events().iter().filter_map(|event| event.number()).collect();
    assert!(numbers.into_iter().eq(1..201));
}

#[tokio::test]
async fn a_full_queue_drops_volatile_first_then_conflates_latest_then_cuts() {
    let options =
        ServerOptions::default().set("sessions.queue_items", 20).set("server.stall_timeout_ms", 60_000);
    let server = Server::with(options);
    let (api, operator) = (server.api(), operator(&server));
    let reader = Raw::connect_narrow(server.address(), TINY).await;
    let mut reader = reader.listen(server.key(), "topic:busy").await;
    let mut published = 0;
    let mut press = async |class: &str, reason: &str| {
        while operator.metric(reason).await == 0.0 {
            publish_many(&api, "topic:busy", class, published..published + 10, 4000).await;
            published += 10;
        }
        published
    };
    let volatiles = press("volatile", VOLATILE_DROPPED).await;
    assert_eq!((operator.metric(CONFLATED).await, operator.metric(CUT).await), (0.0, 0.0));
    let latest = press("latest", CONFLATED).await;
    assert_eq!(operator.metric(CUT).await, 0.0);
    // it lives: what was kept arrives, the newest value last
    reader.read_until_number(latest - 1).await;
    let events = reader.events();
    let values = events.into_iter().filter(|event| event.number().is_some());
    let (early, late): (Vec<RawEvent>, Vec<RawEvent>) =
        values.partition(|event| event.number() < Some(volatiles));
    assert!(early.iter().all(|event| event.id.is_none()), "volatile events have no id");
    assert!(late.len() < (latest - volatiles) as usize, "nothing was conflated away");
    assert!(late.iter().any(|event| event.id.is_none()), "a conflated value has no id");
    assert_eq!(late.last().and_then(|event| event.number()), Some(latest - 1));
    let numbers: Vec<_> = late.iter().map(|event| event.number()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    let cursor = api.publish("topic:busy", "noise", json!({"n": latest})).await;
    reader.read_until(&format!("id: {cursor}\n")).await;
    let durables = press("durable", CUT).await;
    assert!(operator.metric(DISCARDED).await > 0.0);
    reader.rest().await;
    let events = reader.events();
    assert_eq!(events.last().expect("events").data["code"], 3001);
    let got = |event: &RawEvent| event.number().filter(|n| *n > latest - 1);
    let numbers: Vec<u64> = events.iter().filter_map(got).collect();
    let mut stream =
        api.listen("topic:busy", events.iter().rev().find_map(|event| event.id.as_deref())).await;
    assert_eq!(stream.ready().await["recovered"], true);
    let after = numbers.last().map_or(latest, |last| last + 1);
    let missed = stream.take((durables - after) as usize).await;
    let missed = missed.iter().filter_map(|event| event.data["data"]["n"].as_u64());
    assert!(missed.eq(after..durables));
}

/// Narrow readers that have their `ready` and read nothing from then on.
async fn stopped_readers(server: &Server, count: usize, topics: &str) -> Vec<Raw> {
    let mut readers = Vec::with_capacity(count);
    while readers.len() < count {
        let open =
            async || Raw::connect_narrow(server.address(), TINY).await.listen(server.key(), topics).await;
        let some = (0..50.min(count - readers.len())).map(|_| open());
        readers.extend(futures_util::future::join_all(some).await);
    }
    readers
}

#[tokio::test]
async fn heavy_a_thousand_readers_that_stop_cost_no_more_than_their_queues_and_give_it_back() {
    const READERS: usize = 1000;
    let server = Server::start();
    let (api, operator) = (server.api(), operator(&server));
    let before = resident_bytes(server.pid());
    let mut kept = Vec::new();
    for wave in 1..=3 {
        let readers = stopped_readers(&server, READERS, "topic:busy").await;
        reaches(&operator, CONNECTIONS, READERS as f64).await;
        let connected = resident_bytes(server.pid());
        let mut most = connected;
        for part in 0..40 {
            publish_many(&api, "topic:busy", "durable", part * 50..(part + 1) * 50, 1024).await;
            most = most.max(resident_bytes(server.pid()));
        }
        reaches(&operator, CONNECTIONS, 0.0).await;
        assert_eq!(operator.metric(CUT).await, (wave * READERS) as f64);
        eventually("the sockets' end", async || readers.iter().step_by(100).all(Raw::is_over).then_some(()))
            .await;
        let peak = most.saturating_sub(connected);
        assert!(peak < READERS as u64 * 256 * 1024 + 32 * MIB, "{peak} bytes");
        kept.push(resident_bytes(server.pid()).saturating_sub(before));
        let idle = connected.saturating_sub(before);
        println!(
            "wave {wave}: {idle} bytes above the start when connected, {peak} more at most, {kept:?} kept"
        );
    }
    assert!(operator.metric(DISCARDED).await > 0.0);
    // what the allocator keeps serves the next: a wave of its own would be tens of megabytes more
    assert!(kept[2] < kept[0] + 16 * MIB, "{kept:?}");
}
