//! fuser's trait over [`Vfs`].
//!
//! Each method first tries what the caches can answer, on the thread that read the request (a hand-over costs more than the answer), and
//! otherwise spawns the work with the owned reply. Nothing here waits: the reader threads are always free for the next request.
//!
//! A request that the sweeper has answered in place of its work (see [`super::requests`]) may still succeed; what it opened is then released.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    Version, WriteFlags,
};
use tokio::runtime::Handle as Runtime;
use tracing::{info, warn};
use twinshore_protocol::attributes::AttributeChanges;
use twinshore_protocol::lock::{Lock, LockFamily, LockKind};
use twinshore_protocol::{Caller, Errno, FileName, InodeNumber};

use super::answers::{
    PLAIN_PAGE_ENTRIES, PLUS_PAGE_ENTRIES, PlusPage, answer_attributes, answer_created, answer_entry,
    answer_page, answer_plus_page, answer_usage, answer_value, open_reply_flags, plus_page,
};
use super::convert::{self, errno, inode};
use super::freshness::{Freshness, Moment};
use super::locks::{RecordLockOwners, family};
use super::notifier::KernelNotifier;
use super::process::supplementary_groups;
use super::requests::{Patience, Refuse, Requests};
use crate::logbook::{KernelOffer, Working, calls};
use crate::vfs::{Attributed, Found, Handle, Opened, Vfs};

/// The largest read or write of one request: what kernels allow without a changed sysctl.
const MAX_WRITE_BYTES: u32 = 1024 * 1024;

/// Requests that the kernel keeps under way in the background (readahead and such).
const MAX_BACKGROUND: u16 = 128;

/// Without `INC_EPOCH` (FUSE ABI before 7.44) the names that the kernel holds cannot all be dropped at once when the stream to the
/// service breaks, so they are not kept for long.
const TIME_TO_LIVE_WITHOUT_EPOCH: Duration = Duration::from_secs(1);
const EPOCH_ABI: Version = Version(7, 44);

/// What is particular about a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdapterOptions {
    /// Nothing may be changed. The kernel refuses what it can; this is for what passes it.
    pub read_only: bool,
}

/// The adapter.
pub struct Adapter {
    vfs: Vfs,
    runtime: Runtime,
    notifier: Arc<KernelNotifier>,
    requests: Requests,
    record_owners: RecordLockOwners,
    time_to_live_max: Duration,
    options: AdapterOptions,
}

/// What a kernel-visible answer can be made of.
type Answer<T> = Result<T, Errno>;

impl Adapter {
    /// `runtime` carries the work; `notifier` is the one that the `vfs` invalidates with.
    pub fn new(
        vfs: Vfs,
        runtime: Runtime,
        notifier: Arc<KernelNotifier>,
        options: AdapterOptions,
    ) -> io::Result<Self> {
        Ok(Self {
            runtime,
            notifier,
            requests: Requests::start()?,
            record_owners: RecordLockOwners::new(vfs.logbook().cloned()),
            vfs,
            time_to_live_max: Duration::MAX,
            options,
        })
    }

    /// Who took record locks through which handle, before this process.
    pub fn take_over_owners(&self, owners: Vec<(u64, u64)>) {
        for (handle, owner) in owners {
            self.record_owners.remember(handle, owner);
        }
    }

    /// To be held while something is changed for a request that the kernel may send again to a successor of this process.
    fn working(&self, request: &Request) -> Working {
        Working::begin(self.vfs.logbook(), request.unique().0)
    }

    fn freshness(&self) -> &Freshness {
        self.notifier.freshness()
    }

    /// For operations where the service looks at the user only.
    fn caller(request: &Request) -> Caller {
        Caller {
            user: request.uid(),
            group: request.gid(),
            groups: Vec::new(),
            answered: None,
        }
    }

    /// For changes: the service clears set-group-id bits and gives groups away by membership. Root is in all groups.
    fn caller_with_groups(request: &Request) -> Caller {
        let groups = if request.uid() == 0 {
            None
        } else {
            supplementary_groups(request.pid())
        };
        Caller {
            user: request.uid(),
            group: request.gid(),
            groups: groups.unwrap_or_default(),
            answered: None,
        }
    }

