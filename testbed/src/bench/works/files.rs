//! Many small files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use twinshore_testbed::commands::Run;
use twinshore_testbed::failure::{Failure, make_directory};

use super::Amounts;
use crate::measure::{PATIENCE, parallel};
use crate::report::Sample;
use crate::subject::Subject;

/// Entries of the directory that is listed.
const LISTED: usize = 10_000;

/// "1 worker", "16 workers".
fn workers_text(workers: usize) -> String {
    format!("{workers} worker{}", if workers == 1 { "" } else { "s" })
}

/// Makes empty files and closes them.
pub async fn create_empty<S: Subject>(
    subject: &S,
    what: &str,
    directory: PathBuf,
    count: usize,
    workers: usize,
) -> Result<Sample, Failure> {
    make_directory(&directory).await?;
    let meter = subject.meter()?;
    meter.quiet().await?;
    let what = format!("{what}create + close, {}", workers_text(workers));
    let work = parallel(&what, count, workers, move |number| {
        File::create_new(directory.join(number.to_string())).map(drop)
    });
    let measured = meter.measure(count, work).await?;
    Ok(Sample::rate(what, count, measured))
}

/// Empty files, then files of 4 KiB, by 1 worker and by 16.
pub async fn create<S: Subject>(subject: &mut S, amounts: Amounts) -> Result<Vec<Sample>, Failure> {
    let mut samples = Vec::new();
    for (workers, full) in [(1, 3000), (16, 16_000)] {
        let count = amounts.of(full);
        let directory = subject.root().join(format!("empty-{workers}"));
        samples.push(create_empty(subject, "", directory, count, workers).await?);
    }
    for (workers, full) in [(1, 2000), (16, 10_000)] {
        let count = amounts.of(full);
        let directory = subject.root().join(format!("small-{workers}"));
        make_directory(&directory).await?;
        let meter = subject.meter()?;
        meter.quiet().await?;
        let what = format!("create + write 4 KiB + close, {}", workers_text(workers));
        let work = parallel(&what, count, workers, move |number| {
            fs::write(directory.join(number.to_string()), [7; 4096])
        });
        let measured = meter.measure(count, work).await?;
        samples.push(Sample::rate(what, count, measured));
    }
    Ok(samples)
}

/// Fills a directory with empty files, unmeasured.
pub async fn fill(directory: &Path, count: usize) -> Result<(), Failure> {
    make_directory(directory).await?;
    let directory = directory.to_owned();
    parallel("fill a directory", count, 16, move |number| {
        File::create_new(directory.join(format!("entry-{number}"))).map(drop)
    })
    .await?;
    Ok(())
}

/// Each name once, after everything was made cold.
pub async fn look_up<S: Subject>(subject: &mut S, amounts: Amounts) -> Result<Vec<Sample>, Failure> {
    let full = 16_000;
    let directory = subject.root().join("looked-up");
    fill(&directory, amounts.of(full)).await?;
    let mut samples = Vec::new();
    for (workers, full) in [(1, 8000), (16, full)] {
        subject.cold().await?;
        let meter = subject.meter()?;
        meter.quiet().await?;
        let (count, directory) = (amounts.of(full), directory.clone());
        let what = format!("lookup not cached by the kernel, {}", workers_text(workers));
        let work = parallel(&what, count, workers, move |number| {
            fs::symlink_metadata(directory.join(format!("entry-{number}"))).map(drop)
        });
        let measured = meter.measure(count, work).await?;
        samples.push(Sample::rate(what, count, measured));
    }
    Ok(samples)
}

/// In one directory, by 16 workers.
pub async fn rename_and_unlink<S: Subject>(
    subject: &mut S,
    amounts: Amounts,
) -> Result<Vec<Sample>, Failure> {
    let count = amounts.of(16_000);
    let directory = subject.root().join("renamed");
    fill(&directory, count).await?;
    let meter = subject.meter()?;
    meter.quiet().await?;
    let path = directory.clone();
    let work = parallel("rename", count, 16, move |number| {
        fs::rename(
            path.join(format!("entry-{number}")),
            path.join(format!("renamed-{number}")),
        )
    });
    let renamed = Sample::rate("rename, 16 workers", count, meter.measure(count, work).await?);
    meter.quiet().await?;
    let work = parallel("unlink", count, 16, move |number| {
        fs::remove_file(directory.join(format!("renamed-{number}")))
    });
    let unlinked = Sample::rate("unlink, 16 workers", count, meter.measure(count, work).await?);
    Ok(vec![renamed, unlinked])
}

/// A large directory, cold: as `ls -l` does it (it also asks for the access list of each entry), and only names and attributes.
pub async fn list<S: Subject>(subject: &mut S, what: &str) -> Result<Vec<Sample>, Failure> {
    let directory = subject.root().join("listed");
    let is_filled = fs::read_dir(&directory).is_ok_and(|entries| entries.count() == LISTED);
    if !is_filled {
        fill(&directory, LISTED).await?;
    }
    subject.cold().await?;
    let meter = subject.meter()?;
    meter.quiet().await?;
    let path = directory.clone();
    let work = async {
        let started = Instant::now();
        Run::new("ls", PATIENCE)
            .argument("-l")
            .argument(path)
            .success()
            .await?;
        Ok(started.elapsed())
    };
    let listed = Sample::seconds(
        format!("{what}ls -l of 10,000, cold"),
        meter.measure(LISTED, work).await?,
    );
    subject.cold().await?;
    let meter = subject.meter()?;
    meter.quiet().await?;
    let work = parallel("list a directory", 1, 1, move |_| {
        for entry in fs::read_dir(&directory)? {
            entry?.metadata()?;
        }
        Ok(())
    });
    let scanned = Sample::seconds(
        format!("{what}names and attributes of 10,000, cold"),
        meter.measure(LISTED, work).await?,
    );
    Ok(vec![listed, scanned])
}
