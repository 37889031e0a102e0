//! Real mounts of a real metadata service, with buckets in memory. They need root and `/dev/fuse`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::fs::{FallocateFlags, FlockOperation, XattrFlags};
use tempfile::TempDir;
use tokio::runtime::Runtime as OwnedRuntime;
use tokio::sync::oneshot;
use twinshore_metadata::core::VolumeLimits;
use twinshore_metadata::service::shell::{self, ServeOptions, create_volume};
use twinshore_protocol::format::{
    Compression, Durability, Encryption, FORMAT_VERSION, RegionFormat, VolumeFormat, VolumeSettings,
};
use twinshore_protocol::message::{Role, SessionDescription};
use twinshore_protocol::session::{GrpcTransport, SessionOptions};
use twinshore_protocol::{Side, Timestamp, VolumeId};
use twinshore_storage::bucket::Bucket;
use twinshore_storage::fault::{Faults, FaultyBucket};
use twinshore_storage::memory::MemoryBucket;
use twinshore_storage::pair::{BucketPair, PairOptions};

use super::*;
use crate::cache::TieredCache;
use crate::vfs::{Surroundings, TaskRunner, VfsOptions};

const LONG: Duration = Duration::from_mins(2);

struct NoTasks;
impl TaskRunner for NoTasks {}

fn format() -> VolumeFormat {
    let region = |name: &str| RegionFormat {
        name: name.to_owned(),
        bucket: format!("file:///{name}"),
    };
    VolumeFormat {
        version: FORMAT_VERSION,
        volume: VolumeId([5; 16]),
        name: "smoke".to_owned(),
        encryption: Encryption::None,
        settings: VolumeSettings {
            primary: region("east"),
            target: Some(region("west")),
            replication_enabled: false,
            compression: Compression::Lz4,
            durability: Durability::Close,
            inline_limit_bytes: 16 << 10,
            trash_retention_seconds: 0,
            synchronisation_interval_seconds: 0,
            bandwidth_limit_bytes_per_second: [0, 0],
        },
    }
}

/// A service and two buckets; mounts end before it does.
struct World {
    runtime: OwnedRuntime,
    directory: TempDir,
    address: SocketAddr,
    buckets: [Arc<dyn Bucket>; 2],
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<()>>,
}

impl World {
    fn new() -> Self {
        Self::with(
            Durability::Close,
            [Arc::new(MemoryBucket::new()), Arc::new(MemoryBucket::new())],
        )
    }

