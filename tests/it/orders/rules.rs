//! What is refused, and what is done once.

use serde_json::{Value, json};

use super::{SECRET, create, found, options, report, set, token, user};
use crate::support::{Answer, Api, Issuer, Server, Ws, from_now};

fn fields(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let errors = body["errors"].as_array().expect("errors");
    errors.iter().map(|error| error["field"].as_str().expect("a field").to_owned()).collect()
}

#[tokio::test]
async fn what_is_wrong_with_an_order_is_named_and_creates_nothing() {
    let server = Server::with(options());
    let api = server.api();
    let long = "x".repeat(4095);
    for (body, field) in [
        (json!({}), "shipper"),
        (json!({"shipper": ""}), "shipper"),
        (json!({"shipper": "x".repeat(129)}), "shipper"),
        (json!({"shipper": "a\u{0}b"}), "shipper"),
        (json!({"shipper": 7}), "shipper"),
        (json!({"shipper": "kim", "carrier": ""}), "carrier"),
        (json!({"shipper": "kim", "carrier": "x".repeat(129)}), "carrier"),
        (json!({"shipper": "kim", "order_id": "a b"}), "order_id"),
        (json!({"shipper": "kim", "order_id": ""}), "order_id"),
        (json!({"shipper": "kim", "order_id": "x".repeat(65)}), "order_id"),
        (json!({"shipper": "kim", "bid_id": "a/b"}), "bid_id"),
        (json!({"shipper": "kim", "origin": 7}), "origin"),
        (json!({"shipper": "kim", "destination": ["Busan"]}), "destination"),
        (json!({"shipper": "kim", "cargo": long}), "cargo"),
        (json!({"shipper": "kim", "colour": "red"}), "colour"),
        (json!({"shipper": "kim", "status": "delivered"}), "status"),
    ] {
        let answer = api.post("/v2/orders", &body).await;
        assert_eq!(fields(&answer), [field], "{body}");
        answer.problem(422);
    }
    assert_eq!(api.get("/v2/orders").await.expect(200)["orders"], json!([]));
}

