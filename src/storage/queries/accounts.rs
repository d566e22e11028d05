use diesel::prelude::{
    BoolExpressionMethods, ExpressionMethods, IntoSql, OptionalExtension, QueryDsl, QueryResult,
    SelectableHelper,
};
use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl;

use crate::storage::schema::{account_numbers, accounts, snapshots};
use crate::storage::{AccountRow, SnapshotRow};

/// The next account's number, from 1; whoever makes another one in the tenant waits for this transaction's end.
pub async fn next_number(conn: &mut Conn, tenant: &str) -> QueryResult<i64> {
    diesel::insert_into(account_numbers::table)
        .values((account_numbers::tenant.eq(tenant), account_numbers::last.eq(1)))
        .on_conflict(account_numbers::tenant)
        .do_update()
        .set(account_numbers::last.eq(account_numbers::last + 1))
        .returning(account_numbers::last)
        .get_result(conn)
        .await
}

/// How many accounts a user has.
pub async fn count(conn: &mut Conn, (tenant, owner): (&str, &str)) -> QueryResult<i64> {
    let own = accounts::table.filter(accounts::tenant.eq(tenant)).filter(accounts::owner.eq(owner));
    own.count().get_result(conn).await
}

/// Adds an account.
pub async fn insert(conn: &mut Conn, row: &AccountRow) -> QueryResult<()> {
    diesel::insert_into(accounts::table).values(row.clone()).execute(conn).await?;
    Ok(())
}

/// An account of a user, its row locked for this transaction.
pub async fn find_locked(
    conn: &mut Conn,
    (tenant, owner): (&str, &str),
    account_id: i64,
) -> QueryResult<Option<AccountRow>> {
    let own = accounts::table.find((tenant, account_id)).select(AccountRow::as_select());
    let found: Option<AccountRow> = lock!(own).first(conn).await.optional()?;
    Ok(found.filter(|row| row.owner == owner))
}

/// Replaces the state of an account that exists.
pub async fn update(conn: &mut Conn, row: &AccountRow) -> QueryResult<()> {
    diesel::update(accounts::table.find((&row.tenant, row.account_id))).set(row.clone()).execute(conn).await?;
    Ok(())
}

/// Up to `limit` accounts of a user after one of this number, by number.
pub async fn page(
    conn: &mut Conn,
    (tenant, owner): (&str, &str),
    after: i64,
    limit: i64,
) -> QueryResult<Vec<AccountRow>> {
    accounts::table
        .filter(accounts::tenant.eq(tenant))
        .filter(accounts::owner.eq(owner))
        .filter(accounts::account_id.gt(after))
        .order(accounts::account_id)
        .limit(limit)
        .select(AccountRow::as_select())
        .load(conn)
        .await
}

/// Keeps what all accounts of a user are like; how many they are.
pub async fn take_snapshot(
    conn: &mut Conn,
    (tenant, owner): (&str, &str),
    snapshot_id: &str,
    now_us: i64,
) -> QueryResult<usize> {
    let present = accounts::table.filter(accounts::tenant.eq(tenant)).filter(accounts::owner.eq(owner)).select((
        accounts::tenant,
        accounts::owner,
        snapshot_id.to_owned().into_sql::<Text>(),
        accounts::account_id,
        accounts::name,
        accounts::balance,
        now_us.into_sql::<BigInt>(),
    ));
    diesel::insert_into(snapshots::table)
        .values(present)
        .into_columns((
            snapshots::tenant,
            snapshots::owner,
            snapshots::snapshot_id,
            snapshots::account_id,
            snapshots::name,
            snapshots::balance,
            snapshots::taken_us,
        ))
        .execute(conn)
        .await
}

/// Forgets the snapshots of a user but the newest `kept`.
pub async fn forget_snapshots(
    conn: &mut Conn,
    (tenant, owner): (&str, &str),
    kept: i64,
) -> QueryResult<()> {
    let own = snapshots::table.filter(snapshots::tenant.eq(tenant)).filter(snapshots::owner.eq(owner));
    let beyond = own
        .select(snapshots::snapshot_id)
        .distinct()
        .order(snapshots::snapshot_id.desc())
        .offset(kept)
        .first::<String>(conn)
        .await
        .optional()?;
    if let Some(beyond) = beyond {
        diesel::delete(own.filter(snapshots::snapshot_id.le(beyond))).execute(conn).await?;
    }
    Ok(())
}

/// Up to `limit` rows of a user's snapshots after this place: the newest snapshot first, its accounts by number.
pub async fn snapshots(
    conn: &mut Conn,
    (tenant, owner): (&str, &str),
    after: Option<(&str, i64)>,
    limit: i64,
) -> QueryResult<Vec<SnapshotRow>> {
    let own = snapshots::table
        .filter(snapshots::tenant.eq(tenant))
        .filter(snapshots::owner.eq(owner))
        .order((snapshots::snapshot_id.desc(), snapshots::account_id))
        .limit(limit)
        .select(SnapshotRow::as_select());
    let Some((snapshot_id, account_id)) = after else {
        return own.load(conn).await;
    };
    let further = snapshots::snapshot_id.eq(snapshot_id).and(snapshots::account_id.gt(account_id));
    own.filter(snapshots::snapshot_id.lt(snapshot_id).or(further)).load(conn).await
}
