use diesel::prelude::{OptionalExtension, QueryResult, QueryableByName};
use diesel::sql_types::{Array, BigInt, Nullable, Text};
use diesel_async::RunQueryDsl;

#[derive(QueryableByName)]
struct Newest {
    #[diesel(sql_type = Text)]
    epoch: String,
}

/// Notes a run of a tenant's log that began at `born_us` under a configuration of Redis, unless a later one is known; the
/// epoch of the newest.
///
/// It is later than one under a former configuration, whatever clocks say, and than `former`, which whoever asks has met
/// before; one from after `latest_us`, a time to come, is what a clock that was wrong has left, and one that nobody has
/// confirmed for a minute is gone.
pub async fn meet(
    conn: &mut Conn,
    tenant: &str,
    (epoch, former): (&str, Option<&str>),
    (config, born_us): (i64, i64),
    latest_us: i64,
) -> QueryResult<String> {
    let met: Option<Newest> = diesel::sql_query(
        "INSERT INTO log_runs AS own (tenant, epoch, config, born_us) VALUES ($1, $2, $6, $3)
         ON CONFLICT (tenant) DO UPDATE
             SET epoch = excluded.epoch, config = excluded.config, born_us = excluded.born_us, met_at = now()
         WHERE (own.config, own.born_us) < (excluded.config, excluded.born_us) OR own.born_us > $4 OR own.epoch = $5
             OR own.met_at < now() - interval '1 minute'
         RETURNING epoch",
    )
    .bind::<Text, _>(tenant)
    .bind::<Text, _>(epoch)
    .bind::<BigInt, _>(born_us)
    .bind::<BigInt, _>(latest_us)
    .bind::<Nullable<Text>, _>(former)
    .bind::<BigInt, _>(config)
    .get_result(conn)
    .await
    .optional()?;
    if let Some(Newest { epoch }) = met {
        return Ok(epoch);
    }
    let newest: Newest = diesel::sql_query("SELECT epoch FROM log_runs WHERE tenant = $1")
        .bind::<Text, _>(tenant)
        .get_result(conn)
        .await?;
    Ok(newest.epoch)
}

/// Notes that these runs, each of the tenant of the same place, are there.
pub async fn confirm(conn: &mut Conn, tenants: &[&str], epochs: &[String]) -> QueryResult<usize> {
    diesel::sql_query(
        "UPDATE log_runs AS own SET met_at = now()
         FROM unnest($1, $2) AS met (tenant, epoch)
         WHERE own.tenant = met.tenant AND own.epoch = met.epoch AND own.met_at < now() - interval '5 seconds'",
    )
    .bind::<Array<Text>, _>(tenants)
    .bind::<Array<Text>, _>(epochs)
    .execute(conn)
    .await
}

/// Marks a tenant's rows as published by removing them, unless another run of its log is known than the one that they
/// were published in; how many were marked. Those that can never be published stay, for somebody to look at.
pub async fn mark_published(
    conn: &mut Conn,
    tenant: &str,
    epoch: &str,
    ids: &[i64],
) -> QueryResult<usize> {
    diesel::sql_query(
        "DELETE FROM outbox WHERE id = ANY($1) AND dead_reason IS NULL
         AND NOT EXISTS (SELECT FROM log_runs WHERE tenant = $2 AND epoch <> $3)",
    )
    .bind::<Array<BigInt>, _>(ids)
    .bind::<Text, _>(tenant)
    .bind::<Text, _>(epoch)
    .execute(conn)
    .await
}

/// Whether another run of a tenant's log is known than this one.
pub async fn is_superseded(conn: &mut Conn, tenant: &str, epoch: &str) -> QueryResult<bool> {
    let other: Option<Newest> =
        diesel::sql_query("SELECT epoch FROM log_runs WHERE tenant = $1 AND epoch <> $2")
            .bind::<Text, _>(tenant)
            .bind::<Text, _>(epoch)
            .get_result(conn)
            .await
            .optional()?;
    Ok(other.is_some())
}
