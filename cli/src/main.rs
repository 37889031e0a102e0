//! `twinshore`: one POSIX volume on two shores. This file only wires; the commands are in `commands/`.

mod arguments;
mod buckets;
mod claim_arguments;
mod commands;
mod error;
mod kubernetes;
mod logging;
mod output;
mod units;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let ended = if kubernetes::is_plugin(std::env::args_os().next().as_deref()) {
        let arguments = kubernetes::Arguments::parse();
        logging::start(arguments.log_json);
        commands::run_plugin(arguments.command)
    } else {
        let arguments = arguments::Arguments::parse();
        logging::start(arguments.log_json);
        commands::run(arguments.command)
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twinshore: {}", error::with_causes(&error));
            ExitCode::FAILURE
        }
    }
}
