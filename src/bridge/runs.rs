use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::timeout;

use super::error::BridgeError;
use crate::domain::{Epoch, TenantId, Timestamp};
use crate::storage::Database;

/// How long sessions wait for the database before a run begins for them all the same.
const WITHIN: Duration = Duration::from_millis(500);
/// Runs of a tenant that this node remembers to have left.
const LEFT: usize = 4;
/// The clocks of two servers differ by less than this.
const SKEW: Duration = Duration::from_secs(10);

/// A run of a tenant's log, by the clock of the server that keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub epoch: Epoch,
    pub born: Timestamp,
    pub now: Timestamp,
}

/// Knows, by way of the database, which run of each log is the newest that any node has met.
///
/// Two masters may take appends at once for a while: one that was cut off, and its successor. A node writes down the run
/// that it meets before its sessions are told of it, and outbox rows are marked only as long as the run that took them is
/// the one written down. So whoever is told of a run reloads what was committed before, and everything committed later
/// is published in that run, or in a later one.
pub(super) struct Runs {
    database: Database,
    met: Mutex<HashMap<TenantId, Met>>,
}

/// Of a tenant.
#[derive(Default)]
struct Met {
    /// The run that was the newest when this node met it, and whether nothing has spoken against that since.
    newest: Option<Epoch>,
    is_sure: bool,
    /// The last one that was not the newest: going over to it says nothing of which is later.
    older: Option<Epoch>,
    /// Those before it, of which nothing is to be had any more; the last few.
    left: VecDeque<Epoch>,
}

impl Runs {
    pub fn new(database: Database) -> Self {
        Runs { database, met: Mutex::default() }
    }

    /// Writes a run down, unless a later one is known; whether it is the newest. One that this node has left for a later one
    /// is none any more.
    pub async fn meet(&self, tenant: &TenantId, run: Run) -> Result<bool, BridgeError> {
        let former = {
            let met = self.met.lock().expect("no panic while held");
            match met.get(tenant) {
                Some(own) if own.left.contains(&run.epoch) => return Err(BridgeError::Superseded),
                Some(own) if own.is_sure && own.newest == Some(run.epoch) => return Ok(true),
                Some(own) if own.older != Some(run.epoch) => own.newest.filter(|own| *own != run.epoch),
                _ => None,
            }
        };
        let own = tenant.clone();
        let (epochs, span) = ((run.epoch, former), (run.born, run.now.plus(SKEW)));
        let meet = move |db: Database| async move { db.meet_run(&own, epochs, span).await };
        let late = |_| BridgeError::Away("no answer of the database in time".into());
        let is_newest = timeout(WITHIN, self.database.run(meet)).await.map_err(late)??;
        let mut met = self.met.lock().expect("no panic while held");
        let own = met.entry(tenant.clone()).or_default();
        if !is_newest {
            own.older = Some(run.epoch);
            return Ok(false);
        }
        own.is_sure = true;
        if let Some(former) = own.newest.replace(run.epoch).filter(|former| *former != run.epoch) {
            own.left.push_back(former);
            if own.left.len() > LEFT {
                own.left.pop_front();
            }
        }
        Ok(true)
    }

    /// Marks outbox rows that a run has taken; fails where a later run is known.
    pub async fn mark(&self, tenant: &TenantId, run: Run, ids: Vec<i64>) -> Result<(), BridgeError> {
        let is_newest = self.meet(tenant, run).await?;
        let own = tenant.clone();
        let mark = move |db: Database| async move { db.mark_published(&own, run.epoch, &ids).await };
        if is_newest && self.database.run(mark).await? {
            return Ok(());
        }
        // the database is asked anew which one is
        if let Some(own) = self.met.lock().expect("no panic while held").get_mut(tenant) {
            own.is_sure = false;
        }
        Err(BridgeError::Superseded)
    }

    /// Nobody here needs the log any more.
    pub fn forget(&self, tenant: &TenantId) {
        self.met.lock().expect("no panic while held").remove(tenant);
    }
}
