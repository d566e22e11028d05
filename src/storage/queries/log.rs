use diesel::prelude::{ExpressionMethods, QueryDsl, QueryResult, SelectableHelper};
use diesel_async::RunQueryDsl;

use crate::storage::LogRow;
use crate::storage::schema::log_entries;

/// Up to `limit` entries within `(after, up_to]` on any of `topics`, in order.
pub async fn by_topics(
    conn: &mut Conn,
    tenant: &str,
    topics: &[String],
    (after, up_to): (i64, i64),
    limit: i64,
) -> QueryResult<Vec<LogRow>> {
    log_entries::table
        .filter(log_entries::tenant.eq(tenant))
        .filter(log_entries::seq.gt(after))
        .filter(log_entries::seq.le(up_to))
        .filter(log_entries::topic.eq_any(topics.to_vec()))
        .order(log_entries::seq)
        .limit(limit)
        .select(LogRow::as_select())
        .load(conn)
        .await
}

/// Up to `limit` entries within `(after, up_to]`, whatever their topic, in order.
pub async fn of_all_topics(
    conn: &mut Conn,
    tenant: &str,
    (after, up_to): (i64, i64),
    limit: i64,
) -> QueryResult<Vec<LogRow>> {
    log_entries::table
        .filter(log_entries::tenant.eq(tenant))
        .filter(log_entries::seq.gt(after))
        .filter(log_entries::seq.le(up_to))
        .order(log_entries::seq)
        .limit(limit)
        .select(LogRow::as_select())
        .load(conn)
        .await
}

/// The newest `limit` entries up to `up_to`, newest first.
pub async fn newest(conn: &mut Conn, tenant: &str, up_to: i64, limit: i64) -> QueryResult<Vec<LogRow>> {
    log_entries::table
        .filter(log_entries::tenant.eq(tenant))
        .filter(log_entries::seq.le(up_to))
        .order(log_entries::seq.desc())
        .limit(limit)
        .select(LogRow::as_select())
        .load(conn)
        .await
}
