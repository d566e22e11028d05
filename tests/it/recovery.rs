//! The recovery matrix: what a client is told, and gets, for every cursor that it may come back with.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::client::{seq, with_seq};
use crate::support::{
    Api, Burst, Client, Event, Frame, Outsider, Server, ServerOptions, Transport, eventually,
    on_every_transport, on_every_transport_of_both_backends,
};

/// Every outcome that `bongsu_recoveries_total` counts.
const OUTCOMES: [&str; 7] = ["fresh", "current", "replayed", "epoch_changed", "evicted", "ahead", "invalid"];

/// Checks every outcome's count; those not named are 0. A poller comes back with each poll, so the
/// numbers of those that recovered are at least as named.
async fn assert_outcomes(transport: Transport, operator: &Api, expected: &[(&str, f64)]) {
    let expected = |outcome: &str| -> f64 {
        expected.iter().filter(|(own, _)| *own == outcome).map(|(_, count)| count).sum()
    };
    let (mut recovered, mut least) = (0.0, 0.0);
    for outcome in OUTCOMES {
        let name = format!("bongsu_recoveries_total{{outcome=\"{outcome}\"}}");
        let (count, expected) = (operator.metric(&name).await, expected(outcome));
        if transport == Transport::Poll && ["current", "replayed"].contains(&outcome) {
            (recovered, least) = (recovered + count, least + expected);
        } else {
            assert_eq!(count, expected, "{outcome}");
        }
    }
    assert!(recovered >= least, "{recovered} of {least} recovered");
}

/// Publishes durable events `{"n": …}` in one batch; the position of each.
async fn post_all(api: &Api, events: impl IntoIterator<Item = (String, u64)>) -> Vec<String> {
    let events: Vec<Value> = events
        .into_iter()
        .map(|(topic, n)| json!({"topic": topic, "type": "tick", "data": {"n": n}}))
        .collect();
    let answer = api.post("/v2/events/batch", &json!({"events": events})).await.expect(202);
    let results = answer["results"].as_array().expect("results");
    let positions = results.iter().map(|item| item["position"].as_str().expect("a position").to_owned());
    positions.collect()
}

/// The same, and waits until every node that has the log knows them.
async fn publish_all(
    (api, operator): (&Api, &Api),
    events: impl IntoIterator<Item = (String, u64)>,
) -> Vec<String> {
    let positions = post_all(api, events).await;
    let last = positions.last().map_or(0, |last| seq(last)) as f64;
    for node in operator.everywhere() {
        eventually("what was published to be known", async || {
            let head = node.metric("bongsu_log_head{tenant=\"default\"}").await;
            (head == 0.0 || head >= last).then_some(())
        })
        .await;
    }
    positions
}

async fn publish_on(apis: (&Api, &Api), topic: &str, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    publish_all(apis, numbers.into_iter().map(|n| (topic.to_owned(), n))).await
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.data["n"].as_u64().expect("a number")).collect()
}

/// Resumes where a replay follows; the connection and what it missed.
async fn resume(transport: Transport, api: &Api, topics: &str, cursor: &str) -> (Client, Vec<Event>) {
    let (mut client, ready) = Client::over(transport, api, topics, Some(cursor)).await;
    assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(true), &Value::Null));
    assert_eq!(ready["position"], cursor, "the own cursor when a replay follows");
    let missed = client.replay().await;
    let ids: Vec<u64> = missed.iter().map(|event| seq(event.id.as_deref().expect("an id"))).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    assert!(ids.first().is_none_or(|first| *first > seq(cursor)));
    (client, missed)
}

/// Comes back with a cursor that is of no use: told why, given nothing of the past, live from the head.
async fn must_reload(transport: Transport, api: &Api, topic: &str, cursor: &str, reason: &str) {
    let (mut client, ready) = Client::over(transport, api, topic, Some(cursor)).await;
    assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(false), &json!(reason)), "{cursor}");
    let live = api.publish(topic, "tick", json!({"n": 4_000_000})).await;
    assert_eq!(seq(&live), seq(ready["position"].as_str().expect("a position")) + 1, "live from the head");
    match client.next().await {
        Some(Frame::Event(event)) => assert_eq!(event.id, Some(live)),
        other => panic!("nothing of the past is replayed, got {other:?}"),
    }
}

