//! Tickets over WebSocket, and beside other words about who is there.

use serde_json::{Value, json};

use crate::support::{Api, Issuer, Server, ServerOptions, Ws};

const SECRET: &str = "a secret of at least thirty-two bytes";
const PATH: &str = "/v2/realtime/ws";

fn server() -> Server {
    Server::with(ServerOptions::default().env("JWT_SECRET", SECRET))
}

fn kim(server: &Server) -> Api {
    server.api().bearing(&Issuer::shared(SECRET, None).token("kim", &[]))
}

async fn ticket(api: &Api, request: Value) -> String {
    let answer = api.post("/v2/realtime/tickets", &request).await.expect(201);
    answer["ticket"].as_str().expect("a ticket").to_owned()
}

async fn stranger(server: &Server) -> Ws {
    Ws::try_open(server.address(), PATH, &[]).await.expect("strangers may knock")
}

#[tokio::test]
async fn a_ticket_may_be_said_in_the_first_message_of_a_websocket() {
    let server = server();
    let own = ticket(&kim(&server), json!({})).await;
    let mut first = stranger(&server).await;
    first.done("auth", json!({"token": own, "topics": ["user:kim", "topic:a"]})).await;
    let ready = first.ready().await;
    assert_eq!((&ready["user_id"], &ready["topics"]), (&json!("kim"), &json!(["user:kim", "topic:a"])));
    // it is that user's right, and the ticket's newer connection takes over, with topics of its own
    assert_eq!(
        first.done("subscribe", json!({"topics": ["admin"]})).await["refused"][0]["code"],
        "forbidden"
    );
    let mut second = stranger(&server).await;
    second.done("auth", json!({"token": own, "topics": ["topic:b"]})).await;
    assert_eq!(second.ready().await["topics"], json!(["topic:b"]));
    assert_eq!(first.closed().await.code, 1000);
    // it is no credential to go on with
    assert_eq!(second.refused("auth", json!({"token": own})).await, "invalid_credentials");
    let elsewhere = ticket(&kim(&server), json!({"path": "/v2/realtime/stream"})).await;
    for (token, code, close) in
        [("bt_none", "invalid_ticket", 3500), (elsewhere.as_str(), "ticket_path", 3501)]
    {
        let mut ws = stranger(&server).await;
        assert_eq!(ws.refused("auth", json!({"token": token})).await, code);
        assert_eq!(ws.closed().await.code, close, "{token}");
    }
}

#[tokio::test]
async fn the_topics_of_a_ticket_are_all_that_a_websocket_hears_by_it() {
    let server = server();
    let own = ticket(&kim(&server), json!({"topics": ["topic:a", "topic:b"]})).await;
    for way in ["query", "message"] {
        let mut ws = match way {
            "query" => {
                let path = format!("{PATH}?topics=topic:a,topic:c&ticket={own}");
                Ws::try_open(server.address(), &path, &[]).await.expect("open")
            }
            _ => {
                let mut ws = stranger(&server).await;
                ws.done("auth", json!({"token": own, "topics": ["topic:a", "topic:c"]})).await;
                ws
            }
        };
        let refused = json!({"topic": "topic:c", "code": "ticket_topics"});
        assert_eq!(ws.ready().await["topics"], json!(["topic:a"]), "{way}");
        assert_eq!(ws.next().await.expect("a frame")["data"], refused, "{way}");
        let reply = ws.done("subscribe", json!({"topics": ["topic:b", "topic:c"]})).await;
        assert_eq!((&reply["topics"], &reply["refused"]), (&json!(["topic:b"]), &json!([refused])), "{way}");
        server.api().publish("topic:c", "note", json!(1)).await;
        server.api().publish("topic:b", "note", json!(2)).await;
        assert_eq!(ws.event().await["data"], 2, "{way}");
        // with the user's own token it hears what the user may
        let token = Issuer::shared(SECRET, None).token("kim", &[]);
        ws.done("auth", json!({"token": token})).await;
        let reply = ws.done("subscribe", json!({"topics": ["topic:c"]})).await;
        assert_eq!(reply["topics"], json!(["topic:c"]), "{way}");
    }
    // one that was issued for no topics in particular leaves them open, whatever its first connection asked for
    let open = ticket(&kim(&server), json!({})).await;
    for topic in ["topic:a", "topic:b"] {
        let path = format!("{PATH}?topics={topic}&ticket={open}");
        let mut ws = Ws::try_open(server.address(), &path, &[]).await.expect("open");
        assert_eq!(ws.ready().await["topics"], json!([topic]));
        assert_eq!(ws.done("subscribe", json!({"topics": ["topic:c"]})).await["topics"], json!(["topic:c"]));
    }
}

#[tokio::test]
async fn a_ticket_names_no_more_topics_than_a_connection_may_have() {
    let server = server();
    let topics = |count: usize| (0..count).map(|n| format!("topic:{n}")).collect::<Vec<_>>();
    let answer = kim(&server).post("/v2/realtime/tickets", &json!({"topics": topics(129)})).await;
    assert_eq!(answer.json()["errors"][0]["field"], "topics");
    answer.problem(422);
    ticket(&kim(&server), json!({"topics": topics(128)})).await;
}

#[tokio::test]
async fn names_beside_a_ticket_or_without_any_credential_are_refused() {
    let server = server();
    let api = server.api_of("default", "subscribe,act_as_user");
    for name in ["x-user-id", "x-tenant-id"] {
        let own = ticket(&api, json!({})).await;
        for path in ["/v2/realtime/stream", "/v2/realtime/poll"] {
            let path = format!("{path}?topics=topic:a&ticket={own}");
            let request = api.anonymous().request("GET", &path).header(name, "default");
            assert_eq!(Api::send(request).await.expect("an answer").problem(403), "identity_headers");
        }
        let open = async |path: &str| Ws::try_open(server.address(), path, &[(name, "default")]).await.err();
        assert_eq!(open(&format!("{PATH}?ticket={own}")).await, Some(403), "{name}");
        assert_eq!(
            open(PATH).await,
            Some(401),
            "{name}: a key could come later, and would not speak for them"
        );
        // none of it has used the ticket up
        api.anonymous()
            .stream(&format!("/v2/realtime/stream?topics=topic:a&ticket={own}"), None)
            .await
            .ready()
            .await;
    }
}
