use clap::{Args, Subcommand};

use crate::bench::{FanoutOptions, fanout};

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

/// Runs one of the measurements; progress goes to standard error.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let BenchCommand::Fanout { options, json } = &args.command;
    let report = fanout(options, &mut |line| eprintln!("{line}"))?;
    match json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{}", report.table()),
    }
    Ok(())
}
