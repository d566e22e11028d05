use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, SelectableHelper};
use diesel_async::RunQueryDsl;

use crate::storage::IdempotencyRow;
use crate::storage::schema::idempotency_keys;

/// The stored answer under a key, unless it has expired.
pub async fn find(
    conn: &mut Conn,
    (tenant, principal, key): (&str, &str, &str),
    now_us: i64,
) -> QueryResult<Option<IdempotencyRow>> {
    idempotency_keys::table
        .find((tenant, principal, key))
        .filter(idempotency_keys::expires_us.gt(now_us))
        .select(IdempotencyRow::as_select())
        .first(conn)
        .await
        .optional()
}

/// Stores an answer in the transaction of the command it answers; forgets a few that have expired.
pub async fn store(conn: &mut Conn, row: &IdempotencyRow, now_us: i64) -> QueryResult<()> {
    let own = idempotency_keys::table.find((&row.tenant, &row.principal, &row.key));
    diesel::delete(own).execute(conn).await?;
    let expired: Vec<(String, String, String)> = idempotency_keys::table
        .filter(idempotency_keys::expires_us.le(now_us))
        .select((idempotency_keys::tenant, idempotency_keys::principal, idempotency_keys::key))
        .limit(10)
        .load(conn)
        .await?;
    for (tenant, principal, key) in expired {
        diesel::delete(idempotency_keys::table.find((tenant, principal, key))).execute(conn).await?;
    }
    diesel::insert_into(idempotency_keys::table).values(row.clone()).execute(conn).await?;
    Ok(())
}

/// The stored answers under these keys, those of other principals included, unless they have expired.
pub async fn find_all(
    conn: &mut Conn,
    keys: &[(&str, &str, &str)],
    now_us: i64,
) -> QueryResult<Vec<IdempotencyRow>> {
    let [(tenant, ..), ..] = keys else { return Ok(Vec::new()) };
    let principals: Vec<&str> = keys.iter().map(|(_, principal, _)| *principal).collect();
    let names: Vec<&str> = keys.iter().map(|(_, _, key)| *key).collect();
    idempotency_keys::table
        .filter(idempotency_keys::tenant.eq(*tenant))
        .filter(idempotency_keys::principal.eq_any(principals))
        .filter(idempotency_keys::key.eq_any(names))
        .filter(idempotency_keys::expires_us.gt(now_us))
        .select(IdempotencyRow::as_select())
        .load(conn)
        .await
}

/// Forgets the answers that expired first, about so many, without waiting for whoever has them locked.
async fn forget_expired(conn: &mut Conn, count: i64, now_us: i64) -> QueryResult<()> {
    let oldest = idempotency_keys::table
        .filter(idempotency_keys::expires_us.le(now_us))
        .order(idempotency_keys::expires_us)
        .limit(count)
        .select((idempotency_keys::tenant, idempotency_keys::principal, idempotency_keys::key));
    let oldest: Vec<(String, String, String)> = lock_free!(oldest).load(conn).await?;
    if oldest.is_empty() {
        return Ok(());
    }
    let (mut tenants, mut principals, mut keys) = (Vec::new(), Vec::new(), Vec::new());
    for (tenant, principal, key) in oldest {
        tenants.push(tenant);
        principals.push(principal);
        keys.push(key);
    }
    // what has expired besides under such names goes as well
    let expired = idempotency_keys::table
        .filter(idempotency_keys::tenant.eq_any(tenants))
        .filter(idempotency_keys::principal.eq_any(principals))
        .filter(idempotency_keys::key.eq_any(keys))
        .filter(idempotency_keys::expires_us.le(now_us));
    diesel::delete(expired).execute(conn).await?;
    Ok(())
}

/// Stores answers of one tenant in the transaction of the commands they answer, in place of those that have expired.
pub async fn store_all(conn: &mut Conn, rows: Vec<IdempotencyRow>, now_us: i64) -> QueryResult<()> {
    let [IdempotencyRow { tenant, .. }, ..] = rows.as_slice() else { return Ok(()) };
    let tenant = tenant.clone();
    let principals: Vec<String> = rows.iter().map(|row| row.principal.clone()).collect();
    let names: Vec<String> = rows.iter().map(|row| row.key.clone()).collect();
    let former = idempotency_keys::table
        .filter(idempotency_keys::tenant.eq(tenant))
        .filter(idempotency_keys::principal.eq_any(principals))
        .filter(idempotency_keys::key.eq_any(names))
        .filter(idempotency_keys::expires_us.le(now_us));
    diesel::delete(former).execute(conn).await?;
    forget_expired(conn, 2 * rows.len() as i64, now_us).await?;
    insert_all!(conn, idempotency_keys::table, rows);
    Ok(())
}
