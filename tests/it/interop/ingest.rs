//! What other services publish reaches the clients of every node, once and in order.

use serde_json::{Value, json};

use super::{AT, end, listen_everywhere, on, publish, publish_lines, start, until_end};
use crate::support::{Proxy, Redis, Server, When, eventually};

#[tokio::test]
async fn every_shape_of_the_replaced_systems_reaches_the_clients_of_every_node_once() {
    let redis = Redis::start().await;
    let options = on(&redis, 3).set("redis.interop.channels", "system-events=topic:system");
    let server = start(&redis, options).await;
    let topics = "fleet:FLT-A01,bid:BID-1,ranking:BID-1,order:ORD-1,user:123,topic:events,topic:system";
    let streams = listen_everywhere(&server, topics).await;
    let ei = json!({"fleet_id": "FLT-A01", "old_ei": 75.25, "new_ei": 72.5, "ei_grade": "B", "timestamp": AT, "jobId": "7"});
    let bid = json!({"bid_id": "BID-1", "old_status": "open", "new_status": "closed", "publishedAt": 1714525200000_i64});
    let rows = json!([{"proposal_id": "p2", "rank": 1, "score": 0.875}, {"proposal_id": "p1", "rank": 2, "score": 0.5}]);
    let ranking = json!({"bid_id": "BID-1", "ranked_proposals": rows, "timestamp": AT});
    let order =
        json!({"order_id": "ORD-1", "old_status": "assigned", "new_status": "in_transit", "timestamp": AT});
    let snapshot = json!({"snapshotCount": 2, "timestamp": AT, "serverId": "s"});
    let user = json!({"userId": "123", "eventType": "snapshots.generated", "data": snapshot});
    publish(&redis, "channel:ei:updates", &ei);
    publish(&redis, "channel:bid:status", &bid);
    publish(
        &redis,
        "channel:bid:BID-1:proposal_ranking",
        &json!({"ranked_proposals": rows, "timestamp": AT}),
    );
    publish(&redis, "channel:proposal:ranking", &ranking);
    publish(&redis, "channel:order:status", &order);
    publish(&redis, "user-events", &user);
    publish(&redis, "system-events", &json!({"eventType": "up", "n": 1}));
    let batch =
        json!({"type": "batch", "events": [ei, {"type": "note", "n": 2}, {"n": 3}, order], "timestamp": AT});
    publish(&redis, "channel:events", &batch);
    end(&redis);
    let ei = json!({"fleet_id": "FLT-A01", "old_ei": 75.25, "new_ei": 72.5, "ei_grade": "B", "timestamp": AT, "version": null});
    let bid = json!({"bid_id": "BID-1", "old_status": "open", "new_status": "closed", "updated_at": AT, "version": null});
    let ranking = json!({"bid_id": "BID-1", "version": null, "total": 2, "from_version": null, "ranked_proposals": rows,
        "moves": null, "timestamp": AT});
    let order = json!({"order_id": "ORD-1", "old_status": "assigned", "new_status": "in_transit", "updated_at": AT,
        "version": null});
    let expected: Vec<(&str, Value)> = vec![
        ("ei_updated fleet:FLT-A01", ei.clone()),
        ("bid_status_changed bid:BID-1", bid),
        ("proposal_ranking_updated ranking:BID-1", ranking),
        ("order_status_changed order:ORD-1", order.clone()),
        ("snapshots.generated user:123", snapshot),
        ("up topic:system", json!({"eventType": "up", "n": 1})),
        ("ei_updated fleet:FLT-A01", ei),
        ("note topic:events", json!({"type": "note", "n": 2})),
        ("event topic:events", json!({"n": 3})),
        ("order_status_changed order:ORD-1", order),
    ];
    let expected: Vec<(String, Value)> =
        expected.into_iter().map(|(what, data)| (what.to_owned(), data)).collect();
    for mut stream in streams {
        assert_eq!(until_end(&mut stream).await, expected);
    }
    let operator = server.operator();
    // the end is the eleventh; the other channel's copy of the ranking is none
    assert_eq!(operator.metric("bongsu_ingested_total").await, 11.0);
    assert_eq!(operator.metric("bongsu_ingest_refused_total{reason=\"copy\"}").await, 1.0);
    assert_eq!(operator.metric("bongsu_ingesting").await, 1.0);
}

