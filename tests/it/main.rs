//! The integration tests: real servers, real sockets, real clients. A module per behaviour.

mod support;

mod cli;
mod clients;
mod faults;
mod first_light;
