//! `twinshore`: one POSIX volume on two shores. This file only wires; the commands are in `commands/`.

mod arguments;
mod buckets;
mod claim_arguments;
mod commands;
mod error;
mod logging;
mod output;
mod units;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    logging::start(arguments.log_json);
    match commands::run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twinshore: {}", error::with_causes(&error));
            ExitCode::FAILURE
        }
    }
}
