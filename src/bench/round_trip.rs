//! The floor under a command's way to a client of another node: one HTTP exchange, and one message through
//! Redis, with nothing in between.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::publisher::complete_answer;

const PATIENCE: Duration = Duration::from_secs(5);
const CHANNEL: &str = "bongsu-bench";

/// Connections to a node and to Redis.
pub(super) struct RoundTrip {
    node: TcpStream,
    host: SocketAddr,
    publisher: TcpStream,
    subscriber: TcpStream,
    count: u64,
}

impl RoundTrip {
    pub(super) fn open(node: SocketAddr, redis: SocketAddr) -> anyhow::Result<Self> {
        let mut own = RoundTrip {
            node: connect(node).with_context(|| format!("the node at {node}"))?,
            host: node,
            publisher: connect(redis).with_context(|| format!("Redis at {redis}"))?,
            subscriber: connect(redis).with_context(|| format!("Redis at {redis}"))?,
            count: 0,
        };
        own.subscriber.write_all(format!("SUBSCRIBE {CHANNEL}\r\n").as_bytes())?;
        read_until(&mut own.subscriber, |bytes| bytes.ends_with(b":1\r\n"))?;
        Ok(own)
    }

    /// Makes the way once; how long it took.
    pub(super) fn take(&mut self) -> anyhow::Result<Duration> {
        self.count += 1;
        let word = format!("message-{:012}", self.count);
        let started = Instant::now();
        self.node.write_all(format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", self.host).as_bytes())?;
        let answer = read_until(&mut self.node, |bytes| complete_answer(bytes).is_some())?;
        self.publisher.write_all(format!("PUBLISH {CHANNEL} {word}\r\n").as_bytes())?;
        let end = format!("{word}\r\n");
        read_until(&mut self.subscriber, |bytes| bytes.ends_with(end.as_bytes()))?;
        let took = started.elapsed();
        ensure!(complete_answer(&answer) == Some(200), "the node is not healthy");
        read_until(&mut self.publisher, |bytes| bytes.ends_with(b"\r\n"))?;
        Ok(took)
    }
}

pub(super) fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

pub(super) fn read_until(
    stream: &mut TcpStream,
    is_whole: impl Fn(&[u8]) -> bool,
) -> anyhow::Result<Vec<u8>> {
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece)? {
            0 => bail!("a connection was closed: {}", String::from_utf8_lossy(&seen)),
            read => seen.extend_from_slice(&piece[..read]),
        }
        if is_whole(&seen) {
            return Ok(seen);
        }
        ensure!(!seen.starts_with(b"-"), "Redis refused: {}", String::from_utf8_lossy(&seen));
    }
}
