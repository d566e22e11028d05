use actix_web::{HttpRequest, HttpResponse, delete, post, put, web};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::bids::{amount, speaks};
use super::body::{JsonBody, charged};
use super::events::{answer_key, command_key};
use super::problem::ProblemBody;
use super::services::services;
use super::{Problem, Services};
use crate::bids::ranking::{Accepted, Ask, Speaks, no_such_proposal};
use crate::bids::{Terms, no_such_bid};
use crate::domain::{EntityId, Refusal};
use crate::identity::Principal;
use crate::identity::rights::{self, Command};

/// What a carrier offers.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// What it costs, not negative.
    #[schema(value_type = f64)]
    price: Box<RawValue>,
    /// Carbon emission intensity, gCO2e per tonne-km, not negative.
    #[schema(value_type = f64)]
    ei: Box<RawValue>,
    /// Hours until it is there, not negative.
    #[schema(value_type = f64)]
    lead_time_hours: Box<RawValue>,
    /// How the carrier is rated, not negative.
    #[schema(value_type = Option<f64>)]
    rating: Option<Box<RawValue>>,
}

impl Offer {
    fn check(&self) -> Result<Terms, Refusal> {
        Ok(Terms {
            price: amount("price", &self.price)?,
            ei: amount("ei", &self.ei)?,
            lead_time_hours: amount("lead_time_hours", &self.lead_time_hours)?,
            rating: self.rating.as_ref().map(|raw| amount("rating", raw)).transpose()?,
        })
    }
}

/// A proposal to a bid.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProposal {
    /// 1–64 of `[A-Za-z0-9_.:-]`, in an anonymous or sealed bid a UUID; made up when it is not given.
    proposal_id: Option<String>,
    /// Whose it is: one active proposal for each carrier.
    carrier_id: String,
    /// What it costs, not negative, at most 12 digits before and 6 after the point.
    #[schema(value_type = f64)]
    price: Box<RawValue>,
    /// Carbon emission intensity, gCO2e per tonne-km, not negative.
    #[schema(value_type = f64)]
    ei: Box<RawValue>,
    /// Hours until it is there, not negative.
    #[schema(value_type = f64)]
    lead_time_hours: Box<RawValue>,
    /// How the carrier is rated, not negative.
    #[schema(value_type = Option<f64>)]
    rating: Option<Box<RawValue>>,
}

impl NewProposal {
    fn check(self) -> Result<Ask, Refusal> {
        let id = |field, text: &str| EntityId::parse(text).map_err(|error| Refusal::invalid(field, error));
        let proposal_id = match &self.proposal_id {
            Some(text) => id("proposal_id", text)?,
            None => EntityId::parse(&uuid::Uuid::now_v7().to_string()).expect("a UUID is an id"),
        };
        let carrier_id = id("carrier_id", &self.carrier_id)?;
        let offer = Offer {
            price: self.price,
            ei: self.ei,
            lead_time_hours: self.lead_time_hours,
            rating: self.rating,
        };
        Ok(Ask::Submit { proposal_id, carrier_id, terms: offer.check()? })
    }
}

/// Submit a proposal to an open bid.
#[utoipa::path(
    tag = "bids",
    request_body = NewProposal,
    params(
        ("id" = String, Path, description = "the bid's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer"),
    ),
    responses(
        (status = 201, body = Accepted), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 422, body = ProblemBody), (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/bids/{id}/proposals")]
pub async fn submit(
    request: HttpRequest,
    id: web::Path<String>,
    body: JsonBody<NewProposal>,
) -> Result<HttpResponse, Problem> {
    let key = answer_key(&request, body.hash)?;
    let accepted = submit_proposal(services(&request), &body.principal, &id, body.value, key).await?;
    Ok(HttpResponse::Created().json(accepted))
}

/// Submits a proposal, over whatever transport; `key` is its idempotency key with the hash of the request.
pub async fn submit_proposal(
    services: &Services,
    principal: &Principal,
    bid_id: &str,
    new: NewProposal,
    key: Option<(String, String)>,
) -> Result<Accepted, Refusal> {
    let speaks = proposer(principal)?;
    change(services, principal, bid_id, (new.check()?, speaks), key).await
}

/// Revise a proposal: it takes its place anew, behind equal ones.
#[utoipa::path(
    tag = "bids",
    request_body = Offer,
    params(
        ("id" = String, Path, description = "the bid's id"),
        ("proposal_id" = String, Path, description = "the proposal's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer"),
    ),
    responses(
        (status = 200, body = Accepted), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 422, body = ProblemBody), (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[put("/v2/bids/{id}/proposals/{proposal_id}")]
pub async fn revise(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    body: JsonBody<Offer>,
) -> Result<HttpResponse, Problem> {
    let key = answer_key(&request, body.hash)?;
    let ids = (path.0.as_str(), path.1.as_str());
    let accepted = revise_proposal(services(&request), &body.principal, ids, &body.value, key).await?;
    Ok(HttpResponse::Ok().json(accepted))
}

/// Revises a proposal, over whatever transport.
pub async fn revise_proposal(
    services: &Services,
    principal: &Principal,
    (bid_id, proposal_id): (&str, &str),
    offer: &Offer,
    key: Option<(String, String)>,
) -> Result<Accepted, Refusal> {
    let (speaks, terms) = (proposer(principal)?, offer.check()?);
    let proposal_id = EntityId::parse(proposal_id).map_err(|_| no_such_proposal())?;
    change(services, principal, bid_id, (Ask::Revise { proposal_id, terms }, speaks), key).await
}

/// Withdraw a proposal.
#[utoipa::path(
    tag = "bids",
    params(
        ("id" = String, Path, description = "the bid's id"),
        ("proposal_id" = String, Path, description = "the proposal's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer"),
    ),
    responses(
        (status = 200, body = Accepted), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 429, body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
#[delete("/v2/bids/{id}/proposals/{proposal_id}")]
pub async fn withdraw(
    request: HttpRequest,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let principal = charged(&request).await?;
    let key = answer_key(&request, String::new())?;
    let ids = (path.0.as_str(), path.1.as_str());
    let accepted = withdraw_proposal(services(&request), &principal, ids, key).await?;
    Ok(HttpResponse::Ok().json(accepted))
}

/// Withdraws a proposal, over whatever transport.
pub async fn withdraw_proposal(
    services: &Services,
    principal: &Principal,
    (bid_id, proposal_id): (&str, &str),
    key: Option<(String, String)>,
) -> Result<Accepted, Refusal> {
    let speaks = proposer(principal)?;
    let proposal_id = EntityId::parse(proposal_id).map_err(|_| no_such_proposal())?;
    change(services, principal, bid_id, (Ask::Withdraw { proposal_id }, speaks), key).await
}

/// For whom somebody may propose; nobody at all is refused.
fn proposer(principal: &Principal) -> Result<Speaks, Refusal> {
    match speaks(principal) {
        Speaks::For(carriers) if carriers.is_empty() => {
            rights::require(principal, Command::Propose)?;
            Ok(Speaks::For(carriers))
        }
        speaks => Ok(speaks),
    }
}

async fn change(
    services: &Services,
    principal: &Principal,
    bid_id: &str,
    asked: (Ask, Speaks),
    key: Option<(String, String)>,
) -> Result<Accepted, Refusal> {
    let (tenant, bid_id) = (principal.tenant()?, EntityId::parse(bid_id).map_err(|_| no_such_bid())?);
    services.bids.change(tenant, &bid_id, asked, command_key(principal, key)).await
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(submit).service(revise).service(withdraw);
}
