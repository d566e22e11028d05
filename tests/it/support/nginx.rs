//! Debian's nginx with the configuration that is shipped.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{Api, Backend, Server, ServerOptions, eventually, in_package};

/// What is named in the shipped file.
const NODES: [&str; 3] = ["10.0.0.11:8080", "10.0.0.12:8080", "10.0.0.13:8080"];

/// Three nodes that believe the proxy before them.
pub async fn cluster(options: ServerOptions) -> (Server, Nginx) {
    let server = Server::with(options.set("server.trusted_proxies", "127.0.0.1").cluster(3));
    let nginx = Nginx::before(&server.addresses()).await;
    (server, nginx)
}

/// The same where the test's backend is a cluster, else the one node alone; and calls to whichever node it may be.
pub async fn balanced(options: ServerOptions) -> (Server, Api, Option<Nginx>) {
    if Backend::of_this_test() == Backend::Embedded {
        let server = Server::with(options);
        let api = server.api();
        return (server, api, None);
    }
    let (server, nginx) = cluster(options).await;
    let api = nginx.api(server.key());
    (server, api, Some(nginx))
}

/// A running nginx; ended when dropped.
pub struct Nginx {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Nginx {
    /// In front of three nodes, as shipped.
    pub async fn before(nodes: &[SocketAddr]) -> Self {
        Self::with(nodes, str::to_owned).await
    }

    /// With a change to the shipped file.
    pub async fn with(nodes: &[SocketAddr], change: impl Fn(&str) -> String) -> Self {
        // another process may take the port first: then the next one
        for _ in 0..5 {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = listener.local_addr().expect("an address");
            drop(listener);
            let directory = prepare(nodes, address, &change);
            if let Some(child) = launch(directory.path()).await {
                return Nginx { child, address, directory };
            }
        }
        panic!("nginx did not start");
    }

    /// What it says of the shipped file, with a change to it, and whether it would start with that.
    pub fn check(change: impl Fn(&str) -> String) -> (bool, String) {
        let address: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let directory = prepare(&[address; 3], address, &change);
        let output = command(directory.path()).arg("-t").output().expect("nginx runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls through it.
    pub fn api(&self, key: &str) -> Api {
        Api::new(self.address, Some(key.to_owned()))
    }

    /// All that it has logged or said so far.
    pub fn logs(&self) -> String {
        read_all(&self.directory.path().join("logs"))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // a killed master would leave its workers behind
        let ended = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let ended = ended.and_then(|_| self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- nginx ended with {ended:?} and said ---\n{}", self.logs());
        }
    }
}

/// Lines of the shipped file that are off, on: those that are wanted, by what follows their `#`.
pub fn switched_on(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    let line = |line: &str| {
        let own = line.trim_start();
        let is_prose = own.starts_with("# ") && !own.starts_with("#    ");
        match own.strip_prefix('#') {
            Some(own) if !is_prose && wanted(own) => own.to_owned() + "\n",
            _ => line.to_owned() + "\n",
        }
    };
    text.lines().map(line).collect()
}

/// Its directory, with the shipped file in it: changed in addresses and paths, and otherwise only as told.
fn prepare(nodes: &[SocketAddr], address: SocketAddr, change: impl Fn(&str) -> String) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // its workers are another user's
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    std::fs::create_dir(directory.path().join("logs")).expect("writable");
    let own = directory.path().display();
    let shipped = std::fs::read_to_string(in_package("deploy/nginx.conf")).expect("it is shipped");
    let mut text = change(&shipped);
    assert_eq!(nodes.len(), NODES.len());
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|name| format!("{name}_temp_path {own}/{name};")).join(" ");
    let paths = [
        ("/var/log/nginx/", format!("{own}/logs/")),
        ("/run/nginx.pid", format!("{own}/nginx.pid")),
        ("\nhttp {\n", format!("\nhttp {{ {temporary}\n")),
    ];
    let nodes = NODES.into_iter().zip(nodes.iter().map(SocketAddr::to_string));
    for (shipped, own) in nodes.chain(paths) {
        assert!(text.contains(shipped), "{shipped} is in the shipped file");
        text = text.replace(shipped, &own);
    }
    let lines = text.lines().filter(|line| !line.contains("listen [::]:"));
    let lines = lines.map(|line| match line.trim_start().strip_prefix("listen ") {
        Some(own) => format!("listen {address} {}\n", own.split_once(' ').expect("default_server").1),
        None => line.to_owned() + "\n",
    });
    std::fs::write(directory.path().join("nginx.conf"), lines.collect::<String>()).expect("writable");
    directory
}

/// What it is started by, with the environment's nginx if it names one.
fn command(directory: &Path) -> Command {
    let program = std::env::var("BONGSU_TEST_NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned());
    let mut command = Command::new(program);
    command.arg("-p").arg(directory).arg("-c").arg(directory.join("nginx.conf"));
    command.args(["-e", "stderr", "-g", "daemon off;"]).stdin(Stdio::null());
    command
}

/// None when it could not listen.
async fn launch(directory: &Path) -> Option<Child> {
    let said = std::fs::File::create(directory.join("logs/stderr")).expect("writable");
    let mut child = command(directory).stdout(Stdio::null()).stderr(said).spawn().expect("nginx runs");
    // its file is written when its sockets are open
    let is_up = || std::fs::read_to_string(directory.join("nginx.pid")).is_ok_and(|pid| !pid.is_empty());
    let is_up = eventually("nginx to listen, or to end", async || {
        let is_over = child.try_wait().expect("it is ours").is_some();
        (is_over || is_up()).then_some(!is_over)
    });
    if is_up.await {
        return Some(child);
    }
    eprintln!("{}", read_all(&directory.join("logs")));
    None
}

fn read_all(directory: &Path) -> String {
    let files = std::fs::read_dir(directory).expect("readable").map(|entry| entry.expect("readable").path());
    files.map(|path| std::fs::read_to_string(path).expect("readable")).collect()
}
