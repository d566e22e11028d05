//! Orders: commands, state, history, and what listeners get.

mod hearing;
mod rules;

use serde_json::{Value, json};

use crate::support::{
    Answer, Api, Backend, Client, Issuer, Server, ServerOptions, Transport, from_now,
    on_every_transport_of_both_backends,
};

const SECRET: &str = "a secret of at least thirty-two bytes";

on_every_transport_of_both_backends! {
    a_life_of_an_order_is_heard_step_by_step_and_replayed_after_a_reconnect,
}

fn options() -> ServerOptions {
    ServerOptions::default().env("JWT_SECRET", SECRET)
}

/// A token of tenant `default` with more claims.
fn token(sub: &str, claims: &Value) -> String {
    let mut all = json!({"sub": sub, "exp": from_now(600)});
    all.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
    Issuer::shared(SECRET, None).sign(&all)
}

/// Calls of a user of tenant `default`.
fn user(server: &Server, sub: &str, claims: &Value) -> Api {
    server.api().bearing(&token(sub, claims))
}

/// Creates an order of `kim`, carried by `CJ`.
async fn create(api: &Api, order_id: &str) -> Value {
    let order = json!({"order_id": order_id, "shipper": "kim", "carrier": "CJ"});
    api.post("/v2/orders", &order).await.expect(201)
}

async fn report(api: &Api, order_id: &str, body: &Value) -> Answer {
    api.post(&format!("/v2/orders/{order_id}/status"), body).await
}

/// Reports a status alone; what it is answered.
async fn set(api: &Api, order_id: &str, status: &str) -> Value {
    report(api, order_id, &json!({"new_status": status})).await.expect(200)
}

/// An order without where it stands in the log.
async fn found(api: &Api, order_id: &str) -> Value {
    let mut order = api.get(&format!("/v2/orders/{order_id}")).await.expect(200);
    order.as_object_mut().expect("an object").remove("position");
    order
}

async fn a_life_of_an_order_is_heard_step_by_step_and_replayed_after_a_reconnect(transport: Transport) {
    let server = Server::start();
    let (api, elsewhere) = (server.api().at(0), server.api().at(server.count() - 1));
    let (mut client, _) = Client::over(transport, &elsewhere, "order:ORD-1", None).await;
    let created = create(&api, "ORD-1").await;
    assert_eq!((&created["status"], &created["version"]), (&json!("created"), &json!(1)));
    let seen = |n: u32| {
        json!({"lat": 33.25 + f64::from(n), "lng": 126.5, "note": format!("mark {n} \"제주\""),
            "occurred_at": format!("2026-01-01T00:0{n}:00+09:00")})
    };
    let mut told = Vec::new();
    for (n, status) in
        ["assigned", "picked_up", "in_transit", "exception", "in_transit", "in_transit", "delivered"]
            .into_iter()
            .enumerate()
    {
        let body =
            json!({"new_status": status, "tracking_event": seen(n as u32), "reason": "none of theirs"});
        let answer = report(&api, "ORD-1", &body).await.expect(200);
        let mut expected = seen(n as u32);
        expected["occurred_at"] = json!(format!("2025-12-31T15:0{n}:00.000Z"));
        assert_eq!(answer["tracking_event"], expected);
        assert_eq!((&answer["new_status"], &answer["version"]), (&json!(status), &json!(n + 2)), "{answer}");
        let fields: Vec<&str> = answer.as_object().expect("an object").keys().map(String::as_str).collect();
        let all = ["new_status", "old_status", "order_id", "tracking_event", "updated_at", "version"];
        assert_eq!(fields, all);
        told.push(answer);
    }
    let mut cursors = Vec::new();
    for (n, answer) in told.iter().enumerate() {
        let event = client.event().await;
        let (name, topic) = (event.name.as_str(), event.topic.as_str());
        assert_eq!((name, topic, &event.data), ("order_status_changed", "order:ORD-1", answer));
        assert_eq!(
            answer["old_status"],
            if n == 0 { "created".into() } else { told[n - 1]["new_status"].clone() }
        );
        cursors.push(event.id.expect("an id"));
    }
    drop(client);
    let (mut again, ready) = Client::over(transport, &elsewhere, "order:ORD-1", Some(&cursors[2])).await;
    assert_eq!(ready["recovered"], true);
    let missed = again.replay().await;
    assert_eq!(
        missed.iter().map(|event| &event.data).collect::<Vec<_>>(),
        told[3..].iter().collect::<Vec<_>>()
    );
    let order = found(&elsewhere, "ORD-1").await;
    assert_eq!((&order["status"], &order["version"]), (&json!("delivered"), &json!(told.len() + 1)));
    assert_eq!(order["updated_at"], told.last().expect("the last")["updated_at"]);
}

