use actix_web::{HttpRequest, HttpResponse, delete, get, post, put, web};
use serde::{Deserialize, Serialize};

use super::Problem;
use super::auth::authenticate;
use super::body::JsonBody;
use super::problem::ProblemBody;
use super::query::Query;
use super::services::services;
use crate::domain::{EntityId, Position, Refusal, UserSub};
use crate::identity::rights::{self, Command};

/// Users named in one request, at most.
const MAX_USERS: usize = 1000;

/// How a topic is declared.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// Whether it is for its members only.
    membership: bool,
}

/// Users to become members, or to stop being some.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Members {
    /// 1–1000 users by their `sub`.
    users: Vec<String>,
}

/// A declared topic.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DeclaredTopic {
    /// The topic, `topic:{name}`.
    topic: String,
    /// Whether it is for its members only.
    membership: bool,
    /// How many members it has.
    members: u64,
    /// The head of the tenant's log; members made by this request hear what comes after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    position: Option<Position>,
}

/// A declared topic with its members.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TopicPage {
    #[serde(flatten)]
    topic: DeclaredTopic,
    /// Members, by user.
    users: Vec<TopicMember>,
    /// The user to continue after, when there are more.
    next: Option<String>,
}

/// A member of a topic.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TopicMember {
    /// Its `sub`.
    user: String,
    /// The position that it was made a member at: it hears what comes after.
    since: String,
}

/// Declare a topic to be for its members only, or for everybody.
#[utoipa::path(
    tag = "topics",
    params(("name" = String, Path, description = "what follows `topic:`")),
    request_body = Declaration,
    responses(
        (status = 201, body = DeclaredTopic, description = "declared"), (status = 200, body = DeclaredTopic, description = "declared before"),
        (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 422, body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
#[put("/v2/topics/{name}")]
pub async fn declare(
    request: HttpRequest,
    name: web::Path<String>,
    body: JsonBody<Declaration>,
) -> Result<HttpResponse, Problem> {
    rights::require(&body.principal, Command::DeclareTopics)?;
    let (tenant, name) = (body.principal.tenant()?, parse(&name)?);
    let services = services(&request);
    let declared = services.topics.declare(tenant, &name, body.value.membership).await?;
    services.recheck_topics();
    let mut answer = if declared.is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(answer.json(shown(&name, declared.membership, declared.members, None)))
}

/// A declared topic and its members.
#[utoipa::path(
    tag = "topics",
    params(
        ("name" = String, Path, description = "what follows `topic:`"),
        ("limit" = Option<usize>, Query, description = "members, 1-200, default 50"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, body = TopicPage), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[get("/v2/topics/{name}")]
pub async fn find(request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, Problem> {
    let principal = authenticate(&request).await?;
    rights::require(&principal, Command::DeclareTopics)?;
    let (query, name) = (Query::of(&request)?, parse(&name)?);
    let (limit, after) = (query.limit()?, query.get("after").unwrap_or_default());
    let topics = &services(&request).topics;
    let (declared, mut users) = topics.find(principal.tenant()?, &name, after, limit + 1).await?;
    let more = users.len() > limit;
    users.truncate(limit);
    let next = users.last().filter(|_| more).map(|(user, _)| user.clone());
    let users = users.into_iter().map(|(user, since)| TopicMember { user, since }).collect();
    let topic = shown(&name, declared.membership, declared.members, None);
    Ok(HttpResponse::Ok().json(TopicPage { topic, users, next }))
}

/// Make users members of a declared topic: they hear what comes from now on.
#[utoipa::path(
    tag = "topics",
    params(("name" = String, Path, description = "what follows `topic:`")),
    request_body = Members,
    responses(
        (status = 200, body = DeclaredTopic), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody), (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/topics/{name}/members")]
pub async fn grant(
    request: HttpRequest,
    name: web::Path<String>,
    body: JsonBody<Members>,
) -> Result<HttpResponse, Problem> {
    change(request, &name, body, true).await
}

/// Take membership of a declared topic from users.
#[utoipa::path(
    tag = "topics",
    params(("name" = String, Path, description = "what follows `topic:`")),
    request_body = Members,
    responses(
        (status = 200, body = DeclaredTopic), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody), (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[delete("/v2/topics/{name}/members")]
pub async fn withdraw(
    request: HttpRequest,
    name: web::Path<String>,
    body: JsonBody<Members>,
) -> Result<HttpResponse, Problem> {
    change(request, &name, body, false).await
}

async fn change(
    request: HttpRequest,
    name: &str,
    body: JsonBody<Members>,
    is_grant: bool,
) -> Result<HttpResponse, Problem> {
    rights::require(&body.principal, Command::DeclareTopics)?;
    let (tenant, name, users) = (body.principal.tenant()?, parse(name)?, users(&body.value.users)?);
    let services = services(&request);
    let (declared, head) = services.topics.change_members(tenant, &name, users, is_grant).await?;
    services.recheck_topics();
    Ok(HttpResponse::Ok().json(shown(&name, declared.membership, declared.members, Some(head))))
}

fn users(named: &[String]) -> Result<Vec<UserSub>, Refusal> {
    if named.is_empty() || named.len() > MAX_USERS {
        return Err(Refusal::invalid("users", format!("must be 1-{MAX_USERS}")));
    }
    let parse = |(index, text): (usize, &String)| {
        UserSub::parse(text).map_err(|error| Refusal::invalid(&format!("users[{index}]"), error))
    };
    named.iter().enumerate().map(parse).collect()
}

fn parse(name: &str) -> Result<EntityId, Refusal> {
    EntityId::parse(name).map_err(|error| Refusal::invalid("name", error))
}

fn shown(name: &EntityId, membership: bool, members: u64, position: Option<Position>) -> DeclaredTopic {
    DeclaredTopic { topic: format!("topic:{name}"), membership, members, position }
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(declare).service(find).service(grant).service(withdraw);
}
