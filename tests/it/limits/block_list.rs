//! Networks that may not connect: new connections refused, open ones cut, on every way in, until it expires.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{behind_a_proxy, from, listen_from, refusals};
use crate::support::{Api, Outsider, Raw, Server, ServerOptions, Sse, eventually};

async fn block(operator: &Api, body: &Value) -> Value {
    operator.post("/v2/admin/blocklist", body).await.expect(201)
}

/// The stream's end, which has to be final and come within a second.
async fn is_cut(stream: &mut Sse, since: Instant) {
    let close = stream.rest().await.pop().expect("a close");
    assert_eq!((&close.data["code"], &close.data["reconnect"]), (&json!(3501), &json!(false)), "{close:?}");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_block_cuts_open_streams_within_a_second_and_refuses_new_ones_and_nobody_else() {
    let server = Server::with(behind_a_proxy());
    let (api, operator) = (server.api(), server.operator());
    let mut caught = [listen_from("198.51.100.1", &api).await, listen_from("198.51.100.99", &api).await];
    let mut bystander = listen_from("192.0.2.1", &api).await;
    for stream in caught.iter_mut().chain([&mut bystander]) {
        stream.ready().await;
    }
    let since = Instant::now();
    let shown = block(&operator, &json!({"cidr": "198.51.100.7/24", "reason": "scans"})).await;
    assert_eq!((&shown["cidr"], &shown["reason"]), (&json!("198.51.100.0/24"), &json!("scans")));
    assert_eq!(shown["expires_at"], Value::Null);
    for stream in &mut caught {
        is_cut(stream, since).await;
    }
    for path in ["/v2/realtime/stream?topics=topic:a", "/v2/fleets", "/health"] {
        assert_eq!(from("198.51.100.1", &api, path).await.problem(403), "blocked", "{path}");
    }
    // an EventSource is to give up: no 200
    let request =
        api.request("GET", "/v2/realtime/stream?topics=topic:a").header("Accept", "text/event-stream");
    let answer = Api::send(request.header("X-Forwarded-For", "::ffff:198.51.100.1")).await;
    assert_eq!(answer.expect("an answer").problem(403), "blocked");
    let mut raw = Raw::connect(server.address()).await;
    raw.send(
        "GET /v2/realtime/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         X-Forwarded-For: 198.51.100.1\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    .await;
    assert_eq!(raw.answer().await.problem(403), "blocked");
    assert_eq!(refusals(&server, "blocked").await, 5.0);
    assert_eq!(operator.metric("bongsu_blocked_networks").await, 1.0);
    server.api().publish("topic:a", "note", 1.into()).await;
    assert_eq!(bystander.take(1).await[0].data["data"], 1);
    listen_from("192.0.2.1", &api).await.ready().await;
}

#[tokio::test]
async fn a_block_ends_when_it_expires_or_is_lifted_and_outlasts_a_restart() {
    let mut server = Server::with(behind_a_proxy());
    let operator = server.operator();
    block(&operator, &json!({"cidr": "198.51.100.1", "ttl_s": 1})).await;
    block(&operator, &json!({"cidr": "198.51.100.2"})).await;
    block(&operator, &json!({"cidr": "2001:db8::/32", "expires_at": "2999-01-01T00:00:00Z"})).await;
    assert_eq!(from("198.51.100.1", &server.api(), "/health").await.status, 403);
    eventually("the block's end", async || {
        (from("198.51.100.1", &server.api(), "/health").await.status == 200).then_some(())
    })
    .await;
    let page = operator.get("/v2/admin/blocklist?limit=1").await.expect(200);
    assert_eq!(
        (&page["blocks"][0]["cidr"], &page["next"]),
        (&json!("198.51.100.2/32"), &json!("198.51.100.2/32"))
    );
    let page = operator.get("/v2/admin/blocklist?after=198.51.100.2/32").await.expect(200);
    assert_eq!(page["blocks"][0]["cidr"], "2001:db8::/32");
    assert_eq!(page["blocks"][0]["expires_at"], "2999-01-01T00:00:00.000Z");
    assert_eq!((&page["blocks"].as_array().map(Vec::len), &page["next"]), (&Some(1), &Value::Null));
    server.restart(|options| options);
    assert_eq!(from("198.51.100.2", &server.api(), "/health").await.status, 403);
    let operator = server.operator();
    assert_eq!(operator.delete("/v2/admin/blocklist?cidr=198.51.100.2").await.status, 204);
    assert_eq!(from("198.51.100.2", &server.api(), "/health").await.status, 200);
    let body = operator.request("DELETE", "/v2/admin/blocklist").json(&json!({"cidr": "2001:db8::/32"}));
    assert_eq!(Api::send(body).await.expect("an answer").status, 204);
    assert_eq!(operator.delete("/v2/admin/blocklist?cidr=198.51.100.2").await.problem(404), "no_such_block");
}

#[tokio::test]
async fn a_block_that_another_node_has_stored_is_in_force_within_a_second() {
    let server = Server::with(behind_a_proxy());
    let mut stream = listen_from("198.51.100.1", &server.api()).await;
    stream.ready().await;
    let since = Instant::now();
    Outsider::open(server.data_dir()).run(
        "BEGIN IMMEDIATE; INSERT INTO block_list (cidr, created_us) VALUES ('198.51.100.0/24', 0);
         UPDATE security_state SET generation = generation + 1 WHERE id = 2; COMMIT;",
    );
    is_cut(&mut stream, since).await;
    assert_eq!(from("198.51.100.1", &server.api(), "/health").await.status, 403);
}

#[tokio::test]
async fn a_block_file_is_reread_on_sighup_and_a_bad_one_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("blocked.txt");
    std::fs::write(&file, "# scanners\n198.51.100.0/28\n").expect("written");
    let server = Server::with(behind_a_proxy().set("limits.block_list_file", file.display()));
    let api = server.api();
    assert_eq!(from("198.51.100.1", &api, "/health").await.status, 403);
    let mut stream = listen_from("192.0.2.1", &api).await;
    stream.ready().await;
    std::fs::write(&file, "no address\n").expect("written");
    server.signal("HUP");
    eventually("the complaint", async || server.stderr().contains("is no address or network").then_some(()))
        .await;
    assert_eq!(from("198.51.100.1", &api, "/health").await.status, 403);
    std::fs::write(&file, "192.0.2.1\n").expect("written");
    let since = Instant::now();
    server.signal("HUP");
    is_cut(&mut stream, since).await;
    assert_eq!(from("192.0.2.1", &api, "/health").await.status, 403);
    assert_eq!(from("198.51.100.1", &api, "/health").await.status, 200);
    assert_eq!(server.operator().get("/v2/admin/blocklist").await.expect(200)["in_file"], 1);
}

#[tokio::test]
async fn a_block_file_that_cannot_be_read_ends_the_start() {
    let options = ServerOptions::default().set("limits.block_list_file", "/nowhere/blocked.txt");
    let said = Server::refuse(options, "127.0.0.1:0");
    assert!(said.contains("limits.block_list_file") && said.contains("/nowhere/blocked.txt"), "{said}");
}

#[tokio::test]
async fn everybody_may_be_blocked_but_never_loopback_by_accident() {
    let server = Server::with(behind_a_proxy());
    let operator = server.operator();
    block(&operator, &json!({"cidr": "0.0.0.0/0"})).await;
    assert_eq!(from("203.0.113.1", &operator, "/health").await.status, 403);
    // who is on the machine itself still gets in, to lift it
    assert_eq!(operator.delete("/v2/admin/blocklist?cidr=0.0.0.0/0").await.status, 204);
    assert_eq!(from("203.0.113.1", &operator, "/health").await.status, 200);
}

#[tokio::test]
async fn what_is_wrong_with_a_block_is_named_and_only_operators_block() {
    let server = Server::start();
    let operator = server.operator();
    for (body, field) in [
        (json!({"cidr": "example.org"}), "cidr"),
        (json!({"cidr": "192.0.2.0/33"}), "cidr"),
        (json!({"cidr": "192.0.2.1", "ttl_s": 0}), "ttl_s"),
        (json!({"cidr": "192.0.2.1", "ttl_s": 1, "expires_at": "2999-01-01T00:00:00Z"}), "ttl_s"),
        (json!({"cidr": "192.0.2.1", "expires_at": "tomorrow"}), "expires_at"),
        (json!({"cidr": "192.0.2.1", "expires_at": "2001-01-01T00:00:00Z"}), "expires_at"),
        (json!({"cidr": "192.0.2.1", "reason": "x".repeat(257)}), "reason"),
        (json!({"cidr": "192.0.2.1", "why": "x"}), "why"),
        (json!({}), "cidr"),
    ] {
        let answer = operator.post("/v2/admin/blocklist", &body).await;
        assert_eq!(answer.status, 422, "{body}");
        assert_eq!(answer.json()["errors"][0]["field"], field, "{body}");
    }
    let admin = server.api_with(&server.create_key("publish,subscribe,manage,admin"));
    for (method, body) in [("POST", json!({"cidr": "192.0.2.1"})), ("DELETE", json!({"cidr": "192.0.2.1"}))] {
        let request = admin.request(method, "/v2/admin/blocklist").json(&body);
        assert_eq!(Api::send(request).await.expect("an answer").status, 403, "{method}");
    }
    assert_eq!(admin.get("/v2/admin/blocklist").await.status, 403);
    assert_eq!(operator.get("/v2/admin/blocklist").await.expect(200)["blocks"], json!([]));
}
