//! Proposals: submitted, revised, withdrawn, ranked.

use serde_json::{Value, json};

use super::{
    draft, ids, offer, open_bid, proposal, proposals, ranking, revise, server, submit, user, user_with, with,
    withdraw,
};
use crate::support::{
    Client, Transport, Ws, from_now, on_both_backends, on_every_transport_of_both_backends,
};

on_every_transport_of_both_backends! { watchers_follow_a_ranking_by_its_frames }

async fn watchers_follow_a_ranking_by_its_frames(transport: Transport) {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &draft("BID-1")).await;
    let (mut client, _) = Client::over(transport, &api, "ranking:BID-1", None).await;
    let mut watcher = super::watcher::Watcher::default();
    for (id, price) in [("P-1", 30), ("P-2", 10), ("P-3", 20), ("P-4", 10)] {
        submit(&api, &bid, &proposal(id, price)).await;
        let frame = client.event().await;
        assert_eq!(frame.name, "proposal_ranking_updated");
        watcher.take(&frame.data);
    }
    revise(&api, &bid, "P-1", &offer(5)).await;
    withdraw(&api, &bid, "P-3").await;
    while watcher.version() < 6 {
        let frame = client.event().await;
        watcher.take(&frame.data);
    }
    let shown = ranking(&api, &bid, "").await;
    assert_eq!(ids(&shown), ["P-1", "P-2", "P-4"]);
    let expected: Vec<Value> = watcher.rows();
    let fields = |row: &Value| (row["proposal_id"].clone(), row["rank"].clone(), row["score"].clone());
    let rows = shown["ranked_proposals"].as_array().expect("rows");
    assert_eq!(expected.iter().map(fields).collect::<Vec<_>>(), rows.iter().map(fields).collect::<Vec<_>>());
    assert!(watcher.applied >= 4, "{watcher:?}");
}

on_both_backends! {
    each_change_is_answered_with_its_rank,
    ties_go_to_whoever_was_accepted_first,
    what_cannot_win_takes_part_without_a_rank,
    a_carrier_takes_part_once_and_speaks_for_itself_alone,
    two_proposals_of_one_carrier_that_race_are_one,
    any_part_of_a_ranking_is_to_be_had,
    ids_of_one_tenant_are_free_in_another,
    a_key_that_no_database_keeps_is_refused_by_itself,
    nobody_fills_a_bid_by_coming_and_going,
}

async fn each_change_is_answered_with_its_rank() {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    let told = |answer: &Value| {
        (
            answer["rank"].as_u64(),
            answer["previous_rank"].as_u64(),
            answer["total"].as_u64().unwrap_or(9),
            answer["version"].as_i64(),
        )
    };
    assert_eq!(told(&submit(&api, &bid, &proposal("P-1", 20)).await), (Some(1), None, 1, Some(1)));
    assert_eq!(told(&submit(&api, &bid, &proposal("P-2", 30)).await), (Some(2), None, 2, Some(2)));
    let best = submit(&api, &bid, &proposal("P-3", 10)).await;
    assert_eq!(told(&best), (Some(1), None, 3, Some(3)));
    assert_eq!((&best["score"], &best["status"]), (&json!(0.1), &json!("ranked")));
    assert_eq!(told(&revise(&api, &bid, "P-3", &offer(25)).await), (Some(2), Some(1), 3, Some(4)));
    let gone = withdraw(&api, &bid, "P-1").await;
    assert_eq!((told(&gone), &gone["status"]), ((None, Some(1), 2, Some(5)), &json!("withdrawn")));
    for answer in [
        api.call("PUT", &format!("{}/P-1", proposals(&bid)), &offer(1)).await,
        api.delete(&format!("{}/P-1", proposals(&bid))).await,
    ] {
        assert_eq!(answer.problem(409), "withdrawn");
    }
    assert_eq!(api.post(&proposals(&bid), &proposal("P-1", 1)).await.problem(409), "exists");
    // another one of the same carrier
    let again = with(proposal("P-9", 1), json!({"carrier_id": "carrier-P-1"}));
    assert_eq!(told(&submit(&api, &bid, &again).await), (Some(1), None, 3, Some(6)));
    // the same over WebSocket
    let mut ws = Ws::open(api.address(), api.key(), "").await;
    ws.ready().await;
    let data = with(proposal("P-10", 0), json!({"bid_id": bid}));
    let reply = ws.ask("command", json!({"name": "submit_proposal", "data": data})).await;
    assert_eq!(told(&reply["data"]), (Some(1), None, 4, Some(7)), "{reply}");
    let data = json!({"bid_id": bid, "proposal_id": "P-10"});
    let reply = ws.ask("command", json!({"name": "withdraw_proposal", "data": data})).await;
    assert_eq!(reply["data"]["status"], "withdrawn", "{reply}");
}

