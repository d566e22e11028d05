use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::auth::authenticate;
use super::body::JsonBody;
use super::events::{answer_key, command_key};
use super::problem::{ProblemBody, status};
use super::query::Query;
use super::services::services;
use super::{Problem, Services};
use crate::domain::{Decimal, EntityId, Position, Refusal, RefusalKind, Timestamp};
use crate::fleets::{EiUpdate, Grade, MAX_BATCH, NewReading, Updated};
use crate::identity::Principal;
use crate::identity::rights::{self, Command};
use crate::storage::{FleetRow, ReadingRow};
use crate::wire::{number, parse};

/// Where one reading is reported.
pub const UPDATE_EI: &str = "/v2/fleet/ei-update";

/// A reading of a fleet's carbon emission intensity.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EiReading {
    /// 1–64 of `[A-Za-z0-9_.:-]`.
    fleet_id: String,
    /// gCO2e per tonne-km, not negative, at most 12 digits before and 6 after the point.
    #[schema(value_type = f64)]
    new_ei: Box<RawValue>,
    /// `A` to `E`; follows from the configured bounds when not given.
    #[schema(value_type = Option<String>)]
    ei_grade: Option<Grade>,
    /// RFC 3339; the time of receipt when not given.
    measured_at: Option<String>,
}

impl EiReading {
    fn check(self) -> Result<NewReading, Refusal> {
        let fleet_id =
            EntityId::parse(&self.fleet_id).map_err(|error| Refusal::invalid("fleet_id", error))?;
        let ei = Decimal::parse(self.new_ei.get()).map_err(|error| Refusal::invalid("new_ei", error))?;
        if ei.is_negative() {
            return Err(Refusal::invalid("new_ei", "must not be negative"));
        }
        let measured_at = self
            .measured_at
            .map(|text| {
                Timestamp::parse(&text).ok_or_else(|| Refusal::invalid("measured_at", "must be RFC 3339"))
            })
            .transpose()?;
        Ok(NewReading { fleet_id, ei, grade: self.ei_grade, measured_at })
    }
}

/// Several readings at once.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EiBatch {
    /// Up to 1000 readings, each as in `POST /v2/fleet/ei-update`.
    #[schema(value_type = Vec<EiReading>)]
    updates: Vec<Box<RawValue>>,
}

/// What became of one reading of a batch.
#[derive(Serialize, utoipa::ToSchema)]
pub struct EiBatchItem {
    /// 200, or the status this reading alone would have been answered with.
    status: u16,
    #[serde(flatten)]
    updated: Option<Updated>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ProblemBody>,
}

/// The answer to a batch.
#[derive(Serialize, utoipa::ToSchema)]
pub struct EiBatchAnswer {
    /// One per reading, in order.
    results: Vec<EiBatchItem>,
}

/// A fleet.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Fleet {
    /// Its id.
    fleet_id: String,
    /// gCO2e per tonne-km.
    #[schema(value_type = f64)]
    ei: Box<RawValue>,
    /// `A` to `E`.
    ei_grade: String,
    /// When the intensity was measured.
    #[schema(value_type = String)]
    measured_at: Timestamp,
    /// When it was accepted.
    #[schema(value_type = String)]
    updated_at: Timestamp,
    /// Counts its updates.
    version: i64,
}

/// A fleet, and the position from which a subscription misses nothing.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FleetSnapshot {
    #[serde(flatten)]
    fleet: Fleet,
    /// Read before the state.
    #[schema(value_type = String)]
    position: Position,
}

/// Fleets, and the position from which a subscription misses nothing.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FleetPage {
    /// By id.
    fleets: Vec<Fleet>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
    /// Read before the state.
    #[schema(value_type = String)]
    position: Position,
}

/// One reading of a fleet's history.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Reading {
    /// The fleet's version with it.
    version: i64,
    /// gCO2e per tonne-km.
    #[schema(value_type = f64)]
    ei: Box<RawValue>,
    /// `A` to `E`.
    ei_grade: String,
    /// When it was measured.
    #[schema(value_type = String)]
    measured_at: Timestamp,
}

/// A fleet's readings, newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub struct History {
    /// The fleet.
    fleet_id: String,
    /// Newest first.
    readings: Vec<Reading>,
    /// `before` of the next page; null on the last.
    next: Option<String>,
    /// Read before the state.
    #[schema(value_type = String)]
    position: Position,
}

