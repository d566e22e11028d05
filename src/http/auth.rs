use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use tracing::Span;

use super::Services;
use super::services::services;
use crate::domain::{Refusal, RefusalKind, Selector};
use crate::identity::{Presented, Principal};

/// Who sends this request, by `X-API-Key` or `Authorization: Bearer`.
pub async fn authenticate(request: &HttpRequest) -> Result<Principal, Refusal> {
    identify(services(request), &shown(request)).await
}

/// The same of a command without a body; it takes its sender's token, as those with one do.
pub async fn authenticate_command(request: &HttpRequest) -> Result<Principal, Refusal> {
    let principal = authenticate(request).await?;
    services(request).gate.limiter.commands(&principal, 1)?;
    Ok(principal)
}

/// What a request's head shows of its sender.
pub fn shown(request: &HttpRequest) -> Presented<'_> {
    let peer = request.peer_addr().map(|address| address.ip());
    presented(request.headers(), request.path(), peer)
}

/// The same for any request head, such as that of an upgrade; failures are counted.
pub async fn identify(services: &Services, presented: &Presented<'_>) -> Result<Principal, Refusal> {
    counted(services, services.authenticator.authenticate(presented).await).map(known)
}

/// Tells the request's log lines who sends it.
pub fn known(principal: Principal) -> Principal {
    let tenant = principal.tenant().ok().map(tracing::field::display);
    let user_id = principal.user.as_ref().map(|user| user.sub.as_str());
    tracing::record_all!(Span::current(), tenant = tenant, user_id = user_id);
    principal
}

/// Whose key or token this is, shown after a connection was opened; failures are counted.
pub async fn of_secret(services: &Services, secret: &str) -> Result<Principal, Refusal> {
    counted(services, services.authenticator.by_secret(secret).await)
}

/// Whose ticket this is, if `may` lets it pass; it says for whom it comes, and the request's head must not. For
/// `wanted`, see [`crate::identity::Tickets::redeem`].
pub async fn by_ticket(
    services: &Services,
    presented: &Presented<'_>,
    ticket: &str,
    wanted: Option<&[Selector]>,
    may: impl AsyncFnOnce(&Principal) -> Result<(), Refusal>,
) -> Result<Principal, Refusal> {
    let redeemed = match presented.refuse_names() {
        Ok(()) => services.tickets.redeem(ticket, presented.path, wanted, may).await,
        Err(refusal) => Err(refusal),
    };
    counted(services, redeemed).map(known)
}

/// The same of any head.
pub fn presented<'a>(headers: &'a HeaderMap, path: &'a str, peer: Option<IpAddr>) -> Presented<'a> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // names of users are any UTF-8; what is none becomes an empty name, which nobody has
    let name =
        |name: &str| headers.get(name).map(|value| std::str::from_utf8(value.as_bytes()).unwrap_or_default());
    let bearer = text(AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, secret) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
    });
    Presented {
        path,
        peer,
        api_key: text("x-api-key").filter(|key| !key.is_empty()),
        bearer: bearer.filter(|secret| !secret.is_empty()),
        tenant: name("x-tenant-id"),
        user: name("x-user-id"),
    }
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