async fn ties_go_to_whoever_was_accepted_first() {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    for id in ["P-3", "P-1", "P-2"] {
        submit(&api, &bid, &proposal(id, 10)).await;
    }
    assert_eq!(ids(&ranking(&api, &bid, "").await), ["P-3", "P-1", "P-2"]);
    revise(&api, &bid, "P-3", &offer(10)).await;
    assert_eq!(ids(&ranking(&api, &bid, "").await), ["P-1", "P-2", "P-3"], "a revise is accepted anew");
}

async fn what_cannot_win_takes_part_without_a_rank() {
    let server = server();
    let api = server.api();
    let criteria = json!([
        {"field": "price", "weight": 0.5, "direction": "asc", "reference": 100},
        {"field": "rating", "weight": 0.5, "direction": "desc", "reference": 5},
    ]);
    let bid = open_bid(&api, &with(draft("B"), json!({"max_ei": 60.5, "criteria": criteria}))).await;
    for (id, fields, reason) in [
        ("P-1", json!({"rating": 4, "ei": 60.500001}), "ei_above_max"),
        ("P-2", json!({}), "rating_missing"),
        ("P-3", json!({"rating": 0}), "rating_zero"),
    ] {
        let answer = submit(&api, &bid, &with(proposal(id, 10), fields)).await;
        assert_eq!((&answer["status"], &answer["reason"]), (&json!("disqualified"), &json!(reason)));
        assert_eq!(
            (&answer["rank"], &answer["score"], &answer["total"]),
            (&Value::Null, &Value::Null, &json!(0))
        );
    }
    let ranked = submit(&api, &bid, &with(proposal("P-4", 10), json!({"rating": 4, "ei": 60.5}))).await;
    assert_eq!((&ranked["rank"], &ranked["score"]), (&json!(1), &json!(0.675)));
    let better = with(offer(10), json!({"rating": 5}));
    assert_eq!(revise(&api, &bid, "P-2", &better).await["rank"], 1);
    let worse = with(offer(10), json!({"rating": 5, "ei": 61}));
    let answer = revise(&api, &bid, "P-2", &worse).await;
    assert_eq!((&answer["rank"], &answer["previous_rank"]), (&Value::Null, &json!(1)));
    assert_eq!(ids(&ranking(&api, &bid, "").await), ["P-4"]);
    super::step(&api, &bid, "close").await;
    let award = api.post("/v2/bids/B/award", &json!({"proposal_id": "P-1"})).await;
    assert_eq!(award.problem(409), "disqualified");
}

async fn a_carrier_takes_part_once_and_speaks_for_itself_alone() {
    let server = server();
    let bid = open_bid(&server.api(), &draft("B")).await;
    let one = user(&server, "carrier-P-1", &["carrier"]);
    let claims =
        json!({"sub": "boss", "roles": ["carrier"], "carriers": ["carrier-P-2"], "exp": from_now(600)});
    let boss = user_with(&server, claims);
    submit(&one, &bid, &proposal("P-1", 10)).await;
    submit(&boss, &bid, &proposal("P-2", 20)).await;
    let second = with(proposal("P-3", 1), json!({"carrier_id": "carrier-P-1"}));
    let answer = one.post(&proposals(&bid), &second).await;
    assert!(answer.text.contains("P-1"), "{}", answer.text);
    assert_eq!(answer.problem(409), "one_per_carrier");
    assert_eq!(one.post(&proposals(&bid), &proposal("P-4", 1)).await.problem(403), "not_the_carrier");
    for path in [format!("{}/P-2", proposals(&bid)), format!("{}/P-9", proposals(&bid))] {
        assert_eq!(one.call("PUT", &path, &offer(1)).await.problem(404), "no_such_proposal");
        assert_eq!(one.delete(&path).await.problem(404), "no_such_proposal");
    }
    // whoever is no carrier, whatever else
    let shipper = user(&server, "carrier-P-5", &["shipper", "manager", "admin"]);
    assert_eq!(shipper.post(&proposals(&bid), &proposal("P-5", 1)).await.problem(403), "forbidden");
    let shown = ranking(&server.api(), &bid, "").await;
    assert_eq!((ids(&shown), &shown["version"]), (vec!["P-1".to_owned(), "P-2".to_owned()], &json!(2)));
    assert_eq!(withdraw(&one, &bid, "P-1").await["status"], "withdrawn");
}