    fn with(durability: Durability, buckets: [Arc<dyn Bucket>; 2]) -> Self {
        let mut format = format();
        format.settings.durability = durability;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("metadata");
        create_volume(&data, &format, VolumeLimits::default()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, addresses) = oneshot::channel();
        let mut options = ServeOptions::new(data, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        options.ready = Some(ready);
        let served = runtime.spawn(async move {
            shell::serve(options, async { drop(stopped.await) })
                .await
                .unwrap();
        });
        let address = runtime.block_on(addresses).unwrap().listen;
        Self {
            runtime,
            directory,
            address,
            buckets,
            stop: Some(stop),
            served: Some(served),
        }
    }

    fn mount(&self, near: Side) -> Mount {
        let path = self.directory.path().join(near.to_string());
        fs::create_dir_all(&path).unwrap();
        let notifier = KernelNotifier::start().unwrap();
        let session = SessionOptions {
            volume: None,
            role: Role::Client,
            near,
            task_slots: 0,
            description: SessionDescription {
                host: "test".to_owned(),
                process: std::process::id(),
                purpose: near.to_string(),
                node: None,
            },
            request_deadline: Duration::from_mins(1),
        };
        let [primary, target] = self.buckets.clone();
        let surroundings = Surroundings {
            buckets: BucketPair::new(near, Some(primary), Some(target), PairOptions::default()),
            blocks: Arc::new(TieredCache::open(64 << 20, None).unwrap()),
            kernel: notifier.clone(),
            tasks: Arc::new(NoTasks),
        };
        let clock = || Timestamp::since_epoch(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap());
        let transport = Arc::new(GrpcTransport::new(&format!("http://{}", self.address), None).unwrap());
        let options = VfsOptions::new(Arc::new(clock));
        let vfs = self
            .runtime
            .block_on(Vfs::connect(transport, session, surroundings, options))
            .unwrap();
        let (ready, is_ready) = mpsc::channel();
        let options = MountOptions::new(&path, "smoke");
        let runtime = self.runtime.handle().clone();
        let served =
            std::thread::spawn(move || run(vfs, &notifier, &runtime, &options, || ready.send(()).unwrap()));
        is_ready.recv_timeout(LONG).expect("the mount became ready");
        Mount {
            path,
            served: Some(served),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(served) = self.served.take() {
            let _ = self
                .runtime
                .block_on(async { tokio::time::timeout(LONG, served).await });
        }
    }
}

/// A mount that is gone when this is, whatever happens.
struct Mount {
    path: PathBuf,
    served: Option<JoinHandle<Result<(), MountError>>>,
}

impl Mount {
    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn unmount(mut self) {
        unmount(&self.path, UnmountMode::Clean).unwrap();
        self.served.take().unwrap().join().unwrap().unwrap();
        assert_eq!(find(&self.path).unwrap(), None);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(served) = self.served.take() {
            let _ = unmount(&self.path, UnmountMode::Force);
            drop(served.join());
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|byte| u8::try_from((byte / 7 + byte / 4096) % 251).unwrap())
        .collect()
}

#[test]
fn what_one_region_writes_the_other_reads_and_an_unmount_writes_everything_out() {
    let world = World::new();
    let (east, west) = (world.mount(Side::Primary), world.mount(Side::Target));
    let large = pattern(10 << 20);
    fs::create_dir_all(east.at("a/b")).unwrap();
    fs::write(east.at("a/b/large"), &large).unwrap();
    fs::write(east.at("a/small"), b"small").unwrap();
    assert!(fs::read(west.at("a/b/large")).unwrap() == large);
    assert_eq!(fs::read(west.at("a/small")).unwrap(), b"small");
    // West has attributes, entry and pages in its kernel by now; each change must reach it at once.
    fs::write(east.at("a/small"), b"larger than before").unwrap();
    assert_eq!(fs::read(west.at("a/small")).unwrap(), b"larger than before");
    assert_eq!(fs::metadata(west.at("a/small")).unwrap().len(), 18);
    fs::rename(east.at("a/small"), east.at("a/moved")).unwrap();
    assert!(fs::metadata(west.at("a/small")).is_err());
    assert_eq!(fs::read(west.at("a/moved")).unwrap(), b"larger than before");
    fs::set_permissions(west.at("a/moved"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(east.at("a/moved")).unwrap().mode() & 0o7777, 0o600);
    // Written and not closed: the unmount is refused, as the file is open, but writes it out.
    let mut open = File::create(east.at("open")).unwrap();
    open.write_all(b"not closed yet").unwrap();
    let refused = unmount(&east.path, UnmountMode::Clean);
    assert!(
        matches!(&refused, Err(UnmountError::Busy { users, .. }) if !users.is_empty()),
        "{refused:?}"
    );
    assert_eq!(fs::read(west.at("open")).unwrap(), b"not closed yet");
    drop(open);
    east.unmount();
    assert!(fs::read(west.at("a/b/large")).unwrap() == large);
    west.unmount();
}

#[test]
fn at_durability_fsync_closing_a_new_file_does_not_wait_and_the_other_region_reads_all_of_it() {
    let buckets: [FaultyBucket; 2] =
        [1, 2].map(|seed| FaultyBucket::new(Arc::new(MemoryBucket::new()), seed));
    let world = World::with(
        Durability::Fsync,
        buckets.clone().map(|bucket| Arc::new(bucket) as Arc<dyn Bucket>),
    );
    let (east, west) = (world.mount(Side::Primary), world.mount(Side::Target));
    let slow = Faults {
        hanging: true,
        ..Faults::default()
    };
    for bucket in &buckets {
        bucket.set(slow.clone());
    }
    let content = pattern(1 << 20);
    // Returns although no bucket takes anything.
    fs::write(east.at("file"), &content).unwrap();
    let (tell, told) = mpsc::channel();
    let path = west.at("file");
    let reader = std::thread::spawn(move || tell.send(fs::read(path)));
    assert!(told.try_recv().is_err());
    for bucket in &buckets {
        bucket.set(Faults::default());
    }
    let found = told.recv_timeout(LONG).expect("the reader is answered").unwrap();
    assert!(found == content, "{} bytes", found.len());
    reader.join().unwrap().unwrap();
    // Again and again, without waiting: what was closed is what the other side reads.
    for number in 0..50_usize {
        let (name, content) = (format!("file{number}"), pattern(number * 997));
        fs::write(east.at(&name), &content).unwrap();
        assert!(fs::read(west.at(&name)).unwrap() == content, "{name}");
        // The other side knows it now: its next content must be there when it is closed.
        fs::write(east.at(&name), name.as_bytes()).unwrap();
        assert_eq!(fs::read(west.at(&name)).unwrap(), name.as_bytes());
    }
    east.unmount();
    west.unmount();
}

/// The number that a listing shows for `..`.
fn parent_as_listed(directory: &Path) -> u64 {
    let directory = File::open(directory).unwrap();
    rustix::fs::Dir::read_from(&directory)
        .unwrap()
        .map(Result::unwrap)
        .find(|entry| entry.file_name() == c"..")
        .expect("`..` is listed")
        .ino()
}

#[test]
fn a_listing_shows_the_parent_also_after_a_move_from_elsewhere() {
    let world = World::new();
    let (east, west) = (world.mount(Side::Primary), world.mount(Side::Target));
    fs::create_dir_all(east.at("a/b")).unwrap();
    fs::create_dir(east.at("c")).unwrap();
    let number = |path: &str| fs::metadata(west.at(path)).unwrap().ino();
    for _ in 0..2 {
        assert_eq!(parent_as_listed(&west.at("a/b")), number("a"));
        assert_eq!(parent_as_listed(&west.at("a")), number(""));
    }
    fs::rename(east.at("a/b"), east.at("c/b")).unwrap();
    for mount in [&east, &west] {
        assert_eq!(parent_as_listed(&mount.at("c/b")), number("c"));
    }
    assert_eq!(parent_as_listed(&west.path), number(""));
    fs::rename(west.at("c/b"), west.at("b")).unwrap();
    for mount in [&east, &west] {
        assert_eq!(parent_as_listed(&mount.at("b")), number(""));
    }
    east.unmount();
    west.unmount();
}

#[test]
fn no_time_that_a_program_can_set_harms_the_mount() {
    let world = World::new();
    let mount = world.mount(Side::Primary);
    let file = File::create(mount.at("file")).unwrap();
    for seconds in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX] {
        for nanoseconds in [0, 999_999_999] {
            let time = rustix::fs::Timespec {
                tv_sec: seconds,
                tv_nsec: nanoseconds,
            };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::futimens(&file, &times).unwrap();
            let found = file.metadata().unwrap();
            assert_eq!((found.atime(), found.mtime()), (seconds, seconds));
        }
    }
    drop(file);
    for index in 0..64 {
        // Every reader thread still answers.
        fs::write(mount.at(&index.to_string()), b"still served").unwrap();
    }
    mount.unmount();
}

#[test]
fn the_calls_that_programs_make_do_what_a_local_file_system_does() {
    let world = World::new();
    let mount = world.mount(Side::Primary);
    let path = mount.at("file");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.write_all(&pattern(300_000)).unwrap();
    assert_eq!(
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap_err()
            .kind(),
        io::ErrorKind::AlreadyExists
    );

    fs::hard_link(&path, mount.at("link")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 2);
    symlink("file", mount.at("symbolic")).unwrap();
    assert_eq!(fs::read_link(mount.at("symbolic")).unwrap(), Path::new("file"));
    assert!(fs::read(mount.at("symbolic")).unwrap() == pattern(300_000));

    rustix::fs::fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        65_536,
        65_536,
    )
    .unwrap();
    let mut hole = vec![1; 65_536];
    file.read_exact_at(&mut hole, 65_536).unwrap();
    assert!(hole.iter().all(|byte| *byte == 0));
    assert_eq!(
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap(),
        65_536
    );
    assert_eq!(
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(65_536)).unwrap(),
        131_072
    );
    assert_eq!(
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(400_000)),
        Err(rustix::io::Errno::NXIO)
    );
    let collapse = rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(rustix::io::Errno::OPNOTSUPP));

    rustix::fs::setxattr(&path, "user.colour", b"green", XattrFlags::CREATE).unwrap();
    let again = rustix::fs::setxattr(&path, "user.colour", b"blue", XattrFlags::CREATE);
    assert_eq!(again, Err(rustix::io::Errno::EXIST));
    let mut value = [0; 16];
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut value).unwrap(), 5);
    assert_eq!(&value[..5], b"green");
    assert_eq!(
        rustix::fs::getxattr(&path, "user.colour", &mut value[..2]),
        Err(rustix::io::Errno::RANGE)
    );
    assert_eq!(
        rustix::fs::getxattr(&path, "user.none", &mut value),
        Err(rustix::io::Errno::NODATA)
    );

    fs::remove_file(&path).unwrap();
    fs::remove_file(mount.at("link")).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    assert_eq!((content.len(), file.metadata().unwrap().nlink()), (300_000, 0));
    file.set_len(10).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10);
    drop(file);

    let before_1970 = rustix::fs::Timespec {
        tv_sec: -7,
        tv_nsec: 250_000_000,
    };
    let times = rustix::fs::Timestamps {
        last_access: before_1970,
        last_modification: before_1970,
    };
    fs::write(&path, b"").unwrap();
    rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-7, 250_000_000));

    assert_eq!(
        fs::write(mount.at(&"x".repeat(256)), b"")
            .unwrap_err()
            .raw_os_error(),
        Some(36)
    );
    mount.unmount();
}

