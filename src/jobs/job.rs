use std::time::Duration;

use uuid::Uuid;

use crate::storage::{JobOutcome, JobRow, StoreError};

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// To be done.
    Pending,
    /// Being done.
    Sending,
    /// Done.
    Done,
    /// To be done again.
    Retry,
    /// Given up.
    Dead,
}

/// Every state.
pub const STATES: [State; 5] = [State::Pending, State::Sending, State::Done, State::Retry, State::Dead];

impl State {
    /// The word in the database, on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Sending => "sending",
            State::Done => "done",
            State::Retry => "retry",
            State::Dead => "dead",
        }
    }

    /// The state of this name.
    pub fn parse(text: &str) -> Option<Self> {
        STATES.into_iter().find(|state| state.as_str() == text)
    }
}

/// What is done about a job whose node died in the middle of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is done again: whoever gets it twice can tell, or does not mind.
    AtLeastOnce,
    /// It is dead: better not at all than twice.
    AtMostOnce,
}

/// A sort of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Names it in the database and in metrics.
    pub name: &'static str,
    /// What it counts against.
    pub channel: &'static str,
    /// What is done about one that nobody has finished.
    pub delivery: Delivery,
}

/// Work to be done.
#[derive(Clone, Debug)]
pub struct NewJob<'a> {
    /// What sort.
    pub kind: Kind,
    /// Whose.
    pub tenant: &'a str,
    /// 1, the most urgent, to 4.
    pub priority: i64,
    /// What its handler needs to know, JSON.
    pub payload: String,
    /// The node that accepted what it comes from.
    pub server_id: &'a str,
    /// How often it is tried.
    pub max_attempts: u32,
}

impl NewJob<'_> {
    /// Its row, for `q::jobs::add` in the transaction of what it comes from; due at once.
    pub fn row(self) -> JobRow {
        JobRow {
            job_id: Uuid::now_v7().to_string(),
            tenant: self.tenant.to_owned(),
            kind: self.kind.name.to_owned(),
            channel: self.kind.channel.to_owned(),
            priority: self.priority,
            payload: self.payload,
            state: State::Pending.as_str().to_owned(),
            attempts: 0,
            max_attempts: i64::from(self.max_attempts),
            due_us: 0,
            deadline_us: None,
            error: None,
            server_id: self.server_id.to_owned(),
            created_us: 0,
            finished_us: None,
            attempts_before: 0,
        }
    }
}

/// Why an attempt came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In words, for whoever looks after dead jobs.
    pub reason: String,
    /// When the other side wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Whether it will come to nothing again.
    pub is_final: bool,
}

impl Failure {
    /// One that may not happen again.
    pub fn passing(reason: impl Into<String>) -> Self {
        Failure { reason: reason.into(), retry_after: None, is_final: false }
    }

    /// One that will happen again.
    pub fn lasting(reason: impl Into<String>) -> Self {
        Failure { is_final: true, ..Failure::passing(reason) }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::passing(error.to_string())
    }
}

/// Delays between attempts.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first one.
    pub first: Duration,
}

/// No delay is longer, whoever asks for it.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// A reason is kept up to this length, bytes.
const REASON: usize = 500;

impl Backoff {
    /// The delay after so many attempts: twice the one before, and up to half as much again by `chance` (0–1), so
    /// that what failed together does not come back together.
    pub fn after(&self, attempts: u32, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << attempts.saturating_sub(1).min(30)).min(LONGEST);
        doubled.mul_f64(1.0 + 0.5 * chance.clamp(0.0, 1.0)).min(LONGEST)
    }
}

/// What becomes of a job whose present attempt failed at `now_us`.
pub(super) fn failed(
    job: &JobRow,
    failure: &Failure,
    (backoff, chance): (Backoff, f64),
    now_us: i64,
) -> JobOutcome {
    let reason = &failure.reason;
    let error = Some(reason[..reason.floor_char_boundary(REASON)].to_owned());
    if failure.is_final || job.attempts >= job.last_attempt() {
        let finished_us = Some(now_us);
        let due_us = job.due_us;
        return JobOutcome { state: State::Dead.as_str(), due_us, deadline_us: None, error, finished_us };
    }
    let attempts = u32::try_from(job.attempts - job.attempts_before).unwrap_or(u32::MAX);
    let delay = failure.retry_after.map_or_else(|| backoff.after(attempts, chance), |own| own.min(LONGEST));
    let due_us = now_us.saturating_add(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX));
    JobOutcome { state: State::Retry.as_str(), due_us, deadline_us: None, error, finished_us: None }
}

