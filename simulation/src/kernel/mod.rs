//! A model of the kernel above a mount: what Linux' FUSE caches of it, and when it drops it.
//!
//! # What is modelled
//!
//! * Attributes and names with the time to live that the adapter gives them, by the real rule of [`Freshness`]. As in the
//!   kernel, a reply that was asked for before a younger change of the inode is not taken into the attributes.
//! * The page cache, which has no time to live. A page is locked while it is read or written; whoever wants to drop it waits.
//!   The size that a read is clipped to is the cached one; it is asked for again only if the read goes beyond it and the
//!   attributes are no longer valid.
//! * Locks of directories: held by every change of a name, shared by look-ups, and needed to drop a name. So a notification
//!   can be stuck behind a request of the same mount.
//! * Notifications take time, and several are under way at once (see [`notifications`]).
//!
//! Nothing here decides what is right: programs ([`crate::actor`]) read through these caches, and the history of what all
//! programs did tells whether what they saw can be.

mod files;
mod names;
mod notifications;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, RwLock, mpsc};
use tokio::time::Instant;
use twinshore_filesystem::fuse::Freshness;
use twinshore_filesystem::vfs::{Attributed, Vfs};
use twinshore_protocol::{Attributes, Errno, FileName, InodeNumber};

use crate::random::Random;
use crate::trace::Trace;

pub use files::OpenFile;

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

/// How long an answer is under way from the work to the kernel, at most.
const ANSWER_DELAY_MAX_MS: u64 = 3;

/// A mount with its kernel. Clones are the same.
#[derive(Clone)]
pub struct Kernel {
    /// The mount.
    pub vfs: Vfs,
    caches: Arc<Caches>,
}

/// What the kernel caches of one mount.
pub struct Caches {
    name: String,
    trace: Trace,
    state: Mutex<State>,
    /// A page was unlocked.
    unlocked: Notify,
    freshness: Freshness,
    random: Mutex<Random>,
    lanes: Vec<mpsc::UnboundedSender<notifications::Work>>,
    pending_names: notifications::Names,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<InodeNumber, Node>,
    names: BTreeMap<(InodeNumber, FileName), CachedName>,
    /// Names of older epochs have to be looked up again.
    epoch: u64,
    /// The number of the last change of any node's attributes.
    version: u64,
    directories: BTreeMap<InodeNumber, Arc<RwLock<()>>>,
    /// How often each file is open, as the adapter tells its notifier.
    open: BTreeMap<InodeNumber, u32>,
}

/// An inode of the kernel.
struct Node {
    size: u64,
    valid_until: Instant,
    /// The number of its last change: a reply to an older question is not taken over.
    version: u64,
    /// A request under way changes the size: no reply is taken over.
    unstable: u32,
    pages: BTreeMap<u64, Bytes>,
    locked: BTreeSet<u64>,
}

#[derive(Clone, Copy)]
struct CachedName {
    inode: Option<InodeNumber>,
    valid_until: Instant,
    epoch: u64,
}

/// A moment before a request.
#[derive(Clone, Copy)]
struct Asked {
    since: twinshore_filesystem::fuse::Moment,
    version: u64,
    epoch: u64,
}

impl State {
    fn node(&mut self, inode: InodeNumber) -> &mut Node {
        self.nodes.entry(inode).or_insert_with(|| Node {
            size: 0,
            valid_until: Instant::now(),
            version: 0,
            unstable: 0,
            pages: BTreeMap::new(),
            locked: BTreeSet::new(),
        })
    }

    /// The attributes of a node are no longer what they were.
    fn outdate(&mut self, inode: InodeNumber) {
        self.version += 1;
        let version = self.version;
        let node = self.node(inode);
        node.valid_until = Instant::now();
        node.version = version;
    }
}

impl Node {
    fn resize(&mut self, size: u64) {
        self.size = size;
        let whole = size.div_ceil(PAGE_BYTES);
        self.pages.retain(|page, _| *page < whole);
    }
}

