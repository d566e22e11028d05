//! Jobs: work that outlives the request that asks for it, done again until it succeeds or is dead.
//!
//! A job is a row, written in the transaction of what it comes from, so that neither is there without the other. Each
//! node's [`Jobs`] takes what is due, the most urgent first, and hands it to the [`Handler`] of its [`Kind`]; how
//! many a channel works on at a time is bounded. The row is marked before the work is begun, with a deadline:
//!
//! ```text
//! pending ──► sending ──► done
//!    ▲           │ └────► dead          attempts used up, or not to be tried again
//!    │           ▼
//!    └──────── retry                    after a delay that doubles, or the one that was asked for
//! ```
//!
//! A job past its deadline is nobody's, as its node has died or hangs: a kind says whether it is then done again
//! ([`Delivery`]). Whoever did the work and is late finds that the attempt is not the present one any more, so a
//! handler that writes its result and finishes the job (`q::jobs::finish`) in one transaction has its effect exactly once.

mod desk;
mod job;
mod runner;

pub use crate::storage::JobRow;
pub use desk::{JobDesk, JobView, Revived};
pub use job::{Backoff, Delivery, Failure, Kind, NewJob, STATES, State};
pub use runner::{Completion, Handler, JobOptions, JobWake, Jobs};
