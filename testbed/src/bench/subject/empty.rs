//! An empty FUSE file system: the names are in memory, content is thrown away and reads as zeros.
//!
//! What it reaches is what the kernel's FUSE and fuser allow on this machine. It asks the kernel for the same things as a mount of
//! Twinshore (capabilities, sizes, reader threads, readahead, long times to live), so both are asked the same questions.
//!
//! It is mounted as Twinshore mounts: with mount(2), as root. Remounting keeps the names and drops what the kernel knows.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use twinshore_testbed::failure::{Failure, blocking};

use super::Subject;
use crate::measure::{Meter, PATIENCE};

/// The kernel keeps what it was told: nobody else changes it.
const TIME_TO_LIVE: Duration = Duration::from_hours(1);
/// The largest read or write of one request.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// What the kernel reads ahead.
const READ_AHEAD_KIB: u32 = 1024;
/// Requests that the kernel keeps under way in the background.
const MAX_BACKGROUND: u16 = 128;
/// What every read is answered with.
static ZEROS: [u8; MAX_WRITE_BYTES as usize] = [0; MAX_WRITE_BYTES as usize];

/// The file system, mounted.
pub struct Empty {
    mount_point: PathBuf,
    names: Arc<Names>,
    served: Option<JoinHandle<io::Result<()>>>,
}

impl Empty {
    /// Mounts it.
    pub async fn mount(mount_point: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(mount_point).map_err(Failure::io("make a mount point"))?;
        let mut empty = Self {
            mount_point: mount_point.to_owned(),
            names: Arc::default(),
            served: None,
        };
        empty.serve().await?;
        Ok(empty)
    }

    async fn serve(&mut self) -> Result<(), Failure> {
        let (mount_point, names) = (self.mount_point.clone(), Arc::clone(&self.names));
        // The handshake waits for the kernel.
        let served = blocking("mount the empty file system", PATIENCE, move || {
            mount(&mount_point, Server(names)).map_err(Failure::io("mount the empty file system"))
        })
        .await?;
        self.served = Some(served);
        Ok(())
    }

    /// Unmounts it.
    pub async fn unmount(&mut self) -> Result<(), Failure> {
        let Some(served) = self.served.take() else {
            return Ok(());
        };
        let mount_point = self.mount_point.clone();
        blocking("unmount the empty file system", PATIENCE, move || {
            rustix::mount::unmount(&mount_point, UnmountFlags::empty())
                .map_err(|error| Failure::io("unmount the empty file system")(error.into()))?;
            let ended = served.join().map_err(|_| Failure::Thread {
                what: "the empty file system".to_owned(),
                reason: "its thread panicked".to_owned(),
            })?;
            ended.map_err(Failure::io("serve the empty file system"))
        })
        .await
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        if self.served.take().is_some()
            && let Err(error) = rustix::mount::unmount(&self.mount_point, UnmountFlags::DETACH)
        {
            eprintln!("{} could not be detached: {error}", self.mount_point.display());
        }
    }
}

impl Subject for Empty {
    fn root(&self) -> PathBuf {
        self.mount_point.clone()
    }

    async fn cold(&mut self) -> Result<(), Failure> {
        self.unmount().await?;
        self.serve().await
    }

    fn meter(&self) -> Result<Meter, Failure> {
        // It runs in this process, beside the work itself: its share cannot be told.
        Ok(Meter::default())
    }
}

fn mount(mount_point: &Path, names: Server) -> io::Result<JoinHandle<io::Result<()>>> {
    let device: OwnedFd = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let data = std::ffi::CString::new(data)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("empty", mount_point, "fuse.twinshore-empty", flags, &*data)?;
    let mut config = fuser::Config::default();
    config.acl = fuser::SessionACL::All;
    config.n_threads = Some(
        std::thread::available_parallelism()
            .map_or(2, usize::from)
            .clamp(2, 4),
    );
    let served = fuser::Session::from_fd(names, device, config.acl, config).and_then(|session| {
        std::thread::Builder::new()
            .name("empty-fs".to_owned())
            .spawn(move || session.run())
    });
    if served.is_err() {
        rustix::mount::unmount(mount_point, UnmountFlags::DETACH)?;
    }
    let device_number = std::fs::metadata(mount_point)?.st_dev();
    let (major, minor) = (rustix::fs::major(device_number), rustix::fs::minor(device_number));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    std::fs::write(setting, READ_AHEAD_KIB.to_string())?;
    served
}