impl Caches {
    /// Empty ones. The random numbers decide how long everything takes.
    pub fn new(node: &str, random: Random, trace: Trace) -> Arc<Self> {
        let (lanes, receivers) = notifications::lanes();
        let caches = Arc::new(Self {
            name: format!("{node} kernel"),
            trace,
            state: Mutex::default(),
            unlocked: Notify::new(),
            freshness: Freshness::default(),
            random: Mutex::new(random),
            lanes,
            pending_names: notifications::Names::default(),
        });
        notifications::start(&caches, receivers);
        caches
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn random<T>(&self, pick: impl FnOnce(&mut Random) -> T) -> T {
        pick(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn directory(&self, directory: InodeNumber) -> Arc<RwLock<()>> {
        Arc::clone(self.state().directories.entry(directory).or_default())
    }

    /// To be called before a request is sent.
    fn asked(&self) -> Asked {
        let since = self.freshness.now();
        let state = self.state();
        Asked {
            since,
            version: state.version,
            epoch: state.epoch,
        }
    }

    /// The answer is on its way to the kernel.
    async fn answer_delay(&self) {
        let milliseconds = self.random(|random| random.between(0, ANSWER_DELAY_MAX_MS + 1));
        if milliseconds > 0 {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
    }

    /// An answer with attributes has arrived (`fuse_change_attributes`).
    fn learn(&self, attributes: &Attributes, time_to_live: Duration, asked: Asked) {
        let mut state = self.state();
        let node = state.node(attributes.inode);
        if node.unstable > 0 || node.version > asked.version {
            let what = format!(
                "discards the answer that {} has {} bytes",
                attributes.inode, attributes.size_bytes
            );
            self.trace.event(&self.name, &what);
            return;
        }
        state.version += 1;
        let version = state.version;
        let node = state.node(attributes.inode);
        node.version = version;
        node.valid_until = Instant::now() + time_to_live;
        if node.size != attributes.size_bytes {
            node.resize(attributes.size_bytes);
        }
    }

    /// Waits until no page of a node is locked in the range, then drops those that are there.
    async fn drop_pages(&self, inode: InodeNumber) {
        let mut next = 0;
        loop {
            let unlocked = self.unlocked.notified();
            tokio::pin!(unlocked);
            unlocked.as_mut().enable();
            let wait = {
                let mut state = self.state();
                let node = state.node(inode);
                let first = node
                    .pages
                    .range(next..)
                    .map(|(page, _)| *page)
                    .next()
                    .into_iter()
                    .chain(node.locked.range(next..).copied().next())
                    .min();
                let Some(page) = first else { return };
                let wait = node.locked.contains(&page);
                if !wait {
                    node.pages.remove(&page);
                    next = page + 1;
                }
                wait
            };
            if wait {
                unlocked.await;
            }
        }
    }
}

impl Kernel {
    /// The kernel above a mount that was connected with `caches` as what it invalidates.
    pub fn new(vfs: Vfs, caches: Arc<Caches>) -> Self {
        Self { vfs, caches }
    }

    /// `getattr`: cached, or asked for.
    pub async fn attributes(&self, inode: InodeNumber) -> Result<(), Errno> {
        let valid = {
            let mut state = self.caches.state();
            state.node(inode).valid_until > Instant::now()
        };
        if valid {
            return Ok(());
        }
        let asked = self.caches.asked();
        let attributed = match self.vfs.cached_attributes(inode) {
            Some(attributed) => attributed,
            None => {
                self.vfs
                    .attributes(twinshore_protocol::Caller::ROOT, inode)
                    .await?
            }
        };
        self.caches.answer_delay().await;
        self.learn_attributed(&attributed, asked);
        Ok(())
    }

    fn learn_attributed(&self, attributed: &Attributed, asked: Asked) {
        let inode = attributed.attributes.inode;
        self.caches.freshness.answer(asked.since, |verdict| {
            let lives = verdict.time_to_live(attributed.time_to_live, &[inode]);
            self.caches.learn(&attributed.attributes, lives, asked);
        });
    }
}
