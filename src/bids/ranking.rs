//! The order of a bid's proposals, kept by one actor for each bid.
//!
//! ```text
//! change ─► Rankings (finds or makes the actor) ─► RankingActor ─ everything that waits ─► one transaction ─► answers
//! ```
//! [`BidRanking`] is the order itself, [`Plan`] what changes do to it: both pure. A turn (`turn.rs`, `writes.rs`) locks the
//! bid's row, takes in what other nodes have stored meanwhile, carries out what waits, and stores proposals, answers
//! and one outbox row together. Several nodes may keep the same bid: the row lock and its version decide.

mod bid_ranking;
mod directory;
mod order_statistics;
mod plan;
mod ranking_actor;
mod turn;
mod writes;

use std::time::Duration;

pub use bid_ranking::{BidRanking, Ranked, Splice, rank_before};
pub use directory::{Rankings, WeakRankings};
pub use order_statistics::OrderStatistics;
pub use plan::{Accepted, Ask, Plan, Pseudonym, Speaks, no_such_proposal};
pub use ranking_actor::RankingThreads;
pub use turn::{BidKey, Change, Outcome};

/// Bounds of rankings.
#[derive(Clone, Copy, Debug)]
pub struct RankingOptions {
    /// Proposals of one bid, withdrawn ones included.
    pub most_proposals: usize,
    /// Rows of the window that every frame carries.
    pub window: usize,
    /// Changes that may wait for one bid.
    pub waiting: usize,
    /// Changes that one transaction carries out.
    pub batch: usize,
    /// How long an actor with nothing to do is kept.
    pub idle: Duration,
}
