//! Bad input: a clear error that says what to do, and nothing is lost.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use twinshore_testbed::commands::{Output, Run};
use twinshore_testbed::failure::{Failure, blocking, make_directory, read_file, write_file};
use twinshore_testbed::regions::{Region, VOLUME};

use crate::context::{Context, ensure};
use crate::disks;
use crate::files::write_and_hear;

const PATIENCE: Duration = Duration::from_mins(1);

/// All cases.
pub async fn run(context: &mut Context) -> Result<(), Failure> {
    let keeper = context.path(Region::East, "keeper");
    write_file(&keeper, "still here").await?;
    wrong_keys(context).await?;
    missing_bucket(context).await?;
    same_bucket_twice(context).await?;
    bucket_of_another_volume(context).await?;
    metadata_that_exists(context).await?;
    unreachable_service(context).await?;
    unknown_flag(context).await?;
    long_names(context).await?;
    damaged_object(context).await?;
    full_quota(context).await?;
    disks::damaged_cache(context).await?;
    disks::dead_mount_point(context).await?;
    disks::full_metadata_disk(context).await?;
    metadata_of_another_volume(context).await?;
    let found = read_file(&keeper).await?;
    ensure(found == b"still here", || {
        "what was there before is damaged".to_owned()
    })
}

/// The command must fail, quickly, and its complaint must have all of these words.
fn refused(case: &str, output: &Output, words: &[&str]) -> Result<(), Failure> {
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure(!output.status.success(), || format!("{case}: accepted"))?;
    for word in words {
        ensure(complaint.to_lowercase().contains(word), || {
            format!("{case}: `{word}` is not in: {}", complaint.trim())
        })?;
    }
    ensure(!complaint.contains("panicked"), || {
        format!("{case}: {}", complaint.trim())
    })?;
    println!(
        "  {case}: {}",
        complaint.lines().next().unwrap_or_default().trim()
    );
    Ok(())
}

fn create(context: &Context, metadata: &str, buckets: &[&str]) -> Run {
    let run = context
        .regions
        .twinshore(PATIENCE)
        .arguments(["volume", "create", "other", "--metadata-dir"])
        .argument(context.work.join(metadata))
        .arguments(["--bucket", buckets[0]]);
    match buckets.get(1) {
        Some(second) => run.arguments(["--bucket2", second]),
        None => run,
    }
}

async fn wrong_keys(context: &Context) -> Result<(), Failure> {
    let url = format!("{}/elsewhere", context.regions.bucket(Region::East).url());
    let output = create(context, "wrong-keys", &[&url])
        .environment("SECRET_KEY", "wrong")
        .output()
        .await?;
    refused("wrong keys", &output, &["credentials"])
}

async fn missing_bucket(context: &Context) -> Result<(), Failure> {
    let url = format!(
        "http://{}/no-such-bucket",
        context.regions.bucket(Region::East).address()
    );
    let output = create(context, "missing-bucket", &[&url]).output().await?;
    refused("missing bucket", &output, &["bucket"])
}

async fn same_bucket_twice(context: &Context) -> Result<(), Failure> {
    let url = format!("{}/twice", context.regions.bucket(Region::East).url());
    let keys = context.regions.bucket(Region::East).keys().clone();
    let output = create(context, "same-bucket", &[&url, &url])
        .environment("ACCESS_KEY2", keys.access_key)
        .environment("SECRET_KEY2", keys.secret_key)
        .output()
        .await?;
    refused("both regions given the same bucket", &output, &["same"])
}

async fn bucket_of_another_volume(context: &Context) -> Result<(), Failure> {
    let url = context.regions.bucket(Region::East).url();
    let output = create(context, "taken-bucket", &[&url]).output().await?;
    refused("a bucket that belongs to another volume", &output, &[VOLUME])
}

async fn metadata_that_exists(context: &Context) -> Result<(), Failure> {
    let url = format!("{}/fresh", context.regions.bucket(Region::East).url());
    let output = context
        .regions
        .twinshore(PATIENCE)
        .arguments(["volume", "create", "other", "--metadata-dir"])
        .argument(context.regions.metadata_directory())
        .arguments(["--bucket", &url])
        .output()
        .await?;
    refused(
        "the metadata of another volume is there already",
        &output,
        &["already holds volume", "choose another directory"],
    )?;
    // The refusal came before the bucket was marked: it can be used with another directory.
    create(context, "second-attempt", &[&url]).success().await?;
    Ok(())
}

/// A bucket of one volume and the metadata of another, which [`metadata_that_exists`] has made.
async fn metadata_of_another_volume(context: &Context) -> Result<(), Failure> {
    let output = context
        .regions
        .twinshore(PATIENCE)
        .arguments(["metadata", "--listen", "127.0.0.1:0", "--dir"])
        .argument(context.work.join("second-attempt"))
        .arguments(["--bucket", &context.regions.bucket(Region::East).url()])
        .output()
        .await?;
    refused(
        "the metadata of another volume than the bucket's",
        &output,
        &[VOLUME],
    )
}

async fn unreachable_service(context: &Context) -> Result<(), Failure> {
    let output = context
        .regions
        .twinshore(PATIENCE)
        .arguments(["status", "--metadata", "http://127.0.0.1:9"])
        .output()
        .await?;
    refused("unreachable service", &output, &["127.0.0.1:9"])
}

