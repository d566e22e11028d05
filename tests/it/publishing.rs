//! Publishing over HTTP: what is taken, what is refused and how, and what listeners get of it.

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::client::seq;
use crate::support::{Answer, Api, Client, PATIENCE, Server, ServerOptions, eventually};

fn tick(topic: &str, n: u64) -> Value {
    json!({"topic": topic, "type": "tick", "data": {"n": n}})
}

fn with(mut event: Value, field: &str, value: impl Into<Value>) -> Value {
    event[field] = value.into();
    event
}

/// The fields that a problem names.
fn fields(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let errors = body["errors"].as_array().expect("errors");
    errors.iter().map(|error| error["field"].as_str().expect("a field").to_owned()).collect()
}

/// Publishes what has to be refused; the fields named.
async fn refused(api: &Api, event: &Value, status: u16) -> Vec<String> {
    let answer = api.post("/v2/events", event).await;
    let fields = fields(&answer);
    answer.problem(status);
    fields
}

async fn head(api: &Api) -> String {
    let (_, ready) = Client::connect(api, "tenant", None).await;
    ready["position"].as_str().expect("a position").to_owned()
}

/// A stream's bytes as text, from its start until `end` is in them.
async fn raw_until(api: &Api, path: &str, end: &str) -> String {
    let response = api.request("GET", path).send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let (mut bytes, mut text) = (response.bytes_stream(), String::new());
    let read = async {
        while !text.contains(end) {
            let piece = bytes.next().await.expect("more").expect("bytes");
            text.push_str(std::str::from_utf8(&piece).expect("UTF-8"));
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the text in time");
    text
}

#[tokio::test]
async fn a_publish_is_answered_with_its_position_and_delivered_with_it() {
    let server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "topic:a", None).await;
    let answer = api.post("/v2/events", &tick("topic:a", 1)).await.expect(202);
    let position = answer["position"].clone();
    assert_eq!(answer, json!({"id": position, "position": position, "duplicate": false}));
    let event = client.event().await;
    assert_eq!(event.id.as_deref(), position.as_str());
    assert_eq!((event.name.as_str(), event.topic.as_str(), event.data), ("tick", "topic:a", json!({"n": 1})));
}

#[tokio::test]
async fn a_batch_takes_a_thousand_events_and_not_one_more() {
    let server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "topic:a", None).await;
    let events = |count: u64| json!({"events": (0..count).map(|n| tick("topic:a", n)).collect::<Vec<_>>()});
    for count in [0, 1001] {
        let answer = api.post("/v2/events/batch", &events(count)).await;
        assert_eq!(fields(&answer), ["events"]);
        answer.problem(422);
    }
    let answer = api.post("/v2/events/batch", &events(1000)).await.expect(202);
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 1000);
    for (n, result) in results.iter().enumerate() {
        let event = client.event().await;
        assert_eq!((&result["status"], &event.data["n"]), (&json!(202), &json!(n)));
        assert_eq!(result["position"].as_str(), event.id.as_deref());
    }
}

#[tokio::test]
async fn each_event_of_a_batch_that_its_sender_may_not_publish_is_counted() {
    let server = Server::start();
    let events = json!({"events": [tick("topic:a", 0), tick("topic:a", 1)]});
    let answer = server.api_of("default", "subscribe").post("/v2/events/batch", &events).await.expect(202);
    assert_eq!(
        (&answer["results"][0]["status"], &answer["results"][1]["status"]),
        (&json!(403), &json!(403))
    );
    let forbidden = "bongsu_auth_failures_total{reason=\"forbidden\"}";
    assert_eq!(server.operator().metric(forbidden).await, 2.0);
}

