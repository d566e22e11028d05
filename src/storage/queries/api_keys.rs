use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, SelectableHelper};
use diesel_async::RunQueryDsl;

use super::generations;
use crate::storage::schema::api_keys;
use crate::storage::{ApiKeyRow, Feed};

/// Stores a new key and moves the generation on.
pub async fn insert(conn: &mut Conn, row: &ApiKeyRow) -> QueryResult<()> {
    diesel::insert_into(api_keys::table).values(row.clone()).execute(conn).await?;
    generations::advance(conn, Feed::Keys).await?;
    Ok(())
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
    generations::advance(conn, Feed::Keys).await?;
    Ok(Some(true))
}
