//! What the tests are built from.

pub mod api;
pub mod burst;
pub mod child;
pub mod database;
pub mod obstacles;
pub mod server;
pub mod sse;
pub mod wait;

pub use api::{Answer, Api};
pub use burst::{Burst, assert_kept, counted, counts};
pub use child::Program;
pub use database::Outsider;
pub use obstacles::{Frozen, SmallDisk};
pub use server::{Server, ServerOptions, binary, run_cli, run_cli_with};
pub use sse::{Sse, SseEvent};
pub use wait::{PATIENCE, eventually};
