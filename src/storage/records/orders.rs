use diesel::prelude::*;

use crate::storage::schema;

/// An order's present state.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::orders)]
#[diesel(treat_none_as_null = true)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct OrderRow {
    pub tenant: String,
    pub order_id: String,
    pub shipper: String,
    pub carrier: Option<String>,
    pub origin: Option<String>,
    pub destination: Option<String>,
    pub cargo: Option<String>,
    pub bid_id: Option<String>,
    pub status: String,
    pub exception_from: Option<String>,
    pub newest_us: Option<i64>,
    pub created_us: i64,
    pub updated_us: i64,
    pub reports: i64,
    pub version: i64,
}

/// What decides who may hear of an order.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = schema::orders)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct OrderFactsRow {
    pub order_id: String,
    pub shipper: String,
    pub carrier: Option<String>,
}

/// One report of an order.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::order_reports)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct OrderReportRow {
    pub tenant: String,
    pub order_id: String,
    pub number: i64,
    pub status: String,
    pub applied: bool,
    pub occurred_us: i64,
    pub received_us: i64,
    pub tracking: Option<String>,
    pub reason: Option<String>,
}