    /// Does the work on the runtime and answers. `undo` gets what nobody can use any more.
    fn spawn<R: Refuse, T: Send + 'static>(
        &self,
        request: &Request,
        patience: Patience,
        reply: R,
        work: impl Future<Output = Answer<T>> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
        undo: impl FnOnce(T) + Send + 'static,
    ) {
        let ticket = self.requests.enter(reply, request.pid(), patience);
        let call = calls::hand_over(self.vfs.logbook());
        self.runtime.spawn(async move {
            let result = calls::within(call.as_ref(), work).await;
            match (ticket.take(), result) {
                (Some(reply), Ok(value)) => answer(reply, value),
                (Some(reply), Err(error)) => reply.refuse(errno(error)),
                (None, Ok(value)) => undo(value),
                (None, Err(_)) => {}
            }
            // Only now is it answered.
            drop(call);
        });
    }

    /// The same for work that leaves nothing behind that would have to be undone.
    fn spawn_plain<R: Refuse, T: Send + 'static>(
        &self,
        request: &Request,
        reply: R,
        work: impl Future<Output = Answer<T>> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        self.spawn(request, Patience::Ordinary, reply, work, answer, drop);
    }

    /// Work whose answer is an entry of a directory.
    fn spawn_entry(
        &self,
        request: &Request,
        since: Moment,
        parent: InodeNumber,
        reply: ReplyEntry,
        work: impl Future<Output = Answer<Found>> + Send + 'static,
    ) {
        let (notifier, max) = (self.notifier.clone(), self.time_to_live_max);
        self.spawn_plain(request, reply, work, move |reply, found| {
            notifier
                .freshness()
                .answer(since, |verdict| answer_entry(reply, verdict, parent, &found, max));
        });
    }

    fn spawn_made(
        &self,
        request: &Request,
        since: Moment,
        parent: InodeNumber,
        reply: ReplyEntry,
        work: impl Future<Output = Answer<Attributed>> + Send + 'static,
    ) {
        self.spawn_entry(request, since, parent, reply, async move {
            work.await.map(Found::Entry)
        });
    }

    /// Answers at once with something that was just made.
    fn answer_made(&self, since: Moment, parent: InodeNumber, reply: ReplyEntry, made: Attributed) {
        self.freshness().answer(since, |verdict| {
            answer_entry(reply, verdict, parent, &Found::Entry(made), self.time_to_live_max);
        });
    }

    fn spawn_attributes(
        &self,
        request: &Request,
        since: Moment,
        reply: ReplyAttr,
        work: impl Future<Output = Answer<Attributed>> + Send + 'static,
    ) {
        let (notifier, max) = (self.notifier.clone(), self.time_to_live_max);
        self.spawn_plain(request, reply, work, move |reply, attributed| {
            notifier.freshness().answer(since, |verdict| {
                answer_attributes(reply, verdict, &attributed, max);
            });
        });
    }

    fn spawn_empty(
        &self,
        request: &Request,
        reply: ReplyEmpty,
        work: impl Future<Output = Answer<()>> + Send + 'static,
    ) {
        self.spawn_plain(request, reply, work, |reply, ()| reply.ok());
    }

    fn answer_opened(reply: ReplyOpen, opened: Opened) {
        reply.opened(FileHandle(opened.handle.0), open_reply_flags(opened));
    }
}

fn file_name(name: &OsStr) -> Answer<FileName> {
    FileName::new(name.as_bytes()).map_err(Errno::from)
}

/// Answers with the error, or goes on with the value.
macro_rules! valid {
    ($result:expr, $reply:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return $reply.error(errno(error)),
        }
    };
}

