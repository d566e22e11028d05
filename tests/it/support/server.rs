//! The real binary as a child process; several of them are the nodes of a cluster.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::{Api, Backend, redis};

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Environment, `BONGSU__SECTION__KEY` for options.
    pub env: Vec<(String, String)>,
    /// More arguments of `serve`.
    pub args: Vec<String>,
    /// A data directory to use instead of a fresh one.
    pub data_dir: Option<PathBuf>,
    /// A program to run the server under, with its arguments (`faketime`, …).
    pub under: Vec<String>,
    /// Another binary than the one under test.
    pub program: Option<PathBuf>,
    /// What it stands on, where that is not the backend of the test.
    pub backend: Option<Backend>,
    /// How many nodes a cluster has; by default two.
    pub nodes: Option<usize>,
}

impl ServerOptions {
    /// One more option, as `section.key`.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        let name = format!("BONGSU__{}", key.to_uppercase().replace('.', "__"));
        self.env.push((name, value.to_string()));
        self
    }

    /// As one node on this database of PostgreSQL.
    pub fn on_postgres(mut self, url: &str) -> Self {
        self.backend = Some(Backend::Postgres);
        self.env("DATABASE_URL", url)
    }

    /// As a cluster of this many nodes.
    pub fn cluster(mut self, nodes: usize) -> Self {
        (self.backend, self.nodes) = (Some(Backend::Cluster), Some(nodes));
        self
    }

    /// With so many nodes, where a cluster it is.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = Some(nodes);
        self
    }

    /// Without the limits that a walk of many calls from one address would reach.
    pub fn unlimited(self) -> Self {
        let names = ["attempts", "user_connects"].map(|name| format!("{name}_per_min"));
        let rates = ["user_commands", "user_publishes"].map(|name| format!("{name}_per_s"));
        let names = names.into_iter().chain(rates).chain(["failure_delay_max_ms".to_owned()]);
        names.fold(self, |own, name| own.set(&format!("limits.{name}"), 0))
    }

    /// By another binary, such as that of another release.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// One more variable of the environment.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A process.
struct Node {
    child: Child,
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    data_dir: PathBuf,
    stderr: Arc<Mutex<String>>,
    /// What it said before it was started again.
    former_stderr: String,
}

/// A running server, or the nodes of a cluster that stand for one; killed when dropped.
pub struct Server {
    nodes: Vec<Node>,
    key: String,
    options: ServerOptions,
    _temporary: Option<TempDir>,
}

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_bongsu")
}

/// The binary of what the next release could be: see `src/bridge/release.rs`.
pub fn next_release() -> PathBuf {
    let path = std::env::var_os("BONGSU_TEST_NEXT_RELEASE");
    path.expect("BONGSU_TEST_NEXT_RELEASE, as ./test sets it").into()
}

/// Runs a command of the binary to its end: status, standard output, standard error.
pub fn run_cli(args: &[&str]) -> (ExitStatus, String, String) {
    run_cli_with(&[], args)
}

/// The same with variables of the environment.
pub fn run_cli_with(env: &[(&str, &str)], args: &[&str]) -> (ExitStatus, String, String) {
    let output =
        clean(Command::new(binary())).args(args).envs(env.iter().copied()).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status, text(&output.stdout), text(&output.stderr))
}

/// Without variables of the surroundings that the binary would read.
fn clean(mut command: Command) -> Command {
    for name in [
        "DATABASE_URL",
        "REDIS_URL",
        "REDIS_HOST",
        "REDIS_PORT",
        "REDIS_PASSWORD",
        "SERVER_ID",
        "LOG_LEVEL",
        "JWT_SECRET",
        "MAX_WORKERS",
        "CORS_ORIGINS",
        "ALLOWED_ORIGINS",
        "BONGSU_ENV",
    ] {
        command.env_remove(name);
    }
    command
}

impl Server {
    /// A server on a free port with a data directory of its own.
    pub fn start() -> Self {
        Self::with(ServerOptions::default())
    }

    /// A server with options.
    pub fn with(options: ServerOptions) -> Self {
        let (options, count) = prepare(options);
        let temporary =
            options.data_dir.is_none().then(|| tempfile::tempdir().expect("a temporary directory"));
        let data_dir = options
            .data_dir
            .clone()
            .unwrap_or_else(|| temporary.as_ref().expect("made above").path().to_owned());
        let mut nodes = Vec::new();
        let mut key = None;
        for number in 0..count {
            let data_dir =
                if count == 1 { data_dir.clone() } else { data_dir.join(format!("node-{number}")) };
            match Node::start(&options, data_dir) {
                Ok((node, made)) => {
                    nodes.push(node);
                    key = key.or(made);
                }
                Err(error) => panic!("the server did not start: {error}"),
            }
        }
        let make = || create_key(&options, &nodes[0].data_dir, "publish,subscribe,manage");
        let key = key.unwrap_or_else(make);
        Server { nodes, key, options, _temporary: temporary }
    }

