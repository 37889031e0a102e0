//! Tells the kernel what to drop.
//!
//! # Contract
//!
//! * [`KernelNotifier::invalidate`] queues and returns; threads of its own write to the device. They hold no lock while they do, because the kernel
//!   may make them wait for a request of this mount: for a read that holds a page, for an unlink that holds its directory.
//!   No request handler ever waits for them.
//! * Items of one inode are sent in the order in which they came. Inodes are spread over [`LANES`] threads, so that one inode
//!   whose request is stuck does not hold back all others. Names have as many threads of their own: dropping one needs the
//!   lock of its directory, dropping attributes and pages does not.
//! * A batch never waits for an operation of this mount that changes names ([`KernelInvalidator::changing_names`]): while there is
//!   one, all names are looked up again instead (`FUSE_NOTIFY_INC_EPOCH`, which needs no lock), sent by one more thread. A kernel that
//!   is too old for that shows a name for at most a second, the time to live that it is given there.
//! * `done` runs when all items of its batch have been sent, or cannot matter any more because the mount is gone.
//! * The queue is bounded: beyond [`QUEUE_MAX`] items they are replaced by "drop everything".
//! * An item that already waits in the queue is not queued again.
//!
//! Before the mount is made there is no kernel to tell: items are done at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tracing::{debug, warn};
use twinshore_protocol::InodeNumber;
use twinshore_protocol::message::Invalidation;

use super::convert::node;
use super::freshness::Freshness;
use super::names::{Mark, PendingNames};
use crate::vfs::KernelInvalidator;

/// Threads that tell the kernel of inodes, and as many of names.
pub const LANES: usize = 4;

/// The thread that never waits for a lock.
const EPOCHS: usize = 2 * LANES;

/// All of them.
const THREADS: usize = EPOCHS + 1;

/// Items that wait in a lane at most: some milliseconds of notifications.
pub const QUEUE_MAX: usize = 65_536;

/// `FUSE_NOTIFY_INC_EPOCH`: all names that the kernel has cached are looked up again (kernels from 6.16, FUSE ABI 7.44).
const NOTIFY_INC_EPOCH: i32 = 8;

/// What is written to the kernel. In tests something else.
pub trait Kernel: Send + Sync {
    /// Drops attributes, and if `content` cached pages too.
    fn inval_inode(&self, inode: InodeNumber, content: bool) -> std::io::Result<()>;
    /// Drops a name.
    fn inval_entry(&self, parent: InodeNumber, name: &[u8]) -> std::io::Result<()>;
    /// Drops all names.
    fn inval_all_entries(&self) -> std::io::Result<()>;
}

/// A mounted kernel.
pub struct Device {
    notifier: fuser::Notifier,
    device: File,
}

impl Device {
    /// `device` is a copy of the session's descriptor, for what fuser cannot send.
    pub fn new(notifier: fuser::Notifier, device: OwnedFd) -> Self {
        Self {
            notifier,
            device: File::from(device),
        }
    }
}

impl Kernel for Device {
    fn inval_inode(&self, inode: InodeNumber, content: bool) -> std::io::Result<()> {
        // A negative offset drops the attributes and leaves the pages; a length of 0 is "to the end".
        self.notifier
            .inval_inode(node(inode), if content { 0 } else { -1 }, 0)
    }

    fn inval_entry(&self, parent: InodeNumber, name: &[u8]) -> std::io::Result<()> {
        self.notifier
            .inval_entry(node(parent), std::ffi::OsStr::from_bytes(name))
    }

    fn inval_all_entries(&self) -> std::io::Result<()> {
        // struct fuse_out_header: length, code, and a request number of 0 for a notification.
        let mut message = [0; 16];
        message[0..4].copy_from_slice(&16_u32.to_ne_bytes());
        message[4..8].copy_from_slice(&NOTIFY_INC_EPOCH.to_ne_bytes());
        (&self.device).write_all(&message)
    }
}

/// Runs `done` when the last of its parts is dropped.
struct Batch {
    done: Option<Box<dyn FnOnce() + Send>>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done();
        }
    }
}

/// A batch may be finished by any lane; `FnOnce` is `Send` but not `Sync`.
type SharedBatch = Arc<Mutex<Batch>>;

enum Work {
    Item(Invalidation),
    /// All names; the open inodes follow as items.
    AllEntries,
    /// What came before in this lane is sent.
    Mark(SharedBatch),
    /// The same for names, unless it has been taken over by the thread that never waits.
    NamesMark(Mark),
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<Work>,
    waiting: HashSet<Identity>,
    /// All names are to be dropped already, later than now.
    all_entries_wait: bool,
    stopped: bool,
}

/// [`Invalidation`] in a form that can be hashed.
type Identity = (InodeNumber, u8, Vec<u8>);

