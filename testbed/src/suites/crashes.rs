//! `kill -9` of each part in the middle of writes. What a program was told is durable (`fsync` or `close` returned) must be there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use twinshore_testbed::failure::{Failure, blocking, make_directory};
use twinshore_testbed::patience::{Look, wait_for};
use twinshore_testbed::regions::Region;

use crate::context::{Context, ensure};

/// How often the metadata service is killed.
const KILLS: u32 = 3;

/// Files that must have been acknowledged between two kills: some, whatever the speed of the machine.
const ACKNOWLEDGED: usize = 40;

/// For a killed part's clients to find its successor and go on.
const RECOVERY: Duration = Duration::from_secs(90);

/// A file that was closed or fsynced: its path below the mount point, and what its content is made from.
#[derive(Clone, Debug)]
struct Acknowledged {
    path: PathBuf,
    seed: u64,
    size_bytes: usize,
}

impl Acknowledged {
    fn content(&self) -> Vec<u8> {
        // A different sequence for each file; cheap, and nothing that compresses to nothing.
        let mut state = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..self.size_bytes)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[0]
            })
            .collect()
    }
}

/// Programs that write until they are told to stop, or until their mount fails.
struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    threads: Vec<std::thread::JoinHandle<io::Result<()>>>,
}

impl Writers {
    /// Two in each of the given mounts: one closes, one also fsyncs and keeps its file open.
    async fn start(mounts: &[(Region, PathBuf)], below: &str) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        for (index, (region, mount_point)) in mounts.iter().enumerate() {
            for writer in 0..2_u64 {
                let directory = PathBuf::from(format!("{below}-{region}-{writer}"));
                make_directory(&mount_point.join(&directory)).await?;
                let first = (index as u64 * 2 + writer) << 32;
                let (mount_point, stop, acknowledged) =
                    (mount_point.clone(), Arc::clone(&stop), Arc::clone(&acknowledged));
                threads.push(std::thread::spawn(move || {
                    write_until(&stop, &mount_point, &directory, first, writer == 1, &acknowledged)
                }));
            }
        }
        Ok(Self {
            stop,
            acknowledged,
            threads,
        })
    }

    fn count(&self) -> usize {
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    async fn wait_for_more(&self, more: usize) -> Result<(), Failure> {
        let wanted = self.count() + more;
        wait_for("writers to go on", RECOVERY, async || {
            let count = self.count();
            if count >= wanted {
                Look::Done(())
            } else {
                Look::NotYet(format!("{count} of {wanted} files"))
            }
        })
        .await?;
        Ok(())
    }

    /// What was acknowledged, and how the writers ended.
    async fn finish(self) -> Result<(Vec<Acknowledged>, Vec<io::Result<()>>), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let threads = self.threads;
        let ends = blocking("the end of the writers", RECOVERY, move || {
            let join = |thread: std::thread::JoinHandle<io::Result<()>>| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("the writer failed")))
            };
            Ok(threads.into_iter().map(join).collect())
        })
        .await?;
        let acknowledged = self
            .acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Ok((acknowledged, ends))
    }
}

fn write_until(
    stop: &AtomicBool,
    mount_point: &Path,
    directory: &Path,
    first: u64,
    with_sync: bool,
    acknowledged: &Mutex<Vec<Acknowledged>>,
) -> io::Result<()> {
    // Tiny ones ride in the metadata, middle ones share objects, large ones have their own.
    const SIZES: [usize; 5] = [0, 700, 12_000, 90_000, 1_300_000];
    let mut seed = first;
    while !stop.load(Ordering::Relaxed) {
        let size_bytes = SIZES[(seed % 5) as usize];
        let file = Acknowledged {
            path: directory.join(format!("{seed:x}")),
            seed,
            size_bytes,
        };
        let mut handle = File::create_new(mount_point.join(&file.path))?;
        handle.write_all(&file.content())?;
        if with_sync {
            handle.sync_all()?;
        }
        close(handle)?;
        acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(file);
        seed += 1;
    }
    Ok(())
}

/// Closes a file and hears what `close` says, which dropping does not.
fn close(file: File) -> io::Result<()> {
    use std::os::fd::IntoRawFd as _;
    let descriptor = file.into_raw_fd();
    close_descriptor(descriptor)
}

