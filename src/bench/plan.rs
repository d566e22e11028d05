//! Who connects where and says what: the part of a run that clients and publishers need.

use std::net::SocketAddr;

use anyhow::ensure;

use super::Transport;
use super::dense::AHEAD;
use super::peer::{Peer, masked_frame};
use super::scan::{EVENT, Mark, READING};
use crate::domain::Position;

/// The request that makes a stream a WebSocket (RFC 6455 §4.1); a key is there to be echoed, not to be secret.
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Clients that may be on their way at a time: more than this only overflows the server's accept
/// queue, and every connection that does waits a second for its next try.
pub(super) const CONNECTING_MAX: usize = 256;

/// Names of so many topics.
pub(super) fn topics(name: &str, count: usize) -> Vec<String> {
    match count {
        1 => vec![name.to_owned()],
        count => (0..count).map(|number| format!("{name}-{number}")).collect(),
    }
}

/// What is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Events of a topic.
    Events,
    /// Readings of a fleet, which are commands that change the database; topics are then ids of fleets.
    Readings,
}

/// One run's connections and what goes over them.
#[derive(Clone)]
pub(super) struct Plan {
    /// Where clients listen, in turns.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) publish_address: SocketAddr,
    pub(super) peer: Peer,
    pub(super) transport: Transport,
    pub(super) work: Work,
    /// Instead of the peer's own.
    pub(super) path: Option<String>,
    pub(super) api_key: Option<String>,
    /// Over which the clients are spread.
    pub(super) topics: Vec<String>,
    pub(super) connections: usize,
    /// Clients that may be on their way at a time.
    pub(super) at_once: usize,
    /// How many times all clients connect in the whole run.
    pub(super) waves: usize,
    /// Whether clients drop by a reset, after which no port is held for a minute.
    pub(super) resets: bool,
    pub(super) publishers: usize,
    pub(super) payload_bytes: usize,
}

impl Plan {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.connections > 0, "--connections must be at least 1");
        ensure!(!self.addresses.is_empty(), "--address names no server");
        ensure!(self.addresses.len() <= 1000, "--address names more than 1000 servers");
        ensure!(self.payload_bytes <= 1 << 24, "--payload-bytes must be at most 16777216");
        ensure!((1..=1000).contains(&self.publishers), "--publishers must be from 1 to 1000");
        ensure!((1..=10_000).contains(&self.topics.len()), "there must be from 1 to 10000 topics");
        ensure!(self.topics.len() <= self.connections, "there must not be more topics than --connections");
        // those on their way side by side may be appended in any order, and each client keeps so many numbers open
        ensure!(
            self.publishers <= self.topics.len() * AHEAD as usize,
            "--publishers must not be more than {AHEAD} for each topic"
        );
        ensure!((1..=100_000).contains(&self.at_once), "--at-once must be from 1 to 100000");
        let graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(self.path().starts_with('/') && graphic(self.path()), "--path must be a URL path");
        ensure!(self.api_key.as_deref().is_none_or(graphic), "--api-key holds a character no key has");
        Ok(())
    }

    fn path(&self) -> &str {
        let own = match self.work {
            Work::Events => self.peer.listen_path(self.transport),
            Work::Readings if self.transport == Transport::Sse => "/v2/realtime/ei-updates?fleet_ids={topic}",
            Work::Readings => "/v2/realtime/ws?topics=fleet:{topic}",
        };
        self.path.as_deref().unwrap_or(own)
    }

    /// What a client of each topic asks for; resuming from a position, or listening from the present on.
    pub(super) fn requests(&self, from: Option<Position>) -> Vec<Vec<u8>> {
        let asks = match self.transport {
            Transport::Sse => "Accept: text/event-stream\r\n",
            Transport::Websocket => UPGRADE,
        };
        let (headers, host) = (self.headers(), self.addresses[0]);
        let cursor = from.map_or(String::new(), |position| format!("&cursor={position}"));
        let request = |topic: &String| {
            let path = self.path().replace("{topic}", topic);
            format!("GET {path}{cursor} HTTP/1.1\r\nHost: {host}\r\n{asks}{headers}\r\n").into_bytes()
        };
        self.topics.iter().map(request).collect()
    }

    /// What a client of each topic says once it was answered.
    pub(super) fn hellos(&self) -> Vec<Option<Vec<u8>>> {
        let hello = |topic: &String| self.peer.hello(topic).map(|text| masked_frame(&text));
        self.topics.iter().map(hello).collect()
    }

    /// Headers that every request has, as whole lines.
    pub(super) fn headers(&self) -> String {
        self.api_key.as_ref().map_or(String::new(), |key| format!("X-API-Key: {key}\r\n"))
    }

    /// Where the number of an event is found in its frame.
    pub(super) fn mark(&self) -> &'static Mark {
        match self.work {
            Work::Events => &EVENT,
            Work::Readings => &READING,
        }
    }

    /// Which node a client connects to: in turns, and so that the clients of each topic are on all of them.
    pub(super) fn node_of(&self, index: usize) -> usize {
        (index / self.topics.len() + index % self.topics.len()) % self.addresses.len()
    }

    /// Whether the time from publish to frame is taken on a client: on every 16th of them, with several
    /// topics not always on the same ones, and on all where there are few.
    pub(super) fn is_sampled(&self, index: usize) -> bool {
        self.work == Work::Readings || index % 16 == index / 16 % 16
    }
}
