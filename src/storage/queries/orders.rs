use diesel::prelude::{
    BoolExpressionMethods, ExpressionMethods, NullableExpressionMethods, OptionalExtension, QueryDsl,
    QueryResult, SelectableHelper,
};
use diesel_async::RunQueryDsl;

use crate::storage::schema::{order_reports, orders};
use crate::storage::{OrderFactsRow, OrderReportRow, OrderRow};

/// An order, its row locked for this transaction.
pub async fn find_locked(conn: &mut Conn, tenant: &str, order_id: &str) -> QueryResult<Option<OrderRow>> {
    lock!(orders::table.find((tenant, order_id)).select(OrderRow::as_select())).first(conn).await.optional()
}

/// An order.
pub async fn find(conn: &mut Conn, tenant: &str, order_id: &str) -> QueryResult<Option<OrderRow>> {
    orders::table.find((tenant, order_id)).select(OrderRow::as_select()).first(conn).await.optional()
}

/// Creates an order; fails with a unique violation when there is one of this id.
pub async fn insert(conn: &mut Conn, row: &OrderRow) -> QueryResult<()> {
    diesel::insert_into(orders::table).values(row.clone()).execute(conn).await?;
    Ok(())
}

/// Replaces the state of an order that exists.
pub async fn update(conn: &mut Conn, row: &OrderRow) -> QueryResult<()> {
    diesel::update(orders::table.find((&row.tenant, &row.order_id))).set(row.clone()).execute(conn).await?;
    Ok(())
}

/// Adds a report and forgets those more than `keep` reports old.
pub async fn add_report(conn: &mut Conn, row: &OrderReportRow, keep: i64) -> QueryResult<()> {
    diesel::insert_into(order_reports::table).values(row.clone()).execute(conn).await?;
    if row.number <= keep {
        return Ok(());
    }
    diesel::delete(
        order_reports::table
            .filter(order_reports::tenant.eq(&row.tenant))
            .filter(order_reports::order_id.eq(&row.order_id))
            .filter(order_reports::number.le(row.number - keep)),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The newest reports before the one with number `before`, newest first.
pub async fn reports(
    conn: &mut Conn,
    tenant: &str,
    order_id: &str,
    before: i64,
    limit: i64,
) -> QueryResult<Vec<OrderReportRow>> {
    order_reports::table
        .filter(order_reports::tenant.eq(tenant))
        .filter(order_reports::order_id.eq(order_id))
        .filter(order_reports::number.lt(before))
        .order(order_reports::number.desc())
        .limit(limit)
        .select(OrderReportRow::as_select())
        .load(conn)
        .await
}

/// Up to `limit` orders whose id comes after `after`, by id.
pub async fn page(conn: &mut Conn, tenant: &str, after: &str, limit: i64) -> QueryResult<Vec<OrderRow>> {
    orders::table
        .filter(orders::tenant.eq(tenant))
        .filter(orders::order_id.gt(after))
        .order(orders::order_id)
        .limit(limit)
        .select(OrderRow::as_select())
        .load(conn)
        .await
}

/// The same of those that are shipped for `shipper` or carried by one of `carriers`.
pub async fn page_of(
    conn: &mut Conn,
    tenant: &str,
    (shipper, carriers): (&str, &[String]),
    after: &str,
    limit: i64,
) -> QueryResult<Vec<OrderRow>> {
    // an order without a carrier is nobody's as a carrier
    let carried = orders::carrier.is_not_null().and(orders::carrier.assume_not_null().eq_any(carriers));
    orders::table
        .filter(orders::tenant.eq(tenant))
        .filter(orders::shipper.eq(shipper).or(carried))
        .filter(orders::order_id.gt(after))
        .order(orders::order_id)
        .limit(limit)
        .select(OrderRow::as_select())
        .load(conn)
        .await
}

/// What decides who may hear of these orders, of those that are there.
pub async fn facts(conn: &mut Conn, tenant: &str, ids: &[String]) -> QueryResult<Vec<OrderFactsRow>> {
    orders::table
        .filter(orders::tenant.eq(tenant))
        .filter(orders::order_id.eq_any(ids))
        .select(OrderFactsRow::as_select())
        .load(conn)
        .await
}
