//! What survives which fault. Every test also shows that its fault happened.

mod away;
pub(crate) mod clock;
mod crash;
mod disk;
mod engines;
mod shutdown;
