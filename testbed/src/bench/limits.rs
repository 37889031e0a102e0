//! What this machine allows: its disk, and its S3 server.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region as SigningRegion};
use aws_sdk_s3::primitives::ByteStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::regions::{BUCKET, Region, Regions};

use crate::measure::PATIENCE;
use crate::report::{Figure, Report, Unit, per_second};

/// The journal's disk, one durable append after the other.
pub const FDATASYNC: &str = "limit: fdatasync of the journal's disk, 4 KiB";
/// The S3 server, written to with many requests in flight.
pub const PUT: &str = "limit: raw PUT of 4 MiB, 16 in flight";
/// And read from.
pub const GET: &str = "limit: raw GET of 4 MiB, 16 in flight";
/// A plain copy between the two servers, small objects.
pub const COPY_SMALL: &str = "limit: plain GET and PUT loop, 4 KiB, 64 in flight";
/// A plain copy between the two servers, large objects.
pub const COPY_LARGE: &str = "limit: plain GET and PUT loop, 4 MiB, 64 in flight";

const LARGE_BYTES: usize = 4 << 20;
const SMALL_BYTES: usize = 4 << 10;

/// Durable appends to the disk.
pub async fn disk(directory: &Path, report: &mut Report) -> Result<(), Failure> {
    let (path, count) = (directory.join("fdatasync"), report.amount(1000));
    let took = blocking("measuring the disk", PATIENCE, move || {
        let measure = || {
            let mut file = File::create(&path)?;
            let started = Instant::now();
            for _ in 0..count {
                file.write_all(&[7; SMALL_BYTES])?;
                file.sync_data()?;
            }
            let took = started.elapsed();
            std::fs::remove_file(&path)?;
            std::io::Result::Ok(took)
        };
        measure().map_err(Failure::io("measure the disk"))
    })
    .await?;
    add(report, FDATASYNC, per_second(count, took), Unit::PerSecond);
    Ok(())
}

/// PUT, GET and copies of the S3 servers, with nothing of ours in between.
pub async fn bucket(regions: &Regions, report: &mut Report) -> Result<(), Failure> {
    let clients = Region::BOTH.map(|region| client(regions, region));
    let count = report.amount(256);
    let put = many(count, 16, Call::Put(LARGE_BYTES), &clients).await?;
    add(report, PUT, mebibytes(count, put), Unit::MebibytesPerSecond);
    let get = many(count, 16, Call::Get, &clients).await?;
    add(report, GET, mebibytes(count, get), Unit::MebibytesPerSecond);
    let copy = many(count, 64, Call::Copy, &clients).await?;
    add(
        report,
        COPY_LARGE,
        mebibytes(count, copy),
        Unit::MebibytesPerSecond,
    );
    let count = report.amount(10_000);
    many(count, 64, Call::Put(SMALL_BYTES), &clients).await?;
    let copy = many(count, 64, Call::Copy, &clients).await?;
    add(report, COPY_SMALL, per_second(count, copy), Unit::PerSecond);
    many(count, 64, Call::Delete, &clients).await?;
    Ok(())
}

fn add(report: &mut Report, what: &str, value: f64, unit: Unit) {
    report.add(Figure {
        what: what.to_owned(),
        value,
        unit,
        expected: None,
        limit: None,
    });
}

#[allow(clippy::cast_precision_loss)] // Mebibytes.
fn mebibytes(count: usize, took: Duration) -> f64 {
    per_second(count * (LARGE_BYTES >> 20), took)
}

fn client(regions: &Regions, region: Region) -> aws_sdk_s3::Client {
    let server = regions.bucket(region);
    let keys = server.keys();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(SigningRegion::new("us-east-1"))
        .endpoint_url(format!("http://{}", server.address()))
        .credentials_provider(Credentials::new(
            &keys.access_key,
            &keys.secret_key,
            None,
            None,
            "bench",
        ))
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// What to do with the object of a number.
#[derive(Clone, Copy)]
enum Call {
    /// Store it in east, with this size.
    Put(usize),
    /// Read it from east.
    Get,
    /// Read it from east and store it in west.
    Copy,
    /// Delete it from both.
    Delete,
}

async fn many(
    count: usize,
    in_flight: usize,
    call: Call,
    clients: &[aws_sdk_s3::Client; 2],
) -> Result<Duration, Failure> {
    let places = Arc::new(Semaphore::new(in_flight));
    let mut calls = JoinSet::new();
    let started = Instant::now();
    for number in 0..count {
        let (places, clients) = (Arc::clone(&places), clients.clone());
        calls.spawn(async move {
            let place = places.acquire_owned().await;
            let result = one(number, call, &clients).await;
            drop(place);
            result
        });
    }
    while let Some(result) = calls.join_next().await {
        let reason = match result {
            Ok(Ok(())) => continue,
            Ok(Err(reason)) => reason,
            Err(error) => error.to_string(),
        };
        return Err(Failure::Wrong(format!(
            "the S3 server cannot be measured: {reason}"
        )));
    }
    Ok(started.elapsed())
}

async fn one(number: usize, call: Call, clients: &[aws_sdk_s3::Client; 2]) -> Result<(), String> {
    let key = format!("raw/{number}");
    let [east, west] = clients;
    let put = async |client: &aws_sdk_s3::Client, body: ByteStream| {
        let result = client
            .put_object()
            .bucket(BUCKET)
            .key(&key)
            .body(body)
            .send()
            .await;
        result.map(drop).map_err(|error| format!("{error:?}"))
    };
    let get = async || {
        let answer = east
            .get_object()
            .bucket(BUCKET)
            .key(&key)
            .send()
            .await
            .map_err(|error| format!("{error:?}"))?;
        answer
            .body
            .collect()
            .await
            .map(aws_sdk_s3::primitives::AggregatedBytes::into_bytes)
            .map_err(|error| error.to_string())
    };
    match call {
        Call::Put(size_bytes) => {
            let byte = u8::try_from(number % 251).unwrap_or_default();
            put(east, ByteStream::from(vec![byte; size_bytes])).await
        }
        Call::Get => get().await.map(drop),
        Call::Copy => put(west, ByteStream::from(get().await?)).await,
        Call::Delete => {
            for client in clients {
                let result = client.delete_object().bucket(BUCKET).key(&key).send().await;
                result.map(drop).map_err(|error| format!("{error:?}"))?;
            }
            Ok(())
        }
    }
}
