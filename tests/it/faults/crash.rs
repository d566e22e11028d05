//! A server that is killed loses nothing that it has answered, and delivers nothing twice.

use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;

use futures_util::future::join_all;

use crate::support::{Api, Burst, Server, ServerOptions, Sse, assert_kept, counted, counts, eventually};

const PUBLISHERS: u64 = 4;

/// Everything that a listener with this cursor missed.
async fn missed(api: &Api, topic: &str, cursor: &str) -> Vec<crate::support::SseEvent> {
    let mut stream = api.listen(topic, Some(cursor)).await;
    let ready = stream.ready().await;
    assert_eq!((ready["recovered"].as_bool(), ready["position"].as_str()), (Some(true), Some(cursor)));
    stream.replayed().await
}

#[tokio::test]
async fn a_killed_server_keeps_every_answered_publish_once_and_in_order() {
    let mut server = Server::start();
    let api = server.api();
    let cursor = api.publish("topic:burst", "before", 0.into()).await;
    let burst = Burst::start(&api, "topic:burst", PUBLISHERS);
    burst.reaches(60).await;
    server.kill();
    let answered = burst.cut().await;
    assert!(api.try_get("/ready").await.is_none(), "the server still answers");
    server.restart(|options| options);
    let events = missed(&api, "topic:burst", &cursor).await;
    assert_kept(&counts(&events, PUBLISHERS), &answered);
}

#[tokio::test]
async fn a_publish_repeated_with_its_key_until_it_is_answered_is_in_the_log_once() {
    const COUNT: u64 = 40;
    let mut server = Server::start();
    let api = server.api();
    let cursor = api.publish("topic:burst", "before", 0.into()).await;
    let (answered, unanswered) = (Cell::new(0), [const { Cell::new(0) }; PUBLISHERS as usize]);
    let publish = async |publisher: u64| {
        for count in 0..COUNT {
            eventually("an answer", async || {
                let request = counted(&api, "topic:burst", publisher, count)
                    .header("Idempotency-Key", format!("{publisher}-{count}"));
                let tries = &unanswered[publisher as usize];
                match Api::send(request).await {
                    Ok(answer) => Some(answer.expect(202)),
                    Err(_) => {
                        tries.set(tries.get() + 1);
                        None
                    }
                }
            })
            .await;
            answered.set(answered.get() + 1);
        }
    };
    let fault = async {
        eventually("answers", async || (answered.get() >= COUNT).then_some(())).await;
        server.kill();
        eventually("publishers that are not answered", async || {
            unanswered.iter().all(|tries| tries.get() > 0).then_some(())
        })
        .await;
        server.restart(|options| options);
    };
    tokio::join!(fault, join_all((0..PUBLISHERS).map(publish)));
    let events = missed(&api, "topic:burst", &cursor).await;
    let whole: Vec<u64> = (0..COUNT).collect();
    assert_eq!(counts(&events, PUBLISHERS), vec![whole; PUBLISHERS as usize]);
}

/// A server whose next life ends at `point`, and a listener to the fleet with its cursor.
async fn armed(point: &str) -> (Server, Sse, String) {
    let mut server = Server::start();
    let api = server.api();
    api.update_ei("FLT-A01", 1.0).await;
    let mut stream = api.listen("fleet:FLT-A01", None).await;
    stream.ready().await;
    api.update_ei("FLT-A01", 2.0).await;
    eventually("the update before", async || {
        let event = stream.next().await.expect("an event");
        (event.data["data"]["version"] == 2).then_some(())
    })
    .await;
    let cursor = stream.cursor.clone().expect("an id");
    server.restart(|options| options.env("BONGSU_CRASH_AT", point));
    let mut stream = server.api().listen("fleet:FLT-A01", Some(&cursor)).await;
    assert_eq!(stream.ready().await["recovered"], true);
    (server, stream, cursor)
}

async fn died_of_abort(server: &mut Server) {
    let status = server.ended().await;
    assert_eq!(status.signal(), Some(6), "{status}: not of the crash point");
}

async fn an_update_killed_at(point: &str) {
    let (mut server, mut stream, cursor) = armed(point).await;
    let api = server.api();
    let update = serde_json::json!({"fleet_id": "FLT-A01", "new_ei": 3});
    // answered or not: it is committed either way
    let _ = Api::send(api.request("POST", "/v2/fleet/ei-update").json(&update)).await;
    died_of_abort(&mut server).await;
    let seen = stream.rest().await;
    assert!(seen.iter().all(|event| event.is_control()), "delivered before the crash: {seen:?}");
    server.restart(|_| ServerOptions::default());
    api.update_ei("FLT-A01", 4.0).await;
    let mut stream = api.listen("fleet:FLT-A01", Some(&cursor)).await;
    assert_eq!(stream.ready().await["recovered"], true);
    let events = stream.take(2).await;
    let values: Vec<_> = events.iter().map(|event| event.data["data"]["new_ei"].as_i64().unwrap()).collect();
    assert_eq!(values, [3, 4]);
    // and a listener that comes later still finds it once
    let mut stream = api.listen("fleet:FLT-A01", Some(&cursor)).await;
    stream.ready().await;
    let replayed = stream.replayed().await;
    assert_eq!(replayed, events);
}

#[tokio::test]
async fn an_update_committed_by_a_server_killed_before_it_told_the_relay_is_delivered_once() {
    an_update_killed_at("fleets.after_commit").await;
}

#[tokio::test]
async fn an_update_committed_by_a_server_killed_before_the_append_is_delivered_once() {
    an_update_killed_at("relay.before_append").await;
}

#[tokio::test]
async fn an_update_appended_by_a_server_killed_before_the_delivery_is_delivered_once() {
    an_update_killed_at("append.after_commit").await;
}

#[tokio::test]
async fn a_publish_appended_by_a_server_killed_before_the_answer_is_answered_by_its_key() {
    let (mut server, mut stream, _) = armed("append.after_commit").await;
    let api = server.api();
    let publish = || counted(&api, "topic:a", 0, 0).header("Idempotency-Key", "only");
    Api::send(publish()).await.expect_err("killed before the answer");
    died_of_abort(&mut server).await;
    stream.rest().await;
    server.restart(|_| ServerOptions::default());
    let answer = Api::send(publish()).await.expect("an answer").expect(202);
    let again = Api::send(publish()).await.expect("an answer").expect(202);
    assert_eq!(answer, again);
    let after = api.publish("topic:a", "after", 0.into()).await;
    let seq = |position: &str| position.rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
    let position = answer["position"].as_str().expect("a position");
    assert_eq!(seq(&after), seq(position) + 1, "one entry between them and no more");
}
