//! Fleets: their carbon emission intensity (EI), in gCO2e per tonne-km.
//!
//! [`decide`] is the rule; [`Fleets`] carries it out: state, reading and outbox row in one transaction.

mod fleet;
mod service;

pub use fleet::{Before, Decision, Grade, GradeBounds, NewReading, decide};
pub use service::{EiUpdate, Fleets, MAX_BATCH, Page, Updated};
