//! What each node computes for its own sessions from its copies of rankings: whole rankings, as clients of the
//! replaced systems want them, and for every carrier where its own proposals stand.
//!
//! ```text
//! sessions ─ who listens ─┐
//!                         ├─► Keeper ─ what is to be told, and when ─► Rankings::look ─► Workers::tell
//! log ─ what has changed ─┘
//! ```
//! [`Copies`] is where sessions and the log say something. Plain values know what is to be told: `Followed` of one bid,
//! `Carriers` who listens for whom, `Listening` puts both together for a tenant. The log names the moment, the database the order: a copy may be ahead of the log.

mod carriers;
mod desk;
mod followed;
#[cfg(test)]
mod followed_test;
mod keeper;
mod listening;
#[cfg(test)]
mod listening_test;
mod seen;
mod telling;

use carriers::Carriers;
pub use desk::{Copies, Listener};
use followed::Followed;
pub use keeper::{CopyOptions, Keeper};
