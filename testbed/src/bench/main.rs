//! `twinshore-bench`: what the file system reaches, beside what this machine allows, in one run.
//!
//! A table and JSON; never a test: times depend on the machine. Every figure of the file system stands beside the figure expected of
//! it and, where there is one, beside the limit of the same machine measured in the same run.

mod limits;
mod measure;
mod report;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use twinshore_testbed::failure::{Failure, chain};
use twinshore_testbed::regions::{Regions, RegionsOptions, check_fuse, find_binary};
use twinshore_testbed::s3server::Engine;

use crate::report::Report;

/// What the file system reaches, beside what this machine allows. Buckets are served by versitygw in memory.
#[derive(Debug, Parser)]
#[command(name = "twinshore-bench", max_term_width = 110)]
struct Options {
    /// The versitygw binary (`cargo xtask tools` builds it).
    #[arg(long, env = "TWINSHORE_VERSITYGW", value_name = "FILE")]
    versitygw: PathBuf,
    /// Where metadata, journal and caches lie: the disk that is measured.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    disk: PathBuf,
    /// Where the buckets lie.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    memory: PathBuf,
    /// Write the figures here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Milliseconds between the regions, for the works in the far one.
    #[arg(long, value_name = "MS", default_value_t = 30)]
    rtt: u64,
    /// A tenth of the work: for a first look.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bench: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(bench(&options));
    runtime.shutdown_timeout(Duration::from_secs(5));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn bench(options: &Options) -> Result<(), Failure> {
    check_fuse()?;
    let temporary = |below: &PathBuf| {
        tempfile::Builder::new()
            .prefix("twinshore-bench-")
            .tempdir_in(below)
            .map_err(Failure::io(format!("make a directory in {}", below.display())))
    };
    let (disk, memory) = (temporary(&options.disk)?, temporary(&options.memory)?);
    let engine = Engine::Versitygw(options.versitygw.clone());
    let regions_options = RegionsOptions {
        directory: disk.path().to_owned(),
        bucket_directory: memory.path().to_owned(),
        binary: find_binary()?,
        round_trip: Duration::from_millis(options.rtt),
        engines: [engine.clone(), engine],
        volume_arguments: Vec::new(),
        mount_arguments: Vec::new(),
    };
    let mut report = Report::new(options.quick, options.rtt);
    limits::disk(disk.path(), &mut report).await?;
    let mut regions = Regions::bring_up(regions_options, |text| println!("{text}")).await?;
    let result = async {
        limits::bucket(&regions, &mut report).await?;
        work::all(&mut regions, &mut report).await
    };
    let result = result.await;
    let ended = regions.bring_down().await.map_err(Failure::from);
    println!("\n{}", report.table());
    if let Some(path) = &options.json {
        std::fs::write(path, report.json()).map_err(Failure::io(format!("write {}", path.display())))?;
    }
    result.and(ended)
}
