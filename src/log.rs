//! The event log: one scalar position per tenant, whatever the number of topics.
//!
//! Appending: [`EventLog::append`] for publishes, [`EventLog::wake_relay`] after a domain commit. A
//! single appender gathers everything that waits, commits it in one transaction, and only then shows
//! it: to the tenant's local window, to the workers, and to the callers.
//!
//! Reading: [`TenantLog::recovery`] judges a cursor, [`EventLog::read`] pulls pages from the window or,
//! further back, from the database.

mod append;
mod appender;
#[cfg(test)]
mod appender_test;
mod batch;
mod event_log;
mod floor;
mod head_file;
mod load;
#[cfg(test)]
mod model_test;
mod outbox_watch;
mod page;
mod recovery;
mod retention;
mod shared;
mod tenant_log;
mod trimming;
mod window;

pub use append::{AppendRequest, Appended, Dedup, Idempotency, LogError, NewEvent};
pub use event_log::EventLog;
pub use page::{Page, PageLimit};
pub use recovery::Recovery;
pub use shared::{LogObserver, LogOptions};
pub use tenant_log::TenantLog;
pub use window::WindowBudget;
