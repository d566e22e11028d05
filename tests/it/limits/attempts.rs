//! Connection attempts that do not authenticate, and failures that are answered more and more slowly.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{behind_a_proxy, from, listen_from, refusals, refused, retry_after};
use crate::support::{Server, eventually};

const STREAM: &str = "/v2/realtime/stream?topics=topic:a";

#[tokio::test]
async fn of_300_opens_without_credentials_100_are_looked_at_and_others_are_not_hurt() {
    let server = Server::with(behind_a_proxy().set("limits.failure_delay_max_ms", 0));
    let stranger = server.api_with("nobody-has-this-key");
    let mut held = listen_from("192.0.2.7", &server.api()).await;
    held.ready().await;
    let answers = join_all((0..300).map(|_| from("198.51.100.1", &stranger, STREAM))).await;
    let (refused_ones, looked_at): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 429);
    assert!(looked_at.iter().all(|answer| answer.status == 401));
    // a token comes back every 600 ms
    assert!((100..=110).contains(&looked_at.len()), "{}", looked_at.len());
    for answer in &refused_ones {
        assert!((1..=2).contains(&retry_after(answer, "attempts")), "{answer:?}");
    }
    assert_eq!(refusals(&server, "attempts").await, refused_ones.len() as f64);
    server.api().publish("topic:a", "note", 1.into()).await;
    assert_eq!(held.take(1).await[0].data["data"], 1);
}

#[tokio::test]
async fn an_event_source_without_attempts_left_is_told_to_come_back_and_others_are_served() {
    let server = Server::with(behind_a_proxy().set("limits.attempts_per_min", 1));
    assert_eq!(from("198.51.100.1", &server.api_with("nobody-has-this-key"), STREAM).await.status, 401);
    let mut turned_away = listen_from("198.51.100.1", &server.api()).await;
    assert!(refused(&mut turned_away).await > 0);
    listen_from("192.0.2.8", &server.api()).await.ready().await;
}

#[tokio::test]
async fn addresses_of_one_ipv6_customer_count_as_one() {
    let options = behind_a_proxy().set("limits.attempts_per_min", 5).set("limits.failure_delay_max_ms", 0);
    let server = Server::with(options);
    let stranger = server.api().anonymous();
    for host in 1..=5 {
        assert_eq!(from(&format!("2001:db8:1:2::{host}"), &stranger, STREAM).await.status, 401);
    }
    assert_eq!(from("2001:db8:1:2:ffff::9", &stranger, STREAM).await.status, 429);
    assert_eq!(from("2001:db8:1:3::1", &stranger, STREAM).await.status, 401);
}

#[tokio::test]
async fn opens_that_authenticate_and_calls_with_a_good_key_do_not_count() {
    let server = Server::with(behind_a_proxy().set("limits.attempts_per_min", 5));
    for _ in 0..30 {
        listen_from("198.51.100.1", &server.api()).await.ready().await;
        assert_eq!(from("198.51.100.1", &server.api(), "/v2/fleets").await.status, 200);
    }
    assert_eq!(refusals(&server, "attempts").await, 0.0);
}

#[tokio::test]
async fn calls_with_bad_credentials_count_and_those_with_good_ones_still_pass() {
    let options = behind_a_proxy().set("limits.attempts_per_min", 5).set("limits.failure_delay_max_ms", 0);
    let server = Server::with(options);
    let stranger = server.api_with("nobody-has-this-key");
    for _ in 0..5 {
        assert_eq!(from("198.51.100.1", &stranger, "/v2/fleets").await.status, 401);
    }
    let after = retry_after(&from("198.51.100.1", &stranger, "/v2/fleets").await, "attempts");
    assert!((10..=12).contains(&after), "{after}");
    assert_eq!(from("198.51.100.1", &server.api(), "/v2/fleets").await.status, 200);
}

#[tokio::test]
async fn an_exempt_network_is_not_limited() {
    let options = behind_a_proxy().set("limits.attempts_per_min", 2).set("limits.exempt", "198.51.100.0/24");
    let server = Server::with(options);
    let stranger = server.api().anonymous();
    for _ in 0..30 {
        assert_eq!(from("198.51.100.1", &stranger, STREAM).await.status, 401);
    }
}

