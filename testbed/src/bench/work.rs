//! What the file system reaches: the works of the table, near and far.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::Rng as _;
use twinshore_testbed::commands::Run;
use twinshore_testbed::failure::{Failure, blocking, make_directory};
use twinshore_testbed::regions::{Region, Regions};
use twinshore_testbed::tree::{Selection, known_source_trees};

use crate::limits;
use crate::measure::{PATIENCE, parallel};
use crate::report::{Figure, Report, Unit, per_second};

/// Files of the tree that is unpacked and cloned.
const TREE_FILES: usize = 2300;
/// Size of the large file.
const LARGE_BYTES: usize = 1 << 30;
/// What programs write at a time.
const PIECE_BYTES: usize = 1 << 20;

/// All works.
pub async fn all(regions: &mut Regions, report: &mut Report) -> Result<(), Failure> {
    small_files(regions, report).await?;
    listing(regions, report, Region::East, "ls -l of 10,000, cold", 0.1).await?;
    trees(regions, report).await?;
    database(regions, report).await?;
    large_file(regions, report).await?;
    copies(regions, report).await?;
    far(regions, report).await
}

/// A new mount with empty caches: the next read of anything is cold.
async fn cold(regions: &mut Regions, region: Region) -> Result<(), Failure> {
    regions.unmount(region).await?;
    let cache = regions.directory().join("caches").join(region.name());
    if cache.exists() {
        fs::remove_dir_all(&cache).map_err(Failure::io("remove the cache"))?;
    }
    Ok(regions.start_mount(region).await?)
}

async fn small_files(regions: &mut Regions, report: &mut Report) -> Result<(), Failure> {
    let root = regions.mount_point(Region::East);
    for (workers, full, empty, four) in [(1, 3000, 2500.0, 1200.0), (16, 16_000, 8000.0, 5000.0)] {
        let count = report.amount(full);
        let directory = root.join(format!("empty-{workers}"));
        make_directory(&directory).await?;
        let what = format!("create + close, {workers} workers");
        let path = directory.clone();
        let took = parallel(&what, count, workers, move |number| {
            File::create_new(path.join(number.to_string())).map(drop)
        })
        .await?;
        report.rate(&what, count, took, empty);
        let directory = root.join(format!("small-{workers}"));
        make_directory(&directory).await?;
        let what = format!("create + write 4 KiB + close, {workers} workers");
        let took = parallel(&what, count, workers, move |number| {
            fs::write(directory.join(number.to_string()), [7; 4096])
        })
        .await?;
        report.rate(&what, count, took, four);
    }
    for (workers, expected) in [(1, 8000.0), (16, 30_000.0)] {
        cold(regions, Region::East).await?;
        let (count, directory) = (report.amount(16_000), root.join("empty-16"));
        let what = format!("lookup, not cached, {workers} workers");
        let took = parallel(&what, count, workers, move |number| {
            fs::metadata(directory.join(number.to_string())).map(drop)
        })
        .await?;
        report.rate(&what, count, took, expected);
    }
    let (count, directory) = (report.amount(16_000), root.join("empty-16"));
    let path = directory.clone();
    let took = parallel("rename", count, 16, move |number| {
        fs::rename(
            path.join(number.to_string()),
            path.join(format!("renamed-{number}")),
        )
    })
    .await?;
    report.rate("rename, 16 workers", count, took, 6000.0);
    let took = parallel("unlink", count, 16, move |number| {
        fs::remove_file(directory.join(format!("renamed-{number}")))
    })
    .await?;
    report.rate("unlink, 16 workers", count, took, 6000.0);
    Ok(())
}

