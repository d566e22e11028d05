//! The event log's home in SQLite: what the single appender does inside its transaction.
//!
//! Synchronous on purpose: a whole batch is one hop to a blocking thread and one commit.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::database::{Backend, Database};
use super::schema::{
    log_answers, log_commits, log_dedup, log_entries, log_floors, log_tenants, log_versions, outbox,
};
use super::{LogRow, OutboxRow, StoreError};

/// A tenant's log as stored.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = log_tenants)]
pub struct TenantRow {
    /// The tenant.
    pub tenant: String,
    /// Which run of the log, 16 hex digits.
    pub epoch: String,
    /// Number of the newest entry; 0 when there was none.
    pub head: i64,
    /// Number of the newest entry that was trimmed; 0 when there was none.
    pub trimmed: i64,
    /// Bytes of data kept.
    pub bytes: i64,
    /// Floor of all topics that have none of their own.
    pub global_floor: i64,
}

/// Up to where a topic has been trimmed.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = log_floors)]
pub struct FloorRow {
    /// Whose log it is.
    pub tenant: String,
    /// The topic.
    pub topic: String,
    /// Number of the newest entry that has gone.
    pub floor: i64,
    /// Where some are missed for a time only: numbers with until when, as JSON.
    pub steps: Option<String>,
}

/// What retention needs to know of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = log_entries)]
pub struct OldestRow {
    /// Its number.
    pub seq: i64,
    /// Its topic.
    pub topic: String,
    /// Its event's name.
    pub name: String,
    /// When it was appended.
    pub at_us: i64,
    /// When it expires.
    pub expires_us: Option<i64>,
    /// Its size.
    pub bytes: i64,
}

/// One transaction of the appender.
pub struct LogTx<'a> {
    conn: &'a mut SqliteConnection,
}

impl Database {
    /// Runs `work` as one immediate transaction of the embedded log; must run on the storage runtime.
    pub async fn log_transaction<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut LogTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let Backend::Sqlite(own) = self.backend() else {
            return Err(StoreError::Unexpected("the embedded log lives in SQLite".into()));
        };
        let mut conn = own.writer().await?;
        // the wrapper's error type is diesel's, so the work's own result travels inside the value
        conn.spawn_blocking(move |conn| Ok(conn.immediate_transaction(|conn| work(&mut LogTx { conn }))))
            .await?
    }
}