on_every_transport_of_both_backends! {
    without_a_cursor_a_client_starts_at_the_head,
    the_head_as_cursor_is_recovered_without_a_replay,
    a_client_behind_within_the_window_is_answered_from_memory,
    a_client_behind_beyond_the_window_is_answered_from_the_log,
    the_position_before_the_first_event_replays_the_whole_log,
    a_restart_keeps_every_cursor_good,
    a_client_whose_own_topic_was_trimmed_must_reload,
    a_client_of_whose_topics_nothing_was_trimmed_recovers_from_any_age,
    a_new_epoch_invalidates_every_cursor_and_only_once,
    a_cursor_beyond_the_top_of_the_log_is_ahead,
    a_cursor_that_cannot_be_read_is_told_in_band,
    one_cursor_resumes_a_connection_with_many_topics,
    reconnecting_again_and_again_amid_publishing_misses_and_repeats_nothing,
    heartbeats_keep_a_quiet_client_in_the_log_of_a_busy_tenant,
}

on_every_transport! {
    a_restored_backup_of_the_database_starts_a_new_epoch,
    a_missing_head_file_beside_a_log_starts_a_new_epoch,
}

fn small_window() -> ServerOptions {
    ServerOptions::default().set("log.window_count", 16)
}

/// Keeps 100 events, which three heartbeats at one event a second do not exceed.
fn small_log() -> ServerOptions {
    ServerOptions::default()
        .set("log.retention_count", 100)
        .set("log.peak_rate_per_s", 1)
        .set("sessions.heartbeat_ms", 100)
}

async fn trimmed(operator: &Api, at_least: f64) {
    eventually("the log is trimmed", async || {
        (operator.metric("bongsu_log_trimmed_total").await >= at_least).then_some(())
    })
    .await;
}

async fn without_a_cursor_a_client_starts_at_the_head(transport: Transport) {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..5).await;
    let (mut client, ready) = Client::over(transport, &api, "topic:a", None).await;
    assert_eq!((&ready["recovered"], &ready["reason"]), (&Value::Null, &Value::Null));
    assert_eq!(ready["position"], past[4].as_str());
    publish_on((&api, &operator), "topic:a", [5]).await;
    assert_eq!(client.event().await.data, json!({"n": 5}));
    assert_outcomes(transport, &operator, &[("fresh", 1.0)]).await;
}

async fn the_head_as_cursor_is_recovered_without_a_replay(transport: Transport) {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..5).await;
    let (mut client, ready) = Client::over(transport, &api, "topic:a", Some(&past[4])).await;
    assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(true), &Value::Null));
    assert_eq!(ready["position"], past[4].as_str());
    publish_on((&api, &operator), "topic:a", [5]).await;
    assert_eq!(client.event().await.data, json!({"n": 5}));
    assert_outcomes(transport, &operator, &[("current", 1.0)]).await;
}

async fn a_client_behind_within_the_window_is_answered_from_memory(transport: Transport) {
    let server = Server::with(small_window());
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..100).await;
    let (mut client, missed) = resume(transport, &api, "topic:a", &past[89]).await;
    assert_eq!(numbers(&missed), (90..100).collect::<Vec<_>>());
    assert_eq!(operator.metric("bongsu_events_replayed_total").await, 10.0);
    publish_on((&api, &operator), "topic:a", [100]).await;
    assert_eq!(client.event().await.data, json!({"n": 100}));
    assert_outcomes(transport, &operator, &[("replayed", 1.0)]).await;
    assert_eq!(operator.metric("bongsu_log_store_reads_total").await, 0.0);
}

