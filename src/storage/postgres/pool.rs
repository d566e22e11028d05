use std::ops::{Deref, DerefMut};
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, Object, RecycleError, RecycleResult};
use diesel_async::{AnsiTransactionManager, TransactionManager};

use super::conn::Conn;
use super::connector::{ConnectError, Connector, PostgresOptions};
use crate::storage::StoreError;
use crate::storage::connections::Connections;
use crate::telemetry::PoolMetrics;

/// A connection that was silent for this long is asked whether it lives before it is used.
const SILENCE: Duration = Duration::from_secs(1);

/// Makes a pool's connections, and says which of them may be used again.
pub(in crate::storage) struct Pooled {
    connector: Connector,
    wait: Duration,
}

impl Manager for Pooled {
    type Type = Conn;
    type Error = ConnectError;

    async fn create(&self) -> Result<Conn, ConnectError> {
        self.connector.connect().await
    }

    async fn recycle(&self, conn: &mut Conn, _: &Metrics) -> RecycleResult<ConnectError> {
        match conn.is_usable(SILENCE, self.wait).await {
            true => Ok(()),
            false => Err(RecycleError::message("the connection is of no use any more")),
        }
    }
}

/// PostgreSQL.
pub struct Postgres {
    pool: Connections<Pooled>,
}

/// A connection taken from the pool, and given back when dropped.
pub struct Taken(Object<Pooled>);

impl Deref for Taken {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.0
    }
}

impl DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.0
    }
}

impl Taken {
    /// Takes it out of the pool for good.
    pub(in crate::storage) fn keep(self) -> Conn {
        Object::take(self.0)
    }
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Postgres")
    }
}

impl Postgres {
    pub(in crate::storage) fn open(
        url: &str,
        options: &PostgresOptions,
        (size, wait): (usize, Duration),
        metrics: PoolMetrics,
    ) -> Result<Self, StoreError> {
        let connector = Connector::new(url, options, wait)?;
        let pool = Connections::pool(Pooled { connector, wait }, size, wait, metrics)?;
        Ok(Postgres { pool })
    }

    /// Any connection.
    pub async fn connection(&self) -> Result<Taken, StoreError> {
        self.pool.get().await.map(Taken)
    }

    /// A connection in a new transaction; where one turns out to be closed, another one is taken.
    pub async fn begin(&self) -> Result<Taken, StoreError> {
        let mut conn = self.connection().await?;
        match AnsiTransactionManager::begin_transaction(&mut *conn).await {
            Err(_) if conn.is_over() => {
                // nothing was asked of it yet
                drop(conn);
                let mut conn = self.connection().await?;
                AnsiTransactionManager::begin_transaction(&mut *conn).await?;
                Ok(conn)
            }
            begun => begun.map(|()| conn).map_err(StoreError::from),
        }
    }

    /// Commits what came out well, and rolls back what did not.
    pub async fn end<T>(&self, mut conn: Taken, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        match outcome {
            Ok(value) => {
                AnsiTransactionManager::commit_transaction(&mut *conn).await?;
                Ok(value)
            }
            Err(error) => {
                // a connection that cannot roll back is not used again, and its end is a rollback, too
                let _ = AnsiTransactionManager::rollback_transaction(&mut *conn).await;
                Err(error)
            }
        }
    }

    /// A connection beside the pool, for what takes as long as it takes.
    pub(in crate::storage) async fn patient(&self) -> Result<Conn, StoreError> {
        let made = self.pool.manager().connector.connect_patiently().await;
        made.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    pub(in crate::storage) fn report(&self) {
        self.pool.report();
    }
}
