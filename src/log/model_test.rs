//! A model of publishing, trimming, connecting and reading, in any order, against the plain structs.
//!
//! The model knows everything that was ever published. Of every connection it demands: each durable
//! event of its topics after its position, once and in order; the newest `latest` values once it has
//! read everything; otherwise a reason that is true. Whoever has read all that waits may go on from where
//! the registry says that it stands, as a long-poll does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;

use super::floor::Floor;
use super::recovery::Floors;
use super::tenant_log::WindowRead;
use super::{Page, PageLimit, TenantLog, WindowBudget};
use crate::clock::Clock;
use crate::domain::{Class, Cursor, Epoch, EventName, Position, Selector, TenantId, Timestamp, Topic};
use crate::identity::Credentials;
use crate::rooms::{Attach, Attached, Hello, Joined, Notice, Registry, RegistryOptions, SessionHandle};
use crate::sessions::{About, Grant, QueueLimits, QueueMetrics, SendQueue, Session, Step};
use crate::telemetry::Metrics;
use crate::wire::{Audience, CloseCode, Content, Event, EventParts, Framing, SseDecoder, SseMessage};

const EPOCH: Epoch = Epoch::new(7);
const TOPICS: u8 = 4;
const CLIENTS: usize = 3;
const BUDGET: WindowBudget = WindowBudget { count: 6, bytes: 1 << 20, seconds: 1_000_000 };
const LIMITS: QueueLimits = QueueLimits { bytes: 3000, items: 8 };
/// Events of a page, and entries of the store that it looks at: small, so that replays take several.
const PAGE: PageLimit = PageLimit { events: 3, bytes: 3500 };
const SPAN: u64 = 5;

#[derive(Clone, Copy, Debug)]
enum From {
    Own,
    Nowhere,
    At(u64),
    OtherEpoch,
    Garbage,
}

#[derive(Clone, Debug)]
enum Op {
    Publish { topic: u8, class: Class, fill: usize },
    Trim { count: u64 },
    Attach { client: usize, topics: u8, from: From },
    Leave { client: usize },
    Read { client: usize, frames: usize },
    Work { client: usize },
    Deliver,
    Heartbeat,
}

fn op() -> impl Strategy<Value = Op> {
    let class = prop_oneof![3 => Just(Class::Durable), 2 => Just(Class::Latest), 1 => Just(Class::Volatile)];
    let from = prop_oneof![
        6 => Just(From::Own),
        1 => Just(From::Nowhere),
        2 => (0u64..60).prop_map(From::At),
        1 => Just(From::OtherEpoch),
        1 => Just(From::Garbage),
    ];
    prop_oneof![
        12 => (0..TOPICS, class, 0usize..900).prop_map(|(topic, class, fill)| Op::Publish { topic, class, fill }),
        1 => (1u64..12).prop_map(|count| Op::Trim { count }),
        4 => (0..CLIENTS, 1u8..1 << TOPICS, from)
            .prop_map(|(client, topics, from)| Op::Attach { client, topics, from }),
        1 => (0..CLIENTS).prop_map(|client| Op::Leave { client }),
        6 => (0..CLIENTS, 1usize..6).prop_map(|(client, frames)| Op::Read { client, frames }),
        8 => (0..CLIENTS).prop_map(|client| Op::Work { client }),
        5 => Just(Op::Deliver),
        1 => Just(Op::Heartbeat),
    ]
}

#[derive(Clone, Copy)]
struct Entry {
    topic: u8,
    class: Class,
    fill: usize,
}

struct Handle(Rc<RefCell<Vec<Notice>>>);

impl SessionHandle for Handle {
    fn notify(&self, notice: Notice) {
        self.0.borrow_mut().push(notice);
    }
}

