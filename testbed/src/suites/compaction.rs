//! Compaction on real mounts: bytes that no file uses leave both buckets, fragmented files become whole, and no reader or writer notices.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::patience::{Look, wait_for};
use twinshore_testbed::progress::bytes;
use twinshore_testbed::regions::Region;

use crate::context::{Context, ensure};

const PATIENCE: Duration = Duration::from_mins(5);

/// Small enough to ride in the metadata, and to be packed.
const SMALL_BYTES: usize = 8 << 10;
const SMALL_FILES: u64 = 1000;
/// One in so many stays.
const KEPT: u64 = 10;

/// What is not worth compacting, at most.
const LEFT_BYTES: u64 = 256 << 10;

const LARGE_BYTES: u64 = 64 << 20;
const BLOCK_BYTES: usize = 4 << 10;
const BLOCKS: u64 = LARGE_BYTES / BLOCK_BYTES as u64;
const OVERWRITES: u64 = 2500;

/// Runs all of it.
pub async fn run(context: &mut Context) -> Result<(), Failure> {
    // What is deleted is to go at once.
    configure(context, &["--trash-days", "0"]).await?;
    packed_files(context).await?;
    random_overwrites(context).await
}

async fn configure(context: &Context, arguments: &[&str]) -> Result<(), Failure> {
    context
        .regions
        .service_command(["volume", "configure"])
        .arguments(arguments)
        .success()
        .await?;
    Ok(())
}

async fn compact(context: &Context) -> Result<(), Failure> {
    context
        .regions
        .service_command(["gc", "--compact", "--wait"])
        .success()
        .await?;
    Ok(())
}

/// Bytes that tell where they belong and which time it is.
fn content(number: u64, version: u64, length: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version.wrapping_mul(0xd1b5_4a32_d192_ed03);
    let mut content = Vec::with_capacity(length + 8);
    while content.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        content.extend((state >> 13).to_le_bytes());
    }
    content.truncate(length);
    content
}

/// Bytes of the objects in a region's bucket.
fn stored_bytes(context: &Context, region: Region) -> Result<u64, Failure> {
    let mut total = 0;
    let mut directories = vec![context.regions.bucket(region).bucket_directory().join("objects")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(Failure::io("list a bucket"))? {
            let entry = entry.map_err(Failure::io("list a bucket"))?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => directories.push(entry.path()),
                Ok(metadata) => total += metadata.len(),
                // It is being deleted.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::io("look at an object")(error)),
            }
        }
    }
    Ok(total)
}

async fn wait_until_small(context: &Context, at_most: u64) -> Result<[u64; 2], Failure> {
    let found = wait_for(
        "dead objects to leave both buckets",
        PATIENCE,
        async || match Region::BOTH.map(|region| stored_bytes(context, region)) {
            [Ok(east), Ok(west)] if east <= at_most && west <= at_most => Look::Done([east, west]),
            [east, west] => Look::NotYet(format!("{east:?} and {west:?} bytes of at most {at_most}")),
        },
    )
    .await?;
    Ok(found)
}

async fn packed_files(context: &mut Context) -> Result<(), Failure> {
    let directory = context.path(Region::East, "packed");
    blocking("writing small files", PATIENCE, {
        let directory = directory.clone();
        move || {
            fs::create_dir(&directory).map_err(Failure::io("make a directory"))?;
            for number in 0..SMALL_FILES {
                fs::write(
                    directory.join(number.to_string()),
                    content(number, 0, SMALL_BYTES),
                )
                .map_err(Failure::io("write a small file"))?;
            }
            Ok(())
        }
    })
    .await?;
    context.both_buckets_are_equal(PATIENCE).await?;
    let before = stored_bytes(context, Region::West)?;
    ensure(before >= SMALL_FILES * SMALL_BYTES as u64, || {
        format!("only {before} bytes are stored")
    })?;
    blocking("removing small files", PATIENCE, {
        let directory = directory.clone();
        move || {
            for number in (0..SMALL_FILES).filter(|number| number % KEPT != 0) {
                fs::remove_file(directory.join(number.to_string()))
                    .map_err(Failure::io("remove a small file"))?;
            }
            Ok(())
        }
    })
    .await?;
    let there = context.path(Region::West, "packed");
    let (compacted, read) = tokio::join!(
        compact(context),
        blocking("reading small files meanwhile", PATIENCE, move || {
            for _ in 0..3 {
                check_small_files(&there)?;
                check_small_files(&directory)?;
            }
            Ok(())
        })
    );
    compacted?;
    read?;
    let after = wait_until_small(context, before / 4).await?;
    println!(
        "  nine in ten of {SMALL_FILES} packed files removed: {} stored before, {} and {} after",
        bytes(before),
        bytes(after[0]),
        bytes(after[1])
    );
    for region in Region::BOTH {
        context.remount_without_cache(region).await?;
        let directory = context.path(region, "packed");
        blocking("reading what was kept", PATIENCE, move || {
            check_small_files(&directory)
        })
        .await?;
    }
    context.both_buckets_are_equal(PATIENCE).await
}