async fn unknown_flag(context: &Context) -> Result<(), Failure> {
    let output = context
        .regions
        .twinshore(PATIENCE)
        .arguments(["mount", "--sideways"])
        .output()
        .await?;
    refused("unknown flag", &output, &["--sideways", "help"])
}

async fn long_names(context: &Context) -> Result<(), Failure> {
    let root = context.regions.mount_point(Region::West);
    blocking("long names", PATIENCE, move || {
        let allowed = root.join("n".repeat(255));
        fs::write(&allowed, "x").map_err(Failure::io("write a file with a name of 255 bytes"))?;
        fs::remove_file(&allowed).map_err(Failure::io("remove a file with a name of 255 bytes"))?;
        let error = fs::write(root.join("n".repeat(256)), "x");
        let number = error.err().and_then(|error| error.raw_os_error());
        let wanted = rustix::io::Errno::NAMETOOLONG.raw_os_error();
        ensure(number == Some(wanted), || {
            format!("a name of 256 bytes gives {number:?}, not ENAMETOOLONG")
        })
    })
    .await?;
    println!("  names over 255 bytes: ENAMETOOLONG");
    Ok(())
}

/// Damage in one bucket is read from the other and repaired; in both it is an I/O error, never other bytes.
async fn damaged_object(context: &mut Context) -> Result<(), Failure> {
    let written: Vec<u8> = (0..300_000_u32).map(|number| (number % 253) as u8).collect();
    let path = context.path(Region::East, "damaged");
    write_file(&path, written.clone()).await?;
    context.both_buckets_are_equal(PATIENCE).await?;
    context.remount_without_cache(Region::East).await?;
    damage(
        &context
            .regions
            .bucket(Region::East)
            .bucket_directory()
            .join("objects"),
        &written,
    )?;
    let found = blocking("reading a damaged file", PATIENCE, {
        let path = path.clone();
        move || fs::read(&path).map_err(Failure::io("read a file whose near copy is damaged"))
    })
    .await?;
    ensure(found == written, || "a damaged near copy was read".to_owned())?;
    println!("  an object damaged in one bucket: read from the other");
    context.both_buckets_are_equal(PATIENCE).await?;
    println!("  and repaired");
    for region in Region::BOTH {
        damage(
            &context.regions.bucket(region).bucket_directory().join("objects"),
            &written,
        )?;
    }
    context.remount_without_cache(Region::East).await?;
    let result = blocking("reading a lost file", PATIENCE, {
        let path = path.clone();
        move || Ok(fs::read(&path))
    })
    .await?;
    let number = result.err().and_then(|error| error.raw_os_error());
    let wanted = rustix::io::Errno::IO.raw_os_error();
    ensure(number == Some(wanted), || {
        format!("a file damaged in both buckets gives {number:?}, not EIO")
    })?;
    println!("  an object damaged in both buckets: EIO");
    Ok(())
}

async fn full_quota(context: &Context) -> Result<(), Failure> {
    let directory = context.path(Region::East, "limited");
    make_directory(&directory).await?;
    context
        .regions
        .twinshore(PATIENCE)
        .arguments(["quota", "set", "--metadata"])
        .argument(context.regions.metadata_url(Region::East))
        .arguments(["/limited", "--size", "1MiB", "--inodes", "10"])
        .success()
        .await?;
    let there = context.path(Region::West, "limited");
    blocking("filling a limited directory", PATIENCE, move || {
        let wanted = Some(rustix::io::Errno::DQUOT.raw_os_error());
        let number = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error());
        let path = there.join("fits");
        let written = vec![1; 600_000];
        write_and_hear(&path, &written, true).map_err(Failure::io("write what fits"))?;
        for with_sync in [true, false] {
            let over = number(write_and_hear(&there.join("over"), &written, with_sync));
            ensure(over == wanted, || {
                format!("too many bytes give {over:?} (fsync: {with_sync})")
            })?;
        }
        let many =
            (0..20).find_map(|index| number(write_and_hear(&there.join(index.to_string()), b"", false)));
        ensure(many == wanted, || format!("too many files give {many:?}"))?;
        let kept = fs::read(&path).map_err(Failure::io("read what fits"))?;
        ensure(kept == written, || "what fits is damaged".to_owned())
    })
    .await?;
    println!("  a full quota: EDQUOT");
    Ok(())
}

/// Changes a byte in the middle of every object that has this content.
fn damage(objects: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut damaged = 0;
    let mut directories = vec![objects.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(Failure::io("list the objects"))? {
            let path = entry.map_err(Failure::io("list the objects"))?.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let mut object = fs::read(&path).map_err(Failure::io("read an object"))?;
            // Its second block, as it is stored without compression.
            let wanted = &content[70_000..71_000];
            if let Some(position) = object.windows(wanted.len()).position(|window| window == wanted) {
                object[position] ^= 0x40;
                fs::write(&path, &object).map_err(Failure::io("damage an object"))?;
                damaged += 1;
            }
        }
    }
    ensure(damaged > 0, || {
        "no object has the content that was to be damaged".to_owned()
    })
}