#[tokio::test]
async fn each_event_of_a_batch_is_answered_by_itself() {
    let server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "topic:a", None).await;
    let events = json!({"events": [
        tick("topic:a", 0),
        tick("truck:a", 1),
        with(tick("topic:a", 2), "type", "ready"),
        with(tick("fleet:a", 3), "type", "ei_updated"),
        with(tick("topic:a", 4), "colour", "red"),
        with(with(tick("topic:a", 5), "key", "k"), "version", 5),
        with(with(tick("topic:a", 6), "key", "k"), "version", 5),
        with(tick("topic:a", 7), "data", "x".repeat(65_537)),
        with(tick("topic:a", 8), "class", "volatile"),
        17,
        tick("topic:a", 10),
    ]});
    let answer = api.post("/v2/events/batch", &events).await.expect(202);
    let results = answer["results"].as_array().expect("results");
    let of = |result: &Value| {
        (result["status"].as_u64().unwrap_or(0), result["error"]["code"].as_str().unwrap_or("").to_owned())
    };
    let expected = [
        (202, ""),
        (422, "invalid_field"),
        (422, "reserved_type"),
        (403, "reserved_type"),
        (422, "unknown_field"),
        (202, ""),
        (409, "stale"),
        (413, "event_too_large"),
        (202, ""),
        (422, "invalid_field"),
        (202, ""),
    ];
    for (index, (result, (status, code))) in results.iter().zip(expected).enumerate() {
        assert_eq!(of(result), (status, code.to_owned()), "{index}: {result}");
    }
    assert_eq!(results.len(), expected.len());
    assert_eq!(results[8]["position"], Value::Null);
    let mut got = Vec::new();
    while got.len() < 4 {
        got.push(client.event().await.data["n"].as_u64().expect("a number"));
    }
    got.sort_unstable();
    assert_eq!(got, [0, 5, 8, 10]);
}

#[tokio::test]
async fn an_event_on_many_topics_becomes_one_entry_on_each_in_order() {
    let server = Server::start();
    let api = server.api();
    let (mut client, ready) = Client::connect(&api, "topic:a,topic:b,topic:c", None).await;
    let first = seq(ready["position"].as_str().expect("a position"));
    let event = json!({"topics": ["topic:c", "topic:a", "topic:b"], "type": "tick", "data": {"n": 1}});
    let answer = api.post("/v2/events", &event).await.expect(202);
    let mut last = None;
    for (index, topic) in ["topic:c", "topic:a", "topic:b"].iter().enumerate() {
        let event = client.event().await;
        assert_eq!((event.topic.as_str(), &event.data), (*topic, &json!({"n": 1})));
        assert_eq!(event.id.as_deref().map(seq), Some(first + 1 + index as u64));
        last = event.id;
    }
    assert_eq!(answer["position"].as_str(), last.as_deref());
    assert_eq!(answer["id"], answer["position"]);
    let many: Vec<String> = (0..129).map(|n| format!("topic:t{n}")).collect();
    for (topics, status) in [(&many[..128], 202), (&many[..], 422), (&[], 422)] {
        let event = json!({"topics": topics, "type": "tick", "data": 1});
        assert_eq!(api.post("/v2/events", &event).await.status, status);
    }
    let both = with(tick("topic:a", 1), "topics", json!(["topic:b"]));
    assert_eq!(refused(&api, &both, 422).await, ["topics"]);
    let neither = json!({"type": "tick", "data": 1});
    assert_eq!(refused(&api, &neither, 422).await, ["topic"]);
}

#[tokio::test]
async fn a_repeated_idempotency_key_gets_the_stored_answer() {
    let mut server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "topic:a", None).await;
    let event = tick("topic:a", 1);
    let first = api.post_once("/v2/events", &event, "once").await.expect(202);
    assert_eq!(api.post_once("/v2/events", &event, "once").await.expect(202), first);
    let other = api.post_once("/v2/events", &tick("topic:a", 2), "once").await;
    assert_eq!(other.problem(422), "idempotency_key_reused");
    let batch = json!({"events": [tick("topic:a", 3), tick("truck:x", 4)]});
    let batched = api.post_once("/v2/events/batch", &batch, "batch").await.expect(202);
    assert_eq!(api.post_once("/v2/events/batch", &batch, "batch").await.expect(202), batched);
    server.kill();
    server.restart(|options| options);
    assert_eq!(api.post_once("/v2/events", &event, "once").await.expect(202), first, "also after a crash");
    let (_, ready) = Client::connect(&api, "topic:a", None).await;
    assert_eq!(ready["position"], batched["results"][0]["position"], "nothing was appended");
    assert_eq!(client.event().await.data, json!({"n": 1}));
    assert_eq!(client.event().await.data, json!({"n": 3}));
}

