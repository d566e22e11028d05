//! One event to many: what a delivery costs, how long it takes, and what a connection holds.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::fanout_report::{FanoutReport, Latency};
use super::peer::Peer;
use super::plan::{CONNECTING_MAX, Plan, Work, topics};
use super::probe::{self, Probe, Sample};
use super::publisher::Publishers;
use super::run::{self, Pace};
use super::swarm::Swarm;
use super::{Progress, Transport};

/// How long the server's memory may take to settle after connecting.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// What to connect to and how hard to press.
#[derive(Clone, clap::Args)]
pub struct FanoutOptions {
    /// Server address, IP:PORT; several, separated by commas, are nodes over which the clients are spread.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:8080")]
    pub address: Vec<SocketAddr>,

    /// What kind of server it is.
    #[arg(long, value_enum, default_value_t = Peer::Bongsu)]
    pub peer: Peer,

    /// Where to publish, IP:PORT [default: the first --address].
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

    /// Bytes of padding in the data of each event, which is about 35 bytes without.
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
        ensure!((0.01..=86_400.0).contains(&self.seconds), "--seconds must be from 0.01 to 86400");
        ensure!((0.0..=1e6).contains(&self.rate_per_s), "--rate-per-s must be from 0 to 1000000");
        ensure!(self.burst_bytes <= 1 << 24, "--burst-bytes must be at most 16777216");
        ensure!((1..=1000).contains(&self.ahead), "--ahead must be from 1 to 1000");
        ensure!((1..=10_000).contains(&self.topics), "--topics must be from 1 to 10000");
        ensure!(self.waves <= 1000, "--waves must be at most 1000");
        self.plan().check()
    }

    fn plan(&self) -> Plan {
        Plan {
            addresses: self.address.clone(),
            publish_address: self.publish_address.unwrap_or(self.address[0]),
            peer: self.peer,
            transport: self.transport,
            work: Work::Events,
            path: self.path.clone(),
            api_key: self.api_key.clone(),
            topics: topics(&self.topic, self.topics),
            connections: self.connections,
            at_once: CONNECTING_MAX,
            waves: self.waves + 1,
            resets: false,
            publishers: self.publishers,
            payload_bytes: self.payload_bytes,
        }
    }

    fn pace(&self) -> Pace {
        Pace { rate_per_s: self.rate_per_s, seconds: self.seconds, ahead: self.ahead }
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
    let mut swarm = Swarm::new(options.plan(), Instant::now() + options.time_limit())?;
    let before = probe.sample()?;
    let mut waves = Vec::new();
    for wave in 1..=options.waves {
        swarm.connect(&mut |_, _| {})?;
        let connected = settle(&mut swarm, &probe)?;
        swarm.disconnect();
        waves.push([connected, settle(&mut swarm, &probe)?]);
        let done = wave as f64 / options.waves as f64;
        progress(done, &format!("wave {wave} of {} connected and disconnected", options.waves));
    }
    let connect_s = swarm.connect(progress)?.as_secs_f64();
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
        burst_deliveries_duplicate: swarm.tally().duplicates(),
        connections_dropped: swarm.tally().dropped,
        ..report
    })
}

/// The server after a burst of large events, once everybody has them.
fn burst(options: &FanoutOptions, swarm: &mut Swarm, probe: &Probe) -> anyhow::Result<Sample> {
    swarm.begin();
    let mut publishers = Publishers::open(swarm.plan(), swarm.registry())?;
    publishers.pad(options.burst_bytes);
    run::publish_each(10 * options.topics, swarm, &mut publishers)?;
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
    let mut publishers = Publishers::open(swarm.plan(), swarm.registry())?;
    let (server_cpu, own_cpu) = (probe.server_cpu()?, probe::own_cpu());
    let started = Instant::now();
    let late = run::publish(&options.pace(), swarm, &mut publishers, progress)?;
    run::drain(swarm, &mut publishers)?;
    let (elapsed, spent) = (started.elapsed(), |from, to: Option<Duration>| Some(to? - from?));
    let own_cpu: Option<Duration> = spent(own_cpu, probe::own_cpu());
    Ok(Window {
        late,
        length: swarm.last_delivery().duration_since(started),
        server_cpu: spent(server_cpu, probe.server_cpu()?),
        generator_cpu_share: own_cpu.map(|cpu| cpu.as_secs_f64() / elapsed.as_secs_f64()),
    })
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
        address: options.address.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(","),
        nodes: swarm.nodes(),
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
        deliveries_duplicate: tally.duplicates(),
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
        burst_deliveries_duplicate: 0,
        rss_burst_per_connection_kib: None,
        tcp_mem_idle_per_connection_kib: idle.tcp_mem_growth_kib(before, options.connections),
        tcp_mem_before_pages: before.tcp_mem_pages,
        tcp_mem_idle_pages: idle.tcp_mem_pages,
        tcp_mem_after_pages: after.tcp_mem_pages,
    }
}
