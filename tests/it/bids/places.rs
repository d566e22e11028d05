//! `my_proposal_rank`: every carrier is told where its own proposals stand.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    SECRET, draft, offer, open_bid, proposal, revise, server, step, submit, user, user_with, with, withdraw,
};
use crate::support::{
    Api, Client, Event, Issuer, Server, Sse, Transport, Ws, from_now, on_both_backends,
    on_every_transport_of_both_backends,
};

on_every_transport_of_both_backends! { a_carrier_is_told_where_its_proposal_stands }

/// Lee, who speaks for the carrier of P-1.
fn lee(server: &Server) -> Api {
    user_with(server, claims(&["carrier-P-1"]))
}

fn claims(carriers: &[&str]) -> Value {
    json!({"sub": "lee", "roles": ["carrier"], "carriers": carriers, "exp": from_now(600)})
}

/// Proposals to sealed bids have ids that nobody can guess.
fn id(number: u32) -> String {
    format!("{number}a0dfc6e-7e6f-4bd7-8f4d-6a5c1f0e2b3c")
}

/// The next place that is told: rank, rank before, total.
fn place(event: &Event) -> (Option<u64>, Option<u64>, u64) {
    assert_eq!(
        (event.name.as_str(), event.topic.as_str(), &event.id),
        ("my_proposal_rank", "user:lee", &None)
    );
    assert_eq!((&event.data["bid_id"], &event.data["proposal_id"]), (&json!("B"), &json!(id(1))));
    let number = |name: &str| event.data[name].as_u64();
    assert!(number("version").is_some());
    (number("rank"), number("previous_rank"), number("total").expect("a total"))
}

/// Places up to the one that says this.
async fn until(client: &mut Client, rank: Option<u64>, total: u64) -> (Option<u64>, Option<u64>, u64) {
    loop {
        let told = place(&client.event().await);
        if (told.0, told.2) == (rank, total) {
            return told;
        }
    }
}

async fn a_carrier_is_told_where_its_proposal_stands(transport: Transport) {
    let server = server();
    let api = server.api();
    let carrier = user_with(&server, claims(&[&format!("carrier-{}", id(1))]));
    let bid = open_bid(&api, &with(draft("B"), json!({"visibility": "sealed"}))).await;
    let (mut client, _) = Client::over(transport, &carrier, "user:lee", None).await;
    submit(&carrier, &bid, &proposal(&id(1), 10)).await;
    assert_eq!(until(&mut client, Some(1), 1).await.0, Some(1));
    submit(&api, &bid, &proposal(&id(2), 5)).await;
    until(&mut client, Some(2), 2).await;
    submit(&api, &bid, &proposal(&id(3), 20)).await;
    until(&mut client, Some(2), 3).await;
    revise(&carrier, &bid, &id(1), &offer(1)).await;
    until(&mut client, Some(1), 3).await;
    // who comes again is told how it stands now
    let cursor = client.cursor().expect("a cursor").to_owned();
    drop(client);
    revise(&api, &bid, &id(2), &offer(0.5)).await;
    let (mut client, _) = Client::over(transport, &carrier, "user:lee", Some(&cursor)).await;
    until(&mut client, Some(2), 3).await;
    withdraw(&carrier, &bid, &id(1)).await;
    until(&mut client, None, 2).await;
}

on_both_backends! {
    what_others_move_is_told_once_a_second,
    whoever_speaks_for_no_carrier_is_told_nothing,
    a_token_that_states_other_carriers_is_told_of_those,
    a_bid_that_is_over_moves_nobody,
    every_session_of_every_node_is_told,
    a_long_poll_is_told_once_what_has_happened_between_two_calls,
}

async fn next_place(stream: &mut Sse) -> Value {
    let event = stream.take(1).await.remove(0);
    assert_eq!(event.event, "my_proposal_rank");
    event.data["data"].clone()
}

async fn what_others_move_is_told_once_a_second() {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    let mut stream = lee(&server).listen("user:lee", None).await;
    stream.ready().await;
    submit(&lee(&server), &bid, &proposal("P-1", 1000)).await;
    assert_eq!(next_place(&mut stream).await["rank"], 1);
    let started = Instant::now();
    for number in 0..20 {
        submit(&api, &bid, &proposal(&format!("O-{number}"), 10)).await;
    }
    let mut told = Vec::new();
    while told.last().is_none_or(|own: &Value| own["rank"] != 21) {
        told.push(next_place(&mut stream).await);
    }
    let most = 1 + started.elapsed().as_secs();
    assert!(told.len() as u64 <= most, "{} of at most {most}: {told:?}", told.len());
    let ranks: Vec<_> = told.iter().map(|own| (own["previous_rank"].clone(), own["rank"].clone())).collect();
    let before = std::iter::once(json!(1)).chain(ranks.iter().map(|own| own.1.clone()));
    assert!(before.zip(&ranks).all(|(before, own)| before == own.0), "{ranks:?}");
    // its own change does not wait
    let started = Instant::now();
    revise(&lee(&server), &bid, "P-1", &offer(1)).await;
    assert_eq!(next_place(&mut stream).await["rank"], 1);
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
}

