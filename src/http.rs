//! The HTTP edge: each file a resource, each handler thin: extract, call, respond.
//!
//! Only here (and in the session transports) is `actix_web` known. Errors leave as
//! `application/problem+json` ([`Problem`]), the one table from refusal to status.

mod access;
mod auth;
mod body;
mod cors;
mod events;
mod fleets;
mod health;
mod keys;
mod metrics;
mod openapi;
mod poll;
mod problem;
mod query;
mod services;
mod streams;
mod tickets;

pub use access::record;
pub use cors::cors;
pub use metrics::open_metrics;
pub use openapi::{document, routes};
pub use problem::Problem;
pub use services::Services;
pub use streams::{WorkerContext, upgrade_refusal};
