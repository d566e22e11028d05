//! What every actor here is built from: a bounded, counted and timed way to send ([`Port`], [`Handles`]), a restart that
//! cannot be forgotten ([`Guarded`]), a liveness question ([`Probe`]), and work that runs once at a
//! time ([`SingleFlight`], by key [`InFlightKeys`]).
//!
//! Actors themselves are thin shells; what they do lives in plain structs beside them.

mod guarded;
mod in_flight;
mod mailbox;
mod port;
mod probe;
mod single_flight;

pub use guarded::{Guarded, PanicBudget};
pub use in_flight::{InFlight, InFlightKeys};
pub use mailbox::{Counted, Handles, Mailbox};
pub use port::{Port, PortError};
pub use probe::Probe;
pub use single_flight::SingleFlight;
