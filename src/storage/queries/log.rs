use diesel::prelude::{ExpressionMethods, QueryDsl, QueryResult, SelectableHelper};
use diesel_async::RunQueryDsl;

use crate::storage::LogRow;
use crate::storage::schema::log_entries;

/// Numbers and sizes in bytes of up to `limit` entries within `(after, up_to]` on any of `topics`, in order.
pub async fn sizes_by_topics(
    conn: &mut Conn,
    tenant: &str,
    topics: &[String],
    (after, up_to): (i64, i64),
    limit: i64,
) -> QueryResult<Vec<(i64, i64)>> {
    log_entries::table
        .filter(log_entries::tenant.eq(tenant))
        .filter(log_entries::seq.gt(after))
        .filter(log_entries::seq.le(up_to))
        .filter(log_entries::topic.eq_any(topics.to_vec()))
        .order(log_entries::seq)
        .limit(limit)
        .select((log_entries::seq, log_entries::bytes))
        .load(conn)
        .await
}

/// The same, whatever the topic.
pub async fn sizes(
    conn: &mut Conn,
    tenant: &str,
    (after, up_to): (i64, i64),
    limit: i64,
) -> QueryResult<Vec<(i64, i64)>> {
    log_entries::table
        .filter(log_entries::tenant.eq(tenant))
        .filter(log_entries::seq.gt(after))
        .filter(log_entries::seq.le(up_to))
        .order(log_entries::seq)
        .limit(limit)
        .select((log_entries::seq, log_entries::bytes))
        .load(conn)
        .await
}

/// The entries with these numbers that are still there, in order.
pub async fn entries(conn: &mut Conn, tenant: &str, seqs: Vec<i64>) -> QueryResult<Vec<LogRow>> {
    log_entries::table
        .filter(log_entries::tenant.eq(tenant))
        .filter(log_entries::seq.eq_any(seqs))
        .order(log_entries::seq)
        .select(LogRow::as_select())
        .load(conn)
        .await
}

/// Numbers and sizes of the newest `limit` entries up to `up_to`, newest first.
pub async fn newest_sizes(
    conn: &mut Conn,
    tenant: &str,
    up_to: i64,
    limit: i64,
) -> QueryResult<Vec<(i64, i64)>> {
    log_entries::table
        .filter(log_entries::tenant.eq(tenant))
        .filter(log_entries::seq.le(up_to))
        .order(log_entries::seq.desc())
        .limit(limit)
        .select((log_entries::seq, log_entries::bytes))
        .load(conn)
        .await
}
