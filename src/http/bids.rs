use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::auth::authenticate;
use super::body::{JsonBody, charged};
use super::events::{answer_key, command_key};
use super::problem::ProblemBody;
use super::query::Query;
use super::services::services;
use super::{Problem, Services};
use crate::bids::ranking::Speaks;
use crate::bids::{
    About, AntiSniping, BidStep, BidView, Criteria, NewBid, RankingView, Status, Viewer, Window,
    WrittenAntiSniping, WrittenCriterion, no_such_bid,
};
use crate::domain::{
    Decimal, EntityId, Position, Refusal, Selector, Timestamp, Topic, TopicKind, Visibility,
};
use crate::identity::rights::{self, Command};
use crate::identity::{Principal, Scope};
use crate::wire::Audience;

/// What origin, destination and cargo may take together, bytes.
const MOST_BYTES: usize = 16 << 10;

/// A bid to be created.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BidDraft {
    /// 1–64 of `[A-Za-z0-9_.:-]`; made up when it is not given.
    bid_id: Option<String>,
    /// A line for people, 1-200 characters.
    title: String,
    /// From where, any JSON.
    #[schema(value_type = Object)]
    origin: Box<RawValue>,
    /// Where to, any JSON.
    #[schema(value_type = Object)]
    destination: Box<RawValue>,
    /// What, any JSON; the three take at most 16 KiB.
    #[schema(value_type = Object)]
    cargo: Box<RawValue>,
    /// When it opens by itself, RFC 3339.
    opens_at: Option<String>,
    /// When it closes, RFC 3339.
    closes_at: Option<String>,
    /// How proposals are compared: one to four, whose weights sum to 1.
    criteria: Vec<WrittenCriterion>,
    /// `open`, `anonymous` or `sealed`.
    #[schema(value_type = String)]
    visibility: Visibility,
    /// Proposals of a higher intensity take part without being ranked, gCO2e per tonne-km.
    #[schema(value_type = Option<f64>)]
    max_ei: Option<Box<RawValue>>,
    /// Extends the bid when its best proposal changes shortly before `closes_at`.
    anti_sniping: Option<WrittenAntiSniping>,
}

impl BidDraft {
    fn check(self) -> Result<NewBid, Refusal> {
        let id = match &self.bid_id {
            Some(text) => EntityId::parse(text).map_err(|error| Refusal::invalid("bid_id", error))?,
            None => EntityId::parse(&uuid::Uuid::now_v7().to_string()).expect("a UUID is an id"),
        };
        if !(1..=200).contains(&self.title.chars().count()) {
            return Err(Refusal::invalid("title", "must be 1-200 characters"));
        }
        let described = [&self.origin, &self.destination, &self.cargo];
        if described.iter().map(|own| own.get().len()).sum::<usize>() > MOST_BYTES {
            return Err(Refusal::invalid(
                "cargo",
                "and origin and destination must take at most 16 KiB together",
            ));
        }
        let (opens_at, closes_at) = (time("opens_at", self.opens_at)?, time("closes_at", self.closes_at)?);
        if opens_at.zip(closes_at).is_some_and(|(start, end)| end <= start) {
            return Err(Refusal::invalid("closes_at", "must be after opens_at"));
        }
        let max_ei = self.max_ei.map(|raw| amount("max_ei", &raw)).transpose()?;
        let anti_sniping = self.anti_sniping.map(|own| {
            for (field, value) in [("window_s", own.window_s), ("extend_s", own.extend_s)] {
                if !(1..=86_400).contains(&value) {
                    return Err(Refusal::invalid(&format!("anti_sniping.{field}"), "must be 1-86400"));
                }
            }
            let us = |seconds: u32| i64::from(seconds) * 1_000_000;
            Ok(AntiSniping { window_us: us(own.window_s), extend_us: us(own.extend_s) })
        });
        Ok(NewBid {
            id,
            about: About {
                title: self.title,
                origin: self.origin,
                destination: self.destination,
                cargo: self.cargo,
            },
            criteria: Criteria::check(self.criteria)?,
            visibility: self.visibility,
            max_ei,
            opens_at,
            closes_at,
            anti_sniping: anti_sniping.transpose()?,
        })
    }
}

fn time(field: &str, text: Option<String>) -> Result<Option<Timestamp>, Refusal> {
    let parse =
        |text: String| Timestamp::parse(&text).ok_or_else(|| Refusal::invalid(field, "must be RFC 3339"));
    text.map(parse).transpose()
}

/// Reads a decimal that is not negative.
pub(super) fn amount(field: &str, raw: &RawValue) -> Result<Decimal, Refusal> {
    let value = Decimal::parse(raw.get()).map_err(|error| Refusal::invalid(field, error))?;
    match value.is_negative() {
        true => Err(Refusal::invalid(field, "must not be negative")),
        false => Ok(value),
    }
}

