//! Redis dies, stops, or cannot be reached: commands go on, nothing is lost silently, all by itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{entries, metric_of, versions, with_own_redis};
use crate::support::load::{Publishing, Reports, assert_dense};
use crate::support::{Api, Proxy, Redis, Server, ServerOptions, eventually, pause};

async fn linked(operator: &Api, node: usize, link: &str) -> bool {
    metric_of(operator, node, &format!("bongsu_redis_linked{{link=\"{link}\"}}")).await == 1.0
}

#[tokio::test]
async fn a_redis_that_died_and_came_back_empty_costs_no_command_and_every_client_is_told() {
    let (mut redis, server) = with_own_redis(2).await;
    let (api, operator) = (server.api(), server.operator());
    let mut streams = Vec::new();
    for node in 0..2 {
        let mut stream = api.at(node).listen("fleet:FLT-A01,topic:a", None).await;
        stream.ready().await;
        streams.push(stream);
    }
    let reports = Reports::start(api.clone(), "FLT-A01");
    reports.reaches(20).await;
    redis.kill();
    let away_at = reports.count();
    for node in 0..2 {
        eventually("the loss to be noticed", async || {
            (!linked(&operator, node, "commands").await).then_some(())
        })
        .await;
    }
    // what only the log could keep is refused, and says so; nothing else is
    let publish = json!({"topic": "topic:a", "type": "tick", "data": {}});
    let refused = api.post("/v2/events", &publish).await;
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(refused.problem(503), "log_unavailable");
    let ready = api.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["log"]), (503, &json!(false)));
    assert_eq!(api.get("/health").await.status, 200);
    reports.reaches(away_at + 50).await;
    let back_at = reports.count();
    redis.restart().await;
    reports.reaches(back_at + 20).await;
    let last = reports.stop().await;
    for mut stream in streams {
        let mut before = Vec::new();
        let ready = loop {
            let event = stream.next().await.expect("the stream stays open");
            match event.event.as_str() {
                "ready" => break event,
                "close" => panic!("{event:?}"),
                _ => before.push(event),
            }
        };
        assert_eq!(
            (&ready.data["recovered"], &ready.data["reason"]),
            (&json!(false), &json!("epoch_changed"))
        );
        let before = versions(&before);
        assert_eq!(before, (1..=before.len() as i64).collect::<Vec<_>>());
        let mut after = Vec::new();
        while after.last() != Some(&last) {
            after.extend(versions(&stream.take(1).await));
        }
        let first = after[0];
        assert_eq!(after, (first..=last).collect::<Vec<_>>(), "each once and in order");
        assert!(first <= away_at + 2, "the first of the outage, {}, and not {first}", away_at + 1);
    }
    assert_eq!(api.get("/ready").await.status, 200);
    api.publish("topic:a", "tick", json!({})).await;
}

#[tokio::test]
async fn whoever_comes_while_redis_is_away_is_told_to_come_back() {
    let (mut redis, server) = with_own_redis(1).await;
    let (api, operator) = (server.api(), server.operator());
    let cursor = api.publish("topic:a", "tick", json!({})).await;
    redis.kill();
    eventually("the loss to be noticed", async || (!linked(&operator, 0, "commands").await).then_some(()))
        .await;
    // of a tenant that this node does not follow
    let stranger = server.api_of("others", "subscribe");
    for (api, cursor) in [(&stranger, None), (&api, Some(&*cursor.replace('-', "-9")))] {
        let mut stream = api.listen("topic:a", cursor).await;
        let close = stream.expect("close").await;
        assert_eq!((&close.data["code"], &close.data["reconnect"]), (&json!(1001), &json!(true)));
    }
    let polled = stranger.get("/v2/realtime/poll?topics=topic:a").await.expect(200);
    assert_eq!((&polled["close"]["code"], &polled["cursor"]), (&json!(1001), &Value::Null));
    redis.restart().await;
    let mut stream = eventually("the log", async || {
        let mut stream = stranger.listen("topic:a", None).await;
        let event = stream.next().await.expect("an event");
        (event.event == "ready").then_some(stream)
    })
    .await;
    stranger_publishes(&server, "topic:a").await;
    assert_eq!(stream.take(1).await[0].event, "tick");
}

