use std::time::Duration;

use actix_web::{FromRequest, HttpRequest, HttpResponse, delete, get, post, web};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Problem;
use super::auth::authenticate;
use super::body::JsonBody;
use super::problem::ProblemBody;
use super::query::Query;
use super::services::services;
use crate::domain::{Refusal, RefusalKind, Timestamp};
use crate::identity::rights::{self, Command};
use crate::limits::parse_network;
use crate::storage::BlockRow;

/// Longest reason, bytes.
const MAX_REASON: usize = 256;

/// A network to be blocked.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBlock {
    /// An address or a network, such as `192.0.2.0/24`.
    cidr: String,
    /// Until when (RFC 3339); or `ttl_s`; neither: for good.
    expires_at: Option<String>,
    /// For how many seconds.
    ttl_s: Option<u64>,
    /// Why; up to 256 bytes.
    reason: Option<String>,
}

/// A network to be allowed again.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Unblock {
    /// Exactly as blocked.
    cidr: String,
}

/// A blocked network.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Block {
    /// The network.
    cidr: String,
    /// Why.
    reason: Option<String>,
    /// Since when.
    #[schema(value_type = String)]
    created_at: Timestamp,
    /// Until when; null: for good.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
}

/// Blocked networks.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct BlockPage {
    /// Those blocked at run time, by network.
    blocks: Vec<Block>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
    /// How many more `limits.block_list_file` holds.
    in_file: usize,
}

/// Block an address or a network on all nodes; its connections end within a second.
#[utoipa::path(
    tag = "operation",
    request_body = NewBlock,
    responses(
        (status = 201, body = Block), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/admin/blocklist")]
pub async fn block(request: HttpRequest, body: JsonBody<NewBlock>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    rights::require(&body.principal, Command::OperateNodes)?;
    let NewBlock { cidr, expires_at, ttl_s, reason } = body.value;
    let network = network(&cidr)?;
    let until = until(expires_at.as_deref(), ttl_s, services.log.clock().steady())?;
    if reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
        return Err(Refusal::invalid("reason", format!("must be at most {MAX_REASON} bytes")).into());
    }
    let row = services.blocks.block(network, until, reason).await?;
    tracing::info!(cidr = row.cidr, expires_at = until.map(tracing::field::display), "a network is blocked");
    Ok(HttpResponse::Created().json(shown(row)))
}

/// Allow a network again that was blocked at run time.
#[utoipa::path(
    tag = "operation",
    request_body = Option<Unblock>,
    params(("cidr" = Option<String>, Query, description = "in place of a body")),
    responses(
        (status = 204, description = "no longer blocked"), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
#[delete("/v2/admin/blocklist")]
pub async fn unblock(request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request)?;
    let (principal, cidr) = match query.get("cidr") {
        Some(cidr) => (authenticate(&request).await?, cidr.to_owned()),
        None => {
            let body = JsonBody::<Unblock>::from_request(&request, &mut payload.into_inner()).await?;
            (body.principal, body.value.cidr)
        }
    };
    rights::require(&principal, Command::OperateNodes)?;
    let network = network(&cidr)?;
    if !services(&request).blocks.unblock(network).await? {
        let detail = "the network was not blocked at run time";
        return Err(Refusal::new(RefusalKind::NotFound, "no_such_block", detail).into());
    }
    tracing::info!(cidr = %network, "a network is no longer blocked");
    Ok(HttpResponse::NoContent().finish())
}

/// A page of the networks that are blocked.
#[utoipa::path(
    tag = "operation",
    params(
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1-200, default 50"),
    ),
    responses((status = 200, body = BlockPage), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[get("/v2/admin/blocklist")]
pub async fn list(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
    rights::require(&principal, Command::OperateNodes)?;
    let query = Query::of(&request)?;
    let (after, limit) = (query.get("after").unwrap_or_default().to_owned(), query.limit()?);
    let mut rows = services.blocks.page(after, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.cidr.clone());
    let blocks = rows.into_iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(BlockPage { blocks, next, in_file: services.blocks.in_file() }))
}

fn network(cidr: &str) -> Result<IpNet, Refusal> {
    parse_network(cidr)
        .ok_or_else(|| Refusal::invalid("cidr", "must be an address or a network like 192.0.2.0/24"))
}

fn until(expires_at: Option<&str>, ttl_s: Option<u64>, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
    match (expires_at, ttl_s) {
        (Some(_), Some(_)) => Err(Refusal::invalid("ttl_s", "excludes expires_at")),
        (None, Some(0)) => Err(Refusal::invalid("ttl_s", "must be at least 1")),
        (None, ttl_s) => Ok(ttl_s.map(|ttl_s| now.plus(Duration::from_secs(ttl_s)))),
        (Some(text), None) => match Timestamp::parse(text) {
            Some(at) if at > now => Ok(Some(at)),
            Some(_) => Err(Refusal::invalid("expires_at", "must lie in the future")),
            None => Err(Refusal::invalid("expires_at", "must be RFC 3339")),
        },
    }
}

fn shown(row: BlockRow) -> Block {
    Block {
        cidr: row.cidr,
        reason: row.reason,
        created_at: Timestamp::from_micros(row.created_us),
        expires_at: row.expires_us.map(Timestamp::from_micros),
    }
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(block).service(unblock).service(list);
}
