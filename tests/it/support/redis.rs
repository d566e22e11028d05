//! Redis: what the runner has started for all tests, and servers of a test's own, alone or in groups.

mod cluster;
mod gate;
mod group;
mod process;
mod sentinels;

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use tempfile::TempDir;

pub use cluster::RedisCluster;
pub use group::{Group, GroupOptions};
use process::{Access, Process};
pub use sentinels::Sentinels;

/// The URL of the server that all tests share.
pub fn shared_url() -> String {
    std::env::var("BONGSU_TEST_REDIS_URL").expect("BONGSU_TEST_REDIS_URL, as ./test sets it")
}

/// The URL of the sentinels that all tests share, which break nothing there.
pub fn shared_sentinel_url() -> String {
    std::env::var("BONGSU_TEST_SENTINEL_URL").expect("BONGSU_TEST_SENTINEL_URL, as ./test sets it")
}

/// The URL of the Redis Cluster that all tests share, which break nothing there.
pub fn shared_cluster_url() -> String {
    std::env::var("BONGSU_TEST_CLUSTER_URL").expect("BONGSU_TEST_CLUSTER_URL, as ./test sets it")
}

/// A prefix that no other test uses.
pub fn own_prefix() -> String {
    // not by the process's number, which comes again in a long run
    format!("t{:016x}:", bongsu::clock::random_u64())
}

/// The commands that the documentation says a node's user of Redis needs.
pub fn needed_commands() -> Vec<String> {
    let text = std::fs::read_to_string(super::in_package("docs/operations.md")).expect("readable");
    let rule = text.lines().find(|line| line.starts_with("ACL SETUSER bongsu ")).expect("it is documented");
    rule.split(' ').filter_map(|word| word.strip_prefix('+')).map(str::to_owned).collect()
}

/// Carries out a command by `redis-cli`; what it printed.
pub fn cli(url: &str, args: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-u", url]).args(args).output().expect("redis-cli runs");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A Redis of a test's own; killed when dropped.
pub struct Redis {
    process: Process,
    address: SocketAddr,
    _directory: TempDir,
}

impl Redis {
    /// An empty one on a free port.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With more of `redis-server`'s arguments.
    pub async fn with(args: &[&str]) -> Self {
        // another process may take the port first: then the next one
        for _ in 0..5 {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = listener.local_addr().expect("an address");
            drop(listener);
            let directory = tempfile::tempdir().expect("a temporary directory");
            let port = address.port().to_string();
            let own = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
            let kept = ["--maxmemory-policy", "noeviction", "--daemonize", "no", "--dir"];
            let path = directory.path().to_str().expect("text");
            let all = [&own[..], &kept, &[path], args].concat().into_iter().map(str::to_owned).collect();
            let mut process = Process::new(address, all, Access::default());
            if process.launch().await {
                return Redis { process, address, _directory: directory };
            }
        }
        panic!("Redis did not start");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Kills it as a power cut would; nothing of what it held is left.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, empty, at the same address.
    pub async fn restart(&mut self) {
        assert!(self.process.launch().await, "the port is still ours");
    }

    /// Sends it a signal by name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Carries out a command; what was printed.
    pub fn cli(&self, args: &[&str]) -> String {
        cli(&self.url(), args)
    }
}
