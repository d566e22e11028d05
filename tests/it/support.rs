//! What the tests are built from.

pub mod api;
pub mod memory;
pub mod raw;
pub mod server;
pub mod sse;
pub mod wait;

pub use api::Api;
pub use memory::resident_bytes;
pub use raw::Raw;
pub use server::{Server, ServerOptions};
pub use sse::{Sse, SseEvent};
pub use wait::{PATIENCE, eventually};
