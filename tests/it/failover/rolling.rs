//! Three nodes are replaced one after the other under load: whoever listens does as the protocol says, and misses nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bongsu::clock::random_u64;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, block_in_place};

use crate::support::{
    Api, Client, Frame, Nginx, Server, ServerOptions, Transport, allow_sockets, eventually,
    eventually_counts, pause, redis,
};

const CLIENTS: usize = 3000;
/// Of them, those that listen over a WebSocket; of the others one in three comes by way of nginx.
const WEBSOCKETS: usize = 300;
const PUBLISHERS: usize = 3;
const TOPICS: usize = 17;
/// From one count to the next.
const PACE: Duration = Duration::from_secs(2);
/// How much longer than it was told to wait a client may wait.
const MOST_LATE: Duration = Duration::from_secs(1);

/// What has become of the clients so far.
#[derive(Default)]
struct Tally {
    connected: AtomicU64,
    done: AtomicU64,
    /// Those that are between two connections.
    away: AtomicU64,
    /// Connections that ended without a word.
    cut: AtomicU64,
    returns: Mutex<Vec<Return>>,
}

/// From the end of a connection to the next `ready`.
#[derive(Clone, Copy)]
struct Return {
    waited: Duration,
    /// How long it was told to wait, however often it was.
    told: Duration,
    /// How long it did wait for that: a machine that is busy wakes nobody in time.
    slept: Duration,
}

impl Return {
    /// How much longer it took than it was told to wait, the client's own lateness aside.
    fn late(&self) -> Duration {
        self.waited - self.slept
    }
}

/// A client that comes back with its cursor, after the delay that it was told, at another address.
struct Roamer {
    transport: Transport,
    addresses: Vec<Api>,
    place: usize,
    topic: String,
    tally: Arc<Tally>,
}

