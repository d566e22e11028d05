//! The command line: one file per command.

mod bench;
mod check_config;
mod client;
mod jobs;
mod key;
mod migrate;
mod openapi;
mod publish;
mod serve;
mod tail;
mod token;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::engine::database_options;
use crate::settings::{Overrides, Settings, Warning, load};
use crate::storage::{Database, StorageRuntime, StoreError};
use crate::telemetry::Metrics;

/// Actor-model realtime engine: events over SSE from one binary.
#[derive(Debug, Parser)]
#[command(name = "bongsu", version, about, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

const EXAMPLES: &str = "Examples:
  bongsu                                     serve on 127.0.0.1:8080 with SQLite in ./data
  bongsu key create --tenant acme --scopes publish,subscribe
  bongsu token create --tenant acme --sub kim --roles manager --ttl 3600
  bongsu jobs list --tenant acme             dead jobs; jobs retry and jobs purge take their ids
  bongsu tail --topics fleet:FLT-A01 --key bk_...
  bongsu publish --topic topic:news --type headline --data '{\"text\":\"hello\"}' --key bk_...";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until told to stop (the default command)
    Serve(serve::ServeArgs),
    /// Bring the database's schema up to date
    Migrate(Common),
    /// Check the configuration and print what is in force, secrets masked
    CheckConfig(Common),
    /// Make, import, list and revoke API keys; works while a server runs and when none does
    Key(key::KeyArgs),
    /// Make tokens (JWT) for users; works while a server runs and when none does
    Token(token::TokenArgs),
    /// List jobs, and retry or purge dead ones; works while a server runs and when none does
    Jobs(jobs::JobsArgs),
    /// Publish one event to a running server
    Publish(publish::PublishArgs),
    /// Listen to topics of a running server; resumes by itself
    Tail(tail::TailArgs),
    /// Print the OpenAPI 3.1 description of the HTTP interface
    Openapi,
    /// Measure a running server
    Bench(bench::BenchArgs),
}

/// Where the configuration and the data are.
#[derive(Clone, Debug, Args)]
struct Common {
    /// Configuration file instead of config/{BONGSU_ENV}.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the embedded database
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print for machines: one JSON value per line
    #[arg(long)]
    json: bool,
}

impl Common {
    fn settings(&self, more: &[(&'static str, Option<String>)]) -> anyhow::Result<(Settings, Vec<Warning>)> {
        let data_dir = self.data_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned());
        let values = [("storage.data_dir", data_dir)].into_iter().chain(more.iter().cloned());
        let values = values.filter_map(|(key, value)| Some((key, value?))).collect();
        Ok(load(&Overrides { file: self.config.clone(), values })?)
    }
}

/// Runs one command to its end.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Migrate(args)) => migrate::run(&args),
        Some(Command::CheckConfig(args)) => check_config::run(&args),
        Some(Command::Key(args)) => key::run(&args),
        Some(Command::Token(args)) => token::run(&args),
        Some(Command::Jobs(args)) => jobs::run(&args),
        Some(Command::Publish(args)) => publish::run(&args),
        Some(Command::Tail(args)) => tail::run(&args),
        Some(Command::Openapi) => openapi::run(),
        Some(Command::Bench(args)) => bench::run(&args),
    }
}

/// Runs `work` against the database that the settings name, and the migrations that brought it up to date.
fn with_database<T, W, F>(settings: &Settings, work: W) -> anyhow::Result<T>
where
    T: Send + 'static,
    W: FnOnce(Database, Vec<String>) -> F,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let runtime = StorageRuntime::start()?;
    let options = database_options(settings);
    let handle = runtime.handle();
    runtime.block_on(async {
        let opened = handle.spawn(async move {
            let runtime = tokio::runtime::Handle::current();
            let database = Database::open(&options, runtime, &Metrics::default()).await?;
            let ran = database.migrate().await?;
            Ok::<_, StoreError>((database, ran))
        });
        let (database, ran) = opened.await??;
        handle.spawn(work(database, ran)).await?
    })
}
