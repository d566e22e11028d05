use diesel::prelude::{QueryResult, QueryableByName};
use diesel::sql_types::{Bool, Text};
use diesel_async::RunQueryDsl;

#[derive(QueryableByName)]
struct Taken {
    #[diesel(sql_type = Bool)]
    taken: bool,
}

/// Locks a command's key until the transaction ends; false while another transaction holds it.
pub async fn try_lock(
    conn: &mut Conn,
    (tenant, principal, key): (&str, &str, &str),
) -> QueryResult<bool> {
    let taken: Taken = diesel::sql_query("SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS taken")
        .bind::<Text, _>(format!("{tenant}\n{principal}\n{key}"))
        .get_result(conn)
        .await?;
    Ok(taken.taken)
}
