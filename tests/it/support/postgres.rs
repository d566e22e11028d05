//! PostgreSQL: a database of its own on the server that the runner has started, or a server of its own.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::tls::Certificates;

/// The URL of a new, empty database; None without `BONGSU_TEST_POSTGRES_URL`.
pub fn database() -> Option<String> {
    let server = std::env::var("BONGSU_TEST_POSTGRES_URL").ok()?;
    let name = format!("test_{:016x}", bongsu::clock::random_u64());
    sql(&server, &format!("CREATE DATABASE {name}"));
    let (base, _) = server.rsplit_once('/').expect("a URL with a database");
    Some(format!("{base}/{name}"))
}

/// Runs statements; what they printed, without headings.
pub fn sql(url: &str, statements: &str) -> String {
    let output = psql(url, statements).output().expect("psql runs");
    assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn psql(url: &str, statements: &str) -> Command {
    let mut command = Command::new("psql");
    command.args([url, "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statements]).stdin(Stdio::null());
    command
}

/// A session that holds on to what its statements have locked, until it is dropped.
pub struct Holding(Child);

impl Holding {
    /// Runs statements in a transaction that stays open.
    pub fn open(url: &str, statements: &str) -> Self {
        let mut child = Command::new("psql")
            .args([url, "-XqAt", "-v", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql runs");
        let (input, output) = (child.stdin.as_mut().expect("piped"), child.stdout.as_mut().expect("piped"));
        use std::io::{BufRead as _, Write as _};
        writeln!(input, "BEGIN; {statements}; SELECT 'held';").expect("it reads");
        let held = std::io::BufReader::new(output).lines().any(|line| line.expect("text") == "held");
        assert!(held, "{statements}");
        Holding(child)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        // one that has ended already needs no killing
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A PostgreSQL of a test's own; killed when dropped.
pub struct Postgres {
    child: Option<Child>,
    address: SocketAddr,
    directory: TempDir,
    programs: PathBuf,
    /// Whom it runs as: it refuses to run as root.
    user: Option<(u32, u32)>,
    settings: Vec<String>,
}

impl Postgres {
    /// An empty one on a free port, which lets everybody in.
    pub fn start() -> Self {
        Self::with(&[], &[])
    }

    /// One that speaks TLS as well, and shows a certificate.
    pub fn over_tls(certificates: &Certificates) -> Self {
        let own = Self::prepared();
        for (name, copy) in [("cert.pem", "server.crt"), ("key.pem", "server.key")] {
            let copy = own.data().join(copy);
            std::fs::copy(certificates.path(name), &copy).expect("copied");
            std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o600)).expect("permitted");
            own.give(&copy);
        }
        own.launched(&["ssl=on"])
    }

    /// One with more settings, and with lines before those of its `pg_hba.conf`.
    pub fn with(settings: &[&str], access: &[&str]) -> Self {
        let own = Self::prepared();
        let file = own.data().join("pg_hba.conf");
        let text = std::fs::read_to_string(&file).expect("text");
        std::fs::write(&file, format!("{}\n{text}", access.join("\n"))).expect("written");
        own.launched(settings)
    }

    fn prepared() -> Self {
        let user = is_root().then(|| (id("-u"), id("-g")));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let address = "127.0.0.1:0".parse().expect("an address");
        let (child, settings) = (None, Vec::new());
        let own = Postgres { child, address, directory, programs: programs(), user, settings };
        own.give(own.directory.path());
        let made = own
            .command("initdb")
            .arg("-D")
            .arg(own.data())
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"])
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        own
    }

    fn launched(mut self, settings: &[&str]) -> Self {
        self.settings = settings.iter().map(|own| (*own).to_owned()).collect();
        // another process may take the port first: then the next one
        for _ in 0..5 {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            self.address = listener.local_addr().expect("an address");
            drop(listener);
            if self.launch() {
                return self;
            }
        }
        panic!("PostgreSQL did not start: {}", self.log());
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.address)
    }

    /// Runs statements; what they printed.
    pub fn sql(&self, statements: &str) -> String {
        sql(&self.url(), statements)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Kills it, with all its processes, as a power cut would.
    pub fn kill(&mut self) {
        self.signal("STOP");
        let mut child = self.child.take().expect("it runs");
        for process in self.processes(child.id()) {
            send("KILL", process);
        }
        child.wait().expect("it ends");
    }

    /// Starts it again on its data, at the same address.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it was killed");
        assert!(self.launch(), "the port is still ours: {}", self.log());
    }

    /// Sends a signal by name, such as `STOP`, to all its processes.
    pub fn signal(&self, name: &str) {
        let postmaster = self.child.as_ref().expect("it runs").id();
        // the first one makes the others
        send(name, postmaster);
        self.processes(postmaster).into_iter().skip(1).for_each(|process| send(name, process));
    }

    /// The first process, and those that it has made.
    fn processes(&self, postmaster: u32) -> Vec<u32> {
        let children =
            Command::new("pgrep").args(["-P", &postmaster.to_string()]).output().expect("pgrep runs");
        let children = String::from_utf8_lossy(&children.stdout).into_owned();
        let children = children.lines().map(|line| line.parse().expect("a process"));
        std::iter::once(postmaster).chain(children).collect()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn give(&self, path: &Path) {
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group)).expect("root may");
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.directory.path()).env("LC_ALL", "C").stdin(Stdio::null()).process_group(0);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    #[expect(clippy::disallowed_methods, reason = "what starts it waits for nothing else")]
    fn launch(&mut self) -> bool {
        let log = std::fs::File::create(self.directory.path().join("log")).expect("it opens");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.address.port().to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=100"]
            .into_iter()
            .chain(self.settings.iter().map(String::as_str))
        {
            command.args(["-c", setting]);
        }
        let errors = log.try_clone().expect("a file");
        let mut child = command.stdout(log).stderr(errors).spawn().expect("postgres runs");
        for _ in 0..1500 {
            if child.try_wait().expect("it is ours").is_some() {
                return false;
            }
            let ready = psql(&self.url(), "SELECT pg_postmaster_start_time()").stderr(Stdio::null()).output();
            if ready.expect("psql runs").status.success() {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        false
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

fn send(signal: &str, process: u32) {
    let (signal, process) = (format!("-{signal}"), process.to_string());
    // a process may have ended by itself
    let _ = Command::new("kill").args([&signal, &process]).stderr(Stdio::null()).status();
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").expect("Linux").uid() == 0
}

fn id(of: &str) -> u32 {
    let output = Command::new("id").args([of, "postgres"]).output().expect("id runs");
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .expect("the user that PostgreSQL's package has made")
}

/// Where the newest installed version's server programs are.
fn programs() -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed, as ./test sees to");
    let versions = versions.map(|entry| entry.expect("readable").path());
    let newest = versions
        .filter(|path| path.join("bin/initdb").exists())
        .max_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    newest.expect("PostgreSQL is installed, as ./test sees to").join("bin")
}
