//! What an operation answers when it succeeds.

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::attributes::{Attributes, FileType};
use crate::claims::{Claim, ClaimsPage, HoldsPage, Refused, Snapshot, SnapshotsPage};
use crate::extent::Extent;
use crate::identifiers::{InodeNumber, NumberRange, ObjectId, Sides};
use crate::lock::Lock;
use crate::name::FileName;
use crate::status::VolumeStatus;
use crate::time::Timestamp;

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DirectoryEntry {
    /// The name.
    #[n(0)]
    pub name: FileName,
    /// What it names.
    #[n(1)]
    pub inode: InodeNumber,
    /// Its type.
    #[n(2)]
    pub kind: FileType,
    /// Where the listing goes on after this entry: at least 3 and below 2^63. Two entries may share one (a hash
    /// collision); a reader then takes both or neither.
    #[n(3)]
    pub cookie: u64,
    /// If asked for.
    #[n(4)]
    pub attributes: Option<Attributes>,
}

/// Numbers of `statfs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileSystemUsage {
    /// Bytes allocated by extents.
    #[n(0)]
    pub used_bytes: u64,
    /// The limit, if one is set.
    #[n(1)]
    pub limit_bytes: Option<u64>,
    /// Inodes in use.
    #[n(2)]
    pub used_inodes: u64,
    /// The limit, if one is set.
    #[n(3)]
    pub limit_inodes: Option<u64>,
}

/// Something removed that can be restored.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TrashItem {
    /// The inode.
    #[n(0)]
    pub inode: InodeNumber,
    /// Its type.
    #[n(1)]
    pub kind: FileType,
    /// The directory that it was removed from.
    #[n(2)]
    pub parent: InodeNumber,
    /// The name that it had.
    #[n(3)]
    pub name: FileName,
    /// When it was removed.
    #[n(4)]
    pub removed: Timestamp,
    /// Its size.
    #[n(5)]
    pub size_bytes: u64,
}

/// An object as metadata knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ObjectRecord {
    /// Its name.
    #[n(0)]
    pub object: ObjectId,
    /// Bytes in the bucket.
    #[n(1)]
    pub stored_bytes: u64,
    /// CRC-32C of the stored bytes.
    #[n(2)]
    pub checksum: u32,
    /// Where it is known to be.
    #[n(3)]
    pub present: Sides,
    /// Bytes of content that files still name; 0 means that it is to be deleted.
    #[n(4)]
    pub live_bytes: u64,
    /// Bytes of content.
    #[n(5)]
    pub content_bytes: u64,
}

