use std::sync::Arc;

use serde::Serialize;

use crate::domain::Position;

/// Why a client that gave a cursor has to reload its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryFailure {
    /// The log has started afresh since.
    EpochChanged,
    /// Events of the connection's own topics may have been trimmed since.
    Evicted,
    /// The cursor lies beyond the top of the log.
    Ahead,
    /// The cursor cannot be read.
    Invalid,
}

impl RecoveryFailure {
    /// Every reason.
    pub const ALL: [RecoveryFailure; 4] = [
        RecoveryFailure::EpochChanged,
        RecoveryFailure::Evicted,
        RecoveryFailure::Ahead,
        RecoveryFailure::Invalid,
    ];

    /// The word on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            RecoveryFailure::EpochChanged => "epoch_changed",
            RecoveryFailure::Evicted => "evicted",
            RecoveryFailure::Ahead => "ahead",
            RecoveryFailure::Invalid => "invalid",
        }
    }
}

/// The first event of every connection.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// Unique in the cluster.
    pub connection_id: String,
    /// The node that serves the connection.
    pub server_id: Arc<str>,
    /// The tenant of the connection.
    pub tenant_id: String,
    /// The user, when the principal is one.
    pub user_id: Option<String>,
    /// The topics as granted.
    pub topics: Vec<String>,
    /// Distance of heartbeats, milliseconds.
    pub heartbeat_ms: u64,
    /// Where to resume from.
    pub position: Position,
    /// None when no cursor was given.
    pub recovered: Option<bool>,
    /// Why not, when `recovered` is false.
    pub reason: Option<RecoveryFailure>,
    /// Largest WebSocket frame accepted, bytes.
    pub max_frame_bytes: usize,
    /// Largest message accepted, bytes.
    pub max_message_bytes: usize,
    /// Most topics on one connection.
    pub max_topics: usize,
}
