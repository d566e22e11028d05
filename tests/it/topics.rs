//! Declared topics: who may hear them, from where on, and who may say so.

use serde_json::{Value, json};

use crate::support::{Api, Issuer, Server, ServerOptions, Sse, from_now};

const SECRET: &str = "a secret of at least thirty-two bytes";

fn options() -> ServerOptions {
    ServerOptions::default().env("JWT_SECRET", SECRET)
}

/// Calls of a user of tenant `default`.
fn user(server: &Server, sub: &str, roles: &[&str]) -> Api {
    server.api().bearing(&Issuer::shared(SECRET, None).token(sub, roles))
}

async fn declare(api: &Api, name: &str, membership: bool) -> Value {
    let answer = api.call("PUT", &format!("/v2/topics/{name}"), &json!({"membership": membership})).await;
    assert!([200, 201].contains(&answer.status), "{}", answer.text);
    answer.json()
}

async fn members(api: &Api, method: &str, name: &str, users: &[&str]) -> Value {
    api.call(method, &format!("/v2/topics/{name}/members"), &json!({"users": users})).await.expect(200)
}

async fn status(api: &Api, topics: &str) -> u16 {
    let path = format!("/v2/realtime/stream?topics={topics}");
    api.request("GET", &path).send().await.expect("an answer").status().as_u16()
}

/// What is replayed of a connection's topics from a cursor on, by the numbers in the events.
async fn replayed(api: &Api, topics: &str, cursor: &str) -> Vec<i64> {
    let mut stream = api.listen(topics, Some(cursor)).await;
    let ready = stream.ready().await;
    assert_eq!((&ready["recovered"], &ready["reason"]), (&json!(true), &Value::Null));
    let events = stream.replayed().await;
    events.iter().map(|event| event.data["data"].as_i64().expect("a number")).collect()
}

#[tokio::test]
async fn a_declared_topic_is_for_its_members_and_roles_do_not_help() {
    let mut server = Server::with(options());
    let manager = server.api();
    let (kim, lee) = (user(&server, "kim", &[]), user(&server, "lee", &["manager", "admin"]));
    assert_eq!(status(&lee, "topic:crew").await, 200, "not declared yet");
    let declared = manager.call("PUT", "/v2/topics/crew", &json!({"membership": true})).await.expect(201);
    assert_eq!(declared, json!({"topic": "topic:crew", "membership": true, "members": 0}));
    let again = manager.call("PUT", "/v2/topics/crew", &json!({"membership": true})).await.expect(200);
    assert_eq!(again, declared);
    for api in [&kim, &lee] {
        assert_eq!(status(api, "topic:crew").await, 403);
        assert_eq!(status(api, "presence:topic:crew").await, 403);
        let answer = api.get("/v2/realtime/stream?topics=topic:crew,topic:open").await;
        assert_eq!(answer.json()["errors"], json!([{"field": "topics", "message": "topic:crew"}]));
        assert_eq!(answer.problem(403), "forbidden_topics");
    }
    let granted = members(&manager, "POST", "crew", &["kim"]).await;
    assert_eq!((&granted["members"], granted["position"].is_string()), (&json!(1), true));
    for topic in ["topic:crew", "presence:topic:crew"] {
        assert_eq!((status(&kim, topic).await, status(&lee, topic).await), (200, 403), "{topic}");
    }
    // services go by their scopes; a service that speaks for a user is that user
    assert_eq!(status(&manager, "topic:crew").await, 200);
    let service = server.api_of("default", "act_as_user,subscribe");
    for (sub, expected) in [("kim", 200), ("lee", 403)] {
        let request =
            service.request("GET", "/v2/realtime/stream?topics=topic:crew").header("x-user-id", sub);
        assert_eq!(request.send().await.expect("an answer").status().as_u16(), expected, "{sub}");
    }
    // a ticket is no way around
    let made = lee.post("/v2/realtime/tickets", &json!({})).await.expect(201);
    let path = format!(
        "/v2/realtime/stream?topics=topic:crew&ticket={}",
        made["ticket"].as_str().expect("a ticket")
    );
    assert_eq!(lee.anonymous().get(&path).await.problem(403), "forbidden_topics");
    // another tenant's topic of the same name is another topic
    let other =
        Issuer::shared(SECRET, None).sign(&json!({"sub": "lee", "tenant": "other", "exp": from_now(60)}));
    assert_eq!(status(&server.api().bearing(&other), "topic:crew").await, 200);
    server.kill();
    server.restart(|options| options);
    assert_eq!((status(&kim, "topic:crew").await, status(&lee, "topic:crew").await), (200, 403));
    members(&manager, "DELETE", "crew", &["kim", "nobody"]).await;
    assert_eq!(status(&kim, "topic:crew").await, 403);
    declare(&manager, "crew", false).await;
    assert_eq!((status(&kim, "topic:crew").await, status(&lee, "topic:crew").await), (200, 200));
}

