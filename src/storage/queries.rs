// Included once per backend, which has defined `Conn` and `lock!`.

/// API keys and the generation that tells of their change.
pub mod api_keys {
    use super::Conn;
    include!("queries/api_keys.rs");
}

/// Networks that may not connect.
pub mod block_list {
    use super::Conn;
    include!("queries/block_list.rs");
}

/// Tickets of clients that cannot send headers.
pub mod tickets {
    use super::Conn;
    include!("queries/tickets.rs");
}

/// The transactional outbox.
pub mod outbox {
    use super::Conn;
    include!("queries/outbox.rs");
}

/// Stored answers of domain commands.
pub mod idempotency {
    use super::Conn;
    include!("queries/idempotency.rs");
}

/// Fleets and their readings.
pub mod fleets {
    use super::Conn;
    include!("queries/fleets.rs");
}

/// The event log, as readers see it.
pub mod log {
    use super::Conn;
    include!("queries/log.rs");
}
