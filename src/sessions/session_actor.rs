use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, WrapFuture,
};

use tracing::Span;

use super::about::About;
use super::late::Late;
use super::notices::{Handle, Notices};
use super::requests::Refused;
use super::session::Session;
use super::{Capabilities, Grant, SendQueue};
use crate::actor_kit::{Counted, Handles, Port};
use crate::domain::{Cursor, Origin, TenantId};
use crate::identity::{Principal, Revocations};
use crate::limits::{Admission, Blocks};
use crate::log::{EventLog, PageLimit, TenantLog};
use crate::rooms::{Attach, Attached, ConnectionId, Hello, Rooms};
use crate::telemetry::{MailboxMetrics, Metrics};
use crate::wire::CloseCode;

/// Messages that may wait for one session.
const MAILBOX: usize = 16;

/// What every session of a worker is given.
#[derive(Clone)]
pub struct SessionContext {
    /// The log.
    pub log: EventLog,
    /// What is no longer good.
    pub revocations: Arc<Revocations>,
    /// What sessions can have done for their clients.
    pub capabilities: Rc<dyn Capabilities>,
    /// Who may not connect.
    pub blocks: Arc<Blocks>,
    /// The worker's registry.
    pub rooms: Rooms,
    /// The engine's metrics.
    pub metrics: Arc<Metrics>,
    /// Those of sessions.
    pub mailboxes: Arc<MailboxMetrics>,
    /// What one read of a replay takes from the log.
    pub page: PageLimit,
    /// `ready` must be known within this time.
    pub ready_timeout: Duration,
    /// A reader that takes nothing for this long is gone.
    pub stall: Duration,
    /// Most topics on one connection.
    pub max_topics: usize,
}

/// What a connection asks for, once its credentials and topics have been checked.
pub struct SessionRequest {
    /// Who.
    pub id: ConnectionId,
    /// Whose events.
    pub tenant: TenantId,
    /// What it may see.
    pub grants: Arc<[Grant]>,
    /// What else it asked for: it is told after `ready`.
    pub refused: Vec<Refused>,
    /// Where it wants to resume.
    pub cursor: Option<Cursor>,
    /// Its `ready` frame.
    pub hello: Hello,
    /// Its credentials.
    pub who: Principal,
    /// Its way in: `sse`, …
    pub transport: &'static str,
    /// The client's address, behind trusted proxies.
    pub peer: IpAddr,
    /// The client's own name, for the log.
    pub user_agent: String,
    /// The request that opened it, where the session has requests of its own.
    pub origin: Option<Arc<Origin>>,
    /// Its place among the connections that may be open.
    pub admission: Admission,
}

/// The control plane of one connection, on the worker thread that owns its socket.
///
/// Lives from the accepted request until its body is dropped or its registry closes it; the frames
/// themselves never pass through it.
pub struct SessionActor {
    pub(super) context: Rc<SessionContext>,
    pub(super) session: Session,
    pub(super) queue: Rc<SendQueue>,
    port: Option<Port<SessionActor>>,
    pub(super) log: Option<Arc<TenantLog>>,
    request: Option<Box<SessionRequest>>,
    pub(super) about: Rc<About>,
    pub(super) who: Principal,
    /// Whether it hears live events; otherwise it is catching up.
    pub(super) is_live: bool,
    /// What a request of the client has under way.
    pub(super) late: Option<Box<Late>>,
    /// Whether anything is computed for it beside what the log tells.
    pub(super) is_attended: bool,
    /// Held until the session has ended.
    admission: Option<Admission>,
    closed: Option<CloseCode>,
    notices: Rc<Notices>,
}

impl SessionActor {
    /// Starts a session on the current thread; its frames come out of `queue`.
    pub fn open(
        context: Rc<SessionContext>,
        request: SessionRequest,
        queue: Rc<SendQueue>,
    ) -> Port<SessionActor> {
        context.metrics.connected(request.transport, request.tenant.as_str());
        let about = Rc::new(About::new(&request));
        Span::current().record("connection_id", &*about.connection_id);
        about.log_connected(request.grants.len());
        queue.tell_of(about.clone());
        let mailboxes = context.mailboxes.clone();
        let actor = SessionActor {
            session: Session::new(request.grants.clone()),
            context,
            queue,
            port: None,
            log: None,
            who: request.who.clone(),
            request: Some(Box::new(request)),
            about,
            is_live: false,
            late: None,
            is_attended: false,
            admission: None,
            closed: None,
            notices: Rc::default(),
        };
        let address = actor.start();
        let port = Port::new(address, MAILBOX, mailboxes);
        // it attaches when it knows its own port; a new actor's mailbox has room
        let _ = port.tell(Begin(port.clone()));
        port
    }

