//! How much a process may hold open.

use std::process::Command;

/// Lets this process, and those that it starts from now on, hold many files and sockets.
pub fn allow_sockets() {
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--nofile=16384:", "--pid", &pid]).status();
    assert!(raised.expect("prlimit runs").success());
}
