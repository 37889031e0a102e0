//! A million files: how fast the service takes them, what memory it then needs, and how long a restart takes.
//!
//! They are made over the protocol, many operations in one message stream: through a mount it would take many minutes. Each has
//! the extent of 4 KiB in an object that it shares with others, as packed small files have. The objects themselves are not stored:
//! nobody reads them here.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use twinshore_protocol::operation::{FileCommit, FileWrite, NewInode, NewObject};
use twinshore_protocol::session::Session;
use twinshore_protocol::{Caller, ExtentSource, FileType, InodeNumber, Operation, Side, Sides};
use twinshore_testbed::failure::Failure;
use twinshore_testbed::regions::{Region, Regions, RegionsError};

use crate::client::{self, failed};
use crate::measure::{Cost, Meter, PATIENCE, Part, resident_bytes};
use crate::report::{Figure, Report, Sample, Unit};
use crate::rows::{Row, expected};

const FILES: usize = 1_000_000;
const FILES_PER_DIRECTORY: usize = 1000;
const FILE_BYTES: u64 = 4096;
/// Directories filled at the same time; each has one commit or some creations in flight.
const DIRECTORIES_IN_FLIGHT: usize = 8;
/// Creations sent before their answers are awaited. All together stay within the session's window.
const CREATES_IN_FLIGHT: usize = 100;

/// Makes them, weighs the service, restarts it.
pub async fn million(regions: &mut Regions, report: &mut Report) -> Result<(), Failure> {
    for region in Region::BOTH {
        regions.unmount(region).await?;
        regions.kill_worker(region).await?;
    }
    // The objects do not exist: nobody shall look for them.
    regions
        .twinshore(PATIENCE)
        .arguments(["volume", "configure", "--replication", "off", "--metadata"])
        .argument(regions.metadata_url(Region::East))
        .success()
        .await?;
    let count = report.amount(FILES).next_multiple_of(FILES_PER_DIRECTORY);
    let session = client::connect(&regions.metadata_url(Region::East)).await?;
    let before = resident_bytes(service(regions)?)?;
    let meter = Meter {
        processes: vec![(Part::Service, service(regions)?)],
        metrics: Some(regions.http_address()),
    };
    let made = meter.measure(count, make(&session, count)).await?;
    session.close().await;
    add(
        report,
        Sample::rate("files of 4 KiB over the protocol, batched", count, made),
    );
    meter.quiet().await?;
    weigh(regions, report, "service memory, having made them")?;
    say_growth(before, service(regions)?, count)?;

    regions.stop_metadata().await?;
    let took = restart(regions).await?;
    add(
        report,
        Sample::seconds("restart after a stop", (took, Cost::default())),
    );
    regions.kill_metadata().await?;
    let took = restart(regions).await?;
    add(
        report,
        Sample::seconds("restart after kill -9", (took, Cost::default())),
    );
    weigh(regions, report, "service memory, started with them")
}

fn service(regions: &Regions) -> Result<i32, Failure> {
    let running = regions.metadata_process().ok_or(RegionsError::NotRunning {
        what: "the metadata service".to_owned(),
    })?;
    Ok(running.process_id())
}

/// Until it answers a question about a file.
async fn restart(regions: &mut Regions) -> Result<Duration, Failure> {
    let started = Instant::now();
    regions.start_metadata().await?;
    let session = client::connect(&regions.metadata_url(Region::East)).await?;
    let lookup = Operation::Lookup {
        parent: InodeNumber::ROOT,
        name: client::name("directory-0")?,
    };
    client::entry(&client::ask(&session, "look a directory up", lookup).await?)?;
    let took = started.elapsed();
    session.close().await;
    Ok(took)
}

