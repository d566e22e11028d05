//! A database of its own on the PostgreSQL server that the runner has started.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The URL of a new, empty database; None without `BONGSU_TEST_POSTGRES_URL`.
pub fn database() -> Option<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = std::env::var("BONGSU_TEST_POSTGRES_URL").ok()?;
    let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let created = Command::new("psql").args([&server, "-qc", &format!("CREATE DATABASE {name}")]).status();
    assert!(created.expect("psql runs").success());
    let (base, _) = server.rsplit_once('/').expect("a URL with a database");
    Some(format!("{base}/{name}"))
}