#[tokio::test]
async fn reports_out_of_order_are_history_and_heard_by_nobody() {
    let server = Server::with(options());
    let api = server.api();
    create(&api, "ORD-1").await;
    let (mut client, _) = Client::connect(&api, "order:ORD-1", None).await;
    let at = |minute: u32| format!("2026-01-01T12:{minute:02}:00.000Z");
    let told = async |status: &str, minute: u32| {
        let body = json!({"new_status": status, "tracking_event": {"occurred_at": at(minute)}});
        report(&api, "ORD-1", &body).await.expect(200)
    };
    let applied = told("in_transit", 10).await;
    assert_eq!(applied.get("applied"), None);
    // of an earlier step, older, or both
    for (status, minute) in [("picked_up", 11), ("delivered", 9), ("cancelled", 10), ("assigned", 1)] {
        let answer = told(status, minute).await;
        let expected = json!({"order_id": "ORD-1", "old_status": "in_transit", "new_status": "in_transit",
            "updated_at": applied["updated_at"], "version": applied["version"], "applied": false,
            "tracking_event": {"occurred_at": at(minute)}});
        assert_eq!(answer, expected, "{status} at {minute}");
    }
    let arrived = told("delivered", 12).await;
    assert_eq!(arrived["old_status"], "in_transit");
    // devices that were without a network for long
    assert_eq!(told("in_transit", 11).await["applied"], false);
    for expected in [&applied, &arrived] {
        assert_eq!(client.event().await.data, *expected);
    }
    let order = found(&api, "ORD-1").await;
    assert_eq!((&order["status"], &order["version"]), (&json!("delivered"), &json!(3)));
    let history: Vec<_> = order["history"].as_array().expect("a history").iter().collect();
    let shown: Vec<_> = history
        .iter()
        .map(|own| {
            (own["number"].as_u64(), own["status"].as_str(), own["applied"].as_bool(), &own["occurred_at"])
        })
        .collect();
    let expected = [
        ("in_transit", false, 11),
        ("delivered", true, 12),
        ("assigned", false, 1),
        ("cancelled", false, 10),
        ("delivered", false, 9),
        ("picked_up", false, 11),
        ("in_transit", true, 10),
    ];
    assert_eq!(shown.len(), expected.len());
    for (n, (own, (status, applied, minute))) in shown.into_iter().zip(expected).enumerate() {
        assert_eq!(own, (Some(7 - n as u64), Some(status), Some(applied), &json!(at(minute))));
    }
}

#[tokio::test]
async fn an_order_that_is_over_stays_so_and_an_exception_goes_on_from_where_it_came() {
    let server = Server::with(options());
    let api = server.api();
    for (number, last) in ["delivered", "cancelled"].into_iter().enumerate() {
        let id = format!("ORD-{number}");
        create(&api, &id).await;
        set(&api, &id, last).await;
        let before = found(&api, &id).await;
        for status in ["cancelled", "exception", "delivered"] {
            let answer = report(&api, &id, &json!({"new_status": status})).await;
            let detail = answer.json()["detail"].as_str().expect("a detail").to_owned();
            assert!(detail.contains(&format!("the order is {last},")), "{detail}");
            assert_eq!(answer.problem(409), "illegal_transition", "{last} {status}");
        }
        assert_eq!(found(&api, &id).await, before);
    }
    create(&api, "ORD-3").await;
    set(&api, "ORD-3", "picked_up").await;
    set(&api, "ORD-3", "exception").await;
    let held = found(&api, "ORD-3").await;
    assert_eq!((&held["status"], &held["exception_from"]), (&json!("exception"), &json!("picked_up")));
    let back = set(&api, "ORD-3", "assigned").await;
    assert_eq!((&back["new_status"], &back["applied"]), (&json!("exception"), &json!(false)));
    let on = set(&api, "ORD-3", "picked_up").await;
    assert_eq!((&on["old_status"], &on["new_status"]), (&json!("exception"), &json!("picked_up")));
    assert_eq!(found(&api, "ORD-3").await["exception_from"], Value::Null);
}