async fn listing(
    regions: &mut Regions,
    report: &mut Report,
    region: Region,
    what: &str,
    expected: f64,
) -> Result<(), Failure> {
    let directory = regions.mount_point(Region::East).join("listed");
    if region == Region::East {
        make_directory(&directory).await?;
        parallel("fill a directory", 10_000, 16, move |number| {
            File::create_new(directory.join(format!("entry-{number}"))).map(drop)
        })
        .await?;
    }
    cold(regions, region).await?;
    let directory = regions.mount_point(region).join("listed");
    let started = Instant::now();
    Run::new("ls", PATIENCE)
        .arguments(["-l", "-f"])
        .argument(&directory)
        .success()
        .await?;
    seconds(report, what, started.elapsed(), expected);
    Ok(())
}

fn seconds(report: &mut Report, what: &str, took: Duration, expected: f64) {
    let (what, value) = (what.to_owned(), took.as_secs_f64());
    report.add(Figure {
        what,
        value,
        unit: Unit::Seconds,
        expected: Some(expected),
        limit: None,
    });
}

/// A real tree, packed on the local disk.
async fn packed_tree(work: &Path) -> Result<(PathBuf, usize), Failure> {
    for root in known_source_trees().iter().filter(|root| root.is_dir()) {
        let part =
            Selection::part(root, TREE_FILES, TREE_FILES * 2).map_err(Failure::io("read a source tree"))?;
        if part.files >= TREE_FILES {
            let archive = work.join("tree.tar");
            Run::new("tar", PATIENCE)
                .arguments([Path::new("-C"), &part.root, Path::new("-cf"), &archive])
                .arguments(&part.names)
                .success()
                .await?;
            return Ok((archive, part.files));
        }
    }
    Err(Failure::Wrong(format!(
        "no source tree with {TREE_FILES} files was found"
    )))
}

async fn untar(archive: &Path, directory: &Path) -> Result<Duration, Failure> {
    make_directory(directory).await?;
    let started = Instant::now();
    Run::new("tar", PATIENCE)
        .arguments([Path::new("-C"), directory, Path::new("-xf"), archive])
        .success()
        .await?;
    Ok(started.elapsed())
}

async fn trees(regions: &mut Regions, report: &mut Report) -> Result<(), Failure> {
    let work = regions.directory().join("work");
    fs::create_dir_all(&work).map_err(Failure::io("make a directory to work in"))?;
    let (archive, files) = packed_tree(&work).await?;
    let tree = regions.mount_point(Region::East).join("tree");
    let took = untar(&archive, &tree).await?;
    report.rate("untar of source files", files, took, 1000.0);
    cold(regions, Region::East).await?;
    for (what, expected) in [("grep -r, cold", 2000.0), ("grep -r, warm", 8000.0)] {
        let started = Instant::now();
        Run::new("grep", PATIENCE)
            .arguments(["-r", "-c", "return"])
            .argument(&tree)
            .success()
            .await?;
        report.rate(what, files, started.elapsed(), expected);
    }
    let started = Instant::now();
    Run::new("rm", PATIENCE)
        .arguments(["-r", "-f", "--"])
        .argument(&tree)
        .success()
        .await?;
    report.rate("rm -rf", files, started.elapsed(), 2000.0);
    // A repository of the same tree on the local disk, cloned into the volume.
    let repository = work.join("repository");
    untar(&archive, &repository).await?;
    for arguments in [
        ["init", "-q", "."].as_slice(),
        &["add", "--force", "--all", "."],
        &["commit", "-q", "-m", "All"],
        &["repack", "-a", "-d", "-q"],
    ] {
        Run::git(&repository, PATIENCE)
            .arguments(arguments)
            .success()
            .await?;
    }
    let clone = regions.mount_point(Region::East).join("clone");
    let started = Instant::now();
    Run::git(&work, PATIENCE)
        .arguments(["clone", "-q", "--no-hardlinks"])
        .arguments([&repository, &clone])
        .success()
        .await?;
    let what = format!("git clone of {files} files");
    seconds(report, &what, started.elapsed(), 4.0);
    Ok(())
}

