//! Our own events on the channels of the replaced systems.

use serde_json::{Value, json};

use super::{AT, end, is_heard_by, listen_everywhere, on, start, until_end};
use crate::cluster::leader;
use crate::support::postgres::sql;
use crate::support::{Api, Holding, Program, Redis, Server, eventually, in_package};

async fn subscriber(redis: &Redis, channel: &str) -> Program {
    let script = in_package("tests/clients/redis_subscriber.py");
    let words = [script.to_str().expect("UTF-8"), &redis.url(), channel];
    let mut program = Program::start("/usr/bin/python3", &words, &[]);
    program.find(|line| line.contains("subscribed").then_some(())).await;
    program
}

async fn heard(program: &mut Program) -> Value {
    serde_json::from_str(&program.line().await.expect("a message")).expect("JSON")
}

#[tokio::test]
async fn a_subscriber_of_the_replaced_system_reads_our_updates_once() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 2).set("redis.mirror", true).set("redis.prefix", "mine:")).await;
    let mut subscriber = subscriber(&redis, "channel:ei:updates").await;
    let mut expected = Vec::new();
    for (old, new) in [(Value::Null, 72.5), (json!(72.5), 48.0)] {
        let answer = server.api().update_ei("FLT-A01", new).await;
        expected.push(json!({"fleet_id": "FLT-A01", "old_ei": old, "new_ei": answer["new_ei"],
            "ei_grade": answer["ei_grade"], "timestamp": answer["timestamp"], "_src": "mine:"}));
    }
    for expected in expected {
        let seen = heard(&mut subscriber).await;
        assert_eq!(seen["message"], expected);
        assert_eq!(seen["keys"], json!(["fleet_id", "old_ei", "new_ei", "ei_grade", "timestamp", "_src"]));
    }
    // what others publish is not published again, nor is what is not ours to say
    super::publish_lines(&redis, "channel:bid:status", ["'{}'".to_owned()].into_iter());
    server.api().publish("topic:a", "ei_updated", json!({"fleet_id": "F"})).await;
    assert_eq!(server.operator().metric("bongsu_mirrored_total").await, 2.0);
}

#[tokio::test]
async fn a_subscriber_of_the_replaced_system_reads_how_our_orders_go_on() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 2).set("redis.mirror", true).set("redis.prefix", "mine:")).await;
    let mut subscriber = subscriber(&redis, "channel:order:status").await;
    let api = server.api();
    let order = json!({"order_id": "ORD-1", "shipper": "kim", "cargo": "tangerines"});
    api.post("/v2/orders", &order).await.expect(201);
    let seen = json!({"lat": 33.5, "lng": 126.53, "note": "at the gate", "occurred_at": AT});
    let mut expected = Vec::new();
    for report in [
        json!({"new_status": "assigned", "reason": "ours alone"}),
        json!({"new_status": "in_transit", "tracking_event": seen}),
        json!({"new_status": "picked_up"}),
        json!({"new_status": "delivered"}),
    ] {
        let answer = api.post("/v2/orders/ORD-1/status", &report).await.expect(200);
        if answer["applied"] == false {
            continue;
        }
        let mut message = json!({"order_id": "ORD-1", "old_status": answer["old_status"],
            "new_status": answer["new_status"], "timestamp": answer["updated_at"], "_src": "mine:"});
        if !answer["tracking_event"].is_null() {
            message["tracking_event"] = answer["tracking_event"].clone();
        }
        expected.push(message);
    }
    assert_eq!(expected.len(), 3, "{expected:?}");
    for expected in expected {
        assert_eq!(heard(&mut subscriber).await["message"], expected);
    }
    assert_eq!(server.operator().metric("bongsu_mirrored_total").await, 3.0);
}

