//! Whatever is published, only what makes sense enters the log; the rest is counted by its reason.

use std::collections::BTreeMap;

use super::{AT, end, listen_everywhere, on, publish_lines, start, until_end};
use crate::support::{Redis, Server, eventually};

/// What comes in place of a moment below.
const MOMENT: &str = "\"timestamp\":\"@\"";

/// Channel, message and reason; `@` is a moment, `~` stands for much.
const BAD: &[(&str, &str, &str)] = &[
    ("channel:ei:updates", "", "not_json"),
    ("channel:ei:updates", "SECRET", "not_json"),
    ("channel:ei:updates", "{", "not_json"),
    ("channel:ei:updates", "{} {}", "not_json"),
    ("channel:ei:updates", r#"{"fleet_id":"F",}"#, "not_json"),
    ("channel:ei:updates", r#"{"new_ei":NaN}"#, "not_json"),
    ("channel:ei:updates", r#"{"new_ei":01}"#, "not_json"),
    ("channel:events", r#"{'type':'x'}"#, "not_json"),
    ("channel:ei:updates", "[1]", "not_an_object"),
    ("channel:bid:status", "null", "not_an_object"),
    ("user-events", "5", "not_an_object"),
    ("channel:ei:updates", "{}", "missing_field"),
    ("channel:ei:updates", r#"{"fleet_id":"F","new_ei":1}"#, "missing_field"),
    ("channel:order:status", r#"{"order_id":"O","timestamp":"@"}"#, "missing_field"),
    ("channel:proposal:ranking", r#"{"ranked_proposals":[],"timestamp":"@"}"#, "missing_field"),
    ("channel:ei:updates", r#"{"fleet_id":"F","new_ei":"1","timestamp":"@"}"#, "invalid_number"),
    ("channel:ei:updates", r#"{"fleet_id":"F","new_ei":1e400,"timestamp":"@"}"#, "invalid_number"),
    ("channel:ei:updates", r#"{"fleet_id":"F","new_ei":-1,"timestamp":"@"}"#, "invalid_number"),
    ("channel:ei:updates", r#"{"fleet_id":"a b","new_ei":1,"timestamp":"@"}"#, "invalid_id"),
    ("channel:bid:status", r#"{"bid_id":{},"new_status":"x","timestamp":"@"}"#, "invalid_id"),
    ("channel:bid:a/b:proposal_ranking", r#"{"ranked_proposals":[],"timestamp":"@"}"#, "invalid_id"),
    ("channel:bid:status", r#"{"bid_id":"B","new_status":"x","timestamp":"soon"}"#, "invalid_time"),
    ("channel:bid:status", r#"{"bid_id":"B","new_status":5,"timestamp":"@"}"#, "invalid_field"),
    ("channel:bid:B:proposal_ranking", r#"{"ranked_proposals":{},"timestamp":"@"}"#, "invalid_field"),
    ("user-events", r#"{"userId":"u","eventType":"a","data":"x"}"#, "invalid_field"),
    ("user-events", r#"{"userId":"u","eventType":"a b"}"#, "invalid_name"),
    ("user-events", r#"{"userId":"u","eventType":"entity.created"}"#, "reserved_name"),
    ("channel:events", r#"{"type":"ready"}"#, "reserved_name"),
    ("channel:events", r#"{"type":"batch","events":"x"}"#, "invalid_field"),
    ("channel:events", r#"{"type":"x","a":~[~[0]}"#, "too_deep"),
    ("channel:events", r#"{"type":"x","a":"~a~"}"#, "too_large"),
];

/// As redis-cli reads an argument.
fn quoted(message: &str) -> String {
    let much = |times: usize, what: &str| what.repeat(times);
    let message =
        message.replace("~a~", &much(5000, "a")).replace("~[~[0]", &(much(70, "[") + &much(70, "]")));
    let message = message.replace('@', AT).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{message}\"")
}

#[tokio::test]
async fn bad_messages_are_counted_by_their_reason_and_harm_nothing() {
    assert!(BAD.len() >= 20 && BAD.iter().any(|(_, message, _)| message.contains(MOMENT)));
    let redis = Redis::start().await;
    let options = on(&redis, 2)
        .set("log.max_event_bytes", 4096)
        .set("log.max_message_bytes", 4096)
        .set("logging.format", "json");
    let server = start(&redis, options).await;
    let streams = listen_everywhere(&server, "fleet:F,bid:B,ranking:B,order:O,user:u,topic:events").await;
    for (channel, message, _) in BAD {
        publish_lines(&redis, channel, [quoted(message)].into_iter());
    }
    publish_lines(&redis, "channel:events", ["\"{\\\"type\\\":\\\"\\xff\\xfe\\\"}\"".to_owned()].into_iter());
    end(&redis);
    for mut stream in streams {
        assert_eq!(until_end(&mut stream).await, []);
    }
    let mut expected = BTreeMap::from([("not_json", 1.0)]);
    for (_, _, reason) in BAD {
        *expected.entry(*reason).or_default() += 1.0;
    }
    let operator = server.operator();
    for (reason, count) in &expected {
        let metric = format!("bongsu_ingest_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(operator.metric(&metric).await, *count, "{reason}");
    }
    assert_eq!(operator.metric("bongsu_ingested_total").await, 1.0);
    // said with its channel, once for each reason, and without what was in it
    let complaints = |said: &str| said.lines().filter(|line| line.contains("does not enter the log")).count();
    let said = eventually("every complaint in the log", async || {
        Some(server.stderr()).filter(|said| complaints(said) >= expected.len())
    })
    .await;
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("does not enter the log")).collect();
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("\"channel\":\"")), "{lines:?}");
    assert!(!said.contains("SECRET"));
}

#[tokio::test]
async fn a_cluster_that_redis_lets_neither_listen_nor_mirror_serves_all_the_same() {
    let redis = Redis::start().await;
    let limited = ["ACL", "SETUSER", "limited", "on", ">word", "~*", "+@all", "resetchannels", "&t*"];
    assert_eq!(redis.cli(&limited), "OK");
    let url = redis.url().replace("://", "://limited:word@");
    let server = Server::with(on(&redis, 1).set("redis.mirror", true).env("REDIS_URL", url));
    let mut stream = server.api().listen("fleet:F", None).await;
    stream.ready().await;
    for ei in [1.0, 2.0] {
        server.api().update_ei("F", ei).await;
        assert_eq!(stream.take(1).await[0].data["data"]["new_ei"].as_f64(), Some(ei));
    }
    assert_eq!(server.operator().metric("bongsu_mirror_refused_total").await, 2.0);
    eventually("the node to say that it may not listen", async || {
        server.stderr().contains("does not let this node hear").then_some(())
    })
    .await;
}
