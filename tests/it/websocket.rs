//! The native WebSocket protocol: requests, late subscriptions, closes, and every kind of bad frame.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

use crate::support::{Api, Closed, Raw, Server, ServerOptions, Ws, eventually};

fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["data"]["n"].as_u64().expect("a number")).collect()
}

async fn publish(api: &Api, topic: &str, n: u64) -> String {
    api.publish(topic, "tick", json!({"n": n})).await
}

#[tokio::test]
async fn an_update_reaches_a_connection_that_named_its_topics_in_the_handshake() {
    let server = Server::start();
    let api = server.api();
    let mut ws = Ws::open(server.address(), server.key(), "topics=fleet:FLT-A01,topic:a").await;
    let ready = ws.ready().await;
    assert_eq!(ready["topics"], json!(["fleet:FLT-A01", "topic:a"]));
    assert_eq!(
        (&ready["max_frame_bytes"], &ready["max_message_bytes"]),
        (&json!(1_048_576), &json!(1_048_576))
    );
    assert!(ready["recovered"].is_null() && ready["reason"].is_null());
    let answer = api.update_ei("FLT-A01", 72.5).await;
    let event = ws.event().await;
    assert_eq!((event["event"].as_str(), &event["data"]), (Some("ei_updated"), &answer));
    assert_eq!(event["topic"], "fleet:FLT-A01");
    assert!(event["id"].is_string() && event["ts"].is_string());
}

#[tokio::test]
async fn a_connection_without_credentials_says_who_it_is_in_its_first_message() {
    let server = Server::start();
    let api = server.api();
    let first = publish(&api, "topic:a", 1).await;
    publish(&api, "topic:a", 2).await;
    let mut ws = Ws::try_open(server.address(), "/v2/realtime/ws?topics=topic:b", &[]).await.expect("open");
    let token = server.key();
    ws.request("auth", json!({"token": token, "topics": ["topic:a"], "cursor": first})).await;
    assert_eq!(ws.next().await.expect("a reply")["ok"], true);
    let ready = ws.ready().await;
    assert_eq!((&ready["topics"], &ready["recovered"]), (&json!(["topic:b", "topic:a"]), &json!(true)));
    assert_eq!(ws.event().await["data"]["n"], 2);
    assert!(ws.next().await.expect("a position")["position"].is_string(), "the past is complete");
    publish(&api, "topic:b", 3).await;
    assert_eq!(ws.event().await["data"]["n"], 3);
}

#[tokio::test]
async fn whoever_does_not_say_who_it_is_is_closed() {
    let server = Server::with(ServerOptions::default().set("auth.websocket_timeout_ms", 300));
    let open = async || Ws::try_open(server.address(), "/v2/realtime/ws", &[]).await.expect("open");
    let unauthenticated = |closed: &Closed| closed.code == 3500 && closed.reason.contains("unauthenticated");
    let started = Instant::now();
    let mut silent = open().await;
    assert!(unauthenticated(&silent.closed().await));
    assert!(started.elapsed() >= Duration::from_millis(300));
    let mut wrong = open().await;
    assert_eq!(wrong.refused("auth", json!({"token": "nobody's"})).await, "invalid_credentials");
    assert!(unauthenticated(&wrong.closed().await));
    let mut hasty = open().await;
    assert_eq!(hasty.refused("subscribe", json!({"topics": ["topic:a"]})).await, "unauthenticated");
    assert!(unauthenticated(&hasty.closed().await));
    for (path, headers, status) in [
        ("/v2/realtime/ws", &[("x-api-key", "nobody's")][..], 401),
        ("/v2/realtime/ws?ticket=bt_none", &[], 401),
        ("/v2/realtime/ws?topics=truck:1", &[("x-api-key", server.key())], 400),
        ("/v2/realtime/stream", &[("x-api-key", server.key())], 404),
    ] {
        assert_eq!(Ws::try_open(server.address(), path, headers).await.err(), Some(status), "{path}");
    }
}

