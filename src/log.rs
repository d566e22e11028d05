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
mod embedded;
mod event_log;
mod floor;
mod head_file;
mod home;
mod joining;
mod load;
#[cfg(test)]
mod model_test;
mod outbox_watch;
mod outgoing;
mod page;
mod recovery;
mod renewal;
mod retention;
mod tenant_log;
mod tenant_logs;
mod trimming;
mod window;

pub use append::{AppendRequest, Appended, Dedup, Idempotency, LogError, NewEvent, Source};
pub use event_log::EventLog;
pub use home::{LogHome, NodeNotice, StoredPage};
pub use joining::{Joined, Joining, Joins};
pub use load::Load;
pub use outbox_watch::watch_outbox;
pub use outgoing::Outgoing;
pub use page::{Page, PageLimit};
pub use recovery::Recovery;

pub use tenant_log::TenantLog;
pub use tenant_logs::{LogObserver, LogOptions, TellCreated, TellWhole, TenantLogs};
pub use window::WindowBudget;
