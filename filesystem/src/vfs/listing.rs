//! Listing directories.
//!
//! A handle buffers a page, because the kernel takes it in small portions. Names come from the page: POSIX allows a
//! listing to miss what changes while it goes on. Attributes do not: they are looked up in the caches when a portion is
//! answered, and left out if they are not leased.

use std::sync::{Arc, Mutex};

use twinshore_protocol::reply::DirectoryEntry;
use twinshore_protocol::{Caller, Errno, InodeNumber, Operation, Reply};

use super::Vfs;
use super::core::{Core, HandleState};
use super::entries::{Listing, Row};
use super::inode::lock;
use super::interface::{DirectoryPage, Handle, ListedEntry};

/// Entries of the first page: most directories fit.
const FIRST_PAGE: u32 = 512;

/// Entries of the largest page: with names and attributes it stays below the limit of a message, and a directory of
/// 10,000 entries takes four round trips.
const LARGEST_PAGE: u32 = 8192;

/// Cookies below this are those of `.` and `..`, which the adapter adds.
const FIRST_COOKIE: u64 = 3;

/// The page of a handle.
#[derive(Debug, Default)]
pub struct ListingBuffer {
    rows: Listing,
    /// The cookie that the page begins after; `None` before the first page.
    from: Option<u64>,
    complete: bool,
    page: u32,
    /// `..`, as the kernel knows it.
    parent: Option<InodeNumber>,
}

impl ListingBuffer {
    /// The rows after a cookie, if this page has them.
    fn after(&self, after: u64) -> Option<&[Row]> {
        let from = self.from?;
        if after < from {
            return None;
        }
        let start = self.rows.partition_point(|row| row.3 <= after);
        (start < self.rows.len() || self.complete).then(|| &self.rows[start..])
    }
}

impl Vfs {
    /// Opens a directory. The service need not know: a listing that goes on in a removed directory ends.
    pub fn open_directory(&self, inode: InodeNumber) -> Handle {
        let _ = inode;
        self.core.add_handle(HandleState::Directory(Arc::new(Mutex::new(
            ListingBuffer::default(),
        ))))
    }

    /// Gives the handle of a directory back.
    pub fn release_directory(&self, handle: Handle) {
        self.core.take_handle(handle);
    }

    /// Entries after the cookie `after`, if they are in memory.
    pub fn cached_list(
        &self,
        inode: InodeNumber,
        handle: Handle,
        after: u64,
        limit: usize,
        with_attributes: bool,
    ) -> Option<DirectoryPage> {
        let buffer = self.core.directory(handle).ok()?;
        let mut buffer = lock(&buffer);
        if after == 0 {
            // A listing begins, or begins anew: it shows what is there now.
            *buffer = ListingBuffer::default();
            self.core
                .use_leased_listing(inode, &mut buffer, limit, with_attributes);
        }
        self.core.portion(&buffer, after, limit, with_attributes)
    }

    /// Entries after the cookie `after`: 0 for the first, or that of the last entry taken. 1 and 2, the cookies of `.` and
    /// `..`, which are not returned, stand for the first too.
    pub async fn list(
        &self,
        caller: Caller,
        inode: InodeNumber,
        handle: Handle,
        after: u64,
        limit: usize,
        with_attributes: bool,
    ) -> Result<DirectoryPage, Errno> {
        if let Some(page) = self.cached_list(inode, handle, after, limit, with_attributes) {
            return Ok(page);
        }
        let buffer = self.core.directory(handle)?;
        let directory = self.core.caches.real(inode);
        let from = if after < FIRST_COOKIE { 0 } else { after };
        let page = lock(&buffer)
            .page
            .saturating_mul(4)
            .clamp(FIRST_PAGE, LARGEST_PAGE);
        let operation = Operation::ReadDirectory {
            directory,
            after: from,
            limit: page,
            with_attributes,
        };
        let Reply::Directory {
            entries,
            complete,
            parent,
        } = self.core.ask(caller, operation).await?
        else {
            return Err(Errno::InputOutput);
        };
        let mut buffer = lock(&buffer);
        *buffer = ListingBuffer {
            rows: Arc::new(rows(entries)),
            from: Some(from),
            complete,
            page,
            parent: Some(self.core.kernel_parent(inode, parent)),
        };
        self.core.portion(&buffer, after, limit, with_attributes).ok_or_else(|| {
            tracing::error!(%directory, "an incomplete page without entries: check the version of the metadata service");
            Errno::InputOutput
        })
    }
}

fn rows(entries: Vec<DirectoryEntry>) -> Vec<Row> {
    entries
        .into_iter()
        .map(|entry| (entry.name, entry.inode, entry.kind, entry.cookie))
        .collect()
}

impl Core {
    fn directory(&self, handle: Handle) -> Result<Arc<Mutex<ListingBuffer>>, Errno> {
        match self.handle(handle) {
            Some(HandleState::Directory(buffer)) => Ok(buffer),
            Some(HandleState::File(..)) => Err(Errno::NotDirectory),
            None => Err(Errno::BadHandle),
        }
    }

    fn use_leased_listing(
        &self,
        kernel: InodeNumber,
        buffer: &mut ListingBuffer,
        limit: usize,
        with_attributes: bool,
    ) {
        if !self.session.lease_is_valid() {
            return;
        }
        let directory = self.caches.real(kernel);
        let Some(rows) = lock(&self.caches.entries).listing(directory) else {
            return;
        };
        let parent = self
            .caches
            .inodes
            .find(directory)
            .and_then(|inode| inode.state().parent());
        if parent.is_none() && kernel != InodeNumber::ROOT {
            return;
        }
        // One message for all attributes is better than a look-up for each.
        let known = |row: &Row| {
            let inode = self.caches.inodes.find(row.1);
            inode.is_some_and(|inode| inode.state().attributes.is_some())
        };
        if with_attributes && !rows.iter().take(limit).all(known) {
            return;
        }
        *buffer = ListingBuffer {
            rows,
            from: Some(0),
            complete: true,
            page: 0,
            parent: Some(self.kernel_parent(kernel, parent)),
        };
    }

    /// `..` of a directory that the kernel knows by this number. What is above the mount it does not know.
    fn kernel_parent(&self, kernel: InodeNumber, parent: Option<InodeNumber>) -> InodeNumber {
        if kernel == InodeNumber::ROOT {
            return kernel;
        }
        parent
            .and_then(|parent| self.caches.kernel_number(parent))
            .unwrap_or(kernel)
    }

    fn portion(
        &self,
        buffer: &ListingBuffer,
        after: u64,
        limit: usize,
        with_attributes: bool,
    ) -> Option<DirectoryPage> {
        let rows = buffer.after(if after < FIRST_COOKIE { 0 } else { after })?;
        let mut count = rows.len().min(limit.max(1));
        // Neighbours with one cookie stay together.
        while count > 0 && count < rows.len() && rows[count].3 == rows[count - 1].3 {
            count += 1;
        }
        let entries = rows[..count]
            .iter()
            .map(|(name, number, kind, cookie)| ListedEntry {
                name: name.clone(),
                inode: self.caches.kernel_number(*number).unwrap_or(*number),
                kind: *kind,
                cookie: *cookie,
                attributes: with_attributes
                    .then(|| {
                        self.caches
                            .inodes
                            .find(*number)
                            .and_then(|inode| self.leased_attributes(&inode))
                    })
                    .flatten(),
            })
            .collect();
        Some(DirectoryPage {
            entries,
            complete: buffer.complete && count == rows.len(),
            parent: buffer.parent?,
        })
    }
}
