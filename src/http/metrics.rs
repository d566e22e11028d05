use actix_web::{HttpRequest, HttpResponse, get, web};
use serde::Serialize;

use super::auth::authenticate;
use super::problem::ProblemBody;
use super::services::services;
use super::{Problem, Services};
use crate::identity::rights::{self, Command};
use crate::log::LogError;

/// OpenMetrics text format.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Metrics of this node, for scope `operator`.
#[utoipa::path(
    tag = "operation",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[get("/metrics")]
pub async fn metrics(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let principal = authenticate(&request).await?;
    rights::require(&principal, Command::OperateNodes)?;
    Ok(answer(services(&request)))
}

/// A few figures of all nodes and tenants together, for dashboards.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RealtimeFigures {
    /// Open connections.
    active_connections: u64,
    /// Events accepted: of a cluster since its Redis was started, of one process since that was.
    total_messages_published: u64,
    /// Events accepted a second, over the last ten seconds.
    messages_per_second: f64,
    /// From an event's acceptance to its frame at a client's socket, mean of the last ten seconds, milliseconds.
    average_message_latency: f64,
    /// Share of frames that did not reach their client and of refused appends, over the last ten seconds, 0–1.
    error_rate: f64,
}

/// Figures of all nodes together, not older than five seconds, for scope `subscribe` and role `admin`.
#[utoipa::path(
    tag = "operation",
    responses((status = 200, body = RealtimeFigures), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 503, body = ProblemBody))
)]
#[get("/v2/realtime/metrics")]
pub async fn realtime_metrics(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let principal = authenticate(&request).await?;
    rights::require(&principal, Command::ReadFigures)?;
    let figures = services(&request).metrics.figures().read();
    let figures = figures.ok_or_else(|| LogError::Unavailable("what the other nodes do".into()))?;
    Ok(HttpResponse::Ok().json(RealtimeFigures {
        active_connections: figures.active_connections,
        total_messages_published: figures.total_messages_published,
        messages_per_second: figures.messages_per_second,
        average_message_latency: figures.average_message_latency,
        error_rate: figures.error_rate,
    }))
}

/// The same on a port of its own, open to whoever reaches it.
pub async fn open_metrics(services: web::Data<Services>) -> HttpResponse {
    answer(&services)
}

fn answer(services: &Services) -> HttpResponse {
    HttpResponse::Ok().content_type(CONTENT_TYPE).body(services.metrics.render())
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(metrics);
    config.service(realtime_metrics);
}