#[tokio::test]
async fn failures_of_an_address_are_answered_more_and_more_slowly() {
    let options = behind_a_proxy().set("limits.attempts_per_min", 0).set("limits.failure_delay_max_ms", 160);
    let server = Server::with(options);
    let stranger = server.api_with("nobody-has-this-key");
    let fail = async |count: u32| {
        let started = Instant::now();
        for _ in 0..count {
            assert_eq!(from("198.51.100.1", &stranger, "/v2/fleets").await.status, 401);
        }
        started.elapsed() / count
    };
    fail(20).await;
    // one failure is forgotten every six seconds, so the last of each twenty may still belong to the former
    for (number, least_ms) in [(0, 9), (1, 18), (2, 36), (3, 72)] {
        let each = fail(20).await;
        assert!(each >= Duration::from_millis(least_ms), "{number}: {each:?}");
    }
    let forbidden = server.api_with(&server.create_key("subscribe"));
    let slow = async {
        let answer = forbidden.request("POST", "/v2/events").header("X-Forwarded-For", "198.51.100.1");
        let answer = answer.json(&super::event("topic:a")).send().await.expect("an answer");
        assert_eq!(answer.status(), 403);
        Instant::now()
    };
    let good = async {
        assert_eq!(from("198.51.100.1", &server.api(), "/v2/fleets").await.status, 200);
        Instant::now()
    };
    let (slow, good) = tokio::join!(slow, good);
    assert!(good < slow, "only failures are slow");
}

#[tokio::test]
async fn answers_that_are_delayed_are_bounded_in_number() {
    let options = behind_a_proxy()
        .set("limits.attempts_per_min", 0)
        .set("limits.failure_delay_max_ms", 5000)
        .set("limits.delayed_answers", 2);
    let server = Server::with(options);
    let stranger = server.api_with("nobody-has-this-key");
    let started = Instant::now();
    let answers = join_all((0..400).map(|_| from("198.51.100.1", &stranger, "/v2/fleets"))).await;
    let refused_ones: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(refused_ones.len() >= 300, "{}", refused_ones.len());
    refused_ones.iter().for_each(|answer| assert!(retry_after(answer, "failures") >= 1));
    assert_eq!(refusals(&server, "failures").await, refused_ones.len() as f64);
    // two places for up to five seconds each: the rest did not queue behind them
    assert!(started.elapsed() < Duration::from_secs(5 * 30));
    let operator = server.operator();
    eventually("the places to be free again", async || {
        (operator.metric("bongsu_delayed_answers").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn polls_with_a_cursor_that_can_be_read_are_no_attempts_and_open_no_connection() {
    let options = behind_a_proxy().set("limits.attempts_per_min", 3).set("limits.key_connects_per_min", 3);
    let server = Server::with(options);
    let api = server.api();
    let poll = async |cursor: &str| {
        from("198.51.100.1", &api, &format!("/v2/realtime/poll?topics=topic:a&wait=0{cursor}")).await
    };
    let mut cursor = poll("").await.expect(200)["cursor"].as_str().expect("a cursor").to_owned();
    for _ in 0..20 {
        cursor =
            poll(&format!("&cursor={cursor}")).await.expect(200)["cursor"].as_str().expect("one").to_owned();
    }
    for begins in ["", "&cursor=1732400000000"] {
        poll(begins).await.expect(200);
    }
    retry_after(&poll("").await, "connects");
    poll(&format!("&cursor={cursor}")).await.expect(200);
    // what a cursor is worth is told by the credentials
    let stranger = server.api_with("nobody-has-this-key");
    let path = format!("/v2/realtime/poll?topics=topic:a&wait=0&cursor={cursor}");
    for _ in 0..3 {
        assert_eq!(from("198.51.100.1", &stranger, &path).await.status, 401);
    }
    retry_after(&from("198.51.100.1", &stranger, &path).await, "attempts");
}
