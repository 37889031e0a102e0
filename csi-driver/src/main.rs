//! `twinshore-csi`. This file only wires.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use twinshore_csi::arguments::{Arguments, MounterArguments, NodeArguments, Role};
use twinshore_csi::controller;
use twinshore_csi::mounter::{self, Directories, Mounts};
use twinshore_csi::node::{self, NodeSettings};
use twinshore_csi::run::{RunError, asked_to_stop, explain};

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { log_json, role } = Arguments::parse();
    let filter = EnvFilter::try_from_env("TWINSHORE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if log_json {
        logs.json().init();
    } else {
        logs.init();
    }
    // One provider for everything; a handshake without one panics. Somebody who installed the same before is no error.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match role {
        Role::Controller(arguments) => controller::run(arguments).await,
        Role::Node(arguments) => run_node(arguments).await,
        Role::Mounter(arguments) => run_mounter(arguments).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(error = explain(&failure), "the process ends");
            ExitCode::FAILURE
        }
    }
}

async fn run_node(arguments: NodeArguments) -> Result<(), RunError> {
    let NodeArguments {
        node_name,
        kubelet_path,
        mounter_user,
        http,
    } = arguments;
    node::run(NodeSettings {
        node: node_name,
        kubelet: kubelet_path,
        mounter_user,
        http,
    })
    .await
}

async fn run_mounter(arguments: MounterArguments) -> Result<(), RunError> {
    let MounterArguments {
        plugin,
        secrets,
        cache,
        program,
    } = arguments;
    let mounts = Arc::new(Mounts::new(program, Directories { secrets, cache }));
    tokio::select! {
        () = mounter::run(plugin, Arc::clone(&mounts)) => Ok(()),
        stopped = asked_to_stop() => {
            stopped?;
            tracing::info!("asked to stop: everything is written out");
            mounts.terminate_all().await;
            Ok(())
        }
    }
}
