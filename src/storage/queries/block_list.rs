use diesel::prelude::{BoolExpressionMethods, ExpressionMethods, QueryDsl, QueryResult, SelectableHelper};
use diesel_async::RunQueryDsl;

use super::generations;
use crate::storage::schema::block_list;
use crate::storage::{BlockRow, Feed};

/// Puts a network on the list, in the place of an older entry for it; forgets those that have expired.
pub async fn put(conn: &mut Conn, row: &BlockRow) -> QueryResult<()> {
    let over = block_list::cidr.eq(&row.cidr).or(block_list::expires_us.le(row.created_us));
    diesel::delete(block_list::table.filter(over)).execute(conn).await?;
    diesel::insert_into(block_list::table).values(row.clone()).execute(conn).await?;
    generations::advance(conn, Feed::BlockList).await?;
    Ok(())
}

/// Takes a network off the list; whether it was there.
pub async fn remove(conn: &mut Conn, cidr: &str) -> QueryResult<bool> {
    let removed = diesel::delete(block_list::table.find(cidr)).execute(conn).await? > 0;
    if removed {
        generations::advance(conn, Feed::BlockList).await?;
    }
    Ok(removed)
}

/// Up to `limit` entries in force whose network comes after `after` as text, in this order.
pub async fn page(conn: &mut Conn, after: &str, now_us: i64, limit: i64) -> QueryResult<Vec<BlockRow>> {
    block_list::table
        .filter(block_list::cidr.gt(after))
        .filter(block_list::expires_us.is_null().or(block_list::expires_us.gt(now_us)))
        .order(block_list::cidr)
        .limit(limit)
        .select(BlockRow::as_select())
        .load(conn)
        .await
}

/// How many entries there are, expired ones included.
pub async fn count(conn: &mut Conn) -> QueryResult<i64> {
    block_list::table.count().get_result(conn).await
}
