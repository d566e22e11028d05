use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};

use super::session::{Session, Step};
use super::{Grant, SendQueue};
use crate::actor_kit::{Counted, Port};
use crate::domain::{Cursor, Selector, TenantId};
use crate::identity::KeyRing;
use crate::log::{EventLog, LogError, PageLimit, TenantLog};
use crate::rooms::{Attach, Attached, ConnectionId, Hello, Joined, Notice, Principal, Rooms, SessionHandle};
use crate::telemetry::Metrics;
use crate::wire::CloseCode;

/// Messages that may wait for one session.
const MAILBOX: usize = 16;

/// A client's own name is kept and logged up to this length; browsers' take 80 to 140 bytes.
const USER_AGENT_BYTES: usize = 160;

/// What every session of a worker is given.
#[derive(Clone)]
pub struct SessionContext {
    /// The log.
    pub log: EventLog,
    /// The keys in force.
    pub keys: Arc<KeyRing>,
    /// The worker's registry.
    pub rooms: Rooms,
    /// The engine's metrics.
    pub metrics: Arc<Metrics>,
    /// What one read of a replay takes from the log.
    pub page: PageLimit,
    /// `ready` must be known within this time.
    pub ready_timeout: Duration,
    /// A reader that takes nothing for this long is gone.
    pub stall: Duration,
}

/// What a connection asks for, once its credentials and topics have been checked.
pub struct SessionRequest {
    /// Who.
    pub id: ConnectionId,
    /// Whose events.
    pub tenant: TenantId,
    /// What it may see.
    pub grants: Arc<[Grant]>,
    /// Where it wants to resume.
    pub cursor: Option<Cursor>,
    /// Its `ready` frame.
    pub hello: Hello,
    /// Its credentials.
    pub principal: Principal,
    /// Its way in: `sse`, …
    pub transport: &'static str,
    /// The client's address, for the log.
    pub peer: Option<IpAddr>,
    /// The client's own name, for the log.
    pub user_agent: String,
}

/// The control plane of one connection, on the worker thread that owns its socket.
///
/// Lives from the accepted request until its body is dropped or its registry closes it; the frames
/// themselves never pass through it.
pub struct SessionActor {
    context: Rc<SessionContext>,
    session: Session,
    queue: Rc<SendQueue>,
    port: Option<Port<SessionActor>>,
    log: Option<Arc<TenantLog>>,
    request: Option<Box<SessionRequest>>,
    about: About,
    closed: Option<CloseCode>,
}