async fn database(regions: &Regions, report: &mut Report) -> Result<(), Failure> {
    let count = report.amount(1000);
    let path = regions.mount_point(Region::East).join("database.sqlite");
    let script = "INSERT INTO t (filler) VALUES (hex(randomblob(100)));\n".repeat(count);
    let file = regions.directory().join("work/transactions.sql");
    fs::write(
        &file,
        format!("CREATE TABLE t (id INTEGER PRIMARY KEY, filler TEXT);\n{script}"),
    )
    .map_err(Failure::io("write a script"))?;
    let started = Instant::now();
    Run::new("sqlite3", PATIENCE)
        .arguments(["-batch", "-bail"])
        .argument(&path)
        .argument(format!(".read {}", file.display()))
        .success()
        .await?;
    let value = per_second(count, started.elapsed());
    let limit = report
        .value(limits::FDATASYNC)
        .map(|limit| (limit, "one fdatasync of the disk"));
    let what = "sqlite, one durable transaction each".to_owned();
    report.add(Figure {
        what,
        value,
        unit: Unit::PerSecond,
        expected: Some(300.0),
        limit,
    });
    Ok(())
}

/// One file, written and read in order, then at random.
async fn large_file(regions: &mut Regions, report: &mut Report) -> Result<(), Failure> {
    let path = regions.mount_point(Region::East).join("large");
    let size = report.amount(LARGE_BYTES / PIECE_BYTES) * PIECE_BYTES;
    let target = path.clone();
    let took = blocking("sequential write", PATIENCE, move || {
        let piece: Vec<u8> = (0..PIECE_BYTES).map(|_| rand::random()).collect();
        let started = Instant::now();
        let write = || {
            let mut file = File::create(&target)?;
            for _ in 0..size / PIECE_BYTES {
                file.write_all(&piece)?;
            }
            file.sync_all()
        };
        write().map_err(Failure::io("write a large file"))?;
        Ok(started.elapsed())
    })
    .await?;
    // What is expected is a share of what the S3 server allows.
    let against =
        |report: &Report, limit: &'static str| report.value(limit).map(|value| (value, "the raw loop"));
    let pieces = size / PIECE_BYTES;
    let limit = against(report, limits::PUT);
    add_throughput(
        report,
        "sequential write + fsync",
        pieces,
        took,
        limit,
        limit.map(|(value, _)| value * 0.8),
    );
    cold(regions, Region::East).await?;
    let limit = against(report, limits::GET);
    let took = read_all(&path).await?;
    add_throughput(
        report,
        "sequential read, cold",
        pieces,
        took,
        limit,
        limit.map(|(value, _)| value * 0.8),
    );
    let took = read_all(&path).await?;
    add_throughput(report, "sequential read, warm", pieces, took, None, Some(2000.0));
    random_access(&path, size, report).await
}

