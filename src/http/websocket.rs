use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_codec::{AsyncRead, AsyncWrite, Framed};
use actix_http::body::BodySize;
use actix_http::{ConnectionType, HttpMessage, Request, Response, h1, ws};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use actix_web::{HttpResponse, get};
use futures_util::SinkExt;
use futures_util::future::LocalBoxFuture;

use super::Problem;
use super::gate::Caller;
use super::problem::{ProblemBody, retry_after_s, status};
use super::query::Query;
use super::streams::{WorkerContext, batching, hello, within_limit};
use super::{Services, auth};
use crate::domain::{Cursor, Refusal, RefusalKind, Selector};
use crate::identity::{Presented, Principal, is_ticket};
use crate::limits::Attempt;
use crate::sessions::{
    Auth, Batching, Doorkeeper, Frames, Refused, SendQueue, SessionActor, SessionInbox, SessionRequest, Slot,
    WsConnection, WsLimits,
};
use crate::telemetry::within;
use crate::topics::UNAVAILABLE;
use crate::wire::{CloseCode, Framing};

/// Where the native WebSocket protocol is spoken.
const PATH: &str = "/v2/realtime/ws";

/// Listen to topics, publish and command over one WebSocket.
///
/// A request without `Upgrade: websocket` is told so; the protocol is described in the documentation.
#[utoipa::path(
    tag = "realtime",
    security(()),
    params(
        ("topics" = Option<String>, Query, description = "topics separated by commas, at most 128; more by `subscribe`"),
        ("cursor" = Option<String>, Query, description = "position to resume from"),
        ("batch_ms" = Option<u64>, Query, description = "events in batches, put together for so long"),
        ("batch_max" = Option<u64>, Query, description = "most events of a batch"),
        ("ticket" = Option<String>, Query, description = "for clients that cannot send headers; others may also say who they are by `auth`"),
    ),
    responses(
        (status = 101, description = "the WebSocket is open"), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 426, body = ProblemBody),
    )
)]
#[get("/v2/realtime/ws")]
pub async fn plain() -> Result<HttpResponse, Problem> {
    let detail = "this is a WebSocket: ask with Upgrade: websocket (RFC 6455)";
    Err(Problem(Refusal::new(RefusalKind::UpgradeRequired, "upgrade_required", detail)))
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(plain);
}

/// A connection of the native protocol.
pub type NativeConnection<Io> = WsConnection<Io, SessionInbox>;

/// Answers a request with `Upgrade: websocket`; the connection, if it becomes one, is for the caller to drive.
///
/// Such requests pass none of the app's middleware.
pub async fn websocket<Io: AsyncRead + AsyncWrite + Unpin>(
    services: Services,
    worker: Rc<WorkerContext>,
    request: Request,
    mut framed: Framed<Io, h1::Codec>,
) -> Option<NativeConnection<Io>> {
    let started = Instant::now();
    let caller = services.gate.caller(request.head());
    let answered = |status: StatusCode| {
        let path = if request.path() == PATH { PATH } else { "none" };
        let (status, seconds) = (status.as_u16(), started.elapsed().as_secs_f64());
        services.metrics.http_answered(path, "GET", status, seconds);
        let (request_id, trace_id) = (&*caller.origin.request_id, caller.origin.trace.trace_id());
        tracing::debug!(request_id, %trace_id, ip = %caller.address, path = request.path(), status, seconds, "answered");
    };
    let mut door = Door::new(services.clone(), worker, &request, caller.clone());
    let span = caller.span();
    let visitor = match within(caller.origin.clone(), span.clone(), door.open(&request)).await {
        Ok(visitor) => visitor,
        Err(refusal) => {
            answered(status(refusal.kind));
            refuse(&mut framed, &refusal, |headers| services.gate.finish(headers, &caller)).await;
            return None;
        }
    };
    let mut response = ws::handshake_response(request.head()).finish().drop_body();
    services.gate.finish(response.headers_mut(), &caller);
    // a client that went away meanwhile needs no connection
    framed.send(h1::Message::Item((response, BodySize::None))).await.ok()?;
    answered(StatusCode::SWITCHING_PROTOCOLS);
    let parts = framed.into_parts();
    Some(span.in_scope(|| door.connect(visitor, parts.io, parts.read_buf)))
}

/// Who stands before the door.
enum Visitor {
    /// Somebody known, who asks for these topics and may have those.
    Known(Box<SessionRequest>),
    /// Somebody who has yet to say.
    Stranger,
}

/// What a connection is to hear from the start, by its request's query.
#[derive(Clone, Default)]
struct Wishes {
    selectors: Vec<Selector>,
    cursor: Option<Cursor>,
    batching: Option<Batching>,
}

#[derive(Clone)]
struct Door {
    services: Services,
    worker: Rc<WorkerContext>,
    caller: Caller,
    user_agent: String,
    wishes: Wishes,
    /// Counted until the client has said who it is.
    attempt: Rc<Cell<Option<Attempt>>>,
}

