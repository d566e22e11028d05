//! Long-polls: what an answer holds, when it comes, where it leads, and what ends it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::client::seq;
use crate::support::{
    Api, Burst, Outsider, Poller, Server, ServerOptions, SseEvent, assert_kept, counts, eventually, run_cli,
};

const WAITING: &str = r#"bongsu_connections{transport="poll",tenant="default"}"#;
const ANSWER_BYTES: usize = 256 * 1024;

/// A poller that has made its first call.
async fn poller(api: &Api, topics: &str) -> Poller {
    let mut poller = Poller::new(api, topics, None);
    assert_eq!(poller.ask(25).await["recovered"], Value::Null);
    poller
}

/// Lets a poller wait, until the server says that it does.
async fn wait_for(operator: &Api, mut poller: Poller, wait: u64) -> JoinHandle<(Poller, Value)> {
    // its last call may still be leaving
    waits(operator, 0.0).await;
    let asking = tokio::spawn(async move {
        let answer = poller.ask(wait).await;
        (poller, answer)
    });
    waits(operator, 1.0).await;
    asking
}

async fn waits(operator: &Api, count: f64) {
    eventually(&format!("{count} waiting"), async || (operator.metric(WAITING).await == count).then_some(()))
        .await;
}

async fn publish_many(api: &Api, topic: &str, count: u64, bytes: usize) {
    let pad = "x".repeat(bytes);
    for first in (0..count).step_by(10) {
        let event = |n| json!({"topic": topic, "type": "tick", "data": {"n": n, "pad": pad}});
        let events: Vec<Value> = (first..(first + 10).min(count)).map(event).collect();
        api.post("/v2/events/batch", &json!({"events": events})).await.expect(202);
    }
}

