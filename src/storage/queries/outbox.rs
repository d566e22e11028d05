use diesel::dsl::{count_star, min};
use diesel::prelude::{ExpressionMethods, QueryDsl, QueryResult};
use diesel_async::RunQueryDsl;

use crate::storage::OutboxRow;
use crate::storage::schema::outbox;

/// Adds a row; to be called after the lock on the entity it tells about, in the same transaction.
pub async fn insert(conn: &mut Conn, row: &OutboxRow) -> QueryResult<()> {
    diesel::insert_into(outbox::table).values(row.clone()).execute(conn).await?;
    Ok(())
}

/// Rows waiting, and when the oldest of them was inserted.
pub async fn backlog(conn: &mut Conn) -> QueryResult<(i64, Option<i64>)> {
    outbox::table
        .filter(outbox::dead_reason.is_null())
        .select((count_star(), min(outbox::created_us)))
        .first(conn)
        .await
}
