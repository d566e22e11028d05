use actix_web::{HttpRequest, HttpResponse, get, web};

use super::auth::authenticate;
use super::problem::ProblemBody;
use super::services::services;
use super::{Problem, Services};
use crate::identity::rights::{self, Command};

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
}
