use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::auth::authenticate;
use super::body::JsonBody;
use super::events::{answer_key, command_key};
use super::problem::ProblemBody;
use super::query::Query;
use super::services::services;
use super::{Problem, Services};
use crate::domain::{
    EntityId, Position, Refusal, RefusalKind, Selector, Timestamp, Topic, TopicKind, UserSub,
};
use crate::identity::rights::{self, Command};
use crate::identity::{Principal, User};
use crate::orders::{Changed, NewOrder, NewReport, NewTracking, Order, OrderReport, Party, Reporter, Status};
use crate::topics::{Facts, Knowledge, audience};
use crate::wire::compact;

/// Where an order is created.
pub const CREATE: &str = "/v2/orders";
/// What repeated reports over WebSocket are known by.
pub const STATUS: &str = "/v2/orders/status";

/// Bytes of a place or a cargo, at most.
const MOST_BYTES: usize = 4096;
/// Characters of a note or a reason, at most.
const MOST_CHARACTERS: usize = 1000;
/// Characters of a coordinate, at most.
const MOST_DIGITS: usize = 32;

/// An order to be created.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderBody {
    /// 1–64 of `[A-Za-z0-9_.:-]`; a UUIDv7 when not given.
    order_id: Option<String>,
    /// The user that it is shipped for; the caller when not given and it is a user.
    shipper: Option<String>,
    /// Who carries it: the `sub` of a user, or what users state in their claim `carriers`; 1–128 bytes.
    carrier: Option<String>,
    /// From where: a text or an object, at most 4096 bytes.
    #[schema(value_type = Option<Object>)]
    origin: Option<Box<RawValue>>,
    /// To where: a text or an object, at most 4096 bytes.
    #[schema(value_type = Option<Object>)]
    destination: Option<Box<RawValue>>,
    /// What: a text or an object, at most 4096 bytes.
    #[schema(value_type = Option<Object>)]
    cargo: Option<Box<RawValue>>,
    /// The bid that it was awarded by.
    bid_id: Option<String>,
}

/// A report of an order's status.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusReport {
    /// `assigned`, `picked_up`, `in_transit`, `delivered`, `cancelled` or `exception`.
    new_status: Status,
    /// Where and when something was seen.
    tracking_event: Option<TrackingReport>,
    /// At most 1000 characters.
    reason: Option<String>,
}

/// Where and when something was seen of an order.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrackingReport {
    /// Degrees north, −90 to 90; together with `lng`.
    #[schema(value_type = Option<f64>)]
    lat: Option<Box<RawValue>>,
    /// Degrees east, −180 to 180.
    #[schema(value_type = Option<f64>)]
    lng: Option<Box<RawValue>>,
    /// At most 1000 characters.
    note: Option<String>,
    /// RFC 3339; the time of receipt when not given.
    occurred_at: Option<String>,
}

/// The same as a WebSocket command, which names its order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedReport {
    order_id: String,
    new_status: Status,
    tracking_event: Option<TrackingReport>,
    reason: Option<String>,
}

impl NamedReport {
    /// The order's id, and the report.
    pub fn split(self) -> (String, StatusReport) {
        let NamedReport { order_id, new_status, tracking_event, reason } = self;
        (order_id, StatusReport { new_status, tracking_event, reason })
    }
}

/// An order with its history, and the position from which a subscription misses nothing.
#[derive(Serialize, utoipa::ToSchema)]
pub struct OrderSnapshot {
    #[serde(flatten)]
    order: Order,
    /// What was reported of it, the newest first.
    history: Vec<OrderReport>,
    /// `before` of the next page of the history; null on the last.
    next: Option<String>,
    /// Read before the state.
    #[schema(value_type = String)]
    position: Position,
}

/// Orders, and the position from which a subscription misses nothing.
#[derive(Serialize, utoipa::ToSchema)]
pub struct OrderPage {
    /// By id.
    orders: Vec<Order>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
    /// Read before the state.
    #[schema(value_type = String)]
    position: Position,
}

impl OrderBody {
    fn check(self, principal: &Principal) -> Result<NewOrder, Refusal> {
        let id = |field: &str, text: String| {
            EntityId::parse(&text).map_err(|error| Refusal::invalid(field, error))
        };
        let generated = || EntityId::parse(&uuid::Uuid::now_v7().to_string()).expect("an id");
        Ok(NewOrder {
            order_id: self.order_id.map_or_else(|| Ok(generated()), |text| id("order_id", text))?,
            shipper: shipper(self.shipper, principal)?,
            carrier: self.carrier.map(|text| carrier(&text).map(|()| text)).transpose()?,
            origin: described("origin", self.origin)?,
            destination: described("destination", self.destination)?,
            cargo: described("cargo", self.cargo)?,
            bid_id: self.bid_id.map(|text| id("bid_id", text)).transpose()?,
        })
    }
}