async fn a_client_behind_beyond_the_window_is_answered_from_the_log(transport: Transport) {
    let server = Server::with(small_window());
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..600).await;
    let mut former = None;
    for from in [0, 300, 583, 584] {
        let (mut client, missed) = resume(transport, &api, "topic:a,topic:live", &past[from]).await;
        let replayed: Vec<Event> = missed.into_iter().filter(|event| event.topic == "topic:a").collect();
        assert_eq!(numbers(&replayed), (from as u64 + 1..600).collect::<Vec<_>>());
        publish_on((&api, &operator), "topic:live", [from as u64]).await;
        let mut live = client.event().await;
        if former.is_some_and(|former: usize| live.data == json!({"n": former})) {
            // it had not reached this node when the replay ended there
            live = client.event().await;
        }
        assert_eq!(live.data, json!({"n": from}));
        former = Some(from);
    }
    assert!(operator.metric("bongsu_log_store_reads_total").await >= 3.0);
    assert_outcomes(transport, &operator, &[("replayed", 4.0)]).await;
}

async fn the_position_before_the_first_event_replays_the_whole_log(transport: Transport) {
    let server = Server::with(small_window());
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..50).await;
    let (_, missed) = resume(transport, &api, "topic:a", &with_seq(&past[0], 0)).await;
    assert_eq!(numbers(&missed), (0..50).collect::<Vec<_>>());
    assert_outcomes(transport, &operator, &[("replayed", 1.0)]).await;
}

async fn a_restart_keeps_every_cursor_good(transport: Transport) {
    let mut server = Server::with(small_window());
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..60).await;
    server.kill();
    server.restart(|options| options);
    for from in [0, 30, 55] {
        let (_, missed) = resume(transport, &api, "topic:a", &past[from]).await;
        assert_eq!(numbers(&missed), (from as u64 + 1..60).collect::<Vec<_>>());
    }
    let (_, ready) = Client::over(transport, &api, "topic:a", Some(&past[59])).await;
    assert_eq!(ready["recovered"], true);
    assert_outcomes(transport, &operator, &[("replayed", 3.0), ("current", 1.0)]).await;
}

#[tokio::test]
async fn after_a_restart_an_old_log_is_replayed_however_steadily_others_publish() {
    let mut server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let cursor = api.publish("topic:a", "tick", json!({"n": 0})).await;
    for batch in 0..5 {
        publish_on((&api, &operator), "topic:b", batch * 1000..(batch + 1) * 1000).await;
    }
    publish_on((&api, &operator), "topic:a", [1]).await;
    server.kill();
    // older than the window keeps events, younger than the log does
    Outsider::open(server.data_dir()).run("UPDATE log_entries SET at_us = at_us - 7200000000");
    server.restart(|options| options);
    let burst = Burst::start(&api, "topic:c", 2);
    burst.reaches(20).await;
    let (_, missed) = resume(Transport::Sse, &api, "topic:a", &cursor).await;
    assert_eq!(numbers(&missed), [1]);
    assert!(operator.metric("bongsu_log_store_reads_total").await >= 1.0);
    server.kill();
    burst.cut().await;
}

async fn a_client_whose_own_topic_was_trimmed_must_reload(transport: Transport) {
    let mut server = Server::with(small_log().set("log.window_count", 16));
    let (api, operator) = (server.api(), server.operator());
    let first = publish_on((&api, &operator), "topic:a", 0..190).await;
    trimmed(&operator, 90.0).await;
    let past = [first, publish_on((&api, &operator), "topic:a", 190..250).await].concat();
    trimmed(&operator, 150.0).await;
    must_reload(transport, &api, "topic:a", &past[0], "evicted").await;
    must_reload(transport, &api, "topic:a", &past[148], "evicted").await;
    let (_, missed) = resume(transport, &api, "topic:a", &past[200]).await;
    assert_eq!(missed.len(), 49 + 2);
    assert_outcomes(transport, &operator, &[("evicted", 2.0), ("replayed", 1.0)]).await;
    server.kill();
    server.restart(|options| options);
    must_reload(transport, &api, "topic:a", &past[0], "evicted").await;
    assert_outcomes(transport, &operator, &[("evicted", 1.0)]).await;
}

