use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Status;
use crate::domain::Timestamp;
use crate::storage::{OrderReportRow, OrderRow, StoreError};

/// An order.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Order {
    /// Its id.
    pub order_id: String,
    /// The user that it is shipped for.
    pub shipper: String,
    /// Who carries it.
    pub carrier: Option<String>,
    /// From where, as given.
    #[schema(value_type = Option<Object>)]
    pub origin: Option<Box<RawValue>>,
    /// To where, as given.
    #[schema(value_type = Option<Object>)]
    pub destination: Option<Box<RawValue>>,
    /// What, as given.
    #[schema(value_type = Option<Object>)]
    pub cargo: Option<Box<RawValue>>,
    /// The bid that it was awarded by.
    pub bid_id: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// While it is held up by an exception: the step it had reached before.
    pub exception_from: Option<Status>,
    /// When it was created, RFC 3339.
    pub created_at: String,
    /// When its status was last reported in order, RFC 3339.
    pub updated_at: String,
    /// Rises with every `order_status_changed`.
    pub version: i64,
}

/// Where and when something was seen of an order.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TrackingEvent {
    /// Degrees north, with the digits that were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub lat: Option<Box<RawValue>>,
    /// Degrees east, with the digits that were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub lng: Option<Box<RawValue>>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When it happened, RFC 3339; when it was received, if that was not said.
    pub occurred_at: String,
}

/// What became of a report: the answer to its sender, and the data of `order_status_changed`.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Changed {
    /// Of which order.
    pub order_id: String,
    /// Where it stood before.
    pub old_status: Status,
    /// Where it stands now.
    pub new_status: Status,
    /// When its status was last reported in order, RFC 3339.
    pub updated_at: String,
    /// Rises with every `order_status_changed`.
    pub version: i64,
    /// As it was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_event: Option<TrackingEvent>,
    /// False when the report came out of order: it is in the history, and changed nothing. Left out when true.
    #[serde(default = "applied", skip_serializing_if = "Clone::clone")]
    pub applied: bool,
}

fn applied() -> bool {
    true
}

/// One report of an order's history.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct OrderReport {
    /// Counts the order's reports.
    pub number: i64,
    /// Where it was said to stand.
    pub status: Status,
    /// False when it came out of order and changed nothing.
    pub applied: bool,
    /// When it happened.
    #[schema(value_type = String)]
    pub occurred_at: Timestamp,
    /// When it was received.
    #[schema(value_type = String)]
    pub received_at: Timestamp,
    /// Where and when something was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TrackingEvent>)]
    pub tracking_event: Option<Box<RawValue>>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl TryFrom<OrderRow> for Order {
    type Error = StoreError;

    fn try_from(row: OrderRow) -> Result<Self, StoreError> {
        Ok(Order {
            status: status(&row.status)?,
            exception_from: row.exception_from.as_deref().map(status).transpose()?,
            order_id: row.order_id,
            shipper: row.shipper,
            carrier: row.carrier,
            origin: json(row.origin)?,
            destination: json(row.destination)?,
            cargo: json(row.cargo)?,
            bid_id: row.bid_id,
            created_at: Timestamp::from_micros(row.created_us).to_string(),
            updated_at: Timestamp::from_micros(row.updated_us).to_string(),
            version: row.version,
        })
    }
}

impl TryFrom<OrderReportRow> for OrderReport {
    type Error = StoreError;

    fn try_from(row: OrderReportRow) -> Result<Self, StoreError> {
        Ok(OrderReport {
            number: row.number,
            status: status(&row.status)?,
            applied: row.applied,
            occurred_at: Timestamp::from_micros(row.occurred_us),
            received_at: Timestamp::from_micros(row.received_us),
            tracking_event: json(row.tracking)?,
            reason: row.reason,
        })
    }
}

/// A status as it is stored.
pub(super) fn status(text: &str) -> Result<Status, StoreError> {
    Status::parse(text).ok_or_else(|| StoreError::Unexpected(format!("an order that is {text:?}")))
}

fn json(text: Option<String>) -> Result<Option<Box<RawValue>>, StoreError> {
    let read = |text| RawValue::from_string(text).map_err(|error| StoreError::Unexpected(error.to_string()));
    text.map(read).transpose()
}