/// For whom it is shipped: users ship for themselves, unless they may create orders of others.
fn shipper(named: Option<String>, principal: &Principal) -> Result<UserSub, Refusal> {
    let own = principal.user.as_ref().map(|user| &user.sub);
    let Some(named) = named else {
        return own.cloned().ok_or_else(|| Refusal::invalid("shipper", "is required of services"));
    };
    let named = UserSub::parse(&named).map_err(|error| Refusal::invalid("shipper", error))?;
    without_nul("shipper", named.as_str())?;
    if own != Some(&named) {
        rights::require(principal, Command::CreateOrderFor)?;
    }
    Ok(named)
}

fn carrier(text: &str) -> Result<(), Refusal> {
    match User::is_item(text) {
        true => without_nul("carrier", text),
        false => Err(Refusal::invalid("carrier", "must be 1-128 bytes of UTF-8")),
    }
}

fn without_nul(field: &str, text: &str) -> Result<(), Refusal> {
    // no text that PostgreSQL keeps holds one
    if text.contains('\0') { Err(Refusal::invalid(field, "must not hold a NUL")) } else { Ok(()) }
}

/// A place or a cargo in whatever words its sender has for it.
fn described(field: &str, raw: Option<Box<RawValue>>) -> Result<Option<String>, Refusal> {
    let Some(raw) = raw else { return Ok(None) };
    let text = compact(&raw);
    if !text.starts_with(['"', '{']) || text.len() > MOST_BYTES {
        let problem = format!("must be a text or an object of at most {MOST_BYTES} bytes");
        return Err(Refusal::invalid(field, problem));
    }
    Ok(Some(text.to_string()))
}

impl StatusReport {
    fn check(self) -> Result<NewReport, Refusal> {
        Ok(NewReport {
            status: self.new_status,
            tracking: self.tracking_event.map(TrackingReport::check).transpose()?,
            reason: self.reason.map(|text| words("reason", text)).transpose()?,
        })
    }
}

impl TrackingReport {
    fn check(self) -> Result<NewTracking, Refusal> {
        let place = match (self.lat, self.lng) {
            (Some(lat), Some(lng)) => {
                Some((degrees("tracking_event.lat", lat, 90.0)?, degrees("tracking_event.lng", lng, 180.0)?))
            }
            (None, None) => None,
            (Some(_), None) => return Err(Refusal::invalid("tracking_event.lng", "belongs to lat")),
            (None, Some(_)) => return Err(Refusal::invalid("tracking_event.lat", "belongs to lng")),
        };
        let moment = |text: String| {
            let at = Timestamp::parse(&text);
            at.ok_or_else(|| Refusal::invalid("tracking_event.occurred_at", "must be RFC 3339"))
        };
        Ok(NewTracking {
            place,
            note: self.note.map(|text| words("tracking_event.note", text)).transpose()?,
            occurred_at: self.occurred_at.map(moment).transpose()?,
        })
    }
}

/// A coordinate; it keeps the digits that were sent.
fn degrees(field: &str, raw: Box<RawValue>, most: f64) -> Result<Box<RawValue>, Refusal> {
    let is_number = raw.get().starts_with(|first: char| first == '-' || first.is_ascii_digit());
    let value = raw.get().parse::<f64>().ok().filter(|_| is_number && raw.get().len() <= MOST_DIGITS);
    match value.is_some_and(|value| value.is_finite() && value.abs() <= most) {
        true => Ok(raw),
        false => {
            let problem =
                format!("must be a number from -{most} to {most}, of at most {MOST_DIGITS} characters");
            Err(Refusal::invalid(field, problem))
        }
    }
}

fn words(field: &str, text: String) -> Result<String, Refusal> {
    if text.chars().count() > MOST_CHARACTERS {
        return Err(Refusal::invalid(field, format!("must be at most {MOST_CHARACTERS} characters")));
    }
    without_nul(field, &text)?;
    Ok(text)
}