impl Door {
    fn new(services: Services, worker: Rc<WorkerContext>, request: &Request, caller: Caller) -> Self {
        let user_agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok());
        let user_agent = user_agent.unwrap_or_default().to_owned();
        Door { services, worker, caller, user_agent, wishes: Wishes::default(), attempt: Rc::default() }
    }

    /// What the app's middleware does for other requests, then the judgement.
    async fn open(&mut self, request: &Request) -> Result<Visitor, Refusal> {
        let gate = self.services.gate.clone();
        let attempt = gate.enter_upgrade(request.head(), &self.caller)?;
        match self.judge(request).await {
            Ok(Visitor::Stranger) => {
                self.attempt.set(Some(attempt));
                Ok(Visitor::Stranger)
            }
            Ok(known) => {
                attempt.give_back();
                Ok(known)
            }
            Err(refusal) => {
                let settled = gate.settle(self.caller.address, Some(attempt), status(refusal.kind)).await;
                Err(settled.err().unwrap_or(refusal))
            }
        }
    }

    async fn judge(&mut self, request: &Request) -> Result<Visitor, Refusal> {
        if request.path() != PATH {
            let detail = "there is no WebSocket at this path";
            return Err(Refusal::new(RefusalKind::NotFound, "no_websocket", detail));
        }
        ws::verify_handshake(request.head())
            .map_err(|error| Refusal::new(RefusalKind::Malformed, "bad_handshake", error.to_string()))?;
        if self.services.is_draining() {
            return Err(Refusal::new(RefusalKind::Unavailable, "draining", "this node is draining"));
        }
        let query = Query::parse(request.uri().query().unwrap_or_default())?;
        let wishes = self.wishes(&query);
        let ticket = query.get("ticket");
        let peer = request.peer_addr().map(|peer| peer.ip());
        let presented = auth::presented(request.headers(), PATH, peer);
        if ticket.is_none() && !presented.has_credentials() && !presented.names_somebody() {
            self.wishes = wishes?;
            return Ok(Visitor::Stranger);
        }
        // whoever cannot be identified learns nothing about the parameters
        let principal = match ticket {
            Some(ticket) => {
                // a request that is wrong does not use it up
                let may = async |_: &Principal| wishes.as_ref().map(drop).map_err(Refusal::clone);
                auth::by_ticket(&self.services, &presented, ticket, None, may).await?
            }
            None => auth::identify(&self.services, &presented).await?,
        };
        self.wishes = wishes?;
        let (selectors, cursor) = (self.wishes.selectors.clone(), self.wishes.cursor);
        self.services.topics.freshen(&principal, &selectors).await;
        Ok(Visitor::Known(Box::new(self.request(principal, selectors, cursor)?)))
    }

    fn wishes(&self, query: &Query) -> Result<Wishes, Refusal> {
        let topics = query.get("topics").map_or(Ok(Vec::new()), |_| query.list("topics"))?;
        Ok(Wishes { selectors: self.read(topics)?, cursor: query.cursor(), batching: batching(query)? })
    }

    /// Reads topics that a connection begins with; one that is none refuses the whole request.
    fn read<'a>(&self, topics: impl IntoIterator<Item = &'a str>) -> Result<Vec<Selector>, Refusal> {
        let parse = |topic: &str| {
            Selector::parse(topic)
                .map_err(|error| Refusal::malformed("topics", format!("{topic:?}: {error}")))
        };
        let limit = self.services.settings.sessions.max_topics;
        within_limit(topics.into_iter().map(parse).collect::<Result<_, _>>()?, limit)
    }

    fn request(
        &self,
        principal: Principal,
        selectors: Vec<Selector>,
        cursor: Option<Cursor>,
    ) -> Result<SessionRequest, Refusal> {
        let services = &self.services;
        services.gate.limiter.connect(&principal)?;
        let admission = services.gate.limiter.admit(&principal, self.caller.address)?;
        let (mut grants, mut refused) = (Vec::with_capacity(selectors.len()), Vec::new());
        for selector in selectors {
            match self.worker.sessions.capabilities.grant(&principal, &selector) {
                Ok(grant) => grants.push(grant),
                Err(code) => refused.push(Refused { topic: selector.to_string(), code }),
            }
        }
        if refused.iter().any(|own| own.code != UNAVAILABLE) {
            services.metrics.auth_failed("forbidden_topics");
        }
        let id = services.next_connection();
        if let Some(ticket_id) = &principal.ticket_id {
            services.replace_ticket(ticket_id, id);
        }
        Ok(SessionRequest {
            id,
            tenant: principal.tenant()?.clone(),
            grants: Arc::from(grants),
            refused,
            cursor,
            hello: hello(services, id, principal.user.as_ref().map(|user| user.sub.as_str())),
            who: principal,
            transport: "websocket",
            peer: self.caller.address,
            user_agent: self.user_agent.clone(),
            origin: Some(self.caller.origin.clone()),
            admission,
        })
    }

    fn connect<Io: AsyncRead + AsyncWrite + Unpin>(
        self,
        visitor: Visitor,
        io: Io,
        read: bytes::BytesMut,
    ) -> NativeConnection<Io> {
        let settings = self.services.settings.clone();
        let worker = &self.worker;
        let batching = self.wishes.batching;
        let framing = if batching.is_some() { Framing::WEBSOCKET.batched() } else { Framing::WEBSOCKET };
        let queue = Rc::new(SendQueue::new(framing, worker.limits, worker.queues.clone()));
        let frames = match batching {
            None => Frames::of(queue.clone()),
            Some(batching) => {
                let clock = self.services.log.clock();
                Frames::batched(queue.clone(), batching, settings.sessions.queue_bytes, clock)
            }
        };
        let slot: Slot = Rc::default();
        let doorkeeper: Option<Rc<dyn Doorkeeper>> = match visitor {
            Visitor::Known(request) => {
                *slot.borrow_mut() =
                    Some(SessionActor::open(worker.sessions.clone(), *request, queue.clone()));
                None
            }
            Visitor::Stranger => {
                expect_auth(&slot, &queue, Duration::from_millis(settings.auth.websocket_timeout_ms));
                Some(Rc::new(self))
            }
        };
        let limits = WsLimits {
            message_bytes: settings.log.max_message_bytes,
            message_time: Duration::from_millis(settings.server.request_body_timeout_ms),
        };
        WsConnection::new(io, read, frames, SessionInbox::new(queue, slot, doorkeeper), limits)
    }
}