#[tokio::test]
async fn a_subscriber_of_the_replaced_system_reads_our_bids_as_far_as_everybody_may() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 2).set("redis.mirror", true).set("redis.prefix", "mine:")).await;
    let mut statuses = subscriber(&redis, "channel:bid:status").await;
    let mut rankings = subscriber(&redis, "channel:bid:B:proposal_ranking").await;
    let api = server.api();
    for (bid, visibility) in [("S", "sealed"), ("B", "anonymous")] {
        let draft = json!({"bid_id": bid, "title": "t", "origin": 1, "destination": 2, "cargo": 3, "visibility": visibility,
            "criteria": [{"field": "price", "weight": 1, "direction": "asc", "reference": 1}]});
        api.post("/v2/bids", &draft).await.expect(201);
        let opened = api.post(&format!("/v2/bids/{bid}/open"), &json!({})).await.expect(200);
        let expected = json!({"bid_id": bid, "old_status": "draft", "new_status": "open",
            "timestamp": opened["updated_at"], "_src": "mine:"});
        assert_eq!(heard(&mut statuses).await["message"], expected);
        let proposal = json!({"carrier_id": "kim", "price": 1, "ei": 1, "lead_time_hours": 1});
        let accepted = api.post(&format!("/v2/bids/{bid}/proposals"), &proposal).await.expect(201);
        if bid == "B" {
            let message = &heard(&mut rankings).await["message"];
            let row = &message["ranked_proposals"][0];
            assert_eq!((&message["total"], &message["timestamp"]), (&json!(1), &accepted["timestamp"]));
            assert_eq!((&row["carrier_id"], &row["rank"]), (&accepted["pseudonym"]["carrier_id"], &json!(1)));
            assert!(!message.to_string().contains("kim"), "{message}");
        }
    }
    assert_eq!(
        server.operator().metric("bongsu_mirrored_total").await,
        3.0,
        "of the sealed one its status alone"
    );
}

/// A bid that is called B and open.
async fn open_bid(api: &Api) {
    let draft = json!({"bid_id": "B", "title": "t", "origin": 1, "destination": 2, "cargo": 3, "visibility": "open",
        "criteria": [{"field": "price", "weight": 1, "direction": "asc", "reference": 1}]});
    api.post("/v2/bids", &draft).await.expect(201);
    api.post("/v2/bids/B/open", &json!({})).await.expect(200);
}

/// One that is worse than those with lower numbers.
fn proposal(number: usize) -> Value {
    json!({"carrier_id": format!("c{number}"), "price": number, "ei": 1, "lead_time_hours": 1})
}

#[tokio::test]
async fn a_subscriber_of_the_replaced_system_reads_whole_rankings() {
    let redis = Redis::start().await;
    let options = on(&redis, 2).set("redis.mirror", true).set("redis.prefix", "mine:");
    let options =
        options.set("redis.mirror_all_rankings", true).set("ranking.window", 2).set("ranking.full_max", 4);
    let server = start(&redis, options.set("ranking.frame_ms", 0)).await;
    let mut rankings = subscriber(&redis, "channel:bid:B:proposal_ranking").await;
    let mut all = subscriber(&redis, "channel:proposal:ranking").await;
    let api = server.api();
    open_bid(&api).await;
    for total in 1..=5 {
        let accepted = api.post("/v2/bids/B/proposals", &proposal(total)).await.expect(201);
        let message = heard(&mut rankings).await["message"].clone();
        assert_eq!(heard(&mut all).await["message"], message);
        let rows = message["ranked_proposals"].as_array().expect("rows");
        let expected = if total > 4 { (2, json!(true)) } else { (total, Value::Null) };
        assert_eq!((rows.len(), message["truncated"].clone()), expected, "{message}");
        assert_eq!((&message["total"], &message["timestamp"]), (&json!(total), &accepted["timestamp"]));
        assert_eq!(message["_src"], "mine:");
    }
}

