//! System calls about the content of files, through the page cache.

use bytes::{Bytes, BytesMut};
use twinshore_filesystem::vfs::{Handle, OpenFlags, Opened};
use twinshore_protocol::attributes::AttributeChanges;
use twinshore_protocol::lock::{Lock, LockFamily, LockKind};
use twinshore_protocol::{Caller, Errno, InodeNumber};

use super::{Kernel, PAGE_BYTES};

/// The kernel reads missing pages in pieces of at most this.
const READ_BYTES: u64 = 128 << 10;

/// What a program reads at a time: more than any file has.
const READ_BUFFER_BYTES: u64 = 1 << 20;

/// An open file.
#[derive(Clone, Copy, Debug)]
pub struct OpenFile {
    /// The inode.
    pub inode: InodeNumber,
    /// The handle.
    pub handle: Handle,
}

impl OpenFile {
    /// Open file descriptions own `flock`s; their number serves as the owner.
    fn lock(&self, kind: LockKind) -> Lock {
        Lock {
            family: LockFamily::Flock,
            kind,
            start: 0,
            end: u64::MAX,
            owner: self.handle.0,
            process: 1,
        }
    }
}

/// Locked pages, until it is dropped.
struct Locked<'a> {
    kernel: &'a Kernel,
    inode: InodeNumber,
    pages: std::ops::Range<u64>,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let mut state = self.kernel.caches.state();
        let node = state.node(self.inode);
        for page in self.pages.clone() {
            node.locked.remove(&page);
        }
        drop(state);
        self.kernel.caches.unlocked.notify_waiters();
    }
}

impl Kernel {
    /// `open` of a name that was looked up before.
    pub async fn open(&self, inode: InodeNumber, flags: OpenFlags) -> Result<OpenFile, Errno> {
        // The kernel checks the permissions.
        self.attributes(inode).await?;
        self.opened(inode);
        let opened = match self.vfs.cached_open(inode, flags) {
            Some(opened) => opened,
            None => self.vfs.open(Caller::ROOT, inode, flags).await,
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(errno) => {
                self.closed(inode);
                return Err(errno);
            }
        };
        self.caches.answer_delay().await;
        self.finish_open(inode, opened).await;
        Ok(OpenFile {
            inode,
            handle: opened.handle,
        })
    }

    /// What the adapter tells its notifier.
    pub(super) fn opened(&self, inode: InodeNumber) {
        *self.caches.state().open.entry(inode).or_insert(0) += 1;
    }

