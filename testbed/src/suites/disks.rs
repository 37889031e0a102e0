//! What goes wrong near a mount or a metadata service: a damaged disk cache, a mount point whose process is gone, a full disk
//! under the metadata.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags};
use rustix::mount::MountFlags;
use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::mount_table;
use twinshore_testbed::patience::{Look, wait_for};
use twinshore_testbed::process::{Program, Ready, Supervised};
use twinshore_testbed::regions::Region;
use twinshore_testbed::s3server::free_address;

use crate::context::{Context, ensure};
use crate::files::write_and_hear;

const PATIENCE: Duration = Duration::from_mins(1);

/// Files for the cache: together more than the memory of a mount that is started with little.
const CACHED_FILES: u32 = 24;
const CACHED_FILE_BYTES: usize = 1 << 20;

/// The disk of the metadata in [`full_metadata_disk`]: two segments of the journal, and what is called low, and something.
const METADATA_DISK_OPTIONS: &std::ffi::CStr = c"size=300m";

/// Left free at first: low, but not exhausted.
const LOW_BYTES: u64 = 24 << 20;

/// A program of this suite alone, and where it mounts, if it does. Nothing of it outlives this.
struct Extra {
    process: Supervised,
    mount_point: Option<PathBuf>,
}

impl Drop for Extra {
    fn drop(&mut self) {
        if let Some(path) = &self.mount_point
            && let Err(error) = mount_table::detach(path)
        {
            eprintln!("{} could not be detached: {error}", path.display());
        }
    }
}

async fn start(
    context: &Context,
    name: &str,
    ready: &str,
    arguments: Vec<OsString>,
    mount_point: Option<PathBuf>,
) -> Result<Extra, Failure> {
    let program = Program {
        name: name.to_owned(),
        program: context.regions.binary().to_owned(),
        arguments,
        environment: context.regions.credentials(),
        log_directory: context.regions.log_directory(),
        ready: Ready::Says(ready.to_owned()),
        patience: PATIENCE,
    };
    match Supervised::start(&program).await {
        Ok(process) => Ok(Extra { process, mount_point }),
        Err(error) => Err(Failure::Regions(error.into())),
    }
}

async fn mount(context: &Context, name: &str, at: &Path, more: &[&str]) -> Result<Extra, Failure> {
    match fs::create_dir(at) {
        // Perhaps with a dead mount on it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(Failure::io("make a mount point"))?,
    }
    let mut arguments: Vec<OsString> = vec!["mount".into(), "--foreground".into()];
    arguments.extend(more.iter().map(OsString::from));
    arguments.push(at.into());
    start(context, name, "mount: ready", arguments, Some(at.to_owned())).await
}

async fn unmount(context: &Context, mut mounted: Extra) -> Result<(), Failure> {
    let Some(path) = mounted.mount_point.clone() else {
        return Ok(());
    };
    let run = context
        .regions
        .twinshore(PATIENCE)
        .argument("umount")
        .argument(path);
    run.success().await?;
    let ended = mounted.process.end(PATIENCE).await;
    ended.map(|_| ()).map_err(|error| Failure::Regions(error.into()))
}

async fn kill(mounted: &mut Extra) -> Result<(), Failure> {
    let killed = mounted.process.kill().await;
    killed.map_err(|error| Failure::Regions(error.into()))
}

/// Nothing in it repeats, and every file has its own.
fn content(file: u32) -> Vec<u8> {
    let mut state = u64::from(file).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(CACHED_FILE_BYTES);
    while bytes.len() < CACHED_FILE_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Reads every file past the kernel's pages and compares it.
async fn check_files(directory: PathBuf, when: &'static str) -> Result<(), Failure> {
    blocking("reading through a damaged cache", PATIENCE, move || {
        for number in 0..CACHED_FILES {
            let path = directory.join(number.to_string());
            let mut file = File::open(&path).map_err(Failure::io("open a cached file"))?;
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)
                .map_err(|error| Failure::io("drop the pages of a file")(error.into()))?;
            let mut found = Vec::new();
            file.read_to_end(&mut found)
                .map_err(Failure::io(format!("read {} {when}", path.display())))?;
            ensure(found == content(number), || {
                format!("{} has other bytes {when}", path.display())
            })?;
        }
        Ok(())
    })
    .await
}

/// All files below a directory.
fn files_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Flips a bit in every 4 KiB of every file, and cuts every second file in half. Returns how many bytes were there.
fn damage(directory: &Path) -> io::Result<u64> {
    let mut total = 0;
    for (index, path) in files_below(directory)?.into_iter().enumerate() {
        let mut file = File::options().read(true).write(true).open(&path)?;
        let length = file.metadata()?.len();
        total += length;
        for place in (0..length).step_by(4096) {
            let mut byte = [0];
            file.seek(SeekFrom::Start(place))?;
            file.read_exact(&mut byte)?;
            byte[0] ^= 0x04;
            file.seek(SeekFrom::Start(place))?;
            file.write_all(&byte)?;
        }
        if index % 2 == 1 {
            file.set_len(length / 2)?;
        }
    }
    Ok(total)
}

