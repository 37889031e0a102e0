//! Works in the far region: every message to the metadata service crosses the line; data stays in the near bucket.

use twinshore_testbed::failure::Failure;
use twinshore_testbed::regions::{Region, Regions};

use crate::measure::PATIENCE;
use crate::report::{Figure, Limit, Report, Sample};
use crate::rows::{Row, expected};
use crate::subject::{Subject as _, Twinshore};
use crate::works;

/// What every figure of this row begins with.
const FAR: &str = "far: ";
/// Files that are unpacked: at 30 in a second, 10 seconds.
const TREE_FILES: usize = 300;

/// Creates, lists and unpacks.
pub async fn far(regions: &mut Regions, report: &mut Report) -> Result<(), Failure> {
    let round_trips = 1.0 / report.round_trip_seconds().max(1e-6);
    let root = regions.mount_point(Region::West);
    for (workers, full) in [(1_u16, 100), (16, 1600)] {
        in_step(regions).await?;
        let subject = Twinshore {
            regions,
            region: Region::West,
        };
        let count = report.amount(full);
        let directory = root.join(format!("far-{workers}"));
        let sample = works::create_empty(&subject, FAR, directory, count, workers.into()).await?;
        let limit = Limit {
            value: f64::from(workers) * round_trips,
            what: "one round trip each",
        };
        add(report, sample, Some(limit));
    }
    // Made in the near region: over the line it would take minutes.
    works::fill(&regions.mount_point(Region::East).join("listed"), 10_000).await?;
    in_step(regions).await?;
    let mut subject = Twinshore {
        regions,
        region: Region::West,
    };
    for sample in works::list(&mut subject, FAR).await? {
        add(report, sample, None);
    }
    let work = tempfile::tempdir().map_err(Failure::io("make a directory to work in"))?;
    let archive = work.path().join("tree.tar");
    let files = works::pack_tree(&archive, report.amount(TREE_FILES)).await?;
    in_step(regions).await?;
    let subject = Twinshore {
        regions,
        region: Region::West,
    };
    let meter = subject.meter()?;
    let unpacked = meter
        .measure(files, works::untar(&archive, &root.join("far-tree")))
        .await?;
    let limit = Limit {
        value: round_trips,
        what: "one round trip each",
    };
    add(
        report,
        Sample::rate(format!("{FAR}untar of source files"), files, unpacked),
        Some(limit),
    );
    Ok(())
}

async fn in_step(regions: &Regions) -> Result<(), Failure> {
    regions.wait_in_step(PATIENCE, |_| {}).await?;
    Ok(())
}

fn add(report: &mut Report, sample: Sample, limit: Option<Limit>) {
    report.add(Figure {
        row: Row::Far.name(),
        // The share of the round trips holds for any distance; the other expectations are for 30 ms.
        expected: expected(&sample.what),
        sample,
        limit,
        peer: None,
    });
}