fn numbers(answer: &Value) -> Vec<u64> {
    let events = answer["events"].as_array().expect("events");
    events.iter().map(|event| event["data"]["n"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn a_poll_resumes_by_last_event_id_which_beats_the_cursor() {
    let server = Server::start();
    let api = server.api();
    let mut past = Vec::new();
    for n in 0..3 {
        past.push(api.publish("topic:news", "headline", json!({"n": n})).await);
    }
    for query in ["", "&cursor=", &format!("&cursor={}", past[1]), "&cursor=garbage"] {
        let path = format!("/v2/realtime/poll?topics=topic:news&wait=0{query}");
        let asked = api.request("GET", &path).header("Last-Event-ID", &past[0]);
        let answer: Value = asked.send().await.expect("an answer").json().await.expect("JSON");
        assert_eq!((numbers(&answer), &answer["recovered"]), (vec![1, 2], &json!(true)), "{query}");
    }
}

#[tokio::test]
async fn the_first_call_is_answered_at_once_and_says_where_to_go_on() {
    let server = Server::start();
    let api = server.api();
    let past = api.publish("topic:news", "headline", json!({"n": 1})).await;
    let started = Instant::now();
    let answer = api.get("/v2/realtime/poll?topics=topic:news,tenant").await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["content-type"], "application/json");
    let expected = json!({"events": [], "cursor": past, "recovered": null, "reason": null, "more": false});
    assert_eq!(answer.expect(200), expected);
}

#[tokio::test]
async fn a_poll_waits_for_an_event_and_is_answered_with_it_at_once() {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let waiting = wait_for(&operator, poller(&api, "topic:news").await, 25).await;
    let published = Instant::now();
    let position = api.publish("topic:news", "headline", json!({"n": 1})).await;
    let (mut poller, answer) = waiting.await.expect("an answer");
    assert!(published.elapsed() < Duration::from_secs(5), "{:?}", published.elapsed());
    let ts = &answer["events"][0]["ts"];
    assert!(ts.is_string());
    let event =
        json!({"event": "headline", "topic": "topic:news", "id": position, "ts": ts, "data": {"n": 1}});
    let expected =
        json!({"events": [event], "cursor": position, "recovered": true, "reason": null, "more": false});
    assert_eq!(answer, expected);
    // what came while nobody was waiting is there at once
    let next = api.publish("topic:news", "headline", json!({"n": 2})).await;
    let started = Instant::now();
    let answer = poller.ask(25).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!((numbers(&answer), &answer["cursor"]), (vec![2], &json!(next)));
    waits(&operator, 0.0).await;
}

#[tokio::test]
async fn a_wait_that_ends_without_an_event_moves_the_cursor_all_the_same() {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let poller = poller(&api, "topic:quiet").await;
    let started = Instant::now();
    let waiting = wait_for(&operator, poller, 1).await;
    let elsewhere = api.publish("topic:busy", "tick", json!({"n": 1})).await;
    let (mut poller, answer) = waiting.await.expect("an answer");
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    let expected =
        json!({"events": [], "cursor": elsewhere, "recovered": true, "reason": null, "more": false});
    assert_eq!(answer, expected);
    // and so it does when what was published meanwhile only has to be read past
    let elsewhere = api.publish("topic:busy", "tick", json!({"n": 2})).await;
    let answer = poller.ask(0).await;
    assert_eq!((&answer["events"], &answer["cursor"]), (&json!([]), &json!(elsewhere)));
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes_and_says_that_there_is_more() {
    const COUNT: u64 = 400;
    let server = Server::with(ServerOptions::default().set("log.window_bytes", 65_536));
    let (api, operator) = (server.api(), server.operator());
    let mut poller = poller(&api, "topic:large").await;
    publish_many(&api, "topic:large", COUNT, 3000).await;
    let (mut seen, mut answers) = (Vec::new(), 0);
    loop {
        let answer = poller.try_ask(25).await.expect("an answer");
        assert!(answer.text.len() <= ANSWER_BYTES, "{} bytes", answer.text.len());
        let body = answer.expect(200);
        assert!(!numbers(&body).is_empty());
        seen.extend(numbers(&body));
        answers += 1;
        if body["more"] == false {
            break;
        }
    }
    assert_eq!(seen, (0..COUNT).collect::<Vec<_>>());
    // 1.25 MB: as few answers as there can be, and perhaps one more
    assert!((5..=6).contains(&answers), "{answers} answers");
    let dropped = operator.get("/metrics").await.text;
    let lost = dropped.lines().find(|line| line.contains("reason=\"connection_cut\""));
    assert!(lost.is_some_and(|line| line.ends_with(" 0")), "what is asked for again is not lost: {lost:?}");
}

#[tokio::test]
async fn an_event_larger_than_an_answer_comes_alone() {
    let server = Server::with(ServerOptions::default().set("log.max_event_bytes", 1_000_000));
    let api = server.api();
    let mut poller = poller(&api, "topic:large").await;
    for (n, bytes) in [(0, 10), (1, 400_000), (2, 10)] {
        api.publish("topic:large", "tick", json!({"n": n, "pad": "x".repeat(bytes)})).await;
    }
    for (expected, more) in [(0, true), (1, true), (2, false)] {
        let answer = poller.ask(25).await;
        assert_eq!((numbers(&answer), &answer["more"]), (vec![expected], &json!(more)));
    }
}

#[tokio::test]
async fn volatile_events_reach_only_a_poll_that_waits() {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let volatile = async |n: u64| {
        let event = json!({"topic": "topic:a", "type": "typing", "class": "volatile", "data": {"n": n}});
        api.post("/v2/events", &event).await.expect(202);
    };
    let poller = poller(&api, "topic:a").await;
    let before = poller.cursor.clone();
    volatile(1).await;
    let waiting = wait_for(&operator, poller, 25).await;
    volatile(2).await;
    let (mut poller, answer) = waiting.await.expect("an answer");
    assert_eq!(numbers(&answer), [2]);
    assert!(answer["events"][0].get("id").is_none(), "{answer}");
    assert_eq!(poller.cursor, before, "a volatile event has no position");
    volatile(3).await;
    assert_eq!(numbers(&poller.ask(0).await), [] as [u64; 0]);
}

#[tokio::test]
async fn many_pollers_amid_a_burst_get_everything_once_and_in_order() {
    const PUBLISHERS: u64 = 3;
    let mut server = Server::with(ServerOptions::default().set("log.window_count", 64));
    let api = server.api();
    let mut pollers = Vec::new();
    for _ in 0..12 {
        pollers.push(poller(&api, "topic:burst,topic:other").await);
    }
    let start = pollers[0].cursor.clone();
    let burst = Burst::start(&api, "topic:burst", PUBLISHERS);
    let polling: Vec<_> = pollers
        .into_iter()
        .map(|mut poller| {
            tokio::spawn(async move {
                let mut events: Vec<Value> = Vec::new();
                let mut last = seq(poller.cursor.as_deref().expect("a cursor"));
                while let Some(answer) = poller.try_ask(2).await {
                    let answer = answer.expect(200);
                    assert_eq!(answer["recovered"], true, "{answer}");
                    for event in answer["events"].as_array().expect("events") {
                        let id = seq(event["id"].as_str().expect("an id"));
                        assert!(id > last, "{id} after {last}");
                        last = id;
                        events.push(event.clone());
                    }
                    let cursor = seq(poller.cursor.as_deref().expect("a cursor"));
                    assert!(cursor >= last, "the cursor {cursor} after {last}");
                    last = cursor;
                }
                (poller, events)
            })
        })
        .collect();
    burst.reaches(1500).await;
    server.kill();
    let answered = burst.cut().await;
    server.restart(|options| options);
    // the kill took answers under way: who had none goes on from the last cursor it has
    for polling in polling {
        let (mut poller, mut events) = polling.await.expect("no panic");
        loop {
            let answer = poller.ask(0).await;
            events.extend(answer["events"].as_array().expect("events").iter().cloned());
            if answer["more"] == false {
                break;
            }
        }
        let events: Vec<SseEvent> =
            events.into_iter().map(|data| SseEvent { event: "counted".to_owned(), id: None, data }).collect();
        assert_kept(&counts(&events, PUBLISHERS), &answered);
    }
    assert!(start.is_some());
}

#[tokio::test]
async fn a_burst_that_is_too_much_for_a_queue_is_told_and_comes_with_the_next_poll() {
    let server = Server::with(ServerOptions::default().set("sessions.queue_items", 20));
    let (api, operator) = (server.api(), server.operator());
    let poller = poller(&api, "topic:a").await;
    let before = poller.cursor.clone();
    let waiting = wait_for(&operator, poller, 25).await;
    let events: Vec<Value> =
        (0..200).map(|n| json!({"topic": "topic:a", "type": "tick", "data": {"n": n}})).collect();
    api.post("/v2/events/batch", &json!({"events": events})).await.expect(202);
    let (mut poller, answer) = waiting.await.expect("an answer");
    let close = json!({"code": 3001, "reason": "slow_consumer", "reconnect": true, "retry_ms": 0});
    assert_eq!((&answer["close"], &answer["events"]), (&close, &json!([])));
    assert_eq!(poller.cursor, before);
    let mut seen = Vec::new();
    while seen.len() < 200 {
        seen.extend(numbers(&poller.ask(25).await));
    }
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn waiting_polls_are_told_of_a_drain_and_new_ones_get_a_problem() {
    let mut server = Server::with(ServerOptions::default().set("drain.announce_ms", 3000));
    let (api, operator) = (server.api(), server.operator());
    let poller = poller(&api, "topic:a").await;
    let elsewhere = api.publish("topic:b", "tick", json!(1)).await;
    let waiting = wait_for(&operator, poller, 60).await;
    server.signal("TERM");
    eventually("readiness to say no", async || (api.get("/ready").await.status == 503).then_some(())).await;
    // a poller is no EventSource: it is told by the status, whatever it accepts
    let request =
        api.request("GET", "/v2/realtime/poll?topics=topic:a").header("Accept", "text/event-stream");
    let refused = Api::send(request).await.expect("an answer");
    let after = refused.headers["retry-after"].to_str().expect("text").parse::<u64>();
    assert!(after.is_ok_and(|after| after >= 1));
    assert_eq!(refused.problem(503), "draining");
    let (poller, answer) = waiting.await.expect("an answer");
    let close = &answer["close"];
    assert_eq!(
        (&close["code"], &close["reason"], &close["reconnect"]),
        (&json!(3000), &json!("draining"), &json!(true))
    );
    assert!(close["retry_ms"].is_u64());
    let at = seq(poller.cursor.as_deref().expect("a cursor"));
    assert!(at <= seq(&elsewhere), "nothing came after it");
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_revoked_key_ends_its_waiting_polls_within_a_second() {
    let server = Server::start();
    let operator = server.operator();
    let data_dir = server.data_dir().to_string_lossy();
    let (status, out, err) =
        run_cli(&["key", "create", "--scopes", "subscribe", "--json", "--data-dir", &data_dir]);
    assert!(status.success(), "{err}");
    let key: Value = serde_json::from_str(&out).expect("JSON");
    let api = server.api_with(key["key"].as_str().expect("a key"));
    let waiting = wait_for(&operator, poller(&api, "topic:a").await, 60).await;
    let key_id = key["key_id"].as_str().expect("an id");
    let revoked = Instant::now();
    let (status, _, err) = run_cli(&["key", "revoke", "--data-dir", &data_dir, key_id]);
    assert!(status.success(), "{err}");
    let (mut poller, answer) = waiting.await.expect("an answer");
    assert!(revoked.elapsed() < Duration::from_secs(2), "{:?}", revoked.elapsed());
    assert_eq!((&answer["close"]["code"], &answer["close"]["reconnect"]), (&json!(3500), &json!(false)));
    poller.try_ask(0).await.expect("an answer").problem(401);
}

#[tokio::test]
async fn a_poll_whose_client_leaves_ends_at_once() {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let waiting = wait_for(&operator, poller(&api, "topic:a").await, 60).await;
    let left = Instant::now();
    waiting.abort();
    waits(&operator, 0.0).await;
    assert!(left.elapsed() < Duration::from_secs(2), "{:?}", left.elapsed());
    let closes = r#"bongsu_closes_total{transport="poll",code="0",reason="client_left"}"#;
    // the first call, and the one that was given up
    assert_eq!(operator.metric(closes).await, 2.0);
    assert_eq!(operator.metric(r#"bongsu_connects_total{transport="poll"}"#).await, 2.0);
}

#[tokio::test]
async fn a_poll_that_cannot_be_ready_in_time_is_told_to_come_back() {
    let options =
        ServerOptions::default().set("sessions.ready_timeout_ms", 300).set("storage.wait_ms", 10_000);
    let server = Server::with(options);
    // a tenant that has no log yet needs a write, and the database is locked
    let api = server.api_of("newcomer", "subscribe,publish");
    let mut outsider = Outsider::open(server.data_dir());
    outsider.run("BEGIN EXCLUSIVE");
    let cursor = "00000000000000ab-7";
    let mut early = Poller::new(&api, "topic:a", None);
    let mut returning = Poller::new(&api, "topic:a", Some(cursor));
    for (poller, expected) in [(&mut early, Value::Null), (&mut returning, json!(cursor))] {
        let answer = poller.ask(25).await;
        assert_eq!((&answer["close"]["code"], &answer["recovered"]), (&json!(1001), &Value::Null));
        assert_eq!(answer["cursor"], expected, "it stands where it stood");
    }
    drop(outsider);
    assert!(poller(&api, "topic:a").await.cursor.is_some());
}

#[tokio::test]
async fn what_is_wrong_with_a_poll_is_named() {
    let server = Server::with(ServerOptions::default().set("sessions.max_topics", 3));
    let api = server.api();
    let path = |more: &str| format!("/v2/realtime/poll?{more}");
    let long = format!("topics=topic:a&session={}", "s".repeat(65));
    for (parameters, field) in [
        ("", "topics"),
        ("topics=", "topics"),
        ("topics=nonsense", "topics"),
        ("topics=topic:a&wait=61", "wait"),
        ("topics=topic:a&wait=-1", "wait"),
        ("topics=topic:a&wait=1.5", "wait"),
        ("topics=topic:a&wait=", "wait"),
        ("topics=topic:a&wait=soon", "wait"),
        ("topics=topic:a&session=", "session"),
        ("topics=topic:a&session=a%20b", "session"),
        (long.as_str(), "session"),
    ] {
        let answer = api.get(&path(parameters)).await;
        assert_eq!(answer.status, 400, "{parameters}: {}", answer.text);
        assert_eq!(answer.json()["errors"][0]["field"], field, "{parameters}");
        assert_eq!(answer.problem(400), "invalid_parameter");
        assert_eq!(api.anonymous().get(&path(parameters)).await.problem(401), "missing_credentials");
    }
    let many = "topics=topic:a,topic:b,topic:c,topic:d";
    assert_eq!(api.get(&path(many)).await.problem(400), "too_many_topics");
    assert_eq!(api.get(&path("topics=topic:a,admin")).await.problem(403), "forbidden_topics");
    let publisher = server.api_with(&server.create_key("publish"));
    assert_eq!(publisher.get(&path("topics=topic:a")).await.problem(403), "forbidden_topics");
    api.get(&path("topics=topic:a&session=tab-7&wait=0")).await.expect(200);
    // nothing of this is a connection
    assert_eq!(server.operator().metric(r#"bongsu_connects_total{transport="poll"}"#).await, 1.0);
}

#[tokio::test]
async fn a_ticket_is_good_for_poll_after_poll_and_for_one_at_a_time() {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let wanted = json!({"path": "/v2/realtime/poll"});
    let ticket = api.post("/v2/realtime/tickets", &wanted).await.expect(201);
    let ticket = format!("&ticket={}", ticket["ticket"].as_str().expect("a ticket"));
    let stranger = api.anonymous();
    // a request that is wrong does not use it up, nor bind it
    let wrong = format!("/v2/realtime/poll?topics=topic:a&wait=99{ticket}");
    assert_eq!(stranger.get(&wrong).await.problem(400), "invalid_parameter");
    let mut poller = Poller::new(&stranger, &format!("topic:a{ticket}"), None);
    let first = poller.ask(0).await;
    let position = api.publish("topic:a", "tick", json!({"n": 1})).await;
    assert_eq!(numbers(&poller.ask(25).await), [1]);
    assert_ne!(first["cursor"], json!(position));
    let waiting = wait_for(&operator, poller, 60).await;
    let mut newer = Poller::new(&stranger, &format!("topic:a{ticket}"), Some(&position));
    assert_eq!(newer.ask(0).await["recovered"], true);
    let (_, answer) = waiting.await.expect("an answer");
    assert_eq!((&answer["close"]["code"], &answer["close"]["reason"]), (&json!(1000), &json!("replaced")));
}

#[tokio::test]
async fn polls_leave_no_line_each_at_level_info() {
    for (level, lines) in [("info", 0), ("debug", 2)] {
        let server =
            Server::with(ServerOptions::default().set("logging.level", level).set("logging.format", "json"));
        let (api, operator) = (server.api(), server.operator());
        poller(&api, "topic:a").await;
        waits(&operator, 0.0).await;
        // a stream's line, which comes later, is there
        api.listen("topic:a", None).await.ready().await;
        eventually("the stream's line", async || {
            server.stderr().contains(r#""transport":"sse""#).then_some(())
        })
        .await;
        let log = server.stderr();
        let polls = log.lines().filter(|line| line.contains(r#""transport":"poll""#)).count();
        assert_eq!(polls, lines, "{log}");
    }
}
