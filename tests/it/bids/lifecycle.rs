//! From draft to award, by command and by the clock.

use serde_json::{Value, json};

use super::{draft, offer, open_bid, proposal, proposals, server, soon, step, submit, user, with};
use crate::support::{Client, Transport, eventually, on_both_backends, on_every_transport_of_both_backends};

on_every_transport_of_both_backends! { everybody_hears_how_a_bid_goes_on }

async fn everybody_hears_how_a_bid_goes_on(transport: Transport) {
    let server = server();
    let (api, owner) = (server.api(), user(&server, "shipper-1", &["shipper"]));
    let (mut client, _) = Client::over(transport, &user(&server, "anybody", &[]), "bid:BID-1", None).await;
    let created = owner.post("/v2/bids", &draft("BID-1")).await.expect(201);
    assert_eq!((&created["status"], &created["owner"]), (&json!("draft"), &json!("shipper-1")));
    assert_eq!(created["criteria"][0]["reference"], 100);
    for (name, old, new) in [("open", "draft", "open"), ("close", "open", "closed")] {
        if new == "closed" {
            submit(&api, "BID-1", &proposal("P-1", 10)).await;
            submit(&api, "BID-1", &proposal("P-2", 20)).await;
        }
        let bid = step(&owner, "BID-1", name).await;
        assert_eq!(bid["status"], new);
        let event = client.event().await;
        let expected = json!({"bid_id": "BID-1", "old_status": old, "new_status": new,
            "updated_at": bid["updated_at"], "version": bid["version"]});
        assert_eq!((event.name.as_str(), event.topic.as_str()), ("bid_status_changed", "bid:BID-1"));
        assert_eq!(event.data, expected);
    }
    let awarded = owner.post("/v2/bids/BID-1/award", &json!({"proposal_id": "P-2"})).await.expect(200);
    assert_eq!((&awarded["status"], &awarded["awarded_proposal_id"]), (&json!("awarded"), &json!("P-2")));
    let event = client.event().await;
    assert_eq!(
        (&event.data["new_status"], &event.data["awarded_proposal_id"]),
        (&json!("awarded"), &json!("P-2"))
    );
    let found = api.get("/v2/bids/BID-1").await.expect(200);
    assert_eq!((&found["status"], &found["ranking_version"]), (&json!("awarded"), &json!(2)));
}

on_both_backends! {
    illegal_steps_name_the_status_and_change_nothing,
    a_bid_opens_and_closes_by_itself,
    a_change_after_the_end_is_refused_even_where_nobody_has_closed_the_bid,
    a_late_change_of_the_best_extends_the_bid,
    what_makes_no_sense_is_refused_by_the_field,
    bids_are_listed_in_pages,
    a_repeated_command_is_answered_as_before,
}

async fn illegal_steps_name_the_status_and_change_nothing() {
    let server = server();
    let api = server.api();
    api.post("/v2/bids", &draft("B")).await.expect(201);
    let refused = async |path: &str, body: Value, code: &str, status: &str| {
        let before = api.get("/v2/bids/B").await.expect(200);
        let answer = api.post(&format!("/v2/bids/B/{path}"), &body).await;
        assert!(answer.text.contains(status), "{path}: {}", answer.text);
        assert_eq!(answer.problem(409), code, "{path}");
        let after = api.get("/v2/bids/B").await.expect(200);
        assert_eq!((&before["status"], &before["version"]), (&after["status"], &after["version"]), "{path}");
    };
    let (none, winner) = (json!({}), json!({"proposal_id": "P-1"}));
    refused("close", none.clone(), "illegal_transition", "draft").await;
    refused("award", winner.clone(), "illegal_transition", "draft").await;
    refused("proposals", proposal("P-0", 1), "bid_not_open", "draft").await;
    step(&api, "B", "open").await;
    for (id, price) in [("P-1", json!(1)), ("P-2", json!(2))] {
        submit(&api, "B", &proposal(id, price)).await;
    }
    let above = with(proposal("P-3", 3), json!({"carrier_id": "c"}));
    submit(&api, "B", &above).await;
    super::withdraw(&api, "B", "P-1").await;
    refused("open", none.clone(), "illegal_transition", "open").await;
    refused("award", winner.clone(), "illegal_transition", "open").await;
    step(&api, "B", "close").await;
    refused("proposals", proposal("P-4", 1), "bid_not_open", "closed").await;
    refused("award", winner, "withdrawn", "P-1").await;
    let answer = api.post("/v2/bids/B/award", &json!({"proposal_id": "P-9"})).await;
    assert_eq!(answer.problem(404), "no_such_proposal");
    api.post("/v2/bids/B/award", &json!({"proposal_id": "P-2"})).await.expect(200);
    for path in ["open", "close", "cancel"] {
        refused(path, none.clone(), "illegal_transition", "awarded").await;
    }
    assert_eq!(api.post("/v2/bids/none/open", &none).await.problem(404), "no_such_bid");
}

