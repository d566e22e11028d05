use diesel::prelude::{
    ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, RunQueryDsl, SelectableHelper,
};

use crate::storage::schema::{
    log_answers, log_commits, log_dedup, log_entries, log_floors, log_tenants, log_versions, outbox,
};
use crate::storage::{FloorRow, LogRow, OldestRow, OutboxRow, TenantRow};

/// Moves the commit number on and returns the new one, with the instance it belongs to.
pub fn advance_commit(conn: &mut Conn) -> QueryResult<(String, i64)> {
    diesel::update(log_commits::table.find(1))
        .set(log_commits::number.eq(log_commits::number + 1))
        .returning((log_commits::instance, log_commits::number))
        .get_result(conn)
}

/// The present commit number and instance; None before the log's first start.
pub fn commit(conn: &mut Conn) -> QueryResult<Option<(String, i64)>> {
    let row = log_commits::table.find(1).select((log_commits::instance, log_commits::number));
    row.first(conn).optional()
}

/// Makes `holder` the one that may write, once a transaction that is still under way has ended; the present
/// commit number and instance.
pub fn take_over(conn: &mut Conn, holder: &str) -> QueryResult<Option<(String, i64)>> {
    diesel::update(log_commits::table.find(1))
        .set(log_commits::holder.eq(holder))
        .returning((log_commits::instance, log_commits::number))
        .get_result(conn)
        .optional()
}

/// Who may write, locked until the transaction ends, and the present commit number.
pub fn holder(conn: &mut Conn) -> QueryResult<Option<(Option<String>, i64)>> {
    let row = log_commits::table.find(1).select((log_commits::holder, log_commits::number));
    lock!(row).first(conn).optional()
}

/// Names a new instance, counting from 0, that `holder` may write.
pub fn create_commit(conn: &mut Conn, instance: &str, holder: &str) -> QueryResult<()> {
    diesel::delete(log_commits::table).execute(conn)?;
    let row = (
        log_commits::id.eq(1),
        log_commits::instance.eq(instance),
        log_commits::number.eq(0),
        log_commits::holder.eq(holder),
    );
    diesel::insert_into(log_commits::table).values(row).execute(conn)?;
    Ok(())
}

/// Leaves the log: nobody may write it, and whoever starts on it begins afresh.
pub fn abandon(conn: &mut Conn) -> QueryResult<()> {
    diesel::delete(log_commits::table).execute(conn)?;
    Ok(())
}

/// Every tenant's log.
pub fn tenants(conn: &mut Conn) -> QueryResult<Vec<TenantRow>> {
    log_tenants::table.select(TenantRow::as_select()).load(conn)
}

/// Stores a tenant's log, new or changed.
pub fn save_tenant(conn: &mut Conn, row: &TenantRow) -> QueryResult<()> {
    diesel::insert_into(log_tenants::table)
        .values(row)
        .on_conflict(log_tenants::tenant)
        .do_update()
        .set(row)
        .execute(conn)?;
    Ok(())
}

/// Forgets every entry, answer, version and floor, of all tenants; the outbox stays.
pub fn forget_everything(conn: &mut Conn) -> QueryResult<()> {
    diesel::delete(log_tenants::table).execute(conn)?;
    diesel::delete(log_entries::table).execute(conn)?;
    diesel::delete(log_floors::table).execute(conn)?;
    diesel::delete(log_versions::table).execute(conn)?;
    diesel::delete(log_dedup::table).execute(conn)?;
    diesel::delete(log_answers::table).execute(conn)?;
    Ok(())
}

/// A tenant's trim floors by topic.
pub fn floors(conn: &mut Conn, tenant: &str) -> QueryResult<Vec<FloorRow>> {
    let rows = log_floors::table.filter(log_floors::tenant.eq(tenant));
    rows.select(FloorRow::as_select()).load(conn)
}

/// Appends entries whose numbers have been given.
pub fn insert_entries(conn: &mut Conn, rows: &[LogRow]) -> QueryResult<()> {
    // 11 columns a row: stays far below SQLite's limit of bound values
    for chunk in rows.chunks(200) {
        diesel::insert_into(log_entries::table).values(chunk).execute(conn)?;
    }
    Ok(())
}

/// Entries after `after`, in order, at most `limit`.
pub fn entries_after(conn: &mut Conn, tenant: &str, after: i64, limit: i64) -> QueryResult<Vec<LogRow>> {
    let rows =
        log_entries::table.filter(log_entries::tenant.eq(tenant)).filter(log_entries::seq.gt(after));
    rows.order(log_entries::seq).limit(limit).select(LogRow::as_select()).load(conn)
}

/// The oldest entries after `after` as retention sees them, at most `limit`.
pub fn oldest(conn: &mut Conn, tenant: &str, after: i64, limit: i64) -> QueryResult<Vec<OldestRow>> {
    let rows =
        log_entries::table.filter(log_entries::tenant.eq(tenant)).filter(log_entries::seq.gt(after));
    rows.order(log_entries::seq).limit(limit).select(OldestRow::as_select()).load(conn)
}

/// The version stored under a key of a topic's event name.
pub fn version(conn: &mut Conn, row: &LogRow) -> QueryResult<Option<i64>> {
    let key = row.key.as_deref().unwrap_or_default();
    let stored = log_versions::table.find((&row.tenant, &row.topic, &row.name, key));
    stored.select(log_versions::version).first(conn).optional()
}

