use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, SelectableHelper};
use diesel_async::RunQueryDsl;

use super::generations;
use crate::storage::schema::kicks;
use crate::storage::{Feed, KickRow};

/// Kicks a user; one that was kicked before is kicked up to the later moment.
pub async fn kick(conn: &mut Conn, tenant: &str, sub: &str, not_before_us: i64) -> QueryResult<KickRow> {
    let generation = generations::advance(conn, Feed::Revocations).await?;
    let before: Option<i64> =
        kicks::table.find((tenant, sub)).select(kicks::not_before_us).first(conn).await.optional()?;
    let row = KickRow {
        tenant: tenant.to_owned(),
        sub: sub.to_owned(),
        not_before_us: not_before_us.max(before.unwrap_or(i64::MIN)),
        generation,
    };
    let stored = diesel::insert_into(kicks::table).values(row.clone());
    stored.on_conflict((kicks::tenant, kicks::sub)).do_update().set(row.clone()).execute(conn).await?;
    Ok(row)
}

/// Kicks since a generation.
pub async fn since(conn: &mut Conn, generation: i64) -> QueryResult<Vec<KickRow>> {
    kicks::table.filter(kicks::generation.gt(generation)).select(KickRow::as_select()).load(conn).await
}