fn check_small_files(directory: &Path) -> Result<(), Failure> {
    for number in (0..SMALL_FILES).step_by(usize::try_from(KEPT).unwrap_or(1)) {
        let path = directory.join(number.to_string());
        let found = fs::read(&path).map_err(Failure::io(format!("read {}", path.display())))?;
        ensure(found == content(number, 0, SMALL_BYTES), || {
            format!("{} is not what was written", path.display())
        })?;
    }
    Ok(())
}

/// The blocks of the large file: which version of each is the last.
struct Versions(Vec<u64>);

impl Versions {
    /// Overwrites blocks of a range of the file, spread over it, each durable.
    fn overwrite(
        &mut self,
        path: &Path,
        blocks: std::ops::Range<u64>,
        count: u64,
        version: u64,
    ) -> Result<(), Failure> {
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(Failure::io("open the large file"))?;
        let length = blocks.end - blocks.start;
        for turn in 0..count {
            // A step without a common divisor with the number of blocks comes to each once.
            let block = blocks.start + (turn * 2741 + version * 31) % length;
            file.write_all_at(&content(block, version, BLOCK_BYTES), block * BLOCK_BYTES as u64)
                .map_err(Failure::io("overwrite a block"))?;
            if turn % 8 == 7 {
                file.sync_data().map_err(Failure::io("fsync the large file"))?;
            }
            if let Some(known) = usize::try_from(block)
                .ok()
                .and_then(|block| self.0.get_mut(block))
            {
                *known = version;
            }
        }
        file.sync_all().map_err(Failure::io("fsync the large file"))
    }

    fn check(&self, path: &Path, blocks: std::ops::Range<u64>) -> Result<(), Failure> {
        let file = File::open(path).map_err(Failure::io("open the large file"))?;
        let mut found = vec![0; BLOCK_BYTES];
        for block in blocks {
            file.read_exact_at(&mut found, block * BLOCK_BYTES as u64)
                .map_err(Failure::io(format!("read block {block}")))?;
            let version = usize::try_from(block).ok().and_then(|block| self.0.get(block));
            ensure(
                version.is_some_and(|version| found == content(block, *version, BLOCK_BYTES)),
                || format!("block {block} of {} is not what was written", path.display()),
            )?;
        }
        Ok(())
    }
}

async fn random_overwrites(context: &mut Context) -> Result<(), Failure> {
    let [east, west] = Region::BOTH.map(|region| context.path(region, "large"));
    let small_before = stored_bytes(context, Region::East)?;
    let versions = blocking("writing and overwriting the large file", PATIENCE, {
        let path = east.clone();
        move || {
            let mut whole = Vec::new();
            for block in 0..BLOCKS {
                whole.extend(content(block, 0, BLOCK_BYTES));
            }
            fs::write(&path, whole).map_err(Failure::io("write the large file"))?;
            let mut versions = Versions(vec![0; usize::try_from(BLOCKS).unwrap_or_default()]);
            versions.overwrite(&path, 0..BLOCKS, OVERWRITES, 1)?;
            Ok(versions)
        }
    })
    .await?;
    context.both_buckets_are_equal(PATIENCE).await?;
    let before = context.regions.status().await?;
    ensure(before.compaction.fragmented_files > 0, || {
        "the overwritten file does not count as fragmented".to_owned()
    })?;
    let versions = compacted_while_in_use(context, &east, &west, versions).await?;
    // What was written meanwhile may be fragmented again.
    context.both_buckets_are_equal(PATIENCE).await?;
    compact(context).await?;
    let after = context.regions.status().await?.compaction;
    ensure(
        after.fragmented_files == 0 && after.sparse_bytes <= LEFT_BYTES,
        || format!("something is left to compact: {after:?}"),
    )?;
    let stored = wait_until_small(context, small_before + LARGE_BYTES + LARGE_BYTES / 4).await?;
    println!(
        "  {OVERWRITES} blocks of {} overwritten: {} extents, {} rewritten, {} and {} stored at the end",
        bytes(LARGE_BYTES),
        after.rewritten_extents,
        bytes(after.rewritten_bytes),
        bytes(stored[0]),
        bytes(stored[1])
    );
    for region in Region::BOTH {
        context.remount_without_cache(region).await?;
        let path = context.path(region, "large");
        let versions = Versions(versions.0.clone());
        blocking("reading the large file", PATIENCE, move || {
            versions.check(&path, 0..BLOCKS)
        })
        .await?;
    }
    context.both_buckets_are_equal(PATIENCE).await
}

/// East overwrites the first half, west reads the second, while the file is compacted.
async fn compacted_while_in_use(
    context: &Context,
    east: &Path,
    west: &Path,
    mut versions: Versions,
) -> Result<Versions, Failure> {
    let stable = Versions(versions.0.clone());
    let (writer, reader): (PathBuf, PathBuf) = (east.to_owned(), west.to_owned());
    let (compacted, written, read) = tokio::join!(
        compact(context),
        blocking("overwriting meanwhile", PATIENCE, move || {
            for version in 2..5 {
                versions.overwrite(&writer, 0..BLOCKS / 2, OVERWRITES / 10, version)?;
            }
            Ok(versions)
        }),
        blocking("reading meanwhile", PATIENCE, move || {
            stable.check(&reader, BLOCKS / 2..BLOCKS)
        })
    );
    compacted?;
    read?;
    written
}
