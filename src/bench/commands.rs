//! A command's way to clients: readings of carbon intensity over HTTP to one node, heard from another one.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;

use super::fanout_report::{Latency, write_rows};
use super::figures::Spread;
use super::peer::Peer;
use super::plan::{CONNECTING_MAX, Plan, Work};
use super::publisher::Publishers;
use super::round_trip::RoundTrip;
use super::run::{self, Pace};
use super::swarm::Swarm;
use super::{Progress, Transport};

/// Where commands go, who hears of them, and what stands beside.
#[derive(Clone, clap::Args)]
pub struct CommandsOptions {
    /// Node that takes the commands, IP:PORT.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub address: SocketAddr,

    /// Node that the clients listen to, IP:PORT [default: --address].
    #[arg(long)]
    pub listen_address: Option<SocketAddr>,

    /// Another server to measure in turns, for instance one without a cluster, IP:PORT [default: none].
    #[arg(long)]
    pub beside: Option<SocketAddr>,

    /// Redis to measure the floor by, in turns: one HTTP exchange and one message through it, IP:PORT [default: none].
    #[arg(long)]
    pub redis: Option<SocketAddr>,

    /// How to listen.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    pub transport: Transport,

    /// Clients that hear of every command.
    #[arg(long, default_value_t = 16)]
    pub connections: usize,

    /// Commands per second.
    #[arg(long, default_value_t = 20.0)]
    pub rate_per_s: f64,

    /// Seconds of each round, of each that is measured.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,

    /// Rounds, in each of which everything is measured once.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,

    /// Fleet whose intensity is reported.
    #[arg(long, default_value = "FLT-BENCH")]
    pub fleet: String,

    /// API key with scopes publish and subscribe [default: none].
    #[arg(long, env = "BONGSU_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// API key for --beside [default: --api-key].
    #[arg(long, env = "BONGSU_BESIDE_API_KEY", hide_env_values = true)]
    pub beside_api_key: Option<String>,
}

/// Written by hand so that the API keys stay out of logs.
impl fmt::Debug for CommandsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandsOptions")
            .field("address", &self.address)
            .field("listen_address", &self.listen_address)
            .field("rate_per_s", &self.rate_per_s)
            .finish_non_exhaustive()
    }
}

impl CommandsOptions {
    fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=1000).contains(&self.rounds), "--rounds must be from 1 to 1000");
        ensure!((0.01..=86_400.0).contains(&self.seconds), "--seconds must be from 0.01 to 86400");
        ensure!((0.1..=1e6).contains(&self.rate_per_s), "--rate-per-s must be from 0.1 to 1000000");
        self.plan(self.address, self.address, &self.api_key).check()
    }

    fn plan(&self, address: SocketAddr, listen: SocketAddr, api_key: &Option<String>) -> Plan {
        Plan {
            addresses: vec![listen],
            publish_address: address,
            peer: Peer::Bongsu,
            transport: self.transport,
            work: Work::Readings,
            path: None,
            api_key: api_key.clone(),
            topics: vec![self.fleet.clone()],
            connections: self.connections,
            at_once: CONNECTING_MAX,
            waves: 1,
            resets: false,
            publishers: 1,
            payload_bytes: 0,
        }
    }

    fn pace(&self) -> Pace {
        Pace { rate_per_s: self.rate_per_s, seconds: self.seconds, ahead: 1 }
    }

    /// When the whole run must be over, however the servers behave.
    fn time_limit(&self) -> Duration {
        let all = 60.0 + self.rounds as f64 * 3.0 * (self.seconds + 10.0);
        Duration::from_secs_f64(all)
    }
}

/// What was measured of one server, or of the floor, in all rounds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Way {
    /// What it is: `nodes`, `beside` or `floor`.
    pub name: &'static str,
    /// Where commands went.
    pub address: String,
    /// Where the clients listened; of the floor, Redis.
    pub listen_address: String,
    /// Commands sent.
    pub commands: u64,
    /// Commands sent more than one period behind schedule.
    pub commands_late: u64,
    /// Deliveries that never came, counted client by client.
    pub deliveries_lost: u64,
    /// Frames that a client had before.
    pub deliveries_duplicate: u64,
    /// Round by round, from when the command was due to each client's frame.
    pub rounds: Vec<Latency>,
}

impl Way {
    fn new(name: &'static str, address: SocketAddr, listen: SocketAddr) -> Self {
        let (address, listen_address) = (address.to_string(), listen.to_string());
        Way { name, address, listen_address, ..Way::default() }
    }

    /// A percentile of every round.
    fn each(&self, pick: fn(&Latency) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(pick))
    }
}

/// Medians of a way and of what stands beside it, round by round.
#[derive(Debug, Clone, Serialize)]
pub struct CommandsReport {
    /// Clients that heard of every command.
    pub connections: usize,
    /// Commands per second.
    pub rate_per_s: f64,
    /// Seconds of each round.
    pub seconds: f64,
    /// What was measured; the nodes first.
    pub ways: Vec<Way>,
    /// Deliveries that never came, of all ways.
    pub deliveries_lost: u64,
    /// Frames that came twice, of all ways.
    pub deliveries_duplicate: u64,
    /// Medians of the nodes, ms.
    pub p50_ms: Option<Spread>,
    /// 99th percentiles of the nodes, ms.
    pub p99_ms: Option<Spread>,
}

