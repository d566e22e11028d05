use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::metrics::latency;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Told {
    event: &'static str,
}

/// The metrics of the rankings of bids.
#[derive(Debug)]
pub struct RankingMetrics {
    actors: Gauge,
    changes: Histogram,
    seconds: Histogram,
    told: Family<Told, Counter>,
}

impl RankingMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let changes = Histogram::new(exponential_buckets(1.0, 2.0, 13));
        let own =
            RankingMetrics { actors: Gauge::default(), changes, seconds: latency(), told: Family::default() };
        registry.register("ranking_actors", "Bids whose ranking is in memory", own.actors.clone());
        registry.register("ranking_batch_changes", "Changes of one transaction", own.changes.clone());
        registry.register(
            "ranking_batch_seconds",
            "Duration of a transaction of changes",
            own.seconds.clone(),
        );
        let help = "Whole rankings and places of proposals that this node has computed for its sessions";
        registry.register("ranking_computed", help, own.told.clone());
        for event in ["whole", "place"] {
            own.told.get_or_create_owned(&Told { event });
        }
        own
    }

    /// A whole ranking (`whole`) or the place of a proposal (`place`) has been computed for sessions of this node.
    pub fn computed(&self, event: &'static str) {
        self.told.get_or_create_owned(&Told { event }).inc();
    }

    /// So many more bids are in memory.
    pub fn actors(&self, more: i64) {
        self.actors.inc_by(more);
    }

    /// A transaction with so many changes took this long.
    pub fn took(&self, changes: usize, time: Duration) {
        self.changes.observe(changes as f64);
        self.seconds.observe(time.as_secs_f64());
    }
}
