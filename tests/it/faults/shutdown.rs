//! SIGTERM: nobody is refused without being told when to come back, and nothing is lost.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bongsu::wire::{SseDecoder, SseMessage};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    Burst, PATIENCE, Server, ServerOptions, allow_sockets, assert_kept, counts, eventually,
};

const STREAMS: usize = 2000;

/// A stream with as little around it as can be: many fit into one test.
struct Small {
    socket: TcpStream,
    decoder: SseDecoder,
}

impl Small {
    async fn open(address: SocketAddr, key: &str) -> Self {
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        let request = format!(
            "GET /v2/realtime/stream?topics=topic:drain HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {key}\r\n\
             Accept: text/event-stream\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.expect("it takes the request");
        let decoder = SseDecoder::default();
        let mut small = Small { socket, decoder };
        small.until("ready").await;
        small
    }

    /// Reads on until an event of this name.
    async fn until(&mut self, name: &str) -> SseMessage {
        let mut piece = [0; 4096];
        let read = async {
            loop {
                let length = self.socket.read(&mut piece).await.expect("it reads");
                assert!(length > 0, "the stream ended before {name}");
                // heads and chunk sizes have no field names and mean nothing to the decoder
                let found = self.decoder.feed(&piece[..length]);
                if let Some(message) = found.into_iter().find(|message| message.event == name) {
                    return message;
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("in time")
    }
}

#[tokio::test]
async fn heavy_a_terminated_server_tells_2000_streams_when_to_come_back() {
    allow_sockets();
    let window = Duration::from_secs(20);
    let mut server = Server::with(
        ServerOptions::default()
            .set("drain.announce_ms", 1500)
            .set("drain.window_s", window.as_secs())
            .set("drain.retry_spread_ms", 5000),
    );
    let api = server.api();
    let cursor = api.publish("topic:drain", "before", 0.into()).await;
    let mut streams = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        streams.push(Small::open(server.address(), server.key()).await);
    }
    let accepted: Vec<String> = {
        let mut positions = Vec::new();
        for number in 0..20 {
            positions.push(api.publish("topic:drain", "accepted", number.into()).await);
        }
        positions
    };
    assert_eq!(api.get("/ready").await.status, 200);
    let told = Instant::now();
    server.signal("TERM");
    eventually("readiness that says no", async || (api.get("/ready").await.status == 503).then_some(()))
        .await;
    let mut newcomer = api.listen("topic:drain", None).await;
    let close = newcomer.expect("close").await;
    assert_eq!((close.data["code"].as_i64(), close.data["reconnect"].as_bool()), (Some(3000), Some(true)));
    assert_eq!(newcomer.retry_ms, close.data["retry_ms"].as_u64());
    assert!(newcomer.rest().await.is_empty());

    let closes: Vec<_> = streams
        .into_iter()
        .map(|mut small| {
            tokio::spawn(async move {
                let message = small.until("close").await;
                (message, told.elapsed())
            })
        })
        .collect();
    let (mut delays, mut times) = (HashSet::new(), Vec::new());
    for close in closes {
        let (message, at) = close.await.expect("no panic");
        let data: Value = serde_json::from_str(&message.data).expect("JSON");
        assert_eq!((data["code"].as_i64(), data["reconnect"].as_bool()), (Some(3000), Some(true)));
        let retry_ms = data["retry_ms"].as_u64().expect("a delay");
        assert_eq!(message.retry_ms, Some(retry_ms));
        delays.insert(retry_ms);
        times.push(at);
    }
    let status = server.ended().await;
    assert!(status.success(), "{status}");
    assert!(told.elapsed() < window, "{:?}", told.elapsed());
    // 2000 draws from 5000 differ in about 1650 values
    assert!(delays.len() > STREAMS / 2, "{} delays", delays.len());
    let spread = delays.iter().max().unwrap() - delays.iter().min().unwrap();
    assert!(spread > 4000, "{spread} ms");
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*first > Duration::from_millis(1000), "the announcement came before: {first:?}");
    assert!(*last - *first > Duration::from_millis(1000), "all at once: {first:?} to {last:?}");

    server.restart(|options| options);
    let mut stream = api.listen("topic:drain", Some(&cursor)).await;
    assert_eq!(stream.ready().await["recovered"], true);
    let kept: Vec<_> = stream.replayed().await.into_iter().filter_map(|event| event.id).collect();
    assert_eq!(kept, accepted);
}

#[tokio::test]
async fn a_server_terminated_during_a_burst_keeps_every_answered_publish() {
    let mut server = Server::start();
    let api = server.api();
    let cursor = api.publish("topic:burst", "before", 0.into()).await;
    let burst = Burst::start(&api, "topic:burst", 4);
    burst.reaches(60).await;
    server.signal("TERM");
    let answered = burst.cut().await;
    let status = server.ended().await;
    assert!(status.success(), "{status}");
    server.restart(|options| options);
    let mut stream = api.listen("topic:burst", Some(&cursor)).await;
    assert_eq!(stream.ready().await["recovered"], true);
    assert_kept(&counts(&stream.replayed().await, 4), &answered);
}

#[tokio::test]
async fn a_publish_that_is_being_sent_when_the_server_is_terminated_is_carried_out() {
    let mut server = Server::with(ServerOptions::default().set("drain.announce_ms", 500));
    let api = server.api();
    let cursor = api.publish("topic:late", "before", 0.into()).await;
    let body = r#"{"topic":"topic:late","type":"late","data":1}"#;
    let mut socket = TcpStream::connect(server.address()).await.expect("a connection");
    let head = format!(
        "POST /v2/events HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        server.key(),
        body.len()
    );
    let (early, late) = body.split_at(body.len() / 2);
    socket.write_all(format!("{head}{early}").as_bytes()).await.expect("it takes the head");
    server.signal("TERM");
    eventually("readiness that says no", async || (api.get("/ready").await.status == 503).then_some(()))
        .await;
    socket.write_all(late.as_bytes()).await.expect("it takes the rest");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let status = server.ended().await;
    assert!(status.success(), "{status}");
    server.restart(|options| options);
    let mut stream = api.listen("topic:late", Some(&cursor)).await;
    stream.ready().await;
    let events = stream.replayed().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event, "late");
}