async fn a_bid_opens_and_closes_by_itself() {
    let server = server();
    let api = server.api();
    let (mut client, _) = Client::connect(&api, "bid:B", None).await;
    let times = json!({"opens_at": soon(300), "closes_at": soon(900)});
    let bid = api.post("/v2/bids", &with(draft("B"), times)).await.expect(201);
    for (new, field) in [("open", "opens_at"), ("closed", "closes_at")] {
        let event = client.event().await;
        assert_eq!((&event.data["new_status"], &event.data["reason"]), (&json!(new), &json!("scheduled")));
        assert!(event.data["updated_at"].as_str() >= bid[field].as_str(), "not before its time: {event:?}");
    }
    assert_eq!(api.get("/v2/bids/B").await.expect(200)["status"], "closed");
}

async fn a_change_after_the_end_is_refused_even_where_nobody_has_closed_the_bid() {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &with(draft("B"), json!({"closes_at": soon(1500)}))).await;
    submit(&api, &bid, &proposal("P-1", 1)).await;
    // whoever comes first after the end, the clock or this
    let mut number = 1;
    let refusal = eventually("the end", async || {
        number += 1;
        let answer = api.post(&proposals(&bid), &proposal(&format!("P-{number}"), 1)).await;
        (answer.status != 201).then_some(answer)
    })
    .await;
    let total = number - 1;
    assert_eq!(refusal.problem(409), "bid_not_open");
    let shown = super::ranking(&api, &bid, "?limit=200").await;
    assert_eq!(shown["version"], total);
    let revised = api.call("PUT", &format!("{}/P-1", proposals(&bid)), &offer(2)).await;
    assert_eq!(revised.problem(409), "bid_not_open");
}

async fn a_late_change_of_the_best_extends_the_bid() {
    let server = server();
    let api = server.api();
    let times = json!({"closes_at": soon(600_000), "anti_sniping": {"window_s": 3600, "extend_s": 60}});
    let (mut client, _) = Client::connect(&api, "bid:B", None).await;
    let bid = open_bid(&api, &with(draft("B"), times)).await;
    assert_eq!(client.event().await.data["new_status"], "open");
    let end = async || api.get("/v2/bids/B").await.expect(200)["closes_at"].clone();
    let first = end().await;
    submit(&api, &bid, &proposal("P-1", 10)).await;
    let second = end().await;
    assert!(second.as_str() > first.as_str(), "{first} {second}");
    let event = client.event().await;
    assert_eq!((&event.data["reason"], &event.data["closes_at"]), (&json!("extended"), &second));
    assert_eq!((&event.data["old_status"], &event.data["new_status"]), (&json!("open"), &json!("open")));
    submit(&api, &bid, &proposal("P-2", 20)).await;
    assert_eq!(end().await, second, "the best is the same");
    super::revise(&api, &bid, "P-1", &offer(30)).await;
    assert!(end().await.as_str() > second.as_str());
}