#[tokio::test]
async fn what_is_wrong_with_a_report_is_named_and_changes_nothing() {
    let server = Server::with(options());
    let api = server.api();
    create(&api, "ORD-1").await;
    let before = found(&api, "ORD-1").await;
    let seen = |event: Value| json!({"new_status": "assigned", "tracking_event": event});
    for (body, field) in [
        (json!({}), "new_status"),
        (json!({"new_status": "lost"}), "new_status"),
        (json!({"new_status": "assigned", "colour": "red"}), "colour"),
        (json!({"new_status": "assigned", "reason": "x".repeat(1001)}), "reason"),
        (json!({"new_status": "assigned", "reason": "a\u{0}b"}), "reason"),
        (seen(json!({"speed": 80})), "tracking_event.speed"),
        (seen(json!({"note": "귤".repeat(1001)})), "tracking_event.note"),
        (seen(json!({"lat": 33})), "tracking_event.lng"),
        (seen(json!({"lng": 126})), "tracking_event.lat"),
        (seen(json!({"lat": 90.000001, "lng": 0})), "tracking_event.lat"),
        (seen(json!({"lat": -91, "lng": 0})), "tracking_event.lat"),
        (seen(json!({"lat": 0, "lng": 180.5})), "tracking_event.lng"),
        (seen(json!({"lat": "33", "lng": 126})), "tracking_event.lat"),
        (seen(json!({"lat": true, "lng": 126})), "tracking_event.lat"),
        (seen(json!({"occurred_at": "yesterday"})), "tracking_event.occurred_at"),
        (seen(json!({"occurred_at": "2026-01-01T00:00:00"})), "tracking_event.occurred_at"),
        (seen(json!({"occurred_at": 1_767_225_600})), "tracking_event.occurred_at"),
    ] {
        let answer = report(&api, "ORD-1", &body).await;
        assert_eq!(fields(&answer), [field], "{body}");
        answer.problem(422);
    }
    for number in ["1e999", "1".repeat(40).as_str(), "-1e400"] {
        let body = format!(r#"{{"new_status":"assigned","tracking_event":{{"lat":{number},"lng":0}}}}"#);
        let answer = api.post_text("/v2/orders/ORD-1/status", body).await;
        assert_eq!(fields(&answer), ["tracking_event.lat"], "{number}");
        answer.problem(422);
    }
    for number in ["NaN", "Infinity", "+1", ".5"] {
        let body = format!(r#"{{"new_status":"assigned","tracking_event":{{"lat":{number},"lng":0}}}}"#);
        api.post_text("/v2/orders/ORD-1/status", body).await.problem(400);
    }
    assert_eq!(found(&api, "ORD-1").await, before);
    assert_eq!(report(&api, "ORD-2", &json!({"new_status": "assigned"})).await.problem(404), "no_such_order");
    assert_eq!(api.get("/v2/orders/ORD-2").await.problem(404), "no_such_order");
    let longest = json!({"note": "귤".repeat(1000), "lat": -90, "lng": 180.0});
    report(&api, "ORD-1", &seen(longest)).await.expect(200);
}

#[tokio::test]
async fn an_order_is_created_once_and_a_repeated_request_gets_the_stored_answer() {
    let server = Server::with(options());
    let api = server.api();
    let order = json!({"shipper": "kim", "origin": {"lat": 33.519_000_000_1}, "cargo": "tangerines"});
    let first = api.post_once("/v2/orders", &order, "k1").await.expect(201);
    assert_eq!(api.post_once("/v2/orders", &order, "k1").await.expect(201), first);
    let other = json!({"shipper": "lee"});
    assert_eq!(api.post_once("/v2/orders", &other, "k1").await.problem(422), "idempotency_key_reused");
    assert_eq!(api.get("/v2/orders").await.expect(200)["orders"].as_array().map(Vec::len), Some(1));
    create(&api, "ORD-1").await;
    let again = api.post("/v2/orders", &json!({"order_id": "ORD-1", "shipper": "lee"})).await;
    assert_eq!(again.problem(409), "exists");
    assert_eq!(found(&api, "ORD-1").await["shipper"], "kim");
    let path = "/v2/orders/ORD-1/status";
    let body = json!({"new_status": "assigned"});
    let told = api.post_once(path, &body, "k2").await.expect(200);
    assert_eq!(api.post_once(path, &body, "k2").await.expect(200), told);
    let late = json!({"new_status": "created"});
    let kept = api.post_once(path, &late, "k3").await.expect(200);
    assert_eq!(kept["applied"], false);
    assert_eq!(api.post_once(path, &late, "k3").await.expect(200), kept);
    assert_eq!(found(&api, "ORD-1").await["history"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn orders_created_at_once_under_one_id_are_one_order() {
    let server = Server::with(options());
    let tries = (0..8).map(|n| {
        let api = server.api();
        tokio::spawn(async move {
            let order = json!({"order_id": "ORD-1", "shipper": format!("u{n}")});
            api.post("/v2/orders", &order).await
        })
    });
    let mut status = Vec::new();
    for one in tries.collect::<Vec<_>>() {
        let answer = one.await.expect("an answer");
        if answer.status != 201 {
            assert_eq!(answer.json()["code"], "exists");
        }
        status.push(answer.status);
    }
    status.sort_unstable();
    assert_eq!(status, [201, 409, 409, 409, 409, 409, 409, 409]);
}

#[tokio::test]
async fn shippers_ship_for_themselves_and_carriers_report_of_what_they_carry() {
    let server = Server::with(options());
    let kim = user(&server, "kim", &json!({"roles": ["shipper"]}));
    let own = kim.post("/v2/orders", &json!({"order_id": "ORD-1", "carrier": "CJ"})).await.expect(201);
    assert_eq!(own["shipper"], "kim");
    kim.post("/v2/orders", &json!({"order_id": "ORD-2", "shipper": "kim"})).await.expect(201);
    let another = json!({"order_id": "ORD-3", "shipper": "lee"});
    assert_eq!(kim.post("/v2/orders", &another).await.problem(403), "forbidden");
    let boss = user(&server, "boss", &json!({"roles": ["manager"]}));
    boss.post("/v2/orders", &another).await.expect(201);
    let without = user(&server, "kim", &json!({"roles": ["dispatcher", "carrier"]}));
    assert_eq!(without.post("/v2/orders", &json!({})).await.problem(403), "forbidden");
    // the carrier, by its name or by the claim
    let step = |status: &str| json!({"new_status": status});
    let (named, speaking) =
        (user(&server, "CJ", &json!({})), user(&server, "park", &json!({"carriers": ["HJ", "CJ"]})));
    report(&named, "ORD-1", &step("assigned")).await.expect(200);
    report(&speaking, "ORD-1", &step("picked_up")).await.expect(200);
    for (api, id) in [
        (&kim, "ORD-1"),
        (&named, "ORD-2"),
        (&speaking, "ORD-3"),
        // that there is none is not for them to know
        (&speaking, "ORD-9"),
        (&user(&server, "lee", &json!({"carriers": ["cj"], "roles": ["carrier", "shipper"]})), "ORD-1"),
    ] {
        assert_eq!(report(api, id, &step("delivered")).await.problem(403), "forbidden", "{id}");
    }
    let dispatcher = user(&server, "dee", &json!({"roles": ["dispatcher"]}));
    assert_eq!(report(&dispatcher, "ORD-9", &step("delivered")).await.problem(404), "no_such_order");
    report(&dispatcher, "ORD-1", &step("delivered")).await.expect(200);
}

#[tokio::test]
async fn orders_come_in_pages_and_users_see_those_they_are_party_of() {
    let server = Server::with(options());
    let api = server.api();
    for n in 0..120 {
        let (shipper, carrier) = (["kim", "lee"][n % 2], [None, Some("CJ"), Some("HJ")][n % 3]);
        let order = json!({"order_id": format!("ORD-{n:03}"), "shipper": shipper, "carrier": carrier});
        api.post("/v2/orders", &order).await.expect(201);
    }
    let listed = async |api: &Api, limit: usize| {
        let (mut ids, mut after) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("/v2/orders?limit={limit}&after={after}")).await.expect(200);
            let orders = page["orders"].as_array().expect("orders");
            assert!(orders.len() <= limit && page["position"].is_string());
            ids.extend(orders.iter().map(|own| own["order_id"].as_str().expect("an id").to_owned()));
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => return ids,
            }
        }
    };
    let all = |wanted: &dyn Fn(usize) -> bool| -> Vec<String> {
        (0..120).filter(|n| wanted(*n)).map(|n| format!("ORD-{n:03}")).collect()
    };
    assert_eq!(listed(&api, 50).await, all(&|_| true));
    assert_eq!(listed(&user(&server, "dee", &json!({"roles": ["dispatcher"]})), 200).await, all(&|_| true));
    assert_eq!(listed(&user(&server, "kim", &json!({})), 7).await, all(&|n| n % 2 == 0));
    assert_eq!(listed(&user(&server, "CJ", &json!({})), 40).await, all(&|n| n % 3 == 1));
    let both = user(&server, "lee", &json!({"carriers": ["CJ", "HJ"]}));
    assert_eq!(listed(&both, 30).await, all(&|n| n % 2 == 1 || n % 3 != 0));
    assert_eq!(listed(&user(&server, "nobody", &json!({})), 50).await, all(&|_| false));
    api.get("/v2/orders?limit=0").await.problem(400);
    for (api, expected) in [
        (&user(&server, "kim", &json!({})), 200),
        (&user(&server, "lee", &json!({})), 403),
        (&user(&server, "dee", &json!({"roles": ["dispatcher"]})), 200),
        (&server.api_of("default", "manage,admin,publish"), 403),
    ] {
        assert_eq!(api.get("/v2/orders/ORD-000").await.status, expected);
    }
    // a stranger is not told whether there is one
    let lee = user(&server, "lee", &json!({}));
    let told = async |id: &str| {
        let answer = lee.get(&format!("/v2/orders/{id}")).await;
        (answer.json()["detail"].clone(), answer.problem(403))
    };
    assert_eq!(told("ORD-000").await, told("ORD-999").await);
}

#[tokio::test]
async fn the_same_id_is_another_order_in_another_tenant() {
    let server = Server::with(options());
    let (own, other) = (server.api(), server.api_of("other", "publish,subscribe,manage"));
    create(&own, "ORD-1").await;
    assert_eq!(other.get("/v2/orders/ORD-1").await.problem(404), "no_such_order");
    assert_eq!(
        report(&other, "ORD-1", &json!({"new_status": "assigned"})).await.problem(404),
        "no_such_order"
    );
    let theirs = json!({"order_id": "ORD-1", "shipper": "lee"});
    other.post("/v2/orders", &theirs).await.expect(201);
    set(&own, "ORD-1", "delivered").await;
    let order = found(&other, "ORD-1").await;
    assert_eq!((&order["shipper"], &order["status"]), (&json!("lee"), &json!("created")));
    // nor does the shipper of one hear the other
    let claims = json!({"sub": "kim", "tenant": "other", "exp": from_now(600)});
    let kim = own.bearing(&Issuer::shared(SECRET, None).sign(&claims));
    assert_eq!(kim.get("/v2/realtime/stream?topics=order:ORD-1").await.problem(403), "forbidden_topics");
    assert_eq!(kim.get("/v2/orders").await.expect(200)["orders"], json!([]));
}

#[tokio::test]
async fn orders_are_commanded_over_websocket_as_over_http() {
    let server = Server::with(options());
    let api = server.api();
    let mut ws = Ws::open(server.address(), api.key(), "topics=order:ORD-1").await;
    ws.ready().await;
    let command = |name: &str, data: Value| json!({"name": name, "data": data});
    let created =
        ws.done("command", command("create_order", json!({"order_id": "ORD-1", "shipper": "kim"}))).await;
    let mut stored = found(&api, "ORD-1").await;
    for field in ["history", "next"] {
        stored.as_object_mut().expect("an object").remove(field);
    }
    assert_eq!(created, stored);
    let data = json!({"order_id": "ORD-1", "new_status": "assigned", "tracking_event": {"lat": 33.5, "lng": 126.5},
        "reason": "by hand"});
    let once = json!({"name": "set_order_status", "data": data, "idempotency_key": "k"});
    let told = ws.done("command", once.clone()).await;
    assert_eq!(ws.done("command", once).await, told, "carried out once");
    assert_eq!(ws.event().await["data"], told);
    for (name, data, code) in [
        ("create_order", json!({"order_id": "ORD-1", "shipper": "kim"}), "exists"),
        ("create_order", json!({"order_id": "ORD-2"}), "invalid_field"),
        ("create_order", json!({"shipper": "kim", "colour": 1}), "unknown_field"),
        ("set_order_status", json!({"order_id": "ORD-2", "new_status": "assigned"}), "no_such_order"),
        ("set_order_status", json!({"new_status": "assigned"}), "invalid_field"),
        ("set_order_status", json!({"order_id": "ORD-1", "new_status": "lost"}), "invalid_field"),
        ("set_order_status", json!({"order_id": "a b", "new_status": "assigned"}), "invalid_field"),
    ] {
        assert_eq!(ws.refused("command", command(name, data.clone())).await, code, "{name} {data}");
    }
    let bearer = format!("Bearer {}", token("lee", &json!({"roles": ["shipper"]})));
    let headers = [("authorization", bearer.as_str())];
    let mut lee = Ws::try_open(server.address(), "/v2/realtime/ws", &headers).await.expect("open");
    lee.ready().await;
    let status = json!({"order_id": "ORD-1", "new_status": "delivered"});
    assert_eq!(lee.refused("command", command("set_order_status", status)).await, "forbidden");
    let own = lee.done("command", command("create_order", json!({"order_id": "ORD-3"}))).await;
    assert_eq!(own["shipper"], "lee");
}
