use actix_web::{HttpRequest, HttpResponse, delete, post, web};

use super::Problem;
use super::auth::authenticate_command;
use super::body::JsonBody;
use super::problem::ProblemBody;
use super::services::services;
use crate::domain::Refusal;
use crate::identity::rights::{self, Command};
use crate::identity::{IssuedTicket, TicketRequest};

/// Issue a ticket, for a client that cannot send headers.
#[utoipa::path(
    tag = "realtime",
    request_body = TicketRequest,
    responses(
        (status = 201, body = IssuedTicket), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/realtime/tickets")]
pub async fn issue(request: HttpRequest, body: JsonBody<TicketRequest>) -> Result<HttpResponse, Problem> {
    let principal = &body.principal;
    rights::require(principal, Command::IssueTicket)?;
    let most = services(&request).settings.sessions.max_topics;
    if body.value.topics.as_ref().is_some_and(|topics| topics.len() > most) {
        return Err(Refusal::invalid("topics", format!("must be at most {most}")).into());
    }
    let ticket = services(&request).tickets.issue(principal, body.value).await?;
    Ok(HttpResponse::Created().insert_header(("Cache-Control", "no-store")).json(ticket))
}

/// Revoke a ticket; its stream ends within a second.
#[utoipa::path(
    tag = "realtime",
    params(("ticket_id" = String, Path, description = "the ticket's id, not the ticket")),
    responses(
        (status = 204, description = "revoked, or revoked before"), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[delete("/v2/realtime/tickets/{ticket_id}")]
pub async fn revoke(request: HttpRequest, ticket_id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let principal = authenticate_command(&request).await?;
    let is_administrator = rights::may(&principal, Command::Administer);
    services(&request).tickets.revoke(&principal, &ticket_id, is_administrator).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(issue).service(revoke);
}
