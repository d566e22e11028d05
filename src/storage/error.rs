use diesel::result::{DatabaseErrorKind, Error};

use crate::domain::{Refusal, RefusalKind};

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is full, locked or read-only: try again later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// A COMMIT was asked for, and the answer did not come: it has happened or not. Retrying is safe where the
    /// transaction can tell that it has.
    #[error("the database is unavailable: {0}")]
    InDoubt(String),
    /// What the options ask for cannot be done.
    #[error("{0}")]
    Misconfigured(String),
    /// Another process writes the log that was this one's.
    #[error(
        "another process has taken over the event log of this database: without Redis only one node may serve it; \
         stop the other one, or set redis.url on both"
    )]
    TakenOver,
    /// It has lost commits that clients have heard of.
    #[error("the database has lost commits, as by a failover or a restored backup")]
    GoneBack,
    /// Its schema is of a newer release.
    #[error(
        "the database was migrated by a newer release (to {0}): serve it with that release, or restore a backup \
         from before"
    )]
    Newer(String),
    /// A row with this identity exists already.
    #[error("the row exists already")]
    Exists,
    /// What was read makes no sense: a damaged row, a newer schema, a query that is wrong.
    #[error("the database holds something unexpected: {0}")]
    Unexpected(String),
}

const ENDED_BY_ITSELF: &str = "the transaction was given up for want of room or by an I/O error: is the disk full, \
     or the database as large as storage.max_database_bytes allows?";

fn is_rolled_back(message: &str) -> bool {
    message.contains("no such savepoint") || message.contains("no transaction is active")
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _) => StoreError::Exists,
            // diesel reports its own rollback's failure in place of what made SQLite roll back by itself
            Error::DatabaseError(_, information) if is_rolled_back(information.message()) => {
                StoreError::Unavailable(ENDED_BY_ITSELF.to_owned())
            }
            Error::NotInTransaction => StoreError::Unavailable(ENDED_BY_ITSELF.to_owned()),
            // as the connection to PostgreSQL tells it
            Error::DatabaseError(DatabaseErrorKind::ClosedConnection, information) => {
                StoreError::InDoubt(information.message().to_owned())
            }
            // a lock, a lost connection, a read-only file: diesel keeps only SQLite's text
            Error::DatabaseError(_, information) => StoreError::Unavailable(information.message().to_owned()),
            Error::RollbackTransaction
            | Error::RollbackErrorOnCommit { .. }
            | Error::BrokenTransactionManager
            | Error::AlreadyInTransaction => StoreError::Unavailable(error.to_string()),
            other => StoreError::Unexpected(other.to_string()),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        // the operator reads the cause in the log; the client gets none of it
        tracing::error!(%error, "the database refused");
        match error {
            StoreError::InDoubt(_) => Refusal::new(
                RefusalKind::Unavailable,
                "store_unavailable",
                "the database went away in the middle: it may have been carried out, which a repetition with the same \
                 Idempotency-Key finds out",
            ),
            StoreError::Unavailable(_) | StoreError::TakenOver | StoreError::GoneBack => Refusal::new(
                RefusalKind::Unavailable,
                "store_unavailable",
                "the database is unavailable, try again",
            ),
            StoreError::Exists => Refusal::new(RefusalKind::Conflict, "exists", "it exists already"),
            StoreError::Misconfigured(_) | StoreError::Newer(_) | StoreError::Unexpected(_) => {
                Refusal::new(RefusalKind::Internal, "internal", "an internal error")
            }
        }
    }
}
