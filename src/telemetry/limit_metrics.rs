use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::{Reason, Tenant};

/// Every reason for which a limit refuses.
const REASONS: &[&str] = &[
    "attempts",
    "failures",
    "connects",
    "commands",
    "publishes",
    "topic_publishes",
    "tenant_events",
    "node_connections",
    "tenant_connections",
    "user_connections",
    "address_connections",
    "blocked",
    "forbidden_origin",
    "headers",
];

/// Metrics of what is refused before it is worked on, and of what the limits hold for it.
#[derive(Debug)]
pub struct LimitMetrics {
    refused: Family<Reason, Counter>,
    buckets: Gauge,
    delayed: Gauge,
    blocked: Gauge,
    handshakes: Family<Reason, Counter>,
    tenant_events: Family<Tenant, Counter>,
}

impl LimitMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let own = LimitMetrics {
            refused: Family::default(),
            buckets: Gauge::default(),
            delayed: Gauge::default(),
            blocked: Gauge::default(),
            handshakes: Family::default(),
            tenant_events: Family::default(),
        };
        registry.register("limited", "Requests and connections refused for a limit", own.refused.clone());
        registry.register("limit_buckets", "Token buckets that are kept", own.buckets.clone());
        registry.register(
            "delayed_answers",
            "Answers to failures that are being delayed",
            own.delayed.clone(),
        );
        registry.register("tls_failures", "TLS handshakes that came to nothing", own.handshakes.clone());
        registry.register("blocked_networks", "Networks on the block list", own.blocked.clone());
        registry.register(
            "tenant_events",
            "Events accepted from publishers, by tenant",
            own.tenant_events.clone(),
        );
        // counters whose labels are known begin at 0 instead of missing until the first time
        for reason in REASONS {
            own.refused.get_or_create_owned(&Reason { reason });
        }
        for reason in ["timeout", "refused"] {
            own.handshakes.get_or_create_owned(&Reason { reason });
        }
        own
    }

    /// A request or connection was refused for a limit.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// A TLS handshake came to nothing.
    pub fn handshake_failed(&self, reason: &'static str) {
        self.handshakes.get_or_create(&Reason { reason }).inc();
    }

    /// What the limits hold at this moment.
    pub fn held(&self, buckets: usize, delayed: usize) {
        self.buckets.set(buckets as i64);
        self.delayed.set(delayed as i64);
    }

    /// Networks on the block list.
    pub fn blocked_networks(&self, count: usize) {
        self.blocked.set(count as i64);
    }

    /// Events of a tenant's publishers passed the limits.
    pub fn published(&self, tenant: &str, count: u64) {
        self.tenant_events.get_or_create(&Tenant { tenant: tenant.to_owned() }).inc_by(count);
    }
}
