//! Users that are removed, tickets of users, and tickets that are revoked.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Api, Issuer, Server, ServerOptions, Sse, from_now};

const SECRET: &str = "a secret of at least thirty-two bytes";

fn server() -> (Server, Issuer) {
    let server = Server::with(ServerOptions::default().env("JWT_SECRET", SECRET).set("jwt.leeway_s", 0));
    (server, Issuer::shared(SECRET, None))
}

/// A token of a user of tenant `default` that says it was issued so many seconds from now.
fn token(issuer: &Issuer, sub: &str, issued: i64) -> String {
    issuer.sign(&json!({"sub": sub, "iat": from_now(issued), "exp": from_now(3600)}))
}

fn stream_path(topics: &str, ticket: &str) -> String {
    format!("/v2/realtime/stream?topics={topics}&ticket={ticket}")
}

async fn ticket(api: &Api, request: Value) -> Value {
    api.post("/v2/realtime/tickets", &request).await.expect(201)
}

/// The code that a stream was ended with, within a second of `since`.
async fn ended(stream: &mut Sse, since: Instant) -> Value {
    let events = stream.rest().await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let last = events.last().expect("a close");
    assert_eq!((last.event.as_str(), &last.data["reconnect"]), ("close", &json!(false)), "{events:?}");
    last.data["code"].clone()
}

#[tokio::test]
async fn a_kicked_user_is_gone_within_a_second_until_it_signs_in_again() {
    let (mut server, issuer) = server();
    let (api, admin) = (server.api(), server.api_of("default", "admin"));
    let (old, namesake) = (token(&issuer, "kim", -5), token(&issuer, "lee", -5));
    let timeless = issuer.sign(&json!({"sub": "kim", "exp": from_now(3600)}));
    let elsewhere =
        issuer.sign(&json!({"sub": "kim", "tenant": "other", "iat": from_now(-5), "exp": from_now(3600)}));
    let made = ticket(&api.bearing(&old), json!({})).await;
    let with_ticket = stream_path("topic:a", made["ticket"].as_str().expect("a ticket"));
    let service = server.api_of("default", "act_as_user");
    let on_behalf = service.request("GET", "/v2/realtime/stream?topics=topic:a").header("x-user-id", "kim");
    let mut cut = vec![
        api.bearing(&old).listen("topic:a", None).await,
        api.bearing(&timeless).listen("user:kim", None).await,
        api.anonymous().stream(&with_ticket, None).await,
        Sse::open(on_behalf.try_clone().expect("no body")).await,
    ];
    let mut stay = vec![
        api.bearing(&namesake).listen("topic:a", None).await,
        api.bearing(&elsewhere).listen("topic:a", None).await,
        api.listen("topic:a", None).await,
    ];
    for stream in cut.iter_mut().chain(&mut stay) {
        stream.ready().await;
    }
    let since = Instant::now();
    let kicked = admin.post("/v2/admin/kick", &json!({"user": "kim"})).await.expect(200);
    assert_eq!(kicked["user"], "kim");
    let not_before = bongsu::domain::Timestamp::parse(kicked["not_before"].as_str().expect("a time"));
    assert!(not_before.expect("RFC 3339").millis() / 1000 - from_now(0) <= 0);
    for token in [&old, &timeless] {
        let answer = api.bearing(token).get("/v2/fleets").await;
        assert_eq!(answer.problem(401), "kicked", "at once");
    }
    assert_eq!(api.anonymous().get(&with_ticket).await.problem(401), "kicked");
    for stream in &mut cut {
        assert_eq!(ended(stream, since).await, 3501);
    }
    api.publish("topic:a", "tick", json!(1)).await;
    server.api_of("other", "publish").publish("topic:a", "tick", json!(1)).await;
    for stream in &mut stay {
        assert_eq!(stream.expect("tick").await.data["data"], 1, "others stay");
    }
    // whoever signs in again is welcome, and a service may go on speaking for the user
    let new = token(&issuer, "kim", 2);
    api.bearing(&new).listen("user:kim", None).await.ready().await;
    let made = ticket(&api.bearing(&new), json!({})).await;
    api.anonymous()
        .stream(&stream_path("topic:a", made["ticket"].as_str().expect("a ticket")), None)
        .await
        .ready()
        .await;
    Sse::open(on_behalf).await.ready().await;
    // it is not forgotten
    server.kill();
    server.restart(|options| options);
    assert_eq!(api.bearing(&old).get("/v2/fleets").await.problem(401), "kicked");
    api.bearing(&new).get("/v2/fleets").await.expect(200);
    api.bearing(&elsewhere).get("/v2/fleets").await.expect(200);
}