fn identity(item: &Invalidation) -> Identity {
    match item {
        Invalidation::Attributes(inode) => (*inode, 0, Vec::new()),
        Invalidation::Content(inode) => (*inode, 1, Vec::new()),
        Invalidation::Entry(parent, name) => (*parent, 2, name.as_bytes().to_vec()),
        Invalidation::Everything(inode) => (*inode, 3, Vec::new()),
    }
}

struct Shared {
    lanes: Vec<(Mutex<Lane>, Condvar)>,
    open: Mutex<HashMap<InodeNumber, u64>>,
    names: Mutex<PendingNames<SharedBatch>>,
    freshness: Freshness,
    kernel: Mutex<Option<Arc<dyn Kernel>>>,
    sent: AtomicU64,
    failed: AtomicU64,
}

impl Shared {
    fn lane(&self, number: usize) -> MutexGuard<'_, Lane> {
        self.lanes[number]
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, PendingNames<SharedBatch>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kernel(&self) -> Option<Arc<dyn Kernel>> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, number: usize, work: Vec<Work>) {
        let mut lane = self.lane(number);
        if lane.stopped {
            return;
        }
        for work in work {
            match &work {
                Work::Item(item) => {
                    if !lane.waiting.insert(identity(item)) {
                        continue;
                    }
                }
                Work::AllEntries => {
                    if std::mem::replace(&mut lane.all_entries_wait, true) {
                        continue;
                    }
                }
                Work::Mark(_) | Work::NamesMark(_) => {}
            }
            lane.queue.push_back(work);
        }
        drop(lane);
        self.lanes[number].1.notify_one();
    }

    fn run(&self, number: usize) {
        loop {
            let mut lane = self.lane(number);
            let work = loop {
                if let Some(work) = lane.queue.pop_front() {
                    break work;
                }
                if lane.stopped {
                    return;
                }
                lane = self.lanes[number]
                    .1
                    .wait(lane)
                    .unwrap_or_else(PoisonError::into_inner);
            };
            // From here on the same has to be sent again: what it is about may change while this one is sent.
            match &work {
                Work::Item(item) => drop(lane.waiting.remove(&identity(item))),
                Work::AllEntries => lane.all_entries_wait = false,
                Work::Mark(_) | Work::NamesMark(_) => {}
            }
            drop(lane);
            self.send(work);
        }
    }

    fn send(&self, work: Work) {
        let work = match work {
            // The last mark of a batch runs its `done`.
            Work::Mark(batch) => return drop(batch),
            Work::NamesMark(mark) => {
                let batch = self.names().sent(mark);
                return drop(batch);
            }
            other => other,
        };
        let Some(kernel) = self.kernel() else { return };
        let outcome = match work {
            Work::Item(Invalidation::Attributes(inode)) => kernel.inval_inode(inode, false),
            Work::Item(Invalidation::Content(inode)) => kernel.inval_inode(inode, true),
            Work::Item(Invalidation::Entry(parent, name)) => kernel.inval_entry(parent, name.as_bytes()),
            // The names in it are not known here; dropping all costs microseconds, and they are looked up again from our caches.
            Work::Item(Invalidation::Everything(inode)) => kernel
                .inval_inode(inode, true)
                .and_then(|()| kernel.inval_all_entries()),
            Work::AllEntries | Work::Mark(_) | Work::NamesMark(_) => kernel.inval_all_entries(),
        };
        self.sent.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(()) => {}
            // The kernel does not know the name or the inode: there is nothing to drop.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                debug!("the kernel did not take an invalidation: {error}");
            }
        }
    }

    fn drop_everything(&self) {
        self.freshness.note_everything();
        self.push(EPOCHS, vec![Work::AllEntries]);
        // The root has no name, so nothing looks it up again.
        let root = Invalidation::Attributes(InodeNumber::ROOT);
        self.push(lane_of(InodeNumber::ROOT), vec![Work::Item(root)]);
        let open: Vec<InodeNumber> = self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .copied()
            .collect();
        for inode in open {
            self.push(lane_of(inode), vec![Work::Item(Invalidation::Content(inode))]);
        }
    }
}

impl Shared {
    /// The batch is done when everything that is queued now is sent. Names need no mark: where everything is dropped, all of
    /// them are, by the last thread.
    fn mark_everything(&self, batch: &SharedBatch) {
        for number in (0..LANES).chain([EPOCHS]) {
            self.push(number, vec![Work::Mark(batch.clone())]);
        }
    }
}

fn lane_of(inode: InodeNumber) -> usize {
    usize::try_from(inode.0 % LANES as u64).unwrap_or(0)
}

