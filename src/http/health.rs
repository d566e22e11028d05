use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, route};
use serde::Serialize;

use super::services::services;
use crate::storage::{Feed, StoreError};

/// Liveness complains only after this long: a restart is the last resort.
const LIVENESS_PATIENCE: Duration = Duration::from_secs(10);
const READINESS_PATIENCE: Duration = Duration::from_secs(2);

/// How the node is.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Health {
    /// `ok`, or what is wrong.
    status: &'static str,
}

/// Whether the node takes traffic.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Readiness {
    /// All of the below.
    ready: bool,
    /// The node takes new sessions.
    accepting: bool,
    /// The database answers.
    store: bool,
    /// The event log is there.
    log: bool,
}

/// Liveness: the event loops turn and the actors answer.
#[utoipa::path(
    method(get, head),
    path = "/health",
    tag = "operation",
    security(()),
    responses((status = 200, body = Health), (status = 503, body = Health))
)]
#[route("/health", method = "GET", method = "HEAD")]
pub async fn health(request: HttpRequest) -> HttpResponse {
    match services(&request).workers.answer(LIVENESS_PATIENCE).await {
        true => HttpResponse::Ok().json(Health { status: "ok" }),
        false => HttpResponse::ServiceUnavailable().json(Health { status: "a worker does not answer" }),
    }
}

/// Readiness: the database answers, the log is open, the node is not draining.
#[utoipa::path(
    method(get, head),
    path = "/ready",
    tag = "operation",
    security(()),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness))
)]
#[route("/ready", method = "GET", method = "HEAD")]
pub async fn ready(request: HttpRequest) -> HttpResponse {
    let services = services(&request);
    let query = services.database.run(|db| async move {
        crate::read!(db, |conn, q| Ok::<_, StoreError>(q::generations::of(conn, Feed::Keys).await?))
    });
    let store = matches!(tokio::time::timeout(READINESS_PATIENCE, query).await, Ok(Ok(_)));
    let log = services.log.is_running();
    let accepting = !services.is_draining();
    let ready = store && log && accepting;
    let body = Readiness { ready, accepting, store, log };
    match ready {
        true => HttpResponse::Ok().json(body),
        false => HttpResponse::ServiceUnavailable().json(body),
    }
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(health).service(ready);
}