/// Flipped bits and cut files in the disk cache, under a mount that runs and before one starts: what is read is right.
pub async fn damaged_cache(context: &Context) -> Result<(), Failure> {
    let directory = context.path(Region::East, "cached");
    blocking("writing files to be cached", PATIENCE, move || {
        fs::create_dir(&directory).map_err(Failure::io("make a directory"))?;
        for number in 0..CACHED_FILES {
            write_and_hear(&directory.join(number.to_string()), &content(number), false)
                .map_err(Failure::io("write a file to be cached"))?;
        }
        Ok(())
    })
    .await?;
    let (at, cache) = (context.work.join("cached"), context.work.join("damaged-cache"));
    let metadata = context.regions.metadata_url(Region::West);
    let cache_argument = cache.display().to_string();
    let [option, url] = context.regions.bucket_arguments(Region::West);
    let more = [
        "--flip",
        "--metadata",
        &metadata,
        &option,
        &url,
        "--cache-dir",
        &cache_argument,
        // A third of it for blocks: most files are only on disk.
        "--buffer-size",
        "24",
    ];
    let mounted = mount(context, "mount-cached", &at, &more).await?;
    check_files(at.join("cached"), "before any damage").await?;
    let enough = u64::from(CACHED_FILES / 2) * CACHED_FILE_BYTES as u64;
    wait_for("the disk cache to fill", PATIENCE, async || {
        let files = files_below(&cache).unwrap_or_default();
        let lengths = files.iter().filter_map(|path| fs::metadata(path).ok());
        let bytes: u64 = lengths.map(|metadata| metadata.len()).sum();
        if bytes >= enough {
            Look::Done(())
        } else {
            Look::NotYet(format!("{bytes} bytes"))
        }
    })
    .await?;
    damage(&cache).map_err(Failure::io("damage the cache"))?;
    check_files(at.join("cached"), "with the cache damaged under the mount").await?;
    println!("  a disk cache damaged under its mount: read from the bucket");
    unmount(context, mounted).await?;
    damage(&cache).map_err(Failure::io("damage the cache again"))?;
    let mounted = mount(context, "mount-cached", &at, &more).await?;
    check_files(at.join("cached"), "with the cache damaged before the mount").await?;
    check_files(at.join("cached"), "the second time").await?;
    println!("  a disk cache damaged between mounts: read from the bucket");
    unmount(context, mounted).await
}

/// The process of a mount is killed: `umount` removes what is left, and so does the next `mount`.
pub async fn dead_mount_point(context: &Context) -> Result<(), Failure> {
    let at = context.work.join("stale");
    let metadata = context.regions.metadata_url(Region::East);
    let [option, url] = context.regions.bucket_arguments(Region::East);
    let more = ["--metadata", &metadata, &option, &url];
    let keeper = at.join("keeper");
    let mut first = mount(context, "mount-stale", &at, &more).await?;
    kill(&mut first).await?;
    let error = fs::metadata(&keeper);
    ensure(
        error
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotConnected),
        || format!("a dead mount point answers {error:?}"),
    )?;
    let umount = || {
        context
            .regions
            .twinshore(PATIENCE)
            .argument("umount")
            .argument(&at)
    };
    umount().success().await?;
    ensure(
        mount_table::mounted_at(&at).is_ok_and(|found| found.is_none()),
        || "a dead mount is still there after `umount`".to_owned(),
    )?;
    let again = umount().output().await?;
    let complaint = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure(
        !again.status.success() && complaint.contains("nothing is mounted"),
        || format!("`umount` of what is not mounted says: {complaint}"),
    )?;
    let mut second = mount(context, "mount-stale", &at, &more).await?;
    kill(&mut second).await?;
    let third = mount(context, "mount-stale", &at, &more).await?;
    let found = blocking("reading after a repair", PATIENCE, move || {
        fs::read(&keeper).map_err(Failure::io("read where a dead mount was"))
    })
    .await?;
    ensure(found == b"still here", || "another file is read".to_owned())?;
    let twice = context
        .regions
        .twinshore(PATIENCE)
        .arguments(["mount", "--foreground"])
        .arguments(more)
        .argument(&at)
        .output()
        .await?;
    let complaint = String::from_utf8_lossy(&twice.stderr).into_owned();
    ensure(
        !twice.status.success() && complaint.contains("already mounted"),
        || format!("a second mount at the same place says: {complaint}"),
    )?;
    unmount(context, third).await?;
    println!("  a dead mount point: `umount` and `mount` clear it away");
    Ok(())
}

