//! Commands that change the domain, each carried out once however often it is asked for.
//!
//! A command with an `Idempotency-Key` leaves its answer in its own transaction. While it is under way its key
//! is locked: by this process, and on PostgreSQL by the transaction itself, so that no other node begins it and
//! a crash frees it. A COMMIT whose outcome is unknown is settled by asking again: the lock waits for the end
//! of the former transaction, and the stored answer tells whether it was carried out.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{IdempotencyRow, StoreError};
use crate::actor_kit::InFlightKeys;
use crate::clock::Clock;
use crate::domain::{Refusal, RefusalKind, TenantId};

/// Between two looks at what has become of a COMMIT.
const SETTLING: Duration = Duration::from_millis(50);
/// Two transactions that make the same row meet seldom, and not again and again.
const COLLISIONS: usize = 3;

/// A repeated command is recognised by this.
#[derive(Clone, Debug)]
pub struct CommandKey {
    /// Who asks.
    pub principal: String,
    /// The `Idempotency-Key`.
    pub key: String,
    /// Hash of the request's body.
    pub request_hash: String,
}

/// Carries commands out.
#[derive(Clone)]
pub struct Commands {
    clock: Clock,
    keep_answers: Duration,
    patience: Duration,
    in_flight: InFlightKeys,
}

/// One attempt at a command, for [`command!`](crate::command).
#[derive(Clone, Debug)]
pub struct Attempt {
    tenant: String,
    key: Option<CommandKey>,
    now_us: i64,
    until_us: i64,
}

impl Commands {
    /// `clock`: that of the log, which all nodes share; `keep_answers`: how long an answer is repeated;
    /// `patience`: how long an unknown outcome is looked into.
    pub fn new(clock: Clock, keep_answers: Duration, patience: Duration) -> Self {
        Commands { clock, keep_answers, patience, in_flight: InFlightKeys::default() }
    }

    /// Has `carry_out` run a [`command!`](crate::command) until its outcome is known, or patience is at an end.
    pub async fn once<T, F>(
        &self,
        tenant: &TenantId,
        key: Option<CommandKey>,
        carry_out: impl Fn(Attempt) -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<Result<T, Refusal>, StoreError>>,
    {
        let _in_flight = match &key {
            // PostgreSQL keeps no text with it, and says so by failing all that is asked with it
            Some(key) if key.principal.contains('\0') || key.key.contains('\0') => {
                return Err(Refusal::invalid(
                    "Idempotency-Key",
                    "and who sends it must not hold the character NUL",
                ));
            }
            Some(key) => {
                let entered = self.in_flight.enter(format!("{tenant}\n{}\n{}", key.principal, key.key));
                Some(entered.ok_or_else(in_progress)?)
            }
            None => None,
        };
        let deadline = Instant::now() + self.patience;
        let (mut collisions, mut in_doubt) = (0, None);
        loop {
            let outcome = carry_out(self.attempt(tenant, key.clone())).await;
            let is_patient = key.is_some() && Instant::now() < deadline;
            match outcome {
                Err(StoreError::Exists) if collisions + 1 < COLLISIONS => collisions += 1,
                Err(StoreError::Exists) => return Err(contended()),
                Err(StoreError::InDoubt(problem)) if is_patient => in_doubt = Some(problem),
                // the database is not back yet, or not yet done with the former transaction
                Err(StoreError::Unavailable(_)) if in_doubt.is_some() && is_patient => {}
                Ok(Err(refusal)) if refusal.code == IN_PROGRESS && in_doubt.is_some() && is_patient => {}
                Ok(Ok(answer)) => return Ok(answer),
                outcome => {
                    return match in_doubt {
                        Some(problem) => Err(StoreError::InDoubt(problem).into()),
                        None => outcome?,
                    };
                }
            }
            if in_doubt.is_some() {
                sleep(SETTLING).await;
            }
        }
    }

    fn attempt(&self, tenant: &TenantId, key: Option<CommandKey>) -> Attempt {
        // answers are kept on the steady clock: a jump of the machine's forgets none of them
        let now = self.clock.steady();
        let until_us = now.plus(self.keep_answers).micros();
        Attempt { tenant: tenant.as_str().to_owned(), key, now_us: now.micros(), until_us }
    }
}

impl Attempt {
    /// The key by which a stored answer is found, if there is one: tenant, principal, key.
    pub fn key(&self) -> Option<(&str, &str, &str)> {
        self.key.as_ref().map(|own| (&*self.tenant, &*own.principal, &*own.key))
    }

    /// The present time of answers, µs.
    pub fn now_us(&self) -> i64 {
        self.now_us
    }

    /// What a former command with the same key was answered, if it was the same command.
    pub fn repeat<T: serde::de::DeserializeOwned>(&self, stored: &IdempotencyRow) -> Result<T, Refusal> {
        if self.key.as_ref().is_some_and(|own| own.request_hash != stored.request_hash) {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                "idempotency_key_reused",
                "the Idempotency-Key was used with another request",
            ));
        }
        serde_json::from_str(&stored.answer)
            .map_err(|error| StoreError::Unexpected(format!("a stored answer: {error}")).into())
    }

    /// The row that keeps an answer, if the command has a key.
    pub fn row<T: serde::Serialize>(&self, answer: &T) -> Option<IdempotencyRow> {
        let own = self.key.as_ref()?;
        Some(IdempotencyRow {
            tenant: self.tenant.clone(),
            principal: own.principal.clone(),
            key: own.key.clone(),
            request_hash: own.request_hash.clone(),
            answer: serde_json::to_string(answer).expect("answers are plain data"),
            expires_us: self.until_us,
        })
    }
}

const IN_PROGRESS: &str = "idempotency_key_in_progress";

/// Somebody else carries the command out at this moment.
pub fn in_progress() -> Refusal {
    Refusal::new(RefusalKind::Conflict, IN_PROGRESS, "a request with this Idempotency-Key is in progress")
}

fn contended() -> Refusal {
    Refusal::new(RefusalKind::Conflict, "contended", "others are creating the same, try again")
}

/// The transaction of one [`Attempt`] at a command: `command!(db, attempt, |conn, q| body)`, where the body
/// yields `Result<Result<answer, Refusal>, StoreError>`. The answer is stored with what the body has written,
/// and found again instead of carrying the command out a second time.
#[macro_export]
macro_rules! command {
    ($db:expr, $attempt:expr, |$conn:ident, $q:ident| $body:expr) => {
        $crate::write_tx!($db, |$conn, $q| {
            if let Some(key) = $attempt.key() {
                if !$q::names::try_lock($conn, key).await? {
                    return Ok(Err($crate::storage::in_progress()));
                }
                if let Some(stored) = $q::idempotency::find($conn, key, $attempt.now_us()).await? {
                    return Ok($attempt.repeat(&stored));
                }
            }
            let outcome: Result<Result<_, $crate::domain::Refusal>, $crate::storage::StoreError> =
                async { $body }.await;
            let outcome = outcome?;
            if let Ok(answer) = &outcome
                && let Some(row) = $attempt.row(answer)
            {
                $q::idempotency::store($conn, &row, $attempt.now_us()).await?;
            }
            Ok(outcome)
        })
    };
}