#[tokio::test]
async fn an_order_keeps_what_its_sender_said_of_it() {
    let server = Server::with(options());
    let api = server.api();
    let body = r#"{"order_id":"ORD-1","shipper":"kim","carrier":"CJ","bid_id":"BID-7",
        "origin":{"name":"제주항", "lat":33.5190000001},"destination":"Busan","cargo":{"kg":1250.50,"pallets":2}}"#;
    let created = api.post_text("/v2/orders", body).await;
    assert_eq!(created.status, 201, "{}", created.text);
    for text in
        [created.text.clone(), api.get("/v2/orders/ORD-1").await.text, api.get("/v2/orders").await.text]
    {
        for kept in [
            r#""origin":{"name":"제주항","lat":33.5190000001}"#,
            r#""destination":"Busan""#,
            r#""cargo":{"kg":1250.50,"pallets":2}"#,
            r#""shipper":"kim","carrier":"CJ""#,
            r#""bid_id":"BID-7""#,
        ] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }
    let generated = api.post("/v2/orders", &json!({"shipper": "kim"})).await.expect(201);
    let id = uuid::Uuid::parse_str(generated["order_id"].as_str().expect("an id")).expect("a UUID");
    assert_eq!(id.get_version_num(), 7);
    for field in ["carrier", "origin", "destination", "cargo", "bid_id", "exception_from"] {
        assert_eq!(generated[field], Value::Null, "{field}");
    }
    // the digits of a place are those that were sent
    let body = r#"{"new_status":"in_transit","tracking_event":{"lat":33.500,"lng":-126.1234567890123}}"#;
    let answer = api.post_text("/v2/orders/ORD-1/status", body).await;
    assert!(
        answer.text.contains(r#""lat":33.500,"lng":-126.1234567890123,"occurred_at":"#),
        "{}",
        answer.text
    );
    let stored = api.get("/v2/orders/ORD-1").await.text;
    assert!(stored.contains(r#""lat":33.500,"lng":-126.1234567890123,"#), "{stored}");
}

#[tokio::test]
async fn a_history_comes_in_pages_and_a_snapshot_misses_nothing() {
    let server = Server::with(options());
    let api = server.api();
    create(&api, "ORD-1").await;
    for n in 0..120 {
        let body = json!({"new_status": "in_transit", "reason": format!("r{n}")});
        report(&api, "ORD-1", &body).await.expect(200);
    }
    let snapshot = api.get("/v2/orders/ORD-1").await.expect(200);
    let (mut reasons, mut next) = (Vec::new(), json!(121));
    while let Some(before) = next.as_str().map(str::to_owned).or_else(|| next.as_u64().map(|n| n.to_string()))
    {
        let page = api.get(&format!("/v2/orders/ORD-1?limit=50&before={before}")).await.expect(200);
        let reports = page["history"].as_array().expect("a history");
        assert!(reports.len() <= 50);
        reasons.extend(reports.iter().map(|own| own["reason"].as_str().expect("a reason").to_owned()));
        next = page["next"].clone();
    }
    assert_eq!(reasons, (0..120).rev().map(|n| format!("r{n}")).collect::<Vec<_>>());
    for query in ["limit=0", "limit=201", "before=-1", "before=x"] {
        api.get(&format!("/v2/orders/ORD-1?{query}")).await.problem(400);
    }
    let since = snapshot["position"].as_str().expect("a position");
    let (mut client, ready) = Client::connect(&api, "order:ORD-1", Some(since)).await;
    assert_eq!(ready["recovered"], true);
    let told = set(&api, "ORD-1", "delivered").await;
    loop {
        let event = client.event().await;
        // what the snapshot holds already may come again
        if event.data["version"].as_i64() > snapshot["version"].as_i64() {
            assert_eq!(event.data, told);
            break;
        }
    }
}

#[tokio::test]
async fn a_report_committed_by_a_server_killed_before_its_answer_is_heard_once_and_answered_by_its_key() {
    let mut server = Server::with(options());
    let api = server.api();
    create(&api, "ORD-1").await;
    let (client, ready) = Client::connect(&api, "order:ORD-1", None).await;
    let start = ready["position"].as_str().expect("a position").to_owned();
    server.restart(|options| options.env("BONGSU_CRASH_AT", "orders.after_commit"));
    drop(client);
    let path = "/v2/orders/ORD-1/status";
    let body = json!({"new_status": "assigned", "tracking_event": {"note": "taken on"}});
    let request = api.request("POST", path).json(&body).header("Idempotency-Key", "only");
    Api::send(request).await.expect_err("killed before the answer");
    assert_eq!(server.ended().await.code(), None, "by its own signal");
    server.restart(|_| options());
    let answer = api.post_once(path, &body, "only").await.expect(200);
    assert_eq!((&answer["old_status"], &answer["version"]), (&json!("created"), &json!(2)));
    let last = set(&api, "ORD-1", "delivered").await;
    let (mut client, ready) = Client::connect(&api, "order:ORD-1", Some(&start)).await;
    assert_eq!(ready["recovered"], true);
    for expected in [answer, last] {
        assert_eq!(client.event().await.data, expected);
    }
}

#[tokio::test]
async fn reports_sent_to_every_node_at_once_take_turns() {
    const REPORTS: i64 = 40;
    let scenario = async {
        let server = Server::start();
        let api = server.api();
        create(&api, "ORD-1").await;
        let (mut client, _) = Client::connect(&api, "order:ORD-1", None).await;
        let reporting = (0..REPORTS).map(|n| {
            let api = api.clone();
            tokio::spawn(async move {
                let status = ["in_transit", "exception"][n as usize % 2];
                report(&api, "ORD-1", &json!({"new_status": status})).await.expect(200)
            })
        });
        let mut told = Vec::new();
        for one in reporting.collect::<Vec<_>>() {
            told.push(one.await.expect("an answer"));
        }
        told.sort_by_key(|answer| answer["version"].as_i64());
        let mut before = json!("created");
        for (expected, version) in told.iter().zip(2..) {
            assert_eq!((&expected["version"], &expected["old_status"]), (&json!(version), &before));
            assert_eq!(client.event().await.data, *expected, "in their order");
            before = expected["new_status"].clone();
        }
        assert_eq!(found(&api, "ORD-1").await["version"], REPORTS + 1);
    };
    Backend::Cluster.run(scenario).await;
}