/// A small disk, gone with this.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = mount_table::detach(&self.0) {
            eprintln!("{} could not be detached: {error}", self.0.display());
        }
    }
}

/// Takes all but so many bytes of a disk.
fn fill(filler: &Path, leave: u64) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).open(filler)?;
    let free = || -> io::Result<u64> {
        let found = rustix::fs::statvfs(filler)?;
        Ok(found.f_bavail * found.f_frsize)
    };
    let more = free()?.saturating_sub(leave);
    if more > 0 {
        let length = file.metadata()?.len();
        rustix::fs::fallocate(&file, FallocateFlags::empty(), length, more)?;
    }
    file.flush()
}

/// How writing a file went.
async fn write(at: &Path, name: &str) -> Result<io::Result<()>, Failure> {
    let path = at.join(name);
    blocking("writing", PATIENCE, move || {
        Ok(write_and_hear(&path, b"content", true))
    })
    .await
}

/// Changes are answered `ENOSPC`, what exists is read.
async fn refuses_and_reads(at: &Path, what: &'static str) -> Result<(), Failure> {
    wait_for("changes to be refused", PATIENCE, async || {
        match write(at, "refused").await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::StorageFull => Look::Done(()),
            other => Look::NotYet(format!("{other:?}")),
        }
    })
    .await?;
    let path = at.to_owned();
    blocking("reading", PATIENCE, move || {
        let found = fs::read(path.join("kept")).map_err(Failure::io("read on a full disk"))?;
        ensure(found == b"content", || "other content on a full disk".to_owned())?;
        // Not cached: the service is asked.
        let missing = fs::metadata(path.join(format!("missing when {what}")));
        ensure(
            missing
                .as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound),
            || format!("a lookup on a disk that is {what} gives {missing:?}"),
        )
    })
    .await?;
    println!("  the disk of the metadata {what}: ENOSPC, and reads go on");
    Ok(())
}

/// The disk under the metadata is full: what exists is read, the service stays, and it goes on when there is space.
pub async fn full_metadata_disk(context: &Context) -> Result<(), Failure> {
    let disk = context.work.join("small-disk");
    fs::create_dir(&disk).map_err(Failure::io("make a directory"))?;
    rustix::mount::mount(
        "tmpfs",
        &disk,
        "tmpfs",
        MountFlags::empty(),
        METADATA_DISK_OPTIONS,
    )
    .map_err(|error| Failure::io("mount a small disk")(error.into()))?;
    let disk = SmallDisk(disk);
    let (data, filler) = (disk.0.join("metadata"), disk.0.join("filler"));
    let bucket = format!("file://{}", context.work.join("small-bucket").display());
    fs::create_dir(context.work.join("small-bucket")).map_err(Failure::io("make a bucket"))?;
    context
        .regions
        .twinshore(PATIENCE)
        .arguments(["volume", "create", "small", "--bucket", &bucket, "--metadata-dir"])
        .argument(&data)
        .success()
        .await?;
    let listen = free_address()?.to_string();
    let url = format!("http://{listen}");
    let arguments = vec![
        "metadata".into(),
        "--dir".into(),
        data.into(),
        "--listen".into(),
        listen.into(),
    ];
    let mut service = start(context, "metadata-small", "metadata: serving", arguments, None).await?;
    let at = context.work.join("small");
    let mounted = mount(context, "mount-small", &at, &["--metadata", &url]).await?;
    for name in ["kept", "removed"] {
        write(&at, name)
            .await?
            .map_err(Failure::io("write while there is space"))?;
    }
    for (leave, what) in [(LOW_BYTES, "nearly full"), (0, "full")] {
        fill(&filler, leave).map_err(Failure::io("fill the disk of the metadata"))?;
        refuses_and_reads(&at, what).await?;
        if leave > 0 {
            let path = at.join("removed");
            blocking("removing", PATIENCE, move || {
                fs::remove_file(path).map_err(Failure::io("remove a file on a disk that is nearly full"))
            })
            .await?;
            context
                .regions
                .twinshore(PATIENCE)
                .arguments(["status", "--metadata", &url])
                .success()
                .await?;
        }
    }
    let ended = service
        .process
        .ended()
        .map_err(|error| Failure::Regions(error.into()))?;
    ensure(ended.is_none(), || {
        format!("the metadata service ended on a full disk: {ended:?}")
    })?;
    fs::remove_file(&filler).map_err(Failure::io("free the disk of the metadata"))?;
    wait_for("changes to be accepted again", PATIENCE, async || {
        match write(&at, "after").await {
            Ok(Ok(())) => Look::Done(()),
            other => Look::NotYet(format!("{other:?}")),
        }
    })
    .await?;
    println!("  with space again: accepted");
    unmount(context, mounted).await?;
    let ended = service.process.terminate(PATIENCE).await;
    ended.map(|_| ()).map_err(|error| Failure::Regions(error.into()))
}