async fn a_client_of_whose_topics_nothing_was_trimmed_recovers_from_any_age(transport: Transport) {
    let mut server = Server::with(small_log().set("log.window_count", 16));
    let (api, operator) = (server.api(), server.operator());
    let mine = publish_on((&api, &operator), "topic:mine", [0]).await;
    publish_on((&api, &operator), "topic:other", 0..190).await;
    trimmed(&operator, 91.0).await;
    publish_on((&api, &operator), "topic:other", 190..250).await;
    trimmed(&operator, 151.0).await;
    publish_on((&api, &operator), "topic:mine", [1]).await;
    let (_, missed) = resume(transport, &api, "topic:mine", &mine[0]).await;
    assert_eq!(numbers(&missed), [1]);
    // never seen at all: nothing of it can have gone
    let (_, missed) = resume(transport, &api, "topic:silent", &with_seq(&mine[0], 0)).await;
    assert!(missed.is_empty());
    let (_, ready) = Client::over(transport, &api, "topic:mine,topic:other", Some(&mine[0])).await;
    assert_eq!(
        (&ready["recovered"], &ready["reason"]),
        (&json!(false), &json!("evicted")),
        "one trimmed topic is enough"
    );
    assert_outcomes(transport, &operator, &[("evicted", 1.0), ("replayed", 2.0)]).await;
    server.kill();
    server.restart(|options| options);
    let (_, missed) = resume(transport, &api, "topic:mine", &mine[0]).await;
    assert_eq!(numbers(&missed), [1]);
    assert_outcomes(transport, &operator, &[("replayed", 1.0)]).await;
}

async fn a_new_epoch_invalidates_every_cursor_and_only_once(transport: Transport) {
    let mut server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..5).await;
    server.renew_logs();
    must_reload(transport, &api, "topic:a", &past[4], "epoch_changed").await;
    must_reload(transport, &api, "topic:a", &with_seq(&past[4], 0), "epoch_changed").await;
    assert_outcomes(transport, &operator, &[("epoch_changed", 2.0)]).await;
    let fresh = publish_on((&api, &operator), "topic:a", [7]).await;
    assert_ne!(fresh[0].split('-').next(), past[0].split('-').next());
    server.kill();
    server.restart(|options| options);
    let (_, ready) = Client::over(transport, &api, "topic:a", Some(&fresh[0])).await;
    assert_eq!(ready["recovered"], true);
    assert_outcomes(transport, &operator, &[("current", 1.0)]).await;
}

async fn a_cursor_beyond_the_top_of_the_log_is_ahead(transport: Transport) {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..5).await;
    must_reload(transport, &api, "topic:a", &with_seq(&past[4], 1000), "ahead").await;
    must_reload(transport, &api, "topic:a", &with_seq(&past[4], u64::MAX), "ahead").await;
    assert_outcomes(transport, &operator, &[("ahead", 2.0)]).await;
}

async fn a_cursor_that_cannot_be_read_is_told_in_band(transport: Transport) {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..5).await;
    let epoch = past[0].split('-').next().unwrap();
    // nothing is no cursor
    let (_, ready) = Client::over(transport, &api, "topic:a", Some("")).await;
    assert_eq!(ready["recovered"], Value::Null);
    let garbage = [
        "1732400000000".to_owned(),
        "garbage".to_owned(),
        "-".to_owned(),
        "0".to_owned(),
        "null".to_owned(),
        epoch.to_owned(),
        format!("{epoch}-"),
        format!("{epoch}--1"),
        format!("{epoch}-01"),
        format!("{epoch}-1x"),
        format!("{epoch}-+1"),
        format!("{epoch}-1-1"),
        format!("{}-1", &epoch[1..]),
        format!("{epoch}0-1"),
        format!("{epoch}-18446744073709551616"),
        format!("{}-1", "G".repeat(16)),
        "x".repeat(3000),
    ];
    for cursor in &garbage {
        must_reload(transport, &api, "topic:a", cursor, "invalid").await;
    }
    assert_outcomes(transport, &operator, &[("fresh", 1.0), ("invalid", garbage.len() as f64)]).await;
}

