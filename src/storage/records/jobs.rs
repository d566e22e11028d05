use diesel::prelude::*;

use crate::storage::schema;

/// Work that is to be done, is being done, or was.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::jobs)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct JobRow {
    pub job_id: String,
    pub tenant: String,
    pub kind: String,
    pub channel: String,
    pub priority: i64,
    pub payload: String,
    pub state: String,
    pub attempts: i64,
    pub max_attempts: i64,
    pub due_us: i64,
    pub deadline_us: Option<i64>,
    pub error: Option<String>,
    pub server_id: String,
    pub created_us: i64,
    pub finished_us: Option<i64>,
    pub attempts_before: i64,
}

impl JobRow {
    /// The number of its last attempt, as far as it is decided.
    pub fn last_attempt(&self) -> i64 {
        self.attempts_before.saturating_add(self.max_attempts)
    }
}

/// How many jobs are in one state, and when the first of them was due.
#[derive(Clone, Debug, PartialEq, Eq, Queryable)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct JobFigures {
    pub state: String,
    pub channel: String,
    pub count: i64,
    pub due_us: Option<i64>,
}

/// What becomes of a job that was being worked on.
#[derive(Clone, Debug, PartialEq, Eq, AsChangeset)]
#[diesel(table_name = schema::jobs, treat_none_as_null = true)]
#[expect(missing_docs, reason = "the migrations describe the columns")]
pub struct JobOutcome {
    pub state: &'static str,
    pub due_us: i64,
    pub deadline_us: Option<i64>,
    pub error: Option<String>,
    pub finished_us: Option<i64>,
}
