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

include!("queries.rs");
