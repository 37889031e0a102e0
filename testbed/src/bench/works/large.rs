//! One large file, in order and at random.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{Rng as _, RngCore as _};
use rustix::fs::{Advice, fadvise};
use twinshore_testbed::failure::{Failure, blocking};

use super::Amounts;
use crate::measure::{PATIENCE, parallel};
use crate::report::Sample;
use crate::subject::Subject;

/// What programs write and read at a time.
const PIECE_BYTES: usize = 1 << 20;
/// A page, and a record of a database.
const PAGE_BYTES: usize = 4096;
/// MiB of the file for reading in order.
const SEQUENTIAL_MEBIBYTES: usize = 1024;
/// MiB of the file for random access.
const RANDOM_MEBIBYTES: usize = 512;

/// Writes and syncs a file; every piece differs, so that nothing can be shared.
async fn write_file(path: PathBuf, mebibytes: usize) -> Result<Duration, Failure> {
    blocking("sequential write", PATIENCE, move || {
        let mut piece = vec![0; PIECE_BYTES];
        rand::rng().fill_bytes(&mut piece);
        let started = Instant::now();
        let mut write = || {
            let mut file = File::create(&path)?;
            for number in 0..mebibytes {
                piece[..8].copy_from_slice(&(number as u64).to_be_bytes());
                file.write_all(&piece)?;
            }
            file.sync_all()
        };
        write().map_err(Failure::io("write a large file"))?;
        Ok(started.elapsed())
    })
    .await
}

async fn read_file(path: PathBuf) -> Result<Duration, Failure> {
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

/// Lets the kernel forget the pages of a file: what comes next is read from the mount, whose own caches stay warm.
async fn forget_pages(path: &Path) -> Result<(), Failure> {
    let path = path.to_owned();
    blocking("drop pages", PATIENCE, move || {
        let forget = || {
            let file = File::open(&path)?;
            std::io::Result::Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
        };
        forget().map_err(Failure::io("drop the pages of a file"))
    })
    .await
}

/// Written, read cold, read again from the mount's cache.
pub async fn sequential<S: Subject>(subject: &mut S, amounts: Amounts) -> Result<Vec<Sample>, Failure> {
    let mebibytes = amounts.of(SEQUENTIAL_MEBIBYTES);
    let path = subject.root().join("large");
    let mut samples = Vec::new();
    let meter = subject.meter()?;
    meter.quiet().await?;
    let written = meter
        .measure(mebibytes, write_file(path.clone(), mebibytes))
        .await?;
    samples.push(Sample::throughput("sequential write + fsync", mebibytes, written));
    subject.cold().await?;
    let meter = subject.meter()?;
    meter.quiet().await?;
    let cold = meter.measure(mebibytes, read_file(path.clone())).await?;
    samples.push(Sample::throughput("sequential read, cold", mebibytes, cold));
    meter.quiet().await?;
    forget_pages(&path).await?;
    let warm = meter.measure(mebibytes, read_file(path.clone())).await?;
    samples.push(Sample::throughput("sequential read, warm", mebibytes, warm));
    std::fs::remove_file(&path).map_err(Failure::io("remove the large file"))?;
    Ok(samples)
}

/// Reads by 16 jobs from the mount's cache, and writes by 4, each synced.
pub async fn random<S: Subject>(subject: &mut S, amounts: Amounts) -> Result<Vec<Sample>, Failure> {
    let mebibytes = amounts.of(RANDOM_MEBIBYTES);
    let pages = mebibytes * PIECE_BYTES / PAGE_BYTES;
    let path = subject.root().join("random");
    write_file(path.clone(), mebibytes).await?;
    read_file(path.clone()).await?;
    let meter = subject.meter()?;
    meter.quiet().await?;
    forget_pages(&path).await?;
    let file = File::open(&path).map_err(Failure::io("open the large file"))?;
    // One read for each page on average: few are still in the kernel's cache when they are wanted again.
    let work = parallel("random reads", pages, 16, move |_, _| {
        let page = rand::rng().random_range(0..pages);
        file.read_exact_at(&mut [0; PAGE_BYTES], (page * PAGE_BYTES) as u64)
    });
    let read = meter.measure(pages, work).await?;
    let mut samples = vec![Sample::rate("random 4 KiB reads, warm, 16 jobs", pages, read)];
    meter.quiet().await?;
    let count = amounts.of(8000);
    let file = OpenOptions::new()
        .write(true)
        .open(&path)
        .map_err(Failure::io("open the large file"))?;
    let work = parallel("random writes", count, 4, move |_, _| {
        let page = rand::rng().random_range(0..pages);
        file.write_all_at(&[7; PAGE_BYTES], (page * PAGE_BYTES) as u64)?;
        file.sync_all()
    });
    let written = meter.measure(count, work).await?;
    samples.push(Sample::rate("random 4 KiB write + fsync, 4 jobs", count, written));
    std::fs::remove_file(&path).map_err(Failure::io("remove the large file"))?;
    Ok(samples)
}
