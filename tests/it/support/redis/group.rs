//! Servers that know each other, each at an address of its own and behind a gate of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::gate::{Gate, State};
use super::process::{Access, Process};
use crate::support::eventually;
use crate::support::tls::Certificates;

/// How a group is started.
#[derive(Clone)]
pub struct GroupOptions {
    timeout: Duration,
    user: Option<(String, String)>,
    is_tls: bool,
    is_named: bool,
    lines: Vec<String>,
}

impl Default for GroupOptions {
    fn default() -> Self {
        let timeout = Duration::from_secs(1);
        GroupOptions { timeout, user: None, is_tls: false, is_named: false, lines: Vec::new() }
    }
}

impl GroupOptions {
    /// With another time than a second after which a silent server counts as down.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// One more line of every server's configuration, such as `min-replicas-to-write 1`.
    pub fn set(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Nobody gets in but by this name; neither to servers nor to sentinels.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// Speaks TLS and nothing else, also within the group.
    pub fn tls(mut self) -> Self {
        self.is_tls = true;
        self
    }

    /// Its servers are called by names, not by addresses, and call each other so. (Not over TLS: a name that needs no
    /// resolver but the system's is none that a certificate may hold.)
    pub fn named(mut self) -> Self {
        self.is_named = true;
        self
    }

    /// By what a server is called.
    fn host(&self, ip: IpAddr) -> String {
        match ip {
            // not an address to anybody but the system's resolver, and so a name that needs no other one
            IpAddr::V4(ip) if self.is_named => format!("0x{:08x}", ip.to_bits()),
            _ => ip.to_string(),
        }
    }
}

struct Member {
    process: Process,
    gate: Gate,
    address: SocketAddr,
    hidden: SocketAddr,
    directory: PathBuf,
}

/// Servers, by number. Each has a loopback address of its own, at which a [`Gate`] listens for it and from which
/// it connects: so a gate knows who comes, and links within the group break while clients notice nothing.
pub struct Group {
    members: Vec<Member>,
    isolated: BTreeSet<usize>,
    access: Access,
    certificates: Option<Certificates>,
    options: GroupOptions,
    _directory: TempDir,
}

impl Group {
    /// Addresses for `count` servers with so many ports each; those of `sentinels` are such.
    pub fn reserve(options: &GroupOptions, count: u8, ports: u16, sentinels: &[usize]) -> Self {
        let [a, b, c, d, ..] = bongsu::clock::random_u64().to_le_bytes();
        // below those that the system hands out, and room for a second one
        let port = 20_000 + u16::from_le_bytes([c, d]) % 6000 * 2;
        let at = |last: u8, port| SocketAddr::from((Ipv4Addr::new(127, a.max(1), b, last), port));
        let root = tempfile::tempdir().expect("a temporary directory");
        let certificates =
            options.is_tls.then(|| Certificates::naming((1..=count).map(|n| at(n, port).ip().to_string())));
        let authority = certificates.as_ref().map(|own| own.path("ca.pem"));
        let access = Access { user: options.user.clone(), authority };
        let member = |n: u8| {
            let directory = root.path().join(n.to_string());
            std::fs::create_dir(&directory).expect("created");
            let file = directory.join("redis.conf").to_string_lossy().into_owned();
            let is_sentinel = sentinels.contains(&usize::from(n - 1));
            let args = [Some(file), is_sentinel.then(|| "--sentinel".to_owned())];
            let (address, hidden) = (at(n, port), at(n + 100, port));
            let process = Process::new(hidden, args.into_iter().flatten().collect(), access.clone());
            let gate = Gate::new((port..port + ports).map(|port| (at(n, port), at(n + 100, port))).collect());
            Member { process, gate, address, hidden, directory }
        };
        let members = (1..=count).map(member).collect();
        let isolated = BTreeSet::new();
        Group { members, isolated, access, certificates, options: options.clone(), _directory: root }
    }

    /// Writes a file of a server before it is first launched.
    pub fn write(&self, n: usize, name: &str, lines: &[String]) {
        std::fs::write(self.members[n].directory.join(name), lines.join("\n") + "\n").expect("written");
    }

    /// Starts a server; false where one of its addresses is another's.
    pub async fn launch(&mut self, n: usize) -> bool {
        let member = &mut self.members[n];
        member.process.launch().await && member.gate.open().await
    }

    /// What stands in the configuration of everyone.
    pub fn common(&self, n: usize) -> Vec<String> {
        let Member { address, hidden, directory, .. } = &self.members[n];
        let port = address.port();
        let mut lines = vec![
            format!("bind {}", hidden.ip()),
            format!("bind-source-addr {}", address.ip()),
            format!("dir {}", directory.display()),
            format!("logfile {}/log", directory.display()),
            "protected-mode no".to_owned(),
        ];
        match &self.certificates {
            None => lines.push(format!("port {port}")),
            Some(own) => {
                lines.extend(["port 0".to_owned(), format!("tls-port {port}")]);
                lines.extend(["tls-auth-clients no", "tls-replication yes"].map(str::to_owned));
                for (name, file) in [("cert", "cert.pem"), ("key", "key.pem"), ("ca-cert", "ca.pem")] {
                    lines.push(format!("tls-{name}-file {}", own.path(file).display()));
                }
            }
        }
        if let Some((name, password)) = &self.access.user {
            lines.push(format!("user {name} on >{password} ~* &* +@all"));
            lines.push("user default off".to_owned());
        }
        lines
    }

