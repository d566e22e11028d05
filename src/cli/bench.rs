use std::io::IsTerminal;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::bench::{
    CommandsOptions, FanoutOptions, Progress, RankingOptions, StormOptions, commands, fanout, ranking, storm,
};

/// Characters of the progress bar.
const BAR: usize = 30;

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// One event to many subscribers: processor time, latency and memory per connection
    Fanout {
        #[command(flatten)]
        options: FanoutOptions,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// All clients drop at once and resume: until each has what it missed, beside a reconnect without a cursor
    Storm {
        #[command(flatten)]
        options: StormOptions,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// From a command over HTTP to clients of another node: latency at light load, beside other servers and a floor
    Commands {
        #[command(flatten)]
        options: CommandsOptions,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// One proposal among many ranked anew, beside sorting and Redis; or, with --address, proposals into one bid of a server
    Ranking {
        #[command(flatten)]
        options: RankingOptions,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs one of the measurements.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.command {
        BenchCommand::Fanout { options, json } => {
            let report = with_bar(|progress| fanout(options, progress))?;
            print(&report, *json, || report.table())
        }
        BenchCommand::Storm { options, json } => {
            let report = with_bar(|progress| storm(options, progress))?;
            print(&report, *json, || report.table())
        }
        BenchCommand::Commands { options, json } => {
            let report = with_bar(|progress| commands(options, progress))?;
            print(&report, *json, || report.table())
        }
        BenchCommand::Ranking { options, json } => {
            let report = with_bar(|progress| ranking(options, progress))?;
            print(&report, *json, || report.table())
        }
    }
}

/// Progress goes to standard error as a bar, and nowhere when that is no terminal.
fn with_bar<T>(work: impl FnOnce(&mut Progress<'_>) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let is_terminal = std::io::stderr().is_terminal();
    let report = work(&mut |done, text| {
        let filled = (done.clamp(0.0, 1.0) * BAR as f64) as usize;
        if is_terminal {
            eprint!("\r\x1b[K[{}{}] {text}", "#".repeat(filled), "-".repeat(BAR - filled));
        }
    });
    if is_terminal {
        eprintln!();
    }
    report
}

fn print(report: &impl Serialize, json: bool, table: impl FnOnce() -> String) -> anyhow::Result<()> {
    match json {
        true => println!("{}", serde_json::to_string(report)?),
        false => print!("{}", table()),
    }
    Ok(())
}