struct Connection {
    id: u64,
    topics: u8,
    selectors: Vec<Selector>,
    queue: Rc<SendQueue>,
    session: Session,
    notices: Rc<RefCell<Vec<Notice>>>,
    step: Option<Step>,
    decoder: SseDecoder,
    cursor: Option<Cursor>,
    /// What was true of the cursor when it connected.
    verdict: (Option<bool>, Option<&'static str>, u64),
    is_ready: bool,
    /// Everything durable up to here has been received.
    received: u64,
    last_id: u64,
    latest: HashMap<u8, u64>,
}

struct World {
    log: Arc<TenantLog>,
    registry: Registry,
    queues: Rc<QueueMetrics>,
    /// Every logged entry; the number of the first is 1.
    entries: Vec<Entry>,
    trimmed: u64,
    clients: Vec<Option<Connection>>,
    cursors: Vec<Option<u64>>,
    connections: u64,
    volatiles: u64,
    now: Instant,
}

fn topic(index: u8) -> Topic {
    Topic::parse(&format!("topic:t{index}")).unwrap()
}

fn event(entry: Entry, n: u64, position: Option<Position>) -> Event {
    Event::new(parts(entry, n, position))
}

fn parts(entry: Entry, n: u64, position: Option<Position>) -> EventParts {
    let fill = "x".repeat(entry.fill);
    EventParts {
        position,
        topic: topic(entry.topic),
        name: EventName::trusted(entry.class.as_str()),
        class: entry.class,
        key: None,
        version: None,
        at: Timestamp::from_micros(0),
        expires_at: None,
        full: Content::new(format!("{{\"n\":{n},\"topic\":{},\"fill\":\"{fill}\"}}", entry.topic)),
        public: None,
    }
}

impl World {
    fn new() -> Self {
        let (clock, metrics) = (Clock::system(), Arc::new(Metrics::default()));
        let forever = Duration::from_secs(1_000_000_000);
        let options = RegistryOptions {
            heartbeat: Duration::from_secs(1),
            user_heartbeat: Duration::from_secs(1),
            sweep: Duration::from_secs(1),
            stall: forever,
            max_age: forever,
            retry_spread: Duration::ZERO,
        };
        World {
            log: Arc::new(TenantLog::new(TenantId::default_tenant(), EPOCH, 0, Floors::default())),
            registry: Registry::new(options, clock, metrics.clone()),
            queues: Rc::new(QueueMetrics::new(&metrics, clock)),
            entries: Vec::new(),
            trimmed: 0,
            clients: (0..CLIENTS).map(|_| None).collect(),
            cursors: vec![None; CLIENTS],
            connections: 0,
            volatiles: 0,
            now: Instant::now(),
        }
    }

    fn head(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Numbers and entries of these topics after `after`, up to `up_to`.
    fn own(&self, topics: u8, after: u64, up_to: u64) -> impl Iterator<Item = (u64, Entry)> {
        let numbered = (1..).zip(self.entries.iter().copied());
        numbered.filter(move |(seq, entry)| *seq > after && *seq <= up_to && topics & (1 << entry.topic) != 0)
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Publish { topic, class, fill } => self.publish(Entry { topic, class, fill }),
            Op::Trim { count } => self.trim(count),
            Op::Attach { client, topics, from } => self.attach(client, topics, from),
            Op::Leave { client } => self.leave(client),
            Op::Read { client, frames } => {
                for _ in 0..frames {
                    self.read(client);
                }
            }
            Op::Work { client } => self.work(client),
            Op::Deliver => self.registry.advance(&TenantId::default_tenant()),
            Op::Heartbeat => {
                self.now += Duration::from_secs(2);
                self.registry.sweep(self.now);
            }
        }
    }

    fn publish(&mut self, entry: Entry) {
        if entry.class == Class::Volatile {
            self.volatiles += 1;
            let volatile = Arc::new(event(entry, self.volatiles, None));
            self.registry.volatile(&TenantId::default_tenant(), &volatile);
            return;
        }
        self.entries.push(entry);
        let position = self.log.position(self.head());
        let logged = event(entry, self.head(), Some(position));
        self.log.push(vec![logged], &BUDGET, Timestamp::from_micros(0));
    }

    fn trim(&mut self, count: u64) {
        let up_to = (self.trimmed + count).min(self.head());
        let gone = self.own(u8::MAX, self.trimmed, up_to);
        let floors: Vec<_> = gone.map(|(seq, entry)| (topic(entry.topic), Floor::lasting(seq))).collect();
        self.log.raise_floors(&floors, usize::MAX);
        self.trimmed = up_to;
        self.log.trimmed(up_to);
    }

