//! Echoes every message on the server's own WebSocket transport, for conformance suites such as Autobahn's
//! `wstest --mode fuzzingclient`: `cargo run --release --example websocket_echo [HOST:PORT]`.
//!
//! The limits of messages (16 MiB) and of the queue (32 MiB) are raised for it; the product's own stay.

use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use actix_codec::Framed;
use actix_http::body::BodySize;
use actix_http::{HttpService, Request, Response, h1, ws};
use actix_rt::net::TcpStream;
use actix_server::Server;
use actix_service::fn_service;
use bongsu::clock::Clock;
use bongsu::sessions::{
    Frames, Inbox, Message, QueueLimits, QueueMetrics, SendQueue, WsConnection, WsLimits,
};
use bongsu::telemetry::Metrics;
use bongsu::wire::{CloseCode, Framing, websocket};
use futures_util::SinkExt;
use futures_util::future::LocalBoxFuture;

struct Echo(Rc<SendQueue>);

impl Inbox for Echo {
    fn receive(&mut self, message: Message) -> Option<LocalBoxFuture<'static, ()>> {
        self.0.push_control(match message {
            Message::Text(text) => websocket::text_frame(&text),
            Message::Binary(bytes) => websocket::binary_frame(&bytes),
        });
        None
    }

    fn failed(&mut self, _: CloseCode) {}
}

async fn upgrade(
    request: Request,
    mut framed: Framed<TcpStream, h1::Codec>,
) -> Result<(), actix_http::Error> {
    if ws::verify_handshake(request.head()).is_err() {
        return Ok(());
    }
    let response = ws::handshake_response(request.head()).finish().drop_body();
    if framed.send(h1::Message::Item((response, BodySize::None))).await.is_err() {
        return Ok(());
    }
    let metrics = Rc::new(QueueMetrics::new(&Metrics::default(), Clock::system()));
    let queue = QueueLimits { bytes: 32 << 20, items: 1_000_000 };
    let queue = Rc::new(SendQueue::new(Framing::WEBSOCKET, queue, metrics));
    let limits = WsLimits { message_bytes: 16 << 20, message_time: Duration::from_secs(60) };
    let parts = framed.into_parts();
    WsConnection::new(parts.io, parts.read_buf, Frames::of(queue.clone()), Echo(queue), limits).await;
    Ok(())
}

#[actix_rt::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?);
    let service = || {
        HttpService::build()
            .upgrade(fn_service(|(request, framed)| -> LocalBoxFuture<'static, _> {
                Box::pin(upgrade(request, framed))
            }))
            .finish(fn_service(|_| async { Ok::<_, actix_http::Error>(Response::not_found()) }))
            .tcp()
    };
    Server::build().workers(1).listen("echo", listener, service)?.run().await
}
