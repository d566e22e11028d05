//! Redis: the one that the runner has started for all tests, and servers of a test's own.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::eventually;

/// The URL of the server that all tests share.
pub fn shared_url() -> String {
    std::env::var("BONGSU_TEST_REDIS_URL").expect("BONGSU_TEST_REDIS_URL, as ./test sets it")
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
    child: Option<Child>,
    address: SocketAddr,
    directory: TempDir,
    args: Vec<String>,
    program: PathBuf,
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
            let args = args.iter().map(|own| (*own).to_owned()).collect();
            let program = "redis-server".into();
            let mut own = Redis { child: None, address, directory, args, program };
            if own.launch().await {
                return own;
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
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }

    /// Starts it again, empty, at the same address.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "it was killed");
        assert!(self.launch().await, "the port is still ours");
    }

    /// Sends it a signal by name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Carries out a command; what was printed.
    pub fn cli(&self, args: &[&str]) -> String {
        cli(&self.url(), args)
    }

    /// False when it ended, as it does where the port is another's.
    async fn launch(&mut self) -> bool {
        let port = self.address.port().to_string();
        let mut child = Command::new(&self.program)
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--maxmemory-policy", "noeviction", "--daemonize", "no", "--dir"])
            .arg(self.directory.path())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server runs");
        let own_id = format!("process_id:{}", child.id());
        let is_up = eventually("Redis to answer or end", async || {
            if child.try_wait().expect("it is ours").is_some() {
                return Some(false);
            }
            // the port must be this server's, not that of another one
            self.cli(&["info", "server"]).contains(&own_id).then_some(true)
        });
        let is_up = is_up.await;
        self.child = Some(child).filter(|_| is_up);
        is_up
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // one that has ended already needs no killing
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
