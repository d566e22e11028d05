use std::io::Write as _;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::Common;
use crate::engine::{Engine, FirstKey, StartOptions, Started};
use crate::settings::Settings;
use crate::telemetry::{Logging, init_logging};

/// Options of `serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    common: Common,
    /// Address to serve on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    bind: Option<String>,
    /// Start every event log afresh: after the whole data directory was restored from a backup
    #[arg(long)]
    new_epoch: bool,
}

impl ServeArgs {
    fn settings(&self) -> anyhow::Result<(Settings, Vec<crate::settings::Warning>)> {
        self.common.settings(&[("server.bind", self.bind.clone())])
    }
}

/// Serves until SIGTERM or SIGINT.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let (settings, warnings) = args.settings()?;
    let logging = init_logging(&settings.logging)?;
    for warning in warnings {
        tracing::warn!("{}", warning.0);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // before the start, so that a signal during it is not lost
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hangup = signal(SignalKind::hangup())?;
        let engine = Engine::start(settings, StartOptions { new_epoch: args.new_epoch })?;
        announce(engine.started(), args.common.json)?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => reload(args, &logging, &engine),
            }
        }
        engine.shutdown();
        Ok(())
    })
}

/// Rereads what can change while serving: the log level, limits, and files that options name.
fn reload(args: &ServeArgs, logging: &Logging, engine: &Engine) {
    match args.settings() {
        Ok((settings, _)) => {
            let set = logging.set_level(&settings.logging.level);
            tracing::info!(level = settings.logging.level, set, "configuration reread");
            if !engine.reload(settings) {
                tracing::error!("the former configuration is still being put in force; nothing else changed");
            }
        }
        Err(error) => tracing::error!(%error, "the configuration could not be reread; nothing changed"),
    }
}

fn announce(started: &Started, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let mut line = serde_json::json!({"event": "listening", "address": started.address.to_string()});
        if let Some(address) = started.metrics_address {
            line["metrics_address"] = address.to_string().into();
        }
        if let Some(first) = &started.first_key {
            line["key"] = first.key.clone().into();
        }
        writeln!(out, "{line}")?;
    } else {
        let scheme = if started.is_tls { "https" } else { "http" };
        writeln!(out, "Bongsu serves on {scheme}://{}", started.address)?;
        match &started.first_key {
            Some(first) => write!(out, "{}", first_steps(started, first))?,
            None => writeln!(
                out,
                "Make a key: bongsu key create --tenant default --scopes publish,subscribe,manage"
            )?,
        }
    }
    out.flush().context("standard output")
}

/// What a newcomer can copy into two terminals.
fn first_steps(started: &Started, first: &FirstKey) -> String {
    let (address, key) = (started.address, &first.key);
    format!(
        "
A key was made for a first look (tenant `default`; shown only now, id {}):
  {key}

Listen, in a second terminal:
  curl -N -H 'X-API-Key: {key}' 'http://{address}/v2/realtime/ei-updates?fleet_ids=FLT-A01'

Post, in a third one:
  curl -H 'X-API-Key: {key}' -H 'Content-Type: application/json' -d '{{\"fleet_id\":\"FLT-A01\",\"new_ei\":72.5}}' http://{address}/v2/fleet/ei-update

",
        first.key_id
    )
}