impl CommandsReport {
    /// The figures as lines of text, one way to a line.
    pub fn table(&self) -> String {
        let row = |way: &Way| {
            let text = format!(
                "p50 {}, p99 {} ms; {} commands, {} late, {} lost, {} twice",
                Spread::text(way.each(|latency| latency.p50_ms), 2),
                Spread::text(way.each(|latency| latency.p99_ms), 2),
                way.commands,
                way.commands_late,
                way.deliveries_lost,
                way.deliveries_duplicate
            );
            (way.name, text)
        };
        let mut out = String::new();
        write_rows(&mut out, &self.ways.iter().map(row).collect::<Vec<_>>());
        out
    }
}

/// Something that is measured.
enum Subject {
    /// With its clients, which stay over all rounds.
    Servers(Box<Swarm>),
    /// A node, and Redis.
    Floor(SocketAddr, SocketAddr),
}

/// Runs the measurement on the calling thread.
///
/// # Errors
///
/// When a server refuses a client or a command, goes away or takes too long, or when an option makes no
/// sense. Deliveries that are lost are no error: the report counts them.
pub fn commands(options: &CommandsOptions, progress: &mut Progress<'_>) -> anyhow::Result<CommandsReport> {
    options.check()?;
    let mut subjects = open(options)?;
    for number in 0..options.rounds {
        progress(
            number as f64 / options.rounds as f64,
            &format!("round {} of {}", number + 1, options.rounds),
        );
        // The order alternates, so that what drifts on the machine does not favour one of them.
        let mut turn: Vec<_> = subjects.iter_mut().collect();
        if number % 2 == 1 {
            turn.reverse();
        }
        for (way, subject) in turn {
            measure(options, way, subject)?;
        }
    }
    let ways: Vec<Way> = subjects.into_iter().map(|(way, _)| way).collect();
    Ok(CommandsReport {
        connections: options.connections,
        rate_per_s: options.rate_per_s,
        seconds: options.seconds,
        deliveries_lost: ways.iter().map(|way| way.deliveries_lost).sum(),
        deliveries_duplicate: ways.iter().map(|way| way.deliveries_duplicate).sum(),
        p50_ms: ways[0].each(|latency| latency.p50_ms),
        p99_ms: ways[0].each(|latency| latency.p99_ms),
        ways,
    })
}

fn open(options: &CommandsOptions) -> anyhow::Result<Vec<(Way, Subject)>> {
    let deadline = Instant::now() + options.time_limit();
    let servers = |name, address: SocketAddr, listen: SocketAddr, key| {
        let mut swarm = Swarm::new(options.plan(address, listen, key), deadline)?;
        swarm.connect(&mut |_, _| {})?;
        anyhow::Ok((Way::new(name, address, listen), Subject::Servers(Box::new(swarm))))
    };
    let listen = options.listen_address.unwrap_or(options.address);
    let mut subjects = vec![servers("nodes", options.address, listen, &options.api_key)?];
    if let Some(address) = options.beside {
        let key = if options.beside_api_key.is_some() { &options.beside_api_key } else { &options.api_key };
        subjects.push(servers("beside", address, address, key)?);
    }
    if let Some(redis) = options.redis {
        let floor = Subject::Floor(options.address, redis);
        subjects.push((Way::new("floor", options.address, redis), floor));
    }
    Ok(subjects)
}

fn measure(options: &CommandsOptions, way: &mut Way, subject: &mut Subject) -> anyhow::Result<()> {
    let latency = match subject {
        Subject::Servers(swarm) => {
            swarm.begin();
            let mut publishers = Publishers::open(swarm.plan(), swarm.registry())?;
            way.commands_late += run::publish(&options.pace(), swarm, &mut publishers, &mut |_, _| {})?;
            run::drain(swarm, &mut publishers)?;
            way.commands += swarm.tally().published;
            way.deliveries_lost += swarm.lost();
            way.deliveries_duplicate += swarm.tally().duplicates();
            Latency::of(swarm.tally().latencies_us.clone())
        }
        Subject::Floor(node, redis) => {
            let times = floor_times(options, &mut RoundTrip::open(*node, *redis)?)?;
            way.commands += times.len() as u64;
            Latency::of(times)
        }
    };
    way.rounds.extend(latency);
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pace of the floor is kept by sleeping; nothing else is to be done"
)]
fn floor_times(options: &CommandsOptions, floor: &mut RoundTrip) -> anyhow::Result<Vec<u32>> {
    let (started, mut times) = (Instant::now(), Vec::new());
    for number in 0..(options.rate_per_s * options.seconds) as u32 {
        let due = started + Duration::from_secs_f64(f64::from(number) / options.rate_per_s);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        times.push(floor.take()?.as_micros() as u32);
    }
    Ok(times)
}