/// A successful reply.
///
/// Replies that carry attributes, entries or extents grant a lease on them: the client may use them until they are
/// invalidated or its lease ends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// Nothing to tell.
    #[n(0)]
    Done,
    /// A name and what it names.
    #[n(1)]
    Entry(#[n(0)] Attributes),
    /// An inode.
    #[n(2)]
    Attributes(#[n(0)] Attributes),
    /// `Create`: the file, open.
    #[n(3)]
    Created {
        /// Its attributes.
        #[n(0)]
        attributes: Attributes,
        /// It did not exist before.
        #[n(1)]
        new: bool,
        /// No other session knows of it: at durability `fsync` it may be closed before what was written to it is stored, as
        /// long as the session has not been told to drop its content, and has not released it.
        #[n(2)]
        #[cbor(default)]
        private: bool,
    },
    /// A symbolic link's target or an extended attribute's value.
    #[n(4)]
    Bytes(#[cbor(n(0), with = "crate::extent::cbor_bytes")] Bytes),
    /// A page of a directory.
    #[n(5)]
    Directory {
        /// The entries in the order of their cookies.
        #[n(0)]
        entries: Vec<DirectoryEntry>,
        /// There are no more (up to the last cookie that was asked for).
        #[n(1)]
        complete: bool,
        /// The directory that holds it: `..`. Of the root and of a directory without a name, itself.
        #[n(2)]
        parent: Option<InodeNumber>,
    },
    /// Extents of a range, in order, without overlap, clipped to the range. What is between them is a hole.
    #[n(6)]
    Extents {
        /// The extents.
        #[n(0)]
        extents: Vec<Extent>,
        /// The file offset up to which the answer is complete.
        #[n(1)]
        covered_until: u64,
        /// The attributes at the same moment.
        #[n(2)]
        attributes: Attributes,
    },
    /// The files' attributes after a `Commit`, in the order of its files.
    #[n(7)]
    Committed {
        /// The attributes.
        #[n(0)]
        attributes: Vec<Attributes>,
    },
    /// `CopyRange`.
    #[n(8)]
    Copied {
        /// Bytes copied: 0 at the source's end.
        #[n(0)]
        length: u64,
        /// The destination afterwards.
        #[n(1)]
        attributes: Attributes,
    },
    /// `Seek`.
    #[n(9)]
    Offset(#[n(0)] u64),
    /// Names of extended attributes.
    #[n(10)]
    Names(#[n(0)] Vec<XattrName>),
    /// `statfs`.
    #[n(11)]
    FileSystem(#[n(0)] FileSystemUsage),
    /// `F_GETLK`: the lock in the way, if any.
    #[n(12)]
    Lock(#[n(0)] Option<Lock>),
    /// `Unlink` and `RemoveDirectory`: what lost its name, as it is now.
    #[n(13)]
    Removed {
        /// The inode that lost the name.
        #[n(0)]
        attributes: Attributes,
        /// The directory afterwards.
        #[n(1)]
        parent: Attributes,
    },
    /// `Rename`.
    #[n(14)]
    Renamed {
        /// What was moved.
        #[n(0)]
        moved: Attributes,
        /// What the new name named before: replaced, or exchanged.
        #[n(1)]
        replaced: Option<Attributes>,
    },
    /// `GrantNumbers`.
    #[n(15)]
    Granted {
        /// For new inodes.
        #[n(0)]
        inodes: NumberRange,
        /// For new objects, in the epoch of the reply.
        #[n(1)]
        objects: NumberRange,
    },
    /// `GetUsage`: of the whole tree below the directory, itself included.
    #[n(16)]
    DirectoryUsage(#[n(0)] FileSystemUsage),
    /// `ListTrash`.
    #[n(17)]
    Trash(#[n(0)] Vec<TrashItem>),
    /// `GetStatus`.
    #[n(18)]
    Status(#[n(0)] Box<VolumeStatus>),
    /// `ListObjects`: fewer than asked for at the end.
    #[n(19)]
    Objects(#[n(0)] Vec<ObjectRecord>),
    /// `ListInline`: files and their inline extents.
    #[n(20)]
    InlineExtents(#[n(0)] Vec<(InodeNumber, Extent)>),
    /// `ListCompaction`: extents to be written anew together, in the order of their files.
    #[n(21)]
    Compaction {
        /// Files and their extents; all in objects.
        #[n(0)]
        extents: Vec<(InodeNumber, Extent)>,
        /// The pass goes on: ask again, even if this time there was nothing.
        #[n(1)]
        more: bool,
    },
    /// `ClaimDirectory`, `GetClaim`, `ResizeClaim`.
    #[n(40)]
    Claim(#[n(0)] Box<Claim>),
    /// `ListClaims`.
    #[n(41)]
    Claims(#[n(0)] ClaimsPage),
    /// `CreateSnapshot`, `GetSnapshot`.
    #[n(42)]
    Snapshot(#[n(0)] Box<Snapshot>),
    /// `ListSnapshots`.
    #[n(43)]
    Snapshots(#[n(0)] SnapshotsPage),
    /// `ListAccess`.
    #[n(44)]
    Holds(#[n(0)] HoldsPage),
    /// An operation on claims, snapshots or access was refused: nothing was changed.
    #[n(45)]
    Refused(#[n(0)] Box<Refused>),
}

/// The name of an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct XattrName(#[cbor(n(0), with = "crate::extent::cbor_bytes")] pub Bytes);
