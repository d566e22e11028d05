use std::collections::HashMap;
use std::sync::Arc;

use super::servers::Access;
use crate::domain::{TenantId, Topic};

/// What the log of a cluster is kept by.
#[derive(Clone, Debug)]
pub struct BridgeOptions {
    /// How Redis is reached.
    pub access: Access,
    /// What every key and channel begins with.
    pub prefix: String,
    /// Names this node in the cluster.
    pub server_id: Arc<str>,
    /// Whether every log starts afresh, as after PostgreSQL was restored.
    pub new_epoch: bool,
    /// What other services publish, if it is taken in.
    pub ingest: Option<IngestOptions>,
    /// How this cluster's own events are published for other services; None: they are not.
    pub mirror: Option<MirrorOptions>,
}

/// What other services hear of this cluster's own events.
#[derive(Clone, Debug)]
pub struct MirrorOptions {
    /// Which events of users, beside those of entities; a star at the end stands for any ending.
    pub user_events: Vec<String>,
    /// Whether rankings of all bids are published on one more channel.
    pub all_rankings: bool,
}

/// What is taken in of other services.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// Into whose log.
    pub tenant: TenantId,
    /// Channels of this installation, and where their messages go.
    pub channels: HashMap<String, Topic>,
    /// How deep a message may be nested.
    pub depth: usize,
}