/// Report a fleet's carbon emission intensity.
#[utoipa::path(
    tag = "fleets",
    request_body = EiReading,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer")),
    responses(
        (status = 200, body = Updated), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody),
        (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/fleet/ei-update")]
pub async fn update_ei(request: HttpRequest, body: JsonBody<EiReading>) -> Result<HttpResponse, Problem> {
    let key = answer_key(&request, body.hash)?;
    let updated = update_one(services(&request), &body.principal, body.value, key).await?;
    Ok(HttpResponse::Ok().json(updated))
}

/// Reports one reading, over whatever transport; `key` is its idempotency key with the hash of the request.
pub async fn update_one(
    services: &Services,
    principal: &Principal,
    reading: EiReading,
    key: Option<(String, String)>,
) -> Result<Updated, Refusal> {
    rights::require(principal, Command::UpdateEi)?;
    let (reading, key) = (reading.check()?, command_key(principal, key));
    match services.fleets.update_ei(principal.tenant()?, vec![reading], key).await?.into_iter().next() {
        Some(EiUpdate::Updated(updated)) => Ok(updated),
        Some(EiUpdate::Stale { stored_at }) => Err(stale(&stored_at)),
        None => Err(Refusal::new(RefusalKind::Internal, "internal", "an internal error")),
    }
}

/// Report up to 1000 readings; each is answered by itself.
#[utoipa::path(
    tag = "fleets",
    request_body = EiBatch,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer")),
    responses(
        (status = 200, body = EiBatchAnswer), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 422, body = ProblemBody), (status = 429, body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/fleet/ei-update/batch")]
pub async fn update_ei_batch(request: HttpRequest, body: JsonBody<EiBatch>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = &body.principal;
    rights::require(principal, Command::UpdateEi)?;
    if body.value.updates.is_empty() || body.value.updates.len() > MAX_BATCH {
        return Err(Refusal::invalid("updates", format!("must be 1-{MAX_BATCH}")).into());
    }
    // the first is charged as any command is
    services.gate.limiter.commands(principal, body.value.updates.len() - 1)?;
    let checked: Vec<Result<NewReading, Refusal>> =
        body.value.updates.iter().map(|raw| parse::<EiReading>(raw.get().as_bytes())?.check()).collect();
    let readings: Vec<NewReading> = checked.iter().flatten().cloned().collect();
    let key = command_key(principal, answer_key(&request, body.hash)?);
    let mut updates = services.fleets.update_ei(principal.tenant()?, readings, key).await?.into_iter();
    let results = checked.into_iter().map(|item| {
        let outcome = item.and_then(|_| match updates.next() {
            Some(EiUpdate::Updated(updated)) => Ok(updated),
            Some(EiUpdate::Stale { stored_at }) => Err(stale(&stored_at)),
            None => Err(Refusal::new(RefusalKind::Internal, "internal", "an internal error")),
        });
        match outcome {
            Ok(updated) => EiBatchItem { status: 200, updated: Some(updated), error: None },
            Err(refusal) => EiBatchItem {
                status: status(refusal.kind).as_u16(),
                updated: None,
                error: Some(ProblemBody::new(&refusal)),
            },
        }
    });
    Ok(HttpResponse::Ok().json(EiBatchAnswer { results: results.collect() }))
}

/// A page of fleets.
#[utoipa::path(
    tag = "fleets",
    params(
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1-200, default 50"),
    ),
    responses((status = 200, body = FleetPage), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[get("/v2/fleets")]
pub async fn list(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
    rights::require(&principal, Command::ReadFleets)?;
    let query = Query::of(&request)?;
    let tenant = principal.tenant()?;
    // first the position, then the state: what happens in between is in the replay
    let position = services.log.open(tenant).await?.head();
    let page = services.fleets.page(tenant, query.get("after").unwrap_or_default(), query.limit()?).await?;
    let fleets = page.rows.into_iter().map(fleet).collect();
    Ok(HttpResponse::Ok().json(FleetPage { fleets, next: page.next, position }))
}

/// One fleet.
#[utoipa::path(
    tag = "fleets",
    params(("id" = String, Path, description = "the fleet's id")),
    responses((status = 200, body = FleetSnapshot), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody))
)]
#[get("/v2/fleets/{id}")]
pub async fn find(request: HttpRequest, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
    rights::require(&principal, Command::ReadFleets)?;
    let tenant = principal.tenant()?;
    let position = services.log.open(tenant).await?.head();
    let found = match EntityId::parse(&id) {
        Ok(id) => services.fleets.find(tenant, &id).await?,
        Err(_) => None,
    };
    let row = found.ok_or_else(no_fleet)?;
    Ok(HttpResponse::Ok().json(FleetSnapshot { fleet: fleet(row), position }))
}

/// A fleet's readings, newest first.
#[utoipa::path(
    tag = "fleets",
    params(
        ("id" = String, Path, description = "the fleet's id"),
        ("before" = Option<i64>, Query, description = "`next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1-200, default 50"),
    ),
    responses((status = 200, body = History), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody))
)]
#[get("/v2/fleets/{id}/history")]
pub async fn history(request: HttpRequest, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
    rights::require(&principal, Command::ReadFleets)?;
    let query = Query::of(&request)?;
    let before = query.get("before").map(str::parse).transpose();
    let before = before.map_err(|_| Refusal::malformed("before", "must be a version"))?;
    let tenant = principal.tenant()?;
    let position = services.log.open(tenant).await?.head();
    let id = EntityId::parse(&id).map_err(|_| no_fleet())?;
    let page = services.fleets.history(tenant, &id, before, query.limit()?).await?;
    if page.rows.is_empty() && before.is_none() {
        return Err(no_fleet().into());
    }
    let readings = page.rows.into_iter().map(reading).collect();
    Ok(HttpResponse::Ok().json(History {
        fleet_id: id.as_str().to_owned(),
        readings,
        next: page.next,
        position,
    }))
}

fn no_fleet() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "no_such_fleet", "no reading of this fleet was ever reported")
}

fn stale(stored_at: &str) -> Refusal {
    let detail = format!("the stored reading was measured later, at {stored_at}");
    Refusal::new(RefusalKind::Conflict, "stale", detail)
}

fn fleet(row: FleetRow) -> Fleet {
    Fleet {
        fleet_id: row.fleet_id,
        ei: number(Decimal::from_millionths(row.ei)),
        ei_grade: row.grade,
        measured_at: Timestamp::from_micros(row.measured_us),
        updated_at: Timestamp::from_micros(row.updated_us),
        version: row.version,
    }
}

fn reading(row: ReadingRow) -> Reading {
    Reading {
        version: row.version,
        ei: number(Decimal::from_millionths(row.ei)),
        ei_grade: row.grade,
        measured_at: Timestamp::from_micros(row.measured_us),
    }
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(update_ei).service(update_ei_batch).service(list).service(find).service(history);
}
