use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::timeout;

use super::error::BridgeError;
use crate::domain::{Epoch, TenantId, Timestamp};
use crate::storage::Database;

/// How often, and for how long each time, sessions wait for the database before a run begins for them all the same.
const MEETINGS: usize = 4;
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

/// What a node knows of a run by itself.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    /// It is none any more.
    Left,
    Newest,
    /// The database knows; with the one that this node has had until now, where it goes over from it.
    Asked(Option<Epoch>),
}

impl Met {
    fn known(&self, epoch: Epoch) -> Known {
        if self.left.contains(&epoch) {
            Known::Left
        } else if self.is_sure && self.newest == Some(epoch) {
            Known::Newest
        } else {
            Known::Asked(self.newest.filter(|own| *own != epoch && self.older != Some(epoch)))
        }
    }

    fn learn(&mut self, epoch: Epoch, is_newest: bool) {
        if !is_newest {
            self.older = Some(epoch);
            return;
        }
        self.is_sure = true;
        if let Some(former) = self.newest.replace(epoch).filter(|former| *former != epoch) {
            self.left.push_back(former);
            if self.left.len() > LEFT {
                self.left.pop_front();
            }
        }
    }
}

impl Runs {
    pub fn new(database: Database) -> Self {
        Runs { database, met: Mutex::default() }
    }

    /// Writes a run down, unless a later one is known; whether it is the newest. One that this node has left for a later one
    /// is none any more.
    pub async fn meet(&self, tenant: &TenantId, run: Run) -> Result<bool, BridgeError> {
        let known = {
            let met = self.met.lock().expect("no panic while held");
            met.get(tenant).map_or(Known::Asked(None), |own| own.known(run.epoch))
        };
        let former = match known {
            Known::Left => return Err(BridgeError::Superseded),
            Known::Newest => return Ok(true),
            Known::Asked(former) => former,
        };
        let own = tenant.clone();
        let (epochs, span) = ((run.epoch, former), (run.born, run.now.plus(SKEW)));
        let meet = move |db: Database| async move { db.meet_run(&own, epochs, span).await };
        let late = |_| BridgeError::Away("no answer of the database in time".into());
        let is_newest = timeout(WITHIN, self.database.run(meet)).await.map_err(late)??;
        let mut met = self.met.lock().expect("no panic while held");
        met.entry(tenant.clone()).or_default().learn(run.epoch, is_newest);
        Ok(is_newest)
    }

    /// Meets a run for sessions that wait to be told of it; fails for one that is none any more.
    pub async fn meet_in_time(&self, tenant: &TenantId, run: Run) -> Result<(), BridgeError> {
        for _ in 0..MEETINGS {
            match self.meet(tenant, run).await {
                Ok(_) => return Ok(()),
                Err(error @ BridgeError::Superseded) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, %tenant, "the run of the log could not be written down")
                }
            }
        }
        // without the database nobody marks anything, either
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs<const N: usize>() -> [Epoch; N] {
        std::array::from_fn(|n| Epoch::new(n as u64))
    }

    #[test]
    fn a_run_that_was_left_is_not_gone_back_to() {
        let (mut met, runs) = (Met::default(), epochs::<8>());
        for pair in runs.windows(2) {
            met.learn(pair[0], true);
            assert_eq!(met.known(pair[0]), Known::Newest);
            assert_eq!(met.known(pair[1]), Known::Asked(Some(pair[0])), "it goes over to another one");
            met.learn(pair[1], true);
            assert_eq!(met.known(pair[0]), Known::Left);
        }
        let left = runs.iter().filter(|own| met.known(**own) == Known::Left).count();
        assert_eq!((left, met.left.len()), (LEFT, LEFT), "the last few are remembered");
    }

    #[test]
    fn a_run_that_is_not_the_newest_is_never_what_one_goes_over_to() {
        let (mut met, [newest, older]) = (Met::default(), epochs());
        met.learn(newest, true);
        met.learn(older, false);
        assert_eq!(met.known(newest), Known::Newest);
        assert_eq!(
            met.known(older),
            Known::Asked(None),
            "the database is told of no move from one to the other"
        );
        met.is_sure = false;
        assert_eq!(met.known(newest), Known::Asked(None));
    }
}
