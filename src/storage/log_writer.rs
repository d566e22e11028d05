use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::database::Database;
use super::{LogTx, StoreError};

/// The right to write the log that a database keeps. It is lost once and for all when another process has
/// taken it: every transaction looks, under a lock, so that no two processes ever number the same log. The
/// same look finds a database that has lost commits, as by a failover to a replica that was behind.
#[derive(Clone, Debug)]
pub struct LogWriter {
    database: Database,
    standing: Arc<Standing>,
}

#[derive(Debug)]
struct Standing {
    holder: String,
    /// The newest commit that anybody has seen.
    seen: AtomicI64,
    is_lost: AtomicBool,
    has_gone_back: AtomicBool,
}

impl Standing {
    /// Fails unless the right is still there; the number of the newest commit.
    fn check(&self, tx: &mut LogTx<'_>) -> Result<i64, StoreError> {
        match tx.holder()? {
            Some((Some(holder), number)) if holder == self.holder => Ok(number),
            _ => {
                self.is_lost.store(true, Ordering::Relaxed);
                Err(StoreError::TakenOver)
            }
        }
    }
}

impl LogWriter {
    /// The right of `holder`, which it has taken by [`LogTx::take_over`] or [`LogTx::create_commit`].
    pub fn new(database: Database, holder: &str) -> Self {
        let (is_lost, has_gone_back) = Default::default();
        let standing =
            Standing { holder: holder.to_owned(), seen: AtomicI64::new(0), is_lost, has_gone_back };
        LogWriter { database, standing: Arc::new(standing) }
    }

    /// Runs `work` as one transaction, unless the right is lost or the database has lost commits.
    pub async fn transaction<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut LogTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let standing = self.standing.clone();
        let guarded = move |tx: &mut LogTx<'_>| {
            if standing.check(tx)? < standing.seen.load(Ordering::Relaxed) {
                standing.has_gone_back.store(true, Ordering::Relaxed);
                return Err(StoreError::GoneBack);
            }
            work(tx)
        };
        self.database.log_transaction(guarded).await
    }

    /// Forgets the whole log and names a new instance of it, which `work` begins, unless the right is lost.
    pub async fn start_afresh<W>(&self, instance: String, work: W) -> Result<(), StoreError>
    where
        W: FnOnce(&mut LogTx<'_>) -> Result<(), StoreError> + Send + 'static,
    {
        let standing = self.standing.clone();
        let guarded = move |tx: &mut LogTx<'_>| {
            standing.check(tx)?;
            tx.forget_everything()?;
            tx.create_commit(&instance, &standing.holder)?;
            work(tx)
        };
        self.database.patient_log_transaction(guarded).await?;
        self.standing.seen.store(0, Ordering::Relaxed);
        self.standing.has_gone_back.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whose right it is.
    pub fn holder(&self) -> &str {
        &self.standing.holder
    }

    /// Somebody may have seen this commit.
    pub fn saw(&self, number: i64) {
        self.standing.seen.fetch_max(number, Ordering::Relaxed);
    }

    /// Whether another process has taken it.
    pub fn is_lost(&self) -> bool {
        self.standing.is_lost.load(Ordering::Relaxed)
    }

    /// Whether the database no longer has commits that were seen.
    pub fn has_gone_back(&self) -> bool {
        self.standing.has_gone_back.load(Ordering::Relaxed)
    }
}