    fn attach(&mut self, client: usize, topics: u8, from: From) {
        self.leave(client);
        let at = |seq| Cursor::At(self.log.position(seq));
        let other = Position { epoch: Epoch::new(8), seq: 1 };
        let cursor = match from {
            From::Own => self.cursors[client].map(at),
            From::Nowhere => None,
            From::At(seq) => Some(at(seq)),
            From::OtherEpoch => Some(Cursor::At(other)),
            From::Garbage => Some(Cursor::Unreadable),
        };
        let head = self.head();
        let verdict = match cursor {
            None => (None, None, head),
            Some(Cursor::Unreadable) => (Some(false), Some("invalid"), head),
            Some(Cursor::At(own)) if own.epoch != EPOCH => (Some(false), Some("epoch_changed"), head),
            Some(Cursor::At(own)) if own.seq > head => (Some(false), Some("ahead"), head),
            Some(Cursor::At(own)) => match self.own(topics, own.seq, self.trimmed).next() {
                Some(_) => (Some(false), Some("evicted"), head),
                None => (Some(true), None, own.seq),
            },
        };
        let selectors: Vec<_> = (0..TOPICS)
            .filter(|index| topics & (1 << index) != 0)
            .map(|index| Selector::Topic(topic(index)))
            .collect();
        let grant =
            |selector: &Selector| Grant { selector: selector.clone(), audience: Audience::Full, since: None };
        let grants: Arc<[Grant]> = selectors.iter().map(grant).collect();
        let queue = Rc::new(SendQueue::new(Framing::SSE_OBJECT, LIMITS, self.queues.clone()));
        let notices = Rc::<RefCell<Vec<Notice>>>::default();
        self.connections += 1;
        let attach = Attach {
            id: self.connections,
            log: self.log.clone(),
            grants: grants.clone(),
            queue: queue.clone(),
            cursor,
            hello: Hello {
                connection_id: self.connections.to_string(),
                server_id: "node".into(),
                user_id: None,
                max_message_bytes: 0,
                max_topics: 0,
            },
            credentials: Credentials::default(),
            about: Rc::new(About {
                id: self.connections,
                connection_id: "".into(),
                tenant: self.log.tenant().clone(),
                user_id: None,
                transport: "sse",
                peer: std::net::Ipv4Addr::LOCALHOST.into(),
                user_agent: "".into(),
                origin: None,
                opened: self.now,
            }),
            handle: Box::new(Handle(notices.clone())),
        };
        let mut session = Session::new(grants);
        let step = match self.registry.attach(attach, self.now) {
            Attached::Live => None,
            Attached::Behind { after } => Some(session.behind(after)),
        };
        self.clients[client] = Some(Connection {
            id: self.connections,
            topics,
            selectors,
            queue,
            session,
            notices,
            step,
            decoder: SseDecoder::default(),
            cursor,
            verdict,
            is_ready: false,
            received: 0,
            last_id: 0,
            latest: HashMap::new(),
        });
    }

    fn leave(&mut self, client: usize) {
        if let Some(own) = self.clients[client].take() {
            own.queue.leave();
            self.registry.leave(own.id);
        }
    }

    /// What the session's actor would do next.
    fn work(&mut self, client: usize) {
        let Some(mut own) = self.clients[client].take() else {
            return;
        };
        let notices = own.notices.take();
        for notice in notices {
            own.step = match notice {
                Notice::FellBehind { after } | Notice::Created { after } => Some(own.session.behind(after)),
                Notice::Recheck | Notice::Renewed | Notice::Closed(_) => None,
            };
        }
        own.step = match own.step.take() {
            None => None,
            Some(Step::Read { after }) => {
                let page = self.page(&own, after);
                Some(own.session.page(page, &own.queue))
            }
            Some(Step::Drain { room }) => {
                match own.queue.poll_drained(&mut Context::from_waker(Waker::noop()), room) {
                    Poll::Ready(()) => Some(own.session.drained(&own.queue)),
                    Poll::Pending => Some(Step::Drain { room }),
                }
            }
            Some(Step::Join { after }) => match self.registry.join(own.id, after) {
                Joined::Live => None,
                Joined::Behind { after } => Some(Step::Read { after }),
            },
            Some(Step::Close(code)) => {
                self.registry.leave(own.id);
                own.queue.finish(code, Duration::ZERO);
                None
            }
        };
        self.clients[client] = Some(own);
    }

