//! What survives which fault. Every test also shows that its fault happened.

mod crash;
mod disk;
mod clock;