#[tokio::test]
async fn a_stream_is_told_of_a_cursor_that_cannot_be_read_wherever_it_comes_from() {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..1).await;
    for cursor in ["garbage", "-", "null", &format!("{}x", past[0]), &"x".repeat(3000)] {
        let mut stream =
            api.stream(&format!("/v2/realtime/stream?topics=topic:a&cursor={cursor}"), None).await;
        let ready = stream.ready().await;
        assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(false), &json!("invalid")));
    }
    let header = reqwest::header::HeaderValue::from_bytes(b"\xff\xfe").expect("opaque bytes");
    let request = api.request("GET", "/v2/realtime/stream?topics=topic:a").header("Last-Event-ID", header);
    let ready = crate::support::Sse::open(request).await.ready().await;
    assert_eq!(ready["reason"], "invalid");
    assert_outcomes(Transport::Sse, &operator, &[("invalid", 6.0)]).await;
}

#[tokio::test]
async fn the_last_event_id_beats_the_cursor_parameter() {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..5).await;
    let path = |cursor: &str| format!("/v2/realtime/stream?topics=topic:a&cursor={cursor}");
    // a browser keeps the URL of its first connection and sends where it got to in the header
    let mut stream = api.stream(&path(&past[0]), Some(&past[3])).await;
    assert_eq!(stream.ready().await["position"], past[3].as_str());
    assert_eq!(stream.replayed().await.len(), 1);
    let mut stream = api.stream(&path("garbage"), Some(&past[2])).await;
    assert_eq!(stream.ready().await["recovered"], true);
    let mut stream = api.stream(&path(&past[0]), Some("garbage")).await;
    assert_eq!(stream.ready().await["reason"], "invalid");
    let mut stream = api.stream(&path(&past[1]), None).await;
    assert_eq!(stream.ready().await["position"], past[1].as_str());
    assert_eq!(stream.replayed().await.len(), 3);
    let mut stream = api.stream(&path(&past[1]), Some("")).await;
    assert_eq!(stream.ready().await["position"], past[1].as_str(), "an empty header is none");
    assert_outcomes(Transport::Sse, &operator, &[("replayed", 4.0), ("invalid", 1.0)]).await;
}

fn database_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bongsu.db")))
        .collect()
}

fn copy_database(from: &Path, to: &Path) {
    for old in database_files(to) {
        std::fs::remove_file(old).expect("removable");
    }
    let files = database_files(from);
    assert!(!files.is_empty());
    for file in files {
        std::fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copied");
    }
}

async fn a_restored_backup_of_the_database_starts_a_new_epoch(transport: Transport) {
    let backup = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let before = publish_on((&api, &operator), "topic:a", 0..5).await;
    server.kill();
    copy_database(server.data_dir(), backup.path());
    server.restart(|options| options);
    let after = publish_on((&api, &operator), "topic:a", 5..8).await;
    let (_, ready) = Client::over(transport, &api, "topic:a", Some(&after[2])).await;
    assert_eq!(ready["recovered"], true, "a stop alone changes nothing");
    server.kill();
    copy_database(backup.path(), server.data_dir());
    server.restart(|options| options);
    must_reload(transport, &api, "topic:a", &after[2], "epoch_changed").await;
    must_reload(transport, &api, "topic:a", &before[0], "epoch_changed").await;
    assert_outcomes(transport, &operator, &[("epoch_changed", 2.0)]).await;
    assert!(server.stderr().contains("restored backup"));
}

#[tokio::test]
async fn a_backup_from_before_the_first_event_starts_a_new_epoch() {
    let backup = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    // the tenant's epoch is stored with it, and no commit
    Client::connect(&api, "topic:a", None).await;
    server.kill();
    copy_database(server.data_dir(), backup.path());
    server.restart(|options| options);
    let known = publish_on((&api, &operator), "topic:a", 0..5).await;
    server.kill();
    copy_database(backup.path(), server.data_dir());
    server.restart(|options| options);
    let new = publish_on((&api, &operator), "topic:a", 5..12).await;
    assert!(new.iter().all(|position| !known.contains(position)), "known numbers were given to new events");
    must_reload(Transport::Sse, &api, "topic:a", &known[4], "epoch_changed").await;
    assert!(server.stderr().contains("restored backup"));
}

