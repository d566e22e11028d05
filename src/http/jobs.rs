use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use serde::Serialize;

use super::Problem;
use super::auth::{authenticate, authenticate_command};
use super::problem::ProblemBody;
use super::query::Query;
use super::services::services;
use crate::domain::{Refusal, RefusalKind};
use crate::identity::rights::{self, Command};
use crate::jobs::{JobView, Revived, STATES, State};

/// Jobs of the tenant.
#[derive(Serialize, utoipa::ToSchema)]
pub struct JobPage {
    /// Oldest first.
    jobs: Vec<JobView>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
}

/// Jobs that were removed.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Purged {
    /// How many.
    purged: usize,
}

/// A job that is due again.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Retried {
    /// Its id.
    id: String,
    /// `pending`.
    state: &'static str,
}

/// A page of the tenant's jobs, by default of those that were given up.
#[utoipa::path(
    tag = "admin",
    params(
        ("state" = Option<String>, Query, description = "`pending`, `sending`, `done`, `retry` or `dead` (the default)"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1-200, default 50"),
    ),
    responses((status = 200, body = JobPage), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[get("/v2/admin/jobs")]
pub async fn list(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
    rights::require(&principal, Command::Administer)?;
    let query = Query::of(&request)?;
    let state = query.get("state").map_or(Some(State::Dead), State::parse).ok_or_else(no_state)?;
    let (after, limit) = (query.get("after").unwrap_or_default(), query.limit()?);
    let mut rows = services.jobs.page(Some(principal.tenant()?), state, after, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.job_id.clone());
    let jobs = rows.into_iter().map(JobView::from).collect();
    Ok(HttpResponse::Ok().json(JobPage { jobs, next }))
}

/// Remove the tenant's dead jobs, or one of them.
#[utoipa::path(
    tag = "admin",
    params(("id" = Option<String>, Query, description = "only the job of this id")),
    responses((status = 200, body = Purged), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[delete("/v2/admin/jobs")]
pub async fn purge(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate_command(&request).await?;
    rights::require(&principal, Command::Administer)?;
    let query = Query::of(&request)?;
    let purged = services.jobs.purge(Some(principal.tenant()?), query.get("id")).await?;
    tracing::info!(purged, "dead jobs are removed");
    Ok(HttpResponse::Ok().json(Purged { purged }))
}

/// Have a dead job done again, with all its attempts.
#[utoipa::path(
    tag = "admin",
    params(("id" = String, Path, description = "the job's id")),
    responses(
        (status = 200, body = Retried), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/admin/jobs/{id}/retry")]
pub async fn retry(request: HttpRequest, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate_command(&request).await?;
    rights::require(&principal, Command::Administer)?;
    match services.jobs.revive(Some(principal.tenant()?), &id).await? {
        Revived::Due => {
            Ok(HttpResponse::Ok().json(Retried { id: id.into_inner(), state: State::Pending.as_str() }))
        }
        Revived::NotDead(state) => {
            let detail = format!("the job is {state}, and only dead ones are tried again");
            Err(Refusal::new(RefusalKind::Conflict, "job_not_dead", detail).into())
        }
        Revived::Unknown => {
            Err(Refusal::new(RefusalKind::NotFound, "no_such_job", "the tenant has no such job").into())
        }
    }
}

fn no_state() -> Refusal {
    let words: Vec<&str> = STATES.iter().map(|state| state.as_str()).collect();
    Refusal::malformed("state", format!("must be one of {}", words.join(", ")))
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(list).service(purge).service(retry);
}
