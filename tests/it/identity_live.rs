//! What happens to open connections: tokens that are refreshed, users that are removed, rights that change.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Api, Issuer, Server, ServerOptions, Ws, eventually, from_now};

const SECRET: &str = "a secret of at least thirty-two bytes";

fn server() -> Server {
    Server::with(ServerOptions::default().env("JWT_SECRET", SECRET).set("jwt.leeway_s", 0))
}

fn token(sub: &str, claims: Value) -> String {
    let mut all = json!({"sub": sub, "exp": from_now(60)});
    all.as_object_mut().unwrap().extend(claims.as_object().expect("an object").clone());
    Issuer::shared(SECRET, None).sign(&all)
}

/// A WebSocket of a user, by the handshake.
async fn connect(server: &Server, token: &str, topics: &str) -> Ws {
    let path = format!("/v2/realtime/ws?topics={topics}");
    let bearer = format!("Bearer {token}");
    Ws::try_open(server.address(), &path, &[("authorization", &bearer)]).await.expect("open")
}

async fn members(api: &Api, method: &str, users: &[&str]) {
    api.call(method, "/v2/topics/crew/members", &json!({"users": users})).await.expect(200);
}

#[tokio::test]
async fn a_user_connects_by_websocket_and_refreshes_its_token_in_place() {
    let server = server();
    let api = server.api();
    let short = |sub| token(sub, json!({"exp": from_now(3), "roles": ["manager"]}));
    let mut late = Ws::try_open(server.address(), "/v2/realtime/ws?topics=topic:a", &[]).await.expect("open");
    late.request("auth", json!({"token": short("kim")})).await;
    assert_eq!(late.next().await.expect("a reply")["ok"], true);
    assert_eq!(late.ready().await["user_id"], "kim");
    let mut refreshed = connect(&server, &short("kim"), "topic:a").await;
    assert_eq!(refreshed.ready().await["user_id"], "kim");
    for (other, code) in [
        (token("lee", json!({})), "other_identity"),
        (token("kim", json!({"tenant": "other"})), "other_identity"),
        (token("kim", json!({"exp": from_now(-1)})), "expired_token"),
        ("a.b.c".to_owned(), "invalid_token"),
    ] {
        assert_eq!(refreshed.refused("auth", json!({"token": other})).await, code);
    }
    let event = json!({"topic": "topic:a", "type": "note", "data": 1});
    refreshed.done("publish", event.clone()).await;
    assert_eq!(refreshed.done("auth", json!({"token": token("kim", json!({}))})).await, json!({}));
    let closed = late.closed().await;
    assert!(closed.code == 3500 && closed.reason.contains("unauthenticated"), "{closed:?}");
    // beyond the first token's time, with the rights of the second
    assert_eq!(refreshed.refused("publish", event).await, "forbidden");
    api.publish("topic:a", "tick", json!(2)).await;
    while refreshed.event().await["event"] != "tick" {}
}

#[tokio::test]
async fn a_kick_closes_every_kind_of_connection_of_the_user() {
    let server = server();
    let admin = server.api_of("default", "admin");
    let kim = token("kim", json!({"iat": from_now(-5)}));
    let mut socket = connect(&server, &kim, "topic:a").await;
    socket.ready().await;
    let mut stream = server.api().bearing(&kim).listen("topic:a", None).await;
    stream.ready().await;
    let since = Instant::now();
    admin.post("/v2/admin/kick", &json!({"user": "kim"})).await.expect(200);
    let closed = socket.closed().await;
    assert!(closed.code == 3501 && closed.reason.contains("forbidden"), "{closed:?}");
    assert_eq!(stream.expect("close").await.data["code"], 3501);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let bearer = format!("Bearer {kim}");
    let again = Ws::try_open(server.address(), "/v2/realtime/ws", &[("authorization", &bearer)]).await;
    assert_eq!(again.err(), Some(401));
}

#[tokio::test]
async fn nothing_that_follows_a_declaration_reaches_whoever_is_no_member() {
    let server = server();
    let api = server.api();
    let kim = token("kim", json!({}));
    for round in 0..20 {
        let (path, topic) = (format!("/v2/topics/room-{round}"), format!("topic:room-{round}"));
        let mut stream = server.api().bearing(&kim).listen(&format!("{topic},topic:open"), None).await;
        stream.ready().await;
        api.call("PUT", &path, &json!({"membership": true})).await.expect(201);
        api.publish(&topic, "note", json!(1)).await;
        api.publish("topic:open", "end", json!(2)).await;
        assert_eq!(stream.expect("unsubscribed").await.data, json!({"topic": topic, "code": "not_a_member"}));
        assert_eq!(stream.take(1).await[0].event, "end");
    }
}