    fn closed(&self, inode: InodeNumber) {
        let mut state = self.caches.state();
        if let Some(count) = state.open.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                state.open.remove(&inode);
            }
        }
    }

    pub(super) async fn finish_open(&self, inode: InodeNumber, opened: Opened) {
        if !opened.keep_cache {
            self.caches.drop_pages(inode).await;
        }
    }

    /// `close` of the only descriptor.
    pub async fn close(&self, file: OpenFile) -> Result<(), Errno> {
        let flushed = match self.vfs.try_flush(file.inode, file.handle, file.handle.0) {
            Some(flushed) => flushed,
            None => {
                self.vfs
                    .flush(Caller::ROOT, file.inode, file.handle, file.handle.0)
                    .await
            }
        };
        self.vfs.release(file.inode, file.handle, Some(file.handle.0));
        self.closed(file.inode);
        flushed
    }

    /// `fsync`.
    pub async fn fsync(&self, file: OpenFile) -> Result<(), Errno> {
        self.vfs.fsync(Caller::ROOT, file.inode, file.handle).await
    }

    /// `flock`. Without `wait`, `EAGAIN` if another holds it.
    pub async fn lock(&self, file: OpenFile, kind: LockKind, wait: bool) -> Result<(), Errno> {
        self.vfs
            .set_lock(Caller::ROOT, file.inode, file.lock(kind), wait)
            .await
    }

    /// `pread`, which goes on until the end of what was asked for or of the file.
    pub async fn read(&self, file: OpenFile, offset: u64, length: u64) -> Result<Bytes, Errno> {
        let end = offset + length;
        if end > self.caches.state().node(file.inode).size {
            self.attributes(file.inode).await?;
        }
        let mut content = BytesMut::new();
        let mut position = offset;
        loop {
            let size = self.caches.state().node(file.inode).size;
            if position >= end.min(size) {
                return Ok(content.freeze());
            }
            let page = position / PAGE_BYTES;
            let bytes = self.page(file, page, end.min(size)).await?;
            // The size is looked at again: reading may have shown that the file is shorter.
            let size = self.caches.state().node(file.inode).size;
            let start = usize::try_from(position - page * PAGE_BYTES).unwrap_or(0);
            let until = end.min(size).min((page + 1) * PAGE_BYTES);
            if until <= position {
                return Ok(content.freeze());
            }
            let stop = usize::try_from(until - page * PAGE_BYTES).unwrap_or(0);
            content.extend_from_slice(&bytes[start..stop]);
            position = until;
        }
    }

    /// Reads as `cat` does: on until a read returns nothing.
    ///
    /// A single one may end too early. It goes to the size that the kernel knows; for that it asks (`fuse_update_attributes`, once
    /// a read, if it goes beyond what is known and that is no longer valid), but an answer that an invalidation has overtaken is
    /// discarded (`fuse_change_attributes` compares versions), and the read goes on with the size before. Nothing that a mount can
    /// answer prevents that. The next read finds the attributes still invalid, and asks again.
    pub async fn read_to_end(&self, file: OpenFile) -> Result<Bytes, Errno> {
        let mut content = BytesMut::new();
        loop {
            let more = self.read(file, content.len() as u64, READ_BUFFER_BYTES).await?;
            if more.is_empty() {
                return Ok(content.freeze());
            }
            content.extend_from_slice(&more);
        }
    }

    /// A page, read with its missing successors if it is not there.
    async fn page(&self, file: OpenFile, page: u64, wanted_end: u64) -> Result<Bytes, Errno> {
        let locked = loop {
            let unlocked = self.caches.unlocked.notified();
            tokio::pin!(unlocked);
            unlocked.as_mut().enable();
            {
                let mut state = self.caches.state();
                let node = state.node(file.inode);
                if !node.locked.contains(&page) {
                    if let Some(bytes) = node.pages.get(&page) {
                        return Ok(bytes.clone());
                    }
                    let last = wanted_end
                        .div_ceil(PAGE_BYTES)
                        .min(page + READ_BYTES / PAGE_BYTES);
                    let missing = |next: &u64| !node.locked.contains(next) && !node.pages.contains_key(next);
                    let until = (page + 1..last).take_while(missing).last().unwrap_or(page) + 1;
                    node.locked.extend(page..until);
                    break Locked {
                        kernel: self,
                        inode: file.inode,
                        pages: page..until,
                    };
                }
            }
            unlocked.await;
        };
        let asked = self.caches.asked();
        let offset = page * PAGE_BYTES;
        let length = u32::try_from((locked.pages.end - page) * PAGE_BYTES).unwrap_or(u32::MAX);
        let bytes = match self.vfs.cached_read(file.inode, file.handle, offset, length) {
            Some(bytes) => bytes,
            None => {
                self.vfs
                    .read(Caller::ROOT, file.inode, file.handle, offset, length)
                    .await?
            }
        };
        self.caches.answer_delay().await;
        let mut state = self.caches.state();
        let end = offset + bytes.len() as u64;
        let short = (bytes.len() as u64) < u64::from(length);
        let node = state.node(file.inode);
        // `fuse_read_update_size`.
        if short && node.version <= asked.version && node.unstable == 0 && end < node.size {
            node.size = end;
        }
        let mut padded = BytesMut::from(&bytes[..]);
        padded.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        let padded = padded.freeze();
        for (number, next) in locked.pages.clone().enumerate() {
            let start = number * PAGE_SIZE;
            node.pages.insert(next, padded.slice(start..start + PAGE_SIZE));
        }
        let first = padded.slice(..PAGE_SIZE);
        drop(state);
        drop(locked);
        Ok(first)
    }

    /// `pwrite`: through the page cache to the mount.
    pub async fn write(&self, file: OpenFile, offset: u64, data: Bytes) -> Result<(), Errno> {
        let end = offset + data.len() as u64;
        let pages = offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES);
        let locked = self.lock_pages(file.inode, pages).await;
        self.caches.state().node(file.inode).unstable += 1;
        self.copy_to_pages(&locked, offset, &data);
        let written = match self
            .vfs
            .try_write(&Caller::ROOT, file.inode, file.handle, offset, &data)
        {
            Some(written) => written,
            None => {
                self.vfs
                    .write(Caller::ROOT, file.inode, file.handle, offset, data)
                    .await
            }
        };
        self.caches.answer_delay().await;
        let mut state = self.caches.state();
        state.outdate(file.inode);
        let node = state.node(file.inode);
        node.unstable -= 1;
        match written {
            Ok(_) => node.size = node.size.max(end),
            Err(_) => {
                for page in locked.pages.clone() {
                    node.pages.remove(&page);
                }
            }
        }
        drop(state);
        drop(locked);
        written.map(|_| ())
    }

    async fn lock_pages(&self, inode: InodeNumber, pages: std::ops::Range<u64>) -> Locked<'_> {
        loop {
            let unlocked = self.caches.unlocked.notified();
            tokio::pin!(unlocked);
            unlocked.as_mut().enable();
            {
                let mut state = self.caches.state();
                let node = state.node(inode);
                if node.locked.range(pages.clone()).next().is_none() {
                    node.locked.extend(pages.clone());
                    return Locked {
                        kernel: self,
                        inode,
                        pages,
                    };
                }
            }
            unlocked.await;
        }
    }

    /// A page that is written only in part and is not there is not cached.
    fn copy_to_pages(&self, locked: &Locked<'_>, offset: u64, data: &Bytes) {
        let mut state = self.caches.state();
        let node = state.node(locked.inode);
        let end = offset + data.len() as u64;
        for page in locked.pages.clone() {
            let (first, last) = (page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
            let (from, to) = (first.max(offset), last.min(end));
            let piece = data.slice(index(from - offset)..index(to - offset));
            if from == first && to == last {
                node.pages.insert(page, piece);
            } else if let Some(bytes) = node.pages.get(&page) {
                let mut changed = BytesMut::from(&bytes[..]);
                changed[index(from - first)..index(to - first)].copy_from_slice(&piece);
                node.pages.insert(page, changed.freeze());
            }
        }
    }

    /// `ftruncate`.
    pub async fn truncate(&self, file: OpenFile, size: u64) -> Result<(), Errno> {
        let asked = self.caches.asked();
        self.caches.state().node(file.inode).unstable += 1;
        let changes = AttributeChanges {
            size_bytes: Some(size),
            ..AttributeChanges::default()
        };
        let outcome = self.vfs.set_attributes(Caller::ROOT, file.inode, changes).await;
        self.caches.answer_delay().await;
        self.caches.state().node(file.inode).unstable -= 1;
        let attributed = outcome?;
        {
            let mut state = self.caches.state();
            state.outdate(file.inode);
            state.node(file.inode).size = attributed.attributes.size_bytes;
        }
        self.learn_attributed(
            &attributed,
            super::Asked {
                version: u64::MAX,
                ..asked
            },
        );
        self.caches.drop_pages(file.inode).await;
        Ok(())
    }
}

#[allow(clippy::cast_possible_truncation)] // 4096.
const PAGE_SIZE: usize = PAGE_BYTES as usize;

/// A length in memory.
fn index(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
