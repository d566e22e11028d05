use diesel::prelude::{QueryResult, QueryableByName};
use diesel::sql_types::{BigInt, Bool};
use diesel_async::RunQueryDsl;

#[derive(QueryableByName)]
struct Taken {
    #[diesel(sql_type = Bool)]
    taken: bool,
}

/// Takes a lock for as long as the connection lasts; false while another one holds it.
pub async fn try_lock(conn: &mut Conn, number: i64) -> QueryResult<bool> {
    let taken: Taken = diesel::sql_query("SELECT pg_try_advisory_lock($1) AS taken")
        .bind::<BigInt, _>(number)
        .get_result(conn)
        .await?;
    Ok(taken.taken)
}

/// Takes a share of a lock for as long as the connection lasts; false while another one holds it whole.
pub async fn try_share(conn: &mut Conn, number: i64) -> QueryResult<bool> {
    let taken: Taken = diesel::sql_query("SELECT pg_try_advisory_lock_shared($1) AS taken")
        .bind::<BigInt, _>(number)
        .get_result(conn)
        .await?;
    Ok(taken.taken)
}

/// Gives a share back.
pub async fn unlock_shared(conn: &mut Conn, number: i64) -> QueryResult<()> {
    diesel::sql_query("SELECT pg_advisory_unlock_shared($1)").bind::<BigInt, _>(number).execute(conn).await?;
    Ok(())
}
