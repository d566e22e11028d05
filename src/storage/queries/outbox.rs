use diesel::dsl::{count_star, min};
use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, SelectableHelper};
use diesel_async::RunQueryDsl;

use crate::storage::OutboxRow;
use crate::storage::schema::outbox;

/// Adds a row, and returns its id; to be called after the lock on the entity it tells about, in the same
/// transaction.
pub async fn insert(conn: &mut Conn, row: &OutboxRow) -> QueryResult<i64> {
    diesel::insert_into(outbox::table).values(row.clone()).returning(outbox::id).get_result(conn).await
}

/// Rows waiting, and when the oldest of them was inserted.
pub async fn backlog(conn: &mut Conn) -> QueryResult<(i64, Option<i64>)> {
    outbox::table
        .filter(outbox::dead_reason.is_null())
        .select((count_star(), min(outbox::created_us)))
        .first(conn)
        .await
}

/// Whether any row waits.
pub async fn is_filled(conn: &mut Conn) -> QueryResult<bool> {
    let first = outbox::table.filter(outbox::dead_reason.is_null()).select(outbox::id).first::<i64>(conn);
    Ok(first.await.optional()?.is_some())
}

/// The oldest rows that wait, but those of some tenants, at most `limit`.
pub async fn waiting(conn: &mut Conn, but_of: &[String], limit: i64) -> QueryResult<Vec<OutboxRow>> {
    outbox::table
        .filter(outbox::dead_reason.is_null())
        .filter(outbox::tenant.ne_all(but_of))
        .order(outbox::id)
        .limit(limit)
        .select(OutboxRow::as_select())
        .load(conn)
        .await
}

/// Keeps a row that can never be published, with the reason.
pub async fn mark_dead(conn: &mut Conn, id: i64, reason: &str) -> QueryResult<()> {
    diesel::update(outbox::table.find(id)).set(outbox::dead_reason.eq(reason)).execute(conn).await?;
    Ok(())
}