#[tokio::test]
async fn idempotency_keys_of_other_principals_and_tenants_are_other_keys() {
    let server = Server::start();
    let (api, colleague) = (server.api(), server.api_with(&server.create_key("publish")));
    let stranger = server.api_of("other", "publish,subscribe");
    let event = tick("topic:a", 1);
    let first = api.post_once("/v2/events", &event, "once").await.expect(202);
    let second = colleague.post_once("/v2/events", &tick("topic:a", 2), "once").await.expect(202);
    assert_eq!(seq(second["position"].as_str().unwrap()), seq(first["position"].as_str().unwrap()) + 1);
    let third = stranger.post_once("/v2/events", &event, "once").await.expect(202);
    assert_eq!(seq(third["position"].as_str().unwrap()), 1);
    assert_ne!(third, first);
}

#[tokio::test]
async fn an_idempotency_key_in_flight_is_a_conflict() {
    let server = Server::with(ServerOptions::default().set("storage.wait_ms", 20_000));
    let api = server.api();
    let before = head(&api).await;
    let path = server.data_dir().join("bongsu.db");
    let mut other = SqliteConnection::establish(&path.to_string_lossy()).expect("the database opens");
    other.batch_execute("PRAGMA busy_timeout = 10000; BEGIN IMMEDIATE").expect("locked");
    let event = tick("topic:a", 1);
    let request = || Box::pin(api.post_once("/v2/events", &event, "once"));
    // while nothing can be written, one of them waits and the other one is turned away
    let (refused, waiting) = match futures_util::future::select(request(), request()).await {
        futures_util::future::Either::Left(first) => first,
        futures_util::future::Either::Right(first) => first,
    };
    assert_eq!(refused.problem(409), "idempotency_key_in_progress");
    other.batch_execute("COMMIT").expect("unlocked");
    let answer = waiting.await.expect(202);
    assert_eq!(seq(answer["position"].as_str().expect("a position")), seq(&before) + 1);
}

#[tokio::test]
async fn an_idempotency_key_has_to_be_usable() {
    let server = Server::start();
    let api = server.api();
    let event = tick("topic:a", 1);
    for key in [String::new(), "x".repeat(129)] {
        api.post_once("/v2/events", &event, &key).await.problem(400);
    }
}

#[tokio::test]
async fn a_volatile_event_with_an_idempotency_key_is_sent_once() {
    let server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "topic:a", None).await;
    let batch = json!({"events": [with(tick("topic:a", 1), "class", "volatile"), tick("topic:a", 2)]});
    let first = api.post_once("/v2/events/batch", &batch, "both").await.expect(202);
    assert_eq!(first["results"][0], json!({"status": 202, "id": null, "position": null, "duplicate": false}));
    let again = api.post_once("/v2/events/batch", &batch, "both").await.expect(202);
    assert_eq!(again, first);
    let alone = with(tick("topic:a", 3), "class", "volatile");
    for _ in 0..2 {
        let answer = api.post_once("/v2/events", &alone, "alone").await.expect(202);
        assert_eq!(answer, json!({"id": null, "position": null, "duplicate": false}));
    }
    api.publish("topic:a", "tick", json!({"n": 4})).await;
    let mut got = Vec::new();
    while got.last() != Some(&4) {
        got.push(client.event().await.data["n"].as_u64().expect("a number"));
    }
    got.sort_unstable();
    assert_eq!(got, [1, 2, 3, 4]);
}

#[tokio::test]
async fn whoever_hears_a_topic_twice_gets_each_event_once() {
    let server = Server::start();
    let (api, admin) = (server.api(), server.api_with(&server.create_key("admin,subscribe")));
    let (mut client, _) = Client::connect(&admin, "topic:a,topic:*,topic:ab,topic:a*", None).await;
    for n in 0..20 {
        let class = ["durable", "latest", "volatile"][n as usize % 3];
        let topic = ["topic:a", "topic:ab", "topic:c"][n as usize % 2];
        api.post("/v2/events", &with(tick(topic, n), "class", class)).await.expect(202);
        assert_eq!(client.event().await.data["n"].as_u64(), Some(n));
    }
}

