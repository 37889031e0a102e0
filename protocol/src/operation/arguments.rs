//! What operations are given.

use crate::extent::ExtentSource;
use crate::identifiers::{InodeNumber, ObjectId, Sides};
use crate::time::Timestamp;
use minicbor::{Decode, Encode};

/// On whose behalf an operation runs.
///
/// The kernel checks permissions with what it has cached (`default_permissions`); the service checks again what the
/// kernel cannot see, against the present attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Caller {
    /// The file-system user id.
    #[n(0)]
    pub user: u32,
    /// The file-system group id.
    #[n(1)]
    pub group: u32,
    /// Supplementary groups, where the client knows them.
    #[n(2)]
    pub groups: Vec<u32>,
    /// The program has been answered already, at this time of the service's clock, by a client to which the directory was
    /// delegated. The operation is executed as of then, and refused only if it is impossible.
    #[n(3)]
    pub answered: Option<Timestamp>,
}

impl Caller {
    /// The superuser.
    pub const ROOT: Self = Self {
        user: 0,
        group: 0,
        groups: Vec::new(),
        answered: None,
    };
}

/// What identifies a new inode: the number comes from the range granted to the session, so that a client with a
/// delegation can answer before the service has seen the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NewInode {
    /// A number of the session's range that it has not used before.
    #[n(0)]
    pub inode: InodeNumber,
    /// Mode bits as the program asked, before the umask.
    #[n(1)]
    pub mode: u16,
    /// The umask, which a default ACL of the parent replaces.
    #[n(2)]
    pub umask: u16,
}

/// How `rename` treats the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum RenameMode {
    /// Replaces what the new name names.
    #[n(0)]
    Replace,
    /// Fails with `EEXIST` if there is something (`RENAME_NOREPLACE`).
    #[n(1)]
    NoReplace,
    /// Exchanges the two (`RENAME_EXCHANGE`).
    #[n(2)]
    Exchange,
}

/// Whether an extended attribute has to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SetMode {
    /// Creates or replaces.
    #[n(0)]
    Any,
    /// `XATTR_CREATE`: fails with `EEXIST`.
    #[n(1)]
    Create,
    /// `XATTR_REPLACE`: fails with `ENODATA`.
    #[n(2)]
    Replace,
}

/// What `fallocate` does to the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AllocateMode {
    /// Reserves space where there is none.
    #[n(0)]
    Reserve {
        /// The size stays even if the range ends beyond it.
        #[n(0)]
        keep_size: bool,
    },
    /// Makes a hole. The size always stays.
    #[n(1)]
    PunchHole,
    /// Makes the range read as zeros, reserved.
    #[n(2)]
    Zero {
        /// The size stays even if the range ends beyond it.
        #[n(0)]
        keep_size: bool,
    },
}

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SeekTarget {
    /// `SEEK_DATA`.
    #[n(0)]
    Data,
    /// `SEEK_HOLE`.
    #[n(1)]
    Hole,
}

/// An object that has been stored, named for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NewObject {
    /// Its name, from the session's range.
    #[n(0)]
    pub object: ObjectId,
    /// Bytes in the bucket, header and checksums included.
    #[n(1)]
    pub stored_bytes: u64,
    /// Bytes of content, decoded.
    #[n(2)]
    pub content_bytes: u64,
    /// CRC-32C of all stored bytes.
    #[n(3)]
    pub checksum: u32,
    /// Where it is by now.
    #[n(4)]
    pub present: Sides,
}

/// One range of a file that a commit gives new content.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileWrite {
    /// Where the range begins in the file.
    #[n(0)]
    pub file_offset: u64,
    /// Its length in bytes.
    #[n(1)]
    pub length: u64,
    /// Where the bytes are. `Inline` at most the volume's `inline_limit_bytes`; never `Reserved`.
    #[n(2)]
    pub source: ExtentSource,
}

/// What a commit does to one file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileCommit {
    /// The file.
    #[n(0)]
    pub inode: InodeNumber,
    /// The ranges, later ones win where they overlap. The size grows to their end if it is smaller.
    #[n(1)]
    pub writes: Vec<FileWrite>,
    /// When the last of them was written, or `None` for now. A later `utimensat` of the program is a `SetAttributes`.
    #[n(2)]
    pub modified: Option<Timestamp>,
    /// Clear set-user-id and set-group-id, because somebody else than root wrote.
    #[n(3)]
    pub clear_privileges: bool,
}

/// One exchange of a `Repoint`: applied only where the old extent stands unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ExtentExchange {
    /// The file.
    #[n(0)]
    pub inode: InodeNumber,
    /// The extent as it was read.
    #[n(1)]
    pub old: crate::extent::Extent,
    /// Where the same bytes are now.
    #[n(2)]
    pub new: ExtentSource,
}
