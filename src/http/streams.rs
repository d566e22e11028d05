use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, USER_AGENT};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError, get};
use tokio::time::timeout;

use super::auth::{authenticate, by_ticket, count_failure, shown};
use super::gate::{self, Opening};
use super::problem::ProblemBody;
use super::query::Query;
use super::services::services;
use super::{Problem, Services};
use crate::domain::{Cursor, Refusal, RefusalKind, Selector, Topic, TopicKind};
use crate::identity::Principal;
use crate::identity::rights::oneself;
use crate::rooms::Hello;
use crate::sessions::{
    Batching, Frames, Grant, Listening, QueueLimits, QueueMetrics, SendQueue, SessionActor, SessionContext,
    SessionRequest, SseBody,
};
use crate::topics::UNAVAILABLE;
use crate::wire::{self, CloseCode, Dialect, Framing};

/// Paths whose answer is an event stream.
pub const STREAMS: &[&str] = &[
    "/v2/realtime/stream",
    "/v2/realtime/ei-updates",
    "/v2/realtime/bid-updates",
    "/v2/realtime/proposal-ranking-updates",
    "/v2/realtime/order-updates",
    "/events/sse",
    "/api/events/sse",
];

/// Whoever asks for a stream is let in or told to come back within this time, so that the first bytes come within
/// a second, however slow the store is.
const FIRST_BYTES: Duration = Duration::from_millis(750);

/// What a request asks to hear.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// These topics and prefixes.
    These(Vec<Selector>),
    /// The topic of whichever user sends it.
    Own,
}

impl Wanted {
    fn within(self, limit: usize) -> Result<Self, Refusal> {
        match self {
            Wanted::These(selectors) => Ok(Wanted::These(within_limit(selectors, limit)?)),
            Wanted::Own => Ok(Wanted::Own),
        }
    }

    /// What is named in the request itself; None where its sender decides.
    fn named(&self) -> Option<&[Selector]> {
        match self {
            Wanted::These(selectors) => Some(selectors),
            Wanted::Own => None,
        }
    }

    fn of(&self, principal: &Principal) -> Result<Vec<Selector>, Refusal> {
        match self {
            Wanted::These(selectors) => Ok(selectors.clone()),
            Wanted::Own => Ok(vec![Selector::Topic(Topic::user(&oneself(principal)?.sub))]),
        }
    }
}

/// What the worker thread of a stream gives to its sessions.
pub struct WorkerContext {
    /// For session actors.
    pub sessions: Rc<SessionContext>,
    /// For send queues.
    pub queues: Rc<QueueMetrics>,
    /// For send queues.
    pub limits: QueueLimits,
}

/// Listen to any topics on one connection.
#[utoipa::path(
    tag = "realtime",
    params(
        ("topics" = String, Query, description = "topics separated by commas, at most 128"),
        ("cursor" = Option<String>, Query, description = "position to resume from; Last-Event-ID beats it"),
        ("ticket" = Option<String>, Query, description = "for clients that cannot send headers"),
        ("batch_ms" = Option<u64>, Query, description = "put events together for up to this time, 10-5000 milliseconds (100)"),
        ("batch_max" = Option<u64>, Query, description = "put at most so many events together, 1-1000 (50)"),
    ),
    responses(
        (status = 200, description = "an event stream; data is the whole event object", content_type = "text/event-stream"),
        (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
    )
)]
#[get("/v2/realtime/stream")]
pub async fn stream(request: HttpRequest) -> HttpResponse {
    let selectors = Query::of(&request).and_then(|query| query.topics());
    respond(&request, selectors, Framing::SSE_OBJECT).await
}

