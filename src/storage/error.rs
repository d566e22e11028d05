use diesel::result::{DatabaseErrorKind, Error};

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
