//! The composition root: the only place that knows everybody.
//!
//! [`Engine::start`] brings the parts up in order (storage → identity → log → workers → sockets) on
//! threads of its own, so that several engines can live in one process; [`Engine::shutdown`] takes them
//! down in the opposite order, at a pace that clients can follow.

mod backing;
mod blocks;
mod client_io;
mod first_key;
mod front;
mod jobs;
mod reload;
mod run;
mod server;
mod shutdown;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

pub use first_key::FirstKey;
pub use run::{StartOptions, database_options};

use crate::bridge::BridgeError;
use crate::settings::Settings;
use crate::storage::StoreError;
use crate::telemetry::Metrics;

/// Why an engine did not start; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("{0}")]
    Store(StoreError),
    /// Redis.
    #[error("redis.url: {0}")]
    Bridge(BridgeError),
    /// A socket.
    #[error("cannot listen on {address}: {problem}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        problem: String,
    },
    /// Keys that were generated for a first look must not face the outside.
    #[error(
        "{address} is reachable from outside, and a generated development key is in force: \
         make keys of your own (bongsu key create) and revoke it (bongsu key revoke {key_ids})"
    )]
    DevelopmentKeys {
        /// Where it was to listen.
        address: SocketAddr,
        /// The keys to revoke.
        key_ids: String,
    },
    /// A combination of options that this build cannot serve.
    #[error("{0}")]
    Unsupported(String),
    /// Threads or runtimes.
    #[error("cannot start: {0}")]
    Runtime(String),
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        StartError::Store(error)
    }
}

impl From<BridgeError> for StartError {
    fn from(error: BridgeError) -> Self {
        StartError::Bridge(error)
    }
}

/// What a started engine tells about itself.
#[derive(Clone, Debug)]
pub struct Started {
    /// Where it serves.
    pub address: SocketAddr,
    /// Whether it serves TLS.
    pub is_tls: bool,
    /// Where it serves open metrics, if anywhere.
    pub metrics_address: Option<SocketAddr>,
    /// The key made at the first start of a data directory.
    pub first_key: Option<FirstKey>,
    /// The engine's metrics.
    pub metrics: Arc<Metrics>,
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    started: Started,
    /// Takes options that may change while serving; its end is the engine's.
    reload: Option<tokio::sync::mpsc::Sender<Box<Settings>>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts everything; returns when requests are served.
    pub fn start(settings: Settings, options: StartOptions) -> Result<Self, StartError> {
        let (report, started) = mpsc::sync_channel(1);
        let (reload, reloads) = tokio::sync::mpsc::channel(1);
        let thread = std::thread::Builder::new()
            .name("bongsu-engine".into())
            .spawn(move || run::run(settings, options, &report, reloads))
            .map_err(|error| StartError::Runtime(error.to_string()))?;
        let started =
            started.recv().map_err(|_| StartError::Runtime("the engine's thread ended".into()))??;
        Ok(Engine { started, reload: Some(reload), thread: Some(thread) })
    }

    /// What it tells about itself.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// Puts those of the options in force that may change while serving: limits, and the files that options
    /// name. False when it is busy with the former ones.
    pub fn reload(&self, settings: Settings) -> bool {
        self.reload.as_ref().is_some_and(|reload| reload.try_send(Box::new(settings)).is_ok())
    }

    /// Ends sessions, drains what waits, closes sockets and the database; returns when all is done.
    pub fn shutdown(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.reload.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread panicked");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}
