//! The load generator behind `bongsu bench fanout`.
//!
//! One thread and one event loop, so that it can be pinned to one core while the server has
//! another: it holds N server-sent event streams, publishes through one more connection, and
//! counts what arrives where and when.

mod client;
mod peer;
mod probe;
mod publisher;
mod report;
mod scan;
mod swarm;

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;

pub use peer::Peer;
use probe::{Probe, Sample};
use publisher::Publishers;
pub use report::{FanoutReport, Latency};
use swarm::Swarm;

/// How long the server's memory may take to settle after connecting.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// A delivery that is this late after the one before it does not come any more.
const DELIVERY_STALL: Duration = Duration::from_secs(5);
const MAX_WAIT: Duration = Duration::from_millis(100);

/// Told now and then how much of a part of the run is done, 0 to 1, and what that is.
pub type Progress<'a> = dyn FnMut(f64, &str) + 'a;

/// What to connect to and how hard to press.
#[derive(Clone, clap::Args)]
pub struct FanoutOptions {
    /// Server address, IP:PORT.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub address: SocketAddr,

    /// What kind of server it is.
    #[arg(long, value_enum, default_value_t = Peer::Bongsu)]
    pub peer: Peer,

    /// Where to publish, IP:PORT [default: --address].
    #[arg(long)]
    pub publish_address: Option<SocketAddr>,

    /// How to listen.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    pub transport: Transport,

    /// Connections to hold; they need as many open files (`ulimit -n`) here and in the server.
    #[arg(long, default_value_t = 1000)]
    pub connections: usize,

    /// Request path to listen on, its query included; `{topic}` is the topic [default: the peer's].
    #[arg(long)]
    pub path: Option<String>,

    /// API key, sent as X-API-Key on the streams and on every publish [default: none].
    #[arg(long, env = "BONGSU_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// Topic to publish to; with several, their beginning.
    #[arg(long, default_value = "topic:bench")]
    pub topic: String,

    /// Topics over which the clients are spread; they are published to in turns.
    #[arg(long, default_value_t = 1)]
    pub topics: usize,

    /// Publishes that may be on their way at once in the closed loop.
    #[arg(long, default_value_t = 1)]
    pub ahead: usize,

    /// Connections to publish over; on each the next publish waits for the answer to the previous.
    #[arg(long, default_value_t = 1)]
    pub publishers: usize,

    /// Publishes per second; 0 is the closed loop: the next one as soon as the clients have the previous.
    #[arg(long, default_value_t = 5.0)]
    pub rate_per_s: f64,

    /// Seconds to keep publishing.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,

    /// Bytes of padding in the data of each event, which is about 40 bytes without.
    #[arg(long, default_value_t = 128)]
    pub payload_bytes: usize,

    /// Process id of a server on this machine, for its CPU time and memory [default: none].
    #[arg(long)]
    pub server_pid: Option<u32>,

    /// Bytes of padding in each of ten more events after the run, 0 for none, for the memory they leave behind.
    #[arg(long, default_value_t = 0)]
    pub burst_bytes: usize,

    /// Times to connect and disconnect all clients before the measured round.
    #[arg(long, default_value_t = 0)]
    pub waves: usize,
}

/// A way to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// Server-sent events.
    Sse,
    /// WebSocket text frames.
    Websocket,
}

/// Written by hand so that the API key stays out of logs.
impl fmt::Debug for FanoutOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FanoutOptions")
            .field("address", &self.address)
            .field("connections", &self.connections)
            .field("rate_per_s", &self.rate_per_s)
            .field("seconds", &self.seconds)
            .finish_non_exhaustive()
    }
}

impl FanoutOptions {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.connections > 0, "--connections must be at least 1");
        ensure!((0.01..=86_400.0).contains(&self.seconds), "--seconds must be from 0.01 to 86400");
        ensure!((0.0..=1e6).contains(&self.rate_per_s), "--rate-per-s must be from 0 to 1000000");
        ensure!(self.payload_bytes <= 1 << 24, "--payload-bytes must be at most 16777216");
        ensure!(self.burst_bytes <= 1 << 24, "--burst-bytes must be at most 16777216");
        ensure!((1..=1000).contains(&self.ahead), "--ahead must be from 1 to 1000");
        ensure!((1..=1000).contains(&self.publishers), "--publishers must be from 1 to 1000");
        ensure!((1..=10_000).contains(&self.topics), "--topics must be from 1 to 10000");
        ensure!(self.topics <= self.connections, "--topics must not be more than --connections");
        ensure!(self.waves <= 1000, "--waves must be at most 1000");
        let graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(self.path().starts_with('/') && graphic(self.path()), "--path must be a URL path");
        ensure!(self.api_key.as_deref().is_none_or(graphic), "--api-key holds a character no key has");
        Ok(())
    }

    fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(self.peer.listen_path(self.transport))
    }

    fn topics(&self) -> Vec<String> {
        match self.topics {
            1 => vec![self.topic.clone()],
            topics => (0..topics).map(|number| format!("{}-{number}", self.topic)).collect(),
        }
    }

    /// When the whole run must be over, however the server behaves.
    fn time_limit(&self) -> Duration {
        let connecting = 30 + self.connections as u64 / 500;
        let rounds = self.waves as u64 + 1;
        Duration::from_secs_f64(self.seconds) + Duration::from_secs(rounds * connecting + 30)
    }
}

