use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};

use super::Services;
use super::services::services;
use crate::domain::{Refusal, RefusalKind, UserSub};
use crate::identity::{Principal, Scope, User};

/// Who sends this request, by `X-API-Key` or `Authorization: Bearer`.
pub async fn authenticate(request: &HttpRequest) -> Result<Principal, Refusal> {
    let services = services(request);
    count_failure(request, of_headers(services, request.headers()).await)
}

/// Whom these headers speak for.
pub async fn of_headers(services: &Services, headers: &HeaderMap) -> Result<Principal, Refusal> {
    match secret(headers) {
        None => Err(unauthenticated("missing_credentials", "an API key is required")),
        Some(secret) => on_behalf(of_secret(services, secret).await?, headers),
    }
}

/// Whom this key speaks for.
pub async fn of_secret(services: &Services, secret: &str) -> Result<Principal, Refusal> {
    let known = services.keys.authenticate(secret).await?;
    known.ok_or_else(|| unauthenticated("invalid_credentials", "the API key is unknown or revoked"))
}

/// Whether there is anything to tell somebody by.
pub fn has_credentials(headers: &HeaderMap) -> bool {
    secret(headers).is_some()
}

/// Counts what was refused for its credentials.
pub fn count_failure<T>(request: &HttpRequest, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
    counted(services(request), outcome)
}

/// The same.
pub fn counted<T>(services: &Services, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
    if let Err(refusal) = &outcome
        && matches!(refusal.kind, RefusalKind::Unauthenticated | RefusalKind::Forbidden)
    {
        services.metrics.auth_failed(refusal.code);
    }
    outcome
}

fn unauthenticated(code: &'static str, detail: &str) -> Refusal {
    Refusal::new(RefusalKind::Unauthenticated, code, detail)
}

fn secret(headers: &HeaderMap) -> Option<&str> {
    let own = headers.get("x-api-key").and_then(|value| value.to_str().ok());
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    own.or(bearer).filter(|secret| !secret.is_empty())
}

/// `x-tenant-id` and `x-user-id` are believed from keys that may act for users, and refused from all others.
fn on_behalf(principal: Principal, headers: &HeaderMap) -> Result<Principal, Refusal> {
    let named =
        |name| headers.get(name).map(|value| std::str::from_utf8(value.as_bytes()).unwrap_or_default());
    let (tenant, sub) = (named("x-tenant-id"), named("x-user-id"));
    if tenant.is_none() && sub.is_none() {
        return Ok(principal);
    }
    if !principal.scopes.has(Scope::ActAsUser) || principal.user.is_some() {
        let detail = "x-tenant-id and x-user-id need a key with the scope act_as_user";
        return Err(Refusal::forbidden("identity_headers", detail));
    }
    if tenant.is_some_and(|tenant| principal.tenant.as_ref().map(|own| own.as_str()) != Some(tenant)) {
        return Err(Refusal::forbidden("wrong_tenant", "x-tenant-id is not the tenant of the key"));
    }
    let Some(sub) = sub else { return Ok(principal) };
    let sub = UserSub::parse(sub).map_err(|error| Refusal::malformed("x-user-id", error))?;
    Ok(Principal { user: Some(User { sub, roles: Vec::new() }), ..principal })
}
