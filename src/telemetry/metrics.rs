//! Every metric of an engine, in one place; `docs/metrics.md` says what each means when it moves.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::bridge_metrics::BridgeMetrics;
use super::figures::{Counts, FigureBoard};
use super::interop_metrics::InteropMetrics;
use super::job_metrics::JobMetrics;
use super::limit_metrics::LimitMetrics;
use super::log_metrics::LogMetrics;
use super::mailbox_metrics::{MailboxFamilies, MailboxMetrics};
use super::pool_metrics::{PoolFamilies, PoolMetrics};
use super::process_metrics::ProcessMetrics;
use super::ranking_metrics::RankingMetrics;

/// A function that brings gauges up to date when they are read.
pub type Reading = Box<dyn Fn(&Metrics) + Send>;

pub(super) type GaugeF64 = Gauge<f64, AtomicU64>;

macro_rules! labels {
    ($name:ident { $($field:ident: $type:ty),+ }) => {
        #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        pub(super) struct $name { $(pub(super) $field: $type),+ }
    };
}

labels!(Reason { reason: &'static str });
labels!(Surface { surface: &'static str });
labels!(Outcome { outcome: &'static str });
labels!(ClassLabel { class: &'static str });
labels!(Transport { transport: &'static str });
labels!(Close { transport: &'static str, code: u16, reason: &'static str });
labels!(Connections { transport: &'static str, tenant: String });
labels!(Tenant { tenant: String });
labels!(Actor { actor: &'static str });
labels!(Pool { pool: &'static str });
labels!(Route { route: String, method: String, status: u16 });

const CLASSES: [&str; 3] = ["durable", "latest", "volatile"];
/// Why a frame did not reach its client that should have.
const LOST: [&str; 3] = ["volatile_queue_full", "connection_cut", "worker_busy"];

/// The metrics of one engine; engines in one process do not share them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    readings: Mutex<Vec<ReadingSlot>>,
    connections: Family<Connections, Gauge>,
    connects: Family<Transport, Counter>,
    closes: Family<Close, Counter>,
    published: Family<ClassLabel, Counter>,
    delivered: Counter,
    dropped: Family<Reason, Counter>,
    delivery_seconds: Histogram,
    recoveries: Family<Outcome, Counter>,
    replayed: Counter,
    acks: Counter,
    log: LogMetrics,
    mailboxes: MailboxFamilies,
    pools: PoolFamilies,
    actor_panics: Counter,
    http_seconds: Family<Route, Histogram, fn() -> Histogram>,
    auth_failures: Family<Reason, Counter>,
    jwks_fetches: Family<Outcome, Counter>,
    unavailable_answers: Counter,
    logging_dropped: Counter,
    ignored_fields: Family<Surface, Counter>,
    process: ProcessMetrics,
    figures: FigureBoard,
    limits: LimitMetrics,
    bridge: BridgeMetrics,
    interop: InteropMetrics,
    ranking: RankingMetrics,
    jobs: JobMetrics,
}

struct ReadingSlot(Reading);

impl std::fmt::Debug for ReadingSlot {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Reading")
    }
}

pub(super) fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.5, 14))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("bongsu");
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let metrics = Metrics {
            connections: register!("connections", "Open connections", Family::default()),
            connects: register!("connects", "Connections opened", Family::default()),
            closes: register!(
                "closes",
                "Connections closed, by close code; 0 is a client that left",
                Family::default()
            ),
            published: register!("events_published", "Events accepted", Family::default()),
            delivered: register!("events_delivered", "Frames handed to a socket", Counter::default()),
            dropped: register!("events_dropped", "Frames not handed to a socket", Family::default()),
            delivery_seconds: register!(
                "delivery_seconds",
                "Event accepted to frame handed to its socket",
                latency()
            ),
            recoveries: register!("recoveries", "Connections by what their cursor led to", Family::default()),
            replayed: register!(
                "events_replayed",
                "Events replayed to reconnecting clients",
                Counter::default()
            ),
            acks: register!("acks", "Events that clients acknowledged as shown", Counter::default()),
            log: LogMetrics::new(&mut registry),
            mailboxes: MailboxFamilies::new(&mut registry),
            pools: PoolFamilies::new(&mut registry),
            actor_panics: register!("actor_panics", "Panics caught in actors", Counter::default()),
            http_seconds: register!(
                "http_request_seconds",
                "HTTP requests, to their response head",
                Family::new_with_constructor(latency as fn() -> Histogram)
            ),
            auth_failures: register!(
                "auth_failures",
                "Requests refused for their credentials",
                Family::default()
            ),
            jwks_fetches: register!("jwks_fetches", "Fetches of the key set of tokens", Family::default()),
            unavailable_answers: register!(
                "unavailable_answers",
                "Requests answered 503 because of the database",
                Counter::default()
            ),
            logging_dropped: register!(
                "logging_dropped",
                "Log lines not written to a file because too many waited",
                Counter::default()
            ),
            ignored_fields: register!(
                "ignored_fields",
                "Fields that clients of replaced systems sent and nobody knows",
                Family::default()
            ),
            process: ProcessMetrics::new(&mut registry),
            figures: FigureBoard::default(),
            limits: LimitMetrics::new(&mut registry),
            bridge: BridgeMetrics::new(&mut registry),
            interop: InteropMetrics::new(&mut registry),
            ranking: RankingMetrics::new(&mut registry),
            jobs: JobMetrics::new(&mut registry),
            readings: Mutex::default(),
            registry,
        };
        metrics.name_what_may_happen();
        metrics
    }
}

impl Metrics {
    /// Counters whose labels are known begin at 0 instead of missing until the first time.
    fn name_what_may_happen(&self) {
        for class in CLASSES {
            self.published(class, 0);
        }
        for reason in LOST.into_iter().chain(["conflated", "expired"]) {
            self.dropped(reason);
        }
        for outcome in ["fresh", "current", "replayed", "epoch_changed", "evicted", "ahead", "invalid"] {
            self.recoveries.get_or_create_owned(&Outcome { outcome });
        }
        for outcome in ["ok", "failed"] {
            self.jwks_fetches.get_or_create_owned(&Outcome { outcome });
        }
        self.ignored_fields("accounts", 0);
        for transport in ["sse", "poll", "websocket"] {
            self.connects.get_or_create_owned(&Transport { transport });
        }
    }

    /// What this node has open and has done since it started.
    pub fn counts(&self) -> Counts {
        let count = |class| self.published.get_or_create(&ClassLabel { class }).get();
        let lost = |reason| self.dropped.get_or_create(&Reason { reason }).get();
        Counts {
            connections: self.figures.open_connections(),
            published: CLASSES.map(count).iter().sum(),
            delivered: self.delivery_seconds.count(),
            waited_us: (self.delivery_seconds.sum() * 1e6) as u64,
            failed: LOST.map(lost).iter().sum::<u64>() + self.log.refusals(),
        }
    }

    /// The figures of all nodes together.
    pub fn figures(&self) -> &FigureBoard {
        &self.figures
    }

    /// Those of a cluster's bus.
    pub fn bridge(&self) -> &BridgeMetrics {
        &self.bridge
    }

    /// Those of what is exchanged with other services on Redis.
    pub fn interop(&self) -> &InteropMetrics {
        &self.interop
    }

    /// Those of the rankings of bids.
    pub fn ranking(&self) -> &RankingMetrics {
        &self.ranking
    }

    /// Those of jobs.
    pub fn jobs(&self) -> &JobMetrics {
        &self.jobs
    }

    /// Those of the logs and of the outbox.
    pub fn log(&self) -> &LogMetrics {
        &self.log
    }

    /// Those of the limits.
    pub fn limits(&self) -> &LimitMetrics {
        &self.limits
    }

    /// Adds a function that is called before the metrics are read.
    pub fn add_reading(&self, reading: Reading) {
        self.readings.lock().expect("no panic while held").push(ReadingSlot(reading));
    }

    /// The metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        self.process.read();
        let dropped = super::logging::dropped_lines();
        self.logging_dropped.inc_by(dropped.saturating_sub(self.logging_dropped.get()));
        for reading in self.readings.lock().expect("no panic while held").iter() {
            (reading.0)(self);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes any text");
        text
    }

    /// A connection opened.
    pub fn connected(&self, transport: &'static str, tenant: &str) {
        self.figures.opened();
        self.connects.get_or_create(&Transport { transport }).inc();
        self.connections.get_or_create(&Connections { transport, tenant: tenant.to_owned() }).inc();
    }

    /// A connection ended; `close` is what it was told, None when the client left by itself.
    pub fn closed(&self, transport: &'static str, tenant: &str, close: Option<(u16, &'static str)>) {
        self.figures.closed();
        let (code, reason) = close.unwrap_or((0, "client_left"));
        self.closes.get_or_create(&Close { transport, code, reason }).inc();
        self.connections.get_or_create(&Connections { transport, tenant: tenant.to_owned() }).dec();
    }

    /// Events accepted for delivery.
    pub fn published(&self, class: &'static str, count: u64) {
        self.published.get_or_create(&ClassLabel { class }).inc_by(count);
    }

    /// A handle to count delivered frames with.
    pub fn delivered(&self) -> Counter {
        self.delivered.clone()
    }

    /// A handle to time deliveries with.
    pub fn delivery_seconds(&self) -> Histogram {
        self.delivery_seconds.clone()
    }

    /// A handle to count frames dropped for one reason.
    pub fn dropped(&self, reason: &'static str) -> Counter {
        self.dropped.get_or_create_owned(&Reason { reason })
    }

    /// A connection's cursor led to `outcome`.
    pub fn recovered(&self, outcome: &'static str) {
        self.recoveries.get_or_create(&Outcome { outcome }).inc();
    }

    /// Events replayed.
    pub fn replayed(&self, count: u64) {
        self.replayed.inc_by(count);
    }

    /// Clients have shown this many events.
    pub fn acked(&self, count: u64) {
        self.acks.inc_by(count);
    }

    /// Those of one kind of actor.
    pub fn mailboxes(&self, actor: &'static str) -> Arc<MailboxMetrics> {
        self.mailboxes.of(actor)
    }

    /// Those of one pool of the database.
    pub fn pool(&self, pool: &'static str) -> PoolMetrics {
        self.pools.of(pool)
    }

    /// An actor panicked and was rebuilt.
    pub fn actor_panicked(&self) {
        self.actor_panics.inc();
    }

    /// A request was answered.
    pub fn http_answered(&self, route: &str, method: &str, status: u16, seconds: f64) {
        let labels = Route { route: route.to_owned(), method: method.to_owned(), status };
        self.http_seconds.get_or_create(&labels).observe(seconds);
        if status == 503 {
            self.unavailable_answers.inc();
        }
    }

    /// A request was refused for its credentials.
    pub fn auth_failed(&self, reason: &'static str) {
        self.auth_failures.get_or_create(&Reason { reason }).inc();
    }

    /// A client of a replaced system sent so many fields that nobody knows.
    pub fn ignored_fields(&self, surface: &'static str, count: u64) {
        self.ignored_fields.get_or_create(&Surface { surface }).inc_by(count);
    }

    /// The key set of tokens was fetched (`ok`), or could not be (`failed`).
    pub fn jwks_fetched(&self, outcome: &'static str) {
        self.jwks_fetches.get_or_create(&Outcome { outcome }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_render_with_their_help() {
        let metrics = Metrics::default();
        metrics.connected("sse", "acme");
        metrics.dropped("expired").inc();
        let text = metrics.render();
        assert!(text.contains("bongsu_connections{transport=\"sse\",tenant=\"acme\"} 1"), "{text}");
        assert!(text.contains("bongsu_events_dropped_total{reason=\"expired\"} 1"), "{text}");
        assert!(text.contains("# HELP bongsu_process_resident_bytes"));
    }
}
