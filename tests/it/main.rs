//! The integration tests: real servers, real sockets, real clients. A module per behaviour.

mod support;

mod faults;
mod first_light;
mod fleets;
mod publishing;
mod recovery;
