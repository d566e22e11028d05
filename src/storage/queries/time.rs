use diesel::prelude::{QueryResult, QueryableByName};
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

#[derive(QueryableByName)]
struct Now {
    #[diesel(sql_type = BigInt)]
    now_us: i64,
}

/// What the database's clock shows, µs; that of the node does not count.
pub async fn now_us(conn: &mut Conn, _: i64) -> QueryResult<i64> {
    let now: Now =
        diesel::sql_query("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us")
            .get_result(conn)
            .await?;
    Ok(now.now_us)
}
