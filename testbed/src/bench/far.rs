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
    for crew in works::Crew::ALL {
        in_step(regions).await?;
        let subject = Twinshore {
            regions,
            region: Region::West,
        };
        let count = report.amount(if crew == works::Crew::Apart { 1600 } else { 100 });
        let directory = root.join(format!("far-{crew:?}"));
        let what = format!("{FAR}create + close");
        let sample = works::create_files(&subject, &what, directory, count, crew, 0).await?;
        let limit = Limit {
            value: f64::from(crew.workers()) * round_trips,
            what: "one round trip each",
        };
        add(report, sample, Some(limit));
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
    // Made in the near region: over the line it would take minutes.
    works::fill_listed(&regions.mount_point(Region::East)).await?;
    in_step(regions).await?;
    let mut subject = Twinshore {
        regions,
        region: Region::West,
    };
    for sample in works::list(&mut subject, FAR).await? {
        add(report, sample, None);
    }
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
