//! Works in the near region: Twinshore, beside the empty file system and, if it is there, beside `JuiceFS`.
//!
//! Nothing is copied to the other region meanwhile: two buckets, two regions and the line on the cores of one machine would be
//! measured instead.

use std::collections::HashMap;

use twinshore_testbed::failure::{Failure, chain};
use twinshore_testbed::regions::{Region, Regions};

use crate::measure::{Cost, PATIENCE};
use crate::raw::{Store, durable_appends, put_and_get};
use crate::report::{Expected, Figure, Limit, Report, Sample};
use crate::rows::{Row, expected};
use crate::subject::{Empty, Juicefs, Subject, Twinshore};
use crate::works::{Amounts, Work};

/// The journal's disk, one durable append after the other.
const FDATASYNC: &str = "fdatasync of the disk, 4 KiB";
/// The S3 server, written to with many requests in flight.
const PUT: &str = "raw PUT of 4 MiB, 16 in flight";
/// And read from.
const GET: &str = "raw GET of 4 MiB, 16 in flight";

const PIECE_MEBIBYTES: usize = 4;

/// Stops copying.
pub async fn prepare(regions: &mut Regions) -> Result<(), Failure> {
    regions.unmount(Region::West).await?;
    regions.kill_worker(Region::West).await?;
    regions
        .twinshore(PATIENCE)
        .arguments(["volume", "configure", "--replication", "off", "--metadata"])
        .argument(regions.metadata_url(Region::East))
        .success()
        .await?;
    Ok(())
}

/// What the disk and the S3 server allow.
pub async fn limits(regions: &Regions, report: &mut Report) -> Result<(), Failure> {
    let count = report.amount(1000);
    let took = durable_appends(regions.directory(), count).await?;
    add_limit(report, Sample::rate(FDATASYNC, count, (took, Cost::default())));
    let store = Store::new(regions.bucket(Region::East));
    let count = report.amount(256);
    let (put, get) = put_and_get(&store, count, PIECE_MEBIBYTES << 20, 16).await?;
    for (what, took) in [(PUT, put), (GET, get)] {
        let measured = (took, Cost::default());
        add_limit(
            report,
            Sample::throughput(what, count * PIECE_MEBIBYTES, measured),
        );
    }
    Ok(())
}

fn add_limit(report: &mut Report, sample: Sample) {
    report.add(Figure {
        row: Row::Limits.name(),
        sample,
        expected: Expected::Nothing,
        limit: None,
        peer: None,
    });
}

/// A work, everywhere. What fails beside Twinshore is said, and compared with nothing.
pub async fn work(
    work: Work,
    regions: &mut Regions,
    empty: &mut Empty,
    juicefs: Option<&mut Juicefs>,
    report: &mut Report,
) -> Result<(), Failure> {
    let amounts = Amounts { quick: report.quick };
    let allowed = if work.needs_content() {
        HashMap::new()
    } else {
        beside("the empty file system", work, empty, amounts).await
    };
    let peer = match juicefs {
        Some(juicefs) => beside("JuiceFS", work, juicefs, amounts).await,
        None => HashMap::new(),
    };
    let mut subject = Twinshore {
        regions,
        region: Region::East,
    };
    for sample in work.run(&mut subject, amounts).await? {
        let of_machine = machine_limit(&sample.what)
            .and_then(|(name, what)| report.value(name).map(|value| Limit { value, what }));
        let limit = of_machine.or_else(|| {
            allowed.get(&sample.what).map(|value| Limit {
                value: *value,
                what: "the empty file system",
            })
        });
        let peer = peer.get(&sample.what).copied();
        report.add(Figure {
            row: Row::Near(work).name(),
            expected: expected(&sample.what),
            limit,
            peer,
            sample,
        });
    }
    Ok(())
}

/// Figures that have another limit than the empty file system.
fn machine_limit(what: &str) -> Option<(&'static str, &'static str)> {
    match what {
        "sequential write + fsync" => Some((PUT, "raw PUT of 4 MiB, 16 in flight")),
        "sequential read, cold" => Some((GET, "raw GET of 4 MiB, 16 in flight")),
        "sqlite, one durable transaction each" => Some((FDATASYNC, "one fdatasync of the disk each")),
        _ => None,
    }
}

async fn beside<S: Subject>(
    name: &str,
    work: Work,
    subject: &mut S,
    amounts: Amounts,
) -> HashMap<String, f64> {
    match work.run(subject, amounts).await {
        Ok(samples) => samples
            .into_iter()
            .map(|sample| (sample.what, sample.value))
            .collect(),
        Err(error) => {
            println!("{name} cannot do this: {}", chain(&error));
            HashMap::new()
        }
    }
}