#[tokio::test]
async fn a_ranking_that_cannot_be_looked_at_in_time_is_read_by_its_window() {
    let redis = Redis::start().await;
    let options = on(&redis, 2).set("redis.mirror", true).set("ranking.window", 2).set("ranking.frame_ms", 0);
    // however long the locks below take on a busy machine, the change waits for them
    let options = options.set("storage.wait_ms", 30_000).set("storage.statement_timeout_ms", 30_000);
    let server = start(&redis, options).await;
    let mut rankings = subscriber(&redis, "channel:bid:B:proposal_ranking").await;
    // a leader that was asked itself would know without looking
    let leader = leader(&server.operator(), 0..2).await;
    let (api, url) = (server.api().at(1 - leader), server.database_url().to_owned());
    open_bid(&api).await;
    for total in 1..=3 {
        api.post("/v2/bids/B/proposals", &proposal(total)).await.expect(201);
        assert_eq!(shown(&mut rankings).await, (total, total, false));
    }
    // the change waits for the bid's row, and whoever looks at bids after it waits for somebody else
    let row = Holding::open(&url, "SELECT 1 FROM bids FOR UPDATE");
    let change = tokio::spawn(async move { api.post("/v2/bids/B/proposals", &proposal(4)).await });
    let waits = |what: &str| {
        let text = format!(
            "SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity USING (pid) \
             WHERE datname = current_database() AND NOT granted AND {what}"
        );
        let (url, what) = (url.clone(), format!("{what} to wait"));
        async move {
            eventually(&what, async || (sql(&url, &text) == "t").then_some(())).await;
        }
    };
    waits("locktype = 'transactionid'").await;
    let (locking, text) = (url.clone(), "LOCK TABLE bids IN ACCESS EXCLUSIVE MODE");
    let table = tokio::task::spawn_blocking(move || Holding::open(&locking, text));
    waits("mode = 'AccessExclusiveLock'").await;
    drop(row);
    let told = shown(&mut rankings).await;
    drop(table.await.expect("locked"));
    assert_eq!(told, (2, 4, true));
    change.await.expect("no panic").expect(201);
    // the next one is whole again
    let api = server.api().at(1 - leader);
    api.post("/v2/bids/B/proposals", &proposal(5)).await.expect(201);
    assert_eq!(shown(&mut rankings).await, (5, 5, false));
}

/// The next ranking that is told: rows, how many there are in all, and whether some are left out.
async fn shown(rankings: &mut Program) -> (usize, usize, bool) {
    let message = heard(rankings).await["message"].clone();
    let rows = message["ranked_proposals"].as_array().expect("rows").len();
    (rows, message["total"].as_u64().expect("a number") as usize, message["truncated"] == true)
}

