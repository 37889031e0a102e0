//! The values of the view: CBOR arrays with numbered fields, which later releases may lengthen by optional ones.

use bytes::Bytes;
use minicbor::{Decode, Encode};
use twinshore_protocol::extent::cbor_bytes;
use twinshore_protocol::identifiers::NumberRange;
use twinshore_protocol::message::{Role, SessionDescription};
use twinshore_protocol::replication::SynchronisationCounts;
use twinshore_protocol::{
    Attributes, Epoch, FileName, FileType, InodeNumber, ObjectId, Position, Reply, RequestNumber, SessionId,
    Side, Sides, Timestamp,
};

/// With fewer extents a file is not fragmented, however small they are.
const FRAGMENTED_EXTENTS: u64 = 4;

/// Below this mean length of its extents a file is fragmented. Random writes of 4 KiB reach it when an eighth of the
/// file has been overwritten, so what compaction writes anew is at most about eight times what programs wrote.
const FRAGMENT_MEAN_BYTES: u64 = 32 << 10;

/// Where an inode belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Place {
    /// It has a name, the first of them in this directory, whose usage counts it. The root is its own parent.
    #[n(0)]
    Named {
        /// The directory.
        #[n(0)]
        parent: InodeNumber,
    },
    /// It is in the trash.
    #[n(1)]
    Trash {
        /// Since when.
        #[n(0)]
        removed: Timestamp,
    },
    /// It has no name: open, or to be cleaned up.
    #[n(2)]
    Orphan {
        /// Parts of it are already gone: it must not be used any more.
        #[n(0)]
        cleaning: bool,
    },
}

/// `I`: an inode.
#[allow(clippy::struct_excessive_bools)] // Each says something of its own, in any combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InodeRow {
    /// What `stat` tells.
    #[n(0)]
    pub attributes: Attributes,
    /// Where it belongs.
    #[n(1)]
    pub place: Place,
    /// It has an access ACL beyond its mode.
    #[n(2)]
    pub has_access_acl: bool,
    /// It is a directory with a default ACL.
    #[n(3)]
    pub has_default_acl: bool,
    /// It has file capabilities.
    #[n(4)]
    pub has_capability: bool,
    /// Length of the names of all extended attributes, each with its terminating NUL.
    #[n(5)]
    pub xattr_names_bytes: u32,
    /// How many extents it has.
    #[n(6)]
    #[cbor(default)]
    pub extents: u64,
    /// It stands in `F`.
    #[n(7)]
    #[cbor(default)]
    pub fragmented: bool,
}

impl InodeRow {
    /// Its number.
    pub const fn number(&self) -> InodeNumber {
        self.attributes.inode
    }

    /// The length of the names of all extended attributes has become this.
    pub fn count_xattr_names(&mut self, names_bytes: u32) {
        self.xattr_names_bytes = names_bytes;
        self.attributes.has_extended_attributes = names_bytes > 0;
    }

    /// Does it lie in many small extents? Where they could be joined, reading it would take far fewer requests.
    pub fn is_fragmented(&self) -> bool {
        self.extents >= FRAGMENTED_EXTENTS
            && self.attributes.allocated_bytes < self.extents.saturating_mul(FRAGMENT_MEAN_BYTES)
    }

    /// Is it a directory?
    pub fn is_directory(&self) -> bool {
        self.attributes.kind == FileType::Directory
    }
}

/// `D`: what a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EntryRow {
    /// The inode.
    #[n(0)]
    pub inode: InodeNumber,
    /// Its type.
    #[n(1)]
    pub kind: FileType,
}

/// Where the bytes of an extent are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SourceRow {
    /// In an object.
    #[n(0)]
    Object {
        /// Which.
        #[n(0)]
        object: ObjectId,
        /// Where in its content.
        #[n(1)]
        offset: u64,
    },
    /// Here.
    #[n(1)]
    Inline {
        /// The bytes.
        #[cbor(n(0), with = "cbor_bytes")]
        bytes: Bytes,
        /// The record that brought them: their key in `P`.
        #[n(1)]
        position: Position,
        /// When that was.
        #[n(2)]
        since: Timestamp,
    },
    /// Nowhere: reserved, zeros.
    #[n(2)]
    Reserved,
}

