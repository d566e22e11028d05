//! What the servers of a test stand on.

use std::future::Future;

/// A set of servers beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// SQLite, one process.
    Embedded,
    /// PostgreSQL, one node.
    Postgres,
    /// PostgreSQL and Redis, several nodes.
    Cluster,
}

tokio::task_local! {
    static OF_THIS_TEST: Backend;
}

impl Backend {
    /// What a test runs on that says nothing of it: `BONGSU_TEST_BACKEND` (`embedded`, `postgres`, `cluster`),
    /// else embedded.
    pub fn of_this_test() -> Self {
        OF_THIS_TEST.try_with(|own| *own).unwrap_or_else(|_| {
            match std::env::var("BONGSU_TEST_BACKEND").as_deref() {
                Ok("cluster") => Backend::Cluster,
                Ok("postgres") => Backend::Postgres,
                _ => Backend::Embedded,
            }
        })
    }

    /// Runs a scenario whose servers stand on this.
    pub async fn run(self, scenario: impl Future<Output = ()>) {
        OF_THIS_TEST.scope(self, scenario).await;
    }
}
