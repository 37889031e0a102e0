//! Copying from bucket to bucket: our worker, against a plain loop on the same servers.
//!
//! The objects are stored and committed directly, so that there are exactly as many as said; meanwhile no worker runs and nothing is
//! mounted. Then workers are started, and what is measured is the time until nothing is owed any more.

use std::time::{Duration, Instant};

use bytes::Bytes;
use twinshore_protocol::format::Compression;
use twinshore_protocol::operation::{FileCommit, FileWrite, NewInode, NewObject};
use twinshore_protocol::session::Session;
use twinshore_protocol::{ExtentSource, FileType, InodeNumber, ObjectId, Operation, Side, Sides};
use twinshore_storage::object::{encode, object_key};
use twinshore_testbed::failure::Failure;
use twinshore_testbed::patience::{Look, wait_for};
use twinshore_testbed::process::{Program, Ready, Supervised};
use twinshore_testbed::regions::{Region, Regions};

use crate::client;
use crate::measure::{Meter, PATIENCE, Part};
use crate::raw::{Store, body, delete, in_flight};
use crate::report::{Figure, Limit, Report, Sample, per_second};
use crate::rows::{Row, expected};

/// A small object.
const SMALL_BYTES: usize = 4 << 10;
/// A large object.
const LARGE_BYTES: usize = 4 << 20;
/// What the plain loop has in flight.
const LOOP_IN_FLIGHT: usize = 64;
/// What a worker has in flight unless told otherwise.
const WORKER_SLOTS: u32 = 16;
/// How long a request to the slow server takes.
const SLOW_ROUND_TRIP: Duration = Duration::from_millis(100);
/// For a worker to start and to end.
const WORKER_PATIENCE: Duration = Duration::from_mins(1);

/// How a worker reaches the other bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// At once.
    Direct,
    /// Over the line.
    Line,
}

/// Ends what runs beside: mounts and workers would take tasks.
async fn alone(regions: &mut Regions) -> Result<(), Failure> {
    for region in Region::BOTH {
        regions.unmount(region).await?;
        regions.kill_worker(region).await?;
    }
    Ok(())
}

/// 10,000 objects of 4 KiB, and 200 of 4 MiB, by one worker.
pub async fn copy(regions: &mut Regions, report: &mut Report) -> Result<(), Failure> {
    alone(regions).await?;
    let session = client::connect(&regions.metadata_url(Region::East)).await?;
    for (what, full, size_bytes) in [
        ("copy of 10,000 objects of 4 KiB", 10_000, SMALL_BYTES),
        ("copy of 200 objects of 4 MiB", 200, LARGE_BYTES),
    ] {
        let count = report.amount(full);
        let limit = plain_loop(regions, count, size_bytes).await?;
        owe(&session, regions, count, size_bytes).await?;
        let measured = catch_up(&session, regions, 1, Way::Direct, count).await?;
        let mebibytes = count * (size_bytes >> 20);
        let (sample, limit) = if mebibytes > 0 {
            let sample = Sample::throughput(what, mebibytes, measured);
            (sample, per_second(mebibytes, limit))
        } else {
            (Sample::rate(what, count, measured), per_second(count, limit))
        };
        report.add(Figure {
            row: Row::Copy.name(),
            sample,
            expected: expected(what),
            limit: Some(Limit {
                value: limit,
                what: "GET and PUT in a loop, 64 in flight",
            }),
            peer: None,
        });
    }
    session.close().await;
    Ok(())
}

/// 1, 2 and 4 workers, the target bucket being slow to answer.
pub async fn workers(regions: &mut Regions, report: &mut Report) -> Result<(), Failure> {
    alone(regions).await?;
    regions.wan().set_round_trip(SLOW_ROUND_TRIP);
    let session = client::connect(&regions.metadata_url(Region::East)).await?;
    for workers in [1_u32, 2, 4] {
        // As long for each, about.
        let count = report.amount(1000 * workers as usize);
        owe(&session, regions, count, SMALL_BYTES).await?;
        let measured = catch_up(&session, regions, workers, Way::Line, count).await?;
        let plural = if workers == 1 { "" } else { "s" };
        let what = format!("copy of 4 KiB objects, 100 ms away, {workers} worker{plural}");
        report.add(Figure {
            row: Row::Workers.name(),
            expected: expected(&what),
            sample: Sample::rate(what, count, measured),
            limit: Some(Limit {
                value: f64::from(workers * WORKER_SLOTS) / SLOW_ROUND_TRIP.as_secs_f64(),
                what: "16 in flight each, one round trip",
            }),
            peer: None,
        });
    }
    session.close().await;
    Ok(())
}

/// The same copies without us.
async fn plain_loop(regions: &Regions, count: usize, size_bytes: usize) -> Result<Duration, Failure> {
    let [east, west] = Region::BOTH.map(|region| Store::new(regions.bucket(region)));
    let client = east.clone();
    in_flight(count, LOOP_IN_FLIGHT, move |number| {
        let client = client.clone();
        async move {
            let content = body(number, size_bytes);
            client.put(&format!("loop/{number}"), content).await
        }
    })
    .await?;
    let clients = (east.clone(), west.clone());
    let took = in_flight(count, LOOP_IN_FLIGHT, move |number| {
        let (east, west) = clients.clone();
        async move {
            let key = format!("loop/{number}");
            west.put(&key, east.get(&key).await?).await
        }
    })
    .await?;
    for store in [&east, &west] {
        delete(store, "loop", count).await?;
    }
    Ok(took)
}

