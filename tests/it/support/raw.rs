//! A client on the bare socket: sends any bytes, and reads slowly, a little, or not at all.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::PATIENCE;

/// How much of what came last is searched for a text; more than one read brings.
const SEARCHED: usize = 64 * 1024;

/// An open connection, and what has come over it.
pub struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

/// One response as it came.
#[derive(Clone, Debug)]
pub struct RawAnswer {
    /// HTTP status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The body, its chunks joined.
    pub body: String,
}

/// One event as it came, with the id that it has itself.
#[derive(Clone, Debug, PartialEq)]
pub struct RawEvent {
    /// Its name.
    pub event: String,
    /// Its own id.
    pub id: Option<String>,
    /// Its data, parsed.
    pub data: serde_json::Value,
}

impl RawEvent {
    fn read(block: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::to_owned)
        };
        Some(RawEvent {
            event: field("event: ")?,
            id: field("id: "),
            data: serde_json::from_str(&field("data: ")?).expect("data is JSON"),
        })
    }

    /// The number that the tests put into their events.
    pub fn number(&self) -> Option<u64> {
        self.data["data"]["n"].as_u64()
    }
}

impl RawAnswer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .find_map(|(own, value)| own.eq_ignore_ascii_case(name).then_some(value))
    }

    /// The code of a problem, after checking that it is one.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("JSON");
        body["code"].as_str().expect("a code").to_owned()
    }
}

impl Raw {
    /// Connects as everybody does.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.expect("it listens"))
    }

    /// Connects with a receive buffer of this many bytes; the kernel has a smallest one, about 2 KiB.
    pub async fn connect_narrow(address: SocketAddr, buffer: usize) -> Self {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).expect("a socket");
        // before connecting: the window scale is agreed upon then
        socket.set_recv_buffer_size(buffer).expect("a buffer size");
        socket.set_nonblocking(true).expect("a socket");
        let socket = TcpSocket::from_std_stream(socket.into());
        Self::over(socket.connect(address).await.expect("it listens"))
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        Raw { stream, received: Vec::new() }
    }

    /// Asks for a stream of topics and reads up to its `ready`; then reads nothing by itself.
    pub async fn listen(self, key: &str, topics: &str) -> Self {
        self.resume(key, topics, None).await
    }

    /// The same from a cursor.
    pub async fn resume(mut self, key: &str, topics: &str, cursor: Option<&str>) -> Self {
        let mut request = stream_request(key, topics);
        if let Some(cursor) = cursor {
            request.truncate(request.len() - 2);
            request.push_str(&format!("Last-Event-ID: {cursor}\r\n\r\n"));
        }
        self.send(&request).await;
        self.read_until("event: ready").await;
        self.read_until("}\n\n").await;
        self
    }

    /// Sends all of it.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.offer(bytes).await, "the connection broke");
    }

    /// Sends what the peer takes; false when it has ended the connection.
    pub async fn offer(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await;
        sent.expect("the peer takes it or ends").is_ok()
    }

    /// Sends bytes one by one, with a pause after each; how many were sent before the peer ended it.
    pub async fn drip(&mut self, bytes: &[u8], pause: Duration) -> usize {
        for (count, byte) in bytes.iter().enumerate() {
            let ended = timeout(pause, self.read_more()).await;
            if ended == Ok(false) || self.stream.write_all(&[*byte]).await.is_err() {
                return count;
            }
        }
        bytes.len()
    }

    /// Reads a few bytes at a time, with a pause after each, until `text` has come (true) or the end (false).
    pub async fn trickle_until(&mut self, text: &str, bytes: usize, pause: Duration) -> bool {
        let mut piece = vec![0; bytes];
        loop {
            let read = timeout(PATIENCE, self.stream.read(&mut piece)).await;
            match read.expect("something or the end") {
                Ok(length @ 1..) => self.received.extend_from_slice(&piece[..length]),
                _ => return false,
            }
            if self.has(text) {
                return true;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads until `text` has come.
    pub async fn read_until(&mut self, text: &str) {
        while !self.has(text) {
            let more = timeout(PATIENCE, self.read_more()).await;
            assert!(more.expect("bytes in time"), "ended before {text:?}: {}", self.text());
        }
    }

    /// Reads until the event of this number is there as a whole.
    pub async fn read_until_number(&mut self, number: u64) {
        self.read_until(&format!("\"n\":{number},")).await;
        while !self.events().iter().any(|event| event.number() == Some(number)) {
            let more = timeout(PATIENCE, self.read_more()).await;
            assert!(more.expect("bytes in time"), "ended within event {number}");
        }
    }

    /// Everything up to the end of the connection, however it ended.
    pub async fn rest(&mut self) -> String {
        let all = async { while self.read_more().await {} };
        timeout(PATIENCE, all).await.expect("the connection's end");
        self.text()
    }

    /// The next response; its body is read by its length, its chunks, or to the end.
    pub async fn answer(&mut self) -> RawAnswer {
        self.read_until("\r\n\r\n").await;
        let text = self.text();
        let (head, _) = text.split_once("\r\n\r\n").expect("just read");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut answer = RawAnswer {
            status: status.unwrap_or_else(|| panic!("no status: {head}")),
            head: head.to_owned(),
            body: String::new(),
        };
        self.received.drain(..head.len() + 4);
        let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
        answer.body = match length {
            Some(length) => {
                while self.received.len() < length {
                    let more = timeout(PATIENCE, self.read_more()).await;
                    assert!(more.expect("bytes in time"), "the body ended early: {answer:?}");
                }
                let body = self.received.drain(..length).collect();
                String::from_utf8(body).expect("text")
            }
            None => {
                let rest = self.rest().await;
                match answer.header("transfer-encoding") {
                    Some("chunked") => joined(&rest),
                    _ => rest,
                }
            }
        };
        answer
    }

    /// What has been read.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    /// The whole events that have been read.
    pub fn events(&self) -> Vec<RawEvent> {
        let text = self.text();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let body = if is_chunked { joined(body) } else { body.to_owned() };
        let whole = body.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
        whole.split("\n\n").filter_map(RawEvent::read).collect()
    }

    /// Whether the peer has ended the connection, without taking anything that waits to be read.
    pub fn is_over(&self) -> bool {
        if SockRef::from(&self.stream).take_error().expect("a socket").is_some() {
            return true;
        }
        let (Ok(own), Ok(peer)) = (self.stream.local_addr(), self.stream.peer_addr()) else {
            return true;
        };
        // the peer's side of it is in no table, or not established, once it is over
        socket(peer, own).is_none_or(|(state, _)| state != "01")
    }

    /// Bytes that have come and wait to be read.
    pub fn unread(&self) -> u64 {
        let (Ok(own), Ok(peer)) = (self.stream.local_addr(), self.stream.peer_addr()) else {
            return 0;
        };
        socket(own, peer).map_or(0, |(_, unread)| unread)
    }

    /// The code of the WebSocket Close that comes; None when the connection ends without one.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            if let Some(code) = frames(&self.received).into_iter().find_map(|(opcode, payload)| {
                (opcode == 8).then(|| payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code)))
            }) {
                return Some(code);
            }
            let more = timeout(PATIENCE, self.read_more()).await;
            if !more.expect("a Close or the end") {
                return None;
            }
        }
    }

    /// Says that it sends no more.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.expect("a socket");
    }

    /// Ends with a reset.
    pub fn reset(self) {
        let socket = SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("a socket");
    }

    fn has(&self, text: &str) -> bool {
        let from = self.received.len().saturating_sub(SEARCHED);
        self.received[from..].windows(text.len()).any(|window| window == text.as_bytes())
    }

    async fn read_more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece).await {
            Ok(length @ 1..) => {
                self.received.extend_from_slice(&piece[..length]);
                true
            }
            _ => false,
        }
    }
}

