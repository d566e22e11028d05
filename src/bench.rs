//! The load generator behind `bongsu bench`.
//!
//! One thread and one event loop, so that it can be pinned to one core while the server has
//! another: it holds N streams over one or several nodes, publishes through a few more connections, and
//! counts what arrives where and when. Events of a topic are numbered densely, so that each one that a
//! client misses or gets twice is known.

mod client;
mod commands;
mod dense;
mod fanout;
mod fanout_report;
mod figures;
mod peer;
mod plan;
mod probe;
mod proposers;
mod publisher;
mod ranking;
mod ranking_report;
mod rerank;
mod round_trip;
mod run;
mod scan;
mod storm;
mod storm_report;
mod swarm;

pub use commands::{CommandsOptions, CommandsReport, commands};
pub use fanout::{FanoutOptions, fanout};
pub use fanout_report::{FanoutReport, Latency, NodeFigures};
pub use figures::{Counts, Spread};
pub use peer::Peer;
pub use ranking::{RankingOptions, ranking};
pub use ranking_report::{Proposed, RankingReport, Reranked, Taken};
pub use storm::{StormOptions, storm};
pub use storm_report::{Round, StormReport, Turn};

/// Told now and then how much of a part of the run is done, 0 to 1, and what that is.
pub type Progress<'a> = dyn FnMut(f64, &str) + 'a;

/// A way to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// Server-sent events.
    Sse,
    /// WebSocket text frames.
    Websocket,
}
