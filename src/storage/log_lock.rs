//! Who keeps the log of a PostgreSQL database: one node without Redis, or Redis for the nodes of a cluster.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::StoreError;
use super::database::{Backend, Database, unavailable};
use super::postgres::{Conn, Postgres, lease, locks};

/// The node that serves a database without Redis holds a lock of this number.
const ALONE: i64 = 7_163_509;
/// How long to wait before the lock is asked for again.
const ATTEMPT: Duration = Duration::from_millis(200);

const SERVED_ALONE: &str = "another node serves this database without Redis, which one node alone may: stop it, or set \
                            redis.url on both";

/// Held by the one node that serves a database without Redis, as long as it does. A lost connection loses it;
/// it is then taken again, and who may write meanwhile is what [`LogWriter`](super::LogWriter) decides.
#[derive(Debug)]
pub struct LogLock(JoinHandle<()>);

impl Drop for LogLock {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Database {
    /// Makes sure that no other node serves this database, waiting up to `patience` for one that has just
    /// ended; None where the data directory's own lock does so.
    pub async fn lock_log(&self, patience: Duration) -> Result<Option<LogLock>, StoreError> {
        let Backend::Postgres(own) = self.backend() else { return Ok(None) };
        let deadline = Instant::now() + patience;
        let mut conn = own.patient().await?;
        while !locks::try_lock(&mut conn, ALONE).await? {
            if Instant::now() >= deadline {
                return Err(StoreError::Misconfigured(SERVED_ALONE.to_owned()));
            }
            sleep(ATTEMPT).await;
        }
        if lease::is_held(&mut conn).await? {
            return Err(StoreError::Misconfigured(
                "the nodes of a cluster serve this database: set redis.url as theirs, or stop them all"
                    .to_owned(),
            ));
        }
        Ok(Some(LogLock(tokio::spawn(keep(self.clone(), conn)))))
    }

    /// Leaves the log that this database may keep, as Redis keeps it from now on; refused while a node serves
    /// it alone.
    pub async fn leave_log(&self) -> Result<(), StoreError> {
        let Backend::Postgres(own) = self.backend() else { return Ok(()) };
        let mut conn = own.connection().await?;
        if !locks::try_share(&mut conn, ALONE).await? {
            return Err(StoreError::Misconfigured(SERVED_ALONE.to_owned()));
        }
        let left = self.log_transaction(|tx| tx.abandon()).await;
        let unlocked = locks::unlock_shared(&mut conn, ALONE).await;
        left.and_then(|()| unlocked.map_err(StoreError::from))
    }
}

/// Takes the lock again whenever the connection that holds it has gone.
async fn keep(database: Database, mut conn: Conn) {
    loop {
        while conn.notified().await.is_some() {}
        tracing::warn!("the connection that holds the lock of this database's log was lost");
        conn = loop {
            match database.relock().await {
                Ok(taken) => break taken,
                Err(error) => tracing::debug!(%error, "the lock of the log could not be taken again"),
            }
            sleep(ATTEMPT).await;
        };
    }
}

impl Database {
    async fn relock(&self) -> Result<Conn, StoreError> {
        let own: &Postgres = self.shared()?;
        let mut conn = own.patient().await?;
        match locks::try_lock(&mut conn, ALONE).await? {
            true => Ok(conn),
            false => Err(unavailable("another node holds it")),
        }
    }
}