    /// What `EventLog::read` does, with the model in the place of the database.
    fn page(&self, own: &Connection, after: u64) -> Page {
        match self.log.select(&own.selectors, after, (PAGE, Timestamp::from_micros(0))) {
            WindowRead::Evicted => Page::Evicted,
            WindowRead::Events { events, scanned_to } => Page::Events { events, scanned_to },
            WindowRead::Older { before } => {
                let up_to = before.min(after + SPAN);
                let rows = self.own(own.topics, after.max(self.trimmed), up_to);
                let stored = |(seq, entry)| Arc::new(event(entry, seq, Some(self.log.position(seq))));
                let mut events: Vec<_> = rows.map(stored).collect();
                let taken = PAGE.take(events.iter().map(|event| event.weight()));
                let full = taken < events.len() || taken == PAGE.events;
                events.truncate(taken);
                let scanned_to = events.last().filter(|_| full).map_or(up_to, |event| event.seq());
                Page::Events { events, scanned_to }
            }
        }
    }

    /// The client reads one frame; false when none waits.
    fn read(&mut self, client: usize) -> bool {
        let Some(mut own) = self.clients[client].take() else {
            return false;
        };
        let frame = match own.queue.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(frame)) => frame,
            Poll::Ready(None) => {
                own.queue.leave();
                self.registry.leave(own.id);
                return false;
            }
            Poll::Pending => {
                self.stand(client, &own);
                self.clients[client] = Some(own);
                return false;
            }
        };
        for message in own.decoder.feed(&frame) {
            self.check(&mut own, &message);
        }
        if own.is_ready {
            self.cursors[client] = Some(own.last_id);
        }
        self.clients[client] = Some(own);
        true
    }

    /// The client has read all that waits, and takes from the registry where that gets it.
    fn stand(&mut self, client: usize, own: &Connection) {
        let Some(standing) = self.registry.standing(own.id) else { return };
        assert!(own.is_ready, "who is attached has been told");
        let scanned_to = standing.position.seq.max(own.last_id);
        self.is_complete(own, scanned_to);
        assert!(own.received <= scanned_to, "it would get {} again", own.received);
        assert!(!standing.is_live || standing.position.seq >= own.last_id);
        self.cursors[client] = Some(scanned_to);
    }

    fn check(&self, own: &mut Connection, message: &SseMessage) {
        let data: Value = serde_json::from_str(&message.data).unwrap();
        let id = || message.id.as_deref().unwrap().parse::<Position>().unwrap().seq;
        assert!(own.is_ready || message.event == "ready" || message.event == "close", "{message:?}");
        match message.event.as_str() {
            "ready" => {
                let (recovered, reason, stands_at) = own.verdict;
                assert_eq!(
                    (data["recovered"].as_bool(), data["reason"].as_str()),
                    (recovered, reason),
                    "{:?}",
                    own.cursor
                );
                assert_eq!(id(), stands_at);
                (own.is_ready, own.received, own.last_id) = (true, stands_at, stands_at);
            }
            "position" | "heartbeat" => {
                assert!(id() >= own.last_id, "a cursor never goes back");
                own.last_id = id();
                self.is_complete(own, id());
            }
            "close" => match data["code"].as_u64().map(|code| code as u16) {
                Some(code) if code == CloseCode::SlowConsumer.code() => {}
                Some(code) if code == CloseCode::InsufficientState.code() => {
                    let lost = self.own(own.topics, own.last_id, self.trimmed).next();
                    assert!(lost.is_some(), "nothing was lost to it");
                }
                code => panic!("closed with {code:?}"),
            },
            name => {
                let (n, on) =
                    (data["data"]["n"].as_u64().unwrap(), data["data"]["topic"].as_u64().unwrap() as u8);
                assert!(own.topics & (1 << on) != 0, "not its topic");
                if data["id"].is_string() {
                    assert_eq!(id(), n);
                    assert!(n > own.last_id, "ids strictly increase: {n} after {}", own.last_id);
                    own.last_id = n;
                }
                match name {
                    "durable" => {
                        let durable = self.own(own.topics, own.received, u64::MAX);
                        let next = durable
                            .filter(|(_, entry)| entry.class == Class::Durable)
                            .map(|(seq, _)| seq)
                            .next();
                        assert_eq!(Some(n), next, "every durable event once and in order");
                        own.received = n;
                    }
                    "latest" => {
                        let before = own.latest.insert(on, n);
                        assert!(before <= Some(n), "values never go back");
                    }
                    _ => assert!(data.get("id").is_none(), "volatile events have no position"),
                }
            }
        }
    }

    /// Everything up to `up_to` that concerns the connection has been received.
    fn is_complete(&self, own: &Connection, up_to: u64) {
        let (_, _, since) = own.verdict;
        let mut newest = HashMap::new();
        for (seq, entry) in self.own(own.topics, since, up_to) {
            match entry.class {
                Class::Latest => drop(newest.insert(entry.topic, seq)),
                _ => assert!(seq <= own.received, "{seq} is missing at {up_to}"),
            }
        }
        for (topic, seq) in newest {
            assert!(own.latest.get(&topic) >= Some(&seq), "the value {seq} of {topic} is missing at {up_to}");
        }
    }

    /// Lets everybody finish: whoever is still connected then has everything.
    fn settle(&mut self) {
        for _ in 0..40 + 4 * self.entries.len() {
            self.registry.advance(&TenantId::default_tenant());
            for client in 0..CLIENTS {
                self.work(client);
                while self.read(client) {}
            }
        }
        for own in self.clients.iter().flatten() {
            assert_eq!(own.step, None, "it is live in the end");
            assert!(own.is_ready);
            self.is_complete(own, self.head());
        }
    }
}

