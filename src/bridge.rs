//! The cluster's log and bus: Redis numbers events, keeps them and brings them to every node.
//!
//! ```text
//! publishes ─► Lanes ───┐                                    ┌─► PUBLISH ─► Subscriber ─► RedisBridgeActor ─► windows,
//! outbox ────► Leader ──┴─► append.lua (epoch, seq, stream) ─┘               (one Follower per tenant)       workers
//! ```
//!
//! What the bus does not bring (it is at most once) the bridge fetches from the log, so that every node has
//! every event once and in order. Only the leader publishes the outbox and trims.
//!
//! Other services publish on the same Redis: the leader takes that into the log of one tenant ([`Interop`] reads
//! it), and appends that are mirrored publish for them in turn.

mod check;
mod clustered;
mod commands;
mod envelope;
mod error;
mod figures;
mod follower;
mod following;
mod hearing;
mod holds;
mod ingest;
mod interop;
#[cfg(test)]
mod interop_test;
mod keys;
mod lanes;
mod leader;
mod lease;
mod listener;
mod mirror;
mod options;
mod recent;
mod redis_bridge_actor;
mod release;
mod reply;
mod rows;
mod runs;
mod servers;
mod store;
mod subscriber;
mod trimmer;

pub use clustered::Clustered;
pub use error::BridgeError;
pub use interop::{Interop, Unfit};
pub use options::{BridgeOptions, IngestOptions, MirrorOptions};
pub use redis_bridge_actor::{BridgeThread, RedisBridgeActor};
pub use servers::Access;