#[tokio::test]
async fn a_refused_topic_is_an_error_for_that_topic_alone() {
    let server = Server::start();
    let mut ws = Ws::open(server.address(), server.key(), "topics=topic:a,admin").await;
    assert_eq!(ws.ready().await["topics"], json!(["topic:a"]));
    let refused = ws.next().await.expect("told");
    assert_eq!(refused, json!({"event": "unsubscribed", "data": {"topic": "admin", "code": "forbidden"}}));
    let data = ws.done("subscribe", json!({"topics": ["topic:b", "dashboard", "truck:1"]})).await;
    assert_eq!(data["topics"], json!(["topic:b"]));
    let refused = json!([
        {"topic": "truck:1", "code": "invalid_topic"},
        {"topic": "dashboard", "code": "forbidden"},
    ]);
    assert_eq!(data["refused"], refused);
    publish(&server.api(), "topic:b", 1).await;
    assert_eq!(ws.event().await["data"]["n"], 1);
}

#[tokio::test]
async fn a_late_subscription_replays_marked_events_and_joins_without_a_hole() {
    let server = Server::start();
    let api = server.api();
    let since = publish(&api, "topic:past", 0).await;
    for n in 1..=30 {
        publish(&api, "topic:past", n).await;
    }
    let mut ws = Ws::open(server.address(), server.key(), "topics=topic:live").await;
    ws.ready().await;
    let cursor = ws.cursor.clone();
    let id = ws.request("subscribe", json!({"topics": ["topic:past"], "since": since})).await;
    let mut replayed = Vec::new();
    let reply = loop {
        let value = ws.next().await.expect("open");
        if value["reply"] == id {
            break value;
        }
        assert_eq!(value["replay"], id, "{value}");
        assert!(value["id"].is_string());
        replayed.push(value);
    };
    assert_eq!(numbers(&replayed), (1..=30).collect::<Vec<_>>());
    assert_eq!(ws.cursor, cursor, "a replay that was asked for moves no cursor");
    assert_eq!((&reply["data"]["recovered"], &reply["data"]["reason"]), (&json!(true), &Value::Null));
    assert_eq!(reply["data"]["position"], replayed.last().unwrap()["id"]);
    publish(&api, "topic:past", 31).await;
    let live = ws.event().await;
    assert_eq!((&live["data"]["n"], &live["replay"]), (&json!(31), &Value::Null));
    // asked for again, it is given again
    let again = ws.done("subscribe", json!({"topics": ["topic:past"], "since": live["id"]})).await;
    assert_eq!(again["recovered"], true);
}

#[tokio::test]
async fn late_subscriptions_amid_publishing_miss_and_repeat_nothing() {
    const EVENTS: u64 = 2000;
    let server = Server::start();
    let api = server.api();
    let since = publish(&api, "topic:busy", 0).await;
    let publishing = tokio::spawn({
        let api = api.clone();
        async move {
            for chunk in (1..=EVENTS).collect::<Vec<_>>().chunks(10) {
                let event = |n: &u64| json!({"topic": "topic:busy", "type": "tick", "data": {"n": n}});
                let events: Vec<_> = chunk.iter().map(event).collect();
                api.post("/v2/events/batch", &json!({"events": events})).await.expect(202);
            }
        }
    });
    let mut listening = Vec::new();
    for _ in 0..8 {
        let mut ws = Ws::open(server.address(), server.key(), "").await;
        let since = since.clone();
        listening.push(tokio::spawn(async move {
            ws.ready().await;
            let id = ws.request("subscribe", json!({"topics": ["topic:busy"], "since": since})).await;
            let (mut expected, mut is_live) = (1, false);
            while expected <= EVENTS || !is_live {
                let value = ws.next().await.expect("open");
                if value["reply"] == id {
                    assert_eq!(value["data"]["recovered"], true, "{value}");
                    is_live = true;
                } else if value["topic"].is_string() {
                    assert_eq!(value["data"]["n"], expected);
                    assert_eq!(value["replay"].is_null(), is_live);
                    expected += 1;
                }
            }
        }));
    }
    publishing.await.expect("published");
    for listener in listening {
        listener.await.expect("everything once, in order");
    }
}

#[tokio::test]
async fn a_since_that_leads_nowhere_is_told_and_the_topics_are_live() {
    let server = Server::start();
    let api = server.api();
    publish(&api, "topic:a", 1).await;
    let mut ws = Ws::open(server.address(), server.key(), "").await;
    ws.ready().await;
    for (since, reason) in [("0000000000000001-1", "epoch_changed"), ("1754370000000", "invalid")] {
        let data = ws.done("subscribe", json!({"topics": ["topic:a"], "since": since})).await;
        assert_eq!((&data["recovered"], &data["reason"]), (&json!(false), &json!(reason)));
    }
    publish(&api, "topic:a", 2).await;
    assert_eq!(ws.event().await["data"]["n"], 2);
}

