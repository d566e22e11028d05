use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::metrics::latency;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Link {
    link: &'static str,
}

/// The metrics of a cluster's bus.
#[derive(Debug)]
pub struct BridgeMetrics {
    linked: Family<Link, Gauge>,
    relinks: Family<Link, Counter>,
    command_seconds: Histogram,
    messages: Counter,
    bytes: Counter,
    malformed: Counter,
    fills: Counter,
    renewals: Counter,
    losses: Counter,
    leads: Gauge,
    leaderships: Counter,
    fenced: Counter,
    cut_short: Counter,
}

impl BridgeMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let own = BridgeMetrics {
            linked: Family::default(),
            relinks: Family::default(),
            command_seconds: latency(),
            messages: Counter::default(),
            bytes: Counter::default(),
            malformed: Counter::default(),
            fills: Counter::default(),
            renewals: Counter::default(),
            losses: Counter::default(),
            leads: Gauge::default(),
            leaderships: Counter::default(),
            fenced: Counter::default(),
            cut_short: Counter::default(),
        };
        registry.register("redis_linked", "Whether a link to Redis stands", own.linked.clone());
        registry.register("redis_relinks", "Links to Redis made", own.relinks.clone());
        registry.register("redis_command_seconds", "Calls to Redis", own.command_seconds.clone());
        registry.register("leader", "Whether this node publishes the outbox", own.leads.clone());
        let mut counter = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
        counter("bus_messages", "Messages heard from the bus", &own.messages);
        counter("bus_bytes", "Bytes of messages heard from the bus", &own.bytes);
        counter("bus_malformed", "Messages of the bus that could not be read", &own.malformed);
        counter("log_fills", "Reads of the log for what the bus had not brought", &own.fills);
        counter("log_renewals", "Logs that have started afresh", &own.renewals);
        counter("log_losses", "Logs of which something was gone before this node had it", &own.losses);
        counter("leaderships", "Times that this node became the leader", &own.leaderships);
        counter("fenced", "Appends refused because another node leads by now", &own.fenced);
        let help = "Events that the ceiling of a log removed before retention did";
        counter("log_cut_short", help, &own.cut_short);
        own
    }

    /// So many events left a log because it had grown to twice what retention keeps.
    pub fn cut_short(&self, count: u64) {
        self.cut_short.inc_by(count);
    }

    /// A link has come to stand, or no longer stands.
    pub fn linked(&self, link: &'static str, stands: bool) {
        self.linked.get_or_create_owned(&Link { link }).set(stands.into());
        if stands {
            self.relinks.get_or_create_owned(&Link { link }).inc();
        }
    }

    /// A call to Redis took this long.
    pub fn called(&self, time: Duration) {
        self.command_seconds.observe(time.as_secs_f64());
    }

    /// A message has come from the bus.
    pub fn heard(&self, bytes: usize) {
        self.messages.inc();
        self.bytes.inc_by(bytes as u64);
    }

    /// It could not be read.
    pub fn malformed(&self) {
        self.malformed.inc();
    }

    /// What the bus had not brought is read from the log.
    pub fn filling(&self) {
        self.fills.inc();
    }

    /// A log has started afresh.
    pub fn renewed(&self) {
        self.renewals.inc();
    }

    /// Something was gone before this node had it.
    pub fn lost(&self) {
        self.losses.inc();
    }

    /// This node leads, or does no longer.
    pub fn leads(&self, leads: bool) {
        self.leads.set(leads.into());
        if leads {
            self.leaderships.inc();
        }
    }

    /// An append was refused because another node leads by now.
    pub fn fenced(&self) {
        self.fenced.inc();
    }
}
