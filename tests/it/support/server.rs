//! The real binary as a child process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::Api;

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
}

impl ServerOptions {
    /// One more option, as `section.key`.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        let name = format!("BONGSU__{}", key.to_uppercase().replace('.', "__"));
        self.env.push((name, value.to_string()));
        self
    }

    /// Without the limits that a walk of many calls from one address would reach.
    pub fn unlimited(self) -> Self {
        let names = ["attempts", "user_connects"].map(|name| format!("{name}_per_min"));
        let rates = ["user_commands", "user_publishes"].map(|name| format!("{name}_per_s"));
        let names = names.into_iter().chain(rates).chain(["failure_delay_max_ms".to_owned()]);
        names.fold(self, |own, name| own.set(&format!("limits.{name}"), 0))
    }

    /// One more variable of the environment.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    key: String,
    options: ServerOptions,
    data_dir: PathBuf,
    stderr: Arc<Mutex<String>>,
    _temporary: Option<TempDir>,
}

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_bongsu")
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
        let temporary =
            options.data_dir.is_none().then(|| tempfile::tempdir().expect("a temporary directory"));
        let data_dir = options
            .data_dir
            .clone()
            .unwrap_or_else(|| temporary.as_ref().expect("made above").path().to_owned());
        match Self::launch(&options, &data_dir, "127.0.0.1:0") {
            Ok((child, stderr, line)) => {
                let address = line["address"].as_str().expect("an address").parse().expect("an address");
                let key = line["key"]
                    .as_str()
                    .map_or_else(|| create_key(&data_dir, "publish,subscribe,manage"), str::to_owned);
                let metrics_address =
                    line["metrics_address"].as_str().map(|text| text.parse().expect("an address"));
                Server {
                    child,
                    address,
                    metrics_address,
                    key,
                    options,
                    data_dir,
                    stderr,
                    _temporary: temporary,
                }
            }
            Err(error) => panic!("the server did not start: {error}"),
        }
    }

    /// Starts where none is expected to come up: what it said on standard error, and its exit code.
    pub fn refuse(options: ServerOptions, bind: &str) -> String {
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
        let mut words = options.under.clone();
        words.push(binary().to_owned());
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

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves open metrics, if asked to.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A key for publish, subscribe and manage in tenant `default`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its data.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What it has logged so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Calls with its key.
    pub fn api(&self) -> Api {
        Api::new(self.address, Some(self.key.clone()))
    }

    /// Calls with another key.
    pub fn api_with(&self, key: &str) -> Api {
        Api::new(self.address, Some(key.to_owned()))
    }

    /// Calls with the key of another tenant.
    pub fn api_of(&self, tenant: &str, scopes: &str) -> Api {
        self.new_key(&["--tenant", tenant, "--scopes", scopes]).1
    }

    /// A new key by options of `key create`: its id, and calls with it.
    pub fn new_key(&self, options: &[&str]) -> (String, Api) {
        let made = make_key(&self.data_dir, options);
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
        create_key(&self.data_dir, scopes)
    }

    /// Kills it as a power cut would (SIGKILL).
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        super::eventually("the server's end", async || self.child.try_wait().expect("it is ours")).await
    }

    /// Starts again on the same data and the same port, with more options if given.
    pub fn restart(&mut self, change: impl FnOnce(ServerOptions) -> ServerOptions) {
        if self.child.try_wait().expect("it is ours").is_none() {
            self.kill();
        }
        self.options = change(self.options.clone());
        let (child, stderr, _) =
            Self::launch(&self.options, &self.data_dir, &self.address.to_string()).expect("it starts");
        (self.child, self.stderr) = (child, stderr);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // one that has ended already needs no killing
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- server said ---\n{}", self.stderr());
        }
    }
}

fn create_key(data_dir: &Path, scopes: &str) -> String {
    make_key(data_dir, &["--scopes", scopes])["key"].as_str().expect("a key").to_owned()
}

fn make_key(data_dir: &Path, options: &[&str]) -> Value {
    let data_dir = data_dir.to_string_lossy();
    let args = [&["key", "create", "--json", "--data-dir", &data_dir], options].concat();
    let (status, out, err) = run_cli(&args);
    assert!(status.success(), "{err}");
    serde_json::from_str(&out).expect("JSON")
}