/// The queue and its threads.
pub struct KernelNotifier {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl KernelNotifier {
    /// Without a kernel yet.
    pub fn start() -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            lanes: (0..THREADS).map(|_| (Mutex::default(), Condvar::new())).collect(),
            open: Mutex::default(),
            names: Mutex::default(),
            freshness: Freshness::default(),
            kernel: Mutex::new(None),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let mut threads = Vec::new();
        for number in 0..THREADS {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("fuse-notifier-{number}"));
            threads.push(thread.spawn(move || shared.run(number))?);
        }
        Ok(Arc::new(Self {
            shared,
            threads: Mutex::new(threads),
        }))
    }

    /// From now on there is a kernel to tell; with `None` there is none any more.
    pub fn attach(&self, kernel: Option<Arc<dyn Kernel>>) {
        *self.shared.kernel.lock().unwrap_or_else(PoisonError::into_inner) = kernel;
    }

    /// What has been invalidated lately.
    pub fn freshness(&self) -> &Freshness {
        &self.shared.freshness
    }

    /// The kernel has an open file: its pages must be dropped when everything is.
    pub fn opened(&self, inode: InodeNumber) {
        *self
            .shared
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(inode)
            .or_insert(0) += 1;
    }

    /// The kernel has closed it.
    pub fn released(&self, inode: InodeNumber) {
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                open.remove(&inode);
            }
        }
    }

    /// Notifications sent, and those that the kernel refused.
    pub fn totals(&self) -> (u64, u64) {
        (
            self.shared.sent.load(Ordering::Relaxed),
            self.shared.failed.load(Ordering::Relaxed),
        )
    }

    /// Too much waits: everything is dropped in its place.
    fn overflow(&self, batch: &SharedBatch) {
        let kept: Vec<Vec<Work>> = (0..THREADS)
            .map(|number| {
                let mut lane = self.shared.lane(number);
                lane.waiting.clear();
                lane.all_entries_wait = false;
                // Marks stay: their batches are done when all is dropped.
                let is_mark = |work: &Work| matches!(work, Work::Mark(_) | Work::NamesMark(_));
                lane.queue.drain(..).filter(is_mark).collect()
            })
            .collect();
        self.shared.drop_everything();
        for (number, marks) in kept.into_iter().enumerate() {
            self.shared.push(number, marks);
        }
        self.shared.mark_everything(batch);
    }

    /// Ends the threads. What still waits counts as done: the mount is gone.
    pub fn stop(&self) {
        self.attach(None);
        for number in 0..THREADS {
            self.shared.lane(number).stopped = true;
            self.shared.lanes[number].1.notify_all();
        }
        let threads: Vec<_> = self
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect();
        for thread in threads {
            if thread.join().is_err() {
                warn!("a notifier thread had panicked");
            }
        }
    }
}

impl KernelInvalidator for KernelNotifier {
    fn invalidate(&self, items: Vec<Invalidation>, done: Box<dyn FnOnce() + Send>) {
        self.shared.freshness.note(&items);
        let batch: SharedBatch = Arc::new(Mutex::new(Batch { done: Some(done) }));
        if self.shared.kernel().is_none() {
            return;
        }
        let mut lanes: Vec<Vec<Work>> = (0..THREADS).map(|_| Vec::new()).collect();
        for item in items {
            let lane = match &item {
                Invalidation::Attributes(inode)
                | Invalidation::Content(inode)
                | Invalidation::Everything(inode) => lane_of(*inode),
                Invalidation::Entry(directory, _) => LANES + lane_of(*directory),
            };
            lanes[lane].push(Work::Item(item));
        }
        let full = |(number, work): (usize, &Vec<Work>)| {
            self.shared.lane(number).queue.len() + work.len() > QUEUE_MAX
        };
        if lanes.iter().enumerate().any(full) {
            return self.overflow(&batch);
        }
        for (number, mut work) in lanes.into_iter().enumerate() {
            if work.is_empty() {
                continue;
            }
            if number < LANES {
                work.push(Work::Mark(batch.clone()));
                self.shared.push(number, work);
                continue;
            }
            // Queued under the lock of the names, so that an operation that begins now finds what waits.
            let mut names = self.shared.names();
            match names.add(batch.clone()) {
                Ok(mark) => {
                    work.push(Work::NamesMark(mark));
                    self.shared.push(number, work);
                }
                Err(batch) => self
                    .shared
                    .push(EPOCHS, vec![Work::AllEntries, Work::Mark(batch)]),
            }
        }
    }

    fn changing_names(&self) {
        let mut names = self.shared.names();
        let taken_over = names.began();
        if !taken_over.is_empty() {
            let marks = taken_over.into_iter().map(Work::Mark);
            self.shared
                .push(EPOCHS, std::iter::once(Work::AllEntries).chain(marks).collect());
        }
    }

    fn changed_names(&self) {
        self.shared.names().ended();
    }

    fn drop_everything(&self) {
        self.shared.drop_everything();
    }

    fn when_dropped(&self, done: Box<dyn FnOnce() + Send>) {
        let batch: SharedBatch = Arc::new(Mutex::new(Batch { done: Some(done) }));
        if self.shared.kernel().is_some() {
            self.shared.mark_everything(&batch);
        }
    }
}

impl Drop for KernelNotifier {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
#[path = "notifier_tests.rs"]
mod tests;