async fn two_proposals_of_one_carrier_that_race_are_one() {
    let server = server();
    let bid = open_bid(&server.api(), &draft("B")).await;
    for round in 0..10 {
        let carrier = format!("carrier-{round}");
        let race = (0..6).map(|number| {
            let api = server.api();
            let own = proposal(&format!("P-{round}-{number}"), number);
            let (own, path) = (with(own, json!({"carrier_id": carrier})), proposals(&bid));
            async move { api.post(&path, &own).await.status }
        });
        let mut answers = futures_util::future::join_all(race).await;
        answers.sort_unstable();
        assert_eq!(answers, [201, 409, 409, 409, 409, 409]);
    }
    assert_eq!(ranking(&server.api(), &bid, "").await["version"], 10);
}

async fn any_part_of_a_ranking_is_to_be_had() {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    let all = (0..120).map(|number| {
        let (api, bid) = (server.api(), bid.clone());
        async move { submit(&api, &bid, &proposal(&format!("P-{number:03}"), number)).await }
    });
    futures_util::future::join_all(all).await;
    let part = ranking(&api, &bid, "?offset=100&limit=50").await;
    assert_eq!((&part["total"], &part["offset"]), (&json!(120), &json!(100)));
    let expected: Vec<_> = (100..120).map(|number| format!("P-{number:03}")).collect();
    assert_eq!(ids(&part), expected);
    assert_eq!(part["ranked_proposals"][0]["rank"], 101);
    let around = ranking(&api, &bid, "?around=P-060&limit=5").await;
    assert_eq!(ids(&around), ["P-058", "P-059", "P-060", "P-061", "P-062"]);
    assert_eq!(ids(&ranking(&api, &bid, "?around=P-000&limit=3").await), ["P-000", "P-001", "P-002"]);
    assert_eq!(ids(&ranking(&api, &bid, "?offset=500").await), Vec::<String>::new());
    let operator = server.operator();
    let turns = operator.metric("bongsu_ranking_batch_changes_count").await;
    assert!(turns >= 1.0 && operator.metric("bongsu_ranking_actors").await >= 0.0, "{turns}");
}

async fn ids_of_one_tenant_are_free_in_another() {
    let server = server();
    let (own, other) = (server.api(), server.api_of("other", "manage,subscribe"));
    for (api, price) in [(&own, 1), (&other, 2)] {
        let bid = open_bid(api, &draft("B")).await;
        submit(api, &bid, &proposal("P", price)).await;
    }
    for (api, price) in [(&own, 1), (&other, 2)] {
        let shown = ranking(api, "B", "").await;
        assert_eq!((&shown["total"], &shown["ranked_proposals"][0]["price"]), (&json!(1), &json!(price)));
    }
}

async fn a_key_that_no_database_keeps_is_refused_by_itself() {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    let mut ws = Ws::open(api.address(), api.key(), "").await;
    ws.ready().await;
    for key in ["\0", "a\nb", "", "봉수"] {
        let data = with(proposal("P-0", 1), json!({"bid_id": bid}));
        let command = json!({"name": "submit_proposal", "data": data, "idempotency_key": key});
        assert_eq!(ws.refused("command", command).await, "invalid_field", "{key:?}");
    }
    submit(&api, &bid, &proposal("P-1", 1)).await;
    assert_eq!(ranking(&api, &bid, "").await["version"], 1);
    assert_eq!(api.get("/v2/bids?after=%00").await.problem(400), "invalid_parameter");
}

async fn nobody_fills_a_bid_by_coming_and_going() {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    let of_kim = |number: usize| with(proposal(&format!("P-{number}"), 1), json!({"carrier_id": "kim"}));
    for number in 0..100 {
        submit(&api, &bid, &of_kim(number)).await;
        withdraw(&api, &bid, &format!("P-{number}")).await;
    }
    let answer = api.post(&proposals(&bid), &of_kim(100)).await;
    assert_eq!(answer.problem(409), "too_many_withdrawals");
    submit(&api, &bid, &proposal("P-1000", 1)).await;
    assert_eq!(ranking(&api, &bid, "").await["version"], 201);
}