#[allow(clippy::too_many_arguments)] // The trait is fuser's.
impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Asked for one by one: what an older kernel does not have is left out. Not asked for: WRITEBACK_CACHE (it ignores sizes that change
        // elsewhere), AUTO_INVAL_DATA (drops pages for our own changes of mtime), HANDLE_KILLPRIV_V2 (fuser does not pass its flags on), SETXATTR_EXT
        // (fuser panics).
        let wanted = [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_ABORT_ERROR,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_HANDLE_KILLPRIV,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                info!("this kernel's FUSE does not have {flag:?}");
            }
        }
        let limits = config.set_max_write(MAX_WRITE_BYTES).is_ok()
            && config.set_max_background(MAX_BACKGROUND).is_ok();
        if !limits {
            warn!("the limits of requests were not taken: reads and writes will be smaller");
        }
        if let Some(logbook) = self.vfs.logbook() {
            logbook.kernel_offers(KernelOffer {
                minor: config.kernel_abi().1,
                flags: config.capabilities().bits(),
            });
        }
        if config.kernel_abi() < EPOCH_ABI {
            self.time_to_live_max = TIME_TO_LIVE_WITHOUT_EPOCH;
        }
        Ok(())
    }

    fn destroy(&mut self) {
        // The kernel is gone; writing out what is buffered is for whoever owns the Vfs, who can report errors.
        self.notifier.stop();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = valid!(file_name(name), reply);
        let parent = inode(parent);
        let since = self.freshness().now();
        if let Some(found) = self.vfs.cached_lookup(parent, &name) {
            self.freshness().answer(since, |verdict| {
                answer_entry(reply, verdict, parent, &found, self.time_to_live_max);
            });
            return;
        }
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        self.spawn_entry(request, since, parent, reply, async move {
            vfs.lookup(caller, parent, name).await
        });
    }

    fn forget(&self, _request: &Request, _node: INodeNo, _lookups: u64) {}

    fn getattr(&self, request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let since = self.freshness().now();
        if let Some(attributed) = self.vfs.cached_attributes(inode(node)) {
            self.freshness().answer(since, |verdict| {
                answer_attributes(reply, verdict, &attributed, self.time_to_live_max);
            });
            return;
        }
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        self.spawn_attributes(request, since, reply, async move {
            vfs.attributes(caller, inode(node)).await
        });
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _change: Option<SystemTime>,
        _backup: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _working = self.working(request);
        let changes = AttributeChanges {
            mode: mode.map(convert::permissions),
            user,
            group,
            size_bytes: size,
            accessed: accessed.map(convert::time_change),
            modified: modified.map(convert::time_change),
        };
        let since = self.freshness().now();
        let (vfs, caller) = (self.vfs.clone(), Self::caller_with_groups(request));
        if let Some(attributed) = vfs.try_set_attributes(&caller, inode(node), &changes) {
            self.freshness().answer(since, |verdict| {
                answer_attributes(reply, verdict, &attributed, self.time_to_live_max);
            });
            return;
        }
        self.spawn_attributes(request, since, reply, async move {
            vfs.set_attributes(caller, inode(node), changes).await
        });
    }

    fn readlink(&self, request: &Request, node: INodeNo, reply: ReplyData) {
        if let Some(target) = self.vfs.cached_link_target(inode(node)) {
            return reply.data(&target);
        }
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let work = async move { vfs.read_link(caller, inode(node)).await };
        self.spawn_plain(request, reply, work, |reply, target| reply.data(&target));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let _working = self.working(request);
        let name = valid!(file_name(name), reply);
        let kind = valid!(convert::node_kind(mode).ok_or(Errno::Invalid), reply);
        let since = self.freshness().now();
        let (vfs, caller, parent) = (self.vfs.clone(), Self::caller_with_groups(request), inode(parent));
        let (mode, umask) = (convert::permissions(mode), convert::permissions(umask));
        if let Some(made) = vfs.try_make_node(&caller, parent, &name, (mode, umask), kind) {
            return self.answer_made(since, parent, reply, made);
        }
        self.spawn_made(request, since, parent, reply, async move {
            vfs.make_node(caller, parent, name, mode, umask, kind, device)
                .await
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let _working = self.working(request);
        let name = valid!(file_name(name), reply);
        let since = self.freshness().now();
        let (vfs, caller, parent) = (self.vfs.clone(), Self::caller_with_groups(request), inode(parent));
        let (mode, umask) = (convert::permissions(mode), convert::permissions(umask));
        if let Some(made) = vfs.try_make_directory(&caller, parent, &name, (mode, umask)) {
            return self.answer_made(since, parent, reply, made);
        }
        self.spawn_made(request, since, parent, reply, async move {
            vfs.make_directory(caller, parent, name, mode, umask).await
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _working = self.working(request);
        let name = valid!(file_name(name), reply);
        let (vfs, caller) = (self.vfs.clone(), Self::caller_with_groups(request));
        if vfs.try_unlink(&caller, inode(parent), &name).is_some() {
            return reply.ok();
        }
        self.spawn_empty(request, reply, async move {
            vfs.unlink(caller, inode(parent), name).await
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _working = self.working(request);
        let name = valid!(file_name(name), reply);
        let (vfs, caller) = (self.vfs.clone(), Self::caller_with_groups(request));
        if vfs.try_remove_directory(&caller, inode(parent), &name).is_some() {
            return reply.ok();
        }
        self.spawn_empty(request, reply, async move {
            vfs.remove_directory(caller, inode(parent), name).await
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let _working = self.working(request);
        let name = valid!(file_name(name), reply);
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        let since = self.freshness().now();
        let (vfs, caller, parent) = (self.vfs.clone(), Self::caller_with_groups(request), inode(parent));
        if let Some(made) = vfs.try_symbolic_link(&caller, parent, &name, &target) {
            return self.answer_made(since, parent, reply, made);
        }
        self.spawn_made(request, since, parent, reply, async move {
            vfs.symbolic_link(caller, parent, name, target).await
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _working = self.working(request);
        let (name, new_name) = (valid!(file_name(name), reply), valid!(file_name(new_name), reply));
        let mode = valid!(convert::rename_mode(flags), reply);
        let (vfs, caller) = (self.vfs.clone(), Self::caller_with_groups(request));
        let (old, new) = ((inode(parent), &name), (inode(new_parent), &new_name));
        if vfs.try_rename(&caller, old, new, mode).is_some() {
            return reply.ok();
        }
        self.spawn_empty(request, reply, async move {
            vfs.rename(caller, inode(parent), name, inode(new_parent), new_name, mode)
                .await
        });
    }

    fn link(
        &self,
        request: &Request,
        node: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let _working = self.working(request);
        let name = valid!(file_name(new_name), reply);
        let since = self.freshness().now();
        let (vfs, caller, parent) = (
            self.vfs.clone(),
            Self::caller_with_groups(request),
            inode(new_parent),
        );
        self.spawn_made(request, since, parent, reply, async move {
            vfs.link(caller, inode(node), parent, name).await
        });
    }

    fn open(&self, request: &Request, node: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        let _working = self.working(request);
        let (node, flags) = (inode(node), convert::open_flags(flags.0));
        if self.options.read_only && (flags.write || flags.truncate) {
            return reply.error(fuser::Errno::EROFS);
        }
        // Before it is decided whether the kernel keeps its pages: from then on they are among what is dropped with everything.
        self.notifier.opened(node);
        if let Some(result) = self.vfs.cached_open(node, flags) {
            if result.is_err() {
                self.notifier.released(node);
            }
            let opened = valid!(result, reply);
            return Self::answer_opened(reply, opened);
        }
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let (notifier, undoing) = (self.notifier.clone(), self.notifier.clone());
        let releasing = self.vfs.clone();
        self.spawn(
            request,
            Patience::Ordinary,
            reply,
            async move {
                let opened = vfs.open(caller, node, flags).await;
                if opened.is_err() {
                    notifier.released(node);
                }
                opened
            },
            Self::answer_opened,
            move |opened| {
                undoing.released(node);
                releasing.release(node, opened.handle, None);
            },
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let _working = self.working(request);
        let name = valid!(file_name(name), reply);
        let since = self.freshness().now();
        let (vfs, caller, parent) = (self.vfs.clone(), Self::caller_with_groups(request), inode(parent));
        let (mode, umask) = (convert::permissions(mode), convert::permissions(umask));
        let (exclusive, flags) = (convert::is_exclusive(flags), convert::open_flags(flags));
        if let Some((attributed, opened)) = vfs.try_create(&caller, parent, &name, mode, umask, flags) {
            self.notifier.opened(attributed.attributes.inode);
            self.freshness().answer(since, |verdict| {
                answer_created(reply, verdict, parent, &attributed, opened, self.time_to_live_max);
            });
            return;
        }
        let (notifier, max, releasing) = (self.notifier.clone(), self.time_to_live_max, self.vfs.clone());
        self.spawn(
            request,
            Patience::Ordinary,
            reply,
            async move {
                vfs.create(caller, parent, name, mode, umask, exclusive, flags)
                    .await
            },
            move |reply, (attributed, opened)| {
                notifier.opened(attributed.attributes.inode);
                notifier.freshness().answer(since, |verdict| {
                    answer_created(reply, verdict, parent, &attributed, opened, max);
                });
            },
            move |(attributed, opened)| {
                releasing.release(attributed.attributes.inode, opened.handle, None);
            },
        );
    }

    fn read(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (node, handle) = (inode(node), Handle(handle.0));
        if let Some(content) = self.vfs.cached_read(node, handle, offset, size) {
            return reply.data(&content);
        }
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let work = async move { vfs.read(caller, node, handle, offset, size).await };
        self.spawn_plain(request, reply, work, |reply, content| reply.data(&content));
    }

    fn write(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: fuser::OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _working = self.working(request);
        let (node, handle, caller) = (inode(node), Handle(handle.0), Self::caller(request));
        if let Some(result) = self.vfs.try_write(&caller, node, handle, offset, data) {
            let written = valid!(result, reply);
            return reply.written(written);
        }
        // The buffer belongs to the thread that reads the next request.
        let (vfs, data) = (self.vfs.clone(), Bytes::copy_from_slice(data));
        let work = async move { vfs.write(caller, node, handle, offset, data).await };
        self.spawn_plain(request, reply, work, ReplyWrite::written);
    }

    fn flush(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let _working = self.working(request);
        let (node, owner) = (inode(node), owner.0);
        self.record_owners.flushed(handle.0, owner);
        let handle = Handle(handle.0);
        if let Some(result) = self.vfs.try_flush(node, handle, owner) {
            valid!(result, reply);
            return reply.ok();
        }
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let work = async move { vfs.flush(caller, node, handle, owner).await };
        self.spawn(
            request,
            Patience::Flush,
            reply,
            work,
            |reply, ()| reply.ok(),
            drop,
        );
    }

    fn release(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: fuser::OpenFlags,
        flock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let node = inode(node);
        let (handle, flock_owner) = (Handle(handle.0), flock_owner.map(|owner| owner.0));
        let owners = self.record_owners.released(handle.0);
        if owners.is_empty() {
            // The kernel says it again to a successor, which may have heard of it.
            let known = self.vfs.release_then(node, handle, flock_owner, || reply.ok());
            if known {
                self.notifier.released(node);
            }
            return;
        }
        let (vfs, caller, notifier) = (self.vfs.clone(), Self::caller(request), self.notifier.clone());
        self.runtime.spawn(async move {
            for owner in &owners {
                let lock = Lock {
                    family: LockFamily::Record,
                    kind: LockKind::Unlock,
                    start: 0,
                    end: u64::MAX,
                    owner: *owner,
                    process: 0,
                };
                if let Err(error) = vfs.set_lock(caller.clone(), node, lock, false).await {
                    info!(
                        inode = node.0,
                        "locks of a closed file end with the session: {error}"
                    );
                }
            }
            let logbook = vfs.logbook().cloned();
            let known = vfs.release_then(node, handle, flock_owner, move || {
                for owner in owners {
                    if let Some(logbook) = &logbook {
                        logbook.owner_gone(handle.0, owner);
                    }
                }
                reply.ok();
            });
            if known {
                notifier.released(node);
            }
        });
    }

    fn fsync(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let _working = self.working(request);
        if let Some(result) = self.vfs.try_fsync(inode(node), Handle(handle.0)) {
            valid!(result, reply);
            return reply.ok();
        }
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let work = async move { vfs.fsync(caller, inode(node), Handle(handle.0)).await };
        self.spawn(
            request,
            Patience::Flush,
            reply,
            work,
            |reply, ()| reply.ok(),
            drop,
        );
    }

    fn opendir(&self, request: &Request, node: INodeNo, _flags: fuser::OpenFlags, reply: ReplyOpen) {
        let _working = self.working(request);
        self.notifier.opened(inode(node));
        reply.opened(
            FileHandle(self.vfs.open_directory(inode(node)).0),
            FopenFlags::empty(),
        );
    }

    fn readdir(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let (node, handle) = (inode(node), Handle(handle.0));
        if let Some(page) = self
            .vfs
            .cached_list(node, handle, offset, PLAIN_PAGE_ENTRIES, false)
        {
            return answer_page(reply, node, offset, &page);
        }
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let work = async move {
            vfs.list(caller, node, handle, offset, PLAIN_PAGE_ENTRIES, false)
                .await
        };
        self.spawn_plain(request, reply, work, move |reply, page| {
            answer_page(reply, node, offset, &page);
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let (node, handle) = (inode(node), Handle(handle.0));
        let (since, max) = (self.freshness().now(), self.time_to_live_max);
        let itself = self.vfs.cached_attributes(node);
        let page = self
            .vfs
            .cached_list(node, handle, offset, PLUS_PAGE_ENTRIES, true);
        if let (Some(directory), Some(page)) = (itself, page)
            && page.entries.iter().all(|entry| entry.attributes.is_some())
        {
            let page = PlusPage {
                directory,
                parent: page.parent,
                entries: page.entries,
            };
            self.freshness().answer(since, |verdict| {
                answer_plus_page(reply, verdict, node, offset, &page, max);
            });
            return;
        }
        let (notifier, vfs, caller) = (self.notifier.clone(), self.vfs.clone(), Self::caller(request));
        self.spawn_plain(
            request,
            reply,
            plus_page(vfs, caller, node, handle, offset),
            move |reply, page| {
                notifier.freshness().answer(since, |verdict| {
                    answer_plus_page(reply, verdict, node, offset, &page, max);
                });
            },
        );
    }

    fn releasedir(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: fuser::OpenFlags,
        reply: ReplyEmpty,
    ) {
        if self.vfs.release_directory(Handle(handle.0)) {
            self.notifier.released(inode(node));
        }
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let node = inode(node);
        let work = async move {
            // The kernel tells nothing before an unmount, so our own unmount writes everything out by this (see `mount::unmount`).
            if node == InodeNumber::ROOT {
                vfs.flush_everything().await?;
            }
            vfs.fsync_directory(caller, node).await
        };
        self.spawn(
            request,
            Patience::Flush,
            reply,
            work,
            |reply, ()| reply.ok(),
            drop,
        );
    }

    fn statfs(&self, request: &Request, node: INodeNo, reply: ReplyStatfs) {
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let work = async move { vfs.usage(caller, inode(node)).await };
        self.spawn_plain(request, reply, work, |reply, usage| answer_usage(reply, &usage));
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let _working = self.working(request);
        let mode = valid!(convert::set_mode(flags), reply);
        let (name, value) = (
            Bytes::copy_from_slice(name.as_bytes()),
            Bytes::copy_from_slice(value),
        );
        let (vfs, caller) = (self.vfs.clone(), Self::caller_with_groups(request));
        self.spawn_empty(request, reply, async move {
            vfs.set_extended_attribute(caller, inode(node), name, value, mode)
                .await
        });
    }

    fn getxattr(&self, request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let node = inode(node);
        // Asked for at every write (`security.capability`) and every check of permissions (`system.posix_acl_access`).
        if let Some(result) = self.vfs.cached_extended_attribute(node, name.as_bytes()) {
            let value = valid!(result, reply);
            return answer_value(reply, &value, size);
        }
        let (vfs, caller, name) = (
            self.vfs.clone(),
            Self::caller(request),
            Bytes::copy_from_slice(name.as_bytes()),
        );
        let work = async move { vfs.extended_attribute(caller, node, name).await };
        self.spawn_plain(request, reply, work, move |reply, value| {
            answer_value(reply, &value, size);
        });
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        if self.vfs.has_no_extended_attributes(inode(node)) {
            return answer_value(reply, &[], size);
        }
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let work = async move { vfs.extended_attributes(caller, inode(node)).await };
        self.spawn_plain(request, reply, work, move |reply, names| {
            let mut list = Vec::new();
            for name in names {
                list.extend_from_slice(&name);
                list.push(0);
            }
            answer_value(reply, &list, size);
        });
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _working = self.working(request);
        let (vfs, caller) = (self.vfs.clone(), Self::caller_with_groups(request));
        let name = Bytes::copy_from_slice(name.as_bytes());
        self.spawn_empty(request, reply, async move {
            vfs.remove_extended_attribute(caller, inode(node), name).await
        });
    }

    fn access(&self, _request: &Request, _node: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // With `default_permissions` the kernel checks itself and remembers that we need not be asked.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn getlk(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        process: u32,
        reply: ReplyLock,
    ) {
        let kind = valid!(convert::lock_kind(kind), reply);
        let family = family(request, handle, owner);
        let lock = Lock {
            family,
            kind,
            start,
            end: convert::lock_end(end),
            owner: owner.0,
            process,
        };
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let work = async move { vfs.get_lock(caller, inode(node), lock).await };
        self.spawn_plain(request, reply, work, move |reply, found| match found {
            Some(found) => {
                reply.locked(
                    found.start,
                    convert::kernel_lock_end(found.end),
                    convert::lock_type(found.kind),
                    found.process,
                );
            }
            None => reply.locked(start, end, convert::lock_type(LockKind::Unlock), 0),
        });
    }

    fn setlk(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        process: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let _working = self.working(request);
        let kind = valid!(convert::lock_kind(kind), reply);
        let family = family(request, handle, owner);
        let lock = Lock {
            family,
            kind,
            start,
            end: convert::lock_end(end),
            owner: owner.0,
            process,
        };
        if family == LockFamily::Record && kind != LockKind::Unlock {
            self.record_owners.remember(handle.0, owner.0);
        }
        let patience = if sleep { Patience::Lock } else { Patience::Ordinary };
        let ticket = self.requests.enter(reply, request.pid(), patience);
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let call = calls::hand_over(self.vfs.logbook());
        self.runtime.spawn(async move {
            let result = tokio::select! {
                biased;
                result = calls::within(
                    call.as_ref(),
                    vfs.set_lock(caller.clone(), inode(node), lock, sleep),
                ) => result,
                // A signal: giving up the request cancels it.
                () = ticket.refused() => return,
            };
            match (ticket.take(), result) {
                (Some(reply), Ok(())) => reply.ok(),
                (Some(reply), Err(error)) => reply.refuse(errno(error)),
                // The program was told that it has no lock.
                (None, Ok(())) if kind != LockKind::Unlock => {
                    let unlock = Lock {
                        kind: LockKind::Unlock,
                        ..lock
                    };
                    if let Err(error) = vfs.set_lock(caller, inode(node), unlock, false).await {
                        info!(
                            inode = node.0,
                            "a lock that came too late ends with its file: {error}"
                        );
                    }
                }
                (None, _) => {}
            }
            drop(call);
        });
    }

    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn poll(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // The kernel then treats all files as always ready, as for other file systems, and does not ask again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let _working = self.working(request);
        let mode = valid!(convert::allocate_mode(mode), reply);
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        self.spawn_empty(request, reply, async move {
            vfs.allocate(caller, inode(node), offset, length, mode).await
        });
    }

    fn lseek(
        &self,
        request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let target = valid!(convert::seek_target(whence), reply);
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(fuser::Errno::ENXIO);
        };
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let ticket = self.requests.enter(reply, request.pid(), Patience::Ordinary);
        self.runtime.spawn(async move {
            let result = vfs.seek(caller, inode(node), offset, target).await;
            let Some(reply) = ticket.take() else { return };
            match result.map(i64::try_from) {
                Ok(Ok(found)) => reply.offset(found),
                Ok(Err(_)) => reply.error(fuser::Errno::EOVERFLOW),
                // The service has no number for "beyond the end".
                Err(Errno::NoData) => reply.error(fuser::Errno::ENXIO),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        source: INodeNo,
        _source_handle: FileHandle,
        source_offset: u64,
        destination: INodeNo,
        _destination_handle: FileHandle,
        destination_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _working = self.working(request);
        let (vfs, caller) = (self.vfs.clone(), Self::caller(request));
        let length = length.min(convert::COPY_BYTES_MAX);
        let work = async move {
            vfs.copy_range(
                caller,
                inode(source),
                source_offset,
                inode(destination),
                destination_offset,
                length,
            )
            .await
        };
        self.spawn(
            request,
            Patience::Flush,
            reply,
            work,
            |reply, copied| {
                reply.written(u32::try_from(copied).unwrap_or(u32::MAX));
            },
            drop,
        );
    }
}
