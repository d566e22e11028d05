use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, SelectableHelper};
use diesel_async::RunQueryDsl;

use crate::storage::ApiKeyRow;
use crate::storage::schema::{api_keys, security_state};

/// Stores a new key and moves the generation on.
pub async fn insert(conn: &mut Conn, row: &ApiKeyRow) -> QueryResult<()> {
    diesel::insert_into(api_keys::table).values(row.clone()).execute(conn).await?;
    advance_generation(conn).await
}

/// Every key, oldest first; revoked ones included.
pub async fn all(conn: &mut Conn) -> QueryResult<Vec<ApiKeyRow>> {
    api_keys::table.order((api_keys::created_us, api_keys::key_id)).select(ApiKeyRow::as_select()).load(conn).await
}

/// Revokes a key, of one tenant if given; None when there is no such key, false when it was revoked before.
pub async fn revoke(conn: &mut Conn, tenant: Option<&str>, key_id: &str, now_us: i64) -> QueryResult<Option<bool>> {
    let found = lock!(api_keys::table.find(key_id).select(ApiKeyRow::as_select())).first(conn).await.optional()?;
    let Some(row) = found.filter(|row| tenant.is_none_or(|tenant| tenant == row.tenant)) else {
        return Ok(None);
    };
    if row.revoked_us.is_some() {
        return Ok(Some(false));
    }
    diesel::update(api_keys::table.find(key_id)).set(api_keys::revoked_us.eq(now_us)).execute(conn).await?;
    advance_generation(conn).await?;
    Ok(Some(true))
}

/// Number that changes whenever keys do.
pub async fn generation(conn: &mut Conn) -> QueryResult<i64> {
    security_state::table.find(1).select(security_state::generation).first(conn).await
}

async fn advance_generation(conn: &mut Conn) -> QueryResult<()> {
    diesel::update(security_state::table.find(1))
        .set(security_state::generation.eq(security_state::generation + 1))
        .execute(conn)
        .await?;
    Ok(())
}
