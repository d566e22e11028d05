use actix_web::{HttpRequest, HttpResponse, get, patch, post, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::auth::authenticate;
use super::body::JsonBody;
use super::events::{answer_key, command_key};
use super::lenient::lenient;
use super::problem::ProblemBody;
use super::query::Query;
use super::services::services;
use super::{Problem, Services};
use crate::accounts::{Account, AccountChanges, NewAccount, Snapshot};
use crate::domain::{Position, Refusal, RefusalKind};
use crate::identity::Principal;
use crate::identity::rights::oneself;

/// Where accounts are made.
pub const ACCOUNTS: &str = "/accounts";
const SURFACE: &str = "accounts";

/// An account to be made. Over HTTP further fields are ignored.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountBody {
    /// 1–200 characters.
    name: String,
    /// At most 12 digits before and 6 after the point.
    #[schema(value_type = f64)]
    balance: Box<RawValue>,
}

/// What is to change of an account, either or both. Over HTTP further fields are ignored.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangesBody {
    /// 1–200 characters.
    name: Option<String>,
    /// At most 12 digits before and 6 after the point.
    #[schema(value_type = Option<f64>)]
    balance: Option<Box<RawValue>>,
}

/// The same as a command over WebSocket.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateCommand {
    id: i64,
    name: Option<String>,
    balance: Option<Box<RawValue>>,
}

/// Accounts, and the position from which a subscription misses nothing.
#[derive(Serialize, utoipa::ToSchema)]
pub struct AccountPage {
    /// By id.
    accounts: Vec<Account>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
    /// Read before the state.
    #[schema(value_type = String)]
    position: Position,
}

/// Snapshots, and the position from which a subscription misses nothing.
#[derive(Serialize, utoipa::ToSchema)]
pub struct SnapshotPage {
    /// Newest first.
    snapshots: Vec<Snapshot>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
    /// Read before the state.
    #[schema(value_type = String)]
    position: Position,
}

/// Make an account; a snapshot of all of the caller's follows, and `snapshots.generated`.
#[utoipa::path(
    tag = "accounts",
    request_body = AccountBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer")),
    responses(
        (status = 201, body = Account), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody),
        (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/accounts")]
pub async fn create(request: HttpRequest, body: JsonBody<Box<RawValue>>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    oneself(&body.principal)?;
    let key = answer_key(&request, body.hash)?;
    let sent = lenient(&services.metrics, SURFACE, &body.value, &["name", "balance"])?;
    let account = create_one(services, &body.principal, sent, key).await?;
    Ok(HttpResponse::Created().json(account))
}

/// Makes one, over whatever transport; `key` is its idempotency key with the hash of the request.
pub async fn create_one(
    services: &Services,
    principal: &Principal,
    sent: AccountBody,
    key: Option<(String, String)>,
) -> Result<Account, Refusal> {
    let owner = (principal.tenant()?, &oneself(principal)?.sub);
    let new = NewAccount::check(sent.name, sent.balance.get())?;
    services.accounts.create(owner, new, command_key(principal, key)).await
}

/// Change an account of the caller; the caller is told by `account.updated`.
#[utoipa::path(
    tag = "accounts",
    request_body = ChangesBody,
    params(
        ("id" = i64, Path, description = "the account's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer"),
    ),
    responses(
        (status = 200, body = Account), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 422, body = ProblemBody), (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[patch("/accounts/{id}")]
pub async fn update(
    request: HttpRequest,
    id: web::Path<String>,
    body: JsonBody<Box<RawValue>>,
) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    oneself(&body.principal)?;
    let key = answer_key(&request, body.hash)?;
    let ChangesBody { name, balance } =
        lenient(&services.metrics, SURFACE, &body.value, &["name", "balance"])?;
    let id = id.parse().map_err(|_| no_account())?;
    let account = update_one(services, &body.principal, UpdateCommand { id, name, balance }, key).await?;
    Ok(HttpResponse::Ok().json(account))
}

/// Changes one, over whatever transport; `key` is its idempotency key with the hash of the request.
pub async fn update_one(
    services: &Services,
    principal: &Principal,
    sent: UpdateCommand,
    key: Option<(String, String)>,
) -> Result<Account, Refusal> {
    let owner = (principal.tenant()?, &oneself(principal)?.sub);
    let changes = AccountChanges::check(sent.name, sent.balance.as_deref().map(RawValue::get))?;
    services.accounts.update(owner, sent.id, changes, command_key(principal, key)).await
}

/// A page of the caller's accounts.
#[utoipa::path(
    tag = "accounts",
    params(
        ("after" = Option<i64>, Query, description = "`next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1-200, default 50"),
    ),
    responses((status = 200, body = AccountPage), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[get("/accounts")]
pub async fn list(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
    let owner = (principal.tenant()?, &oneself(&principal)?.sub);
    let query = Query::of(&request)?;
    let after = query.get("after").map_or(Ok(0), str::parse);
    let after = after.map_err(|_| Refusal::malformed("after", "must be an account's id"))?;
    // first the position, then the state: what happens in between is in the replay
    let position = services.log.open(owner.0).await?.head();
    let page = services.accounts.page(owner, after, query.limit()?).await?;
    Ok(HttpResponse::Ok().json(AccountPage { accounts: page.rows, next: page.next, position }))
}

/// A page of the snapshots of the caller's accounts.
#[utoipa::path(
    tag = "accounts",
    params(
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1-200, default 50"),
    ),
    responses((status = 200, body = SnapshotPage), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[get("/snapshots")]
pub async fn snapshots(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
    let owner = (principal.tenant()?, &oneself(&principal)?.sub);
    let query = Query::of(&request)?;
    let position = services.log.open(owner.0).await?.head();
    let page = services.accounts.snapshots(owner, query.get("after"), query.limit()?).await?;
    Ok(HttpResponse::Ok().json(SnapshotPage { snapshots: page.rows, next: page.next, position }))
}

fn no_account() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "no_such_account", "the user has no such account")
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(create).service(update).service(list).service(snapshots);
}
