use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use crate::clock::Clock;
use crate::telemetry::Metrics;

/// Counters that all queues of a worker share.
#[derive(Debug)]
pub struct QueueMetrics {
    pub(super) delivered: Counter,
    pub(super) seconds: Histogram,
    pub(super) volatile_dropped: Counter,
    pub(super) conflated: Counter,
    pub(super) expired: Counter,
    pub(super) discarded: Counter,
    pub(super) clock: Clock,
}

impl QueueMetrics {
    /// Handles into an engine's metrics.
    pub fn new(metrics: &Metrics, clock: Clock) -> Self {
        QueueMetrics {
            delivered: metrics.delivered(),
            seconds: metrics.delivery_seconds(),
            volatile_dropped: metrics.dropped("volatile_queue_full"),
            conflated: metrics.dropped("conflated"),
            expired: metrics.dropped("expired"),
            discarded: metrics.dropped("connection_cut"),
            clock,
        }
    }
}
