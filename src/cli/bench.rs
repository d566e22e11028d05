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

/// Runs one of the measurements; progress goes to standard error, as a bar on a terminal, else line by line.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let BenchCommand::Fanout { options, json } = &args.command;
    let mut is_drawn = false;
    let report = fanout(options, &mut |done, text| {
        if std::io::stderr().is_terminal() {
            let filled = (done.clamp(0.0, 1.0) * BAR as f64) as usize;
            eprint!("\r\x1b[K[{}{}] {text}", "#".repeat(filled), "-".repeat(BAR - filled));
            is_drawn = true;
        } else {
            eprintln!("{text}");
        }
    });
    if is_drawn {
        eprintln!();
    }
    let report = report?;
    match json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{}", report.table()),
    }
    Ok(())
}
