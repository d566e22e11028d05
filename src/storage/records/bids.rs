use diesel::prelude::*;

use crate::storage::schema;

/// A bid.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::bids)]
#[diesel(treat_none_as_null = true)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct BidRow {
    pub tenant: String,
    pub bid_id: String,
    pub owner: Option<String>,
    pub about: String,
    pub criteria: String,
    pub visibility: String,
    pub max_ei: Option<i64>,
    pub status: String,
    pub opens_us: Option<i64>,
    pub closes_us: Option<i64>,
    pub snipe_window_us: Option<i64>,
    pub snipe_extend_us: Option<i64>,
    pub secret: String,
    pub awarded: Option<String>,
    pub order_id: Option<String>,
    pub version: i64,
    pub ranking_version: i64,
    pub due_us: Option<i64>,
    pub created_us: i64,
    pub updated_us: i64,
}

/// What decides who may hear a bid.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = schema::bids)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct BidFactsRow {
    pub bid_id: String,
    pub owner: Option<String>,
    pub visibility: String,
}

/// A proposal to a bid.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::proposals)]
#[diesel(treat_none_as_default_value = false)]
#[diesel(treat_none_as_null = true)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct ProposalRow {
    pub tenant: String,
    pub bid_id: String,
    pub proposal_id: String,
    pub carrier_id: String,
    pub price: i64,
    pub ei: i64,
    pub lead_time_hours: i64,
    pub rating: Option<i64>,
    pub withdrawn: bool,
    pub version: i64,
    pub submitted_us: i64,
    pub updated_us: i64,
}
