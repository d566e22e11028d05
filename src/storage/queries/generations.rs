use diesel::prelude::{ExpressionMethods, QueryDsl, QueryResult};
use diesel_async::RunQueryDsl;

use crate::storage::Feed;
use crate::storage::schema::security_state;

/// Number that changes whenever something of the feed does.
pub async fn of(conn: &mut Conn, feed: Feed) -> QueryResult<i64> {
    security_state::table.find(feed as i64).select(security_state::generation).first(conn).await
}

/// Moves a feed on, for the change that this transaction makes; changes of one feed wait for each other here,
/// so whoever sees a generation sees all that led to it.
pub async fn advance(conn: &mut Conn, feed: Feed) -> QueryResult<i64> {
    diesel::update(security_state::table.find(feed as i64))
        .set(security_state::generation.eq(security_state::generation + 1))
        .returning(security_state::generation)
        .get_result(conn)
        .await
}
