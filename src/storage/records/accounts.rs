use diesel::prelude::*;

use crate::storage::schema;

/// An account of a user.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::accounts)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct AccountRow {
    pub tenant: String,
    pub account_id: i64,
    pub owner: String,
    pub name: String,
    pub balance: i64,
    pub created_us: i64,
    pub updated_us: i64,
}

/// What an account was like.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::snapshots)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct SnapshotRow {
    pub tenant: String,
    pub owner: String,
    pub snapshot_id: String,
    pub account_id: i64,
    pub name: String,
    pub balance: i64,
    pub taken_us: i64,
}
