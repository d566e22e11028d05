//! One turn of a ranking: everything that waits, in one transaction.

use std::sync::{Arc, Mutex};

use super::plan::{Accepted, Ask, Plan, Speaks};
use super::writes::plan_writes;
use super::{BidRanking, RankingOptions};
use crate::bids::{Bid, no_such_bid};
use crate::clock::Clock;
use crate::domain::{Refusal, TenantId, Timestamp};
use crate::log::EventLog;
use crate::storage::{Attempt, Database, ProposalRow, StoreError};
use crate::telemetry::{Metrics, crash_point};

/// A bid of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BidKey {
    /// The tenant.
    pub tenant: TenantId,
    /// The bid's id.
    pub bid_id: Arc<str>,
}

/// A change of a proposal, as somebody asks for it.
#[derive(Clone, Debug)]
pub struct Change {
    /// What is asked.
    pub ask: Ask,
    /// For whom the asker may speak.
    pub speaks: Speaks,
    /// How it is recognised when it is repeated.
    pub attempt: Attempt,
    /// The request behind it.
    pub origin: Option<String>,
}

/// What became of a change.
pub type Outcome = Result<Result<Accepted, Refusal>, StoreError>;

/// What turns are carried out with.
#[derive(Clone)]
pub(super) struct Means {
    pub database: Database,
    pub log: EventLog,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub options: RankingOptions,
}

/// A bid's ranking as this process last knew it; None: not loaded.
pub(super) type Held = Arc<Mutex<Option<BidRanking>>>;

impl Means {
    /// Brings the ranking up to what is stored; the bid, if there is one.
    pub async fn refresh(&self, key: &BidKey, held: &Held) -> Result<Option<Bid>, StoreError> {
        let (key, held) = (key.clone(), held.clone());
        let db = &self.database;
        crate::read!(db, |conn, q| {
            let (tenant, bid_id) = (key.tenant.as_str(), &*key.bid_id);
            // the bid first: what is committed in between is seen with the proposals, and again the next time
            let Some(row) = q::bids::find(conn, tenant, bid_id).await? else { return Ok(None) };
            let bid = Bid::read(row)?;
            let known = known(&held, bid.ranking_version);
            if known != Some(bid.ranking_version) {
                let take = |rows| catch_up(&held, &bid, rows);
                q::bids::proposals_since(conn, (tenant, bid_id), known.unwrap_or(0), take).await?;
            }
            Ok(Some(bid))
        })
    }

    /// Carries changes out, in order and in one transaction; one that the database refuses does not take the others
    /// with it.
    pub async fn carry_out(&self, key: &BidKey, held: &Held, changes: Vec<Change>) -> Vec<Outcome> {
        // not under the lock of the bid's row: a large bid takes a while
        if held.lock().expect("no panic while held").is_none()
            && let Err(error) = self.refresh(key, held).await
        {
            return changes.iter().map(|_| Err(again(&error))).collect();
        }
        let mut outcomes = Vec::with_capacity(changes.len());
        let mut parts = vec![changes];
        while let Some(mut part) = parts.pop() {
            let started = std::time::Instant::now();
            let outcome = self.transaction(key, held, part.clone()).await;
            self.metrics.ranking().took(part.len(), started.elapsed());
            self.log.wake_relay();
            match outcome {
                Ok(answers) => outcomes.extend(answers.into_iter().map(Ok)),
                Err(StoreError::Exists | StoreError::Unexpected(_)) if part.len() > 1 => {
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
                Err(error) => outcomes.extend(part.iter().map(|_| Err(again(&error)))),
            }
        }
        outcomes
    }

    async fn transaction(
        &self,
        key: &BidKey,
        held: &Held,
        changes: Vec<Change>,
    ) -> Result<Vec<Result<Accepted, Refusal>>, StoreError> {
        let plan: Arc<Mutex<Option<Plan>>> = Arc::default();
        let outcome = self.commit(key, held, changes, plan.clone()).await;
        if outcome.is_err()
            && let Some(mut plan) = plan.lock().expect("no panic while held").take()
            && let Some(own) = held.lock().expect("no panic while held").as_mut()
        {
            // if it was committed after all, it comes again with the next catch-up
            plan.undo(own);
        }
        outcome
    }

    async fn commit(
        &self,
        key: &BidKey,
        held: &Held,
        changes: Vec<Change>,
        planned: Arc<Mutex<Option<Plan>>>,
    ) -> Result<Vec<Result<Accepted, Refusal>>, StoreError> {
        let (key, held, options) = (key.clone(), held.clone(), self.options);
        let (db, own_us) = (&self.database, self.clock.steady().micros());
        let committed = crate::write_tx!(db, |conn, q| {
            let (tenant, bid_id) = (key.tenant.as_str(), &*key.bid_id);
            let Some(row) = q::bids::find_locked(conn, tenant, bid_id).await? else {
                return Ok(changes.iter().map(|_| Err(no_such_bid())).collect());
            };
            let mut bid = Bid::read(row)?;
            // after the lock: whoever waited for it is judged by when it got it
            let now = Timestamp::from_micros(q::time::now_us(conn, own_us).await?);
            let keys: Vec<_> = changes.iter().filter_map(|own| own.attempt.key()).collect();
            let answers_us = changes[0].attempt.now_us();
            let stored = q::idempotency::find_all(conn, &keys, answers_us).await?;
            let known = known(&held, bid.ranking_version);
            if known != Some(bid.ranking_version) {
                let take = |rows| catch_up(&held, &bid, rows);
                q::bids::proposals_since(conn, (tenant, bid_id), known.unwrap_or(0), take).await?;
            }
            let writes = {
                let mut own = held.lock().expect("no panic while held");
                let ranking = own.get_or_insert_with(|| BidRanking::of(&bid));
                let plan = Plan::new(ranking);
                let (writes, plan) =
                    plan_writes((&mut bid, ranking), plan, &changes, &stored, (tenant, &options), now);
                *planned.lock().expect("no panic while held") = Some(plan);
                writes
            };
            if !writes.outbox.is_empty() {
                if !writes.changed.is_empty() {
                    q::bids::update_proposals(conn, writes.changed).await?;
                }
                if !writes.new.is_empty() {
                    q::bids::insert_proposals(conn, writes.new).await?;
                }
                q::bids::update(conn, &bid.row(tenant)).await?;
                for row in &writes.outbox {
                    q::outbox::insert(conn, row).await?;
                }
            }
            if !writes.answers.is_empty() {
                q::idempotency::store_all(conn, writes.answers, answers_us).await?;
            }
            crash_point("ranking.before_commit");
            Ok(writes.outcomes)
        });
        crash_point("ranking.after_commit");
        committed
    }
}

/// The version that is known here; nothing is, when less than that is stored: the database was restored.
fn known(held: &Held, stored: i64) -> Option<i64> {
    let mut own = held.lock().expect("no panic while held");
    own.take_if(|ranking| ranking.version() > stored);
    own.as_ref().map(BidRanking::version)
}

/// Takes in what was stored by others meanwhile.
fn catch_up(held: &Held, bid: &Bid, rows: Vec<ProposalRow>) {
    let mut own = held.lock().expect("no panic while held");
    own.get_or_insert_with(|| BidRanking::of(bid)).catch_up(rows);
}

/// An error for one more of those whom it meets.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(problem) => StoreError::Unavailable(problem.clone()),
        StoreError::InDoubt(problem) => StoreError::InDoubt(problem.clone()),
        StoreError::Exists => StoreError::Exists,
        other => StoreError::Unexpected(other.to_string()),
    }
}
