//! What administrators see of their tenant, and operators do with a node.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Api, Server, ServerOptions, Ws, eventually, run_cli};

async fn listed(admin: &Api) -> Vec<Value> {
    let page = admin.get("/v2/admin/connections").await.expect(200);
    assert_eq!(page["next"], Value::Null);
    page["connections"].as_array().expect("connections").clone()
}

#[tokio::test]
async fn connections_are_listed_page_by_page_to_administrators_of_their_tenant() {
    let server = Server::start();
    let admin = server.api_with(&server.create_key("admin"));
    let data_dir = server.data_dir().to_string_lossy();
    let words = ["key", "create", "--scopes", "subscribe", "--sub", "ann", "--json", "--data-dir", &data_dir];
    let (_, out, err) = run_cli(&words);
    let of_ann: Value = serde_json::from_str(&out).expect(&err);
    let ann = server.api_with(of_ann["key"].as_str().expect("a key"));
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = server.api().listen("topic:a,topic:b", None).await;
        let id = stream.ready().await["connection_id"].clone();
        streams.push((id, stream));
    }
    let request = ann.request("GET", "/v2/realtime/stream?topics=topic:a").header("User-Agent", "a browser");
    let mut of_user = crate::support::Sse::open(request).await;
    let user_connection = of_user.ready().await["connection_id"].clone();
    let mut socket = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    let socket_id = socket.ready().await["connection_id"].clone();
    server.api_of("other", "subscribe").listen("topic:a", None).await.ready().await;

    let all = listed(&admin).await;
    let ids: Vec<&Value> = all.iter().map(|own| &own["connection_id"]).collect();
    let opened: Vec<&Value> =
        streams.iter().map(|(id, _)| id).chain([&user_connection, &socket_id]).collect();
    assert_eq!(ids, opened, "of the own tenant, in the order in which they were opened");
    let shown = |own: &Value| ["transport", "user_id", "topics", "ip"].map(|field| own[field].clone());
    assert_eq!(shown(&all[0]), [json!("sse"), Value::Null, json!(2), json!("127.0.0.1")]);
    assert_eq!(shown(&all[5]), [json!("sse"), json!("ann"), json!(1), json!("127.0.0.1")]);
    assert_eq!(all[5]["user_agent"], "a browser");
    assert_eq!(all[6]["transport"], "websocket");
    assert!(all.iter().all(|own| own["since"].as_str().is_some_and(|since| since.ends_with('Z'))));

    let (mut after, mut paged) = (json!(0), BTreeSet::new());
    while after != Value::Null {
        let page = admin.get(&format!("/v2/admin/connections?limit=3&after={after}")).await.expect(200);
        let page_ids = page["connections"].as_array().expect("connections").iter();
        paged.extend(page_ids.map(|own| own["connection_id"].to_string()));
        after = page["next"].clone();
    }
    assert_eq!(paged.len(), 7);

    streams.truncate(2);
    drop(of_user);
    eventually("those that left to be gone", async || (listed(&admin).await.len() == 3).then_some(())).await;
    for api in [server.api(), ann, server.operator(), server.api().anonymous()] {
        assert!([401, 403].contains(&api.get("/v2/admin/connections").await.status));
    }
    let refused = server.operator().metric("bongsu_auth_failures_total{reason=\"forbidden\"}").await;
    assert_eq!(refused, 3.0, "what one may not do is counted");
    for wrong in ["after=x", "limit=0", "limit=201"] {
        assert_eq!(admin.get(&format!("/v2/admin/connections?{wrong}")).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_node_that_an_operator_drains_ends_its_streams_and_still_takes_commands() {
    let mut server = Server::with(ServerOptions::default().set("drain.window_s", 5));
    let operator = server.operator();
    let mut stream = server.api().listen("topic:a", None).await;
    stream.ready().await;
    let mut socket = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    socket.ready().await;
    for api in
        [server.api_with(&server.create_key("publish,subscribe,manage,admin")), server.api().anonymous()]
    {
        let answer = Api::send(api.request("POST", "/v2/admin/drain")).await.expect("an answer");
        assert!([401, 403].contains(&answer.status), "{answer:?}");
    }
    assert_eq!(server.api().get("/ready").await.status, 200, "refusals change nothing");
    let drain = async || {
        let answer = Api::send(operator.request("POST", "/v2/admin/drain")).await.expect("an answer");
        answer.expect(202)
    };
    assert_eq!(drain().await, json!({"draining": true, "connections": 2}));
    assert_eq!(stream.rest().await.pop().expect("a close").data["code"], 3000);
    assert_eq!(socket.closed().await.code, 3000);
    assert_eq!(server.api().get("/ready").await.json()["accepting"], false);
    assert_eq!(server.api().get("/health").await.status, 200);
    let refused = server.api().listen("topic:a", None).await.rest().await;
    assert_eq!(refused[0].data["code"], 3000, "{refused:?}");
    server.api().publish("topic:a", "note", Value::Null).await;
    assert_eq!(drain().await, json!({"draining": true, "connections": 0}));
    server.signal("TERM");
    assert!(server.ended().await.success());
}
