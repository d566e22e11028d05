use actix_web::{HttpRequest, HttpResponse, post};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::Duration;

use super::body::{JsonBody, parse};
use super::problem::{ProblemBody, status};
use super::services::services;
use super::{Problem, Services};
use crate::domain::{Position, Refusal, RefusalKind};
use crate::identity::Principal;
use crate::log::{AppendRequest, Appended, Idempotency, NewEvent};
use crate::publishing::{MAX_BATCH, Publish, prepare};

/// The answer to a publish.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Published {
    /// The position of its last entry; null for volatile events.
    #[schema(value_type = Option<String>)]
    id: Option<Position>,
    /// The same.
    #[schema(value_type = Option<String>)]
    position: Option<Position>,
    /// Whether every entry had been published before.
    duplicate: bool,
}

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
        (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/events")]
pub async fn publish(request: HttpRequest, body: JsonBody<Publish>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = &body.principal;
    let group = prepare(body.value, principal, &services.publish_limits)?;
    let idempotency = idempotency(&request, principal, body.hash)?;
    let outcome = append(services, principal, vec![group], idempotency).await?;
    match outcome.into_iter().next() {
        Some(Ok(published)) => Ok(HttpResponse::Accepted().json(published)),
        Some(Err(refusal)) => Err(refusal.into()),
        None => Err(Refusal::new(RefusalKind::Internal, "internal", "an internal error").into()),
    }
}

/// Publish up to 1000 events; each is answered by itself.
#[utoipa::path(
    tag = "events",
    request_body = Batch,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer")),
    responses(
        (status = 202, body = BatchAnswer), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 409, body = ProblemBody), (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/events/batch")]
pub async fn publish_batch(request: HttpRequest, body: JsonBody<Batch>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = &body.principal;
    if body.value.events.is_empty() || body.value.events.len() > MAX_BATCH {
        return Err(Refusal::invalid("events", format!("must be 1-{MAX_BATCH}")).into());
    }
    let prepared: Vec<Result<Vec<NewEvent>, Refusal>> = body
        .value
        .events
        .iter()
        .map(|raw| prepare(parse(raw.get().as_bytes())?, principal, &services.publish_limits))
        .collect();
    let groups: Vec<Vec<NewEvent>> = prepared.iter().flatten().cloned().collect();
    let idempotency = idempotency(&request, principal, body.hash)?;
    let mut outcomes = append(services, principal, groups, idempotency).await?.into_iter();
    let results = prepared.into_iter().map(|item| {
        match item.and_then(|_| outcomes.next().unwrap_or_else(|| Err(lost()))) {
            Ok(published) => BatchItem { status: 202, published: Some(published), error: None },
            Err(refusal) => BatchItem {
                status: status(refusal.kind).as_u16(),
                published: None,
                error: Some(ProblemBody::new(&refusal)),
            },
        }
    });
    Ok(HttpResponse::Accepted().json(BatchAnswer { results: results.collect() }))
}

fn lost() -> Refusal {
    Refusal::new(RefusalKind::Internal, "internal", "an internal error")
}

/// Appends what is logged and sends what is volatile; one outcome per group.
async fn append(
    services: &Services,
    principal: &Principal,
    groups: Vec<Vec<NewEvent>>,
    idempotency: Option<Idempotency>,
) -> Result<Vec<Result<Published, Refusal>>, Refusal> {
    let tenant = principal.tenant()?;
    // what has to be recognised when it comes again passes the log; other volatile events need not wait for it
    let is_volatile = |group: &Vec<NewEvent>| {
        idempotency.is_none() && group.iter().all(|event| event.is_volatile() && event.dedup.is_none())
    };
    let kinds: Vec<bool> = groups.iter().map(is_volatile).collect();
    let (volatile, logged): (Vec<_>, Vec<_>) = groups.into_iter().partition(is_volatile);
    let mut appended = Vec::new();
    if !logged.is_empty() || idempotency.is_some() {
        let request = AppendRequest { tenant: tenant.clone(), groups: logged, idempotency };
        appended = services.log.append(request).await?;
    }
    for event in volatile.into_iter().flatten() {
        services.log.publish_volatile(tenant, event).await?;
    }
    let log = services.log.open(tenant).await?;
    let mut appended = appended.into_iter();
    let outcome = |is_volatile: bool| match is_volatile {
        true => Ok(Published { id: None, position: None, duplicate: false }),
        false => match appended.next() {
            Some(Appended::At { seq, duplicate }) => {
                let position = (seq > 0).then(|| log.position(seq));
                Ok(Published { id: position, position, duplicate })
            }
            Some(Appended::Stale { stored }) => {
                let detail = format!("the version is not greater than the stored one, {stored}");
                let refusal = Refusal::new(RefusalKind::Conflict, "stale", detail);
                Err(refusal.with_field("version", format!("must be greater than {stored}")))
            }
            None => Err(lost()),
        },
    };
    Ok(kinds.into_iter().map(outcome).collect())
}

/// The `Idempotency-Key` of a request, checked.
pub fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Refusal> {
    let Some(value) = request.headers().get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default();
    match (1..=128).contains(&key.len()) {
        true => Ok(Some(key.to_owned())),
        false => Err(Refusal::malformed("Idempotency-Key", "must be 1-128 visible ASCII characters")),
    }
}

fn idempotency(
    request: &HttpRequest,
    principal: &Principal,
    hash: String,
) -> Result<Option<Idempotency>, Refusal> {
    let keep = Duration::from_secs(services(request).settings.idempotency.publish_s);
    Ok(idempotency_key(request)?.map(|key| Idempotency {
        principal: principal.scope_of_keys(),
        key,
        request_hash: format!("{}:{hash}", request.path()),
        keep,
    }))
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(publish).service(publish_batch);
}