#[tokio::test]
async fn only_administrators_kick_and_only_within_their_tenant() {
    let (server, issuer) = server();
    let api = server.api();
    let kim = token(&issuer, "kim", -5);
    let kick = json!({"user": "kim"});
    for scopes in ["publish,subscribe,manage,act_as_user", "operator"] {
        server.api_of("default", scopes).post("/v2/admin/kick", &kick).await.problem(403);
    }
    api.bearing(&kim).post("/v2/admin/kick", &kick).await.problem(403);
    server.api_of("other", "admin").post("/v2/admin/kick", &kick).await.expect(200);
    api.bearing(&kim).get("/v2/fleets").await.expect(200);
    let admin = server.api_of("default", "admin");
    for wrong in [json!({}), json!({"user": ""}), json!({"user": "kim", "for": 1}), json!({"user": 1})] {
        admin.post("/v2/admin/kick", &wrong).await.problem(422);
    }
    let boss =
        issuer.sign(&json!({"sub": "boss", "roles": ["admin"], "iat": from_now(0), "exp": from_now(60)}));
    api.bearing(&boss).post("/v2/admin/kick", &kick).await.expect(200);
    assert_eq!(api.bearing(&kim).get("/v2/fleets").await.problem(401), "kicked");
}

#[tokio::test]
async fn a_ticket_of_a_user_carries_its_rights_and_lasts_as_long_as_its_token() {
    let (server, issuer) = server();
    let api = server.api();
    let end = from_now(3);
    let claims = json!({"sub": "kim", "tenant": "acme", "roles": ["admin"], "carriers": ["c1"], "exp": end});
    let bearer = api.bearing(&issuer.sign(&claims));
    let made = ticket(&bearer, json!({"topics": ["admin", "user:kim", "user:lee"]})).await;
    let expires =
        bongsu::domain::Timestamp::parse(made["expires_at"].as_str().expect("a time")).expect("RFC 3339");
    assert!((expires.millis() - end * 1000).abs() < 1000, "{made}");
    let secret = made["ticket"].as_str().expect("a ticket");
    let anonymous = api.anonymous();
    let mut stream = anonymous.stream(&stream_path("admin,user:kim", secret), None).await;
    let ready = stream.ready().await;
    assert_eq!((&ready["user_id"], &ready["tenant_id"]), (&json!("kim"), &json!("acme")));
    assert_eq!(anonymous.get(&stream_path("user:lee", secret)).await.problem(403), "forbidden_topics");
    // a reconnection takes the place of the one before; when the token runs out, so does the stream
    let mut again = anonymous.stream(&stream_path("admin", secret), None).await;
    again.ready().await;
    assert_eq!(stream.rest().await.last().expect("a close").data["code"], 1000);
    assert_eq!(again.rest().await.last().expect("a close").data["code"], 3500);
    assert_eq!(anonymous.get(&stream_path("admin", secret)).await.problem(401), "expired_ticket");
    // a ticket opens streams and nothing else
    let fresh = ticket(&api, json!({})).await;
    let secret = fresh["ticket"].as_str().expect("a ticket");
    api.bearing(secret).post("/v2/realtime/tickets", &json!({})).await.problem(401);
}

#[tokio::test]
async fn a_ticket_is_revoked_by_whom_it_is_for_or_an_administrator() {
    let (server, issuer) = server();
    let (api, admin) = (server.api(), server.api_of("default", "admin"));
    let kim = api.bearing(&token(&issuer, "kim", 0));
    let lee = api.bearing(&token(&issuer, "lee", 0));
    let stranger = server.api_of("other", "admin");
    let anonymous = api.anonymous();
    for (issuer, revoker) in [(&kim, &kim), (&kim, &admin), (&api, &api), (&api, &admin)] {
        let made = ticket(issuer, json!({})).await;
        let path = stream_path("topic:a", made["ticket"].as_str().expect("a ticket"));
        let mut stream = anonymous.stream(&path, None).await;
        stream.ready().await;
        let by_id = format!("/v2/realtime/tickets/{}", made["ticket_id"].as_str().expect("an id"));
        for other in [&lee, &stranger] {
            assert_eq!(other.delete(&by_id).await.problem(404), "no_such_ticket");
        }
        anonymous.delete(&by_id).await.problem(401);
        let since = Instant::now();
        revoker.delete(&by_id).await.expect(204);
        assert_eq!(anonymous.get(&path).await.problem(401), "revoked");
        assert_eq!(ended(&mut stream, since).await, 3500);
        revoker.delete(&by_id).await.expect(204);
        issuer.get("/v2/fleets").await.expect(200);
    }
}