#[tokio::test]
async fn a_dedup_key_names_one_event_per_topic() {
    let mut server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "topic:a,topic:b,topic:c", None).await;
    let named =
        |topic: &str, n| with(with(tick(topic, n), "dedup_key", "order-7"), "dedup_window_ms", 86_400_000);
    let first = api.post("/v2/events", &named("topic:a", 1)).await.expect(202);
    assert_eq!(first["duplicate"], false);
    let again = api.post("/v2/events", &named("topic:a", 2)).await.expect(202);
    assert_eq!(again, json!({"id": first["id"], "position": first["position"], "duplicate": true}));
    let elsewhere = api.post("/v2/events", &named("topic:b", 3)).await.expect(202);
    assert_eq!(elsewhere["duplicate"], false);
    let mut both = named("topic:a", 4);
    both.as_object_mut().unwrap().remove("topic");
    both["topics"] = json!(["topic:a", "topic:b"]);
    let all = api.post("/v2/events", &both).await.expect(202);
    assert_eq!((&all["duplicate"], &all["position"]), (&json!(true), &elsewhere["position"]));
    both["topics"] = json!(["topic:a", "topic:c"]);
    let partly = api.post("/v2/events", &both).await.expect(202);
    assert_eq!(partly["duplicate"], false);
    let got = [client.event().await, client.event().await, client.event().await];
    assert_eq!(
        got.map(|event| (event.topic, event.data["n"].as_u64().unwrap_or(0))),
        [("topic:a".to_owned(), 1), ("topic:b".to_owned(), 3), ("topic:c".to_owned(), 4)]
    );
    let batch = json!({"events": [with(tick("topic:a", 5), "dedup_key", "twice"), with(tick("topic:a", 6), "dedup_key", "twice")]});
    let answer = api.post("/v2/events/batch", &batch).await.expect(202);
    assert_eq!(answer["results"][1]["duplicate"], true, "also within one batch");
    assert_eq!(client.event().await.data, json!({"n": 5}));
    server.kill();
    server.restart(|options| options);
    let again = api.post("/v2/events", &named("topic:a", 7)).await.expect(202);
    assert_eq!(
        (&again["duplicate"], &again["position"]),
        (&json!(true), &first["position"]),
        "also after a crash"
    );
}

#[tokio::test]
async fn a_dedup_key_names_a_volatile_event_too() {
    let server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "topic:a", None).await;
    let named = with(with(tick("topic:a", 1), "class", "volatile"), "dedup_key", "ping-7");
    for duplicate in [false, true, true] {
        let answer = api.post("/v2/events", &named).await.expect(202);
        assert_eq!(answer, json!({"id": null, "position": null, "duplicate": duplicate}));
    }
    api.publish("topic:a", "tick", json!({"n": 2})).await;
    assert_eq!((client.event().await.id, client.event().await.data), (None, json!({"n": 2})));
}

#[tokio::test]
async fn a_version_counts_whatever_the_class() {
    let server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "topic:a", None).await;
    let publish = async |class: &str, version: i64| {
        let event =
            with(with(with(tick("topic:a", version as u64), "class", class), "key", "k"), "version", version);
        api.post("/v2/events", &event).await
    };
    assert_eq!(publish("volatile", 5).await.expect(202)["id"], Value::Null);
    for (class, stale) in [("volatile", 5), ("durable", 5), ("latest", 4)] {
        assert_eq!(publish(class, stale).await.problem(409), "stale", "{class}");
    }
    publish("durable", 6).await.expect(202);
    assert_eq!(publish("volatile", 6).await.problem(409), "stale");
    publish("volatile", 7).await.expect(202);
    for n in 5..8 {
        assert_eq!(client.event().await.data, json!({"n": n}));
    }
}

#[tokio::test]
async fn after_its_window_a_dedup_key_delivers_again() {
    let server = Server::with(ServerOptions::default().set("idempotency.dedup_window_ms", 20));
    let api = server.api();
    for event in [
        with(tick("topic:a", 1), "dedup_key", "default-window"),
        with(with(tick("topic:a", 1), "dedup_key", "own-window"), "dedup_window_ms", 20),
    ] {
        let first = api.post("/v2/events", &event).await.expect(202);
        let second = eventually("the window ends", async || {
            let answer = api.post("/v2/events", &event).await.expect(202);
            (answer["duplicate"] == false).then_some(answer)
        })
        .await;
        let cursor = first["position"].as_str().expect("a position");
        let (mut client, _) = Client::connect(&api, "topic:a", Some(cursor)).await;
        assert_eq!(client.event().await.id.as_deref(), second["position"].as_str());
    }
}

