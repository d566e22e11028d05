//! The queries on PostgreSQL.

/// A connection of this backend.
pub type Conn = diesel_async::AsyncPgConnection;

/// Locks the rows that a query selects until the transaction ends.
macro_rules! lock {
    ($query:expr) => {
        $query.for_update()
    };
}

include!("queries.rs");

/// The lease of the node that publishes the outbox.
pub mod lease {
    use super::Conn;
    include!("queries/lease.rs");
}
