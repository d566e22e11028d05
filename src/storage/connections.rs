use std::fmt::Display;
use std::time::{Duration, Instant};

use deadpool::managed::{Manager, Object, Pool, PoolError};

use super::StoreError;
use super::database::unavailable;
use crate::telemetry::PoolMetrics;

/// A pool's connections; every wait for one is bounded and measured.
pub(super) struct Connections<M: Manager> {
    pool: Pool<M>,
    metrics: PoolMetrics,
}

impl<M: Manager> Connections<M>
where
    M::Error: Display,
{
    /// At most `size` of them, each waited for, and made, within `wait`.
    pub fn pool(manager: M, size: usize, wait: Duration, metrics: PoolMetrics) -> Result<Self, StoreError> {
        let pool = Pool::builder(manager)
            .max_size(size)
            .wait_timeout(Some(wait))
            // a little more, so that a connection that takes too long can say what it waited for
            .create_timeout(Some(wait + Duration::from_millis(100)))
            .recycle_timeout(None)
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(unavailable)?;
        Ok(Connections { pool, metrics })
    }

    /// One of them, given back when it is dropped.
    pub async fn get(&self) -> Result<Object<M>, StoreError> {
        let started = Instant::now();
        let got = self.pool.get().await;
        self.metrics.waited(started.elapsed());
        if let Err(PoolError::Timeout(_)) = &got {
            self.metrics.timed_out();
        }
        got.map_err(|error| match error {
            PoolError::Backend(error) => unavailable(error),
            error => unavailable(error),
        })
    }

    /// What makes them.
    pub fn manager(&self) -> &M {
        self.pool.manager()
    }

    /// Tells the metrics how the pool stands.
    pub fn report(&self) {
        let status = self.pool.status();
        let in_use = status.size.saturating_sub(status.available);
        self.metrics.stands(status.max_size, in_use, status.waiting);
    }
}
