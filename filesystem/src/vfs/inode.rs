//! What this client knows of one inode, and what it has written to it.
//!
//! Everything known under a lease (attributes, extents, extended attributes) and everything unwritten stands behind one
//! lock, so that a reader sees both at one moment: a commit that settles dirty bytes gives the extents in the same step.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use twinshore_protocol::{Attributes, Errno, InodeNumber, Position};

use super::deferred::Deferred;
use super::delegations::Term;
use super::dirty::Dirty;
use super::extents::ExtentCache;
use super::streams::ReadStreams;

/// Extended attributes cached per inode. Programs ask for a handful of names, again and again.
const EXTENDED_ATTRIBUTES_MAX: usize = 16;

/// Can there be an attribute of this name? What else the service says of a name (too long, unknown namespace), it has to be
/// asked for.
fn is_supported(name: &[u8]) -> bool {
    const NAME_MAX_BYTES: usize = 255;
    let prefixes: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let in_namespace = prefixes
        .iter()
        .any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
    let is_acl = name == b"system.posix_acl_access" || name == b"system.posix_acl_default";
    (in_namespace && name.len() <= NAME_MAX_BYTES) || is_acl
}

/// Locks a mutex. Nothing that runs under the locks of this crate panics half-way through a change.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An inode.
#[derive(Debug)]
pub struct Inode {
    /// Its number, as the service knows it.
    pub number: InodeNumber,
    state: Mutex<InodeState>,
    /// Held by whoever writes out or truncates: one at a time, so that commits keep the order of writing.
    pub turn: tokio::sync::Mutex<()>,
    /// Told when an upload has ended.
    pub progress: Notify,
}

/// Whether other sessions can know of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Privacy {
    /// They can.
    #[default]
    Shared,
    /// They cannot: at durability `fsync`, closing it does not wait for what was written.
    Private,
    /// Somebody waits until what was written while it was private is stored. Closing it waits; so does the acknowledgement of
    /// every invalidation until then, as the service tells again after a broken stream.
    Recalled,
}

/// What stands behind the lock.
#[derive(Debug)]
pub struct InodeState {
    /// Leased attributes, as the service last told.
    pub attributes: Option<Attributes>,
    /// Leased extents.
    pub extents: ExtentCache,
    /// The target of a symbolic link: it never changes.
    pub link_target: Option<Bytes>,
    extended_attributes: BTreeMap<Bytes, Result<Bytes, Errno>>,
    /// The directory that holds this one. Known while the service has this client for a holder of the attributes: a move
    /// changes them, and their invalidation ends this too. Own operations that make them unknown do not.
    parent: Option<InodeNumber>,
    /// Unwritten data.
    pub dirty: Dirty,
    /// Attribute changes that wait for it.
    pub deferred: Option<Deferred>,
    /// What happened to unwritten data, until a `write`, `fsync` or `close` has told it.
    pub error: Option<Errno>,
    /// Handles of this client.
    pub handles: u32,
    /// Opens that the service counts once it has executed what was sent.
    pub opens_sent: u32,
    /// Opens that the service counted according to its replies.
    pub opens_replied: u32,
    /// Whether another session can know of the file.
    pub privacy: Privacy,
    /// The inode vanished with a session that was lost: handles answer `ESTALE`.
    pub stale: bool,
    /// What was answered for it and has no reply yet. Until then the attributes are those of the last answer, or unknown: what replies
    /// tell is older.
    pub early: u32,
    /// The directory in whose delegation this client made it: nobody else has been told of it while that lasts.
    pub own: Option<(InodeNumber, Term)>,
    /// The version of the content that the kernel's pages are of, as far as known.
    pub pages_version: Option<Position>,
    /// Sequential readers.
    pub streams: ReadStreams,
}

impl Inode {
    /// An inode of which nothing is known.
    pub fn new(number: InodeNumber) -> Self {
        Self {
            number,
            state: Mutex::new(InodeState {
                attributes: None,
                extents: ExtentCache::default(),
                link_target: None,
                extended_attributes: BTreeMap::new(),
                parent: None,
                dirty: Dirty::new(Instant::now()),
                deferred: None,
                error: None,
                handles: 0,
                opens_sent: 0,
                opens_replied: 0,
                privacy: Privacy::Shared,
                stale: false,
                early: 0,
                own: None,
                pages_version: None,
                streams: ReadStreams::default(),
            }),
            turn: tokio::sync::Mutex::new(()),
            progress: Notify::new(),
        }
    }

