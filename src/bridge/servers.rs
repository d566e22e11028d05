//! Which servers Redis consists of at present, and connections to them: one server, the master that sentinels name, or
//! the masters of a cluster.

mod address;
mod connector;
mod ear;
mod finder;
mod layout;
mod lookout;

pub use connector::Access;
pub(super) use connector::Connector;
pub(super) use ear::{Ear, Heard};
pub(super) use layout::{Layout, Server};
pub(super) use lookout::Lookout;