macro_rules! entity_stream {
    ($(#[$doc:meta])* $name:ident, $path:literal, $parameter:literal, $kind:expr, $framing:expr) => {
        $(#[$doc])*
        #[utoipa::path(
            tag = "realtime",
            params(
                ($parameter = String, Query, description = "ids, separated by commas"),
                ("cursor" = Option<String>, Query, description = "position to resume from; Last-Event-ID beats it"),
                ("ticket" = Option<String>, Query, description = "for clients that cannot send headers"),
                ("batch_ms" = Option<u64>, Query, description = "put events together for up to this time, 10-5000 milliseconds (100)"),
                ("batch_max" = Option<u64>, Query, description = "put at most so many events together, 1-1000 (50)"),
            ),
            responses(
                (status = 200, description = "an event stream; data is the event's data alone", content_type = "text/event-stream"),
                (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
            )
        )]
        #[get($path)]
        pub async fn $name(request: HttpRequest) -> HttpResponse {
            let ids = Query::of(&request).and_then(|query| query.ids($parameter));
            let topic = |id| Selector::Topic(Topic::of($kind, &id));
            let selectors = ids.map(|ids| ids.into_iter().map(topic).collect());
            respond(&request, selectors, $framing).await
        }
    };
}

entity_stream!(
    /// Listen to the carbon intensity of fleets: `ei_updated`.
    ei_updates, "/v2/realtime/ei-updates", "fleet_ids", TopicKind::Fleet, Framing::SSE_DATA
);
entity_stream!(
    /// Listen to the status of bids: `bid_status_changed`.
    bid_updates, "/v2/realtime/bid-updates", "bid_ids", TopicKind::Bid, Framing::SSE_DATA
);
entity_stream!(
    /// Listen to the ranking of a bid's proposals: `proposal_ranking_updated` with the whole ranking, at once and at
    /// every change.
    ranking_updates, "/v2/realtime/proposal-ranking-updates", "bid_id", TopicKind::Ranking, Framing::SSE_DATA.with_whole_rankings()
);
entity_stream!(
    /// Listen to the status of orders: `order_status_changed`.
    order_updates, "/v2/realtime/order-updates", "order_ids", TopicKind::Order, Framing::SSE_DATA
);

async fn respond(
    request: &HttpRequest,
    selectors: Result<Vec<Selector>, Refusal>,
    framing: Framing,
) -> HttpResponse {
    let asked = Query::of(request).and_then(|query| Ok((Wanted::These(selectors?), batching(&query)?)));
    open(request, asked, (framing, worker(request).limits))
        .await
        .unwrap_or_else(|refusal| refuse(request, refusal))
}

/// The stream of the sender's own events, unnamed, for clients of system 2.
pub(super) async fn respond_own(request: &HttpRequest) -> HttpResponse {
    let items = services(request).settings.sessions.user_queue_items;
    let limits = QueueLimits { items, ..worker(request).limits };
    open(request, Ok((Wanted::Own, None)), (Framing::USER_EVENTS, limits))
        .await
        .unwrap_or_else(|refusal| refuse(request, refusal))
}

async fn open(
    request: &HttpRequest,
    asked: Result<(Wanted, Option<Batching>), Refusal>,
    (framing, limits): (Framing, QueueLimits),
) -> Result<HttpResponse, Refusal> {
    let query = Query::of(request)?;
    // given up, it leaves nothing behind but perhaps a ticket that is now bound to this very stream
    let admitted = timeout(FIRST_BYTES, admit(request, &query, asked, "sse")).await;
    let (session, batching) = admitted.unwrap_or_else(|_| {
        let detail = "the credentials could not be judged in time, try again";
        Err(Refusal::new(RefusalKind::Unavailable, "not_in_time", detail))
    })?;
    let session = SessionRequest { cursor: resumed(request, &query), ..session };
    let services = services(request);
    let framing = if batching.is_some() { framing.batched() } else { framing };
    let settings = &services.settings.sessions;
    let session = listen(request, session, (framing, limits));
    // the session begins when this handler is through: these bytes come first
    session.queue().push_control(wire::retry_frame(Duration::from_millis(settings.retry_ms)));
    let queue = session.queue().clone();
    let frames = match batching {
        None => Frames::of(queue),
        Some(batching) => Frames::batched(queue, batching, settings.queue_bytes, services.log.clock()),
    };
    let queue = frames.queue().clone();
    let mut response = event_stream(&mut HttpResponse::Ok()).body(SseBody::new(frames, session));
    // whoever owns the socket tells it what the kernel has not taken
    response.extensions_mut().insert(queue);
    Ok(response)
}

/// Opens a session on this worker thread, with a queue of its own.
pub(super) fn listen(
    request: &HttpRequest,
    session: SessionRequest,
    (framing, limits): (Framing, QueueLimits),
) -> Listening {
    let worker = worker(request);
    let queue = Rc::new(SendQueue::new(framing, limits, worker.queues.clone()));
    let port = SessionActor::open(worker.sessions.clone(), session, queue.clone());
    Listening::new(queue, port)
}

/// What the request's worker thread gives to its sessions.
pub(super) fn worker(request: &HttpRequest) -> &Rc<WorkerContext> {
    request.app_data::<Rc<WorkerContext>>().expect("set by the engine")
}

/// Lets a connection in that asks for topics, by its credentials and their rights; the session it gets has
/// no cursor. `asked` is what the request's parameters say, beside the topics whatever its caller needs.
pub(super) async fn admit<T>(
    request: &HttpRequest,
    query: &Query,
    asked: Result<(Wanted, T), Refusal>,
    transport: &'static str,
) -> Result<(SessionRequest, T), Refusal> {
    let services = services(request);
    if services.is_draining() {
        return Err(Refusal::new(RefusalKind::Unavailable, "draining", "this node is draining"));
    }
    let opening = Opening::of(transport, resumed(request, query));
    gate::open(request, opening)?;
    let limit = services.settings.sessions.max_topics;
    let asked = asked.and_then(|(wanted, asked)| Ok((wanted.within(limit)?, asked)));
    // whoever cannot be identified learns nothing about the parameters
    let principal = match query.get("ticket") {
        Some(ticket) => {
            let named = asked.as_ref().map_or(Some(&[][..]), |(wanted, _)| wanted.named());
            // a request that is wrong does not use it up
            let may = async |principal: &Principal| {
                let selectors = asked.as_ref().map_err(Refusal::clone)?.0.of(principal)?;
                services.topics.freshen(principal, &selectors).await;
                grants(services, principal, selectors).map(drop)
            };
            by_ticket(services, &shown(request), ticket, named, may).await?
        }
        None => authenticate(request).await?,
    };
    let (wanted, asked) = asked?;
    let selectors = count_failure(request, wanted.of(&principal))?;
    services.topics.freshen(&principal, &selectors).await;
    let tenant = principal.tenant()?.clone();
    let grants = count_failure(request, grants(services, &principal, selectors))?;
    let admission = gate::admit(request, &principal, opening)?;
    let id = services.next_connection();
    if let Some(ticket_id) = &principal.ticket_id {
        services.replace_ticket(ticket_id, id);
    }
    let session = SessionRequest {
        id,
        tenant,
        grants,
        refused: Vec::new(),
        cursor: None,
        hello: hello(services, id, principal.user.as_ref().map(|user| user.sub.as_str())),
        who: principal,
        transport,
        peer: gate::caller(request).address,
        user_agent: header(request, USER_AGENT.as_str()).unwrap_or_default().to_owned(),
        origin: None,
        admission,
    };
    Ok((session, asked))
}

/// `batch_ms`, `batch_max`: either alone asks for batches, with the other's default.
pub(super) fn batching(query: &Query) -> Result<Option<Batching>, Refusal> {
    let within_ms = query.number("batch_ms", 10..=5000)?;
    let events = query.number("batch_max", 1..=1000)?;
    Ok((within_ms.is_some() || events.is_some()).then(|| Batching {
        within: Duration::from_millis(within_ms.unwrap_or(100)),
        events: events.unwrap_or(50) as usize,
    }))
}

/// The head of a stream: never cached, buffered or compressed, ended by closing the connection.
fn event_stream(response: &mut HttpResponseBuilder) -> &mut HttpResponseBuilder {
    response
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-cache, no-transform"))
        .insert_header(("X-Accel-Buffering", "no"))
        .force_close();
    response
}

pub(super) fn hello(services: &Services, id: u64, user_id: Option<&str>) -> Hello {
    Hello {
        connection_id: format!("{}.{id}", services.server_id),
        server_id: services.server_id.clone(),
        user_id: user_id.map(str::to_owned),
        max_message_bytes: services.settings.log.max_message_bytes,
        max_topics: services.settings.sessions.max_topics,
    }
}

pub(super) fn within_limit(mut selectors: Vec<Selector>, limit: usize) -> Result<Vec<Selector>, Refusal> {
    let mut seen = std::collections::HashSet::new();
    selectors.retain(|selector| seen.insert(selector.clone()));
    if selectors.len() <= limit {
        return Ok(selectors);
    }
    let detail =
        format!("{} topics asked for, at most {limit} are allowed on one connection", selectors.len());
    Err(Refusal::new(RefusalKind::Malformed, "too_many_topics", detail))
}

/// What the principal may see of what it asks for; on SSE a refused topic refuses the connection.
fn grants(
    services: &Services,
    principal: &Principal,
    selectors: Vec<Selector>,
) -> Result<Arc<[Grant]>, Refusal> {
    let mut grants = Vec::with_capacity(selectors.len());
    let (mut refused, mut unknown) = (Vec::new(), Vec::new());
    for selector in selectors {
        match services.topics.grant(principal, &selector) {
            Ok(grant) => grants.push(grant),
            Err(UNAVAILABLE) => unknown.push(selector.to_string()),
            Err(_) => refused.push(selector.to_string()),
        }
    }
    if refused.is_empty() && unknown.is_empty() {
        return Ok(grants.into());
    }
    if refused.is_empty() {
        // it may be allowed: to be asked again
        let detail = format!("it could not be looked up who may hear {}, try again", unknown.join(", "));
        return Err(Refusal::new(RefusalKind::Unavailable, UNAVAILABLE, detail));
    }
    let refusal = Refusal::forbidden("forbidden_topics", format!("not allowed: {}", refused.join(", ")));
    Err(refused.iter().fold(refusal, |refusal, topic| refusal.with_field("topics", topic)))
}

/// Where a request wants to resume.
pub(super) fn resumed(request: &HttpRequest, query: &Query) -> Option<Cursor> {
    let sent = request.headers().get("last-event-id").map(|value| value.to_str().unwrap_or("?"));
    sent.and_then(Cursor::given).or_else(|| query.cursor())
}

pub(super) fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

/// EventSource gives up for good on any answer but 200, so a refusal that may pass is a stream that
/// says when to come back; all others are answered as problems.
fn refuse(request: &HttpRequest, refusal: Refusal) -> HttpResponse {
    let code = match (refusal.kind, refusal.code) {
        (RefusalKind::Unavailable, "draining") => CloseCode::Draining,
        (RefusalKind::Unavailable | RefusalKind::Internal, _) => CloseCode::GoingAway,
        (RefusalKind::RateLimited, _) => CloseCode::RateLimited,
        _ => return Problem(refusal).error_response(),
    };
    if !header(request, ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/event-stream")) {
        return Problem(refusal).error_response();
    }
    let (delay, spread) = refusal.retry_after.map_or((code.default_retry(), 1.0), |after| (after, 0.2));
    let retry = crate::clock::jittered(delay, spread);
    event_stream(&mut HttpResponse::Ok()).body(Dialect::Sse.close(code, retry))
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config
        .service(stream)
        .service(ei_updates)
        .service(bid_updates)
        .service(ranking_updates)
        .service(order_updates);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_that_answers_with_an_event_stream_is_listed() {
        let document = serde_json::to_value(crate::http::document()).unwrap();
        let paths = document["paths"].as_object().unwrap().iter();
        let is_stream = |path: &serde_json::Value| {
            path["get"]["responses"]["200"]["content"].get("text/event-stream").is_some()
        };
        let streams: Vec<&str> =
            paths.filter(|(_, path)| is_stream(path)).map(|(name, _)| name.as_str()).collect();
        let mut listed = STREAMS.to_vec();
        listed.sort_unstable();
        assert_eq!(streams, listed);
    }
}
