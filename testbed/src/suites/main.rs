//! `twinshore-suites`: the tests on real mounts, in two regions.
//!
//! Each suite gets two new regions and must leave nothing behind: a part that does not end by itself fails it. The last line is
//! `suites: N passed, N failed`.

mod coherence;
mod compaction;
mod conformance;
mod context;
mod crashes;
mod disks;
mod exerciser;
mod files;
mod input;
mod locks;
mod outages;
mod programs;
mod races;
mod record_locks;
mod replication;
mod scale;
mod suite;
mod takeover;
mod writers;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use twinshore_testbed::failure::{Failure, chain};
use twinshore_testbed::regions::{Region, check_fuse, find_binary};
use twinshore_testbed::s3server::Engine;

use crate::context::Context;
use crate::suite::Suite;
use crate::takeover::Work;
use crate::writers::Assignment;

/// Tests on real mounts, in two regions on this machine.
#[derive(Debug, Parser)]
#[command(name = "twinshore-suites", max_term_width = 110)]
struct Options {
    /// The suites to run; all by default.
    #[arg(value_parser = parse_suite)]
    suites: Vec<Suite>,
    /// Show the suites.
    #[arg(long)]
    list: bool,
    /// Where the external test programs are (`cargo xtask tools` builds them).
    #[arg(long, env = "TWINSHORE_TOOLS", value_name = "DIR")]
    tools: Option<PathBuf>,
    /// Serve these regions' buckets with versitygw instead of in process.
    #[arg(long, value_name = "REGION", value_delimiter = ',', value_parser = ["east", "west"])]
    versitygw: Vec<String>,
    /// The versitygw binary.
    #[arg(long, env = "TWINSHORE_VERSITYGW", value_name = "FILE", required_if_eq_any([("versitygw", "east"), ("versitygw", "west")]))]
    versitygw_binary: Option<PathBuf>,
    /// Keep what a failed suite leaves (logs, buckets, metadata) in its temporary directory.
    #[arg(long)]
    keep_failed: bool,
    #[command(flatten)]
    assignment: Assignment,
    #[command(flatten)]
    work: Work,
    /// Take a record lock on one file, say so, and after a line on standard input wait for one on the other. For the suite of
    /// locks, which needs processes.
    #[arg(long, hide = true, num_args = 2, value_names = ["FIRST", "SECOND"])]
    lock_two: Vec<PathBuf>,
}

fn parse_suite(name: &str) -> Result<Suite, String> {
    Suite::ALL
        .into_iter()
        .find(|suite| suite.name() == name)
        .ok_or_else(|| "there is no such suite; --list shows them".to_owned())
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        for suite in Suite::ALL {
            println!("{:<24} {}", suite.name(), suite.about());
        }
        return ExitCode::SUCCESS;
    }
    if let Some(mount_point) = &options.assignment.mount_point {
        return match writers::write(&options.assignment, mount_point, io::stdin(), io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(mount_point) = &options.work.work_below {
        return match takeover::work(mount_point, options.work.work_seed, io::stdin()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    if let [first, second] = options.lock_two.as_slice() {
        return record_locks::lock_two(first, second);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("suites cannot run: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run_all(&options));
    runtime.shutdown_timeout(Duration::from_secs(5));
    match result {
        Ok((passed, failed)) => {
            println!("suites: {passed} passed, {failed} failed");
            if failed == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            println!("suites cannot run: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn engines(options: &Options) -> [Engine; 2] {
    Region::BOTH.map(|region| match &options.versitygw_binary {
        Some(binary) if options.versitygw.iter().any(|name| name == region.name()) => {
            Engine::Versitygw(binary.clone())
        }
        _ => Engine::InProcess,
    })
}

async fn run_all(options: &Options) -> Result<(u32, u32), Failure> {
    check_fuse()?;
    let binary = find_binary()?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::io("listen for Ctrl-C"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::io("listen for SIGTERM"))?;
    let suites = if options.suites.is_empty() {
        Suite::ALL.to_vec()
    } else {
        options.suites.clone()
    };
    let (mut passed, mut failed) = (0, 0);
    for suite in suites {
        println!("suite {}: {}", suite.name(), suite.about());
        let started = Instant::now();
        let result = tokio::select! {
            biased;
            _ = interrupt.recv() => return Err(Failure::Interrupted),
            _ = terminate.recv() => return Err(Failure::Interrupted),
            result = run_one(suite, &binary, options) => result,
        };
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                println!("suite {}: passed ({seconds:.1} s)", suite.name());
            }
            Err(error) => {
                failed += 1;
                println!(
                    "suite {}: FAILED ({}) ({seconds:.1} s)",
                    suite.name(),
                    chain(&error)
                );
            }
        }
    }
    Ok((passed, failed))
}

async fn run_one(suite: Suite, binary: &std::path::Path, options: &Options) -> Result<(), Failure> {
    let directory = tempfile::Builder::new()
        .prefix("twinshore-suite-")
        .tempdir()
        .map_err(Failure::io("make a temporary directory"))?;
    let mut context = Context::bring_up(
        directory.path(),
        binary,
        options.tools.clone(),
        suite.setting(engines(options)),
    )
    .await?;
    let patience = suite.patience();
    let result = match tokio::time::timeout(patience, suite.run(&mut context)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::TooSlow {
            what: "the suite".to_owned(),
            seconds: patience.as_secs(),
        }),
    };
    let result = result.and_then(|()| Ok(context.regions.check_processes()?));
    let ended = context.regions.bring_down().await;
    drop(context);
    let result = result.and(ended.map_err(Failure::from));
    if result.is_err() && options.keep_failed {
        println!("  kept in {}", directory.keep().display());
    }
    result
}
