//! What goes into [`Vfs`](super::Vfs) and what comes out of it: the traits that its surroundings implement, and the types of
//! its answers.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::message::Invalidation;
use twinshore_protocol::replication::Task;
use twinshore_protocol::reply::FileSystemUsage;
use twinshore_protocol::{Attributes, FileName, FileType, InodeNumber, ObjectId};

use super::fetch::BLOCK;

/// Consecutive blocks of an object, decoded, in one piece of memory. Only an object's last block is shorter than the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRun {
    /// The number of the first.
    pub first_block: u64,
    /// Their content. It keeps little more memory alive than its own length.
    pub content: Bytes,
}

impl BlockRun {
    /// The number after the last block.
    pub fn end_block(&self) -> u64 {
        self.first_block + (self.content.len() as u64).div_ceil(BLOCK)
    }
}

/// Why blocks are to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They were read from a bucket, because somebody wants them or will soon.
    Fetched,
    /// They were just written.
    Written,
}

/// A cache of decoded blocks of objects. Objects are immutable, so what it holds never becomes wrong; it may forget anything
/// at any time. Whoever implements it verifies what it reads back from a disk.
#[async_trait]
pub trait BlockCache: Send + Sync {
    /// The content from the beginning of a block on, as far as it lies together in memory, if the block can be answered at once.
    /// Never less than the block.
    fn peek(&self, object: ObjectId, block: u64) -> Option<Bytes> {
        let _ = (object, block);
        None
    }

    /// What there is of these blocks, in memory or on a disk: runs in order that do not overlap. They may go on beyond the end.
    async fn get(&self, object: ObjectId, blocks: Range<u64>) -> Vec<BlockRun>;

    /// Keeps blocks. Must not block; under pressure it drops what it is given.
    fn insert(&self, object: ObjectId, run: BlockRun, origin: Origin);
}

/// Drops what the kernel has cached. Inode numbers are the kernel's: the root of the mount is [`InodeNumber::ROOT`].
pub trait KernelInvalidator: Send + Sync {
    /// Queues the items, in order, and returns at once. `done` runs when the kernel has dropped them: until then the service
    /// does not answer the change that caused them.
    fn invalidate(&self, items: Vec<Invalidation>, done: Box<dyn FnOnce() + Send>);

    /// No lease is held any more: everything that the kernel has cached of this mount is to be dropped.
    fn drop_everything(&self);

    /// `done` runs when the kernel has dropped all that it was to drop until now.
    fn when_dropped(&self, done: Box<dyn FnOnce() + Send>);

    /// An operation of this mount that changes names begins. Until it is answered the kernel holds the locks of directories
    /// without which it cannot drop a name, and the answer may be waiting for somebody who waits for this very mount to drop
    /// one. So until [`Self::changed_names`] names are dropped in a way that needs no lock, those that wait already included.
    fn changing_names(&self) {}

    /// It has ended.
    fn changed_names(&self) {}
}

/// Takes what concerns replication and the volume's settings, and not the file system.
pub trait TaskRunner: Send + Sync {
    /// Copies and deletions leased to this mount.
    fn tasks(&self, tasks: Vec<Task>) {
        let _ = tasks;
    }

    /// A full synchronisation to carry out, from after an object.
    fn synchronise(&self, after: Option<ObjectId>) {
        let _ = after;
    }

    /// The settings of the volume have changed: perhaps its buckets.
    fn format_changed(&self, format: &VolumeFormat) {
        let _ = format;
    }
}

/// An open file or directory: FUSE's `fh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // They are independent flags of `open`.
pub struct OpenFlags {
    /// `O_WRONLY` or `O_RDWR`.
    pub write: bool,
    /// `O_APPEND`.
    pub append: bool,
    /// `O_TRUNC`.
    pub truncate: bool,
    /// `O_DIRECT`: a write is stored before it is answered.
    pub direct: bool,
    /// `O_SYNC` or `O_DSYNC`: a write is durable before it is answered.
    pub synchronous: bool,
}

impl OpenFlags {
    /// As they are recorded.
    pub const fn bits(self) -> u8 {
        let Self {
            write,
            append,
            truncate,
            direct,
            synchronous,
        } = self;
        write as u8
            | (append as u8) << 1
            | (truncate as u8) << 2
            | (direct as u8) << 3
            | (synchronous as u8) << 4
    }

    /// The other way round.
    pub const fn from_bits(bits: u8) -> Self {
        Self {
            write: bits & 1 != 0,
            append: bits & 2 != 0,
            truncate: bits & 4 != 0,
            direct: bits & 8 != 0,
            synchronous: bits & 16 != 0,
        }
    }
}

/// Attributes, and for how long the kernel may use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributed {
    /// The attributes as this client sees them, with its own unwritten data. The inode number is the kernel's.
    pub attributes: Attributes,
    /// What remains of the lease; zero if there is none.
    pub time_to_live: Duration,
}

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This inode. The time to live is for the entry and for the attributes.
    Entry(Attributed),
    /// Nothing (`ENOENT`), and for how long the kernel may rely on it; zero for not at all.
    Absent(Duration),
}

/// An opened file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The handle, to be given back with `release`.
    pub handle: Handle,
    /// The pages that the kernel has cached of the inode are still good (`FOPEN_KEEP_CACHE`).
    pub keep_cache: bool,
}

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEntry {
    /// The name.
    pub name: FileName,
    /// What it names (the kernel's number).
    pub inode: InodeNumber,
    /// Its type.
    pub kind: FileType,
    /// Where the listing goes on after this entry: at least 3 (1 and 2 are free for `.` and `..`) and below 2^63. Two
    /// neighbours may share a cookie: whoever takes one of them takes both, or neither.
    pub cookie: u64,
    /// Leased attributes, if they were asked for and are known.
    pub attributes: Option<Attributed>,
}

/// A part of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPage {
    /// The entries, in order of their cookies. Empty only at the end.
    pub entries: Vec<ListedEntry>,
    /// There are no more after these.
    pub complete: bool,
    /// `..` as the kernel knows it; of the root of the mount, itself.
    pub parent: InodeNumber,
}

/// What `statfs` answers.
pub type Usage = FileSystemUsage;
