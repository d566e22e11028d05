//! One client: connects, waits to be ready, then only counts what arrives.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use mio::event::Event;
use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use super::dense::Dense;
use super::peer::Ready;
use super::plan::Plan;
use super::scan::{CARRY_MAX, Carry, scan};
use crate::domain::Position;

/// Room for one read; frames that waited in the kernel come in as few calls as possible.
const READ_BYTES: usize = 64 * 1024;
const HANDSHAKE_MAX: usize = 64 * 1024;
/// Linux numbers: the standard library has no stable name for either.
const EINPROGRESS: i32 = 115;
const EMFILE: i32 = 24;

/// What all clients share: where they go, what they say, and the one buffer they read into.
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) tally: Tally,
    /// When each event was due to be published, by topic and number, in µs since `clock`.
    pub(super) due_us: Vec<Vec<u64>>,
    pub(super) clock: Instant,
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
    /// Of those, told that their cursor cannot be honoured.
    pub(super) unrecovered: usize,
    /// Ready clients that the server has closed since.
    pub(super) dropped: usize,
    /// Events published in the measured window.
    pub(super) published: u64,
    /// Deliveries there should be of those.
    pub(super) expected: u64,
    /// Deliveries the clients that are still there wait for.
    pub(super) outstanding: i64,
    /// Deliveries that arrived, each event once for each client.
    pub(super) received: u64,
    /// Bytes that arrived.
    pub(super) bytes: u64,
    /// Of those published, how many on each topic.
    pub(super) published_on: Vec<u64>,
    /// Ready clients that were closed, by topic.
    pub(super) dropped_on: Vec<usize>,
    /// Frames that a client had before, or that were never published, by node.
    pub(super) duplicates_on: Vec<u64>,
    /// Sampled times from sending a publish to reading its frame, in µs.
    pub(super) latencies_us: Vec<u32>,
}

impl Tally {
    pub(super) fn of(plan: &Plan) -> Self {
        let topics = plan.topics.len();
        Tally {
            published_on: vec![0; topics],
            dropped_on: vec![0; topics],
            duplicates_on: vec![0; plan.addresses.len()],
            ..Tally::default()
        }
    }

    /// Frames that a client had before, or that were never published.
    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates_on.iter().sum()
    }
}

impl Shared {
    pub(super) fn new(plan: Plan, spread: bool) -> Self {
        Self {
            clock: Instant::now(),
            tally: Tally::of(&plan),
            due_us: vec![Vec::new(); plan.topics.len()],
            requests: plan.requests(None),
            hellos: plan.hellos(),
            ready: plan.peer.ready(),
            spread,
            scratch: vec![0; CARRY_MAX + READ_BYTES],
            plan,
        }
    }

    /// Who connects from now on goes to these nodes, and resumes from a position or listens from the present on.
    pub(super) fn aim(&mut self, addresses: &[SocketAddr], from: Option<Position>) {
        self.plan.addresses = addresses.to_vec();
        self.requests = self.plan.requests(from);
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
    pub(super) had: Dense,
    /// Which topic it listens to.
    pub(super) topic: u16,
    /// Which node it listens to.
    pub(super) node: u16,
    phase: Phase,
    carry: Carry,
    sampled: bool,
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
            _ => anyhow!(error).context(format!("connection {index} failed")),
        })?;
        Ok(Self {
            stream: Some(stream),
            had: Dense::default(),
            topic: (index % shared.requests.len()) as u16,
            node: shared.plan.node_of(index) as u16,
            phase: Phase::Connecting,
            carry: Carry::default(),
            sampled: shared.plan.is_sampled(index),
        })
    }

    /// Deals with what the system reported about this client's socket.
    pub(super) fn on_event(&mut self, event: &Event, shared: &mut Shared) -> anyhow::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        if let Phase::Connecting = self.phase {
            let address = shared.plan.addresses[self.node as usize];
            let refused = || format!("the server at {address} takes no connection");
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
                    // what came along with it counts as well: a replay begins at once
                    let seen = std::mem::take(seen);
                    self.phase = Phase::Live;
                    shared.tally.ready += 1;
                    shared.tally.unrecovered += usize::from(contains(&seen, b"\"recovered\":false"));
                    for piece in seen.chunks(READ_BYTES) {
                        shared.scratch[CARRY_MAX..CARRY_MAX + piece.len()].copy_from_slice(piece);
                        self.count(piece.len(), shared);
                    }
                }
            }
            _ => {
                self.count(read, shared);
                shared.tally.bytes += read as u64;
            }
        }
        Ok(())
    }

    /// Counts the events in what was read.
    fn count(&mut self, read: usize, shared: &mut Shared) {
        let Shared { tally, scratch, clock, due_us, plan, .. } = shared;
        let (topic, node) = (self.topic as usize, self.node as usize);
        scan(plan.mark(), &mut self.carry, scratch, read, |number| {
            let number = number.filter(|number| *number < tally.published_on[topic]);
            let Some(number) = number.filter(|number| self.had.take(*number as u32)) else {
                tally.duplicates_on[node] += 1;
                return;
            };
            tally.received += 1;
            tally.outstanding -= 1;
            if self.sampled {
                let now_us = clock.elapsed().as_micros() as u64;
                let latency = now_us.saturating_sub(due_us[topic][number as usize]);
                tally.latencies_us.push(latency.min(u32::MAX.into()) as u32);
            }
        });
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
        tally.outstanding -= self.had.missing(tally.published_on[topic]) as i64;
        Ok(())
    }
}

fn connect(index: usize, shared: &Shared) -> std::io::Result<TcpStream> {
    let address = shared.plan.addresses[shared.plan.node_of(index)];
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if shared.plan.resets {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    if shared.spread {
        // Ports of an earlier wave may still be in TIME_WAIT; without this they could not be bound.
        socket.set_reuse_address(true)?;
        let source = Ipv4Addr::new(127, 0, 0, 1 + (index % 8) as u8);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

fn has_head(seen: &[u8]) -> bool {
    contains(seen, b"\r\n\r\n")
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|own| own == part)
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
    Ok(contains(&seen[head..], ready.as_bytes()))
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
