use serde::Serialize;
use serde_json::value::RawValue;

use super::{JobRow, JobWake, State};
use crate::clock::Clock;
use crate::domain::{TenantId, Timestamp};
use crate::storage::{Database, StoreError};

/// Where jobs are looked after: by administrators of a tenant, or from the command line.
#[derive(Clone)]
pub struct JobDesk {
    database: Database,
    clock: Clock,
    wake: JobWake,
}

/// A job as whoever looks after it sees it.
#[derive(Serialize, utoipa::ToSchema)]
pub struct JobView {
    /// Its id.
    id: String,
    /// The tenant it is of.
    tenant: String,
    /// What sort of work.
    kind: String,
    /// What it counts against.
    channel: String,
    /// 1, the most urgent, to 4.
    priority: i64,
    /// `pending`, `sending`, `done`, `retry` or `dead`.
    state: String,
    /// How often it was tried, before it was dead as well.
    attempts: i64,
    /// How often it is tried at most.
    max_attempts: i64,
    /// Why the last attempt came to nothing.
    error: Option<String>,
    /// What it is about.
    #[schema(value_type = Object)]
    payload: Option<Box<RawValue>>,
    /// The node that accepted what it comes from.
    server_id: String,
    /// When it was made.
    #[schema(value_type = String)]
    created_at: Timestamp,
    /// When it is, or was, due.
    #[schema(value_type = String)]
    due_at: Timestamp,
    /// When it was done or given up.
    #[schema(value_type = Option<String>)]
    finished_at: Option<Timestamp>,
}

impl From<JobRow> for JobView {
    fn from(row: JobRow) -> Self {
        let max_attempts = row.last_attempt();
        JobView {
            id: row.job_id,
            tenant: row.tenant,
            kind: row.kind,
            channel: row.channel,
            priority: row.priority,
            state: row.state,
            attempts: row.attempts,
            max_attempts,
            error: row.error,
            payload: RawValue::from_string(row.payload).ok(),
            server_id: row.server_id,
            created_at: Timestamp::from_micros(row.created_us),
            due_at: Timestamp::from_micros(row.due_us),
            finished_at: row.finished_us.map(Timestamp::from_micros),
        }
    }
}

/// What became of the wish to have a job done again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revived {
    /// It is due.
    Due,
    /// It is in this state: only dead jobs are.
    NotDead(String),
    /// There is none.
    Unknown,
}

impl JobDesk {
    /// `clock`: that of the log, used where the database has none; `wake`: of the runner of this process.
    pub fn new(database: Database, clock: Clock, wake: JobWake) -> Self {
        JobDesk { database, clock, wake }
    }

    /// Up to `limit` jobs in a state after one of this id, by id, of one tenant or of all.
    pub async fn page(
        &self,
        tenant: Option<&TenantId>,
        state: State,
        after: &str,
        limit: usize,
    ) -> Result<Vec<JobRow>, StoreError> {
        let (tenant, after) = (tenant.map(ToString::to_string), after.to_owned());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.database
            .run(move |db| async move {
                let wanted = (tenant.as_deref(), state.as_str());
                crate::read!(db, |conn, q| Ok(q::jobs::page(conn, wanted, &after, limit).await?))
            })
            .await
    }

    /// Has a dead job done again, with all its attempts; it may be of one tenant, or of any. Its attempts go on
    /// counting: whoever is still at one of its former life finds that it is not the present one.
    pub async fn revive(&self, tenant: Option<&TenantId>, job_id: &str) -> Result<Revived, StoreError> {
        let (tenant, job_id) = (tenant.map(ToString::to_string), job_id.to_owned());
        let now_us = self.clock.steady().micros();
        let revived = self
            .database
            .run(move |db| async move {
                crate::write_tx!(db, |conn, q| {
                    match q::jobs::find(conn, tenant.as_deref(), &job_id).await? {
                        None => Ok(Revived::Unknown),
                        Some(job) if job.state != State::Dead.as_str() => Ok(Revived::NotDead(job.state)),
                        Some(_) => {
                            q::jobs::revive(conn, &job_id, now_us).await?;
                            Ok(Revived::Due)
                        }
                    }
                })
            })
            .await?;
        self.wake.wake();
        Ok(revived)
    }

    /// Removes dead jobs: one, or all, of one tenant or of all; how many.
    pub async fn purge(&self, tenant: Option<&TenantId>, job_id: Option<&str>) -> Result<usize, StoreError> {
        let (tenant, job_id) = (tenant.map(ToString::to_string), job_id.map(str::to_owned));
        self.database
            .run(move |db| async move {
                crate::write_tx!(db, |conn, q| {
                    Ok(q::jobs::purge(conn, tenant.as_deref(), job_id.as_deref()).await?)
                })
            })
            .await
    }
}
