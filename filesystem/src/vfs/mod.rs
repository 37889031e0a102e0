//! The file system without FUSE: asynchronous, deterministic under a seeded runtime, driven by the adapter and by the
//! simulation.
//!
//! Every operation is a method of [`Vfs`]. Those named `cached_...` and `try_...` answer at once or not at all, and may be
//! called from any thread; the others must be polled inside the runtime in which [`Vfs::connect`] was called.
//!
//! # Guarantees
//!
//! * What a program has written it reads back, whatever is under way. Another mount reads it after `close` or `fsync`.
//! * `close` (with durability `close`) and `fsync` succeed only if everything written before them is stored in a bucket or in the
//!   metadata, and committed. What could not be stored is told once: by the next `write`, `fsync` or `close`.
//! * What was answered before the service executed it is executed when `fsync` or `close` of what it concerns succeeds.
//! * Nothing cached is used without a lease. A recall is acknowledged when these caches and the kernel's are empty of it.
//! * A block that neither bucket has is `EIO`: never zeros, never other bytes.
//! * Every call ends: reads, uploads, requests and the wait for memory have deadlines. Only a lock may wait for ever, and
//!   can be cancelled.
//!
//! # Parts
//!
//! Pure: [`dirty`], [`deferred`], [`delegations`], [`extents`], [`entries`], [`held_locks`], [`streams`], [`lru`]. Under leases: [`inode`], [`inodes`],
//! [`caches`]. Data: [`write_out`], [`packer`], [`writer`], [`read`], [`fetch`], [`repair`]. Operations: [`namespace`],
//! [`attributes`], [`file`], [`read`], [`ranges`], [`listing`], [`locks`]; [`early`] answers some of them without the service.
//! [`takeover`] goes on where another process ended.
//!
//! Lock order: the delegations, then the page of a directory's handle, then an inode's state, then any one of: handles, names, locks, budget, dirty
//! set, session. The table of inodes looks into the state of an inode only if nobody else has it. None is held across an
//! `await` or a call to the kernel.

mod attributes;
mod budget;
mod caches;
mod core;
mod deferred;
mod delegations;
mod dirty;
mod early;
mod entries;
mod extents;
mod fetch;
mod file;
mod held_locks;
mod inode;
mod inodes;
mod interface;
mod listing;
mod locks;
mod lru;
mod namespace;
mod options;
mod packer;
mod ranges;
mod read;
mod repair;
mod streams;
mod takeover;
mod write_out;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use twinshore_protocol::session::{
    ConnectError, Recorder, Session, SessionHandler, SessionOptions, Transport,
};
use twinshore_protocol::{Caller, Errno, FileName, FileType, InodeNumber, Operation, Reply};
use twinshore_storage::pair::BucketPair;

pub use self::fetch::BLOCK;
pub use self::interface::{
    Attributed, BlockCache, BlockRun, DirectoryPage, Found, Handle, KernelInvalidator, ListedEntry,
    OpenFlags, Opened, Origin, TaskRunner, Usage,
};
pub use self::options::{Clock, Fault, PACK_LIMIT_BYTES, VfsOptions};
pub use self::takeover::Resumed;

use self::budget::Budget;
use self::caches::Caches;
use self::core::Core;
use self::entries::EntryCache;
use self::inode::lock;
use self::inodes::Inodes;
use self::write_out::Urgency;
use crate::logbook::Logbook;

/// What a mount works with.
pub struct Surroundings {
    /// Where objects are.
    pub buckets: BucketPair,
    /// Blocks near at hand.
    pub blocks: Arc<dyn BlockCache>,
    /// What the kernel caches.
    pub kernel: Arc<dyn KernelInvalidator>,
    /// Replication and settings.
    pub tasks: Arc<dyn TaskRunner>,
}

/// Why a volume could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The subdirectory is not there.
    #[error("the directory {path} of the volume cannot be mounted: {errno}")]
    Subdirectory {
        /// The path from the volume's root.
        path: String,
        /// What is wrong with it.
        errno: Errno,
    },
}

/// A mounted file system. Clones are the same one.
#[derive(Clone)]
pub struct Vfs {
    core: Arc<Core>,
}

