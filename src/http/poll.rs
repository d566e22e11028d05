use std::time::Duration;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, get};

use tokio::time::timeout;

use super::Problem;
use super::capabilities::own_topic;
use super::problem::ProblemBody;
use super::query::Query;
use super::services::services;
use super::streams::{Wanted, admit, listen, resumed, worker};
use crate::domain::{Cursor, EntityId, Refusal};
use crate::sessions::{LongPoll, PollAnswer, SessionRequest};
use crate::wire::Framing;

/// What a client is owed beside the log is waited for so long; it is owed it again the next time.
const OWED_WITHIN: Duration = Duration::from_secs(1);

/// Listen to topics without a stream: one answer with what has come since the cursor.
///
/// The first call, without cursor, is answered at once; later ones at once when there is something, or
/// after the wait. What is asked next is always the `cursor` of the last answer.
#[utoipa::path(
    tag = "realtime",
    params(
        ("topics" = String, Query, description = "topics separated by commas, at most 128"),
        ("cursor" = Option<String>, Query, description = "the last answer's cursor; Last-Event-ID beats it"),
        ("wait" = Option<u64>, Query, description = "wait so long for a first event, 0-60 seconds (25)"),
        ("session" = Option<String>, Query, description = "1-64 characters chosen by the client, the same in all its calls: reserved for presence"),
        ("ticket" = Option<String>, Query, description = "for clients that cannot send headers"),
    ),
    responses(
        (status = 200, body = PollAnswer), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[get("/v2/realtime/poll")]
pub async fn poll(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request)?;
    let (session, wait) = admit(&request, &query, asked(&query), "poll").await?;
    let cursor = resumed(&request, &query);
    let session = SessionRequest { cursor, ..session };
    let (id, tenant) = (session.id, session.tenant.clone());
    let has_own = own_topic(&session.who, &session.grants).is_some();
    let since = match cursor {
        Some(Cursor::At(position)) => Some(position),
        _ => None,
    };
    let copies = services(&request).copies.clone();
    let owed = async move {
        match has_own {
            true => timeout(OWED_WITHIN, copies.owed(&tenant, id, since)).await.unwrap_or_default(),
            false => Vec::new(),
        }
    };
    let poll = LongPoll {
        session: listen(&request, session, (Framing::POLL, worker(&request).limits)),
        id,
        rooms: worker(&request).sessions.rooms.clone(),
        cursor: since,
        wait,
        patience: Duration::from_millis(services(&request).settings.sessions.ready_timeout_ms),
    };
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(poll.answer(owed).await))
}

/// The topics and the wait.
fn asked(query: &Query) -> Result<(Wanted, Duration), Refusal> {
    let topics = query.topics()?;
    let wait = Duration::from_secs(query.number("wait", 0..=60)?.unwrap_or(25));
    if let Some(session) = query.get("session") {
        EntityId::parse(session).map_err(|error| Refusal::malformed("session", error))?;
    }
    Ok((Wanted::These(topics), wait))
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(poll);
}
