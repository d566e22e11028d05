use actix_web::{HttpRequest, HttpResponse, post};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Problem;
use super::body::JsonBody;
use super::problem::{ProblemBody, status};
use super::services::services;
use crate::domain::Refusal;
use crate::identity::{Principal, rights};
use crate::publishing::{MAX_BATCH, Publish, Published};
use crate::storage::CommandKey;
use crate::wire::parse;

/// Several events at once.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Up to 1000 events, each as in `POST /v2/events`.
    #[schema(value_type = Vec<Publish>)]
    events: Vec<Box<RawValue>>,
}

/// What became of one event of a batch.
#[derive(Serialize, utoipa::ToSchema)]
pub struct BatchItem {
    /// 202, or the status this event alone would have been answered with.
    status: u16,
    #[serde(flatten)]
    published: Option<Published>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ProblemBody>,
}

/// The answer to a batch.
#[derive(Serialize, utoipa::ToSchema)]
pub struct BatchAnswer {
    /// One per event, in order.
    results: Vec<BatchItem>,
}

/// Publish an event.
#[utoipa::path(
    tag = "events",
    request_body = Publish,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer")),
    responses(
        (status = 202, body = Published), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 409, body = ProblemBody), (status = 413, body = ProblemBody),
        (status = 422, body = ProblemBody), (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/events")]
pub async fn publish(request: HttpRequest, body: JsonBody<Publish>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let key = answer_key(&request, body.hash)?;
    let published = services.publisher.publish(&body.principal, body.value, key).await?;
    Ok(HttpResponse::Accepted().json(published))
}

/// Publish up to 1000 events; each is answered by itself.
#[utoipa::path(
    tag = "events",
    request_body = Batch,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer")),
    responses(
        (status = 202, body = BatchAnswer), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 409, body = ProblemBody), (status = 422, body = ProblemBody), (status = 429, body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/events/batch")]
pub async fn publish_batch(request: HttpRequest, body: JsonBody<Batch>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    if body.value.events.is_empty() || body.value.events.len() > MAX_BATCH {
        return Err(Refusal::invalid("events", format!("must be 1-{MAX_BATCH}")).into());
    }
    let events = body.value.events.iter().map(|raw| parse(raw.get().as_bytes()));
    let key = answer_key(&request, body.hash)?;
    let outcomes = services.publisher.publish_all(&body.principal, events, key).await?;
    let results = outcomes.into_iter().map(|outcome| match outcome {
        Ok(published) => BatchItem { status: 202, published: Some(published), error: None },
        Err(refusal) => {
            if refusal.code == rights::FORBIDDEN {
                services.metrics.auth_failed(rights::FORBIDDEN);
            }
            let (status, error) = (status(refusal.kind).as_u16(), Some(ProblemBody::new(&refusal)));
            BatchItem { status, published: None, error }
        }
    });
    Ok(HttpResponse::Accepted().json(BatchAnswer { results: results.collect() }))
}

/// The `Idempotency-Key` of a request, checked.
fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Refusal> {
    let Some(value) = request.headers().get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default();
    match is_key(key) {
        true => Ok(Some(key.to_owned())),
        false => Err(Refusal::malformed("Idempotency-Key", "must be 1-128 visible ASCII characters")),
    }
}

/// Whether a text can be an `Idempotency-Key`: 1–128 visible ASCII characters, spaces among them.
pub fn is_key(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// The key that a repeated request is recognised by, with the hash of what it asks.
pub fn answer_key(request: &HttpRequest, hash: String) -> Result<Option<(String, String)>, Refusal> {
    Ok(idempotency_key(request)?.map(|key| (key, format!("{}:{hash}", request.path()))))
}

/// What a command is recognised by when it is repeated: who asks, its key, and the hash of what it asks.
pub fn command_key(principal: &Principal, key: Option<(String, String)>) -> Option<CommandKey> {
    key.map(|(key, request_hash)| CommandKey { principal: principal.scope_of_keys(), key, request_hash })
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(publish).service(publish_batch);
}
