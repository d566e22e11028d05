//! Clients that others wrote see every update, and resume by themselves after a kill.

use serde_json::{Value, json};

use crate::support::{Api, Program, Server, ServerOptions, in_package};

const PATH: &str = "/v2/realtime/ei-updates?fleet_ids=FLT-A01";
const FIRST: std::ops::RangeInclusive<i64> = 1..=10;
const SECOND: std::ops::RangeInclusive<i64> = 11..=20;

fn options() -> ServerOptions {
    ServerOptions::default().set("sessions.retry_ms", 200)
}

async fn report(api: &Api, values: std::ops::RangeInclusive<i64>) {
    for value in values {
        api.update_ei("FLT-A01", value as f64).await;
    }
}

/// Reads a client's observations until the update of this value; the values of all updates on the way.
async fn updates_up_to(client: &mut Program, last: i64, broken: &mut u32) -> Vec<i64> {
    let mut values = Vec::new();
    while values.last() != Some(&last) {
        let line = client.line().await.expect("more observations");
        let seen: Value = serde_json::from_str(&line).expect("JSON");
        assert_ne!(seen["readyState"], 2, "it gave up: {line}");
        assert!(seen["fatal"].is_null(), "{line}");
        *broken += u32::from(seen["error"].is_string());
        match seen["event"].as_str() {
            Some("ready") if *broken > 0 => assert_eq!(seen["data"]["recovered"], true, "{line}"),
            Some("ei_updated") => values.push(seen["data"]["new_ei"].as_i64().expect("a number")),
            _ => {}
        }
    }
    values
}

