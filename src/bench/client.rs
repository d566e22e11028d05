//! One client: connects, waits to be ready, then only counts what arrives.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use mio::event::Event;
use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use super::peer::{Ready, masked_frame};
use super::scan::{CARRY_MAX, Carry, scan};
use super::{FanoutOptions, Transport};

/// Room for one read; frames that waited in the kernel come in as few calls as possible.
const READ_BYTES: usize = 64 * 1024;
/// RFC 6455 §4.1; a key is there to be echoed, not to be secret.
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const HANDSHAKE_MAX: usize = 64 * 1024;
/// Linux numbers: the standard library has no stable name for either.
const EINPROGRESS: i32 = 115;
const EMFILE: i32 = 24;

/// What all clients share: where they go, what they say, and the one buffer they read into.
pub(super) struct Shared {
    pub(super) address: SocketAddr,
    pub(super) clock: Instant,
    pub(super) tally: Tally,
    requests: Vec<Vec<u8>>,
    hellos: Vec<Option<Vec<u8>>>,
    ready: Ready,
    spread: bool,
    scratch: Vec<u8>,
}

/// What the clients saw, all together.
#[derive(Default)]
pub(super) struct Tally {
    /// Clients that got their response head and first `ready`.
    pub(super) ready: usize,
    /// Ready clients that the server has closed since.
    pub(super) dropped: usize,
    /// Events published in the measured window.
    pub(super) published: u64,
    /// Deliveries there should be of those.
    pub(super) expected: u64,
    /// Deliveries the clients that are still there wait for; a surplus makes it negative.
    pub(super) outstanding: i64,
    /// Deliveries that arrived.
    pub(super) received: u64,
    /// Bytes that arrived.
    pub(super) bytes: u64,
    /// Of those published, how many on each topic.
    pub(super) published_on: Vec<u64>,
    /// Ready clients that were closed, by topic.
    pub(super) dropped_on: Vec<usize>,
    /// Sampled times from sending a publish to reading its frame, in µs.
    pub(super) latencies_us: Vec<u32>,
}

impl Tally {
    pub(super) fn of(topics: usize) -> Self {
        Tally { published_on: vec![0; topics], dropped_on: vec![0; topics], ..Tally::default() }
    }
}

impl Shared {
    pub(super) fn new(options: &FanoutOptions, spread: bool) -> Self {
        let key = options.api_key.as_ref().map(|key| format!("X-API-Key: {key}\r\n"));
        let asks = match options.transport {
            Transport::Sse => "Accept: text/event-stream\r\n",
            Transport::Websocket => UPGRADE,
        };
        let key = key.unwrap_or_default();
        let request = |topic: &String| {
            let path = options.path().replace("{topic}", topic);
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{asks}{key}\r\n", options.address).into_bytes()
        };
        let topics = options.topics();
        let hello = |topic: &String| options.peer.hello(topic).map(|text| masked_frame(&text));
        Self {
            address: options.address,
            clock: Instant::now(),
            tally: Tally::of(topics.len()),
            requests: topics.iter().map(request).collect(),
            hellos: topics.iter().map(hello).collect(),
            ready: options.peer.ready(),
            spread,
            scratch: vec![0; CARRY_MAX + READ_BYTES],
        }
    }
}

enum Phase {
    Connecting,
    /// Everything read so far: the buffer lives only as long as the handshake. And whether the hello was said.
    Handshake(Box<(Vec<u8>, bool)>),
    Live,
}

pub(super) struct Client {
    pub(super) stream: Option<TcpStream>,
    /// Bench events this client received in the measured window.
    pub(super) frames: u64,
    /// Which topic it listens to.
    pub(super) topic: u16,
    phase: Phase,
    carry: Carry,
    sampled: bool,
}

/// Every 16th of them, and with several topics not always on the same ones.
fn is_sampled(index: usize) -> bool {
    index % 16 == index / 16 % 16
}

impl Client {
    /// Begins to connect client number `index`.
    pub(super) fn open(index: usize, shared: &Shared) -> anyhow::Result<Self> {
        let stream = connect(index, shared).map_err(|error| match error.raw_os_error() {
            Some(EMFILE) => anyhow!(
                "the limit of open files is reached after {index} connections: raise it with \
                 `ulimit -n` or ask for fewer --connections"
            ),
            _ if error.kind() == ErrorKind::AddrNotAvailable => {
                anyhow!("no local port is left for connection {index}: wait a minute or ask for fewer --connections")
            }
            _ => anyhow!(error).context(format!("connection {index} to {} failed", shared.address)),
        })?;
        Ok(Self {
            stream: Some(stream),
            frames: 0,
            topic: (index % shared.requests.len()) as u16,
            phase: Phase::Connecting,
            carry: Carry::default(),
            sampled: is_sampled(index),
        })
    }

