use redis::{ErrorKind, RedisError};

use crate::log::LogError;

/// Why Redis did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BridgeError {
    /// It cannot be reached, or not in time; whether the command was carried out is unknown.
    #[error("Redis is away: {0}")]
    Away(String),
    /// It refused: read-only, out of memory, a wrong password, keys of somebody else.
    #[error("Redis refused: {0}")]
    Refused(String),
    /// A later leader has appended: this node's lease has been another's since.
    #[error("another node is the leader (fence {0})")]
    Fenced(u64),
    /// What it answered makes no sense.
    #[error("Redis answered what no release of this program writes: {0}")]
    Unexpected(String),
}

impl From<RedisError> for BridgeError {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            _ if error.code() == Some("FENCED") => {
                let stored = error.detail().and_then(|stored| stored.trim().parse().ok());
                BridgeError::Fenced(stored.unwrap_or_default())
            }
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
                BridgeError::Refused(error.to_string())
            }
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => BridgeError::Unexpected(error.to_string()),
            _ => BridgeError::Away(error.to_string()),
        }
    }
}

impl From<BridgeError> for LogError {
    fn from(error: BridgeError) -> Self {
        LogError::Unavailable(error.to_string())
    }
}