/// A client that reconnects by itself sees every value once, in order, over a kill right after an answer.
async fn sees_everything_over_a_kill(client: &mut Program, server: &mut Server) {
    let api = server.api();
    client.find(|line| line.contains("\"ready\"").then_some(())).await;
    let mut broken = 0;
    report(&api, 1..=1).await;
    let mut seen = updates_up_to(client, 1, &mut broken).await;
    assert_eq!(broken, 0);
    report(&api, 2..=*FIRST.end()).await;
    server.kill();
    server.restart(|options| options);
    report(&api, SECOND).await;
    seen.extend(updates_up_to(client, *SECOND.end(), &mut broken).await);
    assert!(broken > 0, "it noticed no kill");
    assert_eq!(seen, FIRST.chain(SECOND).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_npm_eventsource_misses_nothing_over_a_kill() {
    let mut server = Server::with(options());
    let url = server.api().url(PATH);
    let key = server.key().to_owned();
    let mut client = Program::node("eventsource.mjs", &[&url, "ei_updated"], &[("API_KEY", &key)]);
    sees_everything_over_a_kill(&mut client, &mut server).await;
    assert!(client.end().await.success());
}

#[tokio::test]
async fn heavy_the_eventsource_of_a_browser_misses_nothing_over_a_kill() {
    let mut client = Program::node("browser.mjs", &["ei_updated"], &[]);
    let first: Value = serde_json::from_str(&client.line().await.expect("its origin")).expect("JSON");
    let origin = first["origin"].as_str().expect("an origin");
    let mut server = Server::with(options().set("cors.allowed_origins", origin));
    let api = server.api();
    let wanted = json!({"path": "/v2/realtime/ei-updates", "topics": ["fleet:FLT-A01"]});
    let ticket = api.post("/v2/realtime/tickets", &wanted).await.expect(201);
    let ticket = ticket["ticket"].as_str().expect("a ticket");
    client.say(&format!("go {}&ticket={ticket}", api.url(PATH))).await;
    sees_everything_over_a_kill(&mut client, &mut server).await;
    assert!(client.end().await.success());
}

/// The same path over WebSocket.
fn websocket_url(server: &Server, query: &str) -> String {
    format!("ws://{}/v2/realtime/ws?topics=fleet:FLT-A01{query}", server.address())
}

#[tokio::test]
async fn the_npm_ws_misses_nothing_over_a_kill() {
    let mut server = Server::with(options());
    let (url, key) = (websocket_url(&server, ""), server.key().to_owned());
    let mut client = Program::node("websocket.mjs", &[&url], &[("API_KEY", &key)]);
    sees_everything_over_a_kill(&mut client, &mut server).await;
    assert!(client.end().await.success());
}

#[tokio::test]
async fn pythons_websockets_misses_nothing_over_a_kill() {
    let mut server = Server::with(options());
    let (url, key) = (websocket_url(&server, ""), server.key().to_owned());
    let script = in_package("tests/clients/websocket.py");
    let words = [script.to_str().expect("UTF-8"), &url];
    let mut client = Program::start("/usr/bin/python3", &words, &[("API_KEY", &key)]);
    sees_everything_over_a_kill(&mut client, &mut server).await;
    assert!(client.end().await.success());
}

#[tokio::test]
async fn heavy_the_websocket_of_a_browser_misses_nothing_over_a_kill() {
    let mut client = Program::node("browser.mjs", &["ei_updated"], &[]);
    let first: Value = serde_json::from_str(&client.line().await.expect("its origin")).expect("JSON");
    let origin = first["origin"].as_str().expect("an origin");
    let mut server = Server::with(options().set("cors.allowed_origins", origin));
    let wanted = json!({"path": "/v2/realtime/ws", "topics": ["fleet:FLT-A01"]});
    let ticket = server.api().post("/v2/realtime/tickets", &wanted).await.expect(201);
    let ticket = ticket["ticket"].as_str().expect("a ticket");
    client.say(&format!("go {}", websocket_url(&server, &format!("&ticket={ticket}")))).await;
    sees_everything_over_a_kill(&mut client, &mut server).await;
    assert!(client.end().await.success());
}

/// `curl -N` as a listener.
fn curl(server: &Server, cursor: Option<&str>) -> Program {
    let key = format!("X-API-Key: {}", server.key());
    let url = server.api().url(PATH);
    let last = cursor.map(|cursor| format!("Last-Event-ID: {cursor}"));
    let mut words = vec!["-sN", "-H", &key];
    if let Some(last) = &last {
        words.extend(["-H", last]);
    }
    words.push(&url);
    Program::start("curl", &words, &[])
}

/// Values and last id that curl prints until the update of this value, or its end.
async fn printed(client: &mut Program, last: Option<i64>) -> (Vec<i64>, Option<String>) {
    let (mut values, mut cursor, mut id) = (Vec::new(), None, None);
    while values.last().copied() != last || last.is_none() {
        let Some(line) = client.line().await else {
            assert_eq!(last, None, "curl ended");
            break;
        };
        if let Some(own) = line.strip_prefix("id:") {
            id = Some(own.trim().to_owned());
        } else if let Some(data) = line.strip_prefix("data:") {
            let data: Value = serde_json::from_str(data).expect("JSON");
            values.extend(data["new_ei"].as_i64());
        } else if line.is_empty() {
            cursor = id.take().or(cursor);
        }
        if last.is_some() && values.last().copied() == last {
            cursor = id.take().or(cursor);
        }
    }
    (values, cursor)
}

#[tokio::test]
async fn curl_resumes_by_the_last_id_it_printed() {
    let mut server = Server::with(options());
    let api = server.api();
    let mut client = curl(&server, None);
    client.find(|line| line.starts_with("event: ready").then_some(())).await;
    report(&api, 1..=5).await;
    let (mut seen, cursor) = printed(&mut client, Some(5)).await;
    report(&api, 6..=*FIRST.end()).await;
    server.kill();
    let (more, later) = printed(&mut client, None).await;
    seen.extend(more);
    assert!(!client.end().await.success(), "the transfer was cut");
    server.restart(|options| options);
    report(&api, SECOND).await;
    let cursor = later.or(cursor).expect("an id");
    let mut client = curl(&server, Some(&cursor));
    let ready = client.find(|line| line.strip_prefix("data:").map(str::to_owned)).await;
    let ready: Value = serde_json::from_str(&ready).expect("JSON");
    assert_eq!(ready["recovered"], true);
    seen.extend(printed(&mut client, Some(*SECOND.end())).await.0);
    assert_eq!(seen, FIRST.chain(SECOND).collect::<Vec<_>>());
}