#[tokio::test]
async fn what_is_unsubscribed_is_heard_no_more() {
    let server = Server::start();
    let api = server.api();
    let mut ws = Ws::open(server.address(), server.key(), "topics=topic:a,topic:b").await;
    ws.ready().await;
    assert_eq!(ws.done("unsubscribe", json!({"topics": ["topic:a"]})).await, json!({"topics": ["topic:b"]}));
    publish(&api, "topic:a", 1).await;
    publish(&api, "topic:b", 2).await;
    assert_eq!(ws.event().await["data"]["n"], 2);
}

#[tokio::test]
async fn requests_have_the_effects_and_errors_of_their_http_counterparts() {
    let server = Server::start();
    let mut ws = Ws::open(server.address(), server.key(), "topics=topic:a,fleet:F-1").await;
    ws.ready().await;
    assert_eq!(ws.done("ping", json!({})).await, json!({}));
    let published =
        ws.done("publish", json!({"topic": "topic:a", "type": "tick", "data": {"n": 1.50}})).await;
    assert_eq!(published["duplicate"], false);
    let event = ws.event().await;
    assert_eq!((&event["id"], &event["data"]), (&published["position"], &json!({"n": 1.50})));
    let reading = json!({"fleet_id": "F-1", "new_ei": 72.5});
    let command = json!({"name": "update_ei", "data": reading, "idempotency_key": "k"});
    let updated = ws.done("command", command.clone()).await;
    assert_eq!(ws.event().await["data"], updated);
    assert_eq!(ws.done("command", command).await, updated, "the stored answer");
    assert_eq!(ws.done("ack", json!({"ids": [event["id"]]})).await, json!({"acked": 1}));
    let volatile = json!({"topic": "topic:a", "type": "tick", "data": 1, "class": "volatile"});
    assert!(ws.done("publish", volatile).await["position"].is_null());
    assert!(ws.event().await["id"].is_null());
    for (op, fields, code) in [
        ("publish", json!({"topic": "topic:a", "type": "ready", "data": 1}), "reserved_type"),
        ("publish", json!({"topic": "topic:a", "type": "tick", "data": 1, "colour": "red"}), "unknown_field"),
        ("publish", json!({"topic": "topic:a", "type": "tick"}), "invalid_field"),
        ("command", json!({"name": "dance", "data": {}}), "unknown_command"),
        ("command", json!({"name": "update_ei", "data": {"fleet_id": "F-1"}}), "invalid_field"),
        ("ack", json!({"ids": ["x"]}), "invalid_field"),
        ("subscribe", json!({"topics": "topic:a"}), "invalid_field"),
        ("auth", json!({"token": server.key(), "topics": ["topic:b"]}), "invalid_field"),
        ("auth", json!({"token": "nobody's"}), "invalid_credentials"),
        ("auth", json!({"token": server.create_key("subscribe")}), "other_identity"),
        ("dance", json!({}), "unknown_op"),
    ] {
        assert_eq!(ws.refused(op, fields.clone()).await, code, "{op} {fields}");
    }
    let topics: Vec<String> = (0..127).map(|n| format!("topic:t{n}")).collect();
    assert_eq!(ws.refused("subscribe", json!({"topics": topics})).await, "too_many_topics");
    assert_eq!(ws.done("auth", json!({"token": server.key()})).await, json!({}), "refreshed in place");
}

#[tokio::test]
async fn a_key_without_the_right_may_not_publish_over_a_connection_either() {
    let server = Server::start();
    let key = server.create_key("subscribe");
    let mut ws = Ws::open(server.address(), &key, "").await;
    ws.ready().await;
    let event = json!({"topic": "topic:a", "type": "tick", "data": 1});
    assert_eq!(ws.refused("publish", event).await, "forbidden");
    let command = json!({"name": "update_ei", "data": {"fleet_id": "F-1", "new_ei": 1}});
    assert_eq!(ws.refused("command", command).await, "forbidden");
}

