use diesel::prelude::{
    BoolExpressionMethods, ExpressionMethods, JoinOnDsl, NullableExpressionMethods, OptionalExtension, QueryDsl,
    QueryResult, SelectableHelper,
};
use diesel::upsert::excluded;
use diesel_async::RunQueryDsl;

use crate::storage::schema::{bids, proposals};
use crate::storage::{BidFactsRow, BidRow, ProposalRow};

/// A bid, its row locked for this transaction.
pub async fn find_locked(conn: &mut Conn, tenant: &str, bid_id: &str) -> QueryResult<Option<BidRow>> {
    lock!(bids::table.find((tenant, bid_id)).select(BidRow::as_select())).first(conn).await.optional()
}

/// A bid.
pub async fn find(conn: &mut Conn, tenant: &str, bid_id: &str) -> QueryResult<Option<BidRow>> {
    bids::table.find((tenant, bid_id)).select(BidRow::as_select()).first(conn).await.optional()
}

/// What decides who may hear these bids, of those that exist.
pub async fn facts(conn: &mut Conn, tenant: &str, ids: &[String]) -> QueryResult<Vec<BidFactsRow>> {
    bids::table
        .filter(bids::tenant.eq(tenant))
        .filter(bids::bid_id.eq_any(ids))
        .select(BidFactsRow::as_select())
        .load(conn)
        .await
}

/// Creates a bid; fails with a unique violation when there is one of this id.
pub async fn insert(conn: &mut Conn, row: &BidRow) -> QueryResult<()> {
    diesel::insert_into(bids::table).values(row.clone()).execute(conn).await?;
    Ok(())
}

/// Replaces the state of a bid that is locked.
pub async fn update(conn: &mut Conn, row: &BidRow) -> QueryResult<()> {
    diesel::update(bids::table.find((&row.tenant, &row.bid_id))).set(row.clone()).execute(conn).await?;
    Ok(())
}

/// Up to `limit` bids whose id comes after `after`, by id; of one status, if it is given.
pub async fn page(
    conn: &mut Conn,
    tenant: &str,
    status: Option<&str>,
    after: &str,
    limit: i64,
) -> QueryResult<Vec<BidRow>> {
    let mut query = bids::table
        .filter(bids::tenant.eq(tenant))
        .filter(bids::bid_id.gt(after))
        .order(bids::bid_id)
        .limit(limit)
        .select(BidRow::as_select())
        .into_boxed();
    if let Some(status) = status {
        query = query.filter(bids::status.eq(status));
    }
    query.load(conn).await
}

/// When the next bid after this moment opens or closes by itself.
pub async fn next_due(conn: &mut Conn, after_us: i64) -> QueryResult<Option<i64>> {
    bids::table
        .filter(bids::due_us.gt(after_us))
        .order(bids::due_us)
        .select(bids::due_us.assume_not_null())
        .first(conn)
        .await
        .optional()
}

/// Up to `limit` bids that are to open or close by now, after one of them: since when, tenant and id, the longest
/// overdue first.
pub async fn due(
    conn: &mut Conn,
    (after_us, tenant, bid_id): &(i64, String, String),
    now_us: i64,
    limit: i64,
) -> QueryResult<Vec<(i64, String, String)>> {
    let due_us = bids::due_us.assume_not_null();
    let further = bids::tenant.gt(tenant).or(bids::tenant.eq(tenant).and(bids::bid_id.gt(bid_id)));
    bids::table
        .filter(bids::due_us.between(*after_us, now_us))
        .filter(due_us.gt(*after_us).or(further))
        .order((bids::due_us, bids::tenant, bids::bid_id))
        .limit(limit)
        .select((due_us, bids::tenant, bids::bid_id))
        .load(conn)
        .await
}

/// What is handed over at once: a turn of a few milliseconds.
const PROPOSALS: usize = 500;

/// Hands over the proposals of a bid that have changed after a version of its ranking, in the order of their changes:
/// page by page, at least one, and others of the thread have their turns in between.
pub async fn proposals_since(
    conn: &mut Conn,
    (tenant, bid_id): (&str, &str),
    version: i64,
    mut take: impl FnMut(Vec<ProposalRow>),
) -> QueryResult<()> {
    let mut after = version;
    loop {
        let page: Vec<ProposalRow> = proposals::table
            .filter(proposals::tenant.eq(tenant))
            .filter(proposals::bid_id.eq(bid_id))
            .filter(proposals::version.gt(after))
            .order(proposals::version)
            .limit(PROPOSALS as i64)
            .select(ProposalRow::as_select())
            .load(conn)
            .await?;
        let is_last = page.len() < PROPOSALS;
        after = page.last().map_or(after, |last| last.version);
        take(page);
        if is_last {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

/// A proposal.
pub async fn proposal(
    conn: &mut Conn,
    tenant: &str,
    bid_id: &str,
    proposal_id: &str,
) -> QueryResult<Option<ProposalRow>> {
    proposals::table
        .find((tenant, bid_id, proposal_id))
        .select(ProposalRow::as_select())
        .first(conn)
        .await
        .optional()
}

/// Adds proposals.
pub async fn insert_proposals(conn: &mut Conn, rows: Vec<ProposalRow>) -> QueryResult<()> {
    insert_all!(conn, proposals::table, rows);
    Ok(())
}

/// Replaces what can change of proposals that exist.
pub async fn update_proposals(conn: &mut Conn, rows: Vec<ProposalRow>) -> QueryResult<()> {
    put_all!(
        conn,
        proposals::table,
        rows,
        (proposals::tenant, proposals::bid_id, proposals::proposal_id),
        (
            proposals::price.eq(excluded(proposals::price)),
            proposals::ei.eq(excluded(proposals::ei)),
            proposals::lead_time_hours.eq(excluded(proposals::lead_time_hours)),
            proposals::rating.eq(excluded(proposals::rating)),
            proposals::withdrawn.eq(excluded(proposals::withdrawn)),
            proposals::version.eq(excluded(proposals::version)),
            proposals::updated_us.eq(excluded(proposals::updated_us)),
        )
    );
    Ok(())
}

/// Carriers and the bids that they take part in and that may still change or be awarded, their newest proposals first.
pub async fn of_carriers(
    conn: &mut Conn,
    tenant: &str,
    carriers: &[String],
    most: i64,
) -> QueryResult<Vec<(String, String)>> {
    proposals::table
        .inner_join(
            bids::table.on(bids::tenant.eq(proposals::tenant).and(bids::bid_id.eq(proposals::bid_id))),
        )
        .filter(proposals::tenant.eq(tenant))
        .filter(proposals::carrier_id.eq_any(carriers))
        .filter(proposals::withdrawn.eq(false))
        .filter(bids::status.eq_any(["open", "closed"]))
        .order(proposals::updated_us.desc())
        .limit(most)
        .select((proposals::carrier_id, proposals::bid_id))
        .load(conn)
        .await
}
