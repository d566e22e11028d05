//! A jump of the node's clock changes what people read, and nothing else.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use crate::support::{Api, Server, ServerOptions, Sse, counted, eventually};

/// The library that the `faketime` program preloads.
pub(crate) fn library() -> PathBuf {
    let found = std::fs::read_dir("/usr/lib").expect("/usr/lib").filter_map(|entry| {
        let path = entry.ok()?.path().join("faketime/libfaketimeMT.so.1");
        path.exists().then_some(path)
    });
    found.into_iter().next().expect("faketime is installed")
}

/// Moves the server's wall clock away from the machine's by so many seconds.
fn set_clock(file: &Path, seconds: i64) {
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{seconds:+}\n")).expect("writable");
    std::fs::rename(&next, file).expect("writable");
}

/// The wall clock as the server's answers show it.
async fn wall(api: &Api) -> DateTime<Utc> {
    let updated = api.update_ei("FLT-CLOCK", 1.0).await;
    updated["timestamp"].as_str().expect("a timestamp").parse().expect("RFC 3339")
}

async fn heartbeats(stream: &mut Sse, mut count: usize) {
    while count > 0 {
        let event = stream.next().await.expect("the stream goes on");
        count -= usize::from(event.event == "heartbeat");
    }
}

fn split(position: &str) -> (&str, u64) {
    let (epoch, seq) = position.rsplit_once('-').expect("a position");
    (epoch, seq.parse().expect("a number"))
}

/// Jumps from the machine's time by `seconds` and looks at everything that depends on time.
async fn a_jump_by(seconds: i64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("clock");
    set_clock(&file, 0);
    let server = Server::with(
        ServerOptions::default()
            .env("LD_PRELOAD", library().display())
            .env("FAKETIME_TIMESTAMP_FILE", file.display())
            .env("FAKETIME_NO_CACHE", 1)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", 1)
            .env("DONT_FAKE_MONOTONIC", 1)
            .set("sessions.heartbeat_ms", 100)
            .set("log.retention_s", 60)
            .set("log.window_s", 60),
    );
    let api = server.api();
    let mut stream = api.listen("topic:clock", None).await;
    let cursor = stream.ready().await["position"].as_str().unwrap().to_owned();
    let before = wall(&api).await;
    let event = |ttl_s: u64| json!({"topic": "topic:clock", "type": "timed", "data": ttl_s, "ttl_s": ttl_s});
    for ttl_s in [600, 6000] {
        api.post("/v2/events", &event(ttl_s)).await.expect(202);
    }
    let once = || counted(&api, "topic:clock", 0, 0).header("Idempotency-Key", "once");
    let first = Api::send(once()).await.expect("an answer").expect(202);
    let wanted = json!({"path": "/v2/realtime/stream", "topics": ["topic:clock"]});
    let ticket = api.post("/v2/realtime/tickets", &wanted).await.expect(201);

    set_clock(&file, seconds);
    let jumped = wall(&api).await - before;
    let wanted = TimeDelta::seconds(seconds);
    assert!((jumped - wanted).abs() < TimeDelta::seconds(60), "the clock moved by {jumped}");

    // retention is looked after once a second
    heartbeats(&mut stream, 25).await;
    let again = Api::send(once()).await.expect("an answer").expect(202);
    assert_eq!(first, again);
    let mut replay = api.listen("topic:clock", Some(&cursor)).await;
    assert_eq!(replay.ready().await["recovered"], true);
    let names: Vec<_> = replay.replayed().await.into_iter().map(|event| event.event).collect();
    assert_eq!(names, ["timed", "timed", "counted"]);
    let secret = ticket["ticket"].as_str().expect("a ticket");
    let path = format!("/v2/realtime/stream?topics=topic:clock&ticket={secret}");
    api.anonymous().stream(&path, None).await.ready().await;
    let next = api.publish("topic:clock", "after", 0.into()).await;
    let (epoch, seq) = split(&next);
    let (epoch_before, seq_before) = split(first["position"].as_str().expect("a position"));
    assert_eq!(epoch, epoch_before);
    // between them: one update that showed the jumped clock
    assert_eq!(seq, seq_before + 2);
    eventually("the live event", async || {
        let event = stream.next().await.expect("the stream goes on");
        (event.event == "after").then_some(())
    })
    .await;
    assert_eq!(api.get("/ready").await.status, 200);
}

#[tokio::test]
async fn a_clock_that_jumps_an_hour_ahead_expires_and_trims_nothing() {
    a_jump_by(3600).await;
}

#[tokio::test]
async fn a_clock_that_jumps_an_hour_back_stops_nothing() {
    a_jump_by(-3600).await;
}
