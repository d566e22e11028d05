//! The log as a plain stream of Redis, read by a consumer group in another language: `examples/consumer_group.py`.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::on;
use crate::support::{Api, Program, Redis, Server, eventually, in_package};

struct Files {
    redis: Redis,
    directory: TempDir,
}

impl Files {
    fn out(&self) -> std::path::PathBuf {
        self.directory.path().join("events.jsonl")
    }

    fn consumer(&self) -> Program {
        let script = in_package("examples/consumer_group.py");
        let (script, out, url) = (script.to_str().expect("UTF-8"), self.out(), self.redis.url());
        let out = out.to_str().expect("UTF-8");
        let words = [script, "--url", &url, "--prefix", "group:", "--group", "reports", "--out", out];
        Program::start("/usr/bin/python3", &words, &[])
    }

    /// The numbers of the events in the file, which have the epoch of the last one.
    fn numbers(&self) -> Vec<u64> {
        numbers(&self.out())
    }

    async fn has(&self, last: u64) {
        eventually("the file to hold the last event", async || {
            (self.numbers().last() == Some(&last)).then_some(())
        })
        .await;
    }
}

fn numbers(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let number = |line: &str| {
        let event: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&event["event"], &event["topic"]), (&json!("tick"), &json!("topic:ticks")), "{line}");
        event["data"]["n"].as_u64().expect("a number")
    };
    whole.lines().map(number).collect()
}

async fn publish(api: &Api, numbers: std::ops::Range<u64>) {
    let event = |n: u64| json!({"topic": "topic:ticks", "type": "tick", "data": {"n": n}});
    let events: Vec<Value> = numbers.map(event).collect();
    api.post("/v2/events/batch", &json!({"events": events})).await.expect(202);
}

async fn reading(consumer: &mut Program) -> u64 {
    consumer.find(|line| serde_json::from_str::<Value>(line).expect("JSON")["reading"].as_u64()).await
}

#[tokio::test]
async fn a_consumer_group_gets_every_event_once_and_in_order_over_kills_and_a_new_epoch() {
    let mut files =
        Files { redis: Redis::start().await, directory: tempfile::tempdir().expect("a directory") };
    let server = Server::with(on(&files.redis, 2).set("redis.prefix", "group:").set("redis.ingest", false));
    let api = server.api();
    // from the beginning of the log, and killed in the middle of its work
    publish(&api, 0..1000).await;
    let consumer = files.consumer();
    eventually("its first work", async || (files.numbers().len() >= 100).then_some(())).await;
    drop(consumer);
    let done = files.numbers().len();
    assert!(done < 1000, "it was through before it was killed");
    publish(&api, 1000..1500).await;
    let mut consumer = files.consumer();
    files.has(1499).await;
    assert_eq!(files.numbers(), (0..1500).collect::<Vec<_>>());
    // killed with events that it was given and has not looked at
    let pid = reading(&mut consumer).await.to_string();
    let status = std::process::Command::new("kill").args(["-STOP", &pid]).status();
    assert!(status.expect("kill runs").success());
    publish(&api, 1500..1520).await;
    let pending = files.redis.cli(&["XPENDING", "group:{default}:log", "reports"]);
    assert_ne!(pending.lines().next(), Some("0"), "{pending}");
    drop(consumer);
    let mut consumer = files.consumer();
    files.has(1519).await;
    assert_eq!(files.numbers(), (0..1520).collect::<Vec<_>>());
    reading(&mut consumer).await;
    // the log starts afresh, and the group with it
    files.redis.kill();
    files.redis.restart().await;
    let one = json!({"topic": "topic:ticks", "type": "tick", "data": {"n": 1520}});
    let api = api.at(0);
    eventually("the log to be there again", async || {
        (api.post_once("/v2/events", &one, "first").await.status == 202).then_some(())
    })
    .await;
    publish(&api, 1521..1600).await;
    files.has(1599).await;
    assert_eq!(files.numbers(), (0..1600).collect::<Vec<_>>());
    let entry = files.redis.cli(&["XRANGE", "group:{default}:log", "-", "+", "COUNT", "1"]);
    let fields: Vec<&str> = entry.lines().collect();
    assert_eq!((fields[1], fields[3]), ("data", "timestamp"), "{entry}");
}