/// Runs one fan-out measurement on the calling thread.
///
/// # Errors
///
/// When the server refuses a client or a publish, goes away or takes too long, when the limit of
/// open files or the local ports do not suffice, or when an option makes no sense. Deliveries that
/// are lost and clients that are dropped on the way are no error: the report counts them.
pub fn fanout(options: &FanoutOptions, progress: &mut Progress<'_>) -> anyhow::Result<FanoutReport> {
    options.check()?;
    let probe = Probe::new(options.server_pid);
    let mut swarm = Swarm::new(options, Instant::now() + options.time_limit())?;
    let before = probe.sample()?;
    let mut waves = Vec::new();
    for wave in 1..=options.waves {
        swarm.connect(options.connections, &mut |_, _| {})?;
        let connected = settle(&mut swarm, &probe)?;
        swarm.disconnect();
        waves.push([connected, settle(&mut swarm, &probe)?]);
        let done = wave as f64 / options.waves as f64;
        progress(done, &format!("wave {wave} of {} connected and disconnected", options.waves));
    }
    let connect_s = swarm.connect(options.connections, progress)?.as_secs_f64();
    let idle = settle(&mut swarm, &probe)?;
    let window = measure(options, &mut swarm, &probe, progress)?;
    let after = probe.sample()?;
    let report = report(options, &swarm, &window, connect_s, [before, idle, after], &waves);
    if options.burst_bytes == 0 {
        return Ok(report);
    }
    let after = burst(options, &mut swarm, &probe)?;
    Ok(FanoutReport {
        rss_burst_per_connection_kib: after.rss_growth_kib(before, options.connections),
        burst_deliveries_lost: swarm.lost(),
        connections_dropped: swarm.tally().dropped,
        ..report
    })
}

/// The server after a burst of large events, once everybody has them.
fn burst(options: &FanoutOptions, swarm: &mut Swarm, probe: &Probe) -> anyhow::Result<Sample> {
    swarm.begin();
    let mut publishers = Publishers::open(options, swarm.registry())?;
    publishers.pad(options.burst_bytes);
    for (number, topic) in options.topics().iter().enumerate().cycle().take(10 * options.topics) {
        if let Some(publisher) = publishers.free() {
            swarm.expect(number);
            publisher.send(0, topic, Instant::now(), swarm.clock())?;
        }
        while !publishers.idle() {
            step(swarm, &mut publishers, MAX_WAIT)?;
        }
    }
    drain(swarm, &mut publishers)?;
    settle(swarm, probe)
}

