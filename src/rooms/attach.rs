//! What a session and its worker's registry tell each other.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{Cursor, Position, TenantId};
use crate::identity::Credentials;
use crate::log::{Recovery, TenantLog};
use crate::sessions::{About, Grant, SendQueue};
use crate::wire::{CloseCode, Dialect, Ready};

/// Names a connection within its process.
pub type ConnectionId = u64;

/// How the registry reaches a session's actor.
pub trait SessionHandle {
    /// Tells it something; must not call back.
    fn notify(&self, notice: Notice);
}

/// What a session is told by its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The worker moved past what it could deliver: catch up from here.
    FellBehind {
        /// Everything up to this number has been delivered.
        after: u64,
    },
    /// An entity of its topics has come into being, and with it who may hear of it: judge them again, then
    /// catch up from here.
    Created {
        /// The number of the entry that says so.
        after: u64,
    },
    /// The tenant's log has started afresh: what it was about to read or to join is of no use; it is told
    /// from where to catch up.
    Renewed,
    /// Who may hear its topics has changed: judge them again.
    Recheck,
    /// The session is over; its queue has been told.
    Closed(CloseCode),
}

/// What a connection is told first, but for where it stands.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Unique in the cluster.
    pub connection_id: String,
    /// The node.
    pub server_id: Arc<str>,
    /// The user, when the principal is one.
    pub user_id: Option<String>,
    /// Largest message accepted, bytes.
    pub max_message_bytes: usize,
    /// Most topics on one connection.
    pub max_topics: usize,
}

impl Hello {
    /// The frame that says it.
    pub fn ready(
        &self,
        tenant: &TenantId,
        (recovery, position): (Recovery, Position),
        grants: &[Grant],
        heartbeat: Duration,
    ) -> Ready {
        Ready {
            connection_id: self.connection_id.clone(),
            server_id: self.server_id.clone(),
            tenant_id: tenant.as_str().to_owned(),
            user_id: self.user_id.clone(),
            topics: grants.iter().map(|grant| grant.selector.to_string()).collect(),
            heartbeat_ms: heartbeat.as_millis() as u64,
            position,
            recovered: recovery.recovered(),
            reason: recovery.reason(),
            max_frame_bytes: self.max_message_bytes,
            max_message_bytes: self.max_message_bytes,
            max_topics: self.max_topics,
        }
    }
}

/// A session that wants in.
pub struct Attach {
    /// Who.
    pub id: ConnectionId,
    /// The tenant's log.
    pub log: Arc<TenantLog>,
    /// What it may see.
    pub grants: Arc<[Grant]>,
    /// Where its frames go.
    pub queue: Rc<SendQueue>,
    /// Where it wants to resume.
    pub cursor: Option<Cursor>,
    /// Its `ready` frame.
    pub hello: Hello,
    /// Its credentials.
    pub credentials: Credentials,
    /// What administrators are told about it.
    pub about: Rc<About>,
    /// Its actor.
    pub handle: Box<dyn SessionHandle>,
}

/// How a session got in; `ready` is in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// It hears live events from here on.
    Live,
    /// It has to replay what came after this number, then join.
    Behind {
        /// The cursor's number.
        after: u64,
    },
}

/// Whether a session that caught up is live now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It hears live events from here on.
    Live,
    /// The log has moved on: read again after this number.
    Behind {
        /// Where it stands.
        after: u64,
    },
}

/// Whether topics that were added late are live now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Widened {
    /// The session hears them from here on.
    Live {
        /// From where on.
        position: Position,
        /// All that it hears.
        grants: Arc<[Grant]>,
    },
    /// The log has moved on: read again after this number.
    Behind {
        /// Up to where they have been given.
        after: u64,
    },
    /// The session itself is catching up; they join after it.
    NotLive,
    /// The session is over.
    Gone,
}

/// An open connection, as administrators see it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Names it within its node, rising with time.
    pub id: ConnectionId,
    /// Unique in the cluster.
    pub connection_id: String,
    /// The user, when the principal is one.
    pub user_id: Option<String>,
    /// Its way in: `sse`, …
    pub transport: &'static str,
    /// The client's address.
    pub address: IpAddr,
    /// The client's own name.
    pub user_agent: String,
    /// How many topics it listens to.
    pub topics: usize,
    /// How long it has been open.
    pub age: Duration,
}

/// How far a session has been given what it may hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Everything of its topics up to here has been put into its queue.
    pub position: Position,
    /// Whether it hears live events; otherwise it is catching up, and more of the past may be in its queue.
    pub is_live: bool,
}

/// Times that the registry keeps.
#[derive(Clone, Copy, Debug)]
pub struct RegistryOptions {
    /// Distance of heartbeats.
    pub heartbeat: Duration,
    /// The same on streams of system 2.
    pub user_heartbeat: Duration,
    /// How often sessions are looked after.
    pub sweep: Duration,
    /// A reader that takes nothing for this long is gone.
    pub stall: Duration,
    /// Age at which connections are closed, up to a tenth later.
    pub max_age: Duration,
    /// Reconnection delays of drained sessions spread over this.
    pub retry_spread: Duration,
}

impl RegistryOptions {
    /// Distance of heartbeats on a connection.
    pub fn heartbeat_of(&self, queue: &SendQueue) -> Duration {
        match queue.dialect() {
            Dialect::SseUnnamed => self.user_heartbeat,
            _ => self.heartbeat,
        }
    }
}