impl Roamer {
    /// Listens up to the last event: dense, each once and in order, over any number of connections.
    async fn listen(mut self) {
        let (mut client, _) = self.begin(None).await.expect("all nodes are there");
        self.tally.connected.fetch_add(1, Ordering::Relaxed);
        let mut next = 0;
        loop {
            match client.next().await {
                Some(Frame::Event(event)) => {
                    assert_eq!(event.data["n"], next, "a gap, a repetition or another order");
                    next += 1;
                    if event.data["last"] == true {
                        self.tally.done.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
                Some(Frame::Close(close)) => client = self.come_back(client, &close).await,
                None => {
                    self.tally.cut.fetch_add(1, Ordering::Relaxed);
                    client = self.come_back(client, &json!({"reconnect": true, "retry_ms": 1000})).await;
                }
                Some(_) => {}
            }
        }
    }

    async fn begin(&self, cursor: Option<&str>) -> Result<(Client, Value), Option<Value>> {
        Client::begin(self.transport, &self.addresses[self.place], &self.topic, cursor).await
    }

    async fn come_back(&mut self, former: Client, close: &Value) -> Client {
        let ended = Instant::now();
        self.tally.away.fetch_add(1, Ordering::Relaxed);
        let cursor = former.cursor().expect("it was ready").to_owned();
        drop(former);
        let (mut told, mut slept) = obey(close).await;
        self.place += 1 + random_u64() as usize % (self.addresses.len() - 1).max(1);
        loop {
            self.place %= self.addresses.len();
            match self.begin(Some(&cursor)).await {
                Ok((client, ready)) => {
                    assert_eq!(ready["recovered"], true, "{ready}");
                    let back = Return { waited: ended.elapsed(), told, slept };
                    self.tally.returns.lock().expect("no panic while held").push(back);
                    self.tally.away.fetch_sub(1, Ordering::Relaxed);
                    return client;
                }
                Err(Some(close)) => {
                    let again = obey(&close).await;
                    (told, slept) = (told + again.0, slept + again.1);
                }
                // nobody is there: at once at the next address
                Err(None) => pause(Duration::from_millis(10)).await,
            }
            self.place += 1;
        }
    }
}

/// Waits as long as it was told to: how long that is, and how long it took.
async fn obey(close: &Value) -> (Duration, Duration) {
    assert_eq!(close["reconnect"], true, "{close}");
    let delay = Duration::from_millis(close["retry_ms"].as_u64().expect("a delay"));
    let began = Instant::now();
    pause(delay).await;
    (delay, began.elapsed())
}

/// Publishes 0, 1, 2 … on each topic of a publisher, all in one batch, again with its key until it is answered.
async fn publish(api: Api, publisher: usize, stop: watch::Receiver<bool>) -> u64 {
    for n in 0.. {
        let is_last = *stop.borrow();
        let event = |topic| {
            let data = json!({"n": n, "last": is_last});
            json!({"topic": topic_of(publisher, topic), "type": "tick", "data": data})
        };
        let body = json!({"events": (0..TOPICS).map(event).collect::<Vec<_>>()});
        api.post_until_done("/v2/events/batch", &body, &format!("p{publisher}-{n}")).await;
        if is_last {
            return n;
        }
        pause(PACE).await;
    }
    unreachable!("it counts for ever")
}

fn topic_of(publisher: usize, topic: usize) -> String {
    format!("topic:p{publisher}-t{topic}")
}

/// Connects all of them, of whom those that wait for `ready` at the same time are bounded.
async fn connect(server: &Server, nginx: &Nginx, tally: &Arc<Tally>) -> Vec<JoinHandle<()>> {
    let (nodes, proxy) = (server.api().everywhere(), vec![nginx.api(server.key())]);
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let is_websocket = number % (CLIENTS / WEBSOCKETS) == 0;
        let is_proxied = !is_websocket && number / PUBLISHERS % 3 == 1;
        let addresses = if is_proxied { proxy.clone() } else { nodes.clone() };
        let roamer = Roamer {
            transport: if is_websocket { Transport::WebSocket } else { Transport::Sse },
            place: number % addresses.len(),
            addresses,
            topic: topic_of(number % PUBLISHERS, number / 10 % TOPICS),
            tally: tally.clone(),
        };
        clients.push(tokio::spawn(roamer.listen()));
        if number % 50 == 49 || number + 1 == CLIENTS {
            let goal = if number + 1 == CLIENTS { CLIENTS } else { number.saturating_sub(100) };
            let connected = || tally.connected.load(Ordering::Relaxed);
            eventually_counts("clients", goal as u64, connected).await;
        }
    }
    clients
}

/// Ends a node in order, and starts it again; how long each took.
async fn replace(server: &mut Server, node: usize) -> (Duration, Duration) {
    let began = Instant::now();
    server.signal_node(node, "TERM");
    assert_eq!(server.node_ended(node).await.code(), Some(0));
    let ended = began.elapsed();
    block_in_place(|| server.start_node(node));
    let api = server.api().at(node);
    eventually("readiness", async || (api.get("/ready").await.status == 200).then_some(())).await;
    (ended, began.elapsed() - ended)
}

/// On a Redis Cluster, since that is where a node has most to find again: a link to each master, and each tenant's channel
/// at the one that has its slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_three_nodes_are_restarted_one_after_the_other_and_nobody_misses_anything() {
    allow_sockets();
    let options =
        ServerOptions::default().cluster(3).unlimited().env("REDIS_URL", redis::shared_cluster_url());
    let options = options.set("limits.key_publishes_per_s", 0).set("limits.key_connects_per_min", 0);
    // one machine is all of the nodes and all of the clients: they come back over a time that it can cope with
    let options = options.set("sessions.heartbeat_ms", 10_000).set("drain.retry_spread_ms", 20_000);
    let mut server = Server::with(options);
    let nginx = Nginx::before(&server.addresses()).await;
    let tally = Arc::new(Tally::default());
    let connecting = Instant::now();
    let clients = connect(&server, &nginx, &tally).await;
    eprintln!("{CLIENTS} clients connected in {:?}", connecting.elapsed());
    let (stop, stopped) = watch::channel(false);
    let publishers: Vec<_> =
        (0..PUBLISHERS).map(|own| tokio::spawn(publish(server.api(), own, stopped.clone()))).collect();
    for node in 0..3 {
        let (ended, started) = replace(&mut server, node).await;
        eprintln!("node {node}: ended after {ended:?}, ready again {started:?} later");
    }
    let clients_there = || CLIENTS as u64 - tally.away.load(Ordering::Relaxed);
    eventually_counts("clients that are back", CLIENTS as u64, clients_there).await;
    stop.send(true).expect("they publish");
    for publisher in publishers {
        eprintln!("{} counts on each of {TOPICS} topics", publisher.await.expect("all were answered") + 1);
    }
    let done = || tally.done.load(Ordering::Relaxed);
    eventually_counts("clients that have everything", CLIENTS as u64, done).await;
    for client in clients {
        client.await.expect("each once and in order, and recovered");
    }
    assert_eq!(tally.cut.load(Ordering::Relaxed), 0, "connections that ended without a word");
    assert_in_time(&tally.returns.lock().expect("no panic while held"));
    let operator = server.operator();
    for reason in ["epoch_changed", "evicted", "ahead", "invalid"] {
        let name = format!("bongsu_recoveries_total{{outcome=\"{reason}\"}}");
        assert_eq!(operator.metric(&name).await, 0.0, "{reason}");
    }
}

/// Everybody had to come back, and did as soon as it was told to.
fn assert_in_time(returns: &[Return]) {
    assert!(returns.len() >= CLIENTS, "{} returns: the nodes were replaced under all of them", returns.len());
    let mut late: Vec<Duration> = returns.iter().map(Return::late).collect();
    late.sort_unstable();
    let longest = returns.iter().map(|own| own.waited).max().expect("checked above");
    let (half, many, most) = (late[late.len() / 2], late[late.len() * 99 / 100], late[late.len() - 1]);
    let slow = returns.iter().map(|own| own.slept - own.told).max().expect("checked above");
    eprintln!(
        "{} returns, the longest after {longest:?}; later than told: half of them up to {half:?}, 99 of 100 up to {many:?}, \
         all up to {most:?}; woken up to {slow:?} late",
        returns.len()
    );
    assert!(most <= MOST_LATE, "one was {most:?} later than it was told to be");
}