impl LogTx<'_> {
    /// Moves the commit number on and returns the new one, with the instance it belongs to.
    pub fn advance_commit(&mut self) -> Result<(String, i64), StoreError> {
        diesel::update(log_commits::table.find(1))
            .set(log_commits::number.eq(log_commits::number + 1))
            .execute(self.conn)?;
        self.commit()?.ok_or_else(|| StoreError::Unexpected("the log has no commit row".into()))
    }

    /// The present commit number and instance; None before the log's first start.
    pub fn commit(&mut self) -> Result<Option<(String, i64)>, StoreError> {
        let row = log_commits::table.find(1).select((log_commits::instance, log_commits::number));
        Ok(row.first(self.conn).optional()?)
    }

    /// Names a new instance, counting from 0.
    pub fn create_commit(&mut self, instance: &str) -> Result<(), StoreError> {
        diesel::delete(log_commits::table).execute(self.conn)?;
        let row = (log_commits::id.eq(1), log_commits::instance.eq(instance), log_commits::number.eq(0));
        diesel::insert_into(log_commits::table).values(row).execute(self.conn)?;
        Ok(())
    }

    /// Every tenant's log.
    pub fn tenants(&mut self) -> Result<Vec<TenantRow>, StoreError> {
        Ok(log_tenants::table.select(TenantRow::as_select()).load(self.conn)?)
    }

    /// Stores a tenant's log, new or changed.
    pub fn save_tenant(&mut self, row: &TenantRow) -> Result<(), StoreError> {
        diesel::insert_into(log_tenants::table)
            .values(row)
            .on_conflict(log_tenants::tenant)
            .do_update()
            .set(row)
            .execute(self.conn)?;
        Ok(())
    }

    /// Forgets every entry, answer, version and floor, of all tenants; the outbox stays.
    pub fn forget_everything(&mut self) -> Result<(), StoreError> {
        diesel::delete(log_tenants::table).execute(self.conn)?;
        diesel::delete(log_entries::table).execute(self.conn)?;
        diesel::delete(log_floors::table).execute(self.conn)?;
        diesel::delete(log_versions::table).execute(self.conn)?;
        diesel::delete(log_dedup::table).execute(self.conn)?;
        diesel::delete(log_answers::table).execute(self.conn)?;
        Ok(())
    }

    /// A tenant's trim floors by topic.
    pub fn floors(&mut self, tenant: &str) -> Result<Vec<FloorRow>, StoreError> {
        let rows = log_floors::table.filter(log_floors::tenant.eq(tenant));
        Ok(rows.select(FloorRow::as_select()).load(self.conn)?)
    }

    /// Appends entries whose numbers have been given.
    pub fn insert_entries(&mut self, rows: &[LogRow]) -> Result<(), StoreError> {
        // 11 columns a row: stays far below SQLite's limit of bound values
        for chunk in rows.chunks(200) {
            diesel::insert_into(log_entries::table).values(chunk).execute(self.conn)?;
        }
        Ok(())
    }

    /// Entries after `after`, in order, at most `limit`.
    pub fn entries_after(&mut self, tenant: &str, after: i64, limit: i64) -> Result<Vec<LogRow>, StoreError> {
        let rows =
            log_entries::table.filter(log_entries::tenant.eq(tenant)).filter(log_entries::seq.gt(after));
        Ok(rows.order(log_entries::seq).limit(limit).select(LogRow::as_select()).load(self.conn)?)
    }

    /// The oldest entries after `after` as retention sees them, at most `limit`.
    pub fn oldest(&mut self, tenant: &str, after: i64, limit: i64) -> Result<Vec<OldestRow>, StoreError> {
        let rows =
            log_entries::table.filter(log_entries::tenant.eq(tenant)).filter(log_entries::seq.gt(after));
        Ok(rows.order(log_entries::seq).limit(limit).select(OldestRow::as_select()).load(self.conn)?)
    }

    /// The version stored under a key of a topic's event name.
    pub fn version(&mut self, row: &LogRow) -> Result<Option<i64>, StoreError> {
        let key = row.key.as_deref().unwrap_or_default();
        let stored = log_versions::table.find((&row.tenant, &row.topic, &row.name, key));
        Ok(stored.select(log_versions::version).first(self.conn).optional()?)
    }

    /// Remembers an entry's version until the entry with number `seq` is trimmed.
    pub fn save_version(&mut self, row: &LogRow, version: i64, seq: i64) -> Result<(), StoreError> {
        let key = row.key.as_deref().unwrap_or_default();
        let values = (
            log_versions::tenant.eq(&row.tenant),
            log_versions::topic.eq(&row.topic),
            log_versions::name.eq(&row.name),
            log_versions::key.eq(key),
            log_versions::version.eq(version),
            log_versions::seq.eq(seq),
        );
        diesel::replace_into(log_versions::table).values(values).execute(self.conn)?;
        Ok(())
    }

    /// The number of the event that a deduplication key names, while its window is open.
    pub fn duplicate_of(
        &mut self,
        tenant: &str,
        topic: &str,
        key: &str,
        now_us: i64,
    ) -> Result<Option<i64>, StoreError> {
        let stored = log_dedup::table.find((tenant, topic, key)).filter(log_dedup::until_us.gt(now_us));
        Ok(stored.select(log_dedup::seq).first(self.conn).optional()?)
    }

    /// Opens the window of a deduplication key.
    pub fn save_dedup(&mut self, row: &LogRow, key: &str, until_us: i64) -> Result<(), StoreError> {
        let values = (
            log_dedup::tenant.eq(&row.tenant),
            log_dedup::topic.eq(&row.topic),
            log_dedup::dedup_key.eq(key),
            log_dedup::seq.eq(row.seq),
            log_dedup::until_us.eq(until_us),
        );
        diesel::replace_into(log_dedup::table).values(values).execute(self.conn)?;
        Ok(())
    }

    /// The stored answer under an idempotency key with the hash of its request.
    pub fn answer(
        &mut self,
        tenant: &str,
        principal: &str,
        key: &str,
        now_us: i64,
    ) -> Result<Option<(String, String)>, StoreError> {
        let stored =
            log_answers::table.find((tenant, principal, key)).filter(log_answers::until_us.gt(now_us));
        Ok(stored.select((log_answers::request_hash, log_answers::answer)).first(self.conn).optional()?)
    }

    /// Stores the answer to a publish.
    pub fn save_answer(
        &mut self,
        (tenant, principal, key): (&str, &str, &str),
        request_hash: &str,
        answer: &str,
        until_us: i64,
    ) -> Result<(), StoreError> {
        let values = (
            log_answers::tenant.eq(tenant),
            log_answers::principal.eq(principal),
            log_answers::key.eq(key),
            log_answers::request_hash.eq(request_hash),
            log_answers::answer.eq(answer),
            log_answers::until_us.eq(until_us),
        );
        diesel::replace_into(log_answers::table).values(values).execute(self.conn)?;
        Ok(())
    }

    /// Forgets deduplication windows and answers that have run out.
    pub fn forget_expired(&mut self, now_us: i64) -> Result<(), StoreError> {
        diesel::delete(log_dedup::table.filter(log_dedup::until_us.le(now_us))).execute(self.conn)?;
        diesel::delete(log_answers::table.filter(log_answers::until_us.le(now_us))).execute(self.conn)?;
        Ok(())
    }

    /// Outbox rows that wait, oldest first.
    pub fn outbox(&mut self, limit: i64) -> Result<Vec<OutboxRow>, StoreError> {
        let waiting = outbox::table.filter(outbox::dead_reason.is_null()).order(outbox::id).limit(limit);
        Ok(waiting.select(OutboxRow::as_select()).load(self.conn)?)
    }

    /// Marks rows as published by removing them.
    pub fn mark_published(&mut self, ids: &[i64]) -> Result<(), StoreError> {
        for chunk in ids.chunks(500) {
            diesel::delete(outbox::table.filter(outbox::id.eq_any(chunk))).execute(self.conn)?;
        }
        Ok(())
    }

    /// Keeps a row that can never be published, with the reason.
    pub fn mark_dead(&mut self, id: i64, reason: &str) -> Result<(), StoreError> {
        diesel::update(outbox::table.find(id)).set(outbox::dead_reason.eq(reason)).execute(self.conn)?;
        Ok(())
    }

    /// Removes the entries up to `seq` with the versions they hold, and raises their topics' floors.
    pub fn trim(&mut self, tenant: &str, up_to: i64, floors: &[FloorRow]) -> Result<(), StoreError> {
        let entries =
            log_entries::table.filter(log_entries::tenant.eq(tenant)).filter(log_entries::seq.le(up_to));
        diesel::delete(entries).execute(self.conn)?;
        let versions =
            log_versions::table.filter(log_versions::tenant.eq(tenant)).filter(log_versions::seq.le(up_to));
        diesel::delete(versions).execute(self.conn)?;
        for floor in floors {
            diesel::replace_into(log_floors::table).values(floor).execute(self.conn)?;
        }
        Ok(())
    }

    /// Drops the floors at or below `floor`: the global one covers them.
    pub fn drop_floors(&mut self, tenant: &str, floor: i64) -> Result<(), StoreError> {
        let covered =
            log_floors::table.filter(log_floors::tenant.eq(tenant)).filter(log_floors::floor.le(floor));
        diesel::delete(covered).execute(self.conn)?;
        Ok(())
    }
}
