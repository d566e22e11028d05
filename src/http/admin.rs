use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, get, post, rt};
use serde::{Deserialize, Serialize};

use super::auth::{authenticate, authenticate_command};
use super::body::JsonBody;
use super::problem::ProblemBody;
use super::query::Query;
use super::services::services;
use super::{Problem, Services};
use crate::domain::{Refusal, RefusalKind, Timestamp, UserSub};
use crate::identity::rights::{self, Command};
use crate::rooms;

/// An open connection of the tenant to this node.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Connection {
    /// As its client sees it in `ready`.
    connection_id: String,
    /// The user; null for a service.
    user_id: Option<String>,
    /// The client's address.
    ip: String,
    /// `sse`, `websocket`, …
    transport: &'static str,
    /// The client's own name, its first 160 bytes.
    user_agent: String,
    /// How many topics it listens to.
    topics: usize,
    /// When it was opened.
    #[schema(value_type = String)]
    since: Timestamp,
}

/// Open connections of the tenant to this node.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ConnectionPage {
    /// In the order in which they were opened.
    connections: Vec<Connection>,
    /// `after` of the next page; null on the last.
    next: Option<u64>,
}

/// A node that takes no new connections any more.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Drain {
    /// Always true.
    draining: bool,
    /// How many connections it has yet to end.
    connections: usize,
}

/// The tenant's open connections to this node.
#[utoipa::path(
    tag = "admin",
    params(
        ("after" = Option<u64>, Query, description = "`next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1-200, default 50"),
    ),
    responses((status = 200, body = ConnectionPage), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[get("/v2/admin/connections")]
pub async fn list_connections(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
    rights::require(&principal, Command::Administer)?;
    let query = Query::of(&request)?;
    let after = query.get("after").map_or(Ok(0), str::parse);
    let after = after.map_err(|_| Refusal::malformed("after", "must be a number"))?;
    let limit = query.limit()?;
    let mut found = services.workers.connections(principal.tenant()?, after, limit + 1).await;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|connection| connection.id);
    let now = services.log.clock().now();
    let connections = found.into_iter().map(|connection| shown(connection, now)).collect();
    Ok(HttpResponse::Ok().json(ConnectionPage { connections, next }))
}

fn shown(connection: rooms::Connection, now: Timestamp) -> Connection {
    Connection {
        connection_id: connection.connection_id,
        user_id: connection.user_id,
        ip: connection.address.to_string(),
        transport: connection.transport,
        user_agent: connection.user_agent,
        topics: connection.topics,
        since: now.minus(connection.age),
    }
}

/// Drain this node: no new connections, readiness says no, open ones end at an even pace with 3000.
///
/// The process goes on and still carries out commands; end it when it has no connections, or restart it to take it
/// back into service.
#[utoipa::path(
    tag = "operation",
    responses((status = 202, body = Drain), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[post("/v2/admin/drain")]
pub async fn drain(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate_command(&request).await?;
    rights::require(&principal, Command::OperateNodes)?;
    // a caller that leaves does not stop it half-way
    let begun = rt::spawn(begin_drain(services.clone()));
    let connections =
        begun.await.map_err(|_| Refusal::new(RefusalKind::Internal, "internal", "an internal error"))?;
    Ok(HttpResponse::Accepted().json(Drain { draining: true, connections }))
}

async fn begin_drain(services: Services) -> usize {
    let is_new = !services.draining.swap(true, Ordering::Relaxed);
    let connections = services.workers.sessions();
    if is_new {
        let within = Duration::from_secs(services.settings.drain.window_s);
        tracing::info!(connections, "draining, as an operator asked");
        services.workers.drain(rooms::pace(connections, within));
    }
    connections
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
    config.service(list_connections).service(drain).service(kick);
}