    /// Starts where none is expected to come up: what it said on standard error, and its exit code.
    pub fn refuse(options: ServerOptions, bind: &str) -> String {
        let (options, _) = prepare(options);
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let data_dir = options.data_dir.clone().unwrap_or_else(|| temporary.path().to_owned());
        match Self::launch(&options, &data_dir, bind) {
            Ok((mut child, _, line)) => {
                child.kill().expect("it runs");
                child.wait().expect("it ends");
                panic!("the server started: {line}");
            }
            Err(error) => error,
        }
    }

    fn launch(
        options: &ServerOptions,
        data_dir: &Path,
        bind: &str,
    ) -> Result<(Child, Arc<Mutex<String>>, Value), String> {
        let program = options.program.clone().unwrap_or_else(|| binary().into());
        let words: Vec<_> = options.under.iter().map(Into::into).chain([program.into_os_string()]).collect();
        let mut command = clean(Command::new(&words[0]));
        command.args(&words[1..]).args(["serve", "--json", "--bind", bind, "--data-dir"]).arg(data_dir);
        command.args(&options.args).envs(options.env.iter().cloned());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it spawns");
        let stderr = Arc::new(Mutex::new(String::new()));
        let (collected, mut source) = (stderr.clone(), child.stderr.take().expect("piped"));
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = source.read(&mut piece) {
                collected.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        match serde_json::from_str(&line) {
            Ok(value) => Ok((child, stderr, value)),
            Err(_) => {
                let status = child.wait().expect("it ends");
                reader.join().expect("no panic");
                Err(format!("{status}: {}", stderr.lock().unwrap()))
            }
        }
    }

    /// Where it serves; of a cluster, the first node.
    pub fn address(&self) -> SocketAddr {
        self.nodes[0].address
    }

    /// How many nodes it has.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Where every node serves.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// Where it serves open metrics, if asked to.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.nodes[0].metrics_address
    }

    /// The same of every node.
    pub fn metrics_addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().filter_map(|node| node.metrics_address).collect()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid_of(0)
    }

    /// The process of a node.
    pub fn pid_of(&self, node: usize) -> u32 {
        self.nodes[node].child.id()
    }

    /// A key for publish, subscribe and manage in tenant `default`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its data.
    pub fn data_dir(&self) -> &Path {
        &self.nodes[0].data_dir
    }

    /// What it, or every node, has logged so far.
    pub fn stderr(&self) -> String {
        self.nodes.iter().map(|node| node.stderr.lock().unwrap().clone()).collect()
    }

    /// Calls with its key.
    pub fn api(&self) -> Api {
        self.api_with(&self.key)
    }

    /// Calls with another key.
    pub fn api_with(&self, key: &str) -> Api {
        Api::across(&self.addresses(), Some(key.to_owned()))
    }

    /// Calls with the key of another tenant.
    pub fn api_of(&self, tenant: &str, scopes: &str) -> Api {
        self.new_key(&["--tenant", tenant, "--scopes", scopes]).1
    }

    /// A new key by options of `key create`: its id, and calls with it.
    pub fn new_key(&self, options: &[&str]) -> (String, Api) {
        let made = make_key(&self.options, self.data_dir(), options);
        (
            made["key_id"].as_str().expect("an id").to_owned(),
            self.api_with(made["key"].as_str().expect("a key")),
        )
    }

    /// Calls that read the node's figures.
    pub fn operator(&self) -> Api {
        self.api_with(&self.create_key("operator"))
    }

    /// A new key of tenant `default`.
    pub fn create_key(&self, scopes: &str) -> String {
        create_key(&self.options, self.data_dir(), scopes)
    }

    /// The URL of its database, where that is PostgreSQL.
    pub fn database_url(&self) -> &str {
        let own = self.options.env.iter().find(|(name, _)| name == "DATABASE_URL");
        &own.expect("it stands on PostgreSQL").1
    }

    /// Options and environment that it was started with.
    pub fn options(&self) -> &ServerOptions {
        &self.options
    }

    /// Kills it as a power cut would (SIGKILL); of a cluster, every node.
    pub fn kill(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.kill_node(node));
    }

    /// Kills one node.
    pub fn kill_node(&mut self, node: usize) {
        let child = &mut self.nodes[node].child;
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }

    /// Sends a signal by name, such as `TERM`, to every node.
    pub fn signal(&self, name: &str) {
        (0..self.nodes.len()).for_each(|node| self.signal_node(node, name));
    }

    /// Sends a signal to one node.
    pub fn signal_node(&self, node: usize, name: &str) {
        let pid = self.pid_of(node).to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for its end; of a cluster, the first node's.
    pub async fn ended(&mut self) -> ExitStatus {
        self.node_ended(0).await
    }

    /// Starts again on the same data and the same port, with more options if given.
    pub fn restart(&mut self, change: impl FnOnce(ServerOptions) -> ServerOptions) {
        let running = (0..self.nodes.len()).filter(|node| self.is_running(*node)).collect::<Vec<_>>();
        running.into_iter().for_each(|node| self.kill_node(node));
        self.options = change(self.options.clone());
        (0..self.nodes.len()).for_each(|node| self.start_node(node));
    }

    /// Kills it, and starts it with logs that begin afresh.
    pub fn renew_logs(&mut self) {
        self.kill();
        self.options.args.push("--new-epoch".to_owned());
        self.restart(|options| options);
        self.options.args.retain(|own| own != "--new-epoch");
    }

    /// Waits for the end of a node.
    pub async fn node_ended(&mut self, node: usize) -> ExitStatus {
        let child = &mut self.nodes[node].child;
        super::eventually("the node's end", async || child.try_wait().expect("it is ours")).await
    }

    /// Starts a node again that has ended.
    pub fn start_node(&mut self, node: usize) {
        self.start_node_with(node, |options| options);
    }

    /// The same with other options than the other nodes have.
    pub fn start_node_with(&mut self, node: usize, change: impl FnOnce(ServerOptions) -> ServerOptions) {
        let options = change(self.options.clone());
        let own = &mut self.nodes[node];
        let (child, stderr, _) =
            Self::launch(&options, &own.data_dir, &own.address.to_string()).expect("it starts");
        own.child = child;
        own.former_stderr += &std::mem::replace(&mut own.stderr, stderr).lock().unwrap();
    }

    fn is_running(&mut self, node: usize) -> bool {
        self.nodes[node].child.try_wait().expect("it is ours").is_none()
    }
}

