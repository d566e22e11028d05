//! What a storm found, for people and for scripts.

use serde::Serialize;

use super::fanout_report::write_rows;
use super::figures::{Counts, Spread};

/// One time that everybody dropped and came back.
#[derive(Debug, Clone, Serialize)]
pub struct Turn {
    /// From the first connect until all were ready and had what they missed.
    pub seconds: f64,
    /// From the first connect until all were ready.
    pub connect_s: f64,
    /// Missed events, times the clients that missed each.
    pub expected: u64,
    /// Of those, received.
    pub received: u64,
    /// Those that never came, counted connection by connection.
    pub gaps: u64,
    /// Frames that a client had before, or that were none of its missed events.
    pub duplicates: u64,
    /// Clients that were told that their cursor cannot be honoured.
    pub unrecovered: usize,
    /// Deliveries that never came while the events were published, before the drop.
    pub live_gaps: u64,
    /// Frames that came twice then.
    pub live_duplicates: u64,
    /// Share of one core the generator used; near 1 it was the bottleneck itself.
    pub generator_cpu_share: Option<f64>,
    /// What the nodes counted from before the drop until everybody was back.
    pub counts: Option<Counts>,
    /// How long that was.
    pub counted_s: f64,
}

impl Turn {
    pub(super) fn commands_per_s(&self) -> Option<f64> {
        self.counts.map(|counts| counts.redis_commands as f64 / self.counted_s)
    }
}

/// Coming back without a cursor and with one.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Without.
    pub plain: Turn,
    /// With.
    pub storm: Turn,
    /// Seconds with ÷ seconds without.
    pub ratio: f64,
}

/// The figures of a storm. Those that the nodes count are absent without their metrics' addresses.
#[derive(Debug, Clone, Serialize)]
pub struct StormReport {
    /// Nodes that the clients listened to.
    pub addresses: Vec<String>,
    /// Nodes that they came back to.
    pub to: Vec<String>,
    /// How they listened.
    pub transport: String,
    /// Clients.
    pub connections: usize,
    /// Clients that were on their way back at a time.
    pub at_once: usize,
    /// Events published before each drop.
    pub events: usize,
    /// Of those, how many each client listened to.
    pub matching: usize,
    /// Seconds without a cursor.
    pub plain_s: Option<Spread>,
    /// Seconds with a cursor from before the events.
    pub storm_s: Option<Spread>,
    /// With ÷ without, round by round.
    pub ratio: Option<Spread>,
    /// Deliveries that never came, live or replayed.
    pub gaps: u64,
    /// Frames that came twice or to somebody who did not miss them.
    pub duplicates: u64,
    /// Clients that were told that their cursor cannot be honoured.
    pub unrecovered: u64,
    /// Pages that storms read from the store because they were not in a window.
    pub store_reads: Option<u64>,
    /// Commands to Redis while nobody came or went: the nodes' housekeeping.
    pub redis_commands_per_s_idle: Option<f64>,
    /// The same while everybody came back without a cursor.
    pub redis_commands_per_s_plain: Option<Spread>,
    /// The same while everybody came back with one.
    pub redis_commands_per_s_storm: Option<Spread>,
    /// Share of one core the generator used without a cursor; near 1 it was the bottleneck itself.
    pub generator_cpu_share_plain: Option<Spread>,
    /// The same with one.
    pub generator_cpu_share_storm: Option<Spread>,
    /// Round by round.
    pub rounds: Vec<Round>,
}

impl StormReport {
    /// The figures as lines of text, one or a few to a line, with their units.
    pub fn table(&self) -> String {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        let reads = self.store_reads.map_or("-".to_owned(), |reads| reads.to_string());
        let rows = [
            (
                "clients",
                format!(
                    "{} over {}, from {} nodes to {}, {} on their way at a time",
                    self.connections,
                    self.transport,
                    self.addresses.len(),
                    self.to.len(),
                    self.at_once
                ),
            ),
            (
                "missed",
                format!("{} of {} events each, {} rounds", self.matching, self.events, self.rounds.len()),
            ),
            ("plain reconnect", format!("{} s", Spread::text(self.plain_s, 3))),
            ("storm", format!("{} s", Spread::text(self.storm_s, 3))),
            ("storm ÷ plain", Spread::text(self.ratio, 2)),
            (
                "wrong",
                format!(
                    "{} gaps, {} duplicates, {} not recovered",
                    self.gaps, self.duplicates, self.unrecovered
                ),
            ),
            ("store reads", reads),
            (
                "Redis commands per s",
                format!(
                    "idle {}, plain {}, storm {}",
                    number(self.redis_commands_per_s_idle),
                    Spread::text(self.redis_commands_per_s_plain, 1),
                    Spread::text(self.redis_commands_per_s_storm, 1)
                ),
            ),
            (
                "generator's core",
                format!(
                    "plain {}, storm {}",
                    Spread::text(self.generator_cpu_share_plain, 2),
                    Spread::text(self.generator_cpu_share_storm, 2)
                ),
            ),
        ];
        let mut out = String::new();
        write_rows(&mut out, &rows);
        out
    }
}
