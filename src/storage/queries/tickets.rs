use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, SelectableHelper};
use diesel_async::RunQueryDsl;

use super::generations;
use crate::storage::schema::tickets;
use crate::storage::{Feed, TicketRow};

/// Stores a new ticket and forgets a few that have expired.
pub async fn insert(conn: &mut Conn, row: &TicketRow, now_us: i64) -> QueryResult<()> {
    let expired: Vec<String> =
        tickets::table.filter(tickets::expires_us.lt(now_us)).select(tickets::ticket_id).limit(20).load(conn).await?;
    diesel::delete(tickets::table.filter(tickets::ticket_id.eq_any(expired))).execute(conn).await?;
    diesel::insert_into(tickets::table).values(row.clone()).execute(conn).await?;
    Ok(())
}

/// Looks a ticket up by its hash.
pub async fn find(conn: &mut Conn, hash: &str) -> QueryResult<Option<TicketRow>> {
    tickets::table.filter(tickets::hash.eq(hash)).select(TicketRow::as_select()).first(conn).await.optional()
}

/// Notes the first use of a ticket, and the stream that it is good for from then on.
pub async fn mark_used(
    conn: &mut Conn,
    ticket_id: &str,
    (path, topics): (&str, Option<&str>),
    now_us: i64,
) -> QueryResult<()> {
    diesel::update(tickets::table.find(ticket_id).filter(tickets::first_used_us.is_null()))
        .set((tickets::first_used_us.eq(now_us), tickets::path.eq(path), tickets::topics.eq(topics)))
        .execute(conn)
        .await?;
    Ok(())
}

/// Revokes one of a tenant's tickets that `may` lets pass; None when there is none.
pub async fn revoke(
    conn: &mut Conn,
    tenant: &str,
    ticket_id: &str,
    may: impl FnOnce(&TicketRow) -> bool,
) -> QueryResult<Option<()>> {
    let found = lock!(tickets::table.find(ticket_id).select(TicketRow::as_select())).first(conn).await.optional()?;
    let Some(row) = found.filter(|row| row.tenant == tenant && may(row)) else {
        return Ok(None);
    };
    if row.revoked_generation.is_none() {
        let generation = generations::advance(conn, Feed::Revocations).await?;
        diesel::update(tickets::table.find(ticket_id))
            .set(tickets::revoked_generation.eq(generation))
            .execute(conn)
            .await?;
    }
    Ok(Some(()))
}

/// Tickets revoked since a generation, with the time that each would have expired.
pub async fn revoked_since(conn: &mut Conn, generation: i64) -> QueryResult<Vec<(String, i64)>> {
    tickets::table
        .filter(tickets::revoked_generation.gt(generation))
        .select((tickets::ticket_id, tickets::expires_us))
        .load(conn)
        .await
}
