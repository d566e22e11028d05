//! Services that publish on Redis themselves, and those that listen there.

mod bad_messages;
mod consumer_group;
mod hand_over;
mod ingest;
mod mirror;

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Redis, Server, ServerOptions, Sse, SseEvent, eventually};

/// A moment as other services write it.
const AT: &str = "2024-05-01T01:00:00.000Z";

/// Nodes on this Redis, which is the test's own: channels of other services have no prefix.
fn on(redis: &Redis, nodes: usize) -> ServerOptions {
    ServerOptions::default().cluster(nodes).env("REDIS_URL", redis.url())
}

/// Waits until so many clusters take in what is published.
async fn is_heard_by(redis: &Redis, clusters: usize) {
    let wanted = format!("channel:ei:updates\n{clusters}");
    eventually("somebody to hear the channels", async || {
        (redis.cli(&["PUBSUB", "NUMSUB", "channel:ei:updates"]) == wanted).then_some(())
    })
    .await;
}

async fn start(redis: &Redis, options: ServerOptions) -> Server {
    let server = Server::with(options);
    is_heard_by(redis, 1).await;
    server
}

/// A plain `redis-cli PUBLISH`.
fn publish(redis: &Redis, channel: &str, message: &Value) {
    publish_text(redis, channel, &message.to_string());
}

fn publish_text(redis: &Redis, channel: &str, message: &str) {
    assert_eq!(redis.cli(&["PUBLISH", channel, message]), "1", "{channel}");
}

/// Many of them over one connection; `messages` as redis-cli reads them from a file.
fn publish_lines(redis: &Redis, channel: &str, messages: impl Iterator<Item = String>) {
    let mut cli = Command::new("redis-cli")
        .args(["-u", &redis.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli runs");
    let mut input = cli.stdin.take().expect("piped");
    let lines: String = messages.map(|message| format!("PUBLISH {channel} {message}\n")).collect();
    let count = lines.lines().count();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = cli.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it reads");
    let heard = String::from_utf8_lossy(&output.stdout).lines().filter(|line| *line == "1").count();
    assert_eq!(heard, count, "{}", String::from_utf8_lossy(&output.stdout));
}

/// Streams of every node on these topics, with a key that may hear all of them.
async fn listen_everywhere(server: &Server, topics: &str) -> Vec<Sse> {
    let (_, api) = server.new_key(&["--scopes", "subscribe,admin"]);
    let mut streams = Vec::new();
    for node in 0..server.count() {
        let mut stream = api.at(node).listen(topics, None).await;
        stream.ready().await;
        streams.push(stream);
    }
    streams
}

/// Everything up to the event called `end`, which is published on `channel:events`: name and topic, and data.
async fn until_end(stream: &mut Sse) -> Vec<(String, Value)> {
    let mut seen = Vec::new();
    loop {
        let event: SseEvent = stream.take(1).await.remove(0);
        if event.event == "end" {
            return seen;
        }
        let topic = event.data["topic"].as_str().expect("a topic");
        seen.push((format!("{} {topic}", event.event), event.data["data"].clone()));
    }
}

fn end(redis: &Redis) {
    publish(redis, "channel:events", &json!({"type": "end"}));
}
