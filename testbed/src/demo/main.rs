//! `twinshore-demo`: two regions on this machine, and a tour through what they do, on real input.
//!
//! The last line is `demo: ok` or `demo: FAILED (reason)`, the exit code 0 or 1. Whatever happens, nothing that was started or
//! mounted is left, unless `--keep` asks for it; then Ctrl-C ends it.

mod options;
mod place;
mod tour;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use twinshore_testbed::progress::Progress;
use twinshore_testbed::regions::{Region, Regions, RegionsOptions, check_fuse, find_binary};

use crate::options::Options;
use crate::place::Place;
use twinshore_testbed::failure::{Failure, chain};

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("demo: FAILED (cannot start threads: {error})");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(demo(options));
    // A thread may still hang in a file system call of a failed step; the mounts are gone, so it will get its error.
    runtime.shutdown_timeout(Duration::from_secs(5));
    match result {
        Ok(()) => {
            println!("demo: ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("demo: FAILED ({})", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C, `kill`, or the end of the terminal.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::io("listen for Ctrl-C"));
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn demo(options: Options) -> Result<(), Failure> {
    let mut interrupts = Interrupts::listen()?;
    check_fuse()?;
    let binary = find_binary()?;
    let place = Place::prepare(options.dir.as_deref())?;
    let mut progress = Progress::default();
    progress.say(&format!(
        "two regions in {}, {} ms apart",
        place.path().display(),
        options.rtt
    ));
    let regions_options = RegionsOptions {
        directory: place.path().to_owned(),
        bucket_directory: place.path().join("buckets"),
        binary,
        round_trip: Duration::from_millis(options.rtt),
        engines: Default::default(),
        volume_arguments: Vec::new(),
        mount_arguments: Vec::new(),
    };
    let regions = tokio::select! {
        biased;
        () = interrupts.next() => Err(Failure::Interrupted),
        regions = Regions::bring_up(regions_options, |text| progress.say(text)) => regions.map_err(Failure::from),
    };
    let mut regions = match regions {
        Ok(regions) => regions,
        Err(error) => {
            place.keep_for_inspection();
            return Err(error);
        }
    };
    progress.row(
        "bring up two regions",
        "5 programs, 2 buckets, 2 mounts".to_owned(),
        progress.elapsed(),
    );
    let mut result = Ok(());
    if !options.no_tour {
        result = tokio::select! {
            biased;
            () = interrupts.next() => Err(Failure::Interrupted),
            result = tour::run(&mut regions, &mut progress, &options) => result,
        };
        println!("\n{}", progress.table());
    }
    if options.keep && !matches!(result, Err(Failure::Interrupted)) {
        describe(&regions);
        match &result {
            Ok(()) => println!("demo: ok"),
            Err(error) => println!("demo: FAILED ({})", chain(error)),
        }
        interrupts.next().await;
        println!();
    }
    progress.say("unmounting and ending everything");
    let ended = regions.bring_down().await.map_err(Failure::from);
    drop(regions);
    let result = result.and(ended);
    match &result {
        Ok(()) => place.remove_if_ours(),
        Err(_) => place.keep_for_inspection(),
    }
    result
}

/// What a person needs to go on by hand.
fn describe(regions: &Regions) {
    println!("Everything keeps running until Ctrl-C. In another terminal:\n");
    for region in Region::BOTH {
        println!(
            "  {:<7} {}",
            format!("{region}:"),
            regions.mount_point(region).display()
        );
        println!(
            "          bucket {} (files in {})",
            regions.bucket_url(region, region),
            regions.bucket(region).bucket_directory().display()
        );
        println!("          metadata service {}", regions.metadata_url(region));
        println!(
            "          the other region's bucket {}",
            regions.bucket_url(region, region.other())
        );
    }
    println!("  metrics {}/metrics", regions.http_url());
    println!("  logs    {}\n", regions.log_directory().display());
    for (name, value) in regions.credentials() {
        println!("  export {name}={value}");
    }
    let (binary, metadata) = (regions.binary().display(), regions.metadata_url(Region::East));
    let scratch = regions.directory().join("restored");
    println!(
        "\n  echo hello > {}/hello && cat {}/hello",
        regions.mount_point(Region::East).display(),
        regions.mount_point(Region::West).display()
    );
    println!("  {binary} status --metadata {metadata}");
    println!("  {binary} sync --metadata {metadata} --wait");
    println!("  {binary} trash list --metadata {metadata}");
    println!(
        "  {binary} volume restore --bucket {} --metadata-dir {}\n",
        regions.bucket_url(Region::East, Region::East),
        scratch.display()
    );
}
