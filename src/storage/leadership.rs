//! The lease of the node that publishes the outbox of a cluster, and what wakes that node.

use diesel_async::SimpleAsyncConnection;

use super::StoreError;
use super::database::{Backend, Database, unavailable};
use super::postgres::{self, Postgres};
use crate::domain::{Epoch, TenantId, Timestamp};

/// A connection that hears of outbox rows that other nodes have committed.
pub struct OutboxWakes(postgres::Conn);

/// A connection for the lease alone: requests that hold all others do not cost a leader its lease.
pub struct LeaseLink(postgres::Conn);

impl LeaseLink {
    /// Takes or renews the lease for `seconds` on the database's clock: its fence, or None while another node
    /// holds it. After an error the link is of no more use.
    pub async fn take(&mut self, holder: &str, seconds: f64) -> Result<Option<u64>, StoreError> {
        let fence = postgres::lease::take(&mut self.0, holder, seconds).await?;
        Ok(fence.map(|fence| fence as u64))
    }
}

impl Database {
    /// Opens a link for the lease.
    pub async fn lease_link(&self) -> Result<LeaseLink, StoreError> {
        Ok(LeaseLink(self.shared()?.connection().await?.keep()))
    }

    /// Raises the fence of whoever holds the lease above `fence`; does nothing for others.
    pub async fn raise_fence(&self, holder: &str, fence: u64) -> Result<(), StoreError> {
        let mut conn = self.shared()?.connection().await?;
        Ok(postgres::lease::raise(&mut conn, holder, fence as i64).await?)
    }

    /// Gives the lease back, so that another node need not wait for its end.
    pub async fn give_lease_back(&self, holder: &str) -> Result<(), StoreError> {
        let mut conn = self.shared()?.connection().await?;
        Ok(postgres::lease::give_back(&mut conn, holder).await?)
    }

    /// Notes a run of a tenant's log that began at `born` under a configuration of Redis, unless a later one is known: whether
    /// it is the newest. It is later than `former`; one from after `latest`, a time to come, is none, nor is one that nobody
    /// has confirmed for a minute.
    pub async fn meet_run(
        &self,
        tenant: &TenantId,
        (epoch, former): (Epoch, Option<Epoch>),
        (config, born): (u64, Timestamp),
        latest: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut conn = self.shared()?.connection().await?;
        let (epoch, former) = (epoch.to_string(), former.map(|own| own.to_string()));
        let (epochs, since) = ((&*epoch, former.as_deref()), (config as i64, born.micros()));
        Ok(postgres::log_runs::meet(&mut conn, tenant.as_str(), epochs, since, latest.micros()).await?
            == epoch)
    }

    /// Notes that these runs of logs are there, as far as they are the newest.
    pub async fn confirm_runs(&self, runs: &[(TenantId, Epoch)]) -> Result<(), StoreError> {
        let mut conn = self.shared()?.connection().await?;
        let tenants: Vec<&str> = runs.iter().map(|(tenant, _)| tenant.as_str()).collect();
        let epochs: Vec<String> = runs.iter().map(|(_, epoch)| epoch.to_string()).collect();
        postgres::log_runs::confirm(&mut conn, &tenants, &epochs).await?;
        Ok(())
    }

    /// Marks a tenant's outbox rows, which a run of its log has taken, as published; false when another run is known.
    pub async fn mark_published(
        &self,
        tenant: &TenantId,
        epoch: Epoch,
        ids: &[i64],
    ) -> Result<bool, StoreError> {
        let (mut conn, epoch) = (self.shared()?.connection().await?, epoch.to_string());
        let marked = postgres::log_runs::mark_published(&mut conn, tenant.as_str(), &epoch, ids).await?;
        Ok(marked == ids.len()
            || !postgres::log_runs::is_superseded(&mut conn, tenant.as_str(), &epoch).await?)
    }

    /// Tells the leader that outbox rows were committed.
    pub async fn wake_leader(&self) -> Result<(), StoreError> {
        let mut conn = self.shared()?.connection().await?;
        Ok(postgres::lease::notify(&mut conn).await?)
    }

    /// Begins to hear of outbox rows.
    pub async fn outbox_wakes(&self) -> Result<OutboxWakes, StoreError> {
        let mut conn = self.shared()?.connection().await?.keep();
        conn.batch_execute("LISTEN bongsu_outbox").await?;
        Ok(OutboxWakes(conn))
    }

    pub(super) fn shared(&self) -> Result<&Postgres, StoreError> {
        match self.backend() {
            Backend::Postgres(own) => Ok(own),
            Backend::Sqlite(_) => Err(StoreError::Unexpected("an embedded database has no leader".into())),
        }
    }
}

impl OutboxWakes {
    /// Waits for the next wake-up, one for all that have come since; fails when the connection has gone.
    pub async fn next(&mut self) -> Result<(), StoreError> {
        self.0.notified().await.ok_or_else(|| unavailable("the connection was closed"))
    }
}