    fn begin(&mut self, context: &mut Context<Self>) {
        let log = self.context.log.clone();
        let (tenant, patience) = (self.about.tenant.clone(), self.context.ready_timeout);
        let cursor = self.request.as_ref().and_then(|request| request.cursor);
        let (capabilities, who) = (self.context.capabilities.clone(), self.who.clone());
        let selectors = self.session.selectors();
        let opened = async move {
            let opened = tokio::time::timeout(patience, log.open_at(&tenant, cursor)).await;
            // what has come into being since it was judged is in the log's past, or is told of by the log
            if let Some(looked) = capabilities.look_again(&who, &selectors) {
                looked.await;
            }
            opened
        };
        let opened = opened.into_actor(self).map(|opened, actor, context| match opened {
            // between its opening and now it may have started afresh
            Ok(Ok(log)) => match actor.context.log.present(log.tenant()) {
                Some(present) if Arc::ptr_eq(&present, &log) => actor.attach(log, context),
                _ => actor.begin(context),
            },
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
            credentials: request.who.credentials(),
            about: self.about.clone(),
            handle: Box::new(Handle { port, notices: self.notices.clone() }),
        };
        self.admission = Some(request.admission);
        let credentials = attach.credentials.clone();
        let attached = self.context.rooms.attach(attach);
        // its worker may know a newer run of the log
        self.log = self.context.rooms.log_of(self.about.id).or(self.log.take());
        for Refused { topic, code } in &request.refused {
            self.queue.push_control(self.queue.dialect().unsubscribed(topic, code));
        }
        if let Some(code) = self.context.revocations.end_of(&self.about.tenant, &credentials) {
            // revoked between the check of its credentials and now: the revocation did not find it
            return self.leave(code, context);
        }
        if self.context.blocks.is_blocked(self.about.peer) {
            return self.leave(CloseCode::Forbidden, context);
        }
        // a grant withdrawn between its check and now was not found either
        self.recheck();
        match attached {
            Ok(Attached::Live) => self.went_live(context),
            Ok(Attached::Behind { after }) => {
                let step = self.session.behind(after);
                self.take(step, context);
            }
            Err(code) => self.end(code, context),
        }
    }

    /// Does what the registry has said since this was last called.
    fn heed(&mut self, context: &mut Context<Self>) {
        if let Some(code) = self.notices.closed.take() {
            self.closed = Some(code);
            return context.stop();
        }
        if self.notices.recheck.take() {
            let looked = self.context.capabilities.look_again(&self.who, &self.heard());
            self.recheck_after(looked, context, |_, _| {});
        }
        if self.notices.renewed.take() {
            self.log = self.context.rooms.log_of(self.about.id).or(self.log.take());
            self.is_live = false;
            self.fail_late();
        }
        if let Some((after, is_judged)) = self.notices.behind.take() {
            self.is_live = false;
            let catch_up = move |actor: &mut Self, context: &mut Context<Self>| {
                let step = actor.session.behind(after);
                actor.take(step, context);
            };
            match is_judged {
                true => {
                    let looked = self.context.capabilities.look_again(&self.who, &self.heard());
                    self.recheck_after(looked, context, catch_up);
                }
                false => self.judge(context, catch_up),
            }
        }
    }

    pub(super) fn went_live(&mut self, context: &mut Context<Self>) {
        self.is_live = true;
        self.tell_hearing(true);
        self.go_on_late(context);
    }

    /// Ends a session that its registry may hold.
    pub(super) fn leave(&mut self, code: CloseCode, context: &mut Context<Self>) {
        self.context.rooms.leave(self.about.id);
        self.end(code, context);
    }

    /// Ends a session that its registry does not hold (any more).
    pub(super) fn end(&mut self, code: CloseCode, context: &mut Context<Self>) {
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
        self.unattend();
        self.queue.finish_with(CloseCode::GoingAway);
        let close = self.closed.map(|code| (code.code(), code.reason()));
        self.context.metrics.closed(self.about.transport, self.about.tenant.as_str(), close);
        self.about.log_disconnected(close, self.queue.sent_bytes());
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Begin(Port<SessionActor>);

#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Noticed;

/// The client broke the protocol, and has been told.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Failed(pub CloseCode);

impl<M: Message> Handler<Counted<M>> for SessionActor
where
    SessionActor: Handles<M>,
{
    type Result = MessageResult<Counted<M>>;

    fn handle(&mut self, message: Counted<M>, context: &mut Context<Self>) -> Self::Result {
        let result = message.carry_out(self, context);
        self.heed(context);
        result
    }
}

impl Handles<Failed> for SessionActor {
    fn handle(&mut self, Failed(code): Failed, context: &mut Context<Self>) {
        self.leave(code, context);
    }
}

/// The client has left, or the kernel has given it up.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Left {
    /// How long frames had been waiting without any being taken.
    pub stalled: Duration,
}

impl Handles<Begin> for SessionActor {
    fn handle(&mut self, Begin(port): Begin, context: &mut Context<Self>) {
        self.port = Some(port);
        self.begin(context);
    }
}

impl Handles<Noticed> for SessionActor {
    fn handle(&mut self, _: Noticed, _: &mut Context<Self>) {}
}

impl Handles<Left> for SessionActor {
    fn handle(&mut self, Left { stalled }: Left, context: &mut Context<Self>) {
        // the kernel and the sweep notice a reader that stopped at about the same time: whichever is
        // first, it is counted as what it is
        if stalled >= self.context.stall / 2 {
            self.closed.get_or_insert(CloseCode::SlowConsumer);
        }
        context.stop();
    }
}
