use std::io::IsTerminal;

use clap::{Args, Subcommand};

use crate::bench::{FanoutOptions, fanout};

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
}

/// Runs one of the measurements; progress goes to standard error as a bar, and nowhere when that is no terminal.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let BenchCommand::Fanout { options, json } = &args.command;
    let is_terminal = std::io::stderr().is_terminal();
    let report = fanout(options, &mut |done, text| {
        let filled = (done.clamp(0.0, 1.0) * BAR as f64) as usize;
        if is_terminal {
            eprint!("\r\x1b[K[{}{}] {text}", "#".repeat(filled), "-".repeat(BAR - filled));
        }
    });
    if is_terminal {
        eprintln!();
    }
    let report = report?;
    match json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{}", report.table()),
    }
    Ok(())
}
