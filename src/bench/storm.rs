//! Everybody drops at once, as when a network goes away, and comes back: with a cursor from before what they
//! missed, and without one.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::figures::{self, Counts, Spread};
use super::peer::Peer;
use super::plan::{CONNECTING_MAX, Plan, Work, topics};
use super::probe::own_cpu;
use super::publisher::Publishers;
use super::run::{drain, publish_each};
use super::storm_report::{Round, StormReport, Turn};
use super::swarm::Swarm;
use super::{Progress, Transport};
use crate::domain::Position;

/// How long the nodes' own housekeeping is counted.
const IDLE: Duration = Duration::from_secs(2);

/// Who drops, how often, and what they miss.
#[derive(Clone, clap::Args)]
pub struct StormOptions {
    /// Server address, IP:PORT; several, separated by commas, are nodes over which the clients are spread.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:8080")]
    pub address: Vec<SocketAddr>,

    /// Nodes that the clients come back to [default: those of --address].
    #[arg(long, value_delimiter = ',')]
    pub to: Vec<SocketAddr>,

    /// The `metrics.bind` of every node, for what they count [default: none].
    #[arg(long, value_delimiter = ',')]
    pub metrics: Vec<SocketAddr>,

    /// Where to publish, IP:PORT [default: the first --address].
    #[arg(long)]
    pub publish_address: Option<SocketAddr>,

    /// How to listen.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    pub transport: Transport,

    /// Connections to hold; they need as many open files (`ulimit -n`) here and in the servers.
    #[arg(long, default_value_t = 10_000)]
    pub connections: usize,

    /// Clients that may be on their way back at a time.
    #[arg(long, default_value_t = CONNECTING_MAX)]
    pub at_once: usize,

    /// Events published before each drop: how old the cursors are.
    #[arg(long, default_value_t = 1000)]
    pub events: usize,

    /// Of those, how many each client listens to.
    #[arg(long, default_value_t = 10)]
    pub matching: usize,

    /// Rounds, each with and without a cursor, in turns.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,

    /// API key, sent as X-API-Key on the streams and on every publish [default: none].
    #[arg(long, env = "BONGSU_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// What the topics begin with.
    #[arg(long, default_value = "topic:storm")]
    pub topic: String,

    /// Connections to publish over; on each the next publish waits for the answer to the previous.
    #[arg(long, default_value_t = 8)]
    pub publishers: usize,

    /// Bytes of padding in the data of each event.
    #[arg(long, default_value_t = 128)]
    pub payload_bytes: usize,
}

/// Written by hand so that the API key stays out of logs.
impl fmt::Debug for StormOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StormOptions")
            .field("address", &self.address)
            .field("connections", &self.connections)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

impl StormOptions {
    fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=1000).contains(&self.rounds), "--rounds must be from 1 to 1000");
        ensure!((1..=100_000).contains(&self.events), "--events must be from 1 to 100000");
        ensure!(
            self.matching >= 1 && self.events.is_multiple_of(self.matching),
            "--events must be a multiple of --matching"
        );
        self.plan().check()
    }

    /// Each event is of one topic, each client listens to one: so there are as many topics as makes
    /// `matching` of the events come to each.
    fn plan(&self) -> Plan {
        Plan {
            addresses: self.address.clone(),
            publish_address: self.publish_address.unwrap_or(self.address[0]),
            peer: Peer::Bongsu,
            transport: self.transport,
            work: Work::Events,
            path: None,
            api_key: self.api_key.clone(),
            topics: topics(&self.topic, self.events / self.matching.max(1)),
            connections: self.connections,
            at_once: self.at_once,
            waves: 1,
            resets: true,
            publishers: self.publishers,
            payload_bytes: self.payload_bytes,
        }
    }

    fn back_to(&self) -> &[SocketAddr] {
        if self.to.is_empty() { &self.address } else { &self.to }
    }

    /// When the whole run must be over, however the server behaves.
    fn time_limit(&self) -> Duration {
        let (connecting, publishing) = (30 + self.connections / 500, 30 + self.events / 50);
        Duration::from_secs((1 + self.rounds * 4) as u64 * (connecting + publishing) as u64)
    }
}

/// How clients come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Listening from the present on.
    Plain,
    /// Resuming from before what they missed.
    Storm,
}

/// Runs the measurement on the calling thread.
///
/// # Errors
///
/// When the server refuses a client or a publish, closes one or takes too long, when somebody else publishes
/// to the tenant, when the limit of open files or the local ports do not suffice, or when an option makes no
/// sense. What clients miss or get twice is no error: the report counts it.
pub fn storm(options: &StormOptions, progress: &mut Progress<'_>) -> anyhow::Result<StormReport> {
    options.check()?;
    let mut swarm = Swarm::new(options.plan(), Instant::now() + options.time_limit())?;
    swarm.connect(progress)?;
    let before = figures::read(&options.metrics)?;
    swarm.pump_for(IDLE)?;
    let idle = figures::read(&options.metrics)?.zip(before).map(|(after, before)| after.since(before));
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        progress(
            number as f64 / options.rounds as f64,
            &format!("round {} of {}", number + 1, options.rounds),
        );
        let mut take = |kind| turn(options, kind, &mut swarm);
        // The order alternates, so that what drifts on the machine does not favour one of them.
        let (plain, storm) = if number % 2 == 0 {
            let plain = take(Kind::Plain)?;
            (plain, take(Kind::Storm)?)
        } else {
            let storm = take(Kind::Storm)?;
            (take(Kind::Plain)?, storm)
        };
        rounds.push(Round { ratio: storm.seconds / plain.seconds, plain, storm });
    }
    Ok(report(options, rounds, idle))
}

