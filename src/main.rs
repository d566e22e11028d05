//! The `bongsu` binary: reads the command line, runs one command, exits 0 (done), 1 (failed) or 2 (usage).

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let command = bongsu::cli::Cli::parse();
    match bongsu::cli::run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bongsu: {error:#}");
            ExitCode::FAILURE
        }
    }
}