/// Create an order. Services with scope `manage`, users with role `manager` or `admin`, or `shipper` for themselves.
#[utoipa::path(
    tag = "orders",
    request_body = OrderBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer")),
    responses(
        (status = 201, body = Order), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 409, body = ProblemBody, description = "`exists`: there is one of this id"),
        (status = 422, body = ProblemBody), (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/orders")]
pub async fn create(request: HttpRequest, body: JsonBody<OrderBody>) -> Result<HttpResponse, Problem> {
    let key = answer_key(&request, body.hash)?;
    let order = create_one(services(&request), &body.principal, body.value, key).await?;
    Ok(HttpResponse::Created().json(order))
}

/// Creates an order, over whatever transport; `key` is its idempotency key with the hash of the request.
pub async fn create_one(
    services: &Services,
    principal: &Principal,
    order: OrderBody,
    key: Option<(String, String)>,
) -> Result<Order, Refusal> {
    rights::require(principal, Command::CreateOrder)?;
    let (order, key) = (order.check(principal)?, command_key(principal, key));
    services.orders.create(principal.tenant()?, order, key).await
}

/// Report an order's status, and what was seen of it.
///
/// A report that comes out of order, being older than the newest one or of an earlier step, is answered with the
/// unchanged status and `applied:false`; it is in the history, and heard by nobody.
#[utoipa::path(
    tag = "orders",
    request_body = StatusReport,
    params(
        ("id" = String, Path, description = "the order's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "a repeated request gets the stored answer"),
    ),
    responses(
        (status = 200, body = Changed), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody),
        (status = 409, body = ProblemBody, description = "`illegal_transition`: no order goes from its status to that one"),
        (status = 422, body = ProblemBody), (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
#[post("/v2/orders/{id}/status")]
pub async fn set_status(
    request: HttpRequest,
    id: web::Path<String>,
    body: JsonBody<StatusReport>,
) -> Result<HttpResponse, Problem> {
    let key = answer_key(&request, body.hash)?;
    let changed = report_one(services(&request), &body.principal, (&id, body.value), key).await?;
    Ok(HttpResponse::Ok().json(changed))
}

/// Takes a report in, over whatever transport; `key` is its idempotency key with the hash of the request.
pub async fn report_one(
    services: &Services,
    principal: &Principal,
    (id, report): (&str, StatusReport),
    key: Option<(String, String)>,
) -> Result<Changed, Refusal> {
    let reporter = match &principal.user {
        Some(user) if !rights::may(principal, Command::SetOrderStatus) => Reporter::Carrier(user.clone()),
        _ => {
            rights::require(principal, Command::SetOrderStatus)?;
            Reporter::Any
        }
    };
    let id = EntityId::parse(id).map_err(|error| Refusal::invalid("order_id", error))?;
    let (report, key) = (report.check()?, command_key(principal, key));
    services.orders.report(principal.tenant()?, &id, (reporter, report), key).await
}

/// A page of orders: all of them for services, dispatchers, managers and administrators; for other users those that
/// they are shipper or carrier of.
#[utoipa::path(
    tag = "orders",
    params(
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1-200, default 50"),
    ),
    responses((status = 200, body = OrderPage), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[get("/v2/orders")]
pub async fn list(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
    let party = match &principal.user {
        Some(user) if !rights::may(&principal, Command::ReadOrders) => Some(Party::of(user)),
        _ => {
            rights::require(&principal, Command::ReadOrders)?;
            None
        }
    };
    let query = Query::of(&request)?;
    let tenant = principal.tenant()?;
    // first the position, then the state: what happens in between is in the replay
    let position = services.log.open(tenant).await?.head();
    let wanted = (query.get("after").unwrap_or_default(), query.limit()?);
    let page = services.orders.page(tenant, party, wanted).await?;
    Ok(HttpResponse::Ok().json(OrderPage { orders: page.rows, next: page.next, position }))
}

/// One order with its history, for whoever may subscribe to `order:{id}`.
#[utoipa::path(
    tag = "orders",
    params(
        ("id" = String, Path, description = "the order's id"),
        ("before" = Option<i64>, Query, description = "`next` of the page of the history before"),
        ("limit" = Option<u32>, Query, description = "reports of the history, 1-200, default 50"),
    ),
    responses(
        (status = 200, body = OrderSnapshot), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody),
    )
)]
#[get("/v2/orders/{id}")]
pub async fn find(request: HttpRequest, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
    let (tenant, query) = (principal.tenant()?, Query::of(&request)?);
    let before = query.number("before", 0..=i64::MAX as u64)?.map(|before| before as i64);
    let limit = query.limit()?;
    let position = services.log.open(tenant).await?.head();
    // what is no id nobody can have
    let id = EntityId::parse(&id).map_err(|_| no_order())?;
    let found = services.orders.find(tenant, &id, (before, limit)).await?;
    may_read(&principal, &id, found.as_ref().map(|(order, _)| order))?;
    let (order, page) = found.ok_or_else(no_order)?;
    let (history, next) = (page.rows, page.next);
    Ok(HttpResponse::Ok().json(OrderSnapshot { order, history, next, position }))
}

/// Whether an order is there is told only to those who may hear it.
fn may_read(principal: &Principal, id: &EntityId, order: Option<&Order>) -> Result<(), Refusal> {
    let facts = |order: &Order| {
        let (shipper, carrier) = (order.shipper.clone(), order.carrier.clone());
        Knowledge::Facts(Facts::Order { shipper, carrier }.into())
    };
    let known = order.map_or(Knowledge::Absent, facts);
    let topic = Selector::Topic(Topic::of(TopicKind::Order, id));
    let refused =
        |code| Refusal::forbidden(code, "the order is for its shipper, its carrier, and some roles");
    audience(principal, &topic, |_| known).map(drop).map_err(refused)
}

fn no_order() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "no_such_order", "there is no order of this id")
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(create).service(set_status).service(list).service(find);
}
