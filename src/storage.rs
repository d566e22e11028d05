//! Rows: the database, its connections and every query.
//!
//! Two backends, SQLite and PostgreSQL, share one schema and one query file per table
//! (`queries/*.rs`, compiled once per backend). All of it runs on the storage runtime: a database
//! future dropped on an actix thread panics (SQLite) and a connection opened there stalls with it
//! (PostgreSQL). Callers reach it through [`Database::run`], which hands the work over and waits.
//!
//! Query functions take a connection, never the pool; they return [`Rows`](StoreError) of plain values.

mod commands;
mod connections;
mod database;
mod error;
mod leadership;
mod log_lock;
mod log_store;
mod log_writer;
pub mod postgres;
mod records;
mod runtime;
mod schema;
mod shared_text;
pub mod sqlite;

pub use commands::{Attempt, CommandKey, Commands, in_progress};
pub use database::{Backend, Database, DatabaseOptions, ServeLock, check_writable};
pub use error::StoreError;
pub use leadership::{LeaseLink, OutboxWakes};
pub use log_lock::LogLock;
pub use log_store::{FloorRow, LogTx, OldestRow, TenantRow};
pub use log_writer::LogWriter;
pub use postgres::PostgresOptions;
pub use records::{
    AccountRow, ApiKeyRow, BidFactsRow, BidRow, BlockRow, DeclaredTopicRow, Feed, FleetRow, IdempotencyRow,
    JobFigures, JobOutcome, JobRow, KickRow, LogRow, OutboxRow, ProposalRow, ReadingRow, SnapshotRow,
    TicketRow, TopicMemberRow,
};
pub use records::{OrderFactsRow, OrderReportRow, OrderRow};
pub use runtime::StorageRuntime;
pub use shared_text::SharedText;

#[doc(hidden)]
pub mod backends {
    //! The query modules by backend, for [`read!`](crate::read) and [`write!`](crate::write_tx).
    pub use super::database::Backend;
    pub use super::postgres;
    pub use super::sqlite;
}

/// Runs queries on a reading connection: `read!(db, |conn, q| q::fleets::find(conn, …).await)`.
///
/// `q` is the query module of the backend in use; the body is compiled for both.
#[macro_export]
macro_rules! read {
    ($db:expr, |$conn:ident, $q:ident| $body:expr) => {
        match $db.backend() {
            $crate::storage::backends::Backend::Sqlite(own) => {
                use $crate::storage::backends::sqlite as $q;
                let mut checked_out = own.reader().await?;
                let $conn = &mut *checked_out;
                $body
            }
            $crate::storage::backends::Backend::Postgres(own) => {
                use $crate::storage::backends::postgres as $q;
                let mut checked_out = own.connection().await?;
                let $conn = &mut *checked_out;
                $body
            }
        }
    };
}

/// Runs queries in one writing transaction, committed when the body returns `Ok`.
///
/// On SQLite the transaction excludes every other writer from its start; on PostgreSQL rows are
/// locked by the queries that say so.
#[macro_export]
macro_rules! write_tx {
    ($db:expr, |$conn:ident, $q:ident| $body:expr) => {
        match $db.backend() {
            $crate::storage::backends::Backend::Sqlite(own) => {
                use $crate::storage::backends::sqlite as $q;
                let mut checked_out = own.writer().await?;
                checked_out
                    .immediate_transaction(async |$conn| -> Result<_, $crate::storage::StoreError> { $body })
                    .await
            }
            $crate::storage::backends::Backend::Postgres(own) => {
                use $crate::storage::backends::postgres as $q;
                let mut checked_out = own.begin().await?;
                let outcome: Result<_, $crate::storage::StoreError> = async {
                    let $conn = &mut *checked_out;
                    $body
                }
                .await;
                own.end(checked_out, outcome).await
            }
        }
    };
}
