//! Replication: the lag, what both buckets hold, and the loss of one bucket.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::RngCore as _;
use twinshore_testbed::patience::{Look, wait_for};
use twinshore_testbed::progress::bytes;
use twinshore_testbed::regions::Region;
use twinshore_testbed::tree::{Manifest, Names};
use twinshore_testbed::wan::Direction;

use super::Tour;
use twinshore_testbed::failure::{Failure, blocking, same};

/// A file large enough to be several objects.
const LARGE_BYTES: usize = 12 << 20;
/// Files that each region writes while the bucket is stopped.
const FILES_DURING_OUTAGE: usize = 24;
/// Their size: too large for the metadata, so each needs a bucket.
const FILE_BYTES: usize = 96 << 10;
/// For both buckets to be equal after the lag is zero: dead objects may still be on their way out.
const SETTLE_PATIENCE: Duration = Duration::from_mins(1);

/// A file's name and its content.
type Written = (String, Vec<u8>);

impl Tour<'_> {
    /// Each region writes something large; then the lag of both directions falls to zero.
    pub async fn lag_falls_to_zero(&mut self) -> Result<(), Failure> {
        self.progress.say(&format!(
            "each region writes {}; the lag of both directions",
            bytes(LARGE_BYTES as u64)
        ));
        let started = Instant::now();
        for region in Region::BOTH {
            let path = self
                .regions
                .mount_point(region)
                .join(format!("large-from-{region}"));
            blocking("writing a large file", self.patience, move || {
                write_random(&path, LARGE_BYTES).map_err(Failure::io("write a large file"))
            })
            .await?;
        }
        let progress = &*self.progress;
        let status = self
            .regions
            .wait_in_step(self.patience, |lag| progress.say(&format!("  {lag}")))
            .await?;
        let copied = |region: Region| status.side(region.side()).map_or(0, |side| side.copied_objects);
        let result = format!(
            "0 s both ways; copied {} objects to west, {} to east",
            copied(Region::West),
            copied(Region::East)
        );
        self.progress.row("lag falls to zero", result, started.elapsed());
        Ok(())
    }

    /// Compares names, sizes and SHA-256 of all objects of both buckets, as they lie on the servers' disks.
    pub async fn both_buckets_hold_the_same(&mut self, what: &str) -> Result<(), Failure> {
        let started = Instant::now();
        let directories =
            Region::BOTH.map(|region| self.regions.bucket(region).bucket_directory().join("objects"));
        let equal = wait_for(
            "both buckets to hold the same objects",
            SETTLE_PATIENCE,
            async || {
                let directories = directories.clone();
                let read = blocking("listing both buckets", SETTLE_PATIENCE, move || {
                    let [east, west] = directories.map(|directory| {
                        Manifest::read(&directory, Names::All, 4).map_err(Failure::io("list a bucket"))
                    });
                    Ok((east?, west?))
                });
                match read.await {
                    // Directories that became empty are no objects.
                    Ok((east, west)) => {
                        let (east, west) = (east.only_content(), west.only_content());
                        match same(&east, &west, "the east bucket", "the west bucket") {
                            Ok(()) => Look::Done(east),
                            Err(difference) => Look::NotYet(difference.to_string()),
                        }
                    }
                    Err(error) => Look::NotYet(error.to_string()),
                }
            },
        )
        .await?;
        for (key, _) in equal.entries.iter().take(3) {
            self.progress
                .say(&format!("  both hold objects/{} ...", key.display()));
        }
        let result = format!("{} objects, {}, identical", equal.files(), bytes(equal.bytes()));
        self.progress.row(what, result, started.elapsed());
        Ok(())
    }

    /// The bucket of east stops; both regions go on; it returns and catches up.
    pub async fn east_bucket_stops_and_returns(&mut self) -> Result<(), Failure> {
        self.progress
            .say("the bucket of east stops; both regions go on writing and reading");
        self.regions.bucket_mut(Region::East).stop().await?;
        let mut written = Vec::new();
        for region in Region::BOTH {
            let started = Instant::now();
            let directory = self.regions.mount_point(region).join(format!("outage-{region}"));
            let files = blocking("writing without the bucket of east", self.patience, move || {
                write_files(&directory).map_err(Failure::io("write without the bucket of east"))
            })
            .await?;
            let result = format!(
                "{} files of {}, each fsynced",
                files.len(),
                bytes(FILE_BYTES as u64)
            );
            self.progress.row(
                &format!("write in {region}, bucket of east stopped"),
                result,
                started.elapsed(),
            );
            written.push((region, files));
        }
        for region in Region::BOTH {
            let started = Instant::now();
            self.check_written(region, &written).await?;
            let found = self.read_source(region, 16).await?;
            same(&self.expected, &found, "what was committed", region.name())?;
            let result = format!(
                "{} files identical",
                found.files() + written.len() * FILES_DURING_OUTAGE
            );
            self.progress.row(
                &format!("read in {region}, bucket of east stopped"),
                result,
                started.elapsed(),
            );
        }
        let owed = self.regions.status().await?;
        self.progress.say(&format!("  {}", owed.lag()));
        let owed_objects = owed
            .side(Region::East.side())
            .map_or(0, |side| side.pending_objects);
        if owed_objects == 0 {
            return Err(Failure::Wrong(
                "nothing is owed to east although its bucket was stopped".to_owned(),
            ));
        }
        self.progress
            .say("the bucket of east starts again and catches up");
        let started = Instant::now();
        self.regions.bucket_mut(Region::East).start().await?;
        let progress = &*self.progress;
        self.regions
            .wait_in_step(self.patience, |lag| progress.say(&format!("  {lag}")))
            .await?;
        let result = format!("{owed_objects} objects that east was owed; lag 0 s both ways");
        self.progress
            .row("bucket of east back: catch-up", result, started.elapsed());
        self.both_buckets_hold_the_same("list both buckets again").await?;
        for region in Region::BOTH {
            self.check_written(region, &written).await?;
        }
        let carried = [Direction::EastToWest, Direction::WestToEast]
            .map(|direction| self.regions.wan().bytes(direction));
        let result = format!("{} to west, {} to east", bytes(carried[0]), bytes(carried[1]));
        self.progress
            .row("carried by the line", result, self.progress.elapsed());
        Ok(())
    }

    /// A region sees what both wrote during the outage.
    async fn check_written(&self, region: Region, written: &[(Region, Vec<Written>)]) -> Result<(), Failure> {
        let written = written.to_vec();
        let mount_point = self.regions.mount_point(region);
        blocking("reading without the bucket of east", self.patience, move || {
            for (writer, files) in written {
                let directory = mount_point.join(format!("outage-{writer}"));
                for (name, content) in files {
                    let path = directory.join(name);
                    let mut found = Vec::new();
                    std::fs::File::open(&path)
                        .and_then(|mut file| file.read_to_end(&mut found))
                        .map_err(Failure::io(format!("read {}", path.display())))?;
                    if found != content {
                        return Err(Failure::Wrong(format!(
                            "{} is not what was written",
                            path.display()
                        )));
                    }
                }
            }
            Ok(())
        })
        .await
    }
}

fn write_random(path: &Path, size_bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut content = vec![0; size_bytes];
    rand::rng().fill_bytes(&mut content);
    let mut file = std::fs::File::create(path)?;
    file.write_all(&content)?;
    file.sync_all()?;
    Ok(content)
}

fn write_files(directory: &Path) -> std::io::Result<Vec<Written>> {
    std::fs::create_dir(directory)?;
    (0..FILES_DURING_OUTAGE)
        .map(|number| {
            let name = format!("file-{number}");
            let content = write_random(&directory.join(&name), FILE_BYTES)?;
            Ok((name, content))
        })
        .collect()
}
