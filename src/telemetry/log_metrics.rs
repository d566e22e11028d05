use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::metrics::{GaugeF64, Reason, Tenant, latency};

/// Why an append was refused.
const REFUSED: [&str; 2] = ["unavailable", "overloaded"];

/// Those of the logs, their local windows, and the outbox.
#[derive(Debug)]
pub struct LogMetrics {
    head: Family<Tenant, Gauge>,
    commits: Counter,
    commit_seconds: Histogram,
    refused: Family<Reason, Counter>,
    trimmed: Counter,
    store_reads: Counter,
    window_events: Gauge,
    window_bytes: Gauge,
    outbox_waiting: Gauge,
    outbox_lag_seconds: GaugeF64,
    outbox_published: Counter,
    outbox_dead: Counter,
}

impl LogMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let own = LogMetrics {
            head: Family::default(),
            commits: Counter::default(),
            commit_seconds: latency(),
            refused: Family::default(),
            trimmed: Counter::default(),
            store_reads: Counter::default(),
            window_events: Gauge::default(),
            window_bytes: Gauge::default(),
            outbox_waiting: Gauge::default(),
            outbox_lag_seconds: GaugeF64::default(),
            outbox_published: Counter::default(),
            outbox_dead: Counter::default(),
        };
        registry.register("log_head", "Number of the newest event of a tenant's log", own.head.clone());
        registry.register("log_commits", "Transactions of the log", own.commits.clone());
        registry.register("log_commit_seconds", "Duration of a log transaction", own.commit_seconds.clone());
        registry.register("log_refused", "Appends refused", own.refused.clone());
        registry.register("log_trimmed", "Events trimmed from the log", own.trimmed.clone());
        let reads = "Pages read from the database for a replay";
        registry.register("log_store_reads", reads, own.store_reads.clone());
        registry.register("window_events", "Events in the local windows", own.window_events.clone());
        registry.register("window_bytes", "Bytes in the local windows", own.window_bytes.clone());
        let waiting = "Outbox rows that wait for the log";
        registry.register("outbox_waiting", waiting, own.outbox_waiting.clone());
        let lag = "Age of the oldest waiting outbox row";
        registry.register("outbox_lag_seconds", lag, own.outbox_lag_seconds.clone());
        let published = "Outbox rows appended to the log";
        registry.register("outbox_published", published, own.outbox_published.clone());
        let dead = "Outbox rows that the log refused for good";
        registry.register("outbox_dead", dead, own.outbox_dead.clone());
        // known from the beginning instead of missing until the first time
        for reason in REFUSED {
            own.refused.get_or_create_owned(&Reason { reason });
        }
        own
    }

    /// A tenant's log has a new head.
    pub fn head(&self, tenant: &str, head: u64) {
        let head = i64::try_from(head).unwrap_or(i64::MAX);
        self.head.get_or_create(&Tenant { tenant: tenant.to_owned() }).set(head);
    }

    /// A transaction took this many seconds.
    pub fn committed(&self, seconds: f64) {
        self.commits.inc();
        self.commit_seconds.observe(seconds);
    }

    /// An append was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// Appends refused, for whatever reason.
    pub(super) fn refusals(&self) -> u64 {
        REFUSED.iter().map(|reason| self.refused.get_or_create(&Reason { reason }).get()).sum()
    }

    /// Events left a log.
    pub fn trimmed(&self, count: u64) {
        self.trimmed.inc_by(count);
    }

    /// A page of a replay came from the database.
    pub fn store_read(&self) {
        self.store_reads.inc();
    }

    /// Sizes of the local windows.
    pub fn window(&self, events: usize, bytes: usize) {
        self.window_events.set(events as i64);
        self.window_bytes.set(bytes as i64);
    }

    /// How the outbox stands.
    pub fn outbox(&self, waiting: i64, lag_seconds: f64) {
        self.outbox_waiting.set(waiting);
        self.outbox_lag_seconds.set(lag_seconds);
    }

    /// Outbox rows were appended.
    pub fn outbox_published(&self, count: u64) {
        self.outbox_published.inc_by(count);
    }

    /// An outbox row went dead.
    pub fn outbox_dead(&self) {
        self.outbox_dead.inc();
    }
}
