use diesel::prelude::{OptionalExtension, QueryResult, QueryableByName};
use diesel::sql_types::{BigInt, Bool, Double, Text};
use diesel_async::RunQueryDsl;

#[derive(QueryableByName)]
struct Fence {
    #[diesel(sql_type = BigInt)]
    fence: i64,
}

#[derive(QueryableByName)]
struct Held {
    #[diesel(sql_type = Bool)]
    held: bool,
}

/// Takes or renews the lease for `seconds` on the database's clock; its fence, or None while another holds it.
///
/// A lease that has run out is taken with a new fence, by its former holder too.
pub async fn take(conn: &mut Conn, holder: &str, seconds: f64) -> QueryResult<Option<i64>> {
    let taken: Option<Fence> = diesel::sql_query(
        "INSERT INTO relay_lease AS own (id, holder, fence, expires_at)
         VALUES (1, $1, 1, clock_timestamp() + make_interval(secs => $2))
         ON CONFLICT (id) DO UPDATE SET
             holder = excluded.holder,
             fence = own.fence + CASE WHEN own.expires_at > clock_timestamp() THEN 0 ELSE 1 END,
             expires_at = excluded.expires_at
         WHERE own.holder = excluded.holder OR own.expires_at <= clock_timestamp()
         RETURNING fence",
    )
    .bind::<Text, _>(holder)
    .bind::<Double, _>(seconds)
    .get_result(conn)
    .await
    .optional()?;
    Ok(taken.map(|own| own.fence))
}

/// Raises the fence of a lease that is good above `fence`.
pub async fn raise(conn: &mut Conn, holder: &str, fence: i64) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE relay_lease SET fence = $2 + 1
         WHERE holder = $1 AND fence <= $2 AND expires_at > clock_timestamp()",
    )
    .bind::<Text, _>(holder)
    .bind::<BigInt, _>(fence)
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives the lease back, so that another node need not wait for its end.
pub async fn give_back(conn: &mut Conn, holder: &str) -> QueryResult<()> {
    diesel::sql_query("UPDATE relay_lease SET expires_at = clock_timestamp() WHERE holder = $1")
        .bind::<Text, _>(holder)
        .execute(conn)
        .await?;
    Ok(())
}

/// Wakes whoever listens for outbox rows.
pub async fn notify(conn: &mut Conn) -> QueryResult<()> {
    diesel::sql_query("NOTIFY bongsu_outbox").execute(conn).await?;
    Ok(())
}

/// Whether some node holds the lease.
pub async fn is_held(conn: &mut Conn) -> QueryResult<bool> {
    let held: Held = diesel::sql_query(
        "SELECT EXISTS (SELECT FROM relay_lease WHERE expires_at > clock_timestamp()) AS held",
    )
    .get_result(conn)
    .await?;
    Ok(held.held)
}