/// What becomes of a job whose deadline has passed: it is due at once, unless it must not be done twice.
pub(super) fn abandoned(job: &JobRow, delivery: Delivery, now_us: i64) -> JobOutcome {
    let failure = Failure {
        reason: "the node that worked on it has not finished it in time".to_owned(),
        retry_after: Some(Duration::ZERO),
        is_final: delivery == Delivery::AtMostOnce,
    };
    failed(job, &failure, (Backoff { first: Duration::ZERO }, 0.0), now_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIND: Kind = Kind { name: "test", channel: "test", delivery: Delivery::AtLeastOnce };
    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(2) };

    fn job(attempts: i64, max_attempts: u32) -> JobRow {
        let new = NewJob {
            kind: KIND,
            tenant: "acme",
            priority: 2,
            payload: "{}".into(),
            server_id: "a",
            max_attempts,
        };
        JobRow { attempts, state: "sending".into(), deadline_us: Some(9), ..new.row() }
    }

    #[test]
    fn a_job_is_tried_again_after_twice_the_delay_each_time_and_then_dead() {
        let outcome = |attempts| failed(&job(attempts, 3), &Failure::passing("no"), (BACKOFF, 0.0), 100);
        let told = |outcome: JobOutcome| (outcome.state, outcome.due_us, outcome.finished_us);
        assert_eq!(told(outcome(1)), ("retry", 2_000_100, None));
        assert_eq!(told(outcome(2)), ("retry", 4_000_100, None));
        assert_eq!(told(outcome(3)), ("dead", 0, Some(100)));
        assert_eq!(outcome(3).error.as_deref(), Some("no"));
    }

    #[test]
    fn a_job_that_was_dead_has_all_its_attempts_and_delays_again() {
        let again = |attempts| JobRow { attempts_before: 3, ..job(attempts, 3) };
        let outcome = |attempts| failed(&again(attempts), &Failure::passing("no"), (BACKOFF, 0.0), 100);
        assert_eq!((outcome(4).state, outcome(4).due_us), ("retry", 2_000_100));
        assert_eq!((outcome(5).state, outcome(5).due_us), ("retry", 4_000_100));
        assert_eq!(outcome(6).state, "dead");
    }

    #[test]
    fn what_the_other_side_asks_for_is_honoured_and_what_will_fail_again_is_dead_at_once() {
        let later = Failure { retry_after: Some(Duration::from_secs(60)), ..Failure::passing("busy") };
        assert_eq!(failed(&job(1, 3), &later, (BACKOFF, 1.0), 0).due_us, 60_000_000);
        assert_eq!(failed(&job(1, 3), &Failure::lasting("gone"), (BACKOFF, 0.0), 0).state, "dead");
    }

    #[test]
    fn what_nobody_has_finished_is_done_again_at_once_unless_it_must_not_be_done_twice() {
        let again = abandoned(&job(1, 3), Delivery::AtLeastOnce, 7);
        assert_eq!((again.state, again.due_us), ("retry", 7));
        assert_eq!(abandoned(&job(3, 3), Delivery::AtLeastOnce, 7).state, "dead");
        assert_eq!(abandoned(&job(1, 3), Delivery::AtMostOnce, 7).state, "dead");
    }

    proptest! {
        #[test]
        fn delays_grow_within_their_bounds(attempts in 1u32..2000, chance in 0.0f64..=1.0, first in 1u64..10_000) {
            let backoff = Backoff { first: Duration::from_millis(first) };
            let delay = backoff.after(attempts, chance);
            prop_assert!(delay >= backoff.first && delay <= LONGEST);
            prop_assert!(backoff.after(attempts + 1, chance) >= delay);
            prop_assert!(delay <= backoff.after(attempts, 0.0).mul_f64(1.5));
        }

        #[test]
        fn a_job_ends_after_as_many_attempts_as_it_has(
            most in 1u32..20,
            deaths in prop::collection::vec(any::<bool>(), 20),
            text in ".{0,600}",
        ) {
            let mut job = job(0, most);
            for died in deaths {
                job.attempts += 1;
                let outcome = match died {
                    true => abandoned(&job, Delivery::AtLeastOnce, 5),
                    false => failed(&job, &Failure::passing(&*text), (BACKOFF, 0.5), 5),
                };
                prop_assert!(outcome.error.is_some_and(|error| error.len() <= REASON));
                prop_assert_eq!(outcome.deadline_us, None);
                let is_over = job.attempts == i64::from(most);
                prop_assert_eq!(outcome.state, if is_over { "dead" } else { "retry" });
                prop_assert_eq!(outcome.finished_us.is_some(), is_over);
                if is_over {
                    break;
                }
                prop_assert!(outcome.due_us >= 5);
            }
            prop_assert_eq!(job.attempts, i64::from(most).min(20));
        }
    }
}
