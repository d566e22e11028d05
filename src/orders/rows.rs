use serde_json::value::RawValue;

use super::order::{Before, Decision, Report, Status, decide};
use super::view::{Changed, TrackingEvent, status};
use crate::domain::{Class, EntityId, Refusal, RefusalKind, TenantId, Timestamp, Topic, TopicKind, UserSub};
use crate::storage::{OrderReportRow, OrderRow, OutboxRow, StoreError};
use crate::topics::{Facts, created_rows};

/// An order to be created.
#[derive(Clone, Debug)]
pub struct NewOrder {
    /// Its id.
    pub order_id: EntityId,
    /// The user that it is shipped for.
    pub shipper: UserSub,
    /// Who carries it: a user, or what users state in their claim `carriers`.
    pub carrier: Option<String>,
    /// From where, as JSON.
    pub origin: Option<String>,
    /// To where, as JSON.
    pub destination: Option<String>,
    /// What, as JSON.
    pub cargo: Option<String>,
    /// The bid that it was awarded by.
    pub bid_id: Option<EntityId>,
}

/// What the transaction that creates an order writes.
#[derive(Clone, Debug)]
pub struct Insertion {
    /// For `orders::insert`.
    pub order: OrderRow,
    /// For `outbox::insert`, in order, before any other row of the transaction.
    pub created: Vec<OutboxRow>,
}

/// The rows of a new order.
pub fn insertion(tenant: &TenantId, new: &NewOrder, now: Timestamp) -> Insertion {
    let (shipper, carrier) = (new.shipper.as_str().to_owned(), new.carrier.clone());
    let facts = Facts::Order { shipper: shipper.clone(), carrier: carrier.clone() };
    let order = OrderRow {
        tenant: tenant.as_str().to_owned(),
        order_id: new.order_id.as_str().to_owned(),
        shipper,
        carrier,
        origin: new.origin.clone(),
        destination: new.destination.clone(),
        cargo: new.cargo.clone(),
        bid_id: new.bid_id.as_ref().map(|id| id.as_str().to_owned()),
        status: Status::Created.as_str().to_owned(),
        exception_from: None,
        newest_us: None,
        created_us: now.micros(),
        updated_us: now.micros(),
        reports: 0,
        version: 1,
    };
    Insertion { order, created: created_rows(tenant, &new.order_id, &facts, now) }
}

/// A report of an order, as far as it is for its sender to say.
#[derive(Clone, Debug)]
pub struct NewReport {
    /// Where it is said to stand.
    pub status: Status,
    /// Whether anything was seen, and when.
    pub tracking: Option<NewTracking>,
    /// Why.
    pub reason: Option<String>,
}

/// Where and when something was seen; as [`TrackingEvent`].
#[derive(Clone, Debug)]
pub struct NewTracking {
    /// Degrees north and east.
    pub place: Option<(Box<RawValue>, Box<RawValue>)>,
    /// In words.
    pub note: Option<String>,
    /// When it happened.
    pub occurred_at: Option<Timestamp>,
}

/// What a report writes, and what it is answered.
pub(super) struct Taken {
    pub order: OrderRow,
    pub report: OrderReportRow,
    pub event: Option<OutboxRow>,
    pub changed: Changed,
}

impl Taken {
    /// Decides on a report of an order that is locked.
    pub fn of(
        stored: OrderRow,
        order_id: &EntityId,
        new: &NewReport,
        now: Timestamp,
    ) -> Result<Result<Self, Refusal>, StoreError> {
        let before = Before {
            status: status(&stored.status)?,
            exception_from: stored.exception_from.as_deref().map(status).transpose()?,
            newest: stored.newest_us.map(Timestamp::from_micros),
        };
        let said = new.tracking.as_ref().and_then(|tracking| tracking.occurred_at);
        let report = Report { status: new.status, occurred_at: said };
        let tracking = new.tracking.as_ref().map(|tracking| TrackingEvent {
            lat: tracking.place.as_ref().map(|(lat, _)| lat.clone()),
            lng: tracking.place.as_ref().map(|(_, lng)| lng.clone()),
            note: tracking.note.clone(),
            occurred_at: said.unwrap_or(now).to_string(),
        });
        let (order, applied) = match decide(&before, &report, now) {
            Decision::Illegal => return Ok(Err(illegal(before.status, new.status))),
            Decision::Keep { occurred_at } => {
                let newest_us = stored.newest_us.max(Some(occurred_at.micros()));
                (OrderRow { newest_us, reports: stored.reports + 1, ..stored }, false)
            }
            Decision::Apply { exception_from, occurred_at } => {
                let order = OrderRow {
                    status: new.status.as_str().to_owned(),
                    exception_from: exception_from.map(|own| own.as_str().to_owned()),
                    newest_us: Some(occurred_at.micros()),
                    updated_us: now.micros(),
                    reports: stored.reports + 1,
                    version: stored.version + 1,
                    ..stored
                };
                (order, true)
            }
        };
        let changed = Changed {
            order_id: order_id.as_str().to_owned(),
            old_status: before.status,
            new_status: if applied { new.status } else { before.status },
            updated_at: Timestamp::from_micros(order.updated_us).to_string(),
            version: order.version,
            tracking_event: tracking,
            applied,
        };
        let report = OrderReportRow {
            tenant: order.tenant.clone(),
            order_id: order.order_id.clone(),
            number: order.reports,
            status: new.status.as_str().to_owned(),
            applied,
            occurred_us: said.unwrap_or(now).micros(),
            received_us: now.micros(),
            tracking: changed.tracking_event.as_ref().map(written),
            reason: new.reason.clone(),
        };
        let event = applied.then(|| OutboxRow {
            id: 0,
            tenant: order.tenant.clone(),
            topic: Topic::of(TopicKind::Order, order_id).as_str().to_owned(),
            name: "order_status_changed".to_owned(),
            class: Class::Durable.as_str().to_owned(),
            key: Some(order.order_id.clone()),
            version: Some(order.version),
            data: written(&changed),
            public: None,
            created_us: now.micros(),
            origin: None,
        });
        Ok(Ok(Taken { order, report, event, changed }))
    }
}

fn written(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("a report is plain data")
}

fn illegal(present: Status, wanted: Status) -> Refusal {
    let (present, wanted) = (present.as_str(), wanted.as_str());
    let detail = format!("the order is {present}, and no order goes from there to {wanted}");
    Refusal::new(RefusalKind::Conflict, "illegal_transition", detail)
}
