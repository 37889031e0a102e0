//! Many small files.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use twinshore_testbed::commands::{CommandError, Run};
use twinshore_testbed::failure::{Failure, make_directory};

use super::Amounts;
use crate::measure::parallel;
use crate::report::Sample;
use crate::subject::Subject;

/// Where they are.
const LISTED_NAME: &str = "listed";
/// Entries of the directory that is listed.
const LISTED: usize = 10_000;
/// A small file.
const SMALL_BYTES: usize = 4096;
/// Many workers.
const WORKERS: u16 = 16;

/// For one listing. In the far region it could go on for very long.
const LIST_PATIENCE: Duration = Duration::from_mins(2);

/// Who works, and where. The kernel lets only one thread at a time change a directory, so workers that share one measure how long
/// a change takes, and workers that have one each how many go on at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crew {
    /// One alone.
    One,
    /// Sixteen in one directory.
    Together,
    /// Sixteen, each in its own.
    Apart,
}

impl Crew {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::One, Self::Together, Self::Apart];

    /// How many.
    pub const fn workers(self) -> u16 {
        match self {
            Self::One => 1,
            Self::Together | Self::Apart => WORKERS,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::One => "1 worker",
            Self::Together => "16 workers",
            Self::Apart => "16 workers, a directory each",
        }
    }

    /// Makes the directories.
    async fn make(self, directory: &Path) -> Result<(), Failure> {
        make_directory(directory).await?;
        if self == Self::Apart {
            for worker in 0..WORKERS {
                make_directory(&directory.join(worker.to_string())).await?;
            }
        }
        Ok(())
    }

    /// Where a worker works.
    fn place(self, directory: &Path, worker: usize) -> PathBuf {
        match self {
            Self::One | Self::Together => directory.to_owned(),
            Self::Apart => directory.join(worker.to_string()),
        }
    }
}

/// Makes files of so many bytes and closes them.
pub async fn create_files<S: Subject>(
    subject: &S,
    what: &str,
    directory: PathBuf,
    count: usize,
    crew: Crew,
    size_bytes: usize,
) -> Result<Sample, Failure> {
    crew.make(&directory).await?;
    let meter = subject.meter()?;
    meter.quiet().await?;
    let what = format!("{what}, {}", crew.text());
    let work = parallel(&what, count, crew.workers().into(), move |worker, number| {
        let path = crew.place(&directory, worker).join(number.to_string());
        let mut file = File::create_new(path)?;
        if size_bytes > 0 {
            file.write_all(&[7; SMALL_BYTES][..size_bytes])?;
        }
        drop(file);
        Ok(())
    });
    let measured = meter.measure(count, work).await?;
    Ok(Sample::rate(what, count, measured))
}

/// Empty files, then files of 4 KiB.
pub async fn create<S: Subject>(subject: &mut S, amounts: Amounts) -> Result<Vec<Sample>, Failure> {
    let mut samples = Vec::new();
    for (what, size_bytes) in [
        ("create + close", 0),
        ("create + write 4 KiB + close", SMALL_BYTES),
    ] {
        for crew in Crew::ALL {
            let count = amounts.of(if crew == Crew::One { 3000 } else { 10_000 });
            let directory = subject.root().join(format!("created-{size_bytes}-{crew:?}"));
            samples.push(create_files(subject, what, directory, count, crew, size_bytes).await?);
        }
    }
    Ok(samples)
}

