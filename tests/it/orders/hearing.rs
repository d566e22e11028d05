//! Who hears an order: its parties, and those whose role it is; known at every node before anything is told of it.

use serde_json::{Value, json};

use super::{create, options, report, set, token, user};
use crate::support::{Api, Backend, Client, Postgres, Server, Transport, Ws, eventually};

async fn status(api: &Api, topics: &str) -> u16 {
    let path = format!("/v2/realtime/stream?topics={topics}");
    api.request("GET", &path).send().await.expect("an answer").status().as_u16()
}

/// A WebSocket of a user, at a node.
async fn connect(server: &Server, node: usize, token: &str, topics: &str) -> Ws {
    let query = if topics.is_empty() { String::new() } else { format!("?topics={topics}") };
    let (path, bearer) = (format!("/v2/realtime/ws{query}"), format!("Bearer {token}"));
    let address = server.addresses()[node];
    Ws::try_open(address, &path, &[("authorization", &bearer)]).await.expect("open")
}

/// Its parties hear an order that was created just now, at whichever node; nobody else does.
async fn parties_hear_and_strangers_do_not() {
    let server = Server::with(options());
    let last = server.count() - 1;
    let api = server.api().at(0);
    let park = token("park", &json!({"carriers": ["CJ"]}));
    let lee = token("lee", &json!({"carriers": ["HJ"], "roles": ["shipper", "carrier"]}));
    for round in 0..5 {
        let topic = format!("order:ORD-{round}");
        let elsewhere = server.api().at(last);
        assert_eq!(status(&elsewhere.bearing(&park), &topic).await, 403, "it is not there yet");
        create(&api, &format!("ORD-{round}")).await;
        let mut clients = Vec::new();
        for (own, transport) in [
            (token("kim", &json!({})), Transport::Sse),
            (token("CJ", &json!({})), Transport::Poll),
            (park.clone(), Transport::WebSocket),
        ] {
            clients.push(Client::over(transport, &elsewhere.bearing(&own), &topic, None).await.0);
        }
        let mut late = connect(&server, last, &park, "").await;
        late.ready().await;
        let subscribed = late.done("subscribe", json!({"topics": [topic, "order:none"]})).await;
        assert_eq!(subscribed["topics"], json!([topic]));
        assert_eq!(subscribed["refused"], json!([{"topic": "order:none", "code": "forbidden"}]));
        let mut stranger = connect(&server, last, &lee, &format!("{topic},topic:a")).await;
        assert_eq!(stranger.ready().await["topics"], json!(["topic:a"]));
        assert_eq!(
            stranger.next().await.expect("told")["data"],
            json!({"topic": topic, "code": "forbidden"})
        );
        let refused =
            elsewhere.bearing(&lee).get(&format!("/v2/realtime/order-updates?order_ids=ORD-{round}")).await;
        assert_eq!(refused.problem(403), "forbidden_topics");
        let told = set(&api, &format!("ORD-{round}"), "assigned").await;
        for client in &mut clients {
            assert_eq!(client.event().await.data, told);
        }
        assert_eq!(late.event().await["data"], told);
        api.publish("topic:a", "end", json!(round)).await;
        assert_eq!(stranger.event().await["event"], "end", "nothing else came");
    }
}

#[tokio::test]
async fn an_order_is_heard_by_its_parties_and_by_no_stranger() {
    parties_hear_and_strangers_do_not().await;
}

#[tokio::test]
async fn who_may_hear_an_order_is_known_at_every_node_as_soon_as_it_is_created() {
    Backend::Cluster.run(parties_hear_and_strangers_do_not()).await;
}

/// Who hears an order that is not there yet goes on hearing it; its creation reaches no client.
async fn an_unseen_order_is_watched_over_its_creation(transport: Transport) {
    let server = Server::with(options());
    let (api, elsewhere) = (server.api().at(0), server.api().at(server.count() - 1));
    let dispatcher = elsewhere.bearing(&token("dee", &json!({"roles": ["dispatcher"]})));
    let (admin, mut clients) = (server.api_of("default", "admin"), Vec::new());
    for (api, topics) in
        [(&dispatcher, "order:ORD-1"), (&elsewhere, "order:ORD-1,topic:a"), (&admin, "order:*")]
    {
        clients.push(Client::over(transport, api, topics, None).await.0);
    }
    create(&api, "ORD-1").await;
    let mut told = vec![set(&api, "ORD-1", "assigned").await];
    let seen = json!({"new_status": "picked_up", "tracking_event": {"note": "loaded"}});
    told.push(report(&api, "ORD-1", &seen).await.expect(200));
    for client in &mut clients {
        for expected in &told {
            let event = client.event().await;
            assert_eq!((event.name.as_str(), &event.data), ("order_status_changed", expected));
        }
    }
}