/// What is said about the connection when it ends; kept while it is open, so in as few bytes as do.
struct About {
    id: ConnectionId,
    connection_id: Box<str>,
    tenant: TenantId,
    user_id: Option<Box<str>>,
    transport: &'static str,
    peer: Option<IpAddr>,
    /// At most [`USER_AGENT_BYTES`], beside a send queue of kilobytes: a line that can be read alone is worth it.
    user_agent: Box<str>,
    opened: Instant,
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
    fn new(request: &SessionRequest) -> Self {
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

    fn log_connected(&self, topics: usize) {
        line!(
            self.transport,
            connection_id = &*self.connection_id,
            tenant = %self.tenant,
            user_id = self.user_id.as_deref(),
            transport = self.transport,
            ip = self.peer.map(tracing::field::display),
            user_agent = &*self.user_agent,
            topics,
            "connected"
        );
    }

    fn log_disconnected(&self, close: Option<(u16, &'static str)>, bytes: u64) {
        let (code, reason) = close.unwrap_or((0, "client_left"));
        line!(
            self.transport,
            connection_id = &*self.connection_id,
            tenant = %self.tenant,
            user_id = self.user_id.as_deref(),
            transport = self.transport,
            ip = self.peer.map(tracing::field::display),
            user_agent = &*self.user_agent,
            code,
            reason,
            duration_ms = self.opened.elapsed().as_millis() as u64,
            bytes,
            "disconnected"
        );
    }
}

impl SessionActor {
    /// Starts a session on the current thread; its frames come out of `queue`.
    pub fn open(
        context: Rc<SessionContext>,
        request: SessionRequest,
        queue: Rc<SendQueue>,
    ) -> Port<SessionActor> {
        context.metrics.connected(request.transport, request.tenant.as_str());
        let about = About::new(&request);
        about.log_connected(request.grants.len());
        let actor = SessionActor {
            session: Session::new(request.grants.clone()),
            context,
            queue,
            port: None,
            log: None,
            request: Some(Box::new(request)),
            about,
            closed: None,
        };
        let address = actor.start();
        let port = Port::new(address, MAILBOX);
        // it attaches when it knows its own port; a new actor's mailbox has room
        let _ = port.tell(Begin(port.clone()));
        port
    }

    fn begin(&mut self, context: &mut Context<Self>) {
        let log = self.context.log.clone();
        let (tenant, patience) = (self.about.tenant.clone(), self.context.ready_timeout);
        let opened = async move { tokio::time::timeout(patience, log.open(&tenant)).await };
        let opened = opened.into_actor(self).map(|opened, actor, context| match opened {
            Ok(Ok(log)) => actor.attach(log, context),
            Ok(Err(_)) | Err(_) => actor.end(CloseCode::GoingAway, context),
        });
        context.spawn(opened);
    }

    fn attach(&mut self, log: Arc<TenantLog>, context: &mut Context<Self>) {
        let (Some(request), Some(port)) = (self.request.take(), self.port.take()) else {
            return;
        };
        self.log = Some(log.clone());
        let attach = Attach {
            id: request.id,
            log,
            grants: request.grants,
            queue: self.queue.clone(),
            cursor: request.cursor,
            hello: request.hello,
            principal: request.principal,
            handle: Box::new(port),
        };
        let key_id = attach.principal.key_id.clone();
        let attached = self.context.rooms.attach(attach);
        if self.context.keys.by_id(&key_id).is_none() {
            // revoked between the check of its credentials and now: the revocation did not find it
            self.context.rooms.leave(self.about.id);
            return self.end(CloseCode::Unauthenticated, context);
        }
        match attached {
            Ok(Attached::Live) => {}
            Ok(Attached::Behind { after }) => {
                let step = self.session.behind(after);
                self.take(step, context);
            }
            Err(code) => self.end(code, context),
        }
    }

    fn take(&mut self, step: Step, context: &mut Context<Self>) {
        match step {
            Step::Read { after } => self.read(after, context),
            Step::Drain { room } => {
                let queue = self.queue.clone();
                let drained = async move { poll_fn(|context| queue.poll_drained(context, room)).await };
                context.spawn(drained.into_actor(self).map(|(), actor, context| {
                    if !actor.queue.has_left() {
                        let step = actor.session.drained(&actor.queue);
                        actor.take(step, context);
                    }
                }));
            }
            Step::Join { after } => match self.context.rooms.join(self.about.id, after) {
                Ok(Joined::Live) => self.context.metrics.replayed(self.session.take_replayed()),
                Ok(Joined::Behind { after }) => self.read(after, context),
                Err(code) => self.end(code, context),
            },
            Step::Close(code) => {
                self.context.rooms.leave(self.about.id);
                self.end(code, context);
            }
        }
    }

    fn read(&mut self, after: u64, context: &mut Context<Self>) {
        let (Some(tenant_log), log) = (self.log.clone(), self.context.log.clone()) else {
            return;
        };
        let selectors: Arc<[Selector]> = self.session.selectors();
        let limit = self.context.page;
        let page = async move { log.read(&tenant_log, &selectors, after, limit).await };
        context.spawn(page.into_actor(self).map(|page, actor, context| {
            let step = match page {
                Ok(page) => actor.session.page(page, &actor.queue),
                Err(LogError::Unavailable(_) | LogError::Overloaded) => Step::Close(CloseCode::GoingAway),
                Err(_) => Step::Close(CloseCode::InsufficientState),
            };
            actor.take(step, context);
        }));
    }

    /// Ends a session that its registry does not hold (any more).
    fn end(&mut self, code: CloseCode, context: &mut Context<Self>) {
        self.queue.finish_with(code);
        self.closed.get_or_insert(code);
        context.stop();
    }
}

impl Actor for SessionActor {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        // also after a panic: the stream must not stay open without its session
        self.context.rooms.leave(self.about.id);
        self.queue.finish_with(CloseCode::GoingAway);
        let close = self.closed.map(|code| (code.code(), code.reason()));
        self.context.metrics.closed(self.about.transport, self.about.tenant.as_str(), close);
        self.about.log_disconnected(close, self.queue.sent_bytes());
    }
}

impl SessionHandle for Port<SessionActor> {
    fn notify(&self, notice: Notice) {
        // a session that has stopped has no use for it
        let _ = self.tell(Notify(notice));
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Begin(Port<SessionActor>);

#[derive(Message)]
#[rtype(result = "()")]
struct Notify(Notice);

/// The client has left, or the kernel has given it up.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Left {
    /// How long frames had been waiting without any being taken.
    pub stalled: Duration,
}

impl Handler<Counted<Begin>> for SessionActor {
    type Result = ();

    fn handle(&mut self, message: Counted<Begin>, context: &mut Context<Self>) {
        self.port = Some(message.open().0);
        self.begin(context);
    }
}

impl Handler<Counted<Notify>> for SessionActor {
    type Result = ();

    fn handle(&mut self, message: Counted<Notify>, context: &mut Context<Self>) {
        match message.open().0 {
            Notice::FellBehind { after } => {
                let step = self.session.behind(after);
                self.take(step, context);
            }
            Notice::Closed(code) => {
                self.closed = Some(code);
                context.stop();
            }
        }
    }
}

impl Handler<Counted<Left>> for SessionActor {
    type Result = ();

    fn handle(&mut self, message: Counted<Left>, context: &mut Context<Self>) {
        // the kernel and the sweep notice a reader that stopped at about the same time: whichever is
        // first, it is counted as what it is
        if message.open().stalled >= self.context.stall / 2 {
            self.closed.get_or_insert(CloseCode::SlowConsumer);
        }
        context.stop();
    }
}