impl Doorkeeper for Door {
    fn admit(
        &self,
        auth: Auth,
        queue: Rc<SendQueue>,
        slot: Slot,
    ) -> LocalBoxFuture<'static, Result<(), Refusal>> {
        let door = self.clone();
        Box::pin(async move {
            let request = match door.identify(auth).await {
                Ok(request) => request,
                // it may try again
                Err(refusal) if matches!(refusal.kind, RefusalKind::Malformed | RefusalKind::Invalid) => {
                    return Err(refusal);
                }
                Err(refusal) => {
                    let (attempt, status) = (door.attempt.take(), status(refusal.kind));
                    let settled = door.services.gate.settle(door.caller.address, attempt, status).await;
                    return Err(settled.err().unwrap_or(refusal));
                }
            };
            door.attempt.take().into_iter().for_each(Attempt::give_back);
            let session = SessionActor::open(door.worker.sessions.clone(), request, queue);
            *slot.borrow_mut() = Some(session);
            Ok(())
        })
    }
}

impl Door {
    async fn identify(&self, auth: Auth) -> Result<SessionRequest, Refusal> {
        let more = auth.topics.unwrap_or_default();
        let more = self.read(more.iter().map(String::as_str))?;
        let limit = self.services.settings.sessions.max_topics;
        let selectors = within_limit([self.wishes.selectors.clone(), more].concat(), limit)?;
        let principal = match is_ticket(&auth.token) {
            true => {
                let presented = Presented { path: PATH, ..Presented::default() };
                auth::by_ticket(&self.services, &presented, &auth.token, None, async |_| Ok(())).await?
            }
            false => auth::of_secret(&self.services, &auth.token).await?,
        };
        let cursor = auth.cursor.as_deref().and_then(Cursor::given).or(self.wishes.cursor);
        self.services.topics.freshen(&principal, &selectors).await;
        self.request(principal, selectors, cursor)
    }
}

/// Ends a connection that does not say in time who it is.
fn expect_auth(slot: &Slot, queue: &Rc<SendQueue>, patience: Duration) {
    let (slot, queue) = (Rc::downgrade(slot), Rc::downgrade(queue));
    tokio::task::spawn_local(async move {
        tokio::time::sleep(patience).await;
        if let (Some(slot), Some(queue)) = (slot.upgrade(), queue.upgrade())
            && slot.borrow().is_none()
        {
            queue.cut(CloseCode::Unauthenticated);
        }
    });
}

async fn refuse<Io: AsyncRead + AsyncWrite + Unpin>(
    framed: &mut Framed<Io, h1::Codec>,
    refusal: &Refusal,
    finish: impl FnOnce(&mut HeaderMap),
) {
    let body = serde_json::to_vec(&ProblemBody::new(refusal)).expect("a problem is plain data");
    let mut response = Response::new(status(refusal.kind)).drop_body();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    match refusal.kind {
        RefusalKind::Unauthenticated => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"bongsu\""));
        }
        RefusalKind::Unavailable | RefusalKind::RateLimited => {
            headers.insert(RETRY_AFTER, retry_after_s(refusal).into());
        }
        _ => {}
    }
    finish(headers);
    response.head_mut().set_connection_type(ConnectionType::Close);
    let sent = async {
        framed.feed(h1::Message::Item((response, BodySize::Sized(body.len() as u64)))).await?;
        framed.feed(h1::Message::Chunk(Some(body.into()))).await?;
        framed.send(h1::Message::Chunk(None)).await
    };
    // a client that went away meanwhile needs no answer
    let _ = sent.await;
}