#[tokio::test]
async fn who_watches_an_order_before_it_is_there_hears_all_of_it_and_not_its_creation() {
    for transport in [Transport::Sse, Transport::WebSocket, Transport::Poll] {
        an_unseen_order_is_watched_over_its_creation(transport).await;
    }
}

#[tokio::test]
async fn who_watches_an_order_at_another_node_before_it_is_there_hears_all_of_it() {
    Backend::Cluster.run(an_unseen_order_is_watched_over_its_creation(Transport::Sse)).await;
}

#[tokio::test]
async fn who_loses_its_role_goes_on_hearing_only_the_orders_it_is_party_of() {
    let server = Server::with(options());
    let api = server.api();
    create(&api, "ORD-1").await;
    api.post("/v2/orders", &json!({"order_id": "ORD-2", "shipper": "lee"})).await.expect(201);
    let mighty = token("CJ", &json!({"roles": ["dispatcher"]}));
    let mut ws = connect(&server, 0, &mighty, "order:ORD-1,order:ORD-2,order:ORD-3").await;
    ws.ready().await;
    let lesser = token("CJ", &json!({}));
    ws.done("auth", json!({"token": lesser})).await;
    for topic in ["order:ORD-2", "order:ORD-3"] {
        let told = ws.next().await.expect("told");
        let expected = json!({"topic": topic, "code": "forbidden"});
        assert_eq!((&told["event"], &told["data"]), (&json!("unsubscribed"), &expected));
    }
    set(&api, "ORD-2", "assigned").await;
    let told = set(&api, "ORD-1", "assigned").await;
    assert_eq!(ws.event().await["data"], told);
}

#[tokio::test]
async fn a_ticket_of_a_carrier_is_good_for_its_order() {
    let server = Server::with(options());
    let api = server.api();
    for id in ["ORD-1", "ORD-2"] {
        create(&api, id).await;
    }
    let carrier = user(&server, "CJ", &json!({}));
    let body = json!({"topics": ["order:ORD-1", "order:ORD-3"]});
    let ticket = carrier.post("/v2/realtime/tickets", &body).await.expect(201);
    let ticket = ticket["ticket"].as_str().expect("a ticket");
    let path = |order: &str| format!("/v2/realtime/order-updates?order_ids={order}&ticket={ticket}");
    for refused in ["ORD-2", "ORD-3"] {
        assert_eq!(api.anonymous().get(&path(refused)).await.status, 403, "{refused}");
    }
    let mut stream = api.anonymous().stream(&path("ORD-1"), None).await;
    stream.ready().await;
    let told = set(&api, "ORD-1", "assigned").await;
    assert_eq!(stream.expect("order_status_changed").await.data, told);
}

#[tokio::test]
async fn while_the_database_is_away_nobody_hears_an_order_whose_parties_are_not_known() {
    let mut postgres = Postgres::start();
    let options = options().cluster(1).env("DATABASE_URL", postgres.url());
    let server = Server::with(options);
    let api = server.api();
    for id in ["ORD-1", "ORD-2"] {
        create(&api, id).await;
    }
    // told of by the log, the orders are known; forgotten by a restart, they are not
    let mut server = server;
    server.restart(|options| options);
    let (carrier, topics) = (token("CJ", &json!({})), "order:ORD-1,topic:a");
    let mut known = connect(&server, 0, &carrier, topics).await;
    assert_eq!(known.ready().await["topics"], json!(["order:ORD-1", "topic:a"]));
    postgres.kill();
    let own = api.bearing(&carrier);
    assert_eq!(own.get("/v2/realtime/stream?topics=order:ORD-2").await.problem(503), "unavailable");
    let mut again = connect(&server, 0, &carrier, "order:ORD-1,order:ORD-2").await;
    assert_eq!(again.ready().await["topics"], json!(["order:ORD-1"]), "what is known needs no database");
    let refused = json!([{"topic": "order:ORD-2", "code": "unavailable"}]);
    let told = again.next().await.expect("told");
    assert_eq!((&told["event"], &told["data"]), (&json!("unsubscribed"), &refused[0]));
    let late = known.done("subscribe", json!({"topics": ["order:ORD-2"]})).await;
    assert_eq!(late["refused"], refused);
    // roles need no facts, and others' rights none either
    let dispatcher = api.bearing(&token("dee", &json!({"roles": ["dispatcher"]})));
    assert_eq!(status(&dispatcher, "order:ORD-2").await, 200);
    postgres.restart();
    eventually("the order to be heard", async || {
        let answer = known.ask("subscribe", json!({"topics": ["order:ORD-2"]})).await;
        (answer["data"]["refused"] == Value::Array(Vec::new())).then_some(())
    })
    .await;
    assert_eq!(status(&api.bearing(&token("lee", &json!({}))), "order:ORD-2").await, 403);
}