#[tokio::test]
async fn a_dedup_key_excludes_latest_and_has_a_window_of_up_to_a_day() {
    let server = Server::start();
    let api = server.api();
    let named = with(tick("topic:a", 1), "dedup_key", "k");
    assert_eq!(refused(&api, &with(named.clone(), "class", "latest"), 422).await, ["dedup_key"]);
    for window in [0, 86_400_001] {
        let event = with(named.clone(), "dedup_window_ms", window);
        assert_eq!(refused(&api, &event, 422).await, ["dedup_window_ms"]);
    }
    let event = with(tick("topic:a", 1), "dedup_window_ms", 5);
    assert_eq!(refused(&api, &event, 422).await, ["dedup_window_ms"]);
}

#[tokio::test]
async fn a_version_that_is_not_newer_is_stale_and_delivered_to_nobody() {
    let mut server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "topic:a,topic:b", None).await;
    let versioned = |topic: &str, key: Option<&str>, version: i64| {
        let event =
            with(json!({"topic": topic, "type": "tick", "data": {"version": version}}), "version", version);
        key.map_or(event.clone(), |key| with(event, "key", key))
    };
    let publish = async |event: Value| api.post("/v2/events", &event).await.status;
    assert_eq!(publish(versioned("topic:a", Some("k"), 5)).await, 202);
    for stale in [5, 4, 0] {
        let answer = api.post("/v2/events", &versioned("topic:a", Some("k"), stale)).await;
        assert!(answer.text.contains("must be greater than 5"), "{answer:?}");
        assert_eq!(answer.problem(409), "stale");
    }
    // scoped to topic, type and key
    assert_eq!(publish(versioned("topic:a", Some("other"), 1)).await, 202);
    assert_eq!(publish(versioned("topic:a", None, 1)).await, 202);
    assert_eq!(publish(versioned("topic:b", Some("k"), 1)).await, 202);
    let renamed = with(versioned("topic:a", Some("k"), 1), "type", "tock");
    assert_eq!(publish(renamed).await, 202);
    // all topics or none
    let mut both = versioned("topic:a", Some("k"), 3);
    both.as_object_mut().unwrap().remove("topic");
    both["topics"] = json!(["topic:b", "topic:a"]);
    assert_eq!(publish(both).await, 409);
    let stranger = server.api_of("other", "publish");
    let answer = stranger.post("/v2/events", &versioned("topic:a", Some("k"), 1)).await;
    assert_eq!(answer.status, 202);
    assert_eq!(publish(versioned("topic:a", Some("k"), 6)).await, 202);
    let mut delivered = Vec::new();
    for _ in 0..6 {
        let event = client.event().await;
        delivered.push((event.topic, event.name, event.data["version"].as_i64().unwrap_or(-1)));
    }
    let expected = [
        ("topic:a", "tick", 5),
        ("topic:a", "tick", 1),
        ("topic:a", "tick", 1),
        ("topic:b", "tick", 1),
        ("topic:a", "tock", 1),
        ("topic:a", "tick", 6),
    ];
    assert_eq!(
        delivered,
        expected.map(|(topic, name, version)| (topic.to_owned(), name.to_owned(), version))
    );
    server.kill();
    server.restart(|options| options);
    assert_eq!(publish(versioned("topic:a", Some("k"), 6)).await, 409, "also after a crash");
    assert_eq!(publish(versioned("topic:a", Some("k"), 7)).await, 202);
}

#[tokio::test]
async fn expired_events_are_neither_replayed_nor_missed() {
    let options = ServerOptions::default()
        .set("log.retention_count", 100)
        .set("log.peak_rate_per_s", 1)
        .set("sessions.heartbeat_ms", 100);
    let server = Server::with(options);
    let (api, operator) = (server.api(), server.operator());
    let cursor = api.publish("topic:a", "tick", json!({"n": 0})).await;
    let short_lived = with(tick("topic:a", 1), "ttl_s", 1);
    let (mut live, _) = Client::connect(&api, "topic:a", None).await;
    api.post("/v2/events", &short_lived).await.expect(202);
    assert_eq!(live.event().await.data, json!({"n": 1}), "live it is delivered");
    drop(live);
    let replay = async || {
        let (mut client, ready) = Client::connect(&api, "topic:a", Some(&cursor)).await;
        assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(true), &Value::Null));
        client.replay().await
    };
    eventually("the event expires", async || replay().await.is_empty().then_some(())).await;
    let expired = "bongsu_events_dropped_total{reason=\"expired\"}";
    assert!(operator.metric(expired).await >= 1.0);
    // trimming what nobody would be sent costs nobody the recovery
    let noise: Vec<Value> = (0..200).map(|n| tick("topic:noise", n)).collect();
    api.post("/v2/events/batch", &json!({"events": noise})).await.expect(202);
    eventually("the log is trimmed", async || {
        (operator.metric("bongsu_log_trimmed_total").await >= 100.0).then_some(())
    })
    .await;
    assert!(replay().await.is_empty());
    assert_eq!(operator.metric("bongsu_recoveries_total{outcome=\"evicted\"}").await, 0.0);
    for ttl in [0, 31_536_001] {
        let event = with(tick("topic:a", 1), "ttl_s", ttl);
        assert_eq!(refused(&api, &event, 422).await, ["ttl_s"]);
    }
}

