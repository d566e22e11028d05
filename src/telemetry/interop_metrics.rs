use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The metrics of what is exchanged with services that publish on Redis themselves.
#[derive(Debug)]
pub struct InteropMetrics {
    ingested: Counter,
    refused: Family<Reason, Counter>,
    dropped: Family<Reason, Counter>,
    ingests: Gauge,
    takeovers: Counter,
    gap_seconds: Counter<f64, AtomicU64>,
    mirrored: Counter,
    mirror_refused: Counter,
}

impl InteropMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let own = InteropMetrics {
            ingested: Counter::default(),
            refused: Family::default(),
            dropped: Family::default(),
            ingests: Gauge::default(),
            takeovers: Counter::default(),
            gap_seconds: Counter::default(),
            mirrored: Counter::default(),
            mirror_refused: Counter::default(),
        };
        registry.register("ingested", "Events of other services that entered the log", own.ingested.clone());
        let help = "What other services published and the log does not take";
        registry.register("ingest_refused", help, own.refused.clone());
        let help = "Events of other services that were heard and lost";
        registry.register("ingest_dropped", help, own.dropped.clone());
        registry.register("ingesting", "Whether this node takes in what others publish", own.ingests.clone());
        let help = "Times that this node began to take in what others publish";
        registry.register("ingest_takeovers", help, own.takeovers.clone());
        let help = "Time that no node took in what others publish, told by the next one that did";
        registry.register("ingest_gap_seconds", help, own.gap_seconds.clone());
        registry.register("mirrored", "Events published for other services", own.mirrored.clone());
        let help = "Events that Redis did not let be published for other services";
        registry.register("mirror_refused", help, own.mirror_refused.clone());
        own
    }

    /// Reasons that begin at 0.
    pub fn name_reasons(&self, refused: &[&'static str], dropped: &[&'static str]) {
        for (family, reasons) in [(&self.refused, refused), (&self.dropped, dropped)] {
            for reason in reasons {
                family.get_or_create_owned(&Reason { reason });
            }
        }
    }

    /// So many events have entered the log.
    pub fn ingested(&self, count: u64) {
        self.ingested.inc_by(count);
    }

    /// Something that was published does not enter the log.
    pub fn refused(&self, reason: &'static str, count: u64) {
        self.refused.get_or_create_owned(&Reason { reason }).inc_by(count);
    }

    /// So many events were heard and are lost.
    pub fn dropped(&self, reason: &'static str, count: u64) {
        self.dropped.get_or_create_owned(&Reason { reason }).inc_by(count);
    }

    /// This node begins to hear what others publish; `gap` is how long no node did before.
    pub fn takes_over(&self, gap: Duration) {
        self.ingests.set(1);
        self.takeovers.inc();
        self.gap_seconds.inc_by(gap.as_secs_f64());
    }

    /// This node does not hear it any more.
    pub fn lets_go(&self) {
        self.ingests.set(0);
    }

    /// So many events were published for others, and so many could not be.
    pub fn mirrored(&self, published: u64, refused: u64) {
        self.mirrored.inc_by(published);
        self.mirror_refused.inc_by(refused);
    }
}
