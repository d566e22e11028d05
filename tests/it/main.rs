//! The integration tests: real servers, real sockets, real clients. A module per behaviour.

mod support;

mod first_light;
mod hostile_clients;
mod retryable_refusals;
mod slow_clients;