/// Which proposal wins.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Winner {
    /// A ranked proposal of the bid.
    proposal_id: String,
}

/// A bid, and the position from which a subscription misses nothing.
#[derive(Serialize, utoipa::ToSchema)]
pub struct BidSnapshot {
    #[serde(flatten)]
    bid: BidView,
    /// Read before the state.
    #[schema(value_type = String)]
    position: Position,
}

/// Bids, and the position from which a subscription misses nothing.
#[derive(Serialize, utoipa::ToSchema)]
pub struct BidPage {
    /// By id.
    bids: Vec<BidView>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
    /// Read before the state.
    #[schema(value_type = String)]
    position: Position,
}

/// A part of a bid's ranking, and the position from which a subscription misses nothing.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RankingSnapshot {
    #[serde(flatten)]
    ranking: RankingView,
    /// Read before the state.
    #[schema(value_type = String)]
    position: Position,
}

/// Create a bid, as a draft; whoever creates it owns it.
#[utoipa::path(
    tag = "bids",
    request_body = BidDraft,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer")),
    responses(
        (status = 201, body = BidView), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody),
        (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/bids")]
pub async fn create(request: HttpRequest, body: JsonBody<BidDraft>) -> Result<HttpResponse, Problem> {
    let key = answer_key(&request, body.hash)?;
    let bid = create_bid(services(&request), &body.principal, body.value, key).await?;
    Ok(HttpResponse::Created().json(bid))
}

/// Creates a bid, over whatever transport; `key` is its idempotency key with the hash of the request.
pub async fn create_bid(
    services: &Services,
    principal: &Principal,
    draft: BidDraft,
    key: Option<(String, String)>,
) -> Result<BidView, Refusal> {
    rights::require(principal, Command::CreateBid)?;
    let new = draft.check()?;
    let tenant = principal.tenant()?;
    services.bids.create(tenant, &viewer(principal), new, command_key(principal, key)).await
}

macro_rules! step {
    ($name:ident, $path:literal, $step:expr, $summary:literal) => {
        #[doc = $summary]
        #[utoipa::path(
            tag = "bids",
            params(
                ("id" = String, Path, description = "the bid's id"),
                ("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer"),
            ),
            responses(
                (status = 200, body = BidView), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
                (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 429, body = ProblemBody),
                (status = 503, body = ProblemBody),
            )
        )]
        #[post($path)]
        pub async fn $name(request: HttpRequest, id: web::Path<String>) -> Result<HttpResponse, Problem> {
            let principal = charged(&request).await?;
            let key = answer_key(&request, String::new())?;
            Ok(HttpResponse::Ok().json(step_bid(services(&request), &principal, &id, $step, key).await?))
        }
    };
}

step!(open, "/v2/bids/{id}/open", BidStep::Open, "Open a bid for proposals.");
step!(close, "/v2/bids/{id}/close", BidStep::Close, "Close a bid: its proposals change no more.");
step!(cancel, "/v2/bids/{id}/cancel", BidStep::Cancel, "Call a bid off.");