/// Stores objects in east and commits them: the target is owed each.
async fn owe(session: &Session, regions: &Regions, count: usize, size_bytes: usize) -> Result<(), Failure> {
    let store = Store::new(regions.bucket(Region::East));
    let session = session.clone();
    // A file for each, so that metadata looks as if programs had written it.
    in_flight(count, LOOP_IN_FLIGHT, move |number| {
        let (session, store) = (session.clone(), store.clone());
        async move {
            let object = session
                .take_object()
                .await
                .map_err(client::failed("name an object"))?;
            let content = body(number, size_bytes);
            let encoded = encode(&[content], Compression::None);
            let new = NewObject {
                object,
                stored_bytes: encoded.stored_bytes(),
                content_bytes: encoded.content_bytes,
                checksum: encoded.checksum,
                present: Sides::only(Side::Primary),
            };
            store_object(&store, object, encoded.body).await?;
            commit(&session, new).await
        }
    })
    .await?;
    Ok(())
}

async fn store_object(store: &Store, object: ObjectId, body: Bytes) -> Result<(), Failure> {
    store.put(&object_key(object), body).await
}

async fn commit(session: &Session, new: NewObject) -> Result<(), Failure> {
    let inode = session
        .take_inode()
        .await
        .map_err(client::failed("number a file"))?;
    let make = Operation::MakeNode {
        parent: InodeNumber::ROOT,
        name: client::name(&format!("copied-{}", new.object))?,
        new: NewInode {
            inode,
            mode: 0o644,
            umask: 0,
        },
        kind: FileType::Regular,
        device: 0,
    };
    client::ask(session, "make a file", make).await?;
    let write = FileWrite {
        file_offset: 0,
        length: new.content_bytes,
        source: ExtentSource::Object {
            object: new.object,
            object_offset: 0,
            present: new.present,
        },
    };
    let commit = Operation::Commit {
        objects: vec![new],
        files: vec![FileCommit {
            inode,
            writes: vec![write],
            modified: None,
            clear_privileges: false,
        }],
    };
    client::ask(session, "commit an object", commit).await?;
    Ok(())
}

/// Starts workers and waits until nothing is owed; the time from just before the first one starts.
async fn catch_up(
    session: &Session,
    regions: &Regions,
    workers: u32,
    way: Way,
    count: usize,
) -> Result<(Duration, crate::measure::Cost), Failure> {
    let owed = owed(session).await?;
    if owed < count as u64 {
        return Err(Failure::Wrong(format!(
            "{count} objects should be owed to the target, but {owed} are"
        )));
    }
    let service = regions
        .metadata_process()
        .map(|service| (Part::Service, service.process_id()));
    let stores = Region::BOTH.map(|region| regions.bucket(region).process_id());
    let stores = stores.into_iter().flatten().map(|store| (Part::Store, store));
    let meter = Meter {
        processes: service.into_iter().chain(stores).collect(),
        metrics: Some(regions.http_address()),
    };
    meter.quiet().await?;
    let mut started_workers = Vec::new();
    let work = async {
        let started = Instant::now();
        for number in 0..workers {
            started_workers.push(Supervised::start(&worker(regions, number, way)).await?);
        }
        wait_for(
            "the target to have everything",
            PATIENCE,
            async || match self::owed(session).await {
                Ok(0) => Look::Done(()),
                Ok(owed) => Look::NotYet(format!("{owed} objects are owed")),
                Err(error) => Look::NotYet(error.to_string()),
            },
        )
        .await?;
        Ok(started.elapsed())
    };
    let measured = meter.measure(count, work).await?;
    for mut worker in started_workers {
        worker.terminate(WORKER_PATIENCE).await?;
    }
    Ok(measured)
}

async fn owed(session: &Session) -> Result<u64, Failure> {
    let status = client::status(session).await?;
    let target = status
        .replication
        .iter()
        .find(|replication| replication.side == Side::Target);
    target
        .map(|target| target.pending_objects)
        .ok_or_else(|| Failure::Wrong("the volume has no target".to_owned()))
}

fn worker(regions: &Regions, number: u32, way: Way) -> Program {
    let mut arguments = vec![
        "worker".into(),
        "--metadata".into(),
        regions.metadata_url(Region::East).into(),
    ];
    arguments.extend(["--slots".into(), WORKER_SLOTS.to_string().into()]);
    if way == Way::Line {
        arguments.extend(regions.bucket_arguments(Region::East).map(Into::into));
    }
    Program {
        name: format!("worker-{number}"),
        program: regions.binary().to_owned(),
        arguments,
        environment: regions.credentials(),
        log_directory: regions.log_directory(),
        ready: Ready::Says("worker: ready".to_owned()),
        patience: WORKER_PATIENCE,
    }
}
