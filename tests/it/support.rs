//! What the tests are built from.

pub mod api;
pub mod backend;
pub mod burst;
pub mod child;
pub mod client;
pub mod database;
pub mod dice;
pub mod fake;
pub mod follower;
pub mod issuer;
pub mod load;
pub mod logged;
pub mod memory;
pub mod nginx;
pub mod obstacles;
pub mod poll;
pub mod postgres;
pub mod proxy;
pub mod raw;
pub mod recipes;
pub mod redis;
pub mod server;
pub mod sockets;
pub mod sse;
pub mod tls;
pub mod wait;
pub mod ws;

use std::io::Write as _;
use std::path::PathBuf;

pub use api::{Answer, Api};
pub use backend::Backend;
pub use burst::{Burst, assert_kept, counted, counts};
pub use child::Program;
pub use client::{Client, Event, Frame, Transport};
pub(crate) use client::{on_both_backends, on_every_transport, on_every_transport_of_both_backends};
pub use database::Outsider;
pub use dice::Dice;
pub use fake::Fake;
pub use follower::{Follower, Heard, Way};
pub use issuer::{Issuer, KeyServer, from_now};
pub use logged::{Logged, at_level, says};
pub use memory::{peak_resident_bytes, resident_bytes};
pub use nginx::Nginx;
pub use obstacles::{Frozen, SmallDisk};
pub use poll::Poller;
pub use postgres::{Holding, Postgres};
pub use proxy::{Proxy, When};
pub use raw::Raw;
pub use recipes::{OPEN, RECIPES, Recipe, operations};
pub use redis::Redis;
pub use server::{Server, ServerOptions, binary, next_release, run_cli, run_cli_with};
pub use sockets::allow_sockets;
pub use sse::{Sse, SseEvent};
pub use wait::{PATIENCE, eventually, eventually_counts, eventually_or, pause};
pub use ws::{Closed, Ws};

/// A file of the package under test: where the runner says it is, as another checkout may have built this.
pub fn in_package(path: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join(path)
}

/// Says that a test could not be made here; `./test` repeats it at its end.
pub fn not_tested(what: &str) {
    eprintln!("not tested: {what}");
    if let Some(list) = std::env::var_os("BONGSU_TEST_NOT_TESTED") {
        let list = std::fs::OpenOptions::new().create(true).append(true).open(list);
        writeln!(list.expect("it opens"), "{what}").expect("it is written");
    }
}