async fn stranger_publishes(server: &Server, topic: &str) {
    server.api_of("others", "publish").publish(topic, "tick", json!({})).await;
}

#[tokio::test]
async fn a_redis_that_stands_still_for_five_seconds_loses_and_doubles_nothing() {
    let (redis, server) = with_own_redis(2).await;
    let (api, operator) = (server.api(), server.operator());
    let mut streams = Vec::new();
    for node in 0..2 {
        let mut stream = api.at(node).listen("topic:a", None).await;
        stream.ready().await;
        streams.push(stream);
    }
    let publishing = Publishing::start(api.clone(), "topic:a");
    publishing.reaches(20).await;
    redis.signal("STOP");
    let stopped = Instant::now();
    for node in 0..2 {
        for link in ["subscriber", "commands"] {
            let gone = async || (!linked(&operator, node, link).await).then_some(());
            eventually("the silence to be noticed", gone).await;
        }
    }
    assert!(stopped.elapsed() < Duration::from_secs(3), "noticed after {:?}", stopped.elapsed());
    pause(Duration::from_secs(5).saturating_sub(stopped.elapsed())).await;
    redis.signal("CONT");
    publishing.goes_on().await;
    let published = publishing.stop().await;
    assert!(published.refused > 0, "the fault has happened");
    for stream in &mut streams {
        assert_dense(stream, published.count()).await;
    }
    let logged: Vec<_> = entries(&server, "default").iter().map(|own| own["data"]["count"].clone()).collect();
    let dense: Vec<Value> = (0..logged.len() as u64).map(Value::from).collect();
    assert_eq!(logged, dense);
}

/// Two nodes, of which the first one reaches Redis over a link that breaks.
async fn with_weak_link() -> (Redis, Proxy, Server) {
    let (redis, mut server) = with_own_redis(2).await;
    let proxy = Proxy::to(redis.address()).await;
    let link = format!("redis://{}", proxy.address());
    server.kill_node(0);
    server.start_node_with(0, |options| options.env("REDIS_URL", link));
    (redis, proxy, server)
}

#[tokio::test]
async fn a_link_that_is_cut_again_and_again_loses_and_doubles_nothing() {
    let (_redis, proxy, server) = with_weak_link().await;
    let (api, operator) = (server.api(), server.operator());
    let mut stream = api.at(0).listen("topic:a", None).await;
    stream.ready().await;
    let publishing = Publishing::start(api.clone(), "topic:a");
    publishing.reaches(20).await;
    let links = "bongsu_redis_relinks_total{link=\"subscriber\"}";
    let fills = async || metric_of(&operator, 0, "bongsu_log_fills_total").await;
    let mut cuts = 0;
    // until something was published that could not be heard, too
    while cuts < 5 || fills().await < 1.0 {
        let before = metric_of(&operator, 0, links).await;
        proxy.cut();
        eventually("the link to be made again", async || {
            (metric_of(&operator, 0, links).await > before).then_some(())
        })
        .await;
        publishing.goes_on().await;
        cuts += 1;
        assert!(cuts < 100, "nothing was missed");
    }
    let published = publishing.stop().await;
    assert_dense(&mut stream, published.count()).await;
}

#[tokio::test]
async fn a_subscription_that_is_open_and_dead_is_noticed_within_three_seconds() {
    let (_redis, proxy, server) = with_weak_link().await;
    let (api, operator) = (server.api(), server.operator());
    let mut stream = api.at(0).listen("topic:a", None).await;
    stream.ready().await;
    let publishing = Publishing::start(api.at(1), "topic:a");
    publishing.reaches(20).await;
    proxy.pause();
    let paused = Instant::now();
    let gone = async || (!linked(&operator, 0, "subscriber").await).then_some(());
    eventually("the silence to be noticed", gone).await;
    assert!(paused.elapsed() < Duration::from_secs(3), "noticed after {:?}", paused.elapsed());
    publishing.goes_on().await;
    proxy.resume();
    let published = publishing.stop().await;
    assert_dense(&mut stream, published.count()).await;
}

