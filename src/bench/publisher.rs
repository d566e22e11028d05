//! The keep-alive connections over which the bench events are published.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::FanoutOptions;
use super::peer::{Answer, Peer};
use super::scan::STAMP_BASE_US;

/// The token of the first publishing connection, the others follow; clients count up from 0.
pub(super) const PUBLISHER: Token = Token(usize::MAX / 2);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_MAX: usize = 256 * 1024;

/// All publishing connections of a run.
pub(super) struct Publishers(Vec<Publisher>);

impl Publishers {
    pub(super) fn open(options: &FanoutOptions, registry: &Registry) -> anyhow::Result<Self> {
        let open = |number| Publisher::open(options, Token(PUBLISHER.0 + number), registry.try_clone()?);
        Ok(Self((0..options.publishers).map(open).collect::<anyhow::Result<_>>()?))
    }

    /// True when every publish was answered.
    pub(super) fn idle(&self) -> bool {
        self.0.iter().all(Publisher::idle)
    }

    /// One that waits for no answer.
    pub(super) fn free(&mut self) -> Option<&mut Publisher> {
        self.0.iter_mut().find(|publisher| publisher.idle())
    }

    /// Carries on after an event on some of them.
    pub(super) fn advance(&mut self) -> anyhow::Result<()> {
        self.0.iter_mut().try_for_each(Publisher::advance)
    }

    /// Fails when the server leaves a publish unanswered for too long.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.0.iter().try_for_each(Publisher::check)
    }

    /// From now on events have so many bytes of padding.
    pub(super) fn pad(&mut self, bytes: usize) {
        self.0.iter_mut().for_each(|publisher| publisher.pad = "x".repeat(bytes));
    }
}

/// Sends one publish at a time and reads its answer.
pub(super) struct Publisher {
    token: Token,
    address: SocketAddr,
    registry: Registry,
    stream: Option<TcpStream>,
    peer: Peer,
    host: String,
    headers: String,
    pad: String,
    unsent: Vec<u8>,
    answer: Vec<u8>,
    waiting_since: Option<Instant>,
}

impl Publisher {
    fn open(options: &FanoutOptions, token: Token, registry: Registry) -> anyhow::Result<Self> {
        let key = options.api_key.as_ref().map(|key| format!("X-API-Key: {key}\r\n"));
        let address = options.publish_address.unwrap_or(options.address);
        let mut publisher = Self {
            token,
            address,
            registry,
            stream: None,
            peer: options.peer,
            host: address.to_string(),
            headers: key.unwrap_or_default(),
            pad: "x".repeat(options.payload_bytes),
            unsent: Vec::new(),
            answer: Vec::new(),
            waiting_since: None,
        };
        publisher.connect()?;
        Ok(publisher)
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        let stream = std::net::TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)
            .with_context(|| format!("the server at {} takes no publisher", self.address))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut stream, self.token, interest)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// True when the previous publish was answered.
    fn idle(&self) -> bool {
        self.waiting_since.is_none()
    }

    /// Publishes event number `n`, stamped with `due` as the time since `clock`.
    pub(super) fn send(&mut self, n: u64, topic: &str, due: Instant, clock: Instant) -> anyhow::Result<()> {
        if self.stream.is_none() {
            self.connect()?;
        }
        let stamp = STAMP_BASE_US + due.duration_since(clock).as_micros() as u64;
        let data = format!(r#"{{"n":{n},"t_us":{stamp},"pad":"{}"}}"#, self.pad);
        self.unsent = self.peer.publish((&self.host, &self.headers), topic, &data);
        self.answer.clear();
        self.waiting_since = Some(Instant::now());
        self.flush()
    }

    fn advance(&mut self) -> anyhow::Result<()> {
        self.flush()?;
        let mut scratch = [0; 4096];
        while let Some(stream) = &mut self.stream {
            match stream.read(&mut scratch) {
                Ok(0) => self.ended()?,
                Ok(read) => {
                    self.answer.extend_from_slice(&scratch[..read]);
                    self.take_answer()?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the publishing connection broke"),
            }
        }
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        match self.waiting_since {
            Some(since) if since.elapsed() > ANSWER_TIMEOUT => {
                bail!("the server did not answer a publish within {ANSWER_TIMEOUT:?}")
            }
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        while let Some(stream) = self.stream.as_mut().filter(|_| !self.unsent.is_empty()) {
            match stream.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the publishing connection broke"),
            }
        }
        Ok(())
    }

    /// A server may close an idle keep-alive connection: the next publish opens another. In the
    /// middle of a publish it means that the server went away.
    fn ended(&mut self) -> anyhow::Result<()> {
        self.stream = None;
        if self.waiting_since.is_some() {
            bail!("the server went away: it closed the publishing connection without an answer");
        }
        Ok(())
    }

    fn take_answer(&mut self) -> anyhow::Result<()> {
        let status = match self.peer.answer() {
            Answer::Http => complete_answer(&self.answer),
            Answer::Text(text) => contains(&self.answer, text).then_some(200),
        };
        let Some(status) = status else {
            if self.answer.len() > ANSWER_MAX {
                bail!("the answer to a publish is longer than {ANSWER_MAX} bytes");
            }
            return Ok(());
        };
        if status / 100 != 2 {
            let text = String::from_utf8_lossy(&self.answer);
            let text: String = text.chars().take(1000).collect();
            bail!("the server refused a publish:\n{text}");
        }
        self.answer.clear();
        self.waiting_since = None;
        Ok(())
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

/// The status of an answer that has arrived whole, its body by length or in chunks.
fn complete_answer(bytes: &[u8]) -> Option<u16> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?.to_ascii_lowercase();
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let complete = match field("content-length:") {
        Some(length) => bytes.len() >= head + length.parse::<usize>().ok()?,
        None if field("transfer-encoding:").is_some() => bytes.ends_with(b"0\r\n\r\n"),
        None => true,
    };
    complete.then_some(status)
}

#[cfg(test)]
mod tests {
    use super::complete_answer;

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let by_length = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}";
        let in_chunks = b"HTTP/1.1 429 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        for (answer, status) in [(&by_length[..], 202), (&in_chunks[..], 429)] {
            assert_eq!(complete_answer(answer), Some(status));
            for end in 0..answer.len() {
                assert_eq!(complete_answer(&answer[..end]), None, "cut at {end}");
            }
        }
    }
}
