use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::error::BridgeError;
use crate::clock::jittered;
use crate::domain::{Epoch, TenantId, Timestamp};
use crate::storage::Database;

/// How often, and for how long each time, sessions wait for the database before a run begins for them all the same.
const MEETINGS: usize = 4;
const WITHIN: Duration = Duration::from_millis(500);
/// How often a node says that the runs that it has are there.
const CONFIRMATION: Duration = Duration::from_secs(10);
/// Runs of a tenant that this node remembers to have left.
const LEFT: usize = 4;
/// The clocks of two servers differ by less than this.
const SKEW: Duration = Duration::from_secs(10);

/// A run of a tenant's log, by the clock of the server that keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub epoch: Epoch,
    /// The configuration of Redis that made that server the master: a greater one is later.
    pub config: u64,
    pub born: Timestamp,
    pub now: Timestamp,
}

/// Knows, by way of the database, which run of each log is the newest that any node has met.
///
/// Two masters may take appends at once for a while: one that was cut off, and its successor. A node writes down the run
/// that it meets before its sessions are told of it, and outbox rows are marked only as long as the run that took them is
/// the one written down. So whoever is told of a run reloads what was committed before, and everything committed later
/// is published in that run, or in a later one. (Where the database does not answer, sessions are told after a while all the
/// same.)
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

/// What the database is asked about a run, unless the node knows by itself.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Newest,
    /// With the one that this node has had until now, where it goes over from it.
    Asked(Option<Epoch>),
}

/// What a run has turned out to be.
#[derive(Debug, PartialEq, Eq)]
enum Learned {
    Newest,
    Older,
    /// It is none any more: this node has left it for a later one.
    Left,
    /// Another one was met meanwhile: which of them is later has to be asked again.
    Again,
}

impl Met {
    fn known(&self, epoch: Epoch) -> Known {
        if self.is_sure && self.newest == Some(epoch) {
            return Known::Newest;
        }
        let goes_over = self.older != Some(epoch) && !self.left.contains(&epoch);
        Known::Asked(self.newest.filter(|own| *own != epoch && goes_over))
    }

    /// What the database has said, when `before` was the newest here.
    fn learn(&mut self, epoch: Epoch, is_newest: bool, before: Option<Epoch>) -> Learned {
        if !is_newest {
            self.older = Some(epoch);
            return if self.left.contains(&epoch) { Learned::Left } else { Learned::Older };
        }
        if self.newest != before && self.newest != Some(epoch) {
            (self.older, self.is_sure) = (Some(epoch), false);
            return Learned::Again;
        }
        self.is_sure = true;
        self.left.retain(|own| *own != epoch);
        if let Some(former) = self.newest.replace(epoch).filter(|former| *former != epoch) {
            self.left.push_back(former);
            if self.left.len() > LEFT {
                self.left.pop_front();
            }
        }
        Learned::Newest
    }
}

impl Runs {
    pub fn new(database: Database) -> Self {
        Runs { database, met: Mutex::default() }
    }

    /// Writes a run down, unless a later one is known; whether it is the newest. One that this node has left for a later one
    /// is none any more.
    pub async fn meet(&self, tenant: &TenantId, run: Run) -> Result<bool, BridgeError> {
        loop {
            let (known, before, is_left) = {
                let met = self.met.lock().expect("no panic while held");
                met.get(tenant).map_or((Known::Asked(None), None, false), |own| {
                    (own.known(run.epoch), own.newest, own.left.contains(&run.epoch))
                })
            };
            let Known::Asked(former) = known else { return Ok(true) };
            let own = tenant.clone();
            let (epochs, since) = ((run.epoch, former), (run.config, run.born));
            let latest = run.now.plus(SKEW);
            let meet = move |db: Database| async move { db.meet_run(&own, epochs, since, latest).await };
            let is_newest = match timeout(WITHIN, self.database.run(meet)).await {
                Ok(Ok(is_newest)) => is_newest,
                _ if is_left => return Err(BridgeError::Superseded),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(BridgeError::Away("no answer of the database in time".into())),
            };
            let mut met = self.met.lock().expect("no panic while held");
            match met.entry(tenant.clone()).or_default().learn(run.epoch, is_newest, before) {
                Learned::Newest => return Ok(true),
                Learned::Older => return Ok(false),
                Learned::Left => return Err(BridgeError::Superseded),
                Learned::Again => {}
            }
        }
    }

    /// Says of the runs that this node has for the newest that they are there, for as long as this runs: one of which
    /// nobody has said so for a while gives way to any other.
    pub async fn confirm(self: Arc<Self>) {
        loop {
            sleep(jittered(CONFIRMATION, 0.2)).await;
            let runs: Vec<(TenantId, Epoch)> = {
                let met = self.met.lock().expect("no panic while held");
                let sure = met.iter().filter(|(_, own)| own.is_sure);
                sure.filter_map(|(tenant, own)| Some((tenant.clone(), own.newest?))).collect()
            };
            if runs.is_empty() {
                continue;
            }
            if let Err(error) = self.database.run(|db| async move { db.confirm_runs(&runs).await }).await {
                tracing::debug!(%error, "the runs of the logs could not be confirmed");
            }
        }
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
        // a leader that has the database all the while may publish to the former one until this is known
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
            met.learn(pair[0], true, met.newest);
            assert_eq!(met.known(pair[0]), Known::Newest);
            assert_eq!(met.known(pair[1]), Known::Asked(Some(pair[0])), "it goes over to another one");
            assert_eq!(met.learn(pair[1], true, Some(pair[0])), Learned::Newest);
            assert_eq!(met.known(pair[0]), Known::Asked(None), "it does not go back");
            assert_eq!(met.learn(pair[0], false, Some(pair[1])), Learned::Left);
        }
        assert_eq!(met.left, &runs[7 - LEFT..7], "the last few are remembered");
        // unless the database knows better
        assert_eq!(met.learn(runs[6], true, Some(runs[7])), Learned::Newest);
        assert_eq!((met.known(runs[6]), met.left.back()), (Known::Newest, Some(&runs[7])));
    }

    #[test]
    fn a_run_that_is_not_the_newest_is_never_what_one_goes_over_to() {
        let (mut met, [newest, older]) = (Met::default(), epochs());
        met.learn(newest, true, None);
        assert_eq!(met.learn(older, false, Some(newest)), Learned::Older);
        assert_eq!(met.known(newest), Known::Newest);
        assert_eq!(
            met.known(older),
            Known::Asked(None),
            "the database is told of no move from one to the other"
        );
        met.is_sure = false;
        assert_eq!(met.known(newest), Known::Asked(None));
    }

    #[test]
    fn of_two_runs_that_are_met_at_once_the_database_is_asked_again_which_is_later() {
        let (mut met, [first, second]) = (Met::default(), epochs());
        // the answers come the other way round
        assert_eq!(met.learn(second, true, None), Learned::Newest);
        assert_eq!(met.learn(first, true, None), Learned::Again);
        assert_eq!((met.known(first), met.known(second)), (Known::Asked(None), Known::Asked(None)));
        assert_eq!(met.learn(first, false, Some(second)), Learned::Older);
        assert_eq!(met.learn(second, true, Some(second)), Learned::Newest);
        assert_eq!((met.known(second), met.left.len()), (Known::Newest, 0));
    }
}
