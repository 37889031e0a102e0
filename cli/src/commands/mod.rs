//! The commands, one file each.

mod claim;
mod client;
mod destroy;
mod fsck;
mod gc;
mod metadata;
mod mount;
mod quota;
mod snapshot;
mod status;
mod sync;
mod trash;
mod umount;
mod volume;
mod worker;
mod workers;

use std::future::Future;
use std::sync::Arc;

use clap::CommandFactory as _;
use twinshore_protocol::session::{GrpcTransport, Transport};
use twinshore_protocol::tls::TlsSource;

use crate::arguments::{Arguments, Command, ServiceArguments};
use crate::error::CommandError;

/// Runs a command to its end.
pub fn run(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Volume(command) => block_on(volume::run(command)),
        Command::Metadata(arguments) => block_on(metadata::run(arguments)),
        Command::Worker(arguments) => block_on(worker::run(arguments)),
        Command::Mount(arguments) => mount::run(&arguments),
        Command::Umount(arguments) => umount::run(&arguments),
        Command::Status(arguments) => block_on(status::run(arguments)),
        Command::Sync(arguments) => block_on(sync::run(arguments)),
        Command::Gc(arguments) => block_on(gc::run(arguments)),
        Command::Trash(command) => block_on(trash::run(command)),
        Command::Quota(command) => block_on(quota::run(command)),
        Command::Claim(command) => block_on(claim::run(command)),
        Command::Snapshot(command) => block_on(snapshot::run(command)),
        Command::Fsck(arguments) => fsck::run(&arguments),
        Command::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "twinshore",
                &mut std::io::stdout(),
            );
            Ok(())
        }
    }
}

/// Runs a command of the plugin for `kubectl` to its end.
pub fn run_plugin(command: crate::kubernetes::Command) -> Result<(), CommandError> {
    block_on(crate::kubernetes::run(command))
}

/// Threads for asynchronous work: half of the cores. The other half is for what works beside them (threads that read the kernel's
/// requests, the journal, compression), and every thread more wakes others up in search of work, which costs a single
/// operation more than it gains.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// A runtime for everything but the mount, which builds its own after it has become a daemon.
fn block_on(task: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build()
        .map_err(CommandError::failed("start the asynchronous runtime"))?
        .block_on(task)
}

/// The line to a metadata service.
fn transport(service: &ServiceArguments) -> Result<Arc<dyn Transport>, CommandError> {
    let ServiceArguments { address, tls } = service;
    let transport = GrpcTransport::new(address, tls.files().map(TlsSource::Files)).map_err(|error| {
        let hint = if address.starts_with("https://") {
            " with --tls-cert, --tls-key and --tls-ca"
        } else {
            ""
        };
        CommandError::failed(format!("use --metadata {address}{hint}"))(error)
    })?;
    Ok(Arc::new(transport))
}

/// Ends when the process is asked to: SIGTERM or Ctrl-C.
async fn asked_to_stop() -> Result<(), CommandError> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(CommandError::failed("listen for SIGTERM"))?;
    tokio::select! {
        biased;
        _ = terminate.recv() => Ok(()),
        result = tokio::signal::ctrl_c() => result.map_err(CommandError::failed("listen for Ctrl-C")),
    }
}