impl SourceRow {
    /// The part that begins `skipped` bytes later and is `length` long.
    #[must_use]
    pub fn part(&self, skipped: u64, length: u64) -> Self {
        match self {
            Self::Object { object, offset } => Self::Object {
                object: *object,
                offset: offset + skipped,
            },
            Self::Inline {
                bytes,
                position,
                since,
            } => {
                #[allow(clippy::cast_possible_truncation)] // Both lie within the bytes, which are in memory.
                let range = skipped as usize..(skipped + length) as usize;
                Self::Inline {
                    bytes: bytes.slice(range),
                    position: *position,
                    since: *since,
                }
            }
            Self::Reserved => Self::Reserved,
        }
    }
}

/// `E`: an extent. Its end is in the key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ExtentRow {
    /// Its length.
    #[n(0)]
    pub length: u64,
    /// Where the bytes are.
    #[n(1)]
    pub source: SourceRow,
}

/// `X` and `S`: bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct BytesRow(#[cbor(n(0), with = "cbor_bytes")] pub Bytes);

/// `U`: what is below a directory, at any depth, without the directory itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UsageRow {
    /// Allocated bytes.
    #[n(0)]
    pub bytes: u64,
    /// Inodes.
    #[n(1)]
    pub inodes: u64,
    /// The directory that holds it, again, so that a walk to the root reads one row per directory.
    #[n(2)]
    pub parent: InodeNumber,
    /// It has a row in `Q`.
    #[n(3)]
    pub limited: bool,
    /// Claimed directories at it or below it: none of them can be moved or removed.
    #[n(4)]
    #[cbor(default)]
    pub claimed: u32,
}

/// `Q`: limits of what is below a directory, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct QuotaRow {
    /// Allocated bytes.
    #[n(0)]
    pub limit_bytes: Option<u64>,
    /// Inodes.
    #[n(1)]
    pub limit_inodes: Option<u64>,
}

/// `H`: where something removed was.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TrashRow {
    /// The directory.
    #[n(0)]
    pub parent: InodeNumber,
    /// The name.
    #[n(1)]
    pub name: FileName,
}

/// How far an object has lived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Life {
    /// Some extent names it.
    #[n(0)]
    Live,
    /// No extent names it since this position: it stands in `G`. A commit may still name it again.
    #[n(1)]
    Dead(#[n(0)] Position),
    /// Buckets are being told to delete it (`g`). Final.
    #[n(2)]
    Deleting,
}

/// `O`: an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ObjectRow {
    /// Bytes in the bucket.
    #[n(0)]
    pub stored_bytes: u64,
    /// Bytes of content.
    #[n(1)]
    pub content_bytes: u64,
    /// CRC-32C of the stored bytes.
    #[n(2)]
    pub checksum: u32,
    /// Where it is known to be.
    #[n(3)]
    pub present: Sides,
    /// Bytes of content that extents name, counted once per extent.
    #[n(4)]
    pub live_bytes: u64,
    /// The oldest position whose state needs it.
    #[n(5)]
    pub position: Position,
    /// How far it has lived.
    #[n(6)]
    pub life: Life,
    /// The record that registered it.
    #[n(7)]
    pub registered: Position,
    /// The files whose extents name it, or have named it, have numbers in this range. `None` if no file ever did.
    #[n(8)]
    pub named_by: Option<InodeSpan>,
}

impl ObjectRow {
    /// Bytes of content that no file names, if they are at least half of a live object; else 0. A dead object is not sparse:
    /// it goes as a whole.
    pub fn sparse_bytes(&self) -> u64 {
        let unnamed = self.content_bytes.saturating_sub(self.live_bytes);
        if self.life == Life::Live && unnamed >= self.live_bytes {
            unnamed
        } else {
            0
        }
    }
}

/// A range of inode numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InodeSpan {
    /// The lowest.
    #[n(0)]
    pub first: InodeNumber,
    /// The highest.
    #[n(1)]
    pub last: InodeNumber,
}

impl InodeSpan {
    /// The range that has one more in it.
    #[must_use]
    pub fn with(span: Option<Self>, inode: InodeNumber) -> Self {
        span.map_or(
            Self {
                first: inode,
                last: inode,
            },
            |span| Self {
                first: span.first.min(inode),
                last: span.last.max(inode),
            },
        )
    }