impl Node {
    /// Starts on a free port; also the key that the start has made, if any.
    fn start(options: &ServerOptions, data_dir: PathBuf) -> Result<(Self, Option<String>), String> {
        let (child, stderr, line) = Server::launch(options, &data_dir, "127.0.0.1:0")?;
        let address = line["address"].as_str().expect("an address").parse().expect("an address");
        let metrics_address = line["metrics_address"].as_str().map(|text| text.parse().expect("an address"));
        Ok((
            Node { child, address, metrics_address, data_dir, stderr, former_stderr: String::new() },
            line["key"].as_str().map(str::to_owned),
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // none goes on while others end
        self.nodes.iter_mut().for_each(Node::end);
    }
}

impl Node {
    fn end(&mut self) {
        // one that has ended already needs no killing
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let said = self.stderr.lock().unwrap();
            eprintln!("--- {} said ---\n{}{said}", self.address, self.former_stderr);
        }
    }
}

/// Gives a cluster that has none yet a database and a prefix of its own; the number of nodes.
fn prepare(mut options: ServerOptions) -> (ServerOptions, usize) {
    let backend = options.backend.unwrap_or_else(Backend::of_this_test);
    options.backend = Some(backend);
    if backend == Backend::Embedded {
        return (options, 1);
    }
    let is_set = |options: &ServerOptions, name| options.env.iter().any(|(own, _)| own == name);
    if !is_set(&options, "DATABASE_URL") {
        let database = super::postgres::database().expect("BONGSU_TEST_POSTGRES_URL, as ./test sets it");
        options = options.env("DATABASE_URL", database);
    }
    if backend == Backend::Postgres {
        return (options, 1);
    }
    if !is_set(&options, "REDIS_URL") {
        options = options.env("REDIS_URL", redis::shared_url());
    }
    if !is_set(&options, "BONGSU__REDIS__PREFIX") {
        options = options.set("redis.prefix", redis::own_prefix());
    }
    let count = options.nodes.unwrap_or(2);
    (options, count)
}

fn create_key(options: &ServerOptions, data_dir: &Path, scopes: &str) -> String {
    make_key(options, data_dir, &["--scopes", scopes])["key"].as_str().expect("a key").to_owned()
}

fn make_key(server: &ServerOptions, data_dir: &Path, options: &[&str]) -> Value {
    let data_dir = data_dir.to_string_lossy();
    let args = [&["key", "create", "--json", "--data-dir", &data_dir], options].concat();
    let database: Vec<(&str, &str)> = server
        .env
        .iter()
        .filter(|(name, _)| name == "DATABASE_URL" || name.starts_with("BONGSU__STORAGE__"))
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let (status, out, err) = run_cli_with(&database, &args);
    assert!(status.success(), "{err}");
    serde_json::from_str(&out).expect("JSON")
}
