use diesel::prelude::{QueryResult, QueryableByName};
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

#[derive(QueryableByName)]
struct Moment {
    #[diesel(sql_type = BigInt)]
    now_us: i64,
}

/// What the database's clock shows when this is asked, µs; not the own one.
pub async fn now_us(conn: &mut Conn, _own: i64) -> QueryResult<i64> {
    let query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us";
    let moment: Moment = diesel::sql_query(query).get_result(conn).await?;
    Ok(moment.now_us)
}
