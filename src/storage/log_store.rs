//! The event log's home in the database: what the single appender does inside its transaction.
//!
//! Synchronous on purpose: on SQLite a whole batch is one hop to a blocking thread and one commit, and on
//! PostgreSQL the same code waits on such a thread for one statement after the other.

use diesel::prelude::{AsChangeset, Insertable, Queryable, Selectable};

use super::database::{Backend, Database};
use super::schema::{log_entries, log_floors, log_tenants};
use super::{LogRow, OutboxRow, StoreError, postgres, sqlite};

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
pub struct LogTx<'a>(Writing<'a>);

enum Writing<'a> {
    Sqlite(&'a mut sqlite::log_writes::Conn),
    Postgres(&'a mut postgres::log_writes::Conn),
}

impl Database {
    /// Runs `work` as one transaction of the log that this database keeps; must run on the storage runtime.
    pub async fn log_transaction<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut LogTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.transact(false, work).await
    }

    /// The same for what may take long, such as forgetting a whole log.
    pub async fn patient_log_transaction<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut LogTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.transact(true, work).await
    }

    async fn transact<T, W>(&self, is_patient: bool, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut LogTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        match self.backend() {
            Backend::Sqlite(own) => {
                let mut conn = own.writer().await?;
                // the wrapper's error type is diesel's, so the work's own result travels inside the value
                conn.spawn_blocking(move |conn| {
                    Ok(conn.immediate_transaction(|conn| work(&mut LogTx(Writing::Sqlite(conn)))))
                })
                .await?
            }
            Backend::Postgres(own) => {
                let mut conn = own.begin().await?;
                if is_patient {
                    conn.take_your_time().await?;
                }
                let working = move || {
                    let mut conn = postgres::log_writes::Conn::from(conn);
                    let outcome = work(&mut LogTx(Writing::Postgres(&mut conn)));
                    (conn.into_inner(), outcome)
                };
                let (conn, outcome) = tokio::task::spawn_blocking(working)
                    .await
                    .map_err(|error| StoreError::Unexpected(error.to_string()))?;
                own.end(conn, outcome).await
            }
        }
    }
}

/// Each query as a method that runs it on the backend in use.
macro_rules! queries {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $value:ty;)+) => {
        impl LogTx<'_> {
            $($(#[$doc])*
            pub fn $name(&mut self, $($argument: $type),*) -> Result<$value, StoreError> {
                Ok(match &mut self.0 {
                    Writing::Sqlite(conn) => sqlite::log_writes::$name(conn, $($argument),*)?,
                    Writing::Postgres(conn) => postgres::log_writes::$name(conn, $($argument),*)?,
                })
            })+
        }
    };
}

queries! {
    /// Moves the commit number on and returns the new one, with the instance it belongs to.
    fn advance_commit() -> (String, i64);
    /// The present commit number and instance; None before the log's first start.
    fn commit() -> Option<(String, i64)>;
    /// Makes `holder` the one that may write, once a transaction that is still under way has ended; the present
    /// commit number and instance.
    fn take_over(holder: &str) -> Option<(String, i64)>;
    /// Who may write, locked until the transaction ends, and the present commit number.
    fn holder() -> Option<(Option<String>, i64)>;
    /// Names a new instance, counting from 0, that `holder` may write.
    fn create_commit(instance: &str, holder: &str) -> ();
    /// Leaves the log: nobody may write it, and whoever starts on it begins afresh.
    fn abandon() -> ();
    /// Every tenant's log.
    fn tenants() -> Vec<TenantRow>;
    /// Stores a tenant's log, new or changed.
    fn save_tenant(row: &TenantRow) -> ();
    /// Forgets every entry, answer, version and floor, of all tenants; the outbox stays.
    fn forget_everything() -> ();
    /// A tenant's trim floors by topic.
    fn floors(tenant: &str) -> Vec<FloorRow>;
    /// Appends entries whose numbers have been given.
    fn insert_entries(rows: &[LogRow]) -> ();
    /// Entries after `after`, in order, at most `limit`.
    fn entries_after(tenant: &str, after: i64, limit: i64) -> Vec<LogRow>;
    /// The oldest entries after `after` as retention sees them, at most `limit`.
    fn oldest(tenant: &str, after: i64, limit: i64) -> Vec<OldestRow>;
    /// The version stored under a key of a topic's event name.
    fn version(row: &LogRow) -> Option<i64>;
    /// Remembers an entry's version until the entry with number `seq` is trimmed.
    fn save_version(row: &LogRow, version: i64, seq: i64) -> ();
    /// The number of the event that a deduplication key names, while its window is open.
    fn duplicate_of(tenant: &str, topic: &str, key: &str, now_us: i64) -> Option<i64>;
    /// Opens the window of a deduplication key.
    fn save_dedup(row: &LogRow, key: &str, until_us: i64) -> ();
    /// The stored answer under an idempotency key with the hash of its request.
    fn answer(tenant: &str, principal: &str, key: &str, now_us: i64) -> Option<(String, String)>;
    /// Stores the answer to a publish.
    fn save_answer(request: (&str, &str, &str), request_hash: &str, answer: &str, until_us: i64) -> ();
    /// Forgets deduplication windows and answers that have run out.
    fn forget_expired(now_us: i64) -> ();
    /// Outbox rows that wait, oldest first.
    fn outbox(limit: i64) -> Vec<OutboxRow>;
    /// Marks rows as published by removing them.
    fn mark_published(ids: &[i64]) -> ();
    /// Keeps a row that can never be published, with the reason.
    fn mark_dead(id: i64, reason: &str) -> ();
    /// Removes the entries up to `seq` with the versions they hold, and raises their topics' floors.
    fn trim(tenant: &str, up_to: i64, floors: &[FloorRow]) -> ();
    /// Drops the floors at or below `floor`: the global one covers them.
    fn drop_floors(tenant: &str, floor: i64) -> ();
}
