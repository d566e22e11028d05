//! The queries on SQLite.

use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;

/// A connection of this backend.
pub type Conn = SyncConnectionWrapper<diesel::SqliteConnection>;

/// SQLite has no row locks: an immediate transaction already excludes other writers.
macro_rules! lock {
    ($query:expr) => {
        $query
    };
}
macro_rules! lock_free {
    ($query:expr) => {
        $query
    };
}

/// Inserts rows, one by one: a statement is a call within the process.
macro_rules! insert_all {
    ($conn:expr, $table:expr, $rows:expr) => {
        for row in $rows {
            diesel::insert_into($table).values(row).execute($conn).await?;
        }
    };
}

/// Inserts rows, or replaces columns of those that are there, one by one.
macro_rules! put_all {
    ($conn:expr, $table:expr, $rows:expr, $key:expr, $set:expr) => {
        for row in $rows {
            diesel::insert_into($table)
                .values(row)
                .on_conflict($key)
                .do_update()
                .set($set)
                .execute($conn)
                .await?;
        }
    };
}

include!("queries.rs");

/// The event log, as its writer sees it: on a blocking thread.
pub mod log_writes {
    /// A connection there.
    pub type Conn = diesel::SqliteConnection;
    include!("queries/log_writes.rs");
}

/// The clock that all nodes share: there is one node.
pub mod time {
    use diesel::QueryResult;

    use super::Conn;

    /// What the node's own clock shows, µs.
    pub async fn now_us(_: &mut Conn, own: i64) -> QueryResult<i64> {
        Ok(own)
    }
}

/// Locks on the keys of commands.
pub mod names {
    use diesel::QueryResult;

    use super::Conn;

    /// An immediate transaction already excludes every other one.
    pub async fn try_lock(_: &mut Conn, _: (&str, &str, &str)) -> QueryResult<bool> {
        Ok(true)
    }
}
