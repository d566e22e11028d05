//! A database that has lost commits under a running node: every log starts afresh, in place.

use std::sync::Arc;

use super::appender::Appender;
use super::batch::new_tenant;
use super::head_file::Head;
use crate::clock::random_u64;
use crate::domain::{Epoch, TenantId};
use crate::storage::{StoreError, TenantRow};

impl Appender {
    /// Begins a new epoch of every tenant's log; their sessions are told. Numbers that the database does not
    /// know any more would otherwise be given to new events, or be missed without a word.
    pub(super) async fn renew(&mut self) -> Result<(), StoreError> {
        tracing::warn!("the database has lost commits that were seen; every log starts a new epoch");
        let instance = format!("{:016x}", random_u64());
        let tenants: Vec<(TenantId, TenantRow)> =
            self.logs.all().iter().map(|log| (log.tenant().clone(), new_tenant(log.tenant()))).collect();
        let stored: Vec<TenantRow> = tenants.iter().map(|(_, row)| row.clone()).collect();
        self.writer
            .start_afresh(instance.clone(), move |tx| stored.iter().try_for_each(|row| tx.save_tenant(row)))
            .await?;
        self.enter(Head { instance, number: 0 });
        self.oldest_at.clear();
        self.trimming.clear();
        self.in_doubt = false;
        for (tenant, row) in &tenants {
            self.logs.begin(tenant, row.epoch.parse().unwrap_or(Epoch::new(0)), 0);
        }
        self.tenants = Arc::new(tenants.into_iter().collect());
        Ok(())
    }
}