#[allow(unsafe_code)]
fn close_descriptor(descriptor: i32) -> io::Result<()> {
    // SAFETY: the descriptor was taken out of its owner just before, so nothing else closes or uses it.
    let result = unsafe { rustix::io::try_close(descriptor) };
    result.map_err(io::Error::from)
}

async fn check_all(context: &Context, region: Region, files: &[Acknowledged]) -> Result<(), Failure> {
    let (mount_point, files) = (context.regions.mount_point(region), files.to_vec());
    blocking("reading back", Duration::from_secs(200), move || {
        for file in files {
            let path = mount_point.join(&file.path);
            let found = fs::read(&path).map_err(Failure::io(format!("read {}", path.display())))?;
            ensure(found == file.content(), || {
                format!(
                    "{} was closed with {} bytes and now has {} (or others)",
                    path.display(),
                    file.size_bytes,
                    found.len()
                )
            })?;
        }
        Ok(())
    })
    .await
}

/// The metadata service: its clients wait for its successor and no program notices.
pub async fn kill_metadata(context: &mut Context) -> Result<(), Failure> {
    let mounts = Region::BOTH.map(|region| (region, context.regions.mount_point(region)));
    let writers = Writers::start(&mounts, "service").await?;
    for _ in 0..KILLS {
        writers.wait_for_more(ACKNOWLEDGED).await?;
        context.regions.kill_metadata().await?;
        context.regions.start_metadata().await?;
    }
    writers.wait_for_more(ACKNOWLEDGED).await?;
    let (files, ends) = writers.finish().await?;
    for end in ends {
        end.map_err(Failure::io("write across a restart of the metadata service"))?;
    }
    println!("  {KILLS} kills, {} files acknowledged", files.len());
    // Not from caches: new mounts.
    for region in Region::BOTH {
        context.regions.unmount(region).await?;
        context.regions.start_mount(region).await?;
        check_all(context, region, &files).await?;
    }
    context.both_buckets_are_equal(RECOVERY).await
}

/// A mount: its programs fail, what they had finished is there.
pub async fn kill_mount(context: &mut Context) -> Result<(), Failure> {
    let mut files = Vec::new();
    for region in Region::BOTH {
        let mounts = [(region, context.regions.mount_point(region))];
        let writers = Writers::start(&mounts, "mount").await?;
        writers.wait_for_more(ACKNOWLEDGED).await?;
        context.regions.kill_mount(region).await?;
        let (acknowledged, _) = writers.finish().await?;
        println!("  {region}: {} files acknowledged", acknowledged.len());
        check_all(context, region.other(), &acknowledged).await?;
        context.regions.start_mount(region).await?;
        check_all(context, region, &acknowledged).await?;
        files.extend(acknowledged);
    }
    context.both_buckets_hold_what_is_named(RECOVERY).await?;
    check_all(context, Region::East, &files).await
}

/// A worker: its copies are done by others, or by its successor.
pub async fn kill_worker(context: &mut Context) -> Result<(), Failure> {
    let mounts = Region::BOTH.map(|region| (region, context.regions.mount_point(region)));
    let writers = Writers::start(&mounts, "worker").await?;
    for region in Region::BOTH {
        writers.wait_for_more(ACKNOWLEDGED).await?;
        context.regions.kill_worker(region).await?;
        writers.wait_for_more(ACKNOWLEDGED).await?;
        context.regions.start_worker(region).await?;
    }
    let (files, ends) = writers.finish().await?;
    for end in ends {
        end.map_err(Failure::io("write while a worker is killed"))?;
    }
    println!("  {} files acknowledged", files.len());
    context.both_buckets_are_equal(RECOVERY).await?;
    check_all(context, Region::West, &files).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn contents_differ_by_file_and_are_the_same_each_time() {
        let file = |seed| Acknowledged {
            path: PathBuf::new(),
            seed,
            size_bytes: 1000,
        };
        assert_eq!(file(3).content(), file(3).content());
        assert_ne!(file(3).content(), file(4).content());
    }

    #[tokio::test]
    async fn writers_go_on_until_they_are_stopped_and_tell_what_they_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let writers = Writers::start(&[(Region::East, directory.path().to_owned())], "test")
            .await
            .unwrap();
        writers.wait_for_more(10).await.unwrap();
        let (files, ends) = writers.finish().await.unwrap();
        assert!(ends.iter().all(Result::is_ok));
        assert!(files.len() >= 10);
        for file in files {
            assert_eq!(
                fs::read(directory.path().join(&file.path)).unwrap(),
                file.content()
            );
        }
    }
}
