//! What all operations share: the session, the caches, the buckets, the tasks under way.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{Notify, Semaphore};
use twinshore_protocol::session::{RequestError, Session};
use twinshore_protocol::{Attributes, Caller, Errno, InodeNumber, Operation, Reply};
use twinshore_storage::pair::BucketPair;

use super::caches::Caches;
use super::delegations::changed_by;
use super::fetch::Fetches;
use super::inode::{Inode, InodeState, lock};
use super::interface::{Attributed, BlockCache, Handle, KernelInvalidator, OpenFlags};
use super::listing::ListingBuffer;
use super::options::VfsOptions;
use super::packer::Packer;
use super::repair::Repairs;
use super::takeover::Inheritance;
use crate::logbook::{Logbook, Note, OpenHandle, calls};

/// An open file or directory.
#[derive(Clone)]
pub enum HandleState {
    /// A file. The handle keeps the inode from being forgotten.
    File(Arc<Inode>, OpenFlags),
    /// A directory, with the part of its listing that was fetched last.
    Directory(Arc<Mutex<ListingBuffer>>),
}

/// Handles by number.
pub struct Handles {
    last: u64,
    open: HashMap<u64, HandleState>,
}

/// The inside of a [`super::Vfs`].
pub struct Core {
    /// The metadata service.
    pub session: Session,
    /// What is cached under leases.
    pub caches: Arc<Caches>,
    /// What the mount was asked for.
    pub options: VfsOptions,
    /// Where objects are.
    pub buckets: BucketPair,
    /// Blocks near at hand.
    pub blocks: Arc<dyn BlockCache>,
    /// Where tasks are spawned: the adapter calls from threads of its own.
    pub runtime: runtime::Handle,
    /// Uploads.
    pub uploads: Semaphore,
    /// Uploads that nobody waits for: fewer, so that a flush always finds one free soon.
    pub background_uploads: Semaphore,
    /// Downloads, and what they are for.
    pub fetches: Fetches,
    /// Small files on their way into shared objects.
    pub packer: Packer,
    /// Copies that turned out to be missing.
    pub repairs: Repairs,
    /// Inodes that may have unwritten data.
    pub dirty: Mutex<BTreeSet<InodeNumber>>,
    /// Wakes the writer.
    pub writer: Arc<Notify>,
    /// The mount is over: nothing more is written.
    pub abandoned: AtomicBool,
    /// What the process before this one did for requests of the kernel.
    pub inheritance: Mutex<Inheritance>,
    handles: Mutex<Handles>,
}

impl Core {
    /// Puts it together and starts the writer. Called inside the runtime.
    pub fn start(
        session: Session,
        caches: Arc<Caches>,
        options: VfsOptions,
        buckets: BucketPair,
        blocks: Arc<dyn BlockCache>,
    ) -> Arc<Self> {
        let parallelism = options.upload_parallelism.max(1);
        let core = Arc::new(Self {
            session,
            uploads: Semaphore::new(parallelism),
            background_uploads: Semaphore::new((parallelism * 3 / 4).max(1)),
            fetches: Fetches::new(options.download_parallelism.max(1), options.readahead_total_bytes),
            packer: Packer::default(),
            repairs: Repairs::default(),
            dirty: Mutex::new(BTreeSet::new()),
            writer: Arc::new(Notify::new()),
            abandoned: AtomicBool::new(false),
            inheritance: Mutex::default(),
            handles: Mutex::new(Handles {
                last: options
                    .logbook
                    .as_ref()
                    .map_or(0, |logbook| logbook.first_handle()),
                open: HashMap::new(),
            }),
            runtime: runtime::Handle::current(),
            caches,
            options,
            buckets,
            blocks,
        });
        core.caches.attach(Arc::downgrade(&core));
        core.runtime.spawn(super::writer::run(
            Arc::downgrade(&core),
            Arc::clone(&core.writer),
        ));
        core
    }

    /// What is kept for a successor.
    pub const fn logbook(&self) -> Option<&Arc<Logbook>> {
        self.options.logbook.as_ref()
    }

    /// Asks the service; or waits for the reply, if the process before this one has asked for the same request of the kernel.
    pub async fn ask(&self, caller: Caller, operation: Operation) -> Result<Reply, Errno> {
        if let Some(result) = self.inherited(&operation).await {
            return result;
        }
        self.ask_noted(caller, operation, Note::default()).await
    }

    /// Asks the service for what settles something that is recorded.
    pub async fn ask_noted(&self, caller: Caller, operation: Operation, note: Note) -> Result<Reply, Errno> {
        let request = |operation| {
            if self.logbook().is_some() {
                calls::noted(note, || self.session.request(caller, operation))
            } else {
                self.session.request(caller, operation)
            }
        };
        let directories = changed_by(&operation);
        let result = if directories.is_empty() {
            request(operation).await
        } else {
            let asking = Asking::new(&self.caches, directories);
            let result = request(operation).await;
            asking.ended(result.as_ref().err() == Some(&RequestError::TimedOut));
            result
        };
        result.map_err(|error| error.errno())
    }

    /// To be held while an operation that changes names is under way.
    pub fn changing_names(&self) -> ChangingNames {
        self.caches.kernel.changing_names();
        ChangingNames(Arc::clone(&self.caches.kernel))
    }

