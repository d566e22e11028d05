//! Bongsu: an actor-model realtime engine. See the README for what it does and `docs/` for how.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

pub mod accounts;
pub mod actor_kit;
pub mod bench;
pub mod bids;
pub mod bridge;
pub mod cli;
pub mod clock;
pub mod domain;
pub mod engine;
pub mod fleets;
pub mod http;
pub mod identity;
pub mod jobs;
pub mod limits;
pub mod log;
pub mod orders;
pub mod publishing;
pub mod rooms;
pub mod sessions;
pub mod settings;
pub mod storage;
pub mod telemetry;
pub mod topics;
pub mod wire;