#[tokio::test]
async fn rankings_of_others_reach_old_clients_as_they_are() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 2)).await;
    let path = "/v2/realtime/proposal-ranking-updates?bid_id=BID-1";
    let mut streams = Vec::new();
    for api in server.api().everywhere() {
        let mut stream = api.stream(path, None).await;
        stream.ready().await;
        streams.push(stream);
    }
    let rows = json!([{"proposal_id": "p2", "rank": 1, "score": 0.875}]);
    publish(
        &redis,
        "channel:bid:BID-1:proposal_ranking",
        &json!({"ranked_proposals": rows, "timestamp": AT}),
    );
    for stream in &mut streams {
        let event = stream.take(1).await.remove(0);
        assert_eq!(
            (event.event.as_str(), &event.data["ranked_proposals"]),
            ("proposal_ranking_updated", &rows)
        );
    }
}

#[tokio::test]
async fn what_is_published_in_a_hurry_arrives_in_its_order() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 2)).await;
    let streams = listen_everywhere(&server, "topic:events").await;
    publish_lines(&redis, "channel:events", (0..1000).map(|n| format!("'{{\"type\":\"tick\",\"n\":{n}}}'")));
    end(&redis);
    for mut stream in streams {
        let numbers: Vec<_> =
            until_end(&mut stream).await.iter().map(|(_, data)| data["n"].as_i64()).collect();
        assert_eq!(numbers, (0..1000).map(Some).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn ingested_events_stand_beside_our_own_and_are_never_compared_with_them() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 2)).await;
    let mut stream = listen_everywhere(&server, "fleet:FLT-A01").await.remove(0);
    let ei =
        json!({"fleet_id": "FLT-A01", "old_ei": 1, "new_ei": 2.000001, "ei_grade": "A", "timestamp": AT});
    let mut versions = Vec::new();
    for round in [1, 2] {
        server.api().update_ei("FLT-A01", f64::from(round)).await;
        versions.push(stream.take(1).await[0].data["data"]["version"].clone());
        publish(&redis, "channel:ei:updates", &ei);
        let event = stream.take(1).await.remove(0);
        assert_eq!(event.data["data"]["new_ei"].to_string(), "2.000001");
        versions.push(event.data["data"]["version"].clone());
    }
    assert_eq!(versions, [json!(1), Value::Null, json!(2), Value::Null]);
    // no table of ours was changed by what others said
    let fleet = server.api().get("/v2/fleets/FLT-A01").await.expect(200);
    assert_eq!(fleet["version"], 2, "{fleet}");
}

#[tokio::test]
async fn the_tenant_is_the_one_that_was_named_and_nobody_hears_where_nothing_is_to_be_taken_in() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 1).set("redis.interop.tenant", "acme")).await;
    let mut others = server.api().listen("topic:events", None).await;
    others.ready().await;
    let acme = server.api_of("acme", "subscribe");
    let mut own = acme.listen("topic:events", None).await;
    own.ready().await;
    end(&redis);
    own.expect("end").await;
    server.api().publish("topic:events", "ours", Value::Null).await;
    others.expect("ours").await;
    drop(server);
    let server = Server::with(on(&redis, 1).set("redis.ingest", false));
    server.api().listen("topic:events", None).await.ready().await;
    let operator = server.operator();
    eventually("the node to lead", async || (operator.metric("bongsu_leader").await == 1.0).then_some(()))
        .await;
    assert_eq!(redis.cli(&["PUBLISH", "channel:events", "{}"]), "0");
}

#[tokio::test]
async fn what_redis_refuses_for_a_while_enters_in_its_order_when_there_is_room_again() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 2).set("logging.level", "debug")).await;
    let streams = listen_everywhere(&server, "topic:events").await;
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    publish(&redis, "channel:events", &json!({"type": "tick", "n": 0}));
    eventually("Redis to refuse an append", async || {
        server.stderr().contains("what other services published could not be appended").then_some(())
    })
    .await;
    for n in 1..10 {
        publish(&redis, "channel:events", &json!({"type": "tick", "n": n}));
    }
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    end(&redis);
    for mut stream in streams {
        let numbers: Vec<_> =
            until_end(&mut stream).await.iter().map(|(_, data)| data["n"].as_i64()).collect();
        assert_eq!(numbers, (0..10).map(Some).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_repeated_and_delivers_once() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let url = proxy.url(&redis.url(), redis.address());
    let server = start(&redis, on(&redis, 2).env("REDIS_URL", url)).await;
    let streams = listen_everywhere(&server, "topic:events").await;
    let mut cut = proxy.cut_at(&["marked"], When::Answered(""));
    publish(&redis, "channel:events", &json!({"type": "marked"}));
    cut.done().await;
    end(&redis);
    for mut stream in streams {
        let names: Vec<_> = until_end(&mut stream).await.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["marked topic:events"]);
    }
    let operator = server.operator();
    assert_eq!(operator.metric("bongsu_ingested_total").await, 2.0);
    assert_eq!(operator.metric("bongsu_ingest_dropped_total{reason=\"outcome_unknown\"}").await, 0.0);
}
