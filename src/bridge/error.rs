use redis::{ErrorKind, ParsingError, RedisError};

use crate::log::LogError;
use crate::storage::StoreError;

const WRONG_PASSWORD: &str = "Redis did not take the user and password: set them as redis://user:password@host:port, \
     or redis://:password@host:port for the default user";

/// Why Redis did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BridgeError {
    /// It cannot be reached, or not in time; whether the command was carried out is unknown.
    #[error("Redis cannot be reached: {0}")]
    Away(String),
    /// There is no link to whoever should be asked: nothing was.
    #[error("Redis cannot be reached: {0}")]
    Unlinked(String),
    /// It refused: read-only, out of memory, a wrong password, keys of somebody else.
    #[error("{0}")]
    Refused(String),
    /// It takes no writes: a replica by now, or a master that is cut off from the others.
    #[error("{0}")]
    Unwilling(String),
    /// The key is on its way to another server.
    #[error("{0}")]
    Moving(String),
    /// A later leader has appended: this node's lease has been another's since.
    #[error("another node is the leader (fence {0})")]
    Fenced(u64),
    /// Another node has met a later run of the log than the one that this node's Redis keeps.
    #[error("the log has a later run elsewhere")]
    Superseded,
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
            _ if error.code() == Some("NOPERM") => BridgeError::Refused(format!(
                "its user has no permission for what is needed (docs/operations.md lists it): {error}"
            )),
            _ if matches!(error.code(), Some("READONLY" | "NOREPLICAS" | "CLUSTERDOWN" | "MASTERDOWN")) => {
                BridgeError::Unwilling(format!("Redis takes no writes: {error}"))
            }
            _ if matches!(error.code(), Some("MOVED" | "ASK" | "TRYAGAIN")) => {
                BridgeError::Moving(format!("the slot is on its way to another server: {error}"))
            }
            ErrorKind::AuthenticationFailed => BridgeError::Refused(WRONG_PASSWORD.into()),
            _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => {
                BridgeError::Refused(WRONG_PASSWORD.into())
            }
            ErrorKind::Server(_) | ErrorKind::Extension => {
                BridgeError::Refused(format!("Redis refused: {error}"))
            }
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => BridgeError::Unexpected(error.to_string()),
            _ => BridgeError::Away(error.to_string()),
        }
    }
}

impl From<ParsingError> for BridgeError {
    fn from(error: ParsingError) -> Self {
        RedisError::from(error).into()
    }
}

impl BridgeError {
    /// Whether it is known that what was to be done was not.
    pub(super) fn is_known(&self) -> bool {
        matches!(
            self,
            BridgeError::Unlinked(_)
                | BridgeError::Refused(_)
                | BridgeError::Unwilling(_)
                | BridgeError::Moving(_)
        )
    }
}

impl From<StoreError> for BridgeError {
    fn from(error: StoreError) -> Self {
        BridgeError::Away(error.to_string())
    }
}

impl From<BridgeError> for LogError {
    fn from(error: BridgeError) -> Self {
        LogError::Unavailable(error.to_string())
    }
}
