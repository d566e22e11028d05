//! All SSE clients of a run on one event loop.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::bail;
use mio::{Events, Interest, Poll, Registry, Token};

use super::client::{Client, Shared, Tally};
use super::publisher::PUBLISHER;
use super::{FanoutOptions, Progress};

/// Clients that may be on their way at a time: more than this only overflows the server's accept
/// queue, and every connection that does waits a second for its next try.
const CONNECTING_MAX: usize = 256;
const CONNECT_STALL: Duration = Duration::from_secs(15);
/// Connections that one source address serves quickly: Linux has 28 232 ports for them and tries
/// every second one first, so that beyond the half each connect has to search.
const ONE_SOURCE_MAX: usize = 14_000;

/// While more frames than this are on their way, and the last look found fewer, the next look can
/// wait: a generator that sleeps in the poll is woken for nearly every frame, and on loopback the
/// server pays for the waking inside its own write, which no remote client would make it do.
const BATCH: usize = 64;
/// How long that wait is. It bounds what it adds to a latency.
const GATHER: Duration = Duration::from_micros(100);

pub(super) struct Swarm {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    shared: Shared,
    deadline: Instant,
    last_delivery: Instant,
    last_events: usize,
}

impl Swarm {
    pub(super) fn new(options: &FanoutOptions, deadline: Instant) -> anyhow::Result<Self> {
        // Closed connections hold their port for another minute, so each wave counts.
        let ports = options.connections.saturating_mul(options.waves.saturating_add(1));
        let local = matches!(options.address, SocketAddr::V4(v4) if v4.ip().is_loopback());
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            shared: Shared::new(options, local && ports > ONE_SOURCE_MAX),
            deadline,
            last_delivery: Instant::now(),
            last_events: 0,
        })
    }

    /// Connects `count` clients and waits until each is ready.
    pub(super) fn connect(&mut self, count: usize, progress: &mut Progress<'_>) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let (mut seen, mut seen_at, mut told) = (0, started, 0);
        self.clients.reserve_exact(count);
        while self.tally().ready < count {
            let ready = self.tally().ready;
            while self.clients.len() < count && self.clients.len() - ready < CONNECTING_MAX {
                self.open()?;
            }
            self.pump(Duration::from_millis(100))?;
            let ready = self.tally().ready;
            if ready > seen {
                (seen, seen_at) = (ready, Instant::now());
            } else if seen_at.elapsed() > CONNECT_STALL {
                bail!("{ready} of {count} clients are ready, and none more within {CONNECT_STALL:?}");
            }
            if self.tally().dropped > 0 {
                bail!("the server closed a ready client while the others still connected");
            }
            if ready * 10 / count > told {
                told = ready * 10 / count;
                progress(ready as f64 / count as f64, &format!("{ready} of {count} clients ready"));
            }
        }
        Ok(started.elapsed())
    }

    fn open(&mut self) -> anyhow::Result<()> {
        let index = self.clients.len();
        let mut client = Client::open(index, &self.shared)?;
        if let Some(stream) = &mut client.stream {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(stream, Token(index), interest)?;
        }
        self.clients.push(client);
        Ok(())
    }

    /// Closes all clients.
    pub(super) fn disconnect(&mut self) {
        self.clients.clear();
        self.shared.tally = Tally::of(self.shared.tally.published_on.len());
    }

    /// Waits for up to `timeout` and deals with everything that arrived; true when a publishing
    /// connection is among it.
    pub(super) fn pump(&mut self, timeout: Duration) -> anyhow::Result<bool> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("the run took longer than it may as a whole; the server is too slow or stuck");
        }
        self.gather();
        match self.poll.poll(&mut self.events, Some(timeout.min(left))) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(false),
            other => other?,
        }
        let (received, mut publisher) = (self.shared.tally.received, false);
        self.last_events = 0;
        for event in &self.events {
            self.last_events += 1;
            match event.token() {
                token if token >= PUBLISHER => publisher = true,
                Token(index) => self.clients[index].on_event(event, &mut self.shared)?,
            }
        }
        let tally = &self.shared.tally;
        if tally.received > received {
            self.last_delivery = Instant::now();
        }
        if tally.dropped > 0 && tally.dropped == self.clients.len() {
            bail!("the server went away: it closed all {} clients", tally.dropped);
        }
        Ok(publisher)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the poll's own timeout is in whole ms and ends with the first frame"
    )]
    fn gather(&self) {
        if self.last_events < BATCH && self.shared.tally.outstanding > BATCH as i64 {
            std::thread::sleep(GATHER);
        }
    }

    /// Keeps reading for `time`, whatever arrives.
    pub(super) fn pump_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.pump(left)?;
        }
    }

    /// Forgets what arrived before the measured window.
    pub(super) fn begin(&mut self) {
        self.clients.iter_mut().for_each(|client| client.frames = 0);
        let tally = &mut self.shared.tally;
        let (ready, dropped) = (tally.ready, tally.dropped);
        let (dropped_on, topics) = (std::mem::take(&mut tally.dropped_on), tally.published_on.len());
        *tally = Tally { ready, dropped, dropped_on, ..Tally::of(topics) };
        self.last_delivery = Instant::now();
    }

    /// Notes one more publish, which every client of the topic that is still there should receive.
    pub(super) fn expect(&mut self, topic: usize) {
        let clients = self.clients.len();
        let tally = &mut self.shared.tally;
        let topics = tally.published_on.len();
        tally.published += 1;
        tally.published_on[topic] += 1;
        let listeners = (clients + topics - 1 - topic) / topics;
        tally.expected += listeners as u64;
        tally.outstanding += (listeners - tally.dropped_on[topic]) as i64;
    }

    /// Deliveries that never came, counted client by client.
    pub(super) fn lost(&self) -> u64 {
        let published = &self.tally().published_on;
        let of_client = |client: &Client| published[client.topic as usize].saturating_sub(client.frames);
        self.clients.iter().map(of_client).sum()
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    pub(super) fn clock(&self) -> Instant {
        self.shared.clock
    }

    pub(super) fn last_delivery(&self) -> Instant {
        self.last_delivery
    }

    pub(super) fn registry(&self) -> &Registry {
        self.poll.registry()
    }
}
