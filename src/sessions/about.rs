use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;

use super::SessionRequest;
use crate::clock::random_u64;
use crate::domain::{Origin, TenantId};
use crate::rooms::ConnectionId;
use crate::telemetry;
use crate::wire::Event;

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
    /// The request that opened it, where it has requests of its own.
    pub origin: Option<Arc<Origin>>,
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
            origin: request.origin.clone(),
        }
    }

    /// Works for the client's request of this number: as a request of its own, in the trace of the one that
    /// opened the connection.
    pub(super) fn within<T: 'static>(
        &self,
        id: u64,
        work: LocalBoxFuture<'static, T>,
    ) -> LocalBoxFuture<'static, T> {
        let Some(opened) = &self.origin else { return work };
        let trace = opened.trace.child(random_u64());
        let origin = Origin { request_id: format!("{}/{id}", opened.request_id).into(), trace };
        let span = tracing::info_span!(
            "command",
            connection_id = &*self.connection_id,
            tenant = %self.tenant,
            user_id = self.user_id.as_deref(),
            request_id = &*origin.request_id,
            trace_id = %trace.trace_id(),
        );
        Box::pin(telemetry::within(Arc::new(origin), span, work))
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

    /// A frame of this event was handed to the socket.
    #[cold]
    pub(super) fn log_delivered(&self, event: &Event) {
        let origin = event.origin();
        let span = tracing::trace_span!(
            "delivery",
            connection_id = &*self.connection_id,
            tenant = %self.tenant,
            user_id = self.user_id.as_deref(),
            event_id = event.position().map(tracing::field::display),
            request_id = origin.map(|origin| &*origin.request_id),
            trace_id = origin.map(|origin| tracing::field::display(origin.trace.trace_id())),
        );
        span.in_scope(|| tracing::trace!("delivered"));
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
