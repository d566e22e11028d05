//! The floor under every fan-out figure: a program that only holds sockets and writes the same
//! ready-made bytes to each. What it costs is what the kernel's TCP costs on this machine.
//!
//! `cargo run --release --example floor -- --bind 127.0.0.1:9100`

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use clap::Parser;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

const LISTENER: Token = Token(usize::MAX);
const SSE_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-cache\r\nConnection: close\r\n\r\n";
/// The answer to the one key that the generator sends (RFC 6455 §1.3).
const WEBSOCKET_HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Holds the sockets of listeners and writes each published event to all of its topic.
#[derive(Parser)]
struct Args {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9100")]
    bind: SocketAddr,
}

struct Conn {
    stream: TcpStream,
    request: Vec<u8>,
    unsent: Vec<u8>,
    /// What it listens to, and whether by WebSocket.
    held: Option<(Box<str>, bool)>,
}

impl Conn {
    /// A failed write is left to the read side, which learns of the same end and drops the socket.
    fn send(&mut self, mut bytes: &[u8]) {
        while self.unsent.is_empty() && !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        self.unsent.extend_from_slice(bytes);
    }

    /// Reads all there is; false once the peer is gone.
    fn fill(&mut self, scratch: &mut [u8]) -> bool {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return false,
                Ok(_) if self.held.is_some() => {}
                Ok(read) => self.request.extend_from_slice(&scratch[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    /// The body of a complete POST, or `None` after dealing with anything else.
    fn take_publish(&mut self) -> Option<Value> {
        let head = self.request.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        if self.request.starts_with(b"GET ") {
            let text = String::from_utf8_lossy(&std::mem::take(&mut self.request)).into_owned();
            let topic = text.split(&['=', ' ', '&'][..]).nth(2).unwrap_or_default();
            let is_websocket = text.contains("Upgrade: websocket");
            self.held = Some((topic.into(), is_websocket));
            self.send(if is_websocket { WEBSOCKET_HEAD } else { SSE_HEAD });
            return None;
        }
        let text = String::from_utf8_lossy(&self.request[..head]).to_ascii_lowercase();
        let length = text.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
        let end = head + length.and_then(|digits| digits.trim().parse().ok()).unwrap_or(0);
        let body = serde_json::from_slice(self.request.get(head..end)?).unwrap_or_default();
        self.request.drain(..end);
        Some(body)
    }
}

#[derive(Default)]
struct Floor {
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    /// Who listens to a topic.
    listeners: HashMap<Box<str>, Vec<usize>>,
    published: u64,
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, registry: &Registry) -> anyhow::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            stream.set_nodelay(true)?;
            let slot = self.free.pop().unwrap_or(self.conns.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut stream, Token(slot), interest)?;
            self.conns.resize_with(self.conns.len().max(slot + 1), || None);
            let (request, unsent) = (Vec::new(), Vec::new());
            self.conns[slot] = Some(Conn { stream, request, unsent, held: None });
        }
    }

    fn serve(&mut self, slot: usize, scratch: &mut [u8]) {
        let Some(conn) = self.conns[slot].as_mut() else {
            return;
        };
        let is_held = conn.held.is_some();
        let unsent = std::mem::take(&mut conn.unsent);
        conn.send(&unsent);
        if !conn.fill(scratch) {
            if let Some((topic, _)) = self.conns[slot].take().and_then(|conn| conn.held) {
                self.listeners.entry(topic).or_default().retain(|other| *other != slot);
            }
            self.free.push(slot);
            return;
        }
        while let Some(body) = self.conns[slot].as_mut().and_then(Conn::take_publish) {
            self.publish(slot, &body);
        }
        if let Some((topic, _)) = self.conns[slot].as_ref().and_then(|conn| conn.held.as_ref())
            && !is_held
        {
            self.listeners.entry(topic.clone()).or_default().push(slot);
        }
    }

    fn publish(&mut self, publisher: usize, body: &Value) {
        self.published += 1;
        let id = format!("{:016}-{}", 0, self.published);
        let kind = body["type"].as_str().unwrap_or("message");
        let body_of_answer = format!(r#"{{"id":"{id}"}}"#);
        let answer = format!(
            "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body_of_answer}",
            body_of_answer.len()
        );
        if let Some(conn) = self.conns[publisher].as_mut() {
            conn.send(answer.as_bytes());
        }
        let topic = body["topic"].as_str().unwrap_or_default();
        let object = format!(
            "{{\"event\":\"{kind}\",\"topic\":\"{topic}\",\
            \"id\":\"{id}\",\"ts\":\"2026-01-01T00:00:00.000Z\",\"data\":{}}}",
            body["data"]
        );
        let sse = format!("event: {kind}\nid: {id}\ndata: {object}\n\n").into_bytes();
        let length = object.len() as u64;
        let head = match length {
            0..0x1_0000 => [&[0x81, 126], &length.to_be_bytes()[6..]].concat(),
            _ => [&[0x81, 127], &length.to_be_bytes()[..]].concat(),
        };
        let websocket = [&head, object.as_bytes()].concat();
        for &slot in self.listeners.get(topic).into_iter().flatten() {
            match &mut self.conns[slot] {
                Some(conn @ Conn { held: Some((_, true)), .. }) => conn.send(&websocket),
                Some(conn) => conn.send(&sse),
                None => {}
            }
        }
    }
}

fn main() -> anyhow::Result<()> {
    let bind = Args::parse().bind;
    let socket = Socket::new(Domain::for_address(bind), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&bind.into())?;
    socket.listen(4096)?;
    let mut listener = TcpListener::from_std(socket.into());
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!(r#"{{"event":"listening","address":"{}"}}"#, listener.local_addr()?);
    let (mut floor, mut scratch) = (Floor::default(), vec![0; 16 * 1024]);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            match event.token() {
                LISTENER => floor.accept(&listener, poll.registry())?,
                Token(slot) => floor.serve(slot, &mut scratch),
            }
        }
    }
}
