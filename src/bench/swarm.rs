//! All clients of a run on one event loop.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::bail;
use mio::{Events, Interest, Poll, Registry, Token};

use super::Progress;
use super::client::{Client, Shared, Tally};
use super::dense::Dense;
use super::fanout_report::NodeFigures;
use super::plan::Plan;
use super::publisher::PUBLISHER;
use crate::domain::Position;

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
    pub(super) fn new(plan: Plan, deadline: Instant) -> anyhow::Result<Self> {
        // Connections that were closed and not reset hold their port for another minute, so each wave counts.
        let ports = plan.connections.saturating_mul(plan.waves) / plan.addresses.len();
        let is_local = |address: &SocketAddr| matches!(address, SocketAddr::V4(v4) if v4.ip().is_loopback());
        let spread = ports > ONE_SOURCE_MAX && plan.addresses.iter().all(is_local);
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            shared: Shared::new(plan, spread),
            deadline,
            last_delivery: Instant::now(),
            last_events: 0,
        })
    }

    /// Connects all clients and waits until each is ready.
    pub(super) fn connect(&mut self, progress: &mut Progress<'_>) -> anyhow::Result<Duration> {
        let (count, at_once) = (self.shared.plan.connections, self.shared.plan.at_once);
        let started = Instant::now();
        let (mut seen, mut seen_at, mut told) = (0, started, 0);
        self.clients.reserve_exact(count);
        while self.tally().ready < count {
            let ready = self.tally().ready;
            while self.clients.len() < count && self.clients.len() - ready < at_once {
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
        self.shared.tally = Tally::of(&self.shared.plan);
    }

    /// Where the clients that were closed will connect, to listen from the present on.
    pub(super) fn aim(&mut self, addresses: &[SocketAddr]) {
        self.shared.aim(addresses, None);
        self.shared.tally = Tally::of(&self.shared.plan);
    }

    /// The same, to resume from a position; they have missed so many events on each topic.
    pub(super) fn aim_from(&mut self, addresses: &[SocketAddr], from: Position, missed: &[u64]) {
        self.shared.aim(addresses, Some(from));
        let listeners = |topic| listeners(self.shared.plan.connections, missed.len(), topic) as u64;
        let expected: u64 = missed.iter().enumerate().map(|(topic, missed)| missed * listeners(topic)).sum();
        self.shared.tally = Tally {
            published_on: missed.to_vec(),
            expected,
            outstanding: expected as i64,
            ..Tally::of(&self.shared.plan)
        };
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
        self.clients.iter_mut().for_each(|client| client.had = Dense::default());
        self.shared.due_us.iter_mut().for_each(Vec::clear);
        let tally = &mut self.shared.tally;
        let (ready, dropped, dropped_on) =
            (tally.ready, tally.dropped, std::mem::take(&mut tally.dropped_on));
        *tally = Tally { ready, dropped, dropped_on, ..Tally::of(&self.shared.plan) };
        self.last_delivery = Instant::now();
    }

    /// Notes one more publish, due at this time, which every client of the topic that is still there should
    /// receive; its number.
    pub(super) fn expect(&mut self, topic: usize, due: Instant) -> u64 {
        let listeners = listeners(self.clients.len(), self.shared.plan.topics.len(), topic);
        let due_us = due.duration_since(self.shared.clock).as_micros() as u64;
        self.shared.due_us[topic].push(due_us);
        let tally = &mut self.shared.tally;
        tally.published += 1;
        tally.published_on[topic] += 1;
        tally.expected += listeners as u64;
        tally.outstanding += (listeners - tally.dropped_on[topic]) as i64;
        tally.published_on[topic] - 1
    }

    /// Deliveries that never came, counted client by client.
    pub(super) fn lost(&self) -> u64 {
        self.clients.iter().map(|client| self.missing(client)).sum()
    }

    fn missing(&self, client: &Client) -> u64 {
        client.had.missing(self.tally().published_on[client.topic as usize])
    }

    /// What the clients of each node should have received, and what was wrong with it.
    pub(super) fn nodes(&self) -> Vec<NodeFigures> {
        let of = |address: &SocketAddr| NodeFigures { address: address.to_string(), ..Default::default() };
        let mut nodes: Vec<NodeFigures> = self.shared.plan.addresses.iter().map(of).collect();
        for client in &self.clients {
            let node = &mut nodes[client.node as usize];
            node.connections += 1;
            node.deliveries_expected += self.tally().published_on[client.topic as usize];
            node.deliveries_lost += self.missing(client);
        }
        for (node, duplicates) in nodes.iter_mut().zip(&self.tally().duplicates_on) {
            node.deliveries_duplicate = *duplicates;
        }
        nodes
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    pub(super) fn last_delivery(&self) -> Instant {
        self.last_delivery
    }

    pub(super) fn registry(&self) -> &Registry {
        self.poll.registry()
    }
}

/// How many of so many clients listen to a topic.
fn listeners(clients: usize, topics: usize, topic: usize) -> usize {
    (clients + topics - 1 - topic) / topics
}