fn add_throughput(
    report: &mut Report,
    what: &str,
    mebibytes: usize,
    took: Duration,
    limit: Option<(f64, &'static str)>,
    expected: Option<f64>,
) {
    let (what, value) = (what.to_owned(), per_second(mebibytes, took));
    report.add(Figure {
        what,
        value,
        unit: Unit::MebibytesPerSecond,
        expected,
        limit,
    });
}

async fn read_all(path: &Path) -> Result<Duration, Failure> {
    let path = path.to_owned();
    blocking("sequential read", PATIENCE, move || {
        let read = || {
            let mut file = File::open(&path)?;
            let mut piece = vec![0; PIECE_BYTES];
            let started = Instant::now();
            while file.read(&mut piece)? > 0 {}
            std::io::Result::Ok(started.elapsed())
        };
        read().map_err(Failure::io("read a large file"))
    })
    .await
}

async fn random_access(path: &Path, size: usize, report: &mut Report) -> Result<(), Failure> {
    let count = report.amount(200_000);
    let file = File::open(path).map_err(Failure::io("open the large file"))?;
    let took = parallel("random reads", count, 16, move |_| {
        let offset = rand::rng().random_range(0..size / 4096) * 4096;
        file.read_exact_at(&mut [0; 4096], offset as u64)
    })
    .await?;
    report.rate("random 4 KiB reads, warm, 16 jobs", count, took, 60_000.0);
    let count = report.amount(4000);
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(Failure::io("open the large file"))?;
    let took = parallel("random writes", count, 1, move |_| {
        let offset = rand::rng().random_range(0..size / 4096) * 4096;
        file.write_all_at(&[7; 4096], offset as u64)?;
        file.sync_all()
    })
    .await?;
    report.rate("random 4 KiB write + fsync", count, took, 2000.0);
    Ok(())
}

/// Replication catches up: how fast objects are copied to a bucket that was away.
async fn copies(regions: &mut Regions, report: &mut Report) -> Result<(), Failure> {
    // 4 KiB objects would be packed: what is measured is objects, of whatever size the volume makes of 200 files of 4 MiB.
    regions.wait_in_step(PATIENCE, |_| {}).await?;
    regions.bucket_mut(Region::West).stop().await?;
    let before = regions
        .status()
        .await?
        .side("target")
        .map_or(0, |side| side.copied_bytes);
    let root = regions.mount_point(Region::East).join("copied");
    make_directory(&root).await?;
    let count = report.amount(200);
    parallel("write what is to be copied", count, 4, move |number| {
        let byte = u8::try_from(number % 251).unwrap_or_default();
        fs::write(root.join(number.to_string()), vec![byte; 4 << 20])
    })
    .await?;
    let started = Instant::now();
    regions.bucket_mut(Region::West).start().await?;
    let after = regions.wait_in_step(PATIENCE, |_| {}).await?;
    let copied = after
        .side("target")
        .map_or(0, |side| side.copied_bytes)
        .saturating_sub(before);
    let mebibytes = usize::try_from(copied >> 20).unwrap_or(usize::MAX);
    let limit = report
        .value(limits::COPY_LARGE)
        .map(|value| (value, "a plain loop"));
    let what = format!("copy of {count} x 4 MiB between the buckets");
    let expected = limit.map(|(value, _)| value * 0.8);
    add_throughput(report, &what, mebibytes, started.elapsed(), limit, expected);
    Ok(())
}

/// From the far region, over the line.
async fn far(regions: &mut Regions, report: &mut Report) -> Result<(), Failure> {
    let per_round_trip = 0.9 / report.round_trip_seconds().max(1e-6);
    for (workers, full) in [(1, 100), (16, 1600)] {
        let count = report.amount(full);
        let directory = regions.mount_point(Region::West).join(format!("far-{workers}"));
        make_directory(&directory).await?;
        let what = format!("far: create + close, {workers} workers");
        let took = parallel(&what, count, workers, move |number| {
            File::create_new(directory.join(number.to_string())).map(drop)
        })
        .await?;
        #[allow(clippy::cast_precision_loss)] // 1 or 16.
        report.rate(&what, count, took, per_round_trip * workers as f64);
    }
    listing(regions, report, Region::West, "far: ls -l of 10,000, cold", 0.2).await?;
    let (archive, files) = few_files(&regions.directory().join("work"), report.amount(300)).await?;
    let took = untar(&archive, &regions.mount_point(Region::West).join("far-tree")).await?;
    report.rate("far: untar of source files", files, took, 30.0);
    Ok(())
}

/// A tree small enough for the line.
async fn few_files(work: &Path, files: usize) -> Result<(PathBuf, usize), Failure> {
    let tree = work.join("few");
    for number in 0..files {
        let directory = tree.join(format!("directory-{}", number / 20));
        fs::create_dir_all(&directory)
            .and_then(|()| {
                fs::write(
                    directory.join(number.to_string()),
                    vec![b'x'; 1000 + number * 37 % 20_000],
                )
            })
            .map_err(Failure::io("make a small tree"))?;
    }
    let archive = work.join("few.tar");
    Run::new("tar", PATIENCE)
        .arguments([
            Path::new("-C"),
            work,
            Path::new("-cf"),
            &archive,
            Path::new("few"),
        ])
        .success()
        .await?;
    Ok((archive, files))
}
