use actix_web::{HttpRequest, HttpResponse, delete, web};

use super::Problem;
use super::auth::authenticate_command;
use super::problem::ProblemBody;
use super::services::services;
use crate::domain::{Refusal, RefusalKind};
use crate::identity::rights::{self, Command};

/// Revoke an API key of the tenant; its sessions end within a second.
#[utoipa::path(
    tag = "admin",
    params(("key_id" = String, Path, description = "the key's id, not the key")),
    responses(
        (status = 204, description = "revoked, or revoked before"), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[delete("/v2/admin/keys/{key_id}")]
pub async fn revoke(request: HttpRequest, key_id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate_command(&request).await?;
    rights::require(&principal, Command::Administer)?;
    let (tenant, key_id) = (principal.tenant()?.as_str().to_owned(), key_id.into_inner());
    let now = services.log.clock().now().micros();
    let found = services
        .database
        .run(move |db| async move {
            crate::write_tx!(db, |conn, q| Ok(q::api_keys::revoke(conn, Some(&tenant), &key_id, now).await?))
        })
        .await?;
    services.revocations.refresh().await?;
    match found {
        Some(_) => Ok(HttpResponse::NoContent().finish()),
        None => Err(Refusal::new(RefusalKind::NotFound, "no_such_key", "the tenant has no such key").into()),
    }
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(revoke);
}