#[tokio::test]
async fn a_member_hears_nothing_from_before_its_grant() {
    for window in [20_000, 16] {
        let server = Server::with(options().set("log.window_count", window));
        let manager = server.api();
        let kim = user(&server, "kim", &[]);
        let start = manager.publish("topic:open", "note", json!(0)).await;
        declare(&manager, "crew", true).await;
        let publish = async |from: i64, to: i64| {
            for n in from..to {
                manager.publish("topic:crew", "note", json!(n)).await;
            }
        };
        publish(1, 30).await;
        manager.publish("topic:open", "note", json!(100)).await;
        let granted = members(&manager, "POST", "crew", &["kim"]).await;
        publish(30, 40).await;
        let expected: Vec<i64> = (30..40).collect();
        assert_eq!(replayed(&kim, "topic:crew", &start).await, expected, "window {window}");
        let with_others: Vec<i64> = [100].into_iter().chain(30..40).collect();
        assert_eq!(replayed(&kim, "topic:crew,topic:open", &start).await, with_others);
        let position = granted["position"].as_str().expect("a position");
        assert_eq!(
            replayed(&kim, "topic:crew", position).await,
            expected,
            "from the grant on nothing is missed"
        );
        // who is a member already keeps the grant; who comes back gets a new one
        members(&manager, "POST", "crew", &["kim"]).await;
        assert_eq!(replayed(&kim, "topic:crew", &start).await, expected);
        members(&manager, "DELETE", "crew", &["kim"]).await;
        publish(40, 45).await;
        members(&manager, "POST", "crew", &["kim"]).await;
        publish(45, 50).await;
        assert_eq!(replayed(&kim, "topic:crew", &start).await, (45..50).collect::<Vec<_>>());
        // services are not held back
        assert_eq!(replayed(&manager, "topic:crew", &start).await, (1..50).collect::<Vec<_>>());
        let mut live = kim.listen("topic:crew", None).await;
        live.ready().await;
        publish(50, 51).await;
        assert_eq!(live.expect("note").await.data["data"], 50);
    }
}

#[tokio::test]
async fn a_declaration_is_in_the_log_once_and_reaches_no_client() {
    let server = Server::with(options());
    let (manager, admin) = (server.api(), server.api_of("default", "admin"));
    let start = manager.publish("topic:crew", "note", json!(1)).await;
    let mut live: Vec<Sse> = Vec::new();
    for (api, topics) in [(&manager, "topic:crew"), (&admin, "topic:*")] {
        let mut stream = api.listen(topics, None).await;
        stream.ready().await;
        live.push(stream);
    }
    for membership in [true, true, false] {
        declare(&manager, "crew", membership).await;
    }
    let operator = server.operator();
    crate::support::eventually("the entry", async || {
        (operator.metric("bongsu_outbox_published_total").await >= 1.0).then_some(())
    })
    .await;
    let end = manager.publish("topic:crew", "note", json!(2)).await;
    let number = |position: &str| crate::support::client::seq(position);
    assert_eq!(number(&end), number(&start) + 2, "one entry, between the two");
    for stream in &mut live {
        let event = stream.expect("note").await;
        assert_eq!((&event.data["data"], event.id.as_deref()), (&json!(2), Some(end.as_str())));
    }
    for (api, topics) in [(&manager, "topic:crew"), (&admin, "topic:*")] {
        assert_eq!(replayed(api, topics, &start).await, [2], "{topics}");
    }
}

