//! What the tests are built from.

pub mod api;
pub mod postgres;
pub mod server;
pub mod sse;
pub mod wait;

pub use api::Api;
pub use server::{Server, ServerOptions};
pub use sse::{Sse, SseEvent};
pub use wait::{PATIENCE, eventually};