fn weigh(regions: &Regions, report: &mut Report, what: &str) -> Result<(), Failure> {
    let bytes = resident_bytes(service(regions)?)?;
    add(
        report,
        Sample {
            what: what.to_owned(),
            #[allow(clippy::cast_precision_loss)] // Megabytes.
            value: bytes as f64 / 1e6,
            unit: Unit::Megabytes,
            cost: Cost::default(),
        },
    );
    Ok(())
}

fn say_growth(before: u64, process: i32, count: usize) -> Result<(), Failure> {
    let grown = resident_bytes(process)?.saturating_sub(before);
    println!(
        "  {} bytes of memory for each of {count} files",
        grown / count as u64
    );
    Ok(())
}

fn add(report: &mut Report, sample: Sample) {
    report.add(Figure {
        row: Row::Million.name(),
        expected: expected(&sample.what),
        sample,
        limit: None,
        peer: None,
    });
}

async fn make(session: &Session, count: usize) -> Result<Duration, Failure> {
    let started = Instant::now();
    let mut directories = JoinSet::new();
    for number in 0..count / FILES_PER_DIRECTORY {
        if directories.len() >= DIRECTORIES_IN_FLIGHT {
            ended(directories.join_next().await)?;
        }
        let session = session.clone();
        directories.spawn(async move { fill(&session, number).await });
    }
    while !directories.is_empty() {
        ended(directories.join_next().await)?;
    }
    Ok(started.elapsed())
}

fn ended(result: Option<Result<Result<(), Failure>, tokio::task::JoinError>>) -> Result<(), Failure> {
    match result {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Failure::Thread {
            what: "filling a directory".to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// One directory with all its files, whose content is one object.
async fn fill(session: &Session, number: usize) -> Result<(), Failure> {
    let make = Operation::MakeDirectory {
        parent: InodeNumber::ROOT,
        name: client::name(&format!("directory-{number}"))?,
        new: new_inode(session, 0o755).await?,
    };
    let directory = client::entry(&client::ask(session, "make a directory", make).await?)?;
    let mut files = Vec::with_capacity(FILES_PER_DIRECTORY);
    while files.len() < FILES_PER_DIRECTORY {
        let mut answers = Vec::with_capacity(CREATES_IN_FLIGHT);
        for _ in 0..CREATES_IN_FLIGHT.min(FILES_PER_DIRECTORY - files.len()) {
            let new = new_inode(session, 0o644).await?;
            let operation = Operation::MakeNode {
                parent: directory,
                // As long as names of files are.
                name: client::name(&format!("file-number-{:04}.dat", files.len()))?,
                new,
                kind: FileType::Regular,
                device: 0,
            };
            files.push(new.inode);
            answers.push(session.request(Caller::ROOT, operation));
        }
        for answer in answers {
            answer.await.map_err(failed("make a file"))?;
        }
    }
    commit(session, files).await
}

async fn new_inode(session: &Session, mode: u16) -> Result<NewInode, Failure> {
    let inode = session.take_inode().await.map_err(failed("number a file"))?;
    Ok(NewInode {
        inode,
        mode,
        umask: 0,
    })
}

async fn commit(session: &Session, files: Vec<InodeNumber>) -> Result<(), Failure> {
    let object = session.take_object().await.map_err(failed("name an object"))?;
    let content_bytes = FILE_BYTES * files.len() as u64;
    let present = Sides::only(Side::Primary);
    let commits = files.into_iter().zip(0_u64..).map(|(inode, place)| FileCommit {
        inode,
        writes: vec![FileWrite {
            file_offset: 0,
            length: FILE_BYTES,
            source: ExtentSource::Object {
                object,
                object_offset: place * FILE_BYTES,
                present,
            },
        }],
        modified: None,
        clear_privileges: false,
    });
    let operation = Operation::Commit {
        objects: vec![NewObject {
            object,
            stored_bytes: content_bytes,
            content_bytes,
            checksum: 0,
            present,
        }],
        files: commits.collect(),
    };
    client::ask(session, "commit files", operation).await?;
    Ok(())
}