proptest! {
    #[test]
    fn every_connection_gets_what_it_is_owed_in_any_interleaving(ops in prop::collection::vec(op(), 1..160)) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
        world.settle();
        // and whoever comes back then catches up or is told why not
        for client in 0..CLIENTS {
            world.attach(client, (1 << TOPICS) - 1, From::Own);
        }
        world.settle();
    }
}

#[test]
fn who_arrives_while_the_only_other_session_is_cut_hears_what_comes_after() {
    let mut world = World::new();
    let attach = |client, topics| Op::Attach { client, topics, from: From::Nowhere };
    let publish = |topic| Op::Publish { topic, class: Class::Durable, fill: 900 };
    world.run(&attach(0, 1));
    (0..4).for_each(|_| world.run(&publish(0)));
    // what waits for the first one is delivered now, and is too much for it
    world.run(&attach(1, 2));
    let notices = world.clients[0].as_ref().unwrap().notices.borrow().clone();
    assert_eq!(notices, [Notice::Closed(CloseCode::SlowConsumer)]);
    world.run(&publish(1));
    world.settle();
    assert_eq!(world.clients[1].as_ref().unwrap().received, 5);
}

#[test]
fn who_hears_of_a_new_entity_is_judged_before_anything_that_follows_is_delivered() {
    let mut world = World::new();
    let attach = |client, topics| Op::Attach { client, topics, from: From::Nowhere };
    world.run(&attach(0, 1));
    world.run(&attach(1, 2));
    let entry = |topic| Entry { topic, class: Class::Durable, fill: 1 };
    world.entries.push(entry(0));
    let name = EventName::trusted(EventName::ENTITY_CREATED);
    let created = EventParts { name, ..parts(entry(0), 1, Some(world.log.position(1))) };
    world.log.push(vec![Event::new(created)], &BUDGET, Timestamp::from_micros(0));
    world.publish(entry(0));
    world.publish(entry(1));
    world.run(&Op::Deliver);
    let of = |client: usize| {
        let own = world.clients[client].as_ref().unwrap();
        (own.notices.borrow().clone(), own.queue.last_seq())
    };
    assert_eq!(of(0), (vec![Notice::Created { after: 1 }], 0), "it has nothing yet");
    assert_eq!(of(1), (vec![], 3), "of other topics nothing waits");
}
