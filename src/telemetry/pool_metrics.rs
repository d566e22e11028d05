use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::metrics::{Pool, latency};

/// The metrics of the database's pools, by name.
#[derive(Debug)]
pub(super) struct PoolFamilies {
    max: Family<Pool, Gauge>,
    in_use: Family<Pool, Gauge>,
    waiting: Family<Pool, Gauge>,
    seconds: Family<Pool, Histogram, fn() -> Histogram>,
    timeouts: Family<Pool, Counter>,
}

/// Those of one pool.
#[derive(Debug)]
pub struct PoolMetrics {
    max: Gauge,
    in_use: Gauge,
    waiting: Gauge,
    seconds: Histogram,
    timeouts: Counter,
}

impl PoolFamilies {
    pub fn new(registry: &mut Registry) -> Self {
        let own = PoolFamilies {
            max: Family::default(),
            in_use: Family::default(),
            waiting: Family::default(),
            seconds: Family::new_with_constructor(latency as fn() -> Histogram),
            timeouts: Family::default(),
        };
        let mut gauge = |name, help, gauge: &Family<_, _>| registry.register(name, help, gauge.clone());
        gauge("database_connections_max", "Connections that a pool may have", &own.max);
        gauge("database_connections_in_use", "Connections that somebody works with", &own.in_use);
        gauge("database_waiting", "Those who wait for a connection", &own.waiting);
        registry.register("database_wait_seconds", "Waits for a connection", own.seconds.clone());
        registry.register("database_wait_timeouts", "Waits given up", own.timeouts.clone());
        own
    }

    pub fn of(&self, pool: &'static str) -> PoolMetrics {
        let pool = Pool { pool };
        PoolMetrics {
            max: self.max.get_or_create_owned(&pool),
            in_use: self.in_use.get_or_create_owned(&pool),
            waiting: self.waiting.get_or_create_owned(&pool),
            seconds: self.seconds.get_or_create_owned(&pool),
            timeouts: self.timeouts.get_or_create_owned(&pool),
        }
    }
}

impl PoolMetrics {
    /// Somebody waited this long, with or without success.
    pub fn waited(&self, time: Duration) {
        self.seconds.observe(time.as_secs_f64());
    }

    /// Somebody gave up waiting.
    pub fn timed_out(&self) {
        self.timeouts.inc();
    }

    /// How the pool stands.
    pub fn stands(&self, max: usize, in_use: usize, waiting: usize) {
        for (gauge, value) in [(&self.max, max), (&self.in_use, in_use), (&self.waiting, waiting)] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}
