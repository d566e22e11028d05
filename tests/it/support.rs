//! What the tests are built from.

pub mod api;
pub mod client;
pub mod server;
pub mod sse;
pub mod wait;

pub use api::{Answer, Api};
pub use client::{Client, Event, Frame};
pub use server::{Server, ServerOptions, run_cli};
pub use sse::Sse;
pub use wait::{PATIENCE, eventually, pause};
