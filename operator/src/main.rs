//! `twinshore-operator`. This file only wires.

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use twinshore_operator::arguments::{Arguments, Command, RunArguments};
use twinshore_operator::{error, http, run};

#[tokio::main]
async fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run_operator(*arguments).await,
        Command::Check { address } => match http::check(&address).await {
            Ok(()) => {
                println!("the operator at {address} is well");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                eprintln!("twinshore-operator: {}", error::with_causes(&failure));
                ExitCode::FAILURE
            }
        },
    }
}

async fn run_operator(arguments: RunArguments) -> ExitCode {
    let filter = EnvFilter::try_from_env("TWINSHORE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if arguments.log_json {
        logs.json().init();
    } else {
        logs.init();
    }
    // One provider for everything; a handshake without one panics. Somebody who installed the same before is no error.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run::run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(error = error::with_causes(&failure), "the operator ends");
            ExitCode::FAILURE
        }
    }
}
