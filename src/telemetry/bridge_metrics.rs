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

/// A master is heard for as long as this is kept.
pub struct Heard(Gauge);

impl Drop for Heard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The metrics of a cluster's bus.
#[derive(Debug)]
pub struct BridgeMetrics {
    linked: Family<Link, Gauge>,
    masters: Gauge,
    layouts: Counter,
    carried: Counter,
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
            masters: Gauge::default(),
            layouts: Counter::default(),
            carried: Counter::default(),
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
        registry.register("redis_linked", "Masters of Redis to which a link stands", own.linked.clone());
        registry.register("redis_masters", "Masters of Redis", own.masters.clone());
        let help = "Times that the masters of Redis, or their slots, became others";
        registry.register("redis_layouts", help, own.layouts.clone());
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
        let help = "Publishes that a former master had taken alone, and that were appended again";
        counter("log_carried", help, &own.carried);
        let help = "Events that the ceiling of a log removed before retention did";
        counter("log_cut_short", help, &own.cut_short);
        own
    }

    /// So many events left a log because it had grown to twice what retention keeps.
    pub fn cut_short(&self, count: u64) {
        self.cut_short.inc_by(count);
    }

    /// To so many masters a link stands.
    pub fn linked(&self, link: &'static str, count: usize) {
        self.linked.get_or_create_owned(&Link { link }).set(count as i64);
    }

    /// A link was made.
    pub fn relinked(&self, link: &'static str) {
        self.relinks.get_or_create_owned(&Link { link }).inc();
    }

    /// A master is heard, until what is returned is dropped.
    pub fn hears(&self) -> Heard {
        self.relinked("subscriber");
        let linked = self.linked.get_or_create_owned(&Link { link: "subscriber" });
        linked.inc();
        Heard(linked)
    }

    /// So many publishes that a former master had taken were appended again.
    pub fn carried(&self, count: usize) {
        self.carried.inc_by(count as u64);
    }

    /// There are so many masters.
    pub fn masters(&self, count: usize) {
        self.masters.set(count as i64);
    }

    /// They, or their slots, have become others.
    pub fn other_masters(&self, count: usize) {
        self.layouts.inc();
        self.masters(count);
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