impl std::fmt::Debug for Vfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vfs")
            .field("session", &self.core.session)
            .finish_non_exhaustive()
    }
}

impl Vfs {
    /// Opens a session and finds the root of the mount.
    pub async fn connect(
        transport: Arc<dyn Transport>,
        session: SessionOptions,
        surroundings: Surroundings,
        options: VfsOptions,
    ) -> Result<Self, MountError> {
        let Surroundings {
            buckets,
            blocks,
            kernel,
            tasks,
        } = surroundings;
        let caches = Arc::new(Caches::new(
            Inodes::new(options.inode_cache_units),
            EntryCache::new(options.entry_cache_names),
            Budget::new(options.buffer_size_bytes),
            kernel,
            tasks,
            options.logbook.clone(),
        ));
        let handler = Arc::clone(&caches) as Arc<dyn SessionHandler>;
        let session = match &options.logbook {
            Some(logbook) => {
                let recorder = Arc::clone(logbook) as Arc<dyn Recorder>;
                Session::connect_recorded(transport, session, handler, recorder).await?
            }
            None => Session::connect(transport, session, handler).await?,
        };
        let subdirectory = options.subdirectory.clone();
        let vfs = Self {
            core: Core::start(session, caches, options, buckets, blocks),
        };
        let root = vfs.resolve(&subdirectory).await.map_err(|errno| {
            let path = subdirectory
                .iter()
                .flat_map(|name| ["/".to_owned(), name.to_string()])
                .collect();
            MountError::Subdirectory { path, errno }
        })?;
        vfs.core.caches.set_root(root);
        if let Some(logbook) = vfs.core.logbook() {
            logbook.root_is(root);
        }
        Ok(vfs)
    }

    /// The number of a directory of the volume, from the volume's root.
    async fn resolve(&self, path: &[FileName]) -> Result<InodeNumber, Errno> {
        let mut directory = InodeNumber::ROOT;
        for name in path {
            let operation = Operation::Lookup {
                parent: directory,
                name: name.clone(),
            };
            directory = match self.core.ask(Caller::ROOT, operation).await? {
                Reply::Entry(attributes) if attributes.kind == FileType::Directory => attributes.inode,
                Reply::Entry(_) => return Err(Errno::NotDirectory),
                other => return Err(self::core::unexpected(&other)),
            };
        }
        Ok(directory)
    }

    /// The session, for whoever needs operations of other kinds (reports of copies, status).
    pub fn session(&self) -> &Session {
        &self.core.session
    }

    /// The buckets, which can be exchanged while the mount is in use.
    pub fn buckets(&self) -> &BucketPair {
        &self.core.buckets
    }

    /// What is kept for a successor.
    pub fn logbook(&self) -> Option<&Arc<Logbook>> {
        self.core.logbook()
    }

    /// Bytes written and not stored yet.
    pub fn unwritten_bytes(&self) -> u64 {
        self.core.caches.budget.used()
    }

    /// Writes everything out. What fails is told by the files that it belongs to, too; the first error is returned.
    pub async fn flush_everything(&self) -> Result<(), Errno> {
        let numbers: Vec<_> = lock(&self.core.dirty).iter().copied().collect();
        let mut writes = Vec::new();
        for inode in numbers
            .into_iter()
            .filter_map(|number| self.core.caches.inodes.find(number))
        {
            let core = Arc::clone(&self.core);
            writes.push(self.core.runtime.spawn(async move {
                core.write_out(&inode, Urgency::Flush).await;
                inode.state().error
            }));
        }
        let mut first = Ok(());
        for write in writes {
            let error = write.await.unwrap_or(Some(Errno::InputOutput));
            first = first.and(error.map_or(Ok(()), Err));
        }
        first
    }

    /// Writes everything out and ends the session.
    pub async fn shut_down(&self) -> Result<(), Errno> {
        let flushed = self.flush_everything().await;
        self.core.abandoned.store(true, Ordering::Release);
        self.core.writer.notify_one();
        self.core.session.clone().close().await;
        flushed
    }

    /// As if the process had been killed: nothing more is written or committed. For the simulation of crashes.
    pub fn abandon(&self) {
        self.core.abandoned.store(true, Ordering::Release);
        self.core.writer.notify_one();
    }
}