async fn a_missing_head_file_beside_a_log_starts_a_new_epoch(transport: Transport) {
    let mut server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..5).await;
    server.kill();
    std::fs::remove_file(server.data_dir().join("log.head")).expect("the file is there");
    server.restart(|options| options);
    must_reload(transport, &api, "topic:a", &past[4], "epoch_changed").await;
    assert_outcomes(transport, &operator, &[("epoch_changed", 1.0)]).await;
}

async fn one_cursor_resumes_a_connection_with_many_topics(transport: Transport) {
    let server = Server::with(small_window());
    let (api, operator) = (server.api(), server.operator());
    let topic = |n: u64| format!("topic:t{}", n % 128);
    let past = publish_all((&api, &operator), (0..640).map(|n| (topic(n), n))).await;
    let even: Vec<String> = (0..128).step_by(2).map(topic).collect();
    let (mut client, missed) = resume(transport, &api, &even.join(","), &past[99]).await;
    let expected: Vec<u64> = (100..640).filter(|n| n % 2 == 0).collect();
    assert_eq!(numbers(&missed), expected);
    assert!(missed.iter().all(|event| event.topic == topic(event.data["n"].as_u64().unwrap())));
    publish_all((&api, &operator), (640..650).map(|n| (topic(n), n))).await;
    for n in [640, 642, 644, 646, 648] {
        assert_eq!(client.event().await.data, json!({"n": n}));
    }
    assert_outcomes(transport, &operator, &[("replayed", 1.0)]).await;
}

async fn reconnecting_again_and_again_amid_publishing_misses_and_repeats_nothing(transport: Transport) {
    const LAST: u64 = 1200;
    let server = Server::with(small_window());
    let (api, operator) = (server.api(), server.operator());
    let (mut client, ready) = Client::over(transport, &api, "topic:a,topic:b", None).await;
    let publisher = api.clone();
    let publishing = tokio::spawn(async move {
        let topics = ["topic:a", "topic:noise", "topic:b"];
        let mut n = 0;
        while n < LAST {
            let size = 1 + n % 7;
            let batch = (n..(n + size).min(LAST)).map(|n| (topics[n as usize % 3].to_owned(), n));
            post_all(&publisher, batch).await;
            n += size;
        }
    });
    let expected: Vec<u64> = (0..LAST).filter(|n| n % 3 != 1).collect();
    let mut seen = Vec::new();
    let mut ids = vec![seq(ready["position"].as_str().unwrap())];
    let mut reconnects = 0;
    while seen.len() < expected.len() {
        for _ in 0..(1 + seen.len() % 23).min(expected.len() - seen.len()) {
            let event = client.event().await;
            seen.push(event.data["n"].as_u64().unwrap());
            ids.push(seq(&event.id.expect("an id")));
        }
        let cursor = client.cursor().expect("an id").to_owned();
        let ready;
        (client, ready) = Client::over(transport, &api, "topic:a,topic:b", Some(&cursor)).await;
        assert_eq!(ready["recovered"], true);
        reconnects += 1;
    }
    publishing.await.expect("published");
    assert_eq!(seen, expected);
    assert!(ids.is_sorted_by(|a, b| a < b));
    assert!(reconnects > 20);
    let replayed = operator.metric("bongsu_recoveries_total{outcome=\"replayed\"}").await;
    let current = operator.metric("bongsu_recoveries_total{outcome=\"current\"}").await;
    assert!(transport == Transport::Poll || replayed + current == f64::from(reconnects));
    assert_outcomes(transport, &operator, &[("fresh", 1.0), ("replayed", replayed), ("current", current)])
        .await;
}

