use actix_web::{HttpRequest, HttpResponse, post};

use super::Problem;
use super::body::{JsonBody, services};
use super::problem::ProblemBody;
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
    let principal = body.principal;
    rights::require(&principal, Command::IssueTicket)?;
    let ticket = services(&request).tickets.issue(&principal, body.value).await?;
    Ok(HttpResponse::Created()
        .insert_header(("Cache-Control", "no-store"))
        .json(ticket))
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(issue);
}