/// State and unread bytes of a socket, by its two ends; None when the kernel knows none.
fn socket(local: SocketAddr, remote: SocketAddr) -> Option<(String, u64)> {
    let ends = [local, remote].map(|end| format!(":{:04X}", end.port()));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    table.lines().skip(1).find_map(|line| {
        let words: Vec<_> = line.split_whitespace().skip(1).take(4).collect();
        let [local, remote, state, queues] = words[..] else { return None };
        let unread = u64::from_str_radix(queues.split_once(':')?.1, 16).ok()?;
        (local.ends_with(&ends[0]) && remote.ends_with(&ends[1])).then(|| (state.to_owned(), unread))
    })
}

/// A request for a stream of topics.
pub fn stream_request(key: &str, topics: &str) -> String {
    format!(
        "GET /v2/realtime/stream?topics={topics} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\
         Accept: text/event-stream\r\n\r\n"
    )
}

/// The chunks of a body, as far as they have come.
fn joined(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else {
            break;
        };
        body.push_str(rest.get(..size).unwrap_or(rest));
        text = rest.get(size + 2..).unwrap_or_default();
    }
    body
}

/// The whole WebSocket frames behind the answer to a handshake: opcode and payload.
fn frames(received: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let head = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(received.len(), |at| at + 4);
    let (mut rest, mut found) = (&received[head..], Vec::new());
    while let [first, length, tail @ ..] = rest {
        let (length, tail) = match (length, tail) {
            (126, [a, b, tail @ ..]) => (u16::from_be_bytes([*a, *b]).into(), tail),
            (127, _) => panic!("no frame of the tests is that long"),
            (126, _) => break,
            (length, tail) => (usize::from(*length), tail),
        };
        if tail.len() < length {
            break;
        }
        found.push((first & 0x0f, tail[..length].to_vec()));
        rest = &tail[length..];
    }
    found
}