async fn heartbeats_keep_a_quiet_client_in_the_log_of_a_busy_tenant(transport: Transport) {
    // more topics than have a floor of their own, so that the log forgets whose events went
    let server = Server::with(small_log().set("log.max_trim_floors", 16).set("log.window_count", 128));
    let (api, operator) = (server.api(), server.operator());
    let (mut client, ready) = Client::over(transport, &api, "topic:quiet", None).await;
    let first = ready["position"].as_str().expect("a position").to_owned();
    let mut n = 0;
    let mut gone = 0.0;
    let mut cursor = first.clone();
    let mut quiet_frame = async || match client.next().await {
        Some(Frame::Heartbeat(position)) => {
            assert!(seq(&position) >= seq(&cursor), "a cursor never goes back");
            cursor = position;
            seq(&cursor)
        }
        other => panic!("only heartbeats come, not {other:?}"),
    };
    while gone < 400.0 {
        publish_all((&api, &operator), (n..n + 100).map(|n| (format!("topic:busy{}", n % 40), n))).await;
        n += 100;
        quiet_frame().await;
        gone = operator.metric("bongsu_log_trimmed_total").await;
    }
    while quiet_frame().await < n {}
    drop(client);
    let live = publish_on((&api, &operator), "topic:quiet", [7]).await;
    let (_, missed) = resume(transport, &api, "topic:quiet", &cursor).await;
    assert_eq!(missed.iter().map(|event| event.id.clone()).collect::<Vec<_>>(), [Some(live[0].clone())]);
    assert_outcomes(transport, &operator, &[("fresh", 1.0), ("replayed", 1.0)]).await;
    // without heartbeats it would have fallen out
    must_reload(transport, &api, "topic:quiet", &first, "evicted").await;
}

#[tokio::test]
async fn control_frames_say_what_they_are_specified_to_say() {
    let server = Server::with(
        ServerOptions::default()
            .set("sessions.heartbeat_ms", 150)
            .set("sessions.sweep_ms", 20)
            .set("sessions.retry_ms", 1234)
            .set("sessions.max_topics", 7)
            .env("SERVER_ID", "node-7"),
    );
    let (api, operator) = (server.api(), server.operator());
    let past = publish_on((&api, &operator), "topic:a", 0..3).await;
    let mut stream = api.listen("topic:a,tenant", Some(&past[0])).await;
    for (name, value) in [("cache-control", "no-cache, no-transform"), ("x-accel-buffering", "no")] {
        assert_eq!(stream.headers[name], value);
    }
    assert!(!stream.headers.contains_key("content-encoding"));
    let ready = stream.expect("ready").await;
    assert_eq!(stream.retry_ms, Some(1234));
    assert_eq!(ready.id.as_deref(), Some(past[0].as_str()));
    let connection_id = ready.data["connection_id"].as_str().expect("an id").to_owned();
    assert_eq!(
        ready.data,
        json!({
            "connection_id": connection_id, "server_id": "node-7", "tenant_id": "default", "user_id": null,
            "topics": ["topic:a", "tenant"], "heartbeat_ms": 150, "position": past[0],
            "recovered": true, "reason": null,
            "max_frame_bytes": 1_048_576, "max_message_bytes": 1_048_576, "max_topics": 7,
        })
    );
    let event = stream.expect("tick").await;
    let ts = event.data["ts"].as_str().expect("a time").to_owned();
    assert_eq!(
        event.data,
        json!({"event": "tick", "topic": "topic:a", "id": past[1], "ts": ts, "data": {"n": 1}})
    );
    assert_eq!(event.id.as_deref(), Some(past[1].as_str()));
    stream.expect("tick").await;
    let position = stream.expect("position").await;
    assert_eq!(
        (position.id.as_deref(), position.data),
        (Some(past[2].as_str()), json!({"position": past[2]}))
    );
    let heartbeat = stream.expect("heartbeat").await;
    let time = heartbeat.data["timestamp"].as_str().expect("a time").to_owned();
    assert_eq!(heartbeat.data, json!({"type": "heartbeat", "timestamp": time}));
    assert_eq!(heartbeat.id.as_deref(), Some(past[2].as_str()));
    for time in [&ts, &time] {
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    }
    let other = api.listen("topic:a", None).await.ready().await;
    assert_ne!(other["connection_id"], connection_id.as_str());
}