    /// What stands in the configuration of a server that holds data.
    pub fn data(&self, n: usize) -> Vec<String> {
        let mut lines = self.common(n);
        let fixed =
            ["save \"\"", "appendonly no", "maxmemory-policy noeviction", "repl-diskless-sync-delay 0"];
        lines.extend(fixed.map(str::to_owned));
        lines.push(format!("replica-announce-ip {}", self.host(n)));
        if let Some((name, password)) = &self.access.user {
            lines.extend([format!("masteruser {name}"), format!("masterauth {password}")]);
        }
        lines.extend(self.options.lines.iter().cloned());
        lines
    }

    /// Whom the group lets in.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// After how long a silent server counts as down.
    pub fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// The certificate of the authority that is to be believed, where TLS is spoken.
    pub fn authority(&self) -> PathBuf {
        self.access.authority.clone().expect("it speaks TLS")
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Where clients reach one.
    pub fn address(&self, n: usize) -> SocketAddr {
        self.members[n].address
    }

    /// By what clients, and the others, call it: its name or its address.
    pub fn host(&self, n: usize) -> String {
        self.options.host(self.address(n).ip())
    }

    /// The same with the port.
    pub fn host_and_port(&self, n: usize) -> String {
        format!("{}:{}", self.host(n), self.address(n).port())
    }

    /// Whether it is called by a name.
    pub fn is_named(&self) -> bool {
        self.options.is_named
    }

    /// Who is called so.
    pub fn at(&self, host: &str) -> Option<usize> {
        (0..self.count()).find(|n| self.host(*n) == host)
    }

    /// Carries out a command, as a client of this one; what was printed.
    pub fn cli(&self, n: usize, args: &[&str]) -> String {
        self.access.cli(self.address(n), args)
    }

    /// A field of its `INFO`, or nothing.
    pub fn info(&self, n: usize, section: &str, field: &str) -> String {
        let text = self.cli(n, &["info", section]);
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_default().trim_end().to_owned()
    }

    /// Waits until a master's replicas have what it has now. (`WAIT` speaks of its own connection alone.)
    pub async fn replicated(&self, n: usize) {
        let goal: u64 = self.info(n, "replication", "master_repl_offset").parse().expect("a number");
        let offset =
            |line: &str| line.split(',').find_map(|own| own.strip_prefix("offset=")?.parse::<u64>().ok());
        let has = |line: &str| offset(line) >= Some(goal);
        eventually("replicas that have it all", async || {
            let text = self.cli(n, &["info", "replication"]);
            let mut replicas = text.lines().filter(|line| line.contains("state=")).peekable();
            (replicas.peek().is_some() && replicas.all(has)).then_some(())
        })
        .await;
    }

    /// Who runs and is not isolated.
    pub fn reachable(&self) -> Vec<usize> {
        let own = self.members.iter().enumerate();
        let own = own.filter(|(n, member)| member.process.answers() && !self.isolated.contains(n));
        own.map(|(n, _)| n).collect()
    }

    /// Kills it as a power cut would; nothing of what it held in memory is left, and what `lag` holds is lost.
    pub fn kill(&mut self, n: usize) {
        self.members[n].process.kill();
        self.members[n].gate.close();
    }

    /// Sends it a signal by name, such as `STOP`.
    pub fn signal(&self, n: usize, name: &str) {
        self.members[n].process.signal(name);
    }

    /// Cuts every link between this one and all others of the group, in both directions: connections are reset,
    /// new ones at their first word. Clients go on reaching it, over old connections and new ones.
    pub fn isolate(&mut self, n: usize) {
        self.isolated.insert(n);
        self.link(n, 0..self.count(), 0..=1, State::Cut);
    }

    /// The same, as where packets are lost: what is sent on those links waits, and nobody is told.
    pub fn silence(&mut self, n: usize) {
        self.isolated.insert(n);
        self.link(n, 0..self.count(), 0..=1, State::Held);
    }

    /// Makes all links of this one good again; what has waited arrives.
    pub fn heal(&mut self, n: usize) {
        self.isolated.remove(&n);
        self.link(n, 0..self.count(), 0..=1, State::Carried);
    }

    /// Decides on the links between one and others, to their first port, the second one, or both.
    pub fn link(
        &self,
        n: usize,
        others: impl IntoIterator<Item = usize>,
        ports: impl IntoIterator<Item = u16> + Clone,
        state: State,
    ) {
        let ip = |n: usize| -> IpAddr { self.members[n].address.ip() };
        for other in others.into_iter().filter(|other| *other != n) {
            for port in ports.clone() {
                let port = self.members[n].address.port() + port;
                self.members[n].gate.set(ip(other), port, state);
                self.members[other].gate.set(ip(n), port, state);
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (n, member) in self.members.iter().enumerate() {
                let log = std::fs::read_to_string(member.directory.join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(40)..].join("\n");
                eprintln!("--- {n}, {}, said at last ---\n{last}", member.address);
            }
        }
    }
}
