use actix_web::{HttpRequest, HttpResponse, post};
use serde::Serialize;

use super::body::JsonBody;
use super::problem::ProblemBody;
use super::services::services;
use super::{Problem, Services};
use crate::domain::{Cursor, Refusal};
use crate::identity::Principal;
use crate::sessions::Ack;

/// Events acknowledged at once, at most.
const MAX_ACKS: usize = 1000;

/// The answer to an acknowledgement.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Acked {
    /// How many were taken note of; those of an earlier epoch of the log are not.
    acked: usize,
}

/// Acknowledge that events were shown, each by itself.
#[utoipa::path(
    tag = "realtime",
    request_body = Ack,
    responses(
        (status = 200, body = Acked), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/realtime/ack")]
pub async fn acknowledge(request: HttpRequest, body: JsonBody<Ack>) -> Result<HttpResponse, Problem> {
    let acked = take(services(&request), &body.principal, body.value).await?;
    Ok(HttpResponse::Ok().json(acked))
}

/// Takes note, over whatever transport.
pub async fn take(services: &Services, principal: &Principal, acks: Ack) -> Result<Acked, Refusal> {
    if acks.ids.is_empty() || acks.ids.len() > MAX_ACKS {
        return Err(Refusal::invalid("ids", format!("must be 1-{MAX_ACKS}")));
    }
    let head = services.log.open(principal.tenant()?).await?.head();
    let mut acked = 0;
    for id in &acks.ids {
        match Cursor::read(id) {
            Cursor::At(position) if position.epoch != head.epoch => {}
            Cursor::At(position) if (1..=head.seq).contains(&position.seq) => acked += 1,
            _ => {
                let shown: String = id.chars().take(64).collect();
                return Err(Refusal::invalid("ids", format!("{shown:?} is the position of no event")));
            }
        }
    }
    services.metrics.acked(acked as u64);
    Ok(Acked { acked })
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(acknowledge);
}
