//! What a mount is asked for.

use std::sync::Arc;
use std::time::Duration;

use twinshore_protocol::{FileName, Timestamp};

use super::dirty::Sizes;
use crate::logbook::Logbook;

/// Tells the time of files: `CLOCK_REALTIME` in production, virtual in the simulation.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Files whose unwritten data is less than this share an object with others.
pub const PACK_LIMIT_BYTES: u64 = 256 << 10;

/// A deliberate fault: it exists to prove that the simulation finds it. Without the feature `deliberate-faults` none can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Goes on answering for directories that it has returned.
    AnswerAfterRecall,
    /// Does not send what it has answered, now and then.
    ForgetAnswered,
}

/// How a [`Vfs`](super::Vfs) works.
#[derive(Clone)]
pub struct VfsOptions {
    /// Nothing can be changed through this mount: `EROFS`.
    pub read_only: bool,
    /// The directory of the volume that is the root of the mount.
    pub subdirectory: Vec<FileName>,
    /// Unwritten bytes in memory at most. Uploads have up to `upload_parallelism` objects besides, encoded.
    pub buffer_size_bytes: u64,
    /// Content of an object of a large file: 4 to 16 MiB.
    pub object_size_bytes: u64,
    /// Objects uploaded at a time.
    pub upload_parallelism: usize,
    /// Ranges downloaded at a time.
    pub download_parallelism: usize,
    /// Bytes fetched ahead of one sequential reader at most.
    pub readahead_bytes: u64,
    /// Bytes fetched ahead of all readers at most.
    pub readahead_total_bytes: u64,
    /// Memory for attributes and extents, in units of about 256 bytes: half a thousand bytes per inode.
    pub inode_cache_units: u64,
    /// Names of directory entries in memory.
    pub entry_cache_names: usize,
    /// How long a write is tried again before it fails with `EIO`.
    pub write_limit: Duration,
    /// How long a read may take before it fails with `EIO`.
    pub read_limit: Duration,
    /// Unwritten data that has not been added to for so long is written out.
    pub idle_limit: Duration,
    /// Unwritten data of this age is written out.
    pub age_limit: Duration,
    /// The time of files.
    pub clock: Clock,
    /// What is kept for a successor of this process; `None` to keep nothing.
    pub logbook: Option<Arc<Logbook>>,
    /// A deliberate fault.
    pub fault: Option<Fault>,
}

impl VfsOptions {
    /// What suits a mount when nothing else is said.
    pub fn new(clock: Clock) -> Self {
        Self {
            read_only: false,
            subdirectory: Vec::new(),
            buffer_size_bytes: 300 << 20,
            object_size_bytes: 4 << 20,
            upload_parallelism: 20,
            download_parallelism: 64,
            readahead_bytes: 32 << 20,
            readahead_total_bytes: 128 << 20,
            inode_cache_units: 1 << 19,
            entry_cache_names: 1 << 19,
            write_limit: Duration::from_mins(1),
            read_limit: Duration::from_secs(30),
            idle_limit: Duration::from_secs(1),
            age_limit: Duration::from_secs(5),
            clock,
            logbook: None,
            fault: None,
        }
    }

    /// Is this fault on?
    pub(super) fn has(&self, fault: Fault) -> bool {
        cfg!(any(test, feature = "deliberate-faults")) && self.fault == Some(fault)
    }

    pub(super) fn sizes(&self, inline_limit_bytes: u32) -> Sizes {
        Sizes {
            inline_limit_bytes: u64::from(inline_limit_bytes),
            pack_limit_bytes: PACK_LIMIT_BYTES,
            object_bytes: self.object_size_bytes,
        }
    }
}
