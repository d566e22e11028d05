use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, SelectableHelper};
use diesel_async::RunQueryDsl;

use crate::storage::schema::{fleet_readings, fleets};
use crate::storage::{FleetRow, ReadingRow};

/// A fleet, its row locked for this transaction.
pub async fn find_locked(conn: &mut Conn, tenant: &str, fleet_id: &str) -> QueryResult<Option<FleetRow>> {
    lock!(fleets::table.find((tenant, fleet_id)).select(FleetRow::as_select())).first(conn).await.optional()
}

/// A fleet.
pub async fn find(conn: &mut Conn, tenant: &str, fleet_id: &str) -> QueryResult<Option<FleetRow>> {
    fleets::table.find((tenant, fleet_id)).select(FleetRow::as_select()).first(conn).await.optional()
}

/// Creates a fleet; fails with a unique violation when another transaction did so first.
pub async fn insert(conn: &mut Conn, row: &FleetRow) -> QueryResult<()> {
    diesel::insert_into(fleets::table).values(row.clone()).execute(conn).await?;
    Ok(())
}

/// Replaces the state of a fleet that exists.
pub async fn update(conn: &mut Conn, row: &FleetRow) -> QueryResult<()> {
    diesel::update(fleets::table.find((&row.tenant, &row.fleet_id))).set(row.clone()).execute(conn).await?;
    Ok(())
}

/// Up to `limit` fleets whose id comes after `after`, by id.
pub async fn page(conn: &mut Conn, tenant: &str, after: &str, limit: i64) -> QueryResult<Vec<FleetRow>> {
    fleets::table
        .filter(fleets::tenant.eq(tenant))
        .filter(fleets::fleet_id.gt(after))
        .order(fleets::fleet_id)
        .limit(limit)
        .select(FleetRow::as_select())
        .load(conn)
        .await
}

/// Adds a reading and forgets those more than `keep` versions old.
pub async fn add_reading(conn: &mut Conn, row: &ReadingRow, keep: i64) -> QueryResult<()> {
    diesel::insert_into(fleet_readings::table).values(row.clone()).execute(conn).await?;
    if row.version <= keep {
        return Ok(());
    }
    diesel::delete(
        fleet_readings::table
            .filter(fleet_readings::tenant.eq(&row.tenant))
            .filter(fleet_readings::fleet_id.eq(&row.fleet_id))
            .filter(fleet_readings::version.le(row.version - keep)),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The newest readings before version `before`, newest first.
pub async fn readings(
    conn: &mut Conn,
    tenant: &str,
    fleet_id: &str,
    before: i64,
    limit: i64,
) -> QueryResult<Vec<ReadingRow>> {
    fleet_readings::table
        .filter(fleet_readings::tenant.eq(tenant))
        .filter(fleet_readings::fleet_id.eq(fleet_id))
        .filter(fleet_readings::version.lt(before))
        .order(fleet_readings::version.desc())
        .limit(limit)
        .select(ReadingRow::as_select())
        .load(conn)
        .await
}
