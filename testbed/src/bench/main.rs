//! `twinshore-bench`: what the file system reaches, beside what this machine allows, in one run.
//!
//! A table and JSON; never a test: times depend on the machine. Every figure stands beside the figure expected of it and the limit of
//! the same machine, measured in the same run. A row that fails is said, and the others go on; the exit code is then 1.
//!
//! Each group of rows has a volume of its own: what one leaves behind is no burden to the next.

mod client;
mod copies;
mod far;
mod measure;
mod million;
mod near;
mod raw;
mod report;
mod rows;
mod subject;
mod works;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use twinshore_testbed::failure::{Failure, chain};
use twinshore_testbed::regions::{Region, Regions, RegionsOptions, check_fuse, find_binary};
use twinshore_testbed::s3server::Engine;

use crate::report::Report;
use crate::rows::Row;
use crate::subject::{Empty, Juicefs};

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench                                 everything, about a quarter of an hour
  cargo xtask bench --quick --skip million          a first look
  cargo xtask bench --only create,lookup            some rows
  cargo xtask bench --json figures.json             for a program too
  cargo xtask bench --only far --rtt 100            another distance

Columns: measured; expected, and how much of it was reached; the limit, and how much of it was reached (above 1 is better than it);
messages to the metadata service and journal records for each operation; processor time of each program for each operation.
docs/benchmarks.md says what each row does.";

/// What the file system reaches, beside what this machine allows. Buckets are served by versitygw in memory.
#[derive(Debug, Parser)]
#[allow(clippy::doc_markdown)] // The comments are the help texts: there Markdown would only be in the way.
#[command(name = "twinshore-bench", max_term_width = 110, after_help = EXAMPLES)]
struct Options {
    /// The versitygw binary (`cargo xtask bench` finds or builds it).
    #[arg(
        long,
        env = "TWINSHORE_VERSITYGW",
        value_name = "FILE",
        required_unless_present = "list"
    )]
    versitygw: Option<PathBuf>,
    /// Where metadata, journal and caches lie: the disk that is measured.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    disk: PathBuf,
    /// Where the buckets lie.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    memory: PathBuf,
    /// Only these rows.
    #[arg(long, value_name = "ROW,ROW", value_delimiter = ',', value_parser = Row::parse)]
    only: Vec<Row>,
    /// Not these rows.
    #[arg(long, value_name = "ROW,ROW", value_delimiter = ',', value_parser = Row::parse)]
    skip: Vec<Row>,
    /// List the rows.
    #[arg(long)]
    list: bool,
    /// Write the figures here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Milliseconds between the regions and back, for the works in the far one.
    #[arg(long, value_name = "MS", default_value_t = 30)]
    rtt: u64,
    /// A tenth of the work: for a first look.
    #[arg(long)]
    quick: bool,
    /// Do not run JuiceFS beside Twinshore, though it is on the PATH.
    #[arg(long)]
    no_peer: bool,
    /// The Redis for JuiceFS, as redis://HOST:PORT/DB; without it `redis-server` is started if it is on the PATH.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
}

impl Options {
    fn wants(&self, row: Row) -> bool {
        (self.only.is_empty() || self.only.contains(&row)) && !self.skip.contains(&row)
    }