#[tokio::test]
async fn events_of_users_are_read_on_user_events_with_their_time_and_node() {
    let redis = Redis::start().await;
    let options = on(&redis, 2).set("redis.mirror", true).set("redis.prefix", "mine:");
    let server = start(&redis, options.set("compat.anonymous_user", "123")).await;
    let mut subscriber = subscriber(&redis, "user-events").await;
    let nobody = server.api().anonymous().at(1);
    let node = nobody.get("/events/status").await.expect(200)["serverId"].clone();
    nobody.post("/accounts", &json!({"name": "savings", "balance": 12.5})).await.expect(201);
    let told = heard(&mut subscriber).await;
    assert_eq!(told["keys"], json!(["userId", "eventType", "data", "_src"]));
    let message = &told["message"];
    assert_eq!((&message["userId"], &message["_src"]), (&json!("123"), &json!("mine:")));
    assert_eq!(message["eventType"], "snapshots.generated");
    assert_eq!((&message["data"]["snapshotCount"], &message["data"]["serverId"]), (&json!(1), &node));
    assert!(message["data"]["timestamp"].is_string());
    nobody.call("PATCH", "/accounts/1", &json!({"balance": 7})).await.expect(200);
    let message = heard(&mut subscriber).await["message"].clone();
    assert_eq!(
        (&message["eventType"], &message["data"]["accountId"]),
        (&json!("account.updated"), &json!("1"))
    );
    assert_eq!((&message["data"]["changes"], &message["data"]["serverId"]), (&json!({"balance": 7}), &node));
    // neither comes back
    eventually("both to be heard and left", async || {
        let own = server.operator().metric("bongsu_ingest_refused_total{reason=\"own\"}").await;
        (own == 2.0).then_some(())
    })
    .await;
    let snapshots = nobody.get("/snapshots").await.expect(200)["snapshots"].clone();
    assert_eq!(snapshots.as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn what_this_cluster_has_mirrored_does_not_come_back_to_it_and_reaches_another() {
    let redis = Redis::start().await;
    let own = start(&redis, on(&redis, 2).set("redis.mirror", true).set("redis.prefix", "own:")).await;
    let another = Server::with(on(&redis, 1).set("redis.mirror", true).set("redis.prefix", "another:"));
    is_heard_by(&redis, 2).await;
    let mut here = listen_everywhere(&own, "fleet:F,topic:events").await.remove(0);
    let mut there = listen_everywhere(&another, "fleet:F,topic:events").await.remove(0);
    own.api().update_ei("F", 1.0).await;
    let ingested = there.take(1).await.remove(0);
    assert_eq!(ingested.data["data"]["version"], Value::Null);
    let forged = json!({"fleet_id": "F", "new_ei": 9, "timestamp": AT, "_src": "own:"}).to_string();
    assert_eq!(redis.cli(&["PUBLISH", "channel:ei:updates", &forged]), "2");
    assert_eq!(there.take(1).await[0].data["data"]["new_ei"], 9);
    assert_eq!(redis.cli(&["PUBLISH", "channel:events", "{\"type\":\"end\"}"]), "2");
    let seen = until_end(&mut here).await;
    assert_eq!(seen.len(), 1, "its own update, once: {seen:?}");
    assert_eq!(seen[0].1["version"], 1);
    assert_eq!(own.operator().metric("bongsu_ingest_refused_total{reason=\"own\"}").await, 2.0);
    // what was taken in is not mirrored on
    assert_eq!(until_end(&mut there).await, []);
    assert_eq!(another.operator().metric("bongsu_mirrored_total").await, 0.0);
}

#[tokio::test]
async fn the_figures_of_all_nodes_are_written_down_every_second() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 2).set("redis.mirror", true).set("redis.prefix", "own:")).await;
    let mut streams =
        [server.api().listen("topic:a", None).await, server.api().at(1).listen("topic:a", None).await];
    for stream in &mut streams {
        stream.ready().await;
    }
    // what is left of a node of another release, and of one that ended long ago
    redis.cli(&["HSET", "own:figures", "other", "{}"]);
    let old = json!({"at": 1, "figures": {"connections": 9, "published": 0, "delivered": 0, "waited_us": 0,
        "failed": 0, "span_us": 0}});
    redis.cli(&["HSET", "own:figures", "old", &old.to_string()]);
    server.api().publish("topic:a", "note", 1.into()).await;
    let read = |name: &str| redis.cli(&["GET", &format!("metrics:realtime:{name}")]);
    eventually("two connections and one message", async || {
        (read("connections") == "2" && read("messages") == "1").then_some(())
    })
    .await;
    let told = server.api().get("/v2/realtime/metrics").await.json();
    assert_eq!((&told["activeConnections"], &told["totalMessagesPublished"]), (&json!(2), &json!(1)));
    for name in ["messages_per_sec", "avg_latency_ms", "error_rate"] {
        assert!(read(name).parse::<f64>().is_ok_and(|own| own >= 0.0), "{name}: {}", read(name));
    }
    eventually("the others to be removed", async || {
        (redis.cli(&["HLEN", "own:figures"]) == "3").then_some(())
    })
    .await;
    // again and again
    redis.cli(&["DEL", "metrics:realtime:connections"]);
    eventually("the figures", async || (read("connections") == "2").then_some(())).await;
}

#[tokio::test]
async fn nothing_is_mirrored_unless_it_is_asked_for() {
    let redis = Redis::start().await;
    let server = start(&redis, on(&redis, 1)).await;
    let mut stream = listen_everywhere(&server, "fleet:F,topic:events").await.remove(0);
    server.api().update_ei("F", 1.0).await;
    stream.take(1).await;
    end(&redis);
    stream.expect("end").await;
    let operator = server.operator();
    assert_eq!(operator.metric("bongsu_mirrored_total").await, 0.0);
    assert_eq!(operator.metric("bongsu_ingest_refused_total{reason=\"own\"}").await, 0.0);
    let told = async || (server.api().get("/v2/realtime/metrics").await.status == 200).then_some(());
    eventually("figures", told).await;
    assert_eq!(redis.cli(&["KEYS", "metrics:*"]), "");
}