/// Reads on until the server's memory has stood still for two looks in a row.
fn settle(swarm: &mut Swarm, probe: &Probe) -> anyhow::Result<Sample> {
    let until = Instant::now() + SETTLE_MAX;
    let (mut last, mut still) = (probe.sample()?, 0);
    while still < 2 && Instant::now() < until {
        swarm.pump_for(Duration::from_millis(250))?;
        let now = probe.sample()?;
        let moved = now.rss_kib.unwrap_or(0).abs_diff(last.rss_kib.unwrap_or(0));
        still = if moved <= 64 { still + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

struct Window {
    late: u64,
    length: Duration,
    server_cpu: Option<Duration>,
    generator_cpu_share: Option<f64>,
}

fn measure(
    options: &FanoutOptions,
    swarm: &mut Swarm,
    probe: &Probe,
    progress: &mut Progress<'_>,
) -> anyhow::Result<Window> {
    swarm.begin();
    let mut publishers = Publishers::open(options, swarm.registry())?;
    let (server_cpu, own_cpu) = (probe.server_cpu()?, probe::own_cpu());
    let started = Instant::now();
    let late = publish(options, swarm, &mut publishers, progress)?;
    drain(swarm, &mut publishers)?;
    let (elapsed, spent) = (started.elapsed(), |from, to: Option<Duration>| Some(to? - from?));
    let own_cpu: Option<Duration> = spent(own_cpu, probe::own_cpu());
    Ok(Window {
        late,
        length: swarm.last_delivery().duration_since(started),
        server_cpu: spent(server_cpu, probe.server_cpu()?),
        generator_cpu_share: own_cpu.map(|cpu| cpu.as_secs_f64() / elapsed.as_secs_f64()),
    })
}

/// What is still on its way belongs to the run, as long as something keeps arriving.
fn drain(swarm: &mut Swarm, publishers: &mut Publishers) -> anyhow::Result<()> {
    let stopped = Instant::now();
    while !publishers.idle() || swarm.tally().outstanding > 0 {
        if publishers.idle() && swarm.last_delivery().max(stopped).elapsed() > DELIVERY_STALL {
            break;
        }
        step(swarm, publishers, MAX_WAIT)?;
    }
    Ok(())
}

fn step(swarm: &mut Swarm, publishers: &mut Publishers, wait: Duration) -> anyhow::Result<()> {
    if swarm.pump(wait)? {
        publishers.advance()?;
    }
    publishers.check()
}

/// Publishes until the time is over; returns how many publishes went out late.
fn publish(
    options: &FanoutOptions,
    swarm: &mut Swarm,
    publishers: &mut Publishers,
    progress: &mut Progress<'_>,
) -> anyhow::Result<u64> {
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(options.seconds);
    let period = (options.rate_per_s > 0.0).then(|| 1.0 / options.rate_per_s);
    let topics = options.topics();
    // what may be on its way when the closed loop goes on
    let room = ((options.ahead - 1) * options.connections / topics.len()) as i64;
    let (mut late, mut sent_at, mut told) = (0, started, 0);
    loop {
        let now = Instant::now();
        if now >= end {
            return Ok(late);
        }
        let sent = swarm.tally().published;
        let due = period.map(|period| started + Duration::from_secs_f64(period * sent as f64));
        let go = due.map_or(swarm.tally().outstanding <= room, |due| now >= due);
        if let Some(publisher) = publishers.free().filter(|_| go) {
            let behind = due.zip(period).map(|(due, period)| (now - due).as_secs_f64() > period);
            late += u64::from(behind == Some(true));
            // Expected first: the server may be quicker than the return from the call.
            let topic = sent as usize % topics.len();
            swarm.expect(topic);
            publisher.send(sent, &topics[topic], due.unwrap_or(now), swarm.clock())?;
            sent_at = now;
            continue;
        }
        if due.is_none() && swarm.last_delivery().max(sent_at).elapsed() > DELIVERY_STALL {
            // A closed loop cannot go on after a loss; the report tells how much is missing.
            progress(1.0, "a delivery is lost: the closed loop ends here");
            return Ok(late);
        }
        let wait = due.filter(|_| publishers.free().is_some()).map_or(MAX_WAIT, |due| due - now);
        step(swarm, publishers, wait.min(end - now).min(MAX_WAIT))?;
        if started.elapsed().as_secs() > told {
            told = started.elapsed().as_secs();
            let tally = swarm.tally();
            progress(
                told as f64 / options.seconds,
                &format!(
                    "{told} s: {} publishes, {} deliveries, {} on their way",
                    tally.published, tally.received, tally.outstanding
                ),
            );
        }
    }
}

fn report(
    options: &FanoutOptions,
    swarm: &Swarm,
    window: &Window,
    connect_s: f64,
    [before, idle, after]: [Sample; 3],
    waves: &[[Sample; 2]],
) -> FanoutReport {
    let tally = swarm.tally();
    let per = |amount: f64, count: f64| if count > 0.0 { amount / count } else { 0.0 };
    let (received, window_s) = (tally.received as f64, window.length.as_secs_f64());
    let server_cpu_s = window.server_cpu.map(|cpu| cpu.as_secs_f64());
    FanoutReport {
        address: options.address.to_string(),
        connections: options.connections,
        connections_dropped: tally.dropped,
        topics: options.topics,
        ahead: options.ahead,
        publishers: options.publishers,
        server_cpus: probe::allowed_cpus(options.server_pid),
        generator_cpus: probe::allowed_cpus(Some(std::process::id())),
        waves: options.waves,
        connect_s,
        rate_per_s: options.rate_per_s,
        payload_bytes: options.payload_bytes,
        publishes: tally.published,
        publishes_late: window.late,
        deliveries_expected: tally.expected,
        deliveries_received: tally.received,
        deliveries_lost: swarm.lost(),
        bytes_per_delivery: per(tally.bytes as f64, received),
        window_s,
        deliveries_per_s: per(received, window_s),
        latency: Latency::of(tally.latencies_us.clone()),
        server_cpu_s,
        server_cpu_us_per_delivery: server_cpu_s.map(|cpu| per(cpu * 1e6, received)),
        generator_cpu_share: window.generator_cpu_share,
        rss_before_kib: before.rss_kib,
        rss_waves_kib: waves.iter().filter_map(|[_, left]| left.rss_kib).collect(),
        rss_waves_per_connection_kib: waves
            .iter()
            .filter_map(|[connected, _]| connected.rss_growth_kib(before, options.connections))
            .collect(),
        rss_idle_kib: idle.rss_kib,
        rss_after_kib: after.rss_kib,
        rss_idle_per_connection_kib: idle.rss_growth_kib(before, options.connections),
        rss_after_per_connection_kib: after.rss_growth_kib(before, options.connections),
        burst_deliveries_lost: 0,
        rss_burst_per_connection_kib: None,
        tcp_mem_idle_per_connection_kib: idle.tcp_mem_growth_kib(before, options.connections),
        tcp_mem_before_pages: before.tcp_mem_pages,
        tcp_mem_idle_pages: idle.tcp_mem_pages,
        tcp_mem_after_pages: after.tcp_mem_pages,
    }
}
