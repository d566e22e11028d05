use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::append::{Source, to_event, to_volatile};
use super::retention::Retention;
use super::{NewEvent, TenantLog, WindowBudget};
use crate::clock::Clock;
use crate::domain::{Class, TenantId, Timestamp};
use crate::settings::Settings;
use crate::storage::{Database, LogRow};
use crate::telemetry::Metrics;
use crate::wire::Event;

/// Told of what the log has taken; called from the appender, so it must not block.
pub trait LogObserver: Send + Sync {
    /// A tenant's log has a new head.
    fn advanced(&self, log: &Arc<TenantLog>);
    /// An event to deliver now or never.
    fn volatile(&self, log: &Arc<TenantLog>, event: Arc<Event>);
}

/// Limits of the log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    pub(super) retention: Retention,
    pub(super) max_trim_floors: usize,
    pub(super) window: WindowBudget,
    pub(super) window_total_bytes: usize,
    pub(super) max_message_bytes: usize,
    pub(super) append_queue: usize,
    pub(super) append_queue_bytes: usize,
    pub(super) relay_batch: usize,
}

impl From<&Settings> for LogOptions {
    fn from(settings: &Settings) -> Self {
        let log = &settings.log;
        LogOptions {
            retention: Retention {
                count: log.retention_count,
                bytes: log.retention_bytes,
                age: Duration::from_secs(log.retention_s),
            },
            max_trim_floors: log.max_trim_floors,
            window: WindowBudget { count: log.window_count, bytes: log.window_bytes, seconds: log.window_s },
            window_total_bytes: log.window_total_bytes,
            max_message_bytes: log.max_message_bytes,
            append_queue: log.append_queue,
            append_queue_bytes: log.append_queue_bytes,
            relay_batch: log.relay_batch,
        }
    }
}

/// A row with where it comes from, where that is known.
pub(super) type TracedRow = (LogRow, Option<Source>);

/// What the handle, the readers and the appender have in common.
pub(super) struct Shared {
    pub database: Database,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub options: LogOptions,
    pub relay_wake: Notify,
    pub tenants: RwLock<HashMap<TenantId, Arc<TenantLog>>>,
    pub observer: Arc<dyn LogObserver>,
}

impl Shared {
    pub fn tenant(&self, tenant: &TenantId) -> Option<Arc<TenantLog>> {
        self.tenants.read().expect("no panic while held").get(tenant).cloned()
    }

    pub fn insert(&self, log: TenantLog) -> Arc<TenantLog> {
        let log = Arc::new(log);
        self.tenants.write().expect("no panic while held").insert(log.tenant().clone(), log.clone());
        log
    }

    pub fn all(&self) -> Vec<Arc<TenantLog>> {
        self.tenants.read().expect("no panic while held").values().cloned().collect()
    }

    /// Makes committed rows visible to this process.
    pub fn show(&self, log: &Arc<TenantLog>, rows: Vec<TracedRow>) {
        for class in [Class::Durable, Class::Latest] {
            let count = rows.iter().filter(|(row, _)| row.class == class.as_str()).count();
            self.metrics.published(class.as_str(), count as u64);
        }
        let epoch = log.head().epoch;
        let event = |(row, source): TracedRow| {
            let event = to_event(epoch, row)?;
            Some(match source {
                Some(Source { origin, accepted }) => event.of(origin, accepted),
                None => event,
            })
        };
        let events: Vec<Event> = rows.into_iter().filter_map(event).collect();
        for event in &events {
            let (origin, tenant) = (event.origin(), log.tenant());
            tracing::debug!(
                %tenant,
                event_id = event.position().map(tracing::field::display),
                topic = %event.topic(),
                request_id = origin.map(|origin| &*origin.request_id),
                trace_id = origin.map(|origin| tracing::field::display(origin.trace.trace_id())),
                "appended"
            );
        }
        log.push(events, &self.options.window, self.clock.steady());
        self.metrics.log_head(log.tenant().as_str(), log.head().seq);
        self.keep_total();
        self.observer.advanced(log);
    }

    /// Sends an event to those who listen at this moment.
    pub fn send_volatile(&self, log: &Arc<TenantLog>, event: NewEvent, source: Source) {
        self.metrics.published(Class::Volatile.as_str(), 1);
        let event = to_volatile(event, self.clock.steady()).of(source.origin, source.accepted);
        self.observer.volatile(log, Arc::new(event));
    }

    pub fn shrink_windows(&self, now: Timestamp) {
        for log in self.all() {
            log.shrink(&self.options.window, now);
        }
    }

    /// What a window may hold while the others are as large as they are.
    pub fn budget_of(&self, log: &TenantLog) -> WindowBudget {
        let all: usize = self.all().iter().map(|log| log.window_bytes()).sum();
        let room = self.options.window_total_bytes.saturating_sub(all);
        let own = &self.options.window;
        WindowBudget { bytes: own.bytes.min(log.window_bytes() + room), ..*own }
    }

    /// Takes from the largest window while all together exceed their budget.
    fn keep_total(&self) {
        let all = self.all();
        while all.iter().map(|log| log.window_bytes()).sum::<usize>() > self.options.window_total_bytes {
            let Some(largest) = all.iter().max_by_key(|log| log.window_bytes()) else {
                return;
            };
            largest.give_back(64);
        }
    }
}