    /// The rows of the near region; the limits too if one of them is compared with them.
    fn near_rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Row::ALL
            .into_iter()
            .filter(|row| matches!(row, Row::Near(_)) && self.wants(*row))
            .collect();
        if !rows.is_empty() || self.wants(Row::Limits) {
            rows.insert(0, Row::Limits);
        }
        rows
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        for row in Row::ALL {
            println!("{:<12} {}", row.name(), row.about());
        }
        return ExitCode::SUCCESS;
    }
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
    // Dropping the work kills what it started, detaches its mounts and removes its directories.
    let result = runtime.block_on(async {
        tokio::select! {
            biased;
            interruption = interrupted() => interruption,
            result = bench(&options) => result,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("bench: {failures} rows could not be measured");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Waits until a person, or whoever started this, does not want to go on.
async fn interrupted() -> Result<usize, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::io("wait for signals"))?;
    tokio::select! {
        biased;
        result = tokio::signal::ctrl_c() => result.map_err(Failure::io("wait for signals"))?,
        _ = terminate.recv() => {}
    }
    Err(Failure::Interrupted)
}

/// Measures; how many rows failed.
async fn bench(options: &Options) -> Result<usize, Failure> {
    check_fuse()?;
    let mut report = Report::new(options.quick, options.rtt);
    let near_rows = options.near_rows();
    if !near_rows.is_empty() {
        near_group(options, &near_rows, &mut report).await?;
    }
    for row in [Row::Copy, Row::Workers, Row::Far, Row::Million] {
        if !options.wants(row) {
            continue;
        }
        let mut world = World::new(options).await?;
        let result = match row {
            Row::Copy => copies::copy(&mut world.regions, &mut report).await,
            Row::Workers => copies::workers(&mut world.regions, &mut report).await,
            Row::Far => far::far(&mut world.regions, &mut report).await,
            Row::Million => million::million(&mut world.regions, &mut report).await,
            Row::Limits | Row::Near(_) => Ok(()),
        };
        let ended = world.regions.bring_down().await.map_err(Failure::from);
        if let Err(error) = result.and(ended) {
            report.failed(row.name(), chain(&error));
        }
        write_json(options, &report)?;
    }
    println!("\n{}", report.table());
    Ok(report.failures())
}

/// After each row, so that what was measured stays if something goes wrong later.
fn write_json(options: &Options, report: &Report) -> Result<(), Failure> {
    match &options.json {
        Some(path) => {
            std::fs::write(path, report.json()).map_err(Failure::io(format!("write {}", path.display())))
        }
        None => Ok(()),
    }
}

/// Two regions in directories of their own, which vanish with it.
struct World {
    regions: Regions,
    disk: TempDir,
    _memory: TempDir,
}

impl World {
    async fn new(options: &Options) -> Result<Self, Failure> {
        let temporary = |below: &PathBuf| {
            tempfile::Builder::new()
                .prefix("twinshore-bench-")
                .tempdir_in(below)
                .map_err(Failure::io(format!("make a directory in {}", below.display())))
        };
        let (disk, memory) = (temporary(&options.disk)?, temporary(&options.memory)?);
        let versitygw = options
            .versitygw
            .clone()
            .ok_or_else(|| Failure::Wrong("--versitygw is missing".to_owned()))?;
        let engine = Engine::Versitygw(versitygw);
        let regions_options = RegionsOptions {
            directory: disk.path().to_owned(),
            bucket_directory: memory.path().to_owned(),
            binary: find_binary()?,
            round_trip: Duration::from_millis(options.rtt),
            engines: [engine.clone(), engine],
            volume_arguments: Vec::new(),
            // The default: whatever is warm here fits.
            mount_arguments: ["--cache-size", "10240"].map(str::to_owned).into(),
        };
        let regions = Regions::bring_up(regions_options, |_| {}).await?;
        Ok(Self {
            regions,
            disk,
            _memory: memory,
        })
    }
}

/// The rows of the near region: one volume, and beside it the empty file system and the peer.
async fn near_group(options: &Options, rows: &[Row], report: &mut Report) -> Result<(), Failure> {
    let mut world = World::new(options).await?;
    near::prepare(&mut world.regions).await?;
    let mut empty = Empty::mount(&world.disk.path().join("empty")).await?;
    let mut juicefs = if options.no_peer {
        None
    } else {
        let server = world.regions.bucket(Region::East);
        match Juicefs::mount(world.disk.path(), options.redis.as_deref(), server).await {
            Ok(juicefs) => juicefs,
            Err(error) => {
                println!("JuiceFS is left out: {}", chain(&error));
                None
            }
        }
    };
    for row in rows {
        let regions = &mut world.regions;
        let result = match row {
            Row::Near(work) => near::work(*work, regions, &mut empty, juicefs.as_mut(), report).await,
            _ => near::limits(regions, report).await,
        };
        if let Err(error) = result {
            report.failed(row.name(), chain(&error));
        }
        write_json(options, report)?;
    }
    let mut ended = empty.unmount().await;
    if let Some(juicefs) = juicefs {
        ended = ended.and(juicefs.end().await);
    }
    ended.and(world.regions.bring_down().await.map_err(Failure::from))
}