    /// Is it in the range?
    pub fn contains(&self, inode: InodeNumber) -> bool {
        self.first <= inode && inode <= self.last
    }
}

/// `R`: a copy owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OwedRow {
    /// Bytes in the bucket.
    #[n(0)]
    pub stored_bytes: u64,
    /// CRC-32C of the stored bytes.
    #[n(1)]
    pub checksum: u32,
    /// Since when it is owed.
    #[n(2)]
    pub since: Timestamp,
    /// Set aside: owed, but not handed out.
    #[n(3)]
    pub quarantined: bool,
}

/// `B`: why a copy is set aside.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct QuarantineRow {
    /// For a person.
    #[n(0)]
    pub reason: String,
    /// Since when.
    #[n(1)]
    pub since: Timestamp,
}

/// `P`: an inline extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InlineRow {
    /// Its length.
    #[n(0)]
    pub length: u64,
    /// Since when it exists.
    #[n(1)]
    pub since: Timestamp,
}

/// `G`: a dead object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeadRow {
    /// Since when.
    #[n(0)]
    pub since: Timestamp,
}

/// `C`: a session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionRow {
    /// Which.
    #[n(0)]
    pub session: SessionId,
    /// What it is.
    #[n(1)]
    pub role: Role,
    /// Its near side.
    #[n(2)]
    pub near: Side,
    /// Who it says it is.
    #[n(3)]
    pub description: SessionDescription,
    /// Numbers for new inodes, oldest first.
    #[n(4)]
    pub inodes: Vec<NumberRange>,
    /// Numbers for new objects, oldest first.
    #[n(5)]
    pub objects: Vec<ObjectRange>,
}

/// Numbers for new objects, of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ObjectRange {
    /// The epoch.
    #[n(0)]
    pub epoch: Epoch,
    /// The numbers.
    #[n(1)]
    pub numbers: NumberRange,
}

/// `A`: the result of a mutating request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ResultRow {
    /// Its number.
    #[n(0)]
    pub number: RequestNumber,
    /// The reply.
    #[n(1)]
    pub reply: Reply,
}

/// Where the next granted numbers begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CountersRow {
    /// Of inodes.
    #[n(0)]
    pub next_inode: u64,
    /// Of objects.
    #[n(1)]
    pub next_object: u64,
}

/// A number of things and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Tally {
    /// How many.
    #[n(0)]
    pub count: u64,
    /// How many bytes.
    #[n(1)]
    pub bytes: u64,
}

/// Sums over the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TotalsRow {
    /// Live objects, and their stored bytes.
    #[n(0)]
    pub objects: Tally,
    /// Inline extents.
    #[n(1)]
    pub inline: Tally,
    /// Inodes in the trash.
    #[n(2)]
    pub trash: Tally,
    /// Inodes without a name that are open or to be cleaned up.
    #[n(3)]
    pub orphans: Tally,
    /// Copies owed, by side.
    #[n(4)]
    pub owed: [Tally; 2],
    /// Deletions owed, by side.
    #[n(5)]
    pub deletions: [u64; 2],
    /// Sparse objects, and the bytes of content in them that no file names.
    #[n(6)]
    #[cbor(default)]
    pub sparse: Tally,
    /// Fragmented files.
    #[n(7)]
    #[cbor(default)]
    pub fragmented: u64,
}

/// The full synchronisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SynchronisationRow {
    /// One was asked for or is running.
    #[n(0)]
    pub running: bool,
    /// Counts of the running one, or of the last.
    #[n(1)]
    pub counts: SynchronisationCounts,
    /// Where a successor resumes.
    #[n(2)]
    pub checked_until: Option<ObjectId>,
    /// When the last one finished.
    #[n(3)]
    pub finished: Option<Timestamp>,
}

/// The walk over all objects after the target has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BackfillRow {
    /// The record that changed the target: objects registered by it or later are right already.
    #[n(0)]
    pub changed: Position,
    /// When that was.
    #[n(1)]
    pub since: Timestamp,
    /// The last object that was done.
    #[n(2)]
    pub after: Option<ObjectId>,
}
