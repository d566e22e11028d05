//! The HTTP edge: each file a resource, each handler thin: extract, call, respond.
//!
//! Only here (and in the session transports) is `actix_web` known. Errors leave as
//! `application/problem+json` ([`Problem`]), the one table from refusal to status.

mod access;
mod accounts;
mod acks;
mod admin;
mod auth;
mod bid_commands;
mod bids;
mod block_list;
mod body;
mod capabilities;
mod cors;
mod events;
mod exchange;
mod fleets;
mod gate;
mod health;
mod jobs;
mod keys;
mod lenient;
mod metrics;
mod openapi;
mod orders;
mod poll;
mod problem;
mod proposals;
mod query;
mod services;
mod streams;
mod tickets;
mod topics;
mod user_events;
mod websocket;

pub use access::record;
pub use capabilities::SessionCapabilities;
pub use cors::cors;
pub use exchange::Exchange;
pub use gate::{Caller, Gate};
pub use metrics::open_metrics;
pub use openapi::{document, routes};
pub use problem::Problem;
pub use query::Query;
pub use services::Services;
pub use streams::{STREAMS, WorkerContext};
pub use websocket::{NativeConnection, websocket};
