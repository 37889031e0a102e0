//! Listing directories.
//!
//! A handle buffers a page, because the kernel takes it in small portions. Names come from the page: POSIX allows a
//! listing to miss what changes while it goes on. Attributes do not: they are looked up in the caches when a portion is
//! answered, and left out if they are not leased.
//!
//! # Pages ahead
//!
//! A cookie is a hash, so the entries of a directory are spread evenly over all cookies, and the first page tells how many
//! cookies a page of good size spans. So the pages behind it need not be asked for one after the other: [`PAGES_AHEAD`] ranges of cookies
//! are under way at a time, while the kernel takes what has come. A range that holds more than fits into a page is gone on with before the
//! next. Where the kernel jumps (`seekdir`), what is under way is forgotten, and it begins anew there.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use twinshore_protocol::reply::DirectoryEntry;
use twinshore_protocol::session::RequestError;
use twinshore_protocol::{Caller, Errno, InodeNumber, Operation, Reply};

use super::Vfs;
use super::core::{Core, HandleState, unexpected};
use super::entries::{Listing, Reached, Row};
use super::inode::lock;
use super::interface::{DirectoryPage, Handle, ListedEntry};

/// Entries of the first page: most directories fit, and it shows how densely those of a larger one lie.
const FIRST_PAGE: u32 = 1024;

/// Entries of a later page, about: what costs the service some milliseconds.
const LATER_PAGE: u64 = 2048;

/// Entries of a page at most, should they lie closer than they did: the service's own limit is the same.
const LARGEST_PAGE: u32 = 4096;

/// Pages that are under way at the same time. With a far service a directory of 10,000 entries takes two round trips. What arrives and is not
/// taken is at most a few megabytes for a handle.
const PAGES_AHEAD: usize = 4;

/// Cookies below this are those of `.` and `..`, which the adapter adds.
const FIRST_COOKIE: u64 = 3;

/// No cookie is larger.
const LAST_COOKIE: u64 = (1 << 63) - 1;

/// A page that was asked for.
struct Ahead {
    after: u64,
    until: Option<u64>,
    reply: Pin<Box<dyn Future<Output = Result<Reply, RequestError>> + Send>>,
}

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={:?}", self.after, self.until)
    }
}

/// The page of a handle, and those that follow it.
#[derive(Debug, Default)]
pub struct ListingBuffer {
    rows: Listing,
    /// The cookie that the page begins after, and how far it goes; `None` before the first page.
    range: Option<(u64, Reached)>,
    /// `..`, as the kernel knows it.
    parent: Option<InodeNumber>,
    /// How many cookies a later page spans.
    stride: u64,
    /// In their order, each behind the one before, the first behind the page.
    ahead: VecDeque<Ahead>,
}

impl ListingBuffer {
    /// The rows after a cookie, if this page has them.
    fn after(&self, after: u64) -> Option<&[Row]> {
        let (from, reached) = self.range?;
        if after < from {
            return None;
        }
        let start = self.rows.partition_point(|row| row.3 <= after);
        (start < self.rows.len() || reached == Reached::End).then(|| &self.rows[start..])
    }

    /// Where the next page begins for a kernel that has taken everything up to `after`.
    fn next_after(&self, after: u64) -> u64 {
        match self.range {
            Some((from, Reached::Cookie(reached))) if from <= after && after <= reached => reached,
            _ => after,
        }
    }

    /// The page behind a cookie, if it was asked for. What was asked for and does not follow is of no use.
    fn take_ahead(&mut self, after: u64) -> Option<Ahead> {
        if self.ahead.front().is_some_and(|ahead| ahead.after == after) {
            return self.ahead.pop_front();
        }
        self.ahead.clear();
        None
    }

    /// Up to where the page that begins after a cookie is to go. Called where the stride is known.
    fn end_of(&self, after: u64) -> Option<u64> {
        let until = after.saturating_add(self.stride);
        (until < LAST_COOKIE).then_some(until)
    }
}

/// How many cookies [`LATER_PAGE`] entries span where so many span `cookies`.
fn stride(entries: usize, cookies: u64) -> u64 {
    (cookies / (entries as u64).max(1))
        .saturating_mul(LATER_PAGE)
        .max(1)
}

impl Vfs {
    /// Opens a directory. The service need not know: a listing that goes on in a removed directory ends.
    pub fn open_directory(&self, inode: InodeNumber) -> Handle {
        if let Some(handle) = self.core.adopted() {
            return handle;
        }
        let listing = Arc::new(Mutex::new(ListingBuffer::default()));
        self.core
            .add_handle(self.core.caches.real(inode), HandleState::Directory(listing))
    }

    /// Gives the handle of a directory back. Answers whether there was one.
    pub fn release_directory(&self, handle: Handle) -> bool {
        self.core.forget_handle(handle);
        self.core.take_handle(handle).is_some()
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
        let ask = |after, until, limit| {
            let operation = Operation::ReadDirectory {
                directory,
                after,
                limit,
                with_attributes,
                until,
            };
            Ahead {
                after,
                until,
                reply: Box::pin(self.core.session.request(caller.clone(), operation)),
            }
        };
        loop {
            let asked = {
                let mut buffer = lock(&buffer);
                let from = buffer.next_after(if after < FIRST_COOKIE { 0 } else { after });
                buffer
                    .take_ahead(from)
                    .unwrap_or_else(|| ask(from, None, FIRST_PAGE))
            };
            let reply = asked.reply.await.map_err(|error| error.errno())?;
            let Reply::Directory {
                entries,
                complete,
                parent,
            } = reply
            else {
                return Err(unexpected(&reply));
            };
            let reached = Reached::of(&entries, complete, asked.until);
            let mut buffer = lock(&buffer);
            if let Reached::Cookie(cookie) = reached {
                if cookie <= asked.after {
                    tracing::error!(%directory, "an incomplete page without entries: check the version of the metadata service");
                    return Err(Errno::InputOutput);
                }
                if asked.until.is_some() && !complete {
                    // Closer together than expected: the rest of its range comes before the next.
                    buffer.ahead.push_front(ask(cookie, asked.until, LARGEST_PAGE));
                } else if asked.until.is_none() {
                    buffer.stride = stride(entries.len(), cookie - asked.after);
                } else if (entries.len() as u64) < LATER_PAGE / 4 {
                    // Further apart than expected: never many pages with little in them.
                    buffer.stride = buffer.stride.saturating_mul(4);
                }
                let mut end = match buffer.ahead.back() {
                    Some(last) => last.until,
                    None => Some(cookie),
                };
                while let Some(begin) = end
                    && buffer.ahead.len() < PAGES_AHEAD
                {
                    end = buffer.end_of(begin);
                    buffer.ahead.push_back(ask(begin, end, LARGEST_PAGE));
                }
            }
            buffer.rows = Arc::new(rows(entries));
            // What lies between was taken, or does not exist.
            buffer.range = Some((asked.after.min(after), reached));
            buffer.parent = Some(self.core.kernel_parent(inode, parent));
            if let Some(page) = self.core.portion(&buffer, after, limit, with_attributes) {
                return Ok(page);
            }
            // Nothing lies in this part of the directory.
        }
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
            range: Some((0, Reached::End)),
            parent: Some(self.kernel_parent(kernel, parent)),
            ..ListingBuffer::default()
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
            complete: matches!(buffer.range, Some((_, Reached::End))) && count == rows.len(),
            parent: buffer.parent?,
        })
    }
}