/// Publishes to those who listen, drops them all, and measures until they are back and have what they missed.
fn turn(options: &StormOptions, kind: Kind, swarm: &mut Swarm) -> anyhow::Result<Turn> {
    let cursor = publish(options, swarm)?;
    let (live_lost, live_duplicates) = (swarm.lost(), swarm.tally().duplicates());
    let published = swarm.tally().published_on.clone();
    let before = figures::read(&options.metrics)?;
    swarm.disconnect();
    match kind {
        Kind::Plain => swarm.aim(options.back_to()),
        Kind::Storm => swarm.aim_from(options.back_to(), cursor, &published),
    }
    let (started, cpu) = (Instant::now(), own_cpu());
    let connected = swarm.connect(&mut |_, _| {})?;
    let mut nobody = Publishers::none();
    drain(swarm, &mut nobody)?;
    let seconds = swarm.last_delivery().saturating_duration_since(started).max(connected).as_secs_f64();
    let cpu = own_cpu().zip(cpu).map(|(after, before)| (after - before).as_secs_f64() / seconds);
    let counts = figures::read(&options.metrics)?.zip(before).map(|(after, before)| after.since(before));
    let tally = swarm.tally();
    let turn = Turn {
        seconds,
        connect_s: connected.as_secs_f64(),
        expected: tally.expected,
        received: tally.received,
        gaps: swarm.lost(),
        duplicates: tally.duplicates(),
        unrecovered: tally.unrecovered,
        live_gaps: live_lost,
        live_duplicates,
        generator_cpu_share: cpu,
        counts,
        counted_s: started.elapsed().as_secs_f64(),
    };
    if !options.to.is_empty() {
        swarm.disconnect();
        swarm.aim(&options.address);
        swarm.connect(&mut |_, _| {})?;
    }
    Ok(turn)
}

/// Publishes one turn's events; the position before them.
fn publish(options: &StormOptions, swarm: &mut Swarm) -> anyhow::Result<Position> {
    swarm.begin();
    let mut publishers = Publishers::open(swarm.plan(), swarm.registry())?;
    publish_each(options.events, swarm, &mut publishers)?;
    let positions = publishers.take_positions();
    let (Some(first), Some(last)) = (positions.first(), positions.last()) else {
        bail!("the server does not say which positions the events have");
    };
    if first.epoch != last.epoch || (last.seq - first.seq + 1) as usize != options.events {
        bail!(
            "somebody else publishes to this tenant, so the cursors would not be {} events old",
            options.events
        );
    }
    Ok(Position { seq: first.seq - 1, ..*first })
}

fn report(options: &StormOptions, rounds: Vec<Round>, idle: Option<Counts>) -> StormReport {
    let spread = |pick: fn(&Round) -> Option<f64>| Spread::of(rounds.iter().filter_map(pick));
    let sum =
        |pick: fn(&Turn) -> u64| rounds.iter().map(|round| pick(&round.plain) + pick(&round.storm)).sum();
    let reads = |turn: &Turn| turn.counts.map(|counts| counts.store_reads);
    StormReport {
        addresses: options.address.iter().map(SocketAddr::to_string).collect(),
        to: options.back_to().iter().map(SocketAddr::to_string).collect(),
        transport: format!("{:?}", options.transport).to_lowercase(),
        connections: options.connections,
        at_once: options.at_once,
        events: options.events,
        matching: options.matching,
        plain_s: spread(|round| Some(round.plain.seconds)),
        storm_s: spread(|round| Some(round.storm.seconds)),
        ratio: spread(|round| Some(round.ratio)),
        gaps: sum(|turn| turn.gaps + turn.live_gaps),
        duplicates: sum(|turn| turn.duplicates + turn.live_duplicates),
        unrecovered: sum(|turn| turn.unrecovered as u64),
        store_reads: rounds.iter().map(|round| reads(&round.storm)).sum(),
        redis_commands_per_s_idle: idle.map(|idle| idle.redis_commands as f64 / IDLE.as_secs_f64()),
        redis_commands_per_s_plain: spread(|round| round.plain.commands_per_s()),
        redis_commands_per_s_storm: spread(|round| round.storm.commands_per_s()),
        generator_cpu_share_plain: spread(|round| round.plain.generator_cpu_share),
        generator_cpu_share_storm: spread(|round| round.storm.generator_cpu_share),
        rounds,
    }
}