    /// Its state, locked. Never held across an `await` or a call to the kernel.
    pub fn state(&self) -> MutexGuard<'_, InodeState> {
        lock(&self.state)
    }
}

impl InodeState {
    /// Attributes as this client's programs see them: with what it has written itself.
    pub fn seen(&self, attributes: &Attributes) -> Attributes {
        let mut seen = *attributes;
        if !self.dirty.is_empty() {
            seen.size_bytes = seen.size_bytes.max(self.dirty.end());
            seen.modified = self.dirty.modified;
            seen.changed = seen.changed.max(self.dirty.modified);
        }
        if let Some(deferred) = &self.deferred {
            deferred.seen(&mut seen);
        }
        seen
    }

    /// The leased attributes, as this client's programs see them.
    pub fn seen_attributes(&self) -> Option<Attributes> {
        self.attributes.map(|attributes| self.seen(&attributes))
    }

    /// The service has told the attributes.
    pub fn learn(&mut self, attributes: &Attributes) {
        if self.early > 0 {
            // Made before or after what was answered? It is asked for again when it is wanted.
            self.drop_attributes();
            return;
        }
        self.attributes = Some(*attributes);
    }

    /// Attributes are no longer leased.
    pub fn drop_attributes(&mut self) {
        self.attributes = None;
        self.extended_attributes.clear();
    }

    /// A listing has told which directory holds this one, or it has been moved.
    pub fn learn_parent(&mut self, parent: Option<InodeNumber>) {
        self.parent = parent.filter(|_| self.attributes.is_some());
    }

    /// The directory that holds this one, if it is known.
    pub fn parent(&self) -> Option<InodeNumber> {
        self.parent
    }

    /// Neither is anything else. What was written stays.
    pub fn drop_content(&mut self) {
        self.drop_attributes();
        self.parent = None;
        self.extents = ExtentCache::default();
        self.pages_version = None;
    }

    /// An own commit has changed the content from what the kernel's pages already hold.
    pub fn committed(&mut self, attributes: &Attributes) {
        self.pages_version = match (self.pages_version, self.attributes) {
            (Some(pages), Some(before)) if pages == before.content_version => {
                Some(attributes.content_version)
            }
            _ => None,
        };
        self.extended_attributes.clear();
        self.learn(attributes);
    }

    /// An extended attribute, if it is known.
    pub fn extended_attribute(&self, name: &[u8]) -> Option<Result<Bytes, Errno>> {
        let attributes = self.attributes?;
        if !attributes.has_extended_attributes && is_supported(name) {
            return Some(Err(Errno::NoData));
        }
        self.extended_attributes.get(name).cloned()
    }

    /// Is it known that there are no extended attributes?
    pub fn has_no_extended_attributes(&self) -> bool {
        self.attributes
            .is_some_and(|attributes| !attributes.has_extended_attributes)
    }

    /// An extended attribute has been read. Kept while the attributes are leased: every change of one changes the other.
    pub fn learn_extended_attribute(&mut self, name: &Bytes, value: Result<Bytes, Errno>) {
        if self.attributes.is_none() {
            return;
        }
        if self.extended_attributes.len() >= EXTENDED_ATTRIBUTES_MAX {
            self.extended_attributes.clear();
        }
        self.extended_attributes.insert(name.clone(), value);
    }

    /// An own operation has changed an extended attribute, or may have.
    pub fn drop_extended_attributes(&mut self) {
        self.extended_attributes.clear();
    }

    /// May it be forgotten? Not while something is open, unwritten, or untold.
    pub fn is_idle(&self) -> bool {
        self.handles == 0
            && self.opens_sent == 0
            && self.opens_replied == 0
            && self.is_written()
            && self.early == 0
            && self.error.is_none()
    }

    /// How much memory it takes, in units of about 256 bytes.
    pub fn weight(&self) -> u64 {
        let values: usize = self
            .extended_attributes
            .values()
            .map(|value| value.as_ref().map_or(0, Bytes::len))
            .sum();
        2 + self.extents.weight() + values as u64 / 256
    }
}