    /// Deals with what the system reported about this client's socket.
    pub(super) fn on_event(&mut self, event: &Event, shared: &mut Shared) -> anyhow::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        if let Phase::Connecting = self.phase {
            let refused = || format!("the server at {} takes no connection", shared.address);
            if let Some(error) = stream.take_error()? {
                return Err(error).with_context(refused);
            }
            if !event.is_writable() {
                return Ok(());
            }
            // So short a request fits into the empty send buffer of a new connection.
            stream.write_all(&shared.requests[self.topic as usize]).with_context(refused)?;
            self.phase = Phase::Handshake(Box::default());
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(event.is_read_closed() || event.is_error(), shared)?;
        }
        Ok(())
    }

    fn read(&mut self, closed: bool, shared: &mut Shared) -> anyhow::Result<()> {
        while let Some(stream) = &mut self.stream {
            match stream.read(&mut shared.scratch[CARRY_MAX..]) {
                Ok(0) => self.ended(shared)?,
                Ok(read) => {
                    self.take(read, shared)?;
                    // A short read has emptied the socket and the next byte is a new edge, so the
                    // call that would only say "would block" is saved; a close already reported
                    // is not reported again and must be read.
                    if read < READ_BYTES && !closed {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.ended(shared)?,
            }
        }
        Ok(())
    }

    fn take(&mut self, read: usize, shared: &mut Shared) -> anyhow::Result<()> {
        match &mut self.phase {
            Phase::Handshake(handshake) => {
                let (seen, has_greeted) = &mut **handshake;
                seen.extend_from_slice(&shared.scratch[CARRY_MAX..CARRY_MAX + read]);
                if let (Some(hello), Some(stream), false, true) =
                    (&shared.hellos[self.topic as usize], &mut self.stream, *has_greeted, has_head(seen))
                {
                    stream.write_all(hello)?;
                    *has_greeted = true;
                }
                if is_ready(seen, shared.ready)? {
                    self.phase = Phase::Live;
                    shared.tally.ready += 1;
                }
            }
            _ => {
                let Shared { tally, scratch, clock, .. } = shared;
                let sampled = self.sampled;
                let found = scan(&mut self.carry, scratch, read, |sent_us| {
                    if sampled {
                        let now_us = clock.elapsed().as_micros() as u64;
                        let latency = now_us.saturating_sub(sent_us).min(u32::MAX.into());
                        tally.latencies_us.push(latency as u32);
                    }
                });
                self.frames += u64::from(found);
                tally.received += u64::from(found);
                tally.outstanding -= i64::from(found);
                tally.bytes += read as u64;
            }
        }
        Ok(())
    }

    fn ended(&mut self, shared: &mut Shared) -> anyhow::Result<()> {
        self.stream = None;
        if let Phase::Handshake(handshake) = &self.phase {
            let said = String::from_utf8_lossy(&handshake.0);
            bail!("the server closed a connection before it was ready, having said: {said:?}");
        }
        let (tally, topic) = (&mut shared.tally, self.topic as usize);
        tally.dropped += 1;
        tally.dropped_on[topic] += 1;
        tally.outstanding -= tally.published_on[topic] as i64 - self.frames as i64;
        Ok(())
    }
}

fn connect(index: usize, shared: &Shared) -> std::io::Result<TcpStream> {
    let domain = Domain::for_address(shared.address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if shared.spread {
        // Ports of an earlier wave may still be in TIME_WAIT; without this they could not be bound.
        socket.set_reuse_address(true)?;
        let source = Ipv4Addr::new(127, 0, 0, 1 + (index % 8) as u8);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    match socket.connect(&shared.address.into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

fn has_head(seen: &[u8]) -> bool {
    seen.windows(4).any(|four| four == b"\r\n\r\n")
}

/// True once the response head has arrived and what is to come behind it.
fn is_ready(seen: &[u8], ready: Ready) -> anyhow::Result<bool> {
    let Some(head) = seen.windows(4).position(|four| four == b"\r\n\r\n") else {
        return match seen.len() {
            0..=HANDSHAKE_MAX => Ok(false),
            _ => bail!("the server's response head has no end"),
        };
    };
    let text = String::from_utf8_lossy(&seen[..head]).to_ascii_lowercase();
    if !matches!(text.split(' ').nth(1), Some("200" | "101")) {
        let said: String = String::from_utf8_lossy(seen).chars().take(1000).collect();
        bail!("the server refused a client:\n{said}");
    }
    let Ready::Text(ready) = ready else {
        return Ok(true);
    };
    if seen.len() > HANDSHAKE_MAX {
        bail!("no {ready:?} in the first {HANDSHAKE_MAX} bytes of a stream");
    }
    Ok(seen[head..].windows(ready.len()).any(|part| part == ready.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_ready_after_its_head_and_what_comes_behind_it() {
        let (head, ready) = ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ready::Text("ready"));
        assert!(!is_ready(&head.as_bytes()[..20], Ready::Head).unwrap());
        assert!(is_ready(head.as_bytes(), Ready::Head).unwrap());
        assert!(!is_ready(head.as_bytes(), ready).unwrap());
        assert!(is_ready(format!("{head}1c\r\nevent: ready\n").as_bytes(), ready).unwrap());
        assert!(is_ready(b"HTTP/1.1 401 Unauthorized\r\n\r\n", ready).is_err());
    }

    #[test]
    fn a_client_takes_little_memory() {
        assert!(size_of::<Client>() <= 72, "{}", size_of::<Client>());
    }
}
