//! How many connections may be open, and how often one may be opened.

use serde_json::Value;

use super::{behind_a_proxy, listen_from, refusals, refused};
use crate::support::{Api, Server, ServerOptions, Sse, eventually, run_cli};

fn key_of_user(server: &Server, sub: &str) -> Api {
    let data_dir = server.data_dir().to_string_lossy();
    let words = ["key", "create", "--scopes", "subscribe", "--sub", sub, "--json", "--data-dir", &data_dir];
    let (status, out, err) = run_cli(&words);
    assert!(status.success(), "{err}");
    let line: Value = serde_json::from_str(&out).expect("JSON");
    server.api_with(line["key"].as_str().expect("a key"))
}

/// Opens two streams, sees the third refused for `limit`, and sees it served once another has ended.
async fn is_limited_to_two(server: &Server, limit: &str, open: impl AsyncFn() -> Sse) {
    let (mut first, mut second) = (open().await, open().await);
    first.ready().await;
    second.ready().await;
    assert!(refused(&mut open().await).await >= 10_000);
    assert_eq!(refusals(server, limit).await, 1.0);
    drop(first);
    eventually("a place to be free again", async || {
        let mut stream = open().await;
        (stream.next().await?.event == "ready").then_some(())
    })
    .await;
    server.api().publish("topic:a", "note", 1.into()).await;
    assert_eq!(second.take(1).await[0].data["data"], 1, "those that are open are not hurt");
}

#[tokio::test]
async fn connections_of_the_node_are_limited() {
    let server = Server::with(ServerOptions::default().set("limits.connections_per_node", 2));
    let api = server.api();
    is_limited_to_two(&server, "node_connections", async || api.listen("topic:a", None).await).await;
}

#[tokio::test]
async fn connections_of_a_tenant_are_limited_and_other_tenants_are_not_hurt() {
    let server = Server::with(ServerOptions::default().set("limits.connections_per_tenant", 2));
    let (api, other) = (server.api(), server.api_of("other", "subscribe"));
    other.listen("topic:a", None).await.ready().await;
    is_limited_to_two(&server, "tenant_connections", async || api.listen("topic:a", None).await).await;
    other.listen("topic:a", None).await.ready().await;
}

#[tokio::test]
async fn connections_of_a_user_are_limited_and_other_users_are_not_hurt() {
    let server = Server::with(ServerOptions::default().set("limits.connections_per_user", 2));
    let (ann, bob) = (key_of_user(&server, "ann"), key_of_user(&server, "bob"));
    let _held = [bob.listen("topic:a", None).await, bob.listen("topic:a", None).await];
    is_limited_to_two(&server, "user_connections", async || ann.listen("topic:a", None).await).await;
}

#[tokio::test]
async fn connections_from_an_address_are_limited_and_other_addresses_are_not_hurt() {
    let server = Server::with(behind_a_proxy().set("limits.connections_per_address", 2));
    let api = server.api();
    listen_from("192.0.2.1", &api).await.ready().await;
    is_limited_to_two(&server, "address_connections", async || listen_from("198.51.100.1", &api).await).await;
    listen_from("192.0.2.1", &api).await.ready().await;
}

#[tokio::test]
async fn opening_connections_is_limited_per_user_and_per_key() {
    let options =
        ServerOptions::default().set("limits.user_connects_per_min", 3).set("limits.key_connects_per_min", 4);
    let server = Server::with(options);
    for (api, allowed) in
        [(key_of_user(&server, "ann"), 3), (server.api(), 4), (key_of_user(&server, "bob"), 3)]
    {
        for _ in 0..allowed {
            api.listen("topic:a", None).await.ready().await;
        }
        let retry_ms = refused(&mut api.listen("topic:a", None).await).await;
        assert!((10_000..=24_000).contains(&retry_ms), "{retry_ms}");
    }
    assert_eq!(refusals(&server, "connects").await, 3.0);
}
