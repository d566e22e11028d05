//! A process of Redis, and how it is asked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::eventually;

/// How one gets in: with a name and a password, over TLS.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Who asks, where that is not everybody.
    pub user: Option<(String, String)>,
    /// The authority that is believed, where TLS is spoken.
    pub authority: Option<PathBuf>,
}

impl Access {
    /// Carries out a command by `redis-cli`; what it printed.
    pub fn cli(&self, address: SocketAddr, args: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
        if let Some((user, password)) = &self.user {
            command.args(["--no-auth-warning", "--user", user, "--pass", password]);
        }
        if let Some(authority) = &self.authority {
            command.arg("--tls").arg("--cacert").arg(authority);
        }
        let output = command.args(args).output().expect("redis-cli runs");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The URL of a group of servers, without what follows the addresses.
    pub fn url(&self, kind: &str, addresses: impl IntoIterator<Item = String>) -> String {
        let scheme = if self.authority.is_some() { "rediss" } else { "redis" };
        let user = self.user.as_ref().map(|(user, password)| format!("{user}:{password}@"));
        let addresses: Vec<String> = addresses.into_iter().collect();
        format!("{scheme}+{kind}://{}{}", user.unwrap_or_default(), addresses.join(","))
    }
}

/// `redis-server`, as a server or as a sentinel; killed when dropped.
pub struct Process {
    child: Option<Child>,
    address: SocketAddr,
    args: Vec<String>,
    access: Access,
}

impl Process {
    /// One that is yet to be launched, and is then asked at `address`.
    pub fn new(address: SocketAddr, args: Vec<String>, access: Access) -> Self {
        Process { child: None, address, args, access }
    }

    /// Starts it; false when it ended, as it does where the port is another's.
    pub async fn launch(&mut self) -> bool {
        assert!(self.child.is_none(), "it was killed");
        let mut child = Command::new("redis-server")
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
            self.access.cli(self.address, &["info", "server"]).contains(&own_id).then_some(true)
        });
        let is_up = is_up.await;
        self.child = Some(child).filter(|_| is_up);
        is_up
    }

    /// Kills it as a power cut would; nothing of what it held in memory is left.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }

    /// Sends it a signal by name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(status.expect("kill runs").success());
    }

    /// It runs, and no signal has stopped it.
    pub fn answers(&self) -> bool {
        self.child.as_ref().is_some_and(|child| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("it is ours");
            !stat.rsplit(") ").next().expect("a state").starts_with('T')
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // one that has ended already needs no killing
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