    /// `EROFS` on a read-only mount.
    pub fn check_writable(&self) -> Result<(), Errno> {
        if self.options.read_only {
            Err(Errno::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// The inode that the kernel names.
    pub fn inode(&self, kernel: InodeNumber) -> Arc<Inode> {
        self.caches.inodes.get(self.caches.real(kernel))
    }

    /// Attributes as the kernel is told them, from under the inode's lock: leased only if the caches still hold them.
    pub fn attributed(&self, state: &InodeState, told: &Attributes) -> Attributed {
        let leased = state.attributes.as_ref();
        let mut attributes = state.seen(leased.unwrap_or(told));
        attributes.inode = self
            .caches
            .kernel_number(attributes.inode)
            .unwrap_or(attributes.inode);
        // What is being written changes without notice.
        let time_to_live = if leased.is_some() && state.is_written() {
            self.session.lease_remaining()
        } else {
            Duration::ZERO
        };
        Attributed {
            attributes,
            time_to_live,
        }
    }

    /// The same, for a reply that has just come.
    pub fn attributed_reply(&self, told: &Attributes) -> Attributed {
        match self.caches.inodes.find(told.inode) {
            Some(inode) => self.attributed(&inode.state(), told),
            None => self.attributed(&Inode::new(told.inode).state(), told),
        }
    }

    /// Leased attributes, if the lease is good.
    pub fn leased_attributes(&self, inode: &Inode) -> Option<Attributed> {
        if !self.session.lease_is_valid() {
            return None;
        }
        let state = inode.state();
        let attributes = state.attributes?;
        Some(self.attributed(&state, &attributes))
    }

    /// Registers a handle of an inode (the service's number).
    pub fn add_handle(&self, inode: InodeNumber, state: HandleState) -> Handle {
        let flags = match &state {
            HandleState::File(_, flags) => Some(flags.bits()),
            HandleState::Directory(_) => None,
        };
        let number = {
            let mut handles = lock(&self.handles);
            handles.last += 1;
            let number = handles.last;
            handles.open.insert(number, state);
            number
        };
        if let Some(logbook) = self.logbook() {
            logbook.handle_opened(OpenHandle {
                handle: number,
                inode,
                flags,
                call: calls::current(),
            });
        }
        Handle(number)
    }

    /// Registers one that has its number.
    pub fn insert_handle(&self, handle: Handle, state: HandleState) {
        lock(&self.handles).open.insert(handle.0, state);
    }

    /// Finds a handle.
    pub fn handle(&self, handle: Handle) -> Option<HandleState> {
        lock(&self.handles).open.get(&handle.0).cloned()
    }

    /// Takes a handle out.
    pub fn take_handle(&self, handle: Handle) -> Option<HandleState> {
        lock(&self.handles).open.remove(&handle.0)
    }

    /// No successor needs to know of a handle that was taken out.
    pub fn forget_handle(&self, handle: Handle) {
        if let Some(logbook) = self.logbook() {
            logbook.handle_closed(handle.0);
        }
    }

    /// The file behind a handle, if it is still one.
    pub fn file(&self, handle: Handle) -> Result<(Arc<Inode>, OpenFlags), Errno> {
        match self.handle(handle) {
            Some(HandleState::File(inode, _)) if inode.state().stale => Err(Errno::Stale),
            Some(HandleState::File(inode, flags)) => Ok((inode, flags)),
            Some(HandleState::Directory(_)) => Err(Errno::IsDirectory),
            None => Err(Errno::BadHandle),
        }
    }

    /// Tells the new session what is open: its inodes outlive their names again. Those that are gone become stale.
    pub fn reopen(self: &Arc<Self>, inodes: Vec<Arc<Inode>>) {
        let core = Arc::clone(self);
        self.runtime.spawn(async move {
            for inode in inodes {
                let mut state = inode.state();
                if state.handles > 0 && state.opens_sent == 0 {
                    core.send_open(&mut state, &inode);
                }
            }
        });
    }

    /// Tells the service that an inode is open. Called under its lock, so that opens and releases keep their order.
    pub fn send_open(&self, state: &mut InodeState, inode: &Inode) {
        state.opens_sent += 1;
        drop(self.session.request(
            Caller::ROOT,
            Operation::Open {
                inode: inode.number,
                truncate: false,
            },
        ));
    }

    /// Is everything over?
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }
}

/// A request that changes directories is under way: nothing is answered for them.
struct Asking<'a> {
    caches: &'a Caches,
    directories: BTreeSet<InodeNumber>,
    is_unknown: bool,
}

impl<'a> Asking<'a> {
    fn new(caches: &'a Caches, directories: BTreeSet<InodeNumber>) -> Self {
        lock(&caches.delegations).ask(&directories);
        Self {
            caches,
            directories,
            is_unknown: true,
        }
    }

    /// It may still be executed if it `timed_out`.
    fn ended(mut self, timed_out: bool) {
        self.is_unknown = timed_out;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut delegations = lock(&self.caches.delegations);
        delegations.told(&self.directories);
        if self.is_unknown {
            for directory in &self.directories {
                delegations.let_go(*directory);
            }
        }
    }
}

/// An operation that changes names is under way.
pub struct ChangingNames(Arc<dyn KernelInvalidator>);

impl Drop for ChangingNames {
    fn drop(&mut self) {
        self.0.changed_names();
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // The writer sleeps without holding on to the mount.
        self.writer.notify_one();
    }
}

/// A weak reference for tasks that must not keep a mount alive.
pub type WeakCore = Weak<Core>;

/// The service has answered something that does not belong to the question.
pub fn unexpected(reply: &Reply) -> Errno {
    tracing::error!(
        ?reply,
        "the metadata service answered something else than was asked: check its version"
    );
    Errno::InputOutput
}
