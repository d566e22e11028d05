//! Servers that log into files.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::{Server, ServerOptions, eventually};

/// A server that logs into files, and the configuration file that says at which level.
pub struct Logged {
    /// The server.
    pub server: Server,
    /// Holds its configuration, and in `logs` what it writes.
    pub files: TempDir,
    config: PathBuf,
}

impl Logged {
    /// At a level.
    pub fn start(level: &str) -> Self {
        Self::with(level, ServerOptions::default())
    }

    /// At a level and with options.
    pub fn with(level: &str, mut options: ServerOptions) -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let config = files.path().join("bongsu.toml");
        std::fs::write(&config, at_level(level)).expect("writable");
        options.args.extend(["--config".to_owned(), config.to_string_lossy().into_owned()]);
        let server = Server::with(options.set("logging.dir", files.path().join("logs").display()));
        Logged { server, files, config }
    }

    /// Has it reread its configuration.
    pub fn reread(&self, config: &str) {
        std::fs::write(&self.config, config).expect("writable");
        self.server.signal("HUP");
    }

    /// What a file holds so far.
    pub fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.files.path().join("logs").join(file)).expect("readable")
    }

    /// The complete lines of a file so far, each of which has to be JSON.
    pub fn lines(&self, file: &str) -> Vec<Value> {
        let text = self.text(file);
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    /// The first line that is wanted, once there is one.
    pub async fn line(&self, file: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually("a log line", async || self.lines(file).into_iter().find(&wanted)).await
    }
}

/// The configuration that asks for a level.
pub fn at_level(level: &str) -> String {
    format!("[logging]\nlevel = \"{level}\"\n")
}

/// Whether a line is this message.
pub fn says(message: &'static str) -> impl Fn(&Value) -> bool {
    move |line| line["message"] == message
}
