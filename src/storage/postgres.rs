//! The queries on PostgreSQL, and the connections that they run on.

mod conn;
mod connector;
mod pool;
mod tls;

/// A connection of this backend.
pub use conn::Conn;
pub use connector::PostgresOptions;
pub use pool::{Postgres, Taken};

/// Locks the rows that a query selects until the transaction ends.
macro_rules! lock {
    ($query:expr) => {
        $query.for_update()
    };
}

/// The same, without those that somebody else has locked.
macro_rules! lock_free {
    ($query:expr) => {
        $query.for_update().skip_locked()
    };
}

/// Inserts rows in one statement.
macro_rules! insert_all {
    ($conn:expr, $table:expr, $rows:expr) => {
        diesel::insert_into($table).values($rows).execute($conn).await?
    };
}

/// Inserts rows, or replaces columns of those that are there, in one statement.
macro_rules! put_all {
    ($conn:expr, $table:expr, $rows:expr, $key:expr, $set:expr) => {
        diesel::insert_into($table)
            .values($rows)
            .on_conflict($key)
            .do_update()
            .set($set)
            .execute($conn)
            .await?
    };
}

include!("queries.rs");

/// The lease of the node that publishes the outbox.
pub mod lease {
    use super::Conn;
    include!("queries/lease.rs");
}

/// Runs of the logs of a cluster.
pub mod log_runs {
    use super::Conn;
    include!("queries/log_runs.rs");
}

/// Locks on numbers and names.
pub mod locks {
    use super::Conn;
    include!("queries/locks.rs");
}

/// The event log, as its writer sees it: on a blocking thread.
pub mod log_writes {
    /// A connection there.
    pub type Conn = diesel_async::async_connection_wrapper::AsyncConnectionWrapper<super::Taken>;
    include!("queries/log_writes.rs");
}

/// Locks on the keys of commands.
pub mod names {
    use super::Conn;
    include!("queries/names.rs");
}

/// The clock that all nodes share.
pub mod time {
    use super::Conn;
    include!("queries/time.rs");
}
