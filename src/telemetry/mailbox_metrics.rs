use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::metrics::{Actor, latency};

/// Every kind of actor.
const ACTORS: &[&str] = &["appender", "room_registry", "session"];

/// The metrics of actors, by kind.
#[derive(Debug)]
pub(super) struct MailboxFamilies {
    waiting: Family<Actor, Gauge>,
    refused: Family<Actor, Counter>,
    seconds: Family<Actor, Histogram, fn() -> Histogram>,
}

/// What is counted and timed of the mailboxes of one kind of actor, which share it.
#[derive(Debug)]
pub struct MailboxMetrics {
    actor: &'static str,
    waiting: Gauge,
    refused: Counter,
    seconds: Histogram,
}

impl MailboxFamilies {
    pub fn new(registry: &mut Registry) -> Self {
        let own = MailboxFamilies {
            waiting: Family::default(),
            refused: Family::default(),
            seconds: Family::new_with_constructor(latency as fn() -> Histogram),
        };
        registry.register("mailbox_waiting", "Messages waiting for actors", own.waiting.clone());
        registry.register("mailbox_refused", "Messages refused by full mailboxes", own.refused.clone());
        registry.register(
            "actor_handling_seconds",
            "Handling of a message by an actor, without its wait",
            own.seconds.clone(),
        );
        ACTORS.iter().for_each(|actor| drop(own.of(actor)));
        own
    }

    pub fn of(&self, actor: &'static str) -> Arc<MailboxMetrics> {
        let label = Actor { actor };
        Arc::new(MailboxMetrics {
            actor,
            waiting: self.waiting.get_or_create_owned(&label),
            refused: self.refused.get_or_create_owned(&label),
            seconds: self.seconds.get_or_create_owned(&label),
        })
    }
}

impl MailboxMetrics {
    /// The kind.
    pub fn actor(&self) -> &'static str {
        self.actor
    }

    /// A message waits.
    pub fn enters(&self) {
        self.waiting.inc();
    }

    /// A message waits no longer: its handling begins, or its actor is gone.
    pub fn leaves(&self) {
        self.waiting.dec();
    }

    /// A message found the mailbox full.
    pub fn refuses(&self) {
        self.refused.inc();
    }

    /// A message was handled within this time.
    pub fn handled(&self, within: Duration) {
        self.seconds.observe(within.as_secs_f64());
    }
}