async fn what_makes_no_sense_is_refused_by_the_field() {
    let server = server();
    let api = server.api();
    let criterion = |fields: Value| {
        let own = json!({"field": "price", "weight": 1, "direction": "asc", "reference": 1});
        json!({"criteria": [with(own, fields)]})
    };
    for (fields, field) in [
        (json!({"bid_id": "a b"}), "bid_id"),
        (json!({"title": ""}), "title"),
        (json!({"cargo": "x".repeat(16 << 10)}), "cargo"),
        (json!({"visibility": "secret"}), "visibility"),
        (json!({"max_ei": -1}), "max_ei"),
        (json!({"max_ei": "1"}), "max_ei"),
        (json!({"opens_at": "tomorrow"}), "opens_at"),
        (json!({"closes_at": soon(-1000)}), "closes_at"),
        (json!({"opens_at": soon(9000), "closes_at": soon(8000)}), "closes_at"),
        (json!({"anti_sniping": {"window_s": 0, "extend_s": 1}}), "anti_sniping.window_s"),
        (json!({"criteria": []}), "criteria"),
        (criterion(json!({"field": "colour"})), "criteria[0].field"),
        (criterion(json!({"weight": 0.9})), "criteria"),
        (criterion(json!({"weight": -1})), "criteria[0].weight"),
        (criterion(json!({"reference": 0})), "criteria[0].reference"),
        (criterion(json!({"direction": "up"})), "criteria[0].direction"),
        (json!({"colour": 1}), "colour"),
    ] {
        let answer = api.post("/v2/bids", &with(draft("B"), fields.clone())).await;
        assert_eq!(answer.status, 422, "{fields}: {}", answer.text);
        assert_eq!(answer.json()["errors"][0]["field"], field, "{fields}: {}", answer.text);
    }
    assert_eq!(api.get("/v2/bids/B").await.problem(404), "no_such_bid");
    open_bid(&api, &draft("B")).await;
    assert_eq!(api.post("/v2/bids", &draft("B")).await.problem(409), "exists");
    for (text, field) in [
        ("NaN", ""),
        ("-1", "price"),
        ("1e400", "price"),
        ("1000000000000", "price"),
        ("0.0000001", "price"),
        ("\"1\"", "price"),
        ("null", "price"),
    ] {
        let body = format!("{{\"carrier_id\":\"c\",\"price\":{text},\"ei\":1,\"lead_time_hours\":1}}");
        let answer = api.post_text(&proposals("B"), body).await;
        let status = if text == "NaN" { 400 } else { 422 };
        assert_eq!(answer.status, status, "{text}: {}", answer.text);
        if !field.is_empty() {
            assert_eq!(answer.json()["errors"][0]["field"], field, "{text}: {}", answer.text);
        }
    }
    for (fields, field) in [
        (json!({"carrier_id": ""}), "carrier_id"),
        (json!({"proposal_id": "a b"}), "proposal_id"),
        (json!({"ei": -0.5}), "ei"),
        (json!({"lead_time_hours": -1}), "lead_time_hours"),
        (json!({"rating": -1}), "rating"),
        (json!({"rank": 1}), "rank"),
    ] {
        let answer = api.post(&proposals("B"), &with(proposal("P", 1), fields.clone())).await;
        assert_eq!(answer.status, 422, "{fields}: {}", answer.text);
        assert_eq!(answer.json()["errors"][0]["field"], field, "{fields}");
    }
    assert_eq!(super::ranking(&api, "B", "").await["version"], 0, "nothing has changed");
    for query in ["?offset=-1", "?limit=0", "?limit=201", "?offset=1&around=P", "?offset=x"] {
        assert_eq!(
            api.get(&format!("/v2/bids/B/ranking{query}")).await.problem(400),
            "invalid_parameter",
            "{query}"
        );
    }
    assert_eq!(api.get("/v2/bids?status=lost").await.problem(400), "invalid_parameter");
    assert_eq!(api.get("/v2/bids/B/ranking?around=P").await.problem(404), "no_such_proposal");
    assert_eq!(api.get("/v2/bids/none/ranking").await.problem(404), "no_such_bid");
}

async fn bids_are_listed_in_pages() {
    let server = server();
    let api = server.api();
    for number in 0..5 {
        api.post("/v2/bids", &draft(&format!("B-{number}"))).await.expect(201);
    }
    step(&api, "B-3", "open").await;
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = api.get(&format!("/v2/bids?limit=2&after={after}")).await.expect(200);
        let bids = page["bids"].as_array().expect("bids");
        seen.extend(bids.iter().map(|bid| bid["bid_id"].as_str().expect("an id").to_owned()));
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["B-0", "B-1", "B-2", "B-3", "B-4"]);
    let open = api.get("/v2/bids?status=open").await.expect(200);
    assert_eq!(open["bids"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        server.api_of("other", "manage,subscribe").get("/v2/bids").await.expect(200)["bids"],
        json!([])
    );
}

async fn a_repeated_command_is_answered_as_before() {
    let server = server();
    let api = server.api();
    let once = async |path: &str, body: &Value, key: &str| api.post_once(path, body, key).await;
    let first = once("/v2/bids", &draft("B"), "k-1").await.expect(201);
    assert_eq!(once("/v2/bids", &draft("B"), "k-1").await.expect(201), first);
    step(&api, "B", "open").await;
    let path = proposals("B");
    let first = once(&path, &proposal("P-1", 1), "k-2").await.expect(201);
    submit(&api, "B", &proposal("P-2", 0)).await;
    assert_eq!(once(&path, &proposal("P-1", 1), "k-2").await.expect(201), first);
    assert_eq!(once(&path, &proposal("P-1", 2), "k-2").await.problem(422), "idempotency_key_reused");
    assert_eq!(super::ranking(&api, "B", "").await["version"], 2);
    // what was refused leaves no answer behind
    assert_eq!(once(&path, &proposal("P-1", 1), "k-3").await.problem(409), "exists");
    once(&path, &proposal("P-3", 1), "k-3").await.expect(201);
}