/// Remembers an entry's version until the entry with number `seq` is trimmed.
pub fn save_version(conn: &mut Conn, row: &LogRow, version: i64, seq: i64) -> QueryResult<()> {
    let key = row.key.as_deref().unwrap_or_default();
    let values = (
        log_versions::tenant.eq(&row.tenant),
        log_versions::topic.eq(&row.topic),
        log_versions::name.eq(&row.name),
        log_versions::key.eq(key),
        log_versions::version.eq(version),
        log_versions::seq.eq(seq),
    );
    diesel::insert_into(log_versions::table)
        .values(values)
        .on_conflict((log_versions::tenant, log_versions::topic, log_versions::name, log_versions::key))
        .do_update()
        .set((log_versions::version.eq(version), log_versions::seq.eq(seq)))
        .execute(conn)?;
    Ok(())
}

/// The number of the event that a deduplication key names, while its window is open.
pub fn duplicate_of(
    conn: &mut Conn,
    tenant: &str,
    topic: &str,
    key: &str,
    now_us: i64,
) -> QueryResult<Option<i64>> {
    let stored = log_dedup::table.find((tenant, topic, key)).filter(log_dedup::until_us.gt(now_us));
    stored.select(log_dedup::seq).first(conn).optional()
}

/// Opens the window of a deduplication key.
pub fn save_dedup(conn: &mut Conn, row: &LogRow, key: &str, until_us: i64) -> QueryResult<()> {
    let values = (
        log_dedup::tenant.eq(&row.tenant),
        log_dedup::topic.eq(&row.topic),
        log_dedup::dedup_key.eq(key),
        log_dedup::seq.eq(row.seq),
        log_dedup::until_us.eq(until_us),
    );
    diesel::insert_into(log_dedup::table)
        .values(values)
        .on_conflict((log_dedup::tenant, log_dedup::topic, log_dedup::dedup_key))
        .do_update()
        .set((log_dedup::seq.eq(row.seq), log_dedup::until_us.eq(until_us)))
        .execute(conn)?;
    Ok(())
}

/// The stored answer under an idempotency key with the hash of its request.
pub fn answer(
    conn: &mut Conn,
    tenant: &str,
    principal: &str,
    key: &str,
    now_us: i64,
) -> QueryResult<Option<(String, String)>> {
    let stored =
        log_answers::table.find((tenant, principal, key)).filter(log_answers::until_us.gt(now_us));
    stored.select((log_answers::request_hash, log_answers::answer)).first(conn).optional()
}

/// Stores the answer to a publish.
pub fn save_answer(
    conn: &mut Conn,
    (tenant, principal, key): (&str, &str, &str),
    request_hash: &str,
    answer: &str,
    until_us: i64,
) -> QueryResult<()> {
    let values = (
        log_answers::tenant.eq(tenant),
        log_answers::principal.eq(principal),
        log_answers::key.eq(key),
        log_answers::request_hash.eq(request_hash),
        log_answers::answer.eq(answer),
        log_answers::until_us.eq(until_us),
    );
    diesel::insert_into(log_answers::table)
        .values(values)
        .on_conflict((log_answers::tenant, log_answers::principal, log_answers::key))
        .do_update()
        .set((
            log_answers::request_hash.eq(request_hash),
            log_answers::answer.eq(answer),
            log_answers::until_us.eq(until_us),
        ))
        .execute(conn)?;
    Ok(())
}

/// Forgets deduplication windows and answers that have run out.
pub fn forget_expired(conn: &mut Conn, now_us: i64) -> QueryResult<()> {
    diesel::delete(log_dedup::table.filter(log_dedup::until_us.le(now_us))).execute(conn)?;
    diesel::delete(log_answers::table.filter(log_answers::until_us.le(now_us))).execute(conn)?;
    Ok(())
}

/// Outbox rows that wait, oldest first.
pub fn outbox(conn: &mut Conn, limit: i64) -> QueryResult<Vec<OutboxRow>> {
    let waiting = outbox::table.filter(outbox::dead_reason.is_null()).order(outbox::id).limit(limit);
    waiting.select(OutboxRow::as_select()).load(conn)
}

/// Marks rows as published by removing them.
pub fn mark_published(conn: &mut Conn, ids: &[i64]) -> QueryResult<()> {
    for chunk in ids.chunks(500) {
        diesel::delete(outbox::table.filter(outbox::id.eq_any(chunk))).execute(conn)?;
    }
    Ok(())
}

/// Keeps a row that can never be published, with the reason.
pub fn mark_dead(conn: &mut Conn, id: i64, reason: &str) -> QueryResult<()> {
    diesel::update(outbox::table.find(id)).set(outbox::dead_reason.eq(reason)).execute(conn)?;
    Ok(())
}

/// Removes the entries up to `seq` with the versions they hold, and raises their topics' floors.
pub fn trim(conn: &mut Conn, tenant: &str, up_to: i64, floors: &[FloorRow]) -> QueryResult<()> {
    let entries =
        log_entries::table.filter(log_entries::tenant.eq(tenant)).filter(log_entries::seq.le(up_to));
    diesel::delete(entries).execute(conn)?;
    let versions =
        log_versions::table.filter(log_versions::tenant.eq(tenant)).filter(log_versions::seq.le(up_to));
    diesel::delete(versions).execute(conn)?;
    for floor in floors {
        diesel::insert_into(log_floors::table)
            .values(floor)
            .on_conflict((log_floors::tenant, log_floors::topic))
            .do_update()
            .set((log_floors::floor.eq(floor.floor), log_floors::steps.eq(&floor.steps)))
            .execute(conn)?;
    }
    Ok(())
}

/// Drops the floors at or below `floor`: the global one covers them.
pub fn drop_floors(conn: &mut Conn, tenant: &str, floor: i64) -> QueryResult<()> {
    let covered =
        log_floors::table.filter(log_floors::tenant.eq(tenant)).filter(log_floors::floor.le(floor));
    diesel::delete(covered).execute(conn)?;
    Ok(())
}
