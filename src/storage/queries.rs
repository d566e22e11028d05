// Included once per backend, which has defined `Conn`, `lock!` and `insert_all!`.

/// Numbers that tell of changes.
pub mod generations {
    use super::Conn;
    include!("queries/generations.rs");
}

/// API keys.
pub mod api_keys {
    use super::Conn;
    include!("queries/api_keys.rs");
}

/// Users whose credentials are no longer good.
pub mod kicks {
    use super::Conn;
    include!("queries/kicks.rs");
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

/// What the installation signs tokens with.
pub mod token_secrets {
    use super::Conn;
    include!("queries/token_secrets.rs");
}

/// The transactional outbox.
pub mod outbox {
    use super::Conn;
    include!("queries/outbox.rs");
}

/// Declared topics and their members.
pub mod topics {
    use super::Conn;
    include!("queries/topics.rs");
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

/// Bids and their proposals.
pub mod bids {
    use super::Conn;
    include!("queries/bids.rs");
}