#[test]
fn a_long_directory_is_listed_completely_with_and_without_attributes() {
    let world = World::new();
    let mount = world.mount(Side::Primary);
    fs::create_dir(mount.at("many")).unwrap();
    let mut expected: Vec<_> = (0..600)
        .map(|number| format!("entry-{number}-{}", "y".repeat(number % 90)))
        .collect();
    for name in &expected {
        File::create(mount.at("many").join(name)).unwrap();
    }
    expected.sort();
    let other = world.mount(Side::Target);
    for path in [mount.at("many"), other.at("many")] {
        for with_attributes in [false, true] {
            let mut names = Vec::new();
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                if with_attributes {
                    assert!(entry.metadata().unwrap().is_file());
                }
                names.push(entry.file_name().into_string().unwrap());
            }
            names.sort();
            assert!(names == expected, "{} of {}", names.len(), expected.len());
        }
    }
    fs::remove_dir_all(other.at("many")).unwrap();
    assert!(fs::metadata(mount.at("many")).is_err());
}

#[test]
fn locks_exclude_across_mounts_and_their_families_do_not_meet() {
    let world = World::new();
    let (east, west) = (world.mount(Side::Primary), world.mount(Side::Target));
    fs::write(east.at("lock"), b"x").unwrap();
    let (here, there) = (
        File::options()
            .read(true)
            .write(true)
            .open(east.at("lock"))
            .unwrap(),
        File::options()
            .read(true)
            .write(true)
            .open(west.at("lock"))
            .unwrap(),
    );
    rustix::fs::flock(&here, FlockOperation::LockExclusive).unwrap();
    let refused = rustix::fs::flock(&there, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused, Err(rustix::io::Errno::WOULDBLOCK));
    // A record lock is another family.
    rustix::fs::fcntl_lock(&there, FlockOperation::NonBlockingLockExclusive).unwrap();
    let waiter = std::thread::spawn(move || rustix::fs::flock(&there, FlockOperation::LockExclusive));
    rustix::fs::flock(&here, FlockOperation::Unlock).unwrap();
    waiter.join().unwrap().unwrap();
    drop(here);
    east.unmount();
    west.unmount();
}

