use diesel::result::{DatabaseErrorKind, Error};

use crate::domain::{Refusal, RefusalKind};

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is full, locked or read-only: try again later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// A row with this identity exists already.
    #[error("the row exists already")]
    Exists,
    /// What was read makes no sense: a damaged row, a newer schema, a query that is wrong.
    #[error("the database holds something unexpected: {0}")]
    Unexpected(String),
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _) => StoreError::Exists,
            // a full disk, a lock, a lost connection: diesel keeps only SQLite's text
            Error::DatabaseError(_, information) => StoreError::Unavailable(information.message().to_owned()),
            Error::RollbackTransaction
            | Error::RollbackErrorOnCommit { .. }
            | Error::BrokenTransactionManager
            | Error::AlreadyInTransaction
            | Error::NotInTransaction => StoreError::Unavailable(error.to_string()),
            other => StoreError::Unexpected(other.to_string()),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        // the operator reads the cause in the log; the client gets none of it
        tracing::error!(%error, "the database refused");
        match error {
            StoreError::Unavailable(_) => Refusal::new(
                RefusalKind::Unavailable,
                "store_unavailable",
                "the database is unavailable, try again",
            ),
            StoreError::Exists => Refusal::new(RefusalKind::Conflict, "exists", "it exists already"),
            StoreError::Unexpected(_) => Refusal::new(RefusalKind::Internal, "internal", "an internal error"),
        }
    }
}
