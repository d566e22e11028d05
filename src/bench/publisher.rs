//! The keep-alive connections over which the bench events are published.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::peer::{Answer, Peer, report};
use super::plan::{Plan, Work};
use super::scan::stamp;
use crate::domain::Position;

/// The token of the first publishing connection, the others follow; clients count up from 0.
pub(super) const PUBLISHER: Token = Token(usize::MAX / 2);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_MAX: usize = 256 * 1024;

/// All publishing connections of a run.
pub(super) struct Publishers(Vec<Publisher>);

impl Publishers {
    pub(super) fn open(plan: &Plan, registry: &Registry) -> anyhow::Result<Self> {
        let open = |number| Publisher::open(plan, Token(PUBLISHER.0 + number), registry.try_clone()?);
        Ok(Self((0..plan.publishers).map(open).collect::<anyhow::Result<_>>()?))
    }

    /// Nobody, where nothing is to be published.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// The positions of what was published since the last time, from the first to the last.
    pub(super) fn take_positions(&mut self) -> Vec<Position> {
        let own = |publisher: &mut Publisher| std::mem::take(&mut publisher.positions);
        let mut all: Vec<Position> = self.0.iter_mut().flat_map(own).collect();
        all.sort_unstable_by_key(|position| position.seq);
        all
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
    work: Work,
    host: String,
    headers: String,
    pad: String,
    positions: Vec<Position>,
    unsent: Vec<u8>,
    answer: Vec<u8>,
    waiting_since: Option<Instant>,
}

impl Publisher {
    fn open(plan: &Plan, token: Token, registry: Registry) -> anyhow::Result<Self> {
        let mut publisher = Self {
            token,
            address: plan.publish_address,
            registry,
            stream: None,
            peer: plan.peer,
            work: plan.work,
            host: plan.publish_address.to_string(),
            headers: plan.headers(),
            pad: "x".repeat(plan.payload_bytes),
            positions: Vec::new(),
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

    /// Publishes the event of a topic that has this number.
    pub(super) fn send(&mut self, topic: &str, number: u64) -> anyhow::Result<()> {
        if self.stream.is_none() {
            self.connect()?;
        }
        let (to, number) = ((&*self.host, &*self.headers), stamp(number));
        self.unsent = match self.work {
            Work::Events => {
                let data = format!(r#"{{"number":{number},"pad":"{}"}}"#, self.pad);
                self.peer.publish(to, topic, &data)
            }
            Work::Readings => report(to, topic, number),
        };
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
        self.positions.extend(position(&self.answer));
        self.answer.clear();
        self.waiting_since = None;
        Ok(())
    }
}

/// The position that an answer names as the event's id.
fn position(answer: &[u8]) -> Option<Position> {
    let text = std::str::from_utf8(answer).ok()?;
    text.split_once(r#""id":""#)?.1.split('"').next()?.parse().ok()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

/// The status of an answer that has arrived whole, its body by length or in chunks.
pub(super) fn complete_answer(bytes: &[u8]) -> Option<u16> {
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
    use super::{complete_answer, position};

    #[test]
    fn an_answer_names_the_position_of_its_event() {
        let answer = b"HTTP/1.1 202 Accepted\r\n\r\n{\"id\":\"00000000000000ab-12\",\"duplicate\":false}";
        assert_eq!(position(answer).map(|position| position.seq), Some(12));
        assert_eq!(position(b"HTTP/1.1 202 Accepted\r\n\r\n{\"id\":null}"), None);
    }

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
