//! The integration tests: real servers, real sockets, real clients. A module per behaviour.

mod support;

mod administration;
mod architecture;
mod batching;
mod bench;
mod cli;
mod clients;
mod closing;
mod documentation;
mod faults;
mod first_light;
mod fleets;
mod fuzzing;
mod hostile_clients;
mod identity;
mod identity_live;
mod identity_revocation;
mod identity_tickets;
mod identity_tokens;
mod limits;
mod logging;
mod observability;
mod polling;
mod property;
mod publishing;
mod recovery;
mod retryable_refusals;
mod rights;
mod slow_clients;
mod storage;
mod stream_connections;
mod tenants;
mod tls;
mod topics;
mod websocket;
