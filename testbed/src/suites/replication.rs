//! Replication comes and goes while the volume is mounted and written to.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::patience::{Look, wait_for};
use twinshore_testbed::regions::Region;

use crate::context::{Context, ensure};

const PATIENCE: Duration = Duration::from_mins(4);

/// Files that exist before there is a second bucket.
const FILES_BEFORE: u64 = 150;

/// Files written in a state before the next change.
const FILES_EACH: u64 = 30;

/// Some ride in the metadata, some become objects.
fn content(number: u64) -> Vec<u8> {
    let length = usize::try_from(1 + number % 7 * 9_000).unwrap_or(1);
    number
        .to_le_bytes()
        .iter()
        .copied()
        .cycle()
        .take(length)
        .collect()
}

/// A program that writes one file after the other until it is told to stop.
struct Writer {
    directory: PathBuf,
    written: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    running: JoinHandle<Result<(), Failure>>,
}

impl Writer {
    fn start(directory: PathBuf) -> Result<Self, Failure> {
        fs::create_dir(&directory).map_err(Failure::io("make a directory"))?;
        let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let running = tokio::task::spawn_blocking({
            let (directory, written, stop) = (directory.clone(), Arc::clone(&written), Arc::clone(&stop));
            move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let path = directory.join(number.to_string());
                    fs::write(&path, content(number))
                        .map_err(Failure::io(format!("write {}", path.display())))?;
                    number += 1;
                    written.store(number, Ordering::Relaxed);
                    // A program at work, not a flood: the copies have to keep up with it on a small machine.
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(())
            }
        });
        Ok(Self {
            directory,
            written,
            stop,
            running,
        })
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until it has written so many more files.
    async fn goes_on(&self, count: u64) -> Result<(), Failure> {
        let wanted = self.written() + count;
        wait_for("the writer to go on", PATIENCE, async || {
            let written = self.written();
            if written >= wanted || self.running.is_finished() {
                Look::Done(())
            } else {
                Look::NotYet(format!("{written} files of {wanted}"))
            }
        })
        .await?;
        ensure(!self.running.is_finished(), || {
            format!("the writer in {} has failed", self.directory.display())
        })
    }

    /// How many files there are.
    async fn stop(self) -> Result<u64, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        match tokio::time::timeout(PATIENCE, self.running).await {
            Ok(Ok(result)) => result.map(|()| self.written.load(Ordering::Relaxed)),
            Ok(Err(error)) => Err(Failure::Wrong(format!("the writer panicked: {error}"))),
            Err(_) => Err(Failure::TooSlow {
                what: "the writer to stop".to_owned(),
                seconds: PATIENCE.as_secs(),
            }),
        }
    }
}

fn check(directory: &Path, files: u64) -> Result<(), Failure> {
    for number in 0..files {
        let path = directory.join(number.to_string());
        let found = fs::read(&path).map_err(Failure::io(format!("read {}", path.display())))?;
        ensure(found == content(number), || {
            format!("{} is not what was written", path.display())
        })?;
    }
    Ok(())
}

async fn check_in(context: &Context, reader: Region, writer: Region, files: u64) -> Result<(), Failure> {
    let directory = context.path(reader, &format!("of-{writer}"));
    blocking(
        &format!("reading in {reader} what {writer} wrote"),
        PATIENCE,
        move || check(&directory, files),
    )
    .await
}

async fn switch(context: &Context, state: &str) -> Result<(), Failure> {
    context
        .regions
        .service_command(["volume", "configure", "--replication", state])
        .success()
        .await?;
    Ok(())
}

/// What the bucket of west is owed.
async fn owed(context: &Context) -> Result<(u64, u64), Failure> {
    let status = context.regions.status().await?;
    let side = status.side(Region::West.side());
    Ok(side.map_or((0, 0), |side| (side.pending_objects, side.copied_objects)))
}

/// The whole life of replication.
pub async fn second_bucket(context: &mut Context) -> Result<(), Failure> {
    let east = Writer::start(context.path(Region::East, "of-east"))?;
    east.goes_on(FILES_BEFORE).await?;
    let before = context.regions.status().await?;
    ensure(before.replication.is_empty(), || {
        "a volume with one bucket shows a lag".to_owned()
    })?;
    let there = context
        .regions
        .bucket(Region::West)
        .bucket_directory()
        .join("objects");
    ensure(!there.exists(), || {
        "objects lie in a bucket that is not the volume's".to_owned()
    })?;

    context.regions.set_target().await?;
    let (most, _) = owed(context).await?;
    ensure(most > 0, || {
        "nothing that existed is owed to the new bucket".to_owned()
    })?;
    let existing = before.objects;
    context.regions.start_worker(Region::West).await?;
    context.regions.start_mount(Region::West).await?;
    check_in(context, Region::West, Region::East, east.written()).await?;
    let west = Writer::start(context.path(Region::West, "of-west"))?;
    wait_for("what existed to be copied", PATIENCE, async || {
        match owed(context).await {
            Ok((_, copied)) if copied >= existing => Look::Done(()),
            Ok((pending, copied)) => Look::NotYet(format!("{copied} of {existing} copied, {pending} owed")),
            Err(error) => Look::NotYet(error.to_string()),
        }
    })
    .await?;
    println!(
        "  second bucket given while programs write: {existing} objects existed, {most} were owed, and arrived"
    );
    east.goes_on(FILES_EACH).await?;
    west.goes_on(FILES_EACH).await?;

    switch(context, "off").await?;
    east.goes_on(FILES_EACH).await?;
    west.goes_on(FILES_EACH).await?;
    let (pending, _) = owed(context).await?;
    ensure(pending > 0, || {
        "nothing is owed although replication is off".to_owned()
    })?;
    for reader in Region::BOTH {
        check_in(context, reader, Region::East, east.written()).await?;
        check_in(context, reader, Region::West, west.written()).await?;
    }
    println!(
        "  switched off while both write: {pending} objects are owed, everything is read in both regions"
    );

    switch(context, "on").await?;
    east.goes_on(FILES_EACH).await?;
    west.goes_on(FILES_EACH).await?;
    let (of_east, of_west) = (east.stop().await?, west.stop().await?);
    context.both_buckets_are_equal(PATIENCE).await?;
    for region in Region::BOTH {
        context.remount_without_cache(region).await?;
        check_in(context, region, Region::East, of_east).await?;
        check_in(context, region, Region::West, of_west).await?;
    }
    println!(
        "  switched on again: both buckets are equal, {} files in both regions",
        of_east + of_west
    );
    // Each region reads its own bucket alone.
    for (stopped, reader) in [(Region::East, Region::West), (Region::West, Region::East)] {
        context.remount_without_cache(reader).await?;
        context.regions.bucket_mut(stopped).stop().await?;
        check_in(
            context,
            reader,
            stopped,
            if stopped == Region::East { of_east } else { of_west },
        )
        .await?;
        context.regions.bucket_mut(stopped).start().await?;
    }
    println!("  and each region reads everything without the other's bucket");
    Ok(())
}