#[tokio::test]
async fn topics_are_declared_by_those_who_manage_within_their_tenant() {
    let server = Server::with(options());
    for (api, allowed) in [
        (server.api_of("default", "manage"), true),
        (server.api_of("default", "publish,subscribe,admin,act_as_user"), false),
        (server.operator(), false),
        (user(&server, "boss", &["manager"]), true),
        (user(&server, "root", &["admin"]), true),
        (user(&server, "kim", &["dispatcher", "shipper"]), false),
    ] {
        let expected = if allowed { 200 } else { 403 };
        let declared = api.call("PUT", "/v2/topics/crew", &json!({"membership": true})).await.status;
        assert!(declared == expected || allowed && declared == 201, "{declared}");
        let users = json!({"users": ["kim"]});
        for (method, path, body) in [
            ("POST", "/v2/topics/crew/members", &users),
            ("DELETE", "/v2/topics/crew/members", &users),
            ("GET", "/v2/topics/crew", &Value::Null),
        ] {
            assert_eq!(api.call(method, path, body).await.status, expected, "{method} {path}");
        }
    }
    let stranger = server.api_of("other", "manage");
    for answer in [
        stranger.get("/v2/topics/crew").await,
        stranger.call("POST", "/v2/topics/crew/members", &json!({"users": ["eve"]})).await,
    ] {
        assert_eq!(answer.problem(404), "no_such_topic");
    }
    server.api().anonymous().get("/v2/topics/crew").await.problem(401);
}

#[tokio::test]
async fn what_is_wrong_with_a_declaration_is_named_and_members_come_in_pages() {
    let server = Server::with(options());
    let api = server.api();
    declare(&api, "crew", true).await;
    let too_many: Vec<String> = (0..1001).map(|n| format!("u{n}")).collect();
    for (method, path, body, field) in [
        ("PUT", "/v2/topics/crew", json!({}), "membership"),
        ("PUT", "/v2/topics/crew", json!({"membership": 1}), "membership"),
        ("PUT", "/v2/topics/crew", json!({"membership": true, "colour": "red"}), "colour"),
        ("PUT", "/v2/topics/a%20b", json!({"membership": true}), "name"),
        ("POST", "/v2/topics/crew/members", json!({"users": []}), "users"),
        ("POST", "/v2/topics/crew/members", json!({"users": too_many}), "users"),
        ("POST", "/v2/topics/crew/members", json!({"users": ["kim", ""]}), "users[1]"),
        ("DELETE", "/v2/topics/crew/members", json!({"users": ["x".repeat(129)]}), "users[0]"),
    ] {
        let answer = api.call(method, path, &body).await;
        assert_eq!(answer.json()["errors"][0]["field"], field, "{method} {path} {body}");
        answer.problem(422);
    }
    for name in ["none", "crew2"] {
        api.get(&format!("/v2/topics/{name}")).await.problem(404);
        let answer =
            api.call("POST", &format!("/v2/topics/{name}/members"), &json!({"users": ["kim"]})).await;
        assert_eq!(answer.problem(404), "no_such_topic");
    }
    let users: Vec<String> = (0..1000).map(|n| format!("u{n:04}")).collect();
    let named: Vec<&str> = users.iter().map(String::as_str).collect();
    let granted = members(&api, "POST", "crew", &named).await;
    assert_eq!(granted["members"], 1000);
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v2/topics/crew?limit=200&after={after}")).await.expect(200);
        assert_eq!((&page["membership"], &page["members"]), (&json!(true), &json!(1000)));
        for user in page["users"].as_array().expect("users") {
            assert_eq!(user["since"], granted["position"]);
            found.push(user["user"].as_str().expect("a user").to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(found, users);
}
