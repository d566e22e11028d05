use std::net::IpAddr;
use std::time::Instant;

use super::SessionRequest;
use crate::domain::TenantId;
use crate::rooms::ConnectionId;

/// A client's own name is kept and logged up to this length; browsers' take 80 to 140 bytes.
const USER_AGENT_BYTES: usize = 160;

/// What is said about the connection to administrators and when it ends; kept while it is open, so in as few
/// bytes as do.
#[derive(Debug)]
pub struct About {
    /// Names it within its node.
    pub id: ConnectionId,
    /// Unique in the cluster.
    pub connection_id: Box<str>,
    /// Whose events it hears.
    pub tenant: TenantId,
    /// The user, when the principal is one.
    pub user_id: Option<Box<str>>,
    /// Its way in: `sse`, …
    pub transport: &'static str,
    /// The client's address, behind trusted proxies.
    pub peer: IpAddr,
    /// At most 160 bytes, beside a send queue of kilobytes: a line that can be read alone is worth it.
    pub user_agent: Box<str>,
    /// When it was accepted.
    pub opened: Instant,
}

/// A line for each connection; polls come and go too often for anybody to read.
macro_rules! line {
    ($transport:expr, $($line:tt)*) => {
        match $transport {
            "poll" => tracing::debug!($($line)*),
            _ => tracing::info!($($line)*),
        }
    };
}

impl About {
    pub(super) fn new(request: &SessionRequest) -> Self {
        let shown = request.user_agent.floor_char_boundary(USER_AGENT_BYTES);
        About {
            id: request.id,
            connection_id: request.hello.connection_id.as_str().into(),
            tenant: request.tenant.clone(),
            user_id: request.hello.user_id.as_deref().map(Into::into),
            transport: request.transport,
            peer: request.peer,
            user_agent: request.user_agent[..shown].into(),
            opened: Instant::now(),
        }
    }

    pub(super) fn log_connected(&self, topics: usize) {
        line!(
            self.transport,
            connection_id = &*self.connection_id,
            tenant = %self.tenant,
            user_id = self.user_id.as_deref(),
            transport = self.transport,
            ip = %self.peer,
            user_agent = &*self.user_agent,
            topics,
            "connected"
        );
    }

    pub(super) fn log_disconnected(&self, close: Option<(u16, &'static str)>, bytes: u64) {
        let (code, reason) = close.unwrap_or((0, "client_left"));
        line!(
            self.transport,
            connection_id = &*self.connection_id,
            tenant = %self.tenant,
            user_id = self.user_id.as_deref(),
            transport = self.transport,
            ip = %self.peer,
            user_agent = &*self.user_agent,
            code,
            reason,
            duration_ms = self.opened.elapsed().as_millis() as u64,
            bytes,
            "disconnected"
        );
    }
}
