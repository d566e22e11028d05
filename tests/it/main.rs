//! The integration tests: real servers, real sockets, real clients. A module per behaviour.

mod support;

mod faults;
mod first_light;
mod slow_clients;
