//! Rows as plain values, the same for both backends.

mod accounts;
mod bids;
mod jobs;
mod orders;

use diesel::prelude::*;

pub use accounts::{AccountRow, SnapshotRow};
pub use bids::{BidFactsRow, BidRow, ProposalRow};
pub use jobs::{JobFigures, JobOutcome, JobRow};

use super::schema;
use super::shared_text::SharedText;

pub use orders::{OrderFactsRow, OrderReportRow, OrderRow};

/// Something whose changes every node has to hear of; its row in `security_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// API keys.
    Keys = 1,
    /// Networks that may not connect.
    BlockList = 2,
    /// Kicks and revoked tickets.
    Revocations = 3,
    /// Declared topics and their members.
    Topics = 4,
}

/// An API key; only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::api_keys)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct ApiKeyRow {
    pub key_id: String,
    pub hash: String,
    pub tenant: String,
    pub scopes: String,
    pub sub: Option<String>,
    pub development: bool,
    pub created_us: i64,
    pub revoked_us: Option<i64>,
}

/// A network that may not connect.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::block_list)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct BlockRow {
    pub cidr: String,
    pub reason: Option<String>,
    pub created_us: i64,
    pub expires_us: Option<i64>,
}

/// A ticket; only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::tickets)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct TicketRow {
    pub ticket_id: String,
    pub hash: String,
    pub tenant: String,
    pub key_id: Option<String>,
    pub sub: Option<String>,
    pub path: Option<String>,
    pub topics: Option<String>,
    pub first_use_by_us: i64,
    pub first_used_us: Option<i64>,
    pub expires_us: i64,
    pub roles: String,
    pub carriers: String,
    pub issued_us: i64,
    pub revoked_generation: Option<i64>,
}

/// A user whose credentials issued up to a moment are no longer good.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::kicks)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct KickRow {
    pub tenant: String,
    pub sub: String,
    pub not_before_us: i64,
    pub generation: i64,
}

/// A topic that was declared.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::declared_topics)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct DeclaredTopicRow {
    pub tenant: String,
    pub name: String,
    pub membership: bool,
    pub created_us: i64,
    pub generation: i64,
}

/// A member of a declared topic, or somebody who was one.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::topic_members)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct TopicMemberRow {
    pub tenant: String,
    pub name: String,
    pub sub: String,
    pub since: Option<String>,
    pub generation: i64,
}

/// An event that waits for the log.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::outbox)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct OutboxRow {
    #[diesel(skip_insertion)]
    pub id: i64,
    pub tenant: String,
    pub topic: String,
    pub name: String,
    pub class: String,
    pub key: Option<String>,
    pub version: Option<i64>,
    pub data: String,
    pub public: Option<String>,
    pub created_us: i64,
    pub origin: Option<String>,
}

/// The stored answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::idempotency_keys)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct IdempotencyRow {
    pub tenant: String,
    pub principal: String,
    pub key: String,
    pub request_hash: String,
    pub answer: String,
    pub expires_us: i64,
}

/// A fleet's present state.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::fleets)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct FleetRow {
    pub tenant: String,
    pub fleet_id: String,
    pub ei: i64,
    pub grade: String,
    pub measured_us: i64,
    pub updated_us: i64,
    pub version: i64,
}

/// One reading of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::fleet_readings)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct ReadingRow {
    pub tenant: String,
    pub fleet_id: String,
    pub version: i64,
    pub ei: i64,
    pub grade: String,
    pub measured_us: i64,
}

/// An entry of the event log.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::log_entries)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct LogRow {
    pub tenant: String,
    pub seq: i64,
    pub topic: String,
    pub name: String,
    pub class: String,
    pub key: Option<String>,
    pub version: Option<i64>,
    pub at_us: i64,
    pub expires_us: Option<i64>,
    pub bytes: i64,
    pub data: SharedText,
    pub public: Option<SharedText>,
}