async fn whoever_speaks_for_no_carrier_is_told_nothing() {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    let kim = user(&server, "kim", &["carrier"]);
    let (mut own, mut other) =
        (lee(&server).listen("user:lee", None).await, kim.listen("user:kim", None).await);
    own.ready().await;
    other.ready().await;
    submit(&api, &bid, &proposal("P-1", 10)).await;
    next_place(&mut own).await;
    // what comes first is what was published after it
    api.publish("user:kim", "note", json!({})).await;
    assert_eq!(other.take(1).await[0].event, "note");
    // nor is one who is that carrier, but listens to something else
    let mut elsewhere = lee(&server).listen("bid:B", None).await;
    elsewhere.ready().await;
    revise(&api, &bid, "P-1", &offer(11)).await;
    next_place(&mut own).await;
    step(&api, &bid, "close").await;
    assert_eq!(elsewhere.take(1).await[0].event, "bid_status_changed");
}

async fn a_token_that_states_other_carriers_is_told_of_those() {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    for (id, price) in [("P-1", 10), ("P-2", 20)] {
        submit(&api, &bid, &proposal(id, price)).await;
    }
    let token = |carriers: &[&str]| Issuer::shared(SECRET, None).sign(&claims(carriers));
    let bearer = format!("Bearer {}", token(&["carrier-P-1"]));
    let headers = [("Authorization", bearer.as_str())];
    let mut ws =
        Ws::try_open(api.address(), "/v2/realtime/ws?topics=user:lee", &headers).await.expect("open");
    ws.ready().await;
    let told = ws.event().await;
    assert_eq!((&told["data"]["proposal_id"], &told["data"]["rank"]), (&json!("P-1"), &json!(1)));
    ws.done("auth", json!({"token": token(&["carrier-P-2"])})).await;
    let told = ws.event().await;
    assert_eq!((&told["data"]["proposal_id"], &told["data"]["rank"]), (&json!("P-2"), &json!(2)));
    // the former one is not told of any more
    revise(&api, &bid, "P-1", &offer(11)).await;
    revise(&api, &bid, "P-2", &offer(1)).await;
    let told = ws.event().await;
    assert_eq!((&told["data"]["proposal_id"], &told["data"]["rank"]), (&json!("P-2"), &json!(1)));
    // nor is anything once it does not listen any more
    ws.done("unsubscribe", json!({"topics": ["user:lee"]})).await;
    revise(&api, &bid, "P-2", &offer(2)).await;
    ws.done("subscribe", json!({"topics": ["bid:B"]})).await;
    step(&api, &bid, "close").await;
    assert_eq!(ws.event().await["event"], "bid_status_changed");
}

async fn a_bid_that_is_over_moves_nobody() {
    let server = server();
    let api = server.api();
    let bid = open_bid(&api, &draft("B")).await;
    submit(&api, &bid, &proposal("P-1", 10)).await;
    step(&api, &bid, "close").await;
    let mut stream = lee(&server).listen("user:lee", None).await;
    stream.ready().await;
    assert_eq!(next_place(&mut stream).await["rank"], 1, "it may still be awarded");
    api.post("/v2/bids/B/award", &json!({"proposal_id": "P-1"})).await.expect(200);
    let mut stream = lee(&server).listen("user:lee", None).await;
    stream.ready().await;
    api.publish("user:lee", "note", json!({})).await;
    assert_eq!(stream.take(1).await[0].event, "note");
}

async fn every_session_of_every_node_is_told() {
    let server = server();
    let nodes = server.api().everywhere();
    let bid = open_bid(&nodes[0], &draft("B")).await;
    let lee = lee(&server);
    let mut streams = Vec::new();
    for node in 0..nodes.len() {
        for _ in 0..2 {
            let mut stream = lee.at(node).listen("user:lee", None).await;
            stream.ready().await;
            streams.push(stream);
        }
    }
    submit(&nodes[nodes.len() - 1], &bid, &proposal("P-1", 10)).await;
    for stream in &mut streams {
        assert_eq!(next_place(stream).await["rank"], 1);
    }
    submit(&nodes[0], &bid, &proposal("P-2", 5)).await;
    for stream in &mut streams {
        assert_eq!(next_place(stream).await["rank"], 2);
    }
}

async fn a_long_poll_is_told_once_what_has_happened_between_two_calls() {
    let server = server();
    // what a node has not heard of it tells in any case
    let api = server.api().at(0);
    let bid = open_bid(&api, &draft("B")).await;
    submit(&api, &bid, &proposal("P-1", 10)).await;
    let mut poller = crate::support::Poller::new(&lee(&server).at(0), "user:lee", None);
    let ranks = |answer: &Value| {
        let events = answer["events"].as_array().expect("events").iter();
        events.map(|event| event["data"]["rank"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ranks(&poller.ask(0).await), [json!(1)], "the first call tells how it stands");
    assert_eq!(ranks(&poller.ask(0).await), [] as [Value; 0]);
    submit(&api, &bid, &proposal("P-2", 5)).await;
    // whoever hears of the entry polls after it
    let mut stream = api.listen("ranking:B", None).await;
    stream.ready().await;
    revise(&api, &bid, "P-2", &offer(6)).await;
    while stream.take(1).await[0].data["data"]["version"] != 3 {}
    assert_eq!(ranks(&poller.ask(0).await), [json!(2)]);
    assert_eq!(ranks(&poller.ask(0).await), [] as [Value; 0]);
}