#[tokio::test]
async fn whoever_is_no_member_any_more_is_told_so_within_a_second() {
    let server = server();
    let api = server.api();
    let kim = token("kim", json!({}));
    let topics = "topic:crew,topic:open,presence:topic:crew";
    let mut stream = server.api().bearing(&kim).listen(topics, None).await;
    stream.ready().await;
    let mut socket = connect(&server, &kim, topics).await;
    socket.ready().await;
    let mut service = api.listen("topic:crew", None).await;
    service.ready().await;
    // declared while they listen, then granted and withdrawn
    let since = Instant::now();
    api.call("PUT", "/v2/topics/crew", &json!({"membership": true})).await.expect(201);
    for topic in ["topic:crew", "presence:topic:crew"] {
        let told = json!({"topic": topic, "code": "not_a_member"});
        assert_eq!(stream.expect("unsubscribed").await.data, told);
        let frame = socket.next().await.expect("a frame");
        assert_eq!((&frame["event"], &frame["data"]), (&json!("unsubscribed"), &told));
    }
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    api.publish("topic:crew", "note", json!(1)).await;
    assert_eq!(service.expect("note").await.data["data"], 1, "services stay");
    let reply = socket.done("subscribe", json!({"topics": ["topic:crew", "topic:more"]})).await;
    assert_eq!(reply["refused"], json!([{"topic": "topic:crew", "code": "not_a_member"}]));
    members(&api, "POST", &["kim"]).await;
    let reply = socket.done("subscribe", json!({"topics": ["topic:crew"]})).await;
    assert_eq!(reply["topics"], json!(["topic:crew"]));
    api.publish("topic:crew", "note", json!(2)).await;
    assert_eq!(socket.event().await["data"], 2);
    members(&api, "DELETE", &["kim"]).await;
    let frame = socket.next().await.expect("a frame");
    assert_eq!(frame["data"], json!({"topic": "topic:crew", "code": "not_a_member"}), "{frame}");
    api.publish("topic:crew", "note", json!(3)).await;
    api.publish("topic:open", "note", json!(4)).await;
    assert_eq!(socket.event().await["data"], 4);
    assert_eq!(stream.expect("note").await.data["data"], 4, "the rest of the connection goes on");
}

#[tokio::test]
async fn a_late_subscription_hears_nothing_from_before_its_grant() {
    let server = server();
    let api = server.api();
    let start = api.publish("topic:open", "note", json!(0)).await;
    api.call("PUT", "/v2/topics/crew", &json!({"membership": true})).await.expect(201);
    api.publish("topic:crew", "note", json!(1)).await;
    members(&api, "POST", &["kim"]).await;
    api.publish("topic:crew", "note", json!(2)).await;
    let mut socket = connect(&server, &token("kim", json!({})), "topic:open").await;
    socket.ready().await;
    let id = socket.request("subscribe", json!({"topics": ["topic:crew"], "since": start})).await;
    let replayed = socket.next().await.expect("an event");
    assert_eq!((&replayed["data"], &replayed["replay"]), (&json!(2), &json!(id)));
    let reply = socket.next().await.expect("the answer");
    assert_eq!((&reply["reply"], &reply["data"]["recovered"]), (&json!(id), &json!(true)), "{reply}");
}

#[tokio::test]
async fn many_changes_of_members_reach_whom_they_concern_and_nobody_else() {
    let server = server();
    let (api, operator) = (server.api(), server.operator());
    api.call("PUT", "/v2/topics/crew", &json!({"membership": true})).await.expect(201);
    members(&api, "POST", &["kim", "lee"]).await;
    let mut lee = connect(&server, &token("lee", json!({})), "topic:crew").await;
    lee.ready().await;
    for _ in 0..10 {
        let mut kim = connect(&server, &token("kim", json!({})), "topic:crew").await;
        kim.ready().await;
        members(&api, "DELETE", &["kim"]).await;
        assert_eq!(kim.next().await.expect("a frame")["event"], "unsubscribed");
        members(&api, "POST", &["kim"]).await;
    }
    api.publish("topic:crew", "note", json!(7)).await;
    assert_eq!(lee.event().await["data"], 7);
    eventually("the connections' end", async || {
        let open = "bongsu_connections{transport=\"websocket\",tenant=\"default\"}";
        (operator.metric(open).await == 1.0).then_some(())
    })
    .await;
}