#[tokio::test]
async fn subscriptions_that_redis_ends_while_publishing_lose_nothing() {
    let (redis, server) = with_own_redis(2).await;
    let (api, operator) = (server.api(), server.operator());
    let mut stream = api.at(0).listen("topic:a", None).await;
    stream.ready().await;
    let publishing = Publishing::start(api.clone(), "topic:a");
    publishing.reaches(20).await;
    for _ in 0..10 {
        let ended: u64 = redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).parse().expect("a number");
        assert!(ended > 0, "the fault has happened");
        publishing.goes_on().await;
    }
    let published = publishing.stop().await;
    assert_eq!(published.refused, 0);
    assert_dense(&mut stream, published.count()).await;
    assert!(metric_of(&operator, 0, "bongsu_redis_relinks_total{link=\"subscriber\"}").await > 5.0);
}

#[tokio::test]
async fn a_slow_link_keeps_the_order() {
    let (_redis, proxy, server) = with_weak_link().await;
    let api = server.api();
    let mut stream = api.at(0).listen("topic:a", None).await;
    stream.ready().await;
    proxy.delay(Duration::from_millis(60));
    let publishing = Publishing::start(api.clone(), "topic:a");
    publishing.reaches(100).await;
    let published = publishing.stop().await;
    assert_eq!(published.refused, 0);
    assert_dense(&mut stream, published.count()).await;
}

#[tokio::test]
async fn a_hole_that_cannot_be_filled_any_more_ends_the_sessions_and_they_are_told() {
    let (redis, server) = with_own_redis(2).await;
    drop(server);
    let options = ServerOptions::default()
        .cluster(2)
        .env("REDIS_URL", redis.url())
        .set("log.retention_count", 100)
        .set("log.peak_rate_per_s", 1);
    let mut server = Server::with(options);
    let proxy = Proxy::to(redis.address()).await;
    let link = format!("redis://{}", proxy.address());
    server.kill_node(0);
    server.start_node_with(0, |options| options.env("REDIS_URL", link));
    let (api, operator) = (server.api(), server.operator());
    let mut stream = api.at(0).listen("topic:a", None).await;
    let start = stream.ready().await["position"].as_str().expect("a position").to_owned();
    proxy.pause();
    for _ in 0..6 {
        let events: Vec<Value> =
            (0..100).map(|n| json!({"topic": "topic:a", "type": "tick", "data": {"n": n}})).collect();
        api.at(1).post("/v2/events/batch", &json!({"events": events})).await.expect(202);
    }
    let gone = async || (!linked(&operator, 0, "subscriber").await).then_some(());
    eventually("the silence to be noticed", gone).await;
    proxy.resume();
    let close = stream.expect("close").await;
    assert_eq!((&close.data["code"], &close.data["reconnect"]), (&json!(3002), &json!(true)));
    let mut stream = api.at(0).listen("topic:a", Some(&start)).await;
    let ready = stream.ready().await;
    assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(false), &json!("evicted")));
    api.at(1).publish("topic:a", "after", json!({})).await;
    assert_eq!(stream.take(1).await[0].event, "after");
    assert_eq!(metric_of(&operator, 0, "bongsu_log_losses_total").await, 1.0);
}

#[tokio::test]
async fn nodes_that_were_given_one_name_do_not_take_each_other_for_silent() {
    let server = Server::with(ServerOptions::default().cluster(1).env("SERVER_ID", "same"));
    let first = server.operator();
    // older than a message to itself may be late
    pause(Duration::from_secs(6)).await;
    let of =
        |name: &str| server.options().env.iter().find(|own| own.0 == name).expect("a cluster's").1.clone();
    let mut options = ServerOptions::default().cluster(1);
    for name in ["DATABASE_URL", "REDIS_URL", "BONGSU__REDIS__PREFIX", "SERVER_ID"] {
        options = options.env(name, of(name));
    }
    let second = Server::with(options);
    pause(Duration::from_secs(2)).await;
    for operator in [first, second.operator()] {
        assert_eq!(operator.metric("bongsu_redis_relinks_total{link=\"subscriber\"}").await, 1.0);
    }
}