#[tokio::test]
async fn positions_and_pings_come_every_heartbeat() {
    let server = Server::with(ServerOptions::default().set("sessions.heartbeat_ms", 200));
    let api = server.api();
    let mut ws = Ws::open(server.address(), server.key(), "topics=topic:quiet").await;
    assert_eq!(ws.ready().await["heartbeat_ms"], 200);
    let elsewhere = publish(&api, "topic:other", 1).await;
    let (mut positions, mut pings) = (Vec::new(), 0);
    while positions.len() < 3 || pings < 3 {
        match ws.raw().await.expect("open").expect("a frame") {
            Message::Text(text) => {
                let value: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(value.as_object().map(|object| object.len()), Some(1));
                positions.push(value["position"].as_str().expect("a position").to_owned());
            }
            Message::Ping(_) => pings += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(positions.last(), Some(&elsewhere), "others' events move the cursor of a quiet client");
}

#[tokio::test]
async fn a_connection_that_was_away_while_the_server_was_killed_misses_nothing() {
    let mut server = Server::start();
    let api = server.api();
    let mut ws = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    ws.ready().await;
    publish(&api, "topic:a", 1).await;
    assert_eq!(ws.event().await["data"]["n"], 1);
    let cursor = ws.cursor.clone().expect("an id");
    publish(&api, "topic:a", 2).await;
    drop(ws);
    server.kill();
    server.restart(|options| options);
    publish(&api, "topic:a", 3).await;
    let mut ws = Ws::open(server.address(), server.key(), &format!("topics=topic:a&cursor={cursor}")).await;
    let ready = ws.ready().await;
    assert_eq!((&ready["recovered"], ready["position"].as_str()), (&json!(true), Some(cursor.as_str())));
    assert_eq!(numbers(&[ws.event().await, ws.event().await]), [2, 3]);
}

#[tokio::test]
async fn a_revoked_key_ends_its_connections_with_3500() {
    let server = Server::start();
    let (status, out, _) = crate::support::run_cli(&[
        "key",
        "create",
        "--scopes",
        "subscribe",
        "--json",
        "--data-dir",
        server.data_dir().to_str().expect("a path"),
    ]);
    assert!(status.success());
    let created: Value = serde_json::from_str(&out).expect("JSON");
    let mut ws = Ws::open(server.address(), created["key"].as_str().expect("a key"), "topics=topic:a").await;
    ws.ready().await;
    let since = Instant::now();
    let admin = server.api_with(&server.create_key("admin"));
    let id = created["key_id"].as_str().expect("an id");
    admin.delete(&format!("/v2/admin/keys/{id}")).await.expect(204);
    assert_eq!(ws.closed().await.code, 3500);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_draining_server_tells_each_connection_when_to_come_back() {
    let server = Server::start();
    let mut ws = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    ws.ready().await;
    server.signal("TERM");
    let closed = ws.closed().await;
    let reason: Value = serde_json::from_str(&closed.reason).expect("JSON");
    assert_eq!((closed.code, &reason["reason"]), (3000, &json!("draining")));
    assert!(reason["retry_ms"].as_u64().is_some_and(|retry| retry <= 5000));
}

/// A frame with any header.
fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(mask | length as u8),
        length @ 126..65_536 => {
            bytes.push(mask | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(mask | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    if masked {
        bytes.extend([0; 4]);
    }
    bytes.extend(payload);
    bytes
}

async fn raw_connection(server: &Server) -> Raw {
    let mut raw = Raw::connect(server.address()).await;
    let request = format!(
        "GET /v2/realtime/ws?topics=topic:a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-API-Key: {}\r\n\r\n",
        server.key()
    );
    raw.send(&request).await;
    raw.read_until("\"ready\"").await;
    raw
}

#[tokio::test]
async fn what_was_asked_before_a_bad_frame_is_still_answered() {
    let server = Server::start();
    let mut raw = raw_connection(&server).await;
    let ping = frame(0x81, b"{\"id\":7,\"op\":\"ping\"}", true);
    raw.send(&[ping, frame(0xc1, b"{}", true)].concat()).await;
    raw.read_until("\"reply\":7").await;
    assert_eq!(raw.close_code().await, Some(1002));
}

#[tokio::test]
async fn every_class_of_bad_frame_is_closed_with_its_code() {
    let server = Server::start();
    let operator = server.operator();
    let big = vec![b'x'; 1_048_577];
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("no mask", frame(0x81, b"{}", false), 1002),
        ("reserved bit 1", frame(0xc1, b"{}", true), 1002),
        ("reserved bit 2", frame(0xa1, b"{}", true), 1002),
        ("reserved bit 3", frame(0x91, b"{}", true), 1002),
        ("reserved opcode 3", frame(0x83, b"", true), 1002),
        ("reserved opcode 11", frame(0x8b, b"", true), 1002),
        ("fragmented ping", frame(0x09, b"", true), 1002),
        ("long ping", frame(0x89, &[0; 126], true), 1002),
        ("continuation of nothing", frame(0x80, b"x", true), 1002),
        (
            "text inside a fragmented message",
            [frame(0x01, b"a", true), frame(0x81, b"b", true)].concat(),
            1002,
        ),
        ("close of one byte", frame(0x88, &[3], true), 1002),
        ("close with 1005", frame(0x88, &1005_u16.to_be_bytes(), true), 1002),
        ("close with 999", frame(0x88, &999_u16.to_be_bytes(), true), 1002),
        ("close with 2000", frame(0x88, &2000_u16.to_be_bytes(), true), 1002),
        ("not UTF-8", frame(0x81, &[0xff, 0xfe], true), 1007),
        ("not UTF-8 over fragments", [frame(0x01, &[0xce], true), frame(0x80, &[0x28], true)].concat(), 1007),
        ("not UTF-8 in the first fragment", frame(0x01, &[0xff], true), 1007),
        ("frame too large", frame(0x81, &big, true)[..20].to_vec(), 1009),
        (
            "message too large",
            [frame(0x01, &big[..600_000], true), frame(0x80, &big[..600_000], true)].concat(),
            1009,
        ),
        ("length beyond 63 bits", vec![0x81, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
        ("binary", frame(0x82, b"{}", true), 3502),
        ("no JSON", frame(0x81, b"hello", true), 3502),
        ("no id", frame(0x81, b"{\"op\":\"ping\"}", true), 3502),
    ];
    for (what, bytes, code) in cases {
        let mut raw = raw_connection(&server).await;
        raw.send(&bytes).await;
        assert_eq!(raw.close_code().await, Some(code), "{what}");
        eventually(what, async || raw.is_over().then_some(())).await;
    }
    let connections = r#"bongsu_connections{transport="websocket",tenant="default"}"#;
    eventually("all are gone", async || (operator.metric(connections).await == 0.0).then_some(())).await;
    for (code, reason) in
        [(1002, "bad_frame"), (1007, "invalid_utf8"), (1009, "message_too_large"), (3502, "protocol_error")]
    {
        let metric =
            format!(r#"bongsu_closes_total{{transport="websocket",code="{code}",reason="{reason}"}}"#);
        assert!(operator.metric(&metric).await >= 3.0, "{metric}");
    }
}

#[tokio::test]
async fn messages_may_come_in_any_fragments_with_control_frames_between() {
    let server = Server::start();
    let mut ws = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    ws.ready().await;
    let text =
        r#"{"id":1,"op":"publish","topic":"topic:a","type":"tick","data":{"n":1,"text":"봉수 κόσμε"}}"#;
    let bytes = text.as_bytes();
    let part = |range: std::ops::Range<usize>, opcode, is_final| {
        let header = FrameHeader { is_final, opcode, ..FrameHeader::default() };
        Message::Frame(Frame::from_payload(header, bytes[range].to_vec().into()))
    };
    for at in 0..bytes.len() {
        let opcode = OpCode::Data(if at == 0 { Data::Text } else { Data::Continue });
        ws.send(part(at..at + 1, opcode, at + 1 == bytes.len())).await;
        if at % 40 == 20 {
            let header = FrameHeader { opcode: OpCode::Control(Control::Ping), ..FrameHeader::default() };
            ws.send(Message::Frame(Frame::from_payload(header, at.to_be_bytes().to_vec().into()))).await;
        }
    }
    let (mut pongs, mut replies) = (0, 0);
    while replies == 0 || pongs < 2 {
        match ws.raw().await.expect("open").expect("a frame") {
            Message::Pong(payload) => {
                assert_eq!(usize::from_be_bytes((&*payload).try_into().expect("8 bytes")) % 40, 20);
                pongs += 1;
            }
            Message::Text(text) if text.contains("\"reply\":1") => {
                assert!(text.contains("\"ok\":true"), "{text}");
                replies += 1;
            }
            Message::Text(text) => assert!(text.contains("봉수 κόσμε"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_and_the_socket_ends_at_once() {
    let server = Server::start();
    for (code, payload) in [
        (1000, 1000_u16.to_be_bytes().to_vec()),
        (3000, 3000_u16.to_be_bytes().to_vec()),
        (4999, [&4999_u16.to_be_bytes()[..], b"bye"].concat()),
    ] {
        let mut raw = raw_connection(&server).await;
        let started = Instant::now();
        raw.send(&frame(0x88, &payload, true)).await;
        assert_eq!(raw.close_code().await, Some(code));
        eventually("the end", async || raw.is_over().then_some(())).await;
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_frame_that_comes_right_behind_the_handshake_is_read() {
    let server = Server::start();
    let mut raw = Raw::connect(server.address()).await;
    let request = format!(
        "GET /v2/realtime/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-API-Key: {}\r\n\r\n",
        server.key()
    );
    let ping = frame(0x81, b"{\"id\":7,\"op\":\"ping\"}", true);
    raw.send(&[request.as_bytes(), &ping].concat()).await;
    raw.read_until("\"reply\":7").await;
}

#[tokio::test]
async fn a_message_that_stays_incomplete_ends_its_connection() {
    let server = Server::with(ServerOptions::default().set("server.request_body_timeout_ms", 300));
    for bytes in [frame(0x81, &[b'x'; 1000], true)[..500].to_vec(), frame(0x01, b"{", true), vec![0x81]] {
        let mut raw = raw_connection(&server).await;
        let started = Instant::now();
        raw.send(&bytes).await;
        assert_eq!(raw.close_code().await, Some(3502));
        assert!(started.elapsed() >= Duration::from_millis(300));
    }
}

#[tokio::test]
async fn half_a_handshake_and_other_protocols_are_refused_by_name() {
    let server = Server::start();
    let key = server.key();
    let with =
        |lines: &str| format!("GET /v2/realtime/ws HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n{lines}\r\n");
    for (lines, expected) in [
        ("Connection: Upgrade\r\nUpgrade: websocket\r\n", "bad_handshake"),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", "bad_handshake"),
        (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "bad_handshake",
        ),
        (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n",
            "bad_handshake",
        ),
    ] {
        let mut raw = Raw::connect(server.address()).await;
        raw.send(&with(lines)).await;
        raw.read_until(expected).await;
        eventually("the end", async || raw.is_over().then_some(())).await;
    }
}

const CONNECTIONS: &str = r#"bongsu_connections{transport="websocket",tenant="default"}"#;
const CUT: &str = r#"bongsu_closes_total{transport="websocket",code="3001",reason="slow_consumer"}"#;

async fn narrow_connection(server: &Server, topics: &str) -> Raw {
    let mut raw = Raw::connect_narrow(server.address(), 1).await;
    let request = format!(
        "GET /v2/realtime/ws?topics={topics} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-API-Key: {}\r\n\r\n",
        server.key()
    );
    raw.send(&request).await;
    raw.read_until("\"ready\"").await;
    raw
}

#[tokio::test]
async fn a_reader_that_stops_in_the_middle_of_a_frame_is_cut_and_a_burden_to_nobody() {
    let options = ServerOptions::default().set("server.stall_timeout_ms", 1000).set("sessions.sweep_ms", 100);
    let server = Server::with(options);
    let (api, operator) = (server.api(), server.operator());
    let mut well = Ws::open(server.address(), server.key(), "topics=topic:busy").await;
    well.ready().await;
    let stopped = narrow_connection(&server, "topic:busy").await;
    let pad = "x".repeat(60_000);
    let started = Instant::now();
    // far more than the kernel takes, far less than the queue's bound: it stands within a frame
    for n in 0..4 {
        api.publish("topic:busy", "tick", json!({"n": n, "pad": pad})).await;
        assert_eq!(well.event().await["data"]["n"], n);
    }
    eventually("it is cut", async || (operator.metric(CUT).await == 1.0).then_some(())).await;
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    eventually("its socket ends", async || stopped.is_over().then_some(())).await;
    eventually("it is gone", async || (operator.metric(CONNECTIONS).await == 1.0).then_some(())).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_queue_that_overflows_is_cut_with_3001_and_the_client_resumes_without_loss() {
    let server = Server::start();
    let api = server.api();
    let first = publish(&api, "topic:busy", 0).await;
    let stopped = narrow_connection(&server, "topic:busy").await;
    let operator = server.operator();
    let pad = "x".repeat(20_000);
    let mut published = 0;
    while operator.metric(CUT).await == 0.0 {
        published += 1;
        api.publish("topic:busy", "tick", json!({"n": published, "pad": pad})).await;
    }
    drop(stopped);
    let mut ws = Ws::open(server.address(), server.key(), &format!("topics=topic:busy&cursor={first}")).await;
    assert_eq!(ws.ready().await["recovered"], true);
    for n in 1..=published {
        assert_eq!(ws.event().await["data"]["n"], n);
    }
}

#[tokio::test]
async fn a_client_that_asks_and_does_not_read_is_held_up_by_its_own_socket() {
    let server = Server::start();
    let (api, operator) = (server.api(), server.operator());
    let mut well = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    well.ready().await;
    let resident = crate::support::resident_bytes(server.pid());
    let pings = frame(0x89, &[7; 125], true).repeat(2000);
    let asks = frame(0x81, br#"{"id":1,"op":"subscribe","topics":["topic:a","topic:b"]}"#, true).repeat(1000);
    let mut floods = Vec::new();
    for flood in [pings, asks] {
        let mut raw = narrow_connection(&server, "topic:quiet").await;
        floods.push(tokio::spawn(async move {
            // until the peer takes no more, or ends it
            let pour = async { while raw.offer(&flood).await {} };
            let _ = tokio::time::timeout(Duration::from_secs(15), pour).await;
            raw
        }));
    }
    for n in 0..50 {
        publish(&api, "topic:a", n).await;
        assert_eq!(well.event().await["data"]["n"], n);
    }
    eventually("both are gone", async || (operator.metric(CONNECTIONS).await == 1.0).then_some(())).await;
    let grown = crate::support::resident_bytes(server.pid()).saturating_sub(resident);
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes");
    for flood in floods {
        flood.await.expect("no panic");
    }
}

#[tokio::test]
async fn a_client_that_asks_without_end_and_reads_is_served_in_turn() {
    let server = Server::start();
    let api = server.api();
    let mut well = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    well.ready().await;
    let mut busy = Ws::open(server.address(), server.key(), "").await;
    busy.ready().await;
    let flood = tokio::spawn(async move {
        for n in 0..500 {
            let topics = json!({"topics": [format!("topic:t{}", n % 50)]});
            let op = if n % 2 == 0 { "subscribe" } else { "unsubscribe" };
            busy.done(op, topics).await;
        }
    });
    for n in 0..50 {
        publish(&api, "topic:a", n).await;
        assert_eq!(well.event().await["data"]["n"], n);
    }
    flood.await.expect("every request answered");
}

#[tokio::test]
async fn a_client_that_leaves_or_resets_is_noticed_at_once() {
    let server = Server::start();
    let operator = server.operator();
    for reset in [false, true] {
        let raw = raw_connection(&server).await;
        eventually("it is there", async || (operator.metric(CONNECTIONS).await == 1.0).then_some(())).await;
        let started = Instant::now();
        if reset {
            raw.reset()
        } else {
            drop(raw)
        }
        eventually("it is gone", async || (operator.metric(CONNECTIONS).await == 0.0).then_some(())).await;
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_message_full_of_topics_is_refused_at_once_and_the_connection_goes_on() {
    let server = Server::start();
    let mut ws = Ws::open(server.address(), server.key(), "topics=topic:a").await;
    ws.ready().await;
    let topics: Vec<String> = (0..75_000).map(|n| format!("bid:{n}")).collect();
    for op in ["subscribe", "unsubscribe"] {
        let started = Instant::now();
        let reply = ws.ask(op, json!({"topics": topics})).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{op}: {:?}", started.elapsed());
        assert!(op == "unsubscribe" || reply["error"]["code"] == "too_many_topics", "{reply}");
    }
    assert_eq!(ws.done("subscribe", json!({"topics": ["topic:b"]})).await["topics"], json!(["topic:b"]));
}
