use diesel::dsl::{count_star, min, sql};
use diesel::expression::SqlLiteral;
use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, SelectableHelper};
use diesel::sql_types::Bool;
use diesel_async::RunQueryDsl;

use super::time;
use crate::storage::schema::jobs;
use crate::storage::{JobFigures, JobOutcome, JobRow};

/// As the indexes have it, to the letter.
fn waiting() -> SqlLiteral<Bool> {
    sql("state IN ('pending', 'retry')")
}

fn sending() -> SqlLiteral<Bool> {
    sql("state = 'sending'")
}

fn done() -> SqlLiteral<Bool> {
    sql("state = 'done'")
}

fn open() -> SqlLiteral<Bool> {
    sql("state <> 'done'")
}

/// Adds a job in the transaction of what asks for it; its `due_us` is how long it has to wait.
pub async fn add(conn: &mut Conn, row: JobRow, own_now_us: i64) -> QueryResult<()> {
    let now_us = time::now_us(conn, own_now_us).await?;
    let row = JobRow { created_us: now_us, due_us: now_us + row.due_us, ..row };
    diesel::insert_into(jobs::table).values(row).execute(conn).await?;
    Ok(())
}

/// When the first job of a channel that waits is due, of the kinds that are known.
pub async fn next_due(conn: &mut Conn, channel: &str, kinds: &[&'static str]) -> QueryResult<Option<i64>> {
    jobs::table
        .filter(waiting())
        .filter(jobs::channel.eq(channel))
        .filter(jobs::kind.eq_any(kinds.to_vec()))
        .order(jobs::due_us)
        .select(jobs::due_us)
        .first(conn)
        .await
        .optional()
}

/// When the first job that is being worked on has to be done.
pub async fn next_deadline(conn: &mut Conn, kinds: &[&'static str]) -> QueryResult<Option<i64>> {
    let first = jobs::table
        .filter(sending())
        .filter(jobs::kind.eq_any(kinds.to_vec()))
        .order(jobs::deadline_us)
        .select(jobs::deadline_us)
        .first(conn)
        .await
        .optional()?;
    Ok(first.flatten())
}

/// Takes up to `limit` jobs of a channel that are due, by priority and then by time: they are the caller's until the
/// deadline.
pub async fn take(
    conn: &mut Conn,
    (channel, kinds): (&str, &[&'static str]),
    limit: i64,
    (now_us, deadline_us): (i64, i64),
) -> QueryResult<Vec<JobRow>> {
    let due = jobs::table
        .filter(waiting())
        .filter(jobs::channel.eq(channel))
        .filter(jobs::kind.eq_any(kinds.to_vec()))
        .filter(jobs::due_us.le(now_us))
        .order((jobs::priority, jobs::due_us, jobs::job_id))
        .limit(limit)
        .select(JobRow::as_select());
    let mut rows: Vec<JobRow> = lock_free!(due).load(conn).await?;
    if rows.is_empty() {
        return Ok(rows);
    }
    let ids: Vec<String> = rows.iter().map(|row| row.job_id.clone()).collect();
    diesel::update(jobs::table.filter(jobs::job_id.eq_any(ids)))
        .set((
            jobs::state.eq("sending"),
            jobs::attempts.eq(jobs::attempts + 1),
            jobs::deadline_us.eq(deadline_us),
        ))
        .execute(conn)
        .await?;
    for row in &mut rows {
        row.attempts += 1;
        (row.state, row.deadline_us) = ("sending".to_owned(), Some(deadline_us));
    }
    Ok(rows)
}

/// Up to `limit` jobs whose deadline has passed, locked for this transaction: nobody works on them any more.
pub async fn abandoned(
    conn: &mut Conn,
    kinds: &[&'static str],
    limit: i64,
    now_us: i64,
) -> QueryResult<Vec<JobRow>> {
    let over = jobs::table
        .filter(sending())
        .filter(jobs::kind.eq_any(kinds.to_vec()))
        .filter(jobs::deadline_us.le(now_us))
        .order(jobs::deadline_us)
        .limit(limit)
        .select(JobRow::as_select());
    lock_free!(over).load(conn).await
}

/// Says what has become of an attempt; false when it is not the present one.
pub async fn settle(
    conn: &mut Conn,
    (job_id, attempt): (&str, i64),
    outcome: &JobOutcome,
) -> QueryResult<bool> {
    let own = jobs::table.filter(jobs::job_id.eq(job_id)).filter(jobs::attempts.eq(attempt)).filter(sending());
    Ok(diesel::update(own).set(outcome.clone()).execute(conn).await? > 0)
}

/// The same in the transaction of the work itself: done. To be called first, as it locks the job.
pub async fn finish(conn: &mut Conn, job: &JobRow, own_now_us: i64) -> QueryResult<bool> {
    let now_us = time::now_us(conn, own_now_us).await?;
    let outcome = JobOutcome {
        state: "done",
        due_us: job.due_us,
        deadline_us: None,
        error: None,
        finished_us: Some(now_us),
    };
    settle(conn, (&job.job_id, job.attempts), &outcome).await
}

/// Up to `limit` jobs in a state after one of this id, by id: of one tenant, or of all.
pub async fn page(
    conn: &mut Conn,
    (tenant, state): (Option<&str>, &str),
    after: &str,
    limit: i64,
) -> QueryResult<Vec<JobRow>> {
    let all = jobs::table
        .filter(jobs::state.eq(state))
        .filter(jobs::job_id.gt(after))
        .order(jobs::job_id)
        .limit(limit)
        .select(JobRow::as_select());
    match tenant {
        Some(tenant) => all.filter(jobs::tenant.eq(tenant)).load(conn).await,
        None => all.load(conn).await,
    }
}

/// A job of one tenant, or of any.
pub async fn find(conn: &mut Conn, tenant: Option<&str>, job_id: &str) -> QueryResult<Option<JobRow>> {
    let found = lock!(jobs::table.find(job_id).select(JobRow::as_select())).first(conn).await.optional()?;
    Ok(found.filter(|row: &JobRow| tenant.is_none_or(|tenant| row.tenant == tenant)))
}

/// Gives a dead job, found in this transaction, all its attempts again, beside those that it had.
pub async fn revive(conn: &mut Conn, job_id: &str, own_now_us: i64) -> QueryResult<()> {
    let now_us = time::now_us(conn, own_now_us).await?;
    let outcome =
        JobOutcome { state: "pending", due_us: now_us, deadline_us: None, error: None, finished_us: None };
    let revived = (outcome, jobs::attempts_before.eq(jobs::attempts));
    diesel::update(jobs::table.find(job_id)).set(revived).execute(conn).await?;
    Ok(())
}

/// Removes dead jobs: one, or all, of one tenant, or of all; how many.
pub async fn purge(conn: &mut Conn, tenant: Option<&str>, job_id: Option<&str>) -> QueryResult<usize> {
    let mut dead = diesel::delete(jobs::table.filter(jobs::state.eq("dead"))).into_boxed();
    if let Some(tenant) = tenant {
        dead = dead.filter(jobs::tenant.eq(tenant.to_owned()));
    }
    if let Some(job_id) = job_id {
        dead = dead.filter(jobs::job_id.eq(job_id.to_owned()));
    }
    dead.execute(conn).await
}

/// Whether there are jobs that were done up to then.
pub async fn has_done(conn: &mut Conn, until_us: i64) -> QueryResult<bool> {
    let first = jobs::table.filter(done()).filter(jobs::finished_us.le(until_us)).select(jobs::job_id);
    Ok(first.first::<String>(conn).await.optional()?.is_some())
}

/// Forgets up to `limit` of them; how many.
pub async fn forget_done(conn: &mut Conn, until_us: i64, limit: i64) -> QueryResult<usize> {
    let old = jobs::table
        .filter(done())
        .filter(jobs::finished_us.le(until_us))
        .order(jobs::finished_us)
        .limit(limit)
        .select(jobs::job_id);
    let ids: Vec<String> = old.load(conn).await?;
    diesel::delete(jobs::table.filter(jobs::job_id.eq_any(ids))).execute(conn).await
}

/// How many jobs there are that are not done.
pub async fn figures(conn: &mut Conn) -> QueryResult<Vec<JobFigures>> {
    jobs::table
        .filter(open())
        .group_by((jobs::state, jobs::channel))
        .select((jobs::state, jobs::channel, count_star(), min(jobs::due_us)))
        .load(conn)
        .await
}