/// Award a closed bid to a proposal, which creates its order.
#[utoipa::path(
    tag = "bids",
    request_body = Winner,
    params(
        ("id" = String, Path, description = "the bid's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer"),
    ),
    responses(
        (status = 200, body = BidView), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 422, body = ProblemBody), (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/bids/{id}/award")]
pub async fn award(
    request: HttpRequest,
    id: web::Path<String>,
    body: JsonBody<Winner>,
) -> Result<HttpResponse, Problem> {
    let key = answer_key(&request, body.hash)?;
    let bid = award_bid(services(&request), &body.principal, &id, body.value, key).await?;
    Ok(HttpResponse::Ok().json(bid))
}

/// Awards a bid, over whatever transport.
pub async fn award_bid(
    services: &Services,
    principal: &Principal,
    id: &str,
    winner: Winner,
    key: Option<(String, String)>,
) -> Result<BidView, Refusal> {
    let proposal = EntityId::parse(&winner.proposal_id);
    let proposal = proposal.map_err(|error| Refusal::invalid("proposal_id", error))?;
    step_bid(services, principal, id, BidStep::Award(proposal.as_str().to_owned()), key).await
}

/// Takes a bid a step further, over whatever transport.
pub async fn step_bid(
    services: &Services,
    principal: &Principal,
    id: &str,
    step: BidStep,
    key: Option<(String, String)>,
) -> Result<BidView, Refusal> {
    // users may own it
    if principal.user.is_none() {
        rights::require(principal, Command::RunBid)?;
    }
    let (tenant, id) = (principal.tenant()?, EntityId::parse(id).map_err(|_| no_such_bid())?);
    let viewer = Viewer { sees_all: rights::may(principal, Command::RunBid), ..viewer(principal) };
    services.bids.step(tenant, &viewer, &id, step, command_key(principal, key)).await
}

/// A page of bids.
#[utoipa::path(
    tag = "bids",
    params(
        ("status" = Option<String>, Query, description = "only those of this status"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1-200, default 50"),
    ),
    responses((status = 200, body = BidPage), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[get("/v2/bids")]
pub async fn list(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let (services, principal) = (services(&request), authenticate(&request).await?);
    rights::require(&principal, Command::ReadBids)?;
    let query = Query::of(&request)?;
    let status = query.get("status").map(|text| {
        Status::parse(text).ok_or_else(|| Refusal::malformed("status", "must be the name of a status"))
    });
    let tenant = principal.tenant()?;
    // first the position, then the state: what happens in between is in the replay
    let position = services.log.open(tenant).await?.head();
    let part = (status.transpose()?, query.get("after").unwrap_or_default());
    let (bids, next) = services.bids.page(tenant, &viewer(&principal), part, query.limit()?).await?;
    Ok(HttpResponse::Ok().json(BidPage { bids, next, position }))
}

/// One bid.
#[utoipa::path(
    tag = "bids",
    params(("id" = String, Path, description = "the bid's id")),
    responses((status = 200, body = BidSnapshot), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody))
)]
#[get("/v2/bids/{id}")]
pub async fn find(request: HttpRequest, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let (services, principal) = (services(&request), authenticate(&request).await?);
    rights::require(&principal, Command::ReadBids)?;
    let tenant = principal.tenant()?;
    let position = services.log.open(tenant).await?.head();
    let id = EntityId::parse(&id).map_err(|_| no_such_bid())?;
    let bid = services.bids.find(tenant, &viewer(&principal), &id).await?;
    Ok(HttpResponse::Ok().json(BidSnapshot { bid, position }))
}

/// A part of a bid's ranking: after the first `offset`, or around a proposal.
#[utoipa::path(
    tag = "bids",
    params(
        ("id" = String, Path, description = "the bid's id"),
        ("offset" = Option<u64>, Query, description = "ranks before the first row, default 0"),
        ("around" = Option<String>, Query, description = "a proposal to show in the middle; where the caller sees pseudonyms, one of its own, or a pseudonym"),
        ("limit" = Option<u32>, Query, description = "1-200, default 50"),
    ),
    responses((status = 200, body = RankingSnapshot), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody))
)]
#[get("/v2/bids/{id}/ranking")]
pub async fn ranking(request: HttpRequest, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let (services, principal) = (services(&request), authenticate(&request).await?);
    rights::require(&principal, Command::ReadRankings)?;
    let query = Query::of(&request)?;
    let limit = query.limit()?;
    let window = match (query.get("around"), query.number("offset", 0..=1_000_000_000)?) {
        (Some(_), Some(_)) => {
            return Err(Refusal::malformed("around", "and offset exclude each other").into());
        }
        (Some(id), None) => Window::Around { proposal_id: id.to_owned(), limit },
        (None, offset) => Window::Offset { offset: offset.unwrap_or(0) as usize, limit },
    };
    let tenant = principal.tenant()?;
    let position = services.log.open(tenant).await?.head();
    let id = EntityId::parse(&id).map_err(|_| no_such_bid())?;
    let ranking = services.bids.ranking(tenant, viewer(&principal), &id, window).await?;
    Ok(HttpResponse::Ok().json(RankingSnapshot { ranking, position }))
}

/// Who looks at bids, by what the table of rights says of `ranking:` topics.
fn viewer(principal: &Principal) -> Viewer {
    let any = EntityId::parse("any").expect("an id");
    let selector = Selector::Topic(Topic::of(TopicKind::Ranking, &any));
    Viewer {
        sees_all: rights::subscription(principal, &selector) == Some(Audience::Full),
        sub: principal.user.as_ref().map(|user| user.sub.as_str().to_owned()),
        speaks: speaks(principal),
    }
}

/// For which carriers somebody may speak: services with scope `manage` for any, users with role `carrier` for
/// themselves and those of their claim `carriers`.
pub(super) fn speaks(principal: &Principal) -> Speaks {
    match &principal.user {
        None if principal.scopes.has_any(&[Scope::Manage]) => Speaks::ForAny,
        None => Speaks::For(Vec::new()),
        Some(user) if user.roles.iter().any(|role| role == "carrier") => {
            Speaks::For(user.carriers.iter().cloned().chain([user.sub.as_str().to_owned()]).collect())
        }
        Some(_) => Speaks::For(Vec::new()),
    }
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config
        .service(create)
        .service(open)
        .service(close)
        .service(cancel)
        .service(award)
        .service(list)
        .service(ranking)
        .service(find);
}
