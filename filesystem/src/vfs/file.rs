//! Opening, writing, flushing and closing files.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use twinshore_protocol::format::Durability;
use twinshore_protocol::lock::{Lock, LockFamily, LockKind};
use twinshore_protocol::operation::NewInode;
use twinshore_protocol::{Attributes, Caller, Errno, FileName, InodeNumber, Operation, Reply};

use super::Vfs;
use super::core::{Core, HandleState, unexpected};
use super::dirty::OPEN_RANGES_MAX;
use super::early::Made;
use super::inode::{Inode, InodeState, Privacy, lock};
use super::interface::{Attributed, Handle, OpenFlags, Opened};
use super::write_out::Urgency;

/// The largest offset of a file: `off_t` is signed.
const FILE_SIZE_MAX: u64 = i64::MAX as u64;

/// So much more than is unwritten may be recorded of a file for a successor: what was overwritten is recorded until it is stored.
const RECORDED_SLACK_BYTES: u64 = 16 << 20;

/// What a flush may take beyond the write limit of one upload: waiting for its turn, and the commit.
const FLUSH_GRACE: Duration = Duration::from_mins(1);

impl Vfs {
    /// Finds or makes a regular file and opens it. `exclusive` is `O_EXCL`.
    #[allow(clippy::too_many_arguments)] // They are the system call's.
    pub async fn create(
        &self,
        caller: Caller,
        parent: InodeNumber,
        name: FileName,
        mode: u16,
        umask: u16,
        exclusive: bool,
        flags: OpenFlags,
    ) -> Result<(Attributed, Opened), Errno> {
        let core = &self.core;
        core.check_writable()?;
        if let Some(created) = self.try_create(&caller, parent, &name, mode, umask, flags) {
            return Ok(created);
        }
        let _changing = core.changing_names();
        let number = core.session.take_inode().await.map_err(|error| error.errno())?;
        let new = NewInode {
            inode: number,
            mode,
            umask,
        };
        let parent = core.caches.real(parent);
        let operation = Operation::Create {
            parent,
            name,
            new,
            exclusive,
            truncate: flags.truncate,
        };
        match core.ask(caller, operation).await? {
            Reply::Created { attributes, .. } => {
                let inode = core.caches.inodes.get(attributes.inode);
                let mut state = inode.state();
                if flags.truncate {
                    core.forget_unwritten(&inode, &mut state);
                }
                state.opens_sent += u32::from(!core.is_adopted());
                let opened = core.opened(&inode, &mut state, &attributes, flags);
                let attributed = core.attributed(&state, &attributes);
                Ok((attributed, opened))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a regular file and opens it, if that can be answered at once: in a directory that is delegated, where the name is known to be
    /// absent.
    pub fn try_create(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &FileName,
        mode: u16,
        umask: u16,
        flags: OpenFlags,
    ) -> Option<(Attributed, Opened)> {
        let core = &self.core;
        let parent = core.caches.real(parent);
        let (inode, told) = core.make_early(caller, parent, name, (mode, umask), &Made::File)?;
        let mut state = inode.state();
        state.opens_sent += 1;
        let opened = core.opened(&inode, &mut state, &told, flags);
        let attributed = core.attributed(&state, &told);
        Some((attributed, opened))
    }

    /// Opens a file whose attributes are leased: the service is told, but not waited for.
    pub fn cached_open(&self, inode: InodeNumber, flags: OpenFlags) -> Option<Result<Opened, Errno>> {
        let core = &self.core;
        if (flags.write || flags.truncate) && core.options.read_only {
            return Some(Err(Errno::ReadOnly));
        }
        if flags.truncate || !core.session.lease_is_valid() || core.is_inherited() || core.is_adopted() {
            return None;
        }
        let inode = core.inode(inode);
        let mut state = inode.state();
        let attributes = state.attributes?;
        if state.stale {
            return None;
        }
        if state.opens_sent == 0 {
            core.send_open(&mut state, &inode);
        }
        Some(Ok(core.opened(&inode, &mut state, &attributes, flags)))
    }

    /// Opens a file.
    pub async fn open(&self, caller: Caller, inode: InodeNumber, flags: OpenFlags) -> Result<Opened, Errno> {
        if let Some(handle) = self.core.adopted() {
            return Ok(Opened {
                handle,
                keep_cache: false,
            });
        }
        if let Some(answer) = self.cached_open(inode, flags) {
            return answer;
        }
        let core = &self.core;
        let inode = core.inode(inode);
        // Nothing that was written before may be committed after the content is gone.
        let _turn = if flags.truncate {
            Some(inode.turn.lock().await)
        } else {
            None
        };
        if flags.truncate && !core.is_inherited() {
            core.forget_unwritten(&inode, &mut inode.state());
        }
        match core
            .ask(
                caller,
                Operation::Open {
                    inode: inode.number,
                    truncate: flags.truncate,
                },
            )
            .await?
        {
            Reply::Attributes(attributes) => {
                let mut state = inode.state();
                state.stale = false;
                state.opens_sent += u32::from(!core.is_adopted());
                Ok(core.opened(&inode, &mut state, &attributes, flags))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Writes, if there is room in the buffer and nothing to wait for: copies `data` once.
    pub fn try_write(
        &self,
        caller: &Caller,
        inode: InodeNumber,
        handle: Handle,
        offset: u64,
        data: &[u8],
    ) -> Option<Result<u32, Errno>> {
        let _ = inode;
        let core = &self.core;
        let (inode, flags) = match core.file(handle) {
            Ok(file) => file,
            Err(errno) => return Some(Err(errno)),
        };
        if flags.direct || flags.synchronous {
            return None;
        }
        if core.was_taken() {
            return Some(Ok(length_of(data)));
        }
        let mut offset = offset;
        if flags.append {
            offset = core.append_offset(&inode, offset)?;
        }
        match core.buffer(caller, &inode, offset, data) {
            Ok(true) => Some(Ok(length_of(data))),
            Ok(false) => None,
            Err(errno) => Some(Err(errno)),
        }
    }

    /// Writes into the buffer; waits for room in it. With `O_APPEND` the offset is the end of the file as the service
    /// knows it. With `O_DIRECT` or `O_SYNC` the bytes are stored before this returns.
    pub async fn write(
        &self,
        caller: Caller,
        inode: InodeNumber,
        handle: Handle,
        offset: u64,
        data: Bytes,
    ) -> Result<u32, Errno> {
        let _ = inode;
        let core = &self.core;
        let (inode, flags) = core.file(handle)?;
        let deadline = Instant::now() + core.options.write_limit;
        while !core.was_taken() {
            let mut at = offset;
            if flags.append {
                at = match core.append_offset(&inode, offset) {
                    Some(at) => at,
                    None => core.append_offset_asked(&caller, &inode, offset).await?,
                };
            }
            if core.buffer(&caller, &inode, at, &data)? {
                break;
            }
            // Memory is freed as data is stored. If that does not happen, the buckets are out of reach.
            core.writer.notify_one();
            let room = async {
                core.caches.budget.wait_for_room(data.len() as u64).await;
                if let Some(logbook) = core.logbook() {
                    logbook.wait_for_room(data.len() as u64).await;
                }
            };
            if tokio::time::timeout_at(deadline, room).await.is_err() {
                return Err(Errno::InputOutput);
            }
        }
        if flags.direct || flags.synchronous {
            core.flush_inode(&inode).await?;
        }
        Ok(length_of(&data))
    }

    /// `close` of one descriptor, done at once: nothing is unwritten, nothing to tell, no lock to give back.
    pub fn try_flush(
        &self,
        inode: InodeNumber,
        handle: Handle,
        lock_owner: u64,
    ) -> Option<Result<(), Errno>> {
        let _ = inode;
        let core = &self.core;
        let Some(HandleState::File(inode, _)) = core.handle(handle) else {
            return Some(Err(Errno::BadHandle));
        };
        if lock(&core.caches.locks).holds(inode.number, LockFamily::Record, lock_owner) {
            return None;
        }
        let mut state = inode.state();
        if !state.is_written() || state.early > 0 {
            return None;
        }
        Some(core.told(&inode, &mut state))
    }

    /// `close` of one descriptor: with durability `close` returns when everything written to the inode is stored. Gives back
    /// the record locks of the owner.
    pub async fn flush(
        &self,
        caller: Caller,
        inode: InodeNumber,
        handle: Handle,
        lock_owner: u64,
    ) -> Result<(), Errno> {
        let _ = inode;
        let core = &self.core;
        let Some(HandleState::File(inode, _)) = core.handle(handle) else {
            return Err(Errno::BadHandle);
        };
        let locked = lock(&core.caches.locks).holds(inode.number, LockFamily::Record, lock_owner);
        // Whoever gets the lock next must see what was written under it. A file that others know must be stored when `close`
        // returns, as they will not ask.
        let may_wait = !locked
            && inode.state().privacy == Privacy::Private
            && core.session.format().settings.durability == Durability::Fsync;
        let flushed = if may_wait {
            if !inode.state().is_written() {
                core.write_out_in_background(&inode);
            }
            core.take_error(&inode)
        } else {
            core.flush_inode(&inode).await
        };
        if locked {
            core.unlock_all(caller, &inode, LockFamily::Record, lock_owner)
                .await?;
        }
        flushed
    }

    /// `fsync`, done at once: nothing is unwritten. (Of several programs that sync one file, the first stores what all have written.)
    pub fn try_fsync(&self, inode: InodeNumber, handle: Handle) -> Option<Result<(), Errno>> {
        let _ = inode;
        let (inode, _) = match self.core.file(handle) {
            Ok(file) => file,
            Err(errno) => return Some(Err(errno)),
        };
        let mut state = inode.state();
        if !state.is_written() || state.early > 0 {
            return None;
        }
        Some(self.core.told(&inode, &mut state))
    }

    /// `fsync`: returns when everything written to the inode is durable.
    pub async fn fsync(&self, caller: Caller, inode: InodeNumber, handle: Handle) -> Result<(), Errno> {
        let _ = (caller, inode);
        let (inode, _) = self.core.file(handle)?;
        self.core.flush_inode(&inode).await
    }

    /// `fsync` of a directory: returns when every change of it that was answered is durable.
    pub async fn fsync_directory(&self, caller: Caller, inode: InodeNumber) -> Result<(), Errno> {
        let _ = caller;
        match self.core.caches.inodes.find(self.core.caches.real(inode)) {
            Some(inode) => self.core.flush_inode(&inode).await,
            None => Ok(()),
        }
    }

    /// Gives a handle back. Never waits: what remains to be done goes on in the background. `flock_owner` is the owner whose
    /// `flock` ends with this. Answers whether there was such a handle.
    pub fn release(&self, inode: InodeNumber, handle: Handle, flock_owner: Option<u64>) -> bool {
        self.release_then(inode, handle, flock_owner, || {})
    }

    /// The same; `given_back` runs when no lock is left that ends with the handle. Whoever is asked for that again by the kernel, in another
    /// process, must still find the handle.
    pub fn release_then(
        &self,
        inode: InodeNumber,
        handle: Handle,
        flock_owner: Option<u64>,
        given_back: impl FnOnce() + Send + 'static,
    ) -> bool {
        let _ = inode;
        let core = &self.core;
        let Some(HandleState::File(inode, _)) = core.take_handle(handle) else {
            given_back();
            return false;
        };
        let unlock = flock_owner
            .filter(|owner| lock(&core.caches.locks).holds(inode.number, LockFamily::Flock, *owner));
        let unwritten = {
            let mut state = inode.state();
            state.handles = state.handles.saturating_sub(1);
            !state.is_written()
        };
        let Some(owner) = unlock else {
            if unwritten {
                core.release_when_written(inode);
            } else {
                core.send_releases(&inode);
            }
            core.forget_handle(handle);
            given_back();
            return true;
        };
        let core = Arc::clone(core);
        core.runtime.clone().spawn(async move {
            core.write_out(&inode, Urgency::Flush).await;
            if let Err(errno) = core.unlock_all(Caller::ROOT, &inode, LockFamily::Flock, owner).await {
                tracing::warn!(inode = %inode.number, %errno, "a lock could not be given back; it ends with the session");
            }
            core.send_releases(&inode);
            core.forget_handle(handle);
            given_back();
        });
        true
    }
}

impl Core {
    fn opened(
        &self,
        inode: &Arc<Inode>,
        state: &mut InodeState,
        attributes: &Attributes,
        flags: OpenFlags,
    ) -> Opened {
        if let Some(handle) = self.adopted() {
            return Opened {
                handle,
                keep_cache: false,
            };
        }
        state.handles += 1;
        let version = state.attributes.as_ref().unwrap_or(attributes).content_version;
        let keep_cache = state.pages_version == Some(version);
        state.pages_version = state.attributes.map(|attributes| attributes.content_version);
        let handle = self.add_handle(inode.number, HandleState::File(Arc::clone(inode), flags));
        Opened { handle, keep_cache }
    }

    /// Tells the service that nothing is open here any more, when what was written is stored: memory maps are written after the last `flush`.
    pub fn release_when_written(self: &Arc<Self>, inode: Arc<Inode>) {
        let core = Arc::clone(self);
        self.runtime.spawn(async move {
            core.write_out(&inode, Urgency::Flush).await;
            core.send_releases(&inode);
        });
    }

    /// Tells the service that nothing is open here any more.
    pub fn send_releases(&self, inode: &Inode) {
        let mut state = inode.state();
        if state.handles > 0 {
            return;
        }
        // The service forgets it with the release.
        state.privacy = Privacy::Shared;
        for _ in 0..std::mem::take(&mut state.opens_sent) {
            drop(
                self.session
                    .request(Caller::ROOT, Operation::Release { inode: inode.number }),
            );
        }
    }

    /// The content is gone: what was to be written to it, too.
    fn forget_unwritten(&self, inode: &Inode, state: &mut InodeState) {
        let before = state.dirty.bytes();
        state.dirty.clear();
        if let Some(logbook) = self.logbook() {
            logbook.nothing_written(inode.number);
        }
        self.caches.budget.adjust(before, 0);
    }

    /// Copies into the buffer. `false` if there is no room.
    fn buffer(
        self: &Arc<Self>,
        caller: &Caller,
        inode: &Arc<Inode>,
        offset: u64,
        data: &[u8],
    ) -> Result<bool, Errno> {
        self.check_writable()?;
        if offset
            .checked_add(data.len() as u64)
            .is_none_or(|end| end > FILE_SIZE_MAX)
        {
            return Err(Errno::FileTooBig);
        }
        let length = data.len() as u64;
        let mut state = inode.state();
        self.told(inode, &mut state)?;
        if state.stale {
            return Err(Errno::Stale);
        }
        if !self.caches.budget.try_take(length) {
            return Ok(false);
        }
        let before = state.dirty.bytes();
        let was_empty = state.is_written();
        let time = (self.options.clock)();
        let clears = caller.user != 0;
        let mut too_much_is_recorded = false;
        if let Some(logbook) = self.logbook() {
            let sealed = state.dirty.last_sealed;
            let Some((number, recorded)) = logbook.write(inode.number, offset, data, (time, clears), sealed)
            else {
                drop(state);
                self.caches.budget.adjust(length, 0);
                return Ok(false);
            };
            state.dirty.last_write = number;
            too_much_is_recorded = recorded > state.dirty.bytes() * 2 + RECORDED_SLACK_BYTES;
        }
        let sealed = state
            .dirty
            .write(offset, data, self.options.object_size_bytes, Instant::now(), time);
        if state.deferred.is_some() {
            state.wrote_after_deferred();
            self.record_deferred(inode, state.deferred.as_ref());
        }
        state.dirty.clear_privileges |= clears;
        let after = state.dirty.bytes();
        let scattered = state.dirty.open_ranges() > OPEN_RANGES_MAX || too_much_is_recorded;
        drop(state);
        // Taken before for the most that it could be: an overwrite takes nothing.
        self.caches.budget.adjust(before + length, after);
        if was_empty {
            self.mark_dirty(inode);
        }
        if sealed {
            self.upload_sealed(inode);
        }
        if scattered {
            self.write_out_in_background(inode);
        }
        Ok(true)
    }

    /// Where an append goes, if the size is leased.
    fn append_offset(&self, inode: &Inode, believed: u64) -> Option<u64> {
        if !self.session.lease_is_valid() {
            return None;
        }
        let size = inode.state().seen_attributes()?.size_bytes;
        self.append_at(inode, size, believed);
        Some(size)
    }

    async fn append_offset_asked(&self, caller: &Caller, inode: &Inode, believed: u64) -> Result<u64, Errno> {
        match self
            .ask(caller.clone(), Operation::GetAttributes { inode: inode.number })
            .await?
        {
            Reply::Attributes(attributes) => {
                let size = inode.state().seen(&attributes).size_bytes;
                self.append_at(inode, size, believed);
                Ok(size)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The kernel keeps the bytes in its pages where it believed the end to be.
    fn append_at(&self, inode: &Inode, size: u64, believed: u64) {
        if size != believed {
            self.caches.drop_kernel_pages(inode.number);
        }
    }

    /// Acknowledges an invalidation; first stores what was written to files that were private until then. What cannot be stored
    /// is given up in time, and its files tell of it.
    pub fn acknowledge_when_stored(self: &Arc<Self>, number: u64, recalled: Vec<Arc<Inode>>) {
        if recalled.is_empty() {
            self.session.acknowledge(number);
            return;
        }
        let core = Arc::clone(self);
        self.runtime.spawn(async move {
            for inode in recalled {
                core.write_out(&inode, Urgency::Flush).await;
                inode.state().privacy = Privacy::Shared;
            }
            core.session.acknowledge(number);
        });
    }

    /// Stores everything that was written to the inode, waits for what was answered for it, and tells what went wrong with it.
    pub async fn flush_inode(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<(), Errno> {
        let limit = self.options.write_limit + FLUSH_GRACE;
        let stored = async {
            self.write_out(inode, Urgency::Flush).await;
            self.executed(inode).await;
        };
        if timeout(limit, stored).await.is_err() {
            return Err(Errno::InputOutput);
        }
        self.take_error(inode)
    }

    /// What went wrong, once.
    pub fn take_error(&self, inode: &Inode) -> Result<(), Errno> {
        self.told(inode, &mut inode.state())
    }

    /// The same, under the lock of the inode.
    fn told(&self, inode: &Inode, state: &mut InodeState) -> Result<(), Errno> {
        let Some(errno) = state.error.take() else {
            return Ok(());
        };
        self.caches.record_failure(inode.number, None);
        Err(errno)
    }

    async fn unlock_all(
        &self,
        caller: Caller,
        inode: &Inode,
        family: LockFamily,
        owner: u64,
    ) -> Result<(), Errno> {
        let lock = Lock {
            family,
            kind: LockKind::Unlock,
            start: 0,
            end: u64::MAX,
            owner,
            process: 0,
        };
        match self
            .ask(
                caller,
                Operation::SetLock {
                    inode: inode.number,
                    lock,
                    wait: false,
                },
            )
            .await?
        {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

/// FUSE writes are far below 4 GiB.
fn length_of(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}