#[tokio::test]
async fn a_volatile_event_is_for_those_who_listen_now() {
    let server = Server::start();
    let api = server.api();
    let cursor = api.publish("topic:a", "tick", json!({"n": 0})).await;
    let (mut client, _) = Client::connect(&api, "topic:a", None).await;
    let volatile = with(tick("topic:a", 1), "class", "volatile");
    let answer = api.post("/v2/events", &volatile).await.expect(202);
    assert_eq!(answer, json!({"id": null, "position": null, "duplicate": false}));
    let event = client.event().await;
    assert_eq!((event.id, event.data), (None, json!({"n": 1})));
    assert_eq!(client.cursor(), Some(cursor.as_str()), "it moves no cursor");
    api.publish("topic:a", "tick", json!({"n": 2})).await;
    let (mut late, _) = Client::connect(&api, "topic:a", Some(&cursor)).await;
    let replayed = late.replay().await;
    assert_eq!(replayed.iter().map(|event| event.data["n"].clone()).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn an_event_is_at_most_64_kib_encoded() {
    let server = Server::start();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "topic:a", None).await;
    // the name and the data count, the quotes of the string included
    let sized = |encoded: usize| json!({"topic": "topic:a", "type": "tick", "data": "x".repeat(encoded - "tick".len() - 2)});
    let answer = api.post("/v2/events", &sized(65_537)).await;
    assert_eq!(answer.problem(413), "event_too_large");
    api.post("/v2/events", &sized(65_536)).await.expect(202);
    let data = client.event().await.data;
    assert_eq!(data.as_str().map(str::len), Some(65_536 - 6));
    let huge = api.post_text("/v2/events", " ".repeat(1_048_577)).await.problem(413);
    assert_eq!(huge, "body_too_large");
}

#[tokio::test]
async fn names_of_transports_and_of_the_product_are_reserved() {
    let server = Server::start();
    let api = server.api();
    let before = head(&api).await;
    for name in
        "ready close heartbeat ping position batch unsubscribed message open error entity.created connect \
                 connect_error disconnect disconnecting newListener removeListener"
            .split_whitespace()
    {
        for topic in ["topic:a", "fleet:a"] {
            let answer = api.post("/v2/events", &with(tick(topic, 1), "type", name)).await;
            assert_eq!(fields(&answer), ["type"]);
            assert_eq!(answer.problem(422), "reserved_type", "{name}");
        }
    }
    let own = "ei_updated bid_status_changed proposal_ranking_updated my_proposal_rank order_status_changed \
               snapshots.generated account.updated schedule.published schedule.updated swap.requested swap.approved \
               swap.rejected emergency.call notification new_question_notification new_answer answer_accepted \
               message_status answer_notification user_typing user_stop_typing user_online user_offline \
               nearby_questions_update slow_response_alert metrics-update hotspots-update";
    for name in own.split_whitespace() {
        for topic in ["fleet:a", "user:u", "bid:1", "order:1", "question:1"] {
            let answer = api.post("/v2/events", &with(tick(topic, 1), "type", name)).await;
            assert_eq!(answer.problem(403), "reserved_type", "{name} on {topic}");
        }
    }
    assert_eq!(head(&api).await, before);
    for name in own.split_whitespace() {
        api.publish("topic:a", name, json!(1)).await;
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_malformed_and_what_is_wrong_is_named() {
    let server = Server::start();
    let api = server.api();
    let before = head(&api).await;
    let trailing = format!("{} x", tick("topic:a", 1));
    for text in ["", "{", "nope", "{\"topic\":\"topic:a\"", &trailing, "{\"topic\":\"\u{0}\"}"] {
        let answer = api.post_text("/v2/events", text).await;
        assert_eq!(answer.problem(400), "malformed_json", "{text:?}");
    }
    let answer = Api::send(api.request("POST", "/v2/events").body(tick("topic:a", 1).to_string())).await;
    answer.expect("an answer").problem(415);
    for (event, field) in [
        (with(tick("topic:a", 1), "colour", "red"), "colour"),
        (with(tick("topic:a", 1), "topic", 7), "topic"),
        (with(tick("topic:a", 1), "topic", "truck:7"), "topic"),
        (with(tick("topic:a", 1), "topic", "topic:*"), "topic"),
        (with(tick("topic:a", 1), "class", "urgent"), "class"),
        (with(tick("topic:a", 1), "version", "one"), "version"),
        (with(tick("topic:a", 1), "version", -1), "version"),
        (with(tick("topic:a", 1), "type", ""), "type"),
        (with(tick("topic:a", 1), "type", "x".repeat(65)), "type"),
        (with(tick("topic:a", 1), "type", "two words"), "type"),
        (with(tick("topic:a", 1), "key", ""), "key"),
        (json!({"topic": "topic:a", "type": "tick"}), "data"),
        (json!({"topic": "topic:a", "data": 1}), "type"),
    ] {
        assert_eq!(refused(&api, &event, 422).await, [field], "{event}");
    }
    assert_eq!(head(&api).await, before, "nothing of it was taken");
}

#[tokio::test]
async fn data_arrives_digit_by_digit_on_one_line() {
    let server = Server::start();
    let api = server.api();
    let cursor = head(&api).await;
    let body = "{\r\n  \"topic\": \"topic:a\",\r\n  \"type\": \"tick\",\r\n  \"data\": {\r\n\t\"n\" : \
                12345678901234567890.123456789012345678901234567890,\n\"e\": -1.50E+400, \"z\": 1.0,\r\"s\": \
                \"a\\nb\\r\\n c \\u2028 \u{2028}\"\n  }\n}";
    api.post_text("/v2/events", body).await.expect(202);
    api.publish("topic:a", "last", json!({})).await;
    let expected = "{\"n\":12345678901234567890.123456789012345678901234567890,\"e\":-1.50E+400,\"z\":1.0,\
                    \"s\":\"a\\nb\\r\\n c \\u2028 \u{2028}\"}";
    let path = format!("/v2/realtime/stream?topics=topic:a&cursor={cursor}");
    let text = raw_until(&api, &path, "event: last").await;
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("12345678901234567890")).collect();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("data: {\"event\":\"tick\""), "{}", lines[0]);
    assert!(lines[0].ends_with(&format!("\"data\":{expected}}}")), "{}", lines[0]);
}

#[tokio::test]
async fn line_breaks_cannot_be_smuggled_into_a_stream() {
    let server = Server::start();
    let api = server.api();
    let cursor = head(&api).await;
    for poison in ["x\nid: 9", "x\rid: 9", "x\r\n\r\nevent: close\r\ndata: {}", "x\u{2028}y", "x\u{0}"] {
        let event = with(tick("topic:a", 1), "type", poison);
        assert_eq!(refused(&api, &event, 422).await, ["type"]);
        let event = tick(&format!("topic:{poison}"), 1);
        assert_eq!(refused(&api, &event, 422).await, ["topic"]);
        let event = with(
            with(tick("topic:a", 1), "topics", json!([format!("topic:{poison}")])),
            "topic",
            Value::Null,
        );
        assert_eq!(refused(&api, &event, 422).await, ["topics"]);
        // a key is never put on a wire, and data only in its escaped form
        let event = json!({"topic": "topic:a", "type": "tick", "key": poison, "data": {poison: poison}});
        api.post("/v2/events", &event).await.expect(202);
    }
    api.publish("topic:a", "last", json!({})).await;
    let path = format!("/v2/realtime/stream?topics=topic:a&cursor={cursor}");
    let text = raw_until(&api, &path, "event: last").await;
    assert!(!text.contains('\r'));
    let fields: Vec<&str> = text
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.split(':').next().unwrap_or_default())
        .collect();
    assert!(fields.iter().all(|field| ["retry", "", "event", "id", "data"].contains(field)));
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names, ["ready", "tick", "tick", "tick", "tick", "tick", "last"]);
}