/// One inode.
#[derive(Clone, Debug)]
struct Node {
    directory: Option<BTreeMap<OsString, u64>>,
    size_bytes: u64,
    mode: u16,
}

/// All names, and the inodes that they name.
struct Names {
    nodes: Mutex<HashMap<u64, Node>>,
    next_inode: AtomicU64,
    listings: Mutex<HashMap<u64, Arc<Listing>>>,
    next_listing: AtomicU64,
}

/// A directory as it was when it was opened.
type Listing = Vec<(OsString, FileAttr)>;

impl Default for Names {
    fn default() -> Self {
        let root = Node {
            directory: Some(BTreeMap::new()),
            size_bytes: 0,
            mode: 0o755,
        };
        Self {
            nodes: Mutex::new(HashMap::from([(1, root)])),
            next_inode: AtomicU64::new(2),
            listings: Mutex::default(),
            next_listing: AtomicU64::new(1),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn attributes(inode: u64, node: &Node) -> FileAttr {
    let kind = if node.directory.is_some() {
        FileType::Directory
    } else {
        FileType::RegularFile
    };
    FileAttr {
        ino: INodeNo(inode),
        size: node.size_bytes,
        blocks: node.size_bytes.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: node.mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Names {
    fn attributes(&self, inode: u64) -> Result<FileAttr, Errno> {
        let nodes = lock(&self.nodes);
        nodes
            .get(&inode)
            .map(|node| attributes(inode, node))
            .ok_or(Errno::ENOENT)
    }

    fn look_up(&self, parent: u64, name: &OsStr) -> Result<Option<FileAttr>, Errno> {
        let nodes = lock(&self.nodes);
        let directory = nodes.get(&parent).and_then(|node| node.directory.as_ref());
        let found = directory.ok_or(Errno::ENOTDIR)?.get(name);
        Ok(found.and_then(|inode| nodes.get(inode).map(|node| attributes(*inode, node))))
    }

    fn make(&self, parent: u64, name: &OsStr, mode: u32, is_directory: bool) -> Result<FileAttr, Errno> {
        let inode = self.next_inode.fetch_add(1, Ordering::Relaxed);
        let node = Node {
            directory: is_directory.then(BTreeMap::new),
            size_bytes: 0,
            mode: u16::try_from(mode & 0o7777).unwrap_or(0o644),
        };
        let answer = attributes(inode, &node);
        let mut nodes = lock(&self.nodes);
        let directory = nodes
            .get_mut(&parent)
            .and_then(|node| node.directory.as_mut())
            .ok_or(Errno::ENOTDIR)?;
        directory.insert(name.to_owned(), inode);
        nodes.insert(inode, node);
        Ok(answer)
    }

    fn remove(&self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        let mut nodes = lock(&self.nodes);
        let directory = nodes.get_mut(&parent).and_then(|node| node.directory.as_mut());
        directory.ok_or(Errno::ENOTDIR)?.remove(name).ok_or(Errno::ENOENT)
    }

    fn resize(&self, inode: u64, size: impl FnOnce(u64) -> u64) -> Result<FileAttr, Errno> {
        let mut nodes = lock(&self.nodes);
        let node = nodes.get_mut(&inode).ok_or(Errno::ENOENT)?;
        node.size_bytes = size(node.size_bytes);
        Ok(attributes(inode, node))
    }

    fn open_listing(&self, inode: u64) -> Result<u64, Errno> {
        let listing: Listing = {
            let nodes = lock(&self.nodes);
            let directory = nodes.get(&inode).and_then(|node| node.directory.as_ref());
            let names = directory.ok_or(Errno::ENOTDIR)?.iter();
            names
                .filter_map(|(name, inode)| Some((name.clone(), attributes(*inode, nodes.get(inode)?))))
                .collect()
        };
        let number = self.next_listing.fetch_add(1, Ordering::Relaxed);
        lock(&self.listings).insert(number, Arc::new(listing));
        Ok(number)
    }

    fn listing(&self, number: u64) -> Arc<Listing> {
        lock(&self.listings).get(&number).cloned().unwrap_or_default()
    }
}

/// fuser's trait over the names.
struct Server(Arc<Names>);

fn answer_entry(reply: ReplyEntry, made: Result<FileAttr, Errno>) {
    match made {
        Ok(made) => reply.entry(&TIME_TO_LIVE, &made, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn answer_empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn answer_attributes(reply: ReplyAttr, found: Result<FileAttr, Errno>) {
    match found {
        Ok(found) => reply.attr(&TIME_TO_LIVE, &found),
        Err(error) => reply.error(error),
    }
}

#[allow(clippy::too_many_arguments)] // The trait is fuser's.
impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_HANDLE_KILLPRIV,
        ] {
            // An older kernel has fewer: then a mount of Twinshore has fewer too.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_WRITE_BYTES);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.look_up(parent.0, name) {
            Ok(Some(found)) => reply.entry(&TIME_TO_LIVE, &found, Generation(0)),
            // Inode 0 says that there is nothing, for as long as the time to live.
            Ok(None) => {
                let nothing = Node {
                    directory: None,
                    size_bytes: 0,
                    mode: 0,
                };
                reply.entry_with_ttls(
                    &Duration::ZERO,
                    &TIME_TO_LIVE,
                    &attributes(0, &nothing),
                    Generation(0),
                );
            }
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(reply, self.0.attributes(inode.0));
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _user: Option<u32>,
        _group: Option<u32>,
        size: Option<u64>,
        _accessed: Option<TimeOrNow>,
        _modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _change: Option<SystemTime>,
        _backup: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        answer_attributes(reply, self.0.resize(inode.0, |now| size.unwrap_or(now)));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        answer_entry(reply, self.0.make(parent.0, name, mode, true));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.0.remove(parent.0, name);
        let forgotten = removed.map(|inode| drop(lock(&self.0.nodes).remove(&inode)));
        answer_empty(reply, forgotten);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let moved = self.0.remove(parent.0, name).and_then(|inode| {
            let mut nodes = lock(&self.0.nodes);
            let directory = nodes
                .get_mut(&new_parent.0)
                .and_then(|node| node.directory.as_mut());
            directory
                .ok_or(Errno::ENOTDIR)?
                .insert(new_name.to_owned(), inode);
            Ok(())
        });
        answer_empty(reply, moved);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.0.make(parent.0, name, mode, false) {
            Ok(answer) => reply.created(
                &TIME_TO_LIVE,
                &answer,
                Generation(0),
                FileHandle(0),
                FopenFlags::empty(),
            ),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.attributes(inode.0) {
            Ok(found) => {
                let left = usize::try_from(found.size.saturating_sub(offset)).unwrap_or(usize::MAX);
                reply.data(&ZEROS[..left.min(size as usize).min(ZEROS.len())]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let end = offset + data.len() as u64;
        match self.0.resize(inode.0, |now| now.max(end)) {
            Ok(_) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.open_listing(inode.0) {
            Ok(number) => reply.opened(FileHandle(number), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listing = self.0.listing(handle.0);
        for (next, (name, found)) in (1_u64..).zip(listing.iter()).skip(position(offset)) {
            if reply.add(found.ino, next, found.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listing = self.0.listing(handle.0);
        for (next, (name, found)) in (1_u64..).zip(listing.iter()).skip(position(offset)) {
            if reply.add(found.ino, next, name, &TIME_TO_LIVE, found, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        lock(&self.0.listings).remove(&handle.0);
        reply.ok();
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        // The kernel does not ask again.
        reply.error(Errno::ENOSYS);
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
