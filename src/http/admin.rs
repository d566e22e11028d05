use actix_web::{HttpRequest, HttpResponse, delete, post, web};
use serde::{Deserialize, Serialize};

use super::Problem;
use super::auth::authenticate;
use super::body::JsonBody;
use super::problem::ProblemBody;
use super::services::services;
use crate::domain::{Refusal, RefusalKind, Timestamp, UserSub};
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
pub async fn revoke_key(request: HttpRequest, key_id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
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

/// A user to be removed.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Kick {
    /// Its `sub`.
    user: String,
}

/// A user that was removed.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Kicked {
    /// Its `sub`.
    user: String,
    /// What was issued for it up to this moment is no longer good (RFC 3339).
    #[schema(value_type = String)]
    not_before: Timestamp,
}

/// Remove a user of the tenant: its sessions end within a second, and its tokens and tickets issued so far are
/// no longer good.
#[utoipa::path(
    tag = "admin",
    request_body = Kick,
    responses(
        (status = 200, body = Kicked), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/admin/kick")]
pub async fn kick(request: HttpRequest, body: JsonBody<Kick>) -> Result<HttpResponse, Problem> {
    rights::require(&body.principal, Command::Administer)?;
    let user = UserSub::parse(&body.value.user).map_err(|error| Refusal::invalid("user", error))?;
    let not_before = services(&request).revocations.kick(body.principal.tenant()?, &user).await?;
    Ok(HttpResponse::Ok().json(Kicked { user: body.value.user, not_before }))
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(revoke_key).service(kick);
}
