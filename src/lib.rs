//! Bongsu: an actor-model realtime engine. See the README for what it does and `docs/` for how.

pub mod actor_kit;
pub mod clock;
pub mod domain;
pub mod log;
pub mod settings;
pub mod storage;
pub mod telemetry;
pub mod wire;