/// Fills a directory with empty files, unmeasured.
pub async fn fill(directory: &Path, count: usize) -> Result<(), Failure> {
    make_directory(directory).await?;
    let directory = directory.to_owned();
    parallel("fill a directory", count, WORKERS.into(), move |_, number| {
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
    for (crew, full) in [(Crew::One, 8000), (Crew::Together, full)] {
        subject.cold().await?;
        let meter = subject.meter()?;
        meter.quiet().await?;
        let (count, directory) = (amounts.of(full), directory.clone());
        let what = format!("lookup not cached by the kernel, {}", crew.text());
        let work = parallel(&what, count, crew.workers().into(), move |_, number| {
            fs::symlink_metadata(directory.join(format!("entry-{number}"))).map(drop)
        });
        let measured = meter.measure(count, work).await?;
        samples.push(Sample::rate(what, count, measured));
    }
    Ok(samples)
}

/// Renames and removes what the crew made before.
pub async fn rename_and_unlink<S: Subject>(
    subject: &mut S,
    amounts: Amounts,
) -> Result<Vec<Sample>, Failure> {
    let mut samples = Vec::new();
    for crew in [Crew::Together, Crew::Apart] {
        let count = amounts.of(10_000);
        let directory = subject.root().join(format!("renamed-{crew:?}"));
        crew.make(&directory).await?;
        // Whose number it is, is fixed here: each renames and removes what it has made.
        let each = count.div_ceil(WORKERS.into());
        let path = directory.clone();
        let by_each = move |operation: fn(&Path, usize) -> io::Result<()>| {
            let path = path.clone();
            move |_: usize, worker: usize| {
                let place = crew.place(&path, worker);
                (0..each).try_for_each(|number| operation(&place, worker * each + number))
            }
        };
        let workers = usize::from(WORKERS);
        let fill = by_each(|place, number| File::create_new(place.join(format!("entry-{number}"))).map(drop));
        parallel("fill directories", workers, workers, fill).await?;
        let rename = by_each(|place, number| {
            fs::rename(
                place.join(format!("entry-{number}")),
                place.join(format!("renamed-{number}")),
            )
        });
        let unlink = by_each(|place, number| fs::remove_file(place.join(format!("renamed-{number}"))));
        let count = each * workers;
        let meter = subject.meter()?;
        meter.quiet().await?;
        let work = parallel("rename", workers, workers, rename);
        let measured = meter.measure(count, work).await?;
        samples.push(Sample::rate(format!("rename, {}", crew.text()), count, measured));
        meter.quiet().await?;
        let work = parallel("unlink", workers, workers, unlink);
        let measured = meter.measure(count, work).await?;
        samples.push(Sample::rate(format!("unlink, {}", crew.text()), count, measured));
    }
    Ok(samples)
}

/// A directory with the entries that [`list`] lists, if it is not there yet.
pub async fn fill_listed(root: &Path) -> Result<(), Failure> {
    let directory = root.join(LISTED_NAME);
    let is_filled = fs::read_dir(&directory).is_ok_and(|entries| entries.count() == LISTED);
    if is_filled {
        return Ok(());
    }
    fill(&directory, LISTED).await
}

/// A large directory, cold: only names and attributes, then as `ls -l` does it (it also asks for the access list of each entry).
pub async fn list<S: Subject>(subject: &mut S, what: &str) -> Result<Vec<Sample>, Failure> {
    let directory = subject.root().join(LISTED_NAME);
    fill_listed(&subject.root()).await?;
    subject.cold().await?;
    let meter = subject.meter()?;
    meter.quiet().await?;
    let path = directory.clone();
    let work = parallel("list a directory", 1, 1, move |_, _| {
        for entry in fs::read_dir(&path)? {
            entry?.metadata()?;
        }
        Ok(())
    });
    let scanned = Sample::seconds(
        format!("{what}names and attributes of 10,000, cold"),
        meter.measure(LISTED, work).await?,
    );
    subject.cold().await?;
    let meter = subject.meter()?;
    meter.quiet().await?;
    let work = async {
        let started = Instant::now();
        let listing = Run::new("ls", LIST_PATIENCE).argument("-l").argument(directory);
        match listing.success().await {
            Ok(_) => Ok(started.elapsed()),
            // Said as what it is: at least so long.
            Err(CommandError::TimedOut { .. }) => Ok(LIST_PATIENCE),
            Err(error) => Err(error.into()),
        }
    };
    let listed = Sample::seconds(
        format!("{what}ls -l of 10,000, cold"),
        meter.measure(LISTED, work).await?,
    );
    Ok(vec![scanned, listed])
}
