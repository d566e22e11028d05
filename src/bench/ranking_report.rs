//! What ranking costs, for people and for scripts.

use serde::Serialize;

use super::fanout_report::{Latency, write_rows};
use super::figures::Spread;

/// One proposal ranked anew in a bid of this size, µs a change; medians of rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Reranked {
    /// Proposals in the bid.
    pub proposals: usize,
    /// Changes in each round.
    pub changes: usize,
    /// By the bid's ranking.
    pub ranking_us: Option<Spread>,
    /// By sorting all of it.
    pub sorting_us: Option<Spread>,
    /// By `ZADD` and `ZREVRANK`, in one round trip.
    pub redis_us: Option<Spread>,
    /// Sorting ÷ ranking, round by round.
    pub sorting_ratio: Option<Spread>,
    /// Redis ÷ ranking.
    pub redis_ratio: Option<Spread>,
    /// Changes after which the ways did not agree on the rank.
    pub ranks_wrong: u64,
}

/// What one server took in one round, into a bid of that round.
#[derive(Debug, Clone, Serialize)]
pub struct Taken {
    /// Proposals accepted.
    pub accepted: u64,
    /// From the first one sent to the last answer.
    pub seconds: f64,
    /// Accepted, each second.
    pub accepted_per_s: f64,
    /// From sending a proposal to its answer.
    pub latency: Latency,
    /// Answers with another rank than replaying the changes gives, rows of the ranking at the end that are not what
    /// sorting gives, and versions that are missing.
    pub ranks_wrong: u64,
}

/// Proposals of so many clients at once into one bid.
#[derive(Debug, Clone, Serialize)]
pub struct Proposed {
    /// Clients, each of which proposes again when it is answered.
    pub clients: usize,
    /// The server, round by round.
    pub server: Vec<Taken>,
    /// The one beside it.
    pub beside: Vec<Taken>,
    /// Accepted each second.
    pub accepted_per_s: Option<Spread>,
    /// Accepted each second by the one beside.
    pub beside_accepted_per_s: Option<Spread>,
    /// The server's ÷ that of the one beside, round by round.
    pub ratio: Option<Spread>,
}

impl Proposed {
    pub(super) fn new(clients: usize, server: Vec<Taken>, beside: Vec<Taken>) -> Self {
        let rates = |own: &[Taken]| Spread::of(own.iter().map(|taken| taken.accepted_per_s));
        let pairs = server.iter().zip(&beside);
        let ratio = Spread::of(pairs.map(|(own, other)| own.accepted_per_s / other.accepted_per_s));
        let (accepted_per_s, beside_accepted_per_s) = (rates(&server), rates(&beside));
        Proposed { clients, server, beside, accepted_per_s, beside_accepted_per_s, ratio }
    }
}

/// What was measured: in process, or of servers.
#[derive(Debug, Clone, Serialize)]
pub struct RankingReport {
    /// In process, by size.
    pub in_process: Vec<Reranked>,
    /// The server that was asked, if one was.
    pub address: Option<String>,
    /// The one beside it.
    pub beside: Option<String>,
    /// Of servers, by the number of clients.
    pub served: Vec<Proposed>,
    /// What was wrong with ranks, all together.
    pub ranks_wrong: u64,
}

impl RankingReport {
    /// The figures as lines of text, one size or one number of clients to a line.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for own in &self.in_process {
            let text = format!(
                "{} µs; sorting {} µs, {} ×; Redis {} µs, {} ×",
                Spread::text(own.ranking_us, 2),
                Spread::text(own.sorting_us, 1),
                Spread::text(own.sorting_ratio, 1),
                Spread::text(own.redis_us, 1),
                Spread::text(own.redis_ratio, 1)
            );
            write_rows(&mut out, &[(&format!("{} proposals", own.proposals), text)]);
        }
        for own in &self.served {
            let latency = |taken: &[Taken], pick: fn(&Latency) -> f64| {
                Spread::text(Spread::of(taken.iter().map(|own| pick(&own.latency))), 1)
            };
            let told = |taken: &[Taken], per_s| {
                format!(
                    "{} accepted/s, p50 {}, p99 {} ms",
                    Spread::text(per_s, 0),
                    latency(taken, |own| own.p50_ms),
                    latency(taken, |own| own.p99_ms)
                )
            };
            let mut text = told(&own.server, own.accepted_per_s);
            if !own.beside.is_empty() {
                let beside = told(&own.beside, own.beside_accepted_per_s);
                text += &format!("; beside {beside}; {} ×", Spread::text(own.ratio, 2));
            }
            write_rows(&mut out, &[(&format!("{} clients", own.clients), text)]);
        }
        write_rows(&mut out, &[("ranks wrong", self.ranks_wrong.to_string())]);
        out
    }
}