#[test]
fn a_read_only_mount_refuses_changes_and_a_second_mount_is_refused() {
    let world = World::new();
    let mount = world.mount(Side::Primary);
    let again = point::prepare(&mount.path);
    assert!(
        matches!(again, Err(MountError::AlreadyMounted { .. })),
        "{again:?}"
    );
    rustix::mount::mount_remount(&mount.path, MountFlags::RDONLY, c"").unwrap();
    assert_eq!(
        fs::write(mount.at("file"), b"").unwrap_err().kind(),
        io::ErrorKind::ReadOnlyFilesystem
    );
    mount.unmount();
}

#[test]
fn a_mount_whose_process_is_gone_is_cleared_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mount point");
    fs::create_dir(&path).unwrap();
    for cleared_by_mounting in [true, false] {
        let device = mount_directly(&path, &MountOptions::new(&path, "dead"))
            .unwrap()
            .unwrap();
        assert_eq!(find(&path).unwrap().unwrap().source, "dead");
        // What `kill -9` does to the process that served it.
        drop(device);
        let error = fs::metadata(&path).unwrap_err();
        assert!(point::is_dead(&error), "{error:?}");
        if cleared_by_mounting {
            assert_eq!(point::prepare(&path).unwrap(), path);
        } else {
            unmount(&path, UnmountMode::Clean).unwrap();
        }
        assert_eq!(find(&path).unwrap(), None);
    }
}

#[test]
fn mount_points_that_cannot_be_used_are_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(matches!(
        point::prepare(&file),
        Err(MountError::NotDirectory { .. })
    ));
    let missing = directory.path().join("missing");
    assert!(matches!(
        point::prepare(&missing),
        Err(MountError::MountPoint { .. })
    ));
    assert!(matches!(
        unmount(directory.path(), UnmountMode::Clean),
        Err(UnmountError::NotMounted { .. })
    ));
    assert!(matches!(
        unmount(Path::new("/proc"), UnmountMode::Force),
        Err(UnmountError::Foreign { .. })
    ));
}
