//! What `stat` tells of a file, and how it can be changed.

use minicbor::{Decode, Encode};

use crate::identifiers::{InodeNumber, Position};
use crate::time::Timestamp;

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum FileType {
    /// A regular file.
    #[n(0)]
    Regular,
    /// A directory.
    #[n(1)]
    Directory,
    /// A symbolic link.
    #[n(2)]
    SymbolicLink,
    /// A named pipe.
    #[n(3)]
    Fifo,
    /// A socket.
    #[n(4)]
    Socket,
    /// A character device.
    #[n(5)]
    CharacterDevice,
    /// A block device.
    #[n(6)]
    BlockDevice,
}

/// The attributes of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Attributes {
    /// The inode.
    #[n(0)]
    pub inode: InodeNumber,
    /// Its type, fixed for life.
    #[n(1)]
    pub kind: FileType,
    /// Permission bits, set-user-id, set-group-id and sticky: 12 bits.
    #[n(2)]
    pub mode: u16,
    /// Number of names; for a directory 2 plus the number of its sub-directories; 0 when it has no name any more.
    #[n(3)]
    pub links: u32,
    /// The owner.
    #[n(4)]
    pub user: u32,
    /// The owning group.
    #[n(5)]
    pub group: u32,
    /// Device number of a device node, in the encoding of Linux' `struct stat`, else 0.
    #[n(6)]
    pub device: u32,
    /// Size in bytes; of a directory the number of its entries times 32 (an arbitrary but stable convention); of a
    /// symbolic link the length of its target.
    #[n(7)]
    pub size_bytes: u64,
    /// Bytes that extents really hold: holes do not count. `st_blocks` is this in units of 512, rounded up.
    #[n(8)]
    pub allocated_bytes: u64,
    /// Last access.
    #[n(9)]
    pub accessed: Timestamp,
    /// Last change of content.
    #[n(10)]
    pub modified: Timestamp,
    /// Last change of anything.
    #[n(11)]
    pub changed: Timestamp,
    /// The position of the last record that changed the content: cached pages of the same version are still good.
    #[n(12)]
    pub content_version: Position,
    /// Are there any extended attributes or ACLs? Programs that list a directory ask every file for some, and nearly never is
    /// there one.
    #[n(13)]
    pub has_extended_attributes: bool,
}

/// A time to set: `utimensat` knows a value, now, and leave alone (the latter is `None` in [`AttributeChanges`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TimeChange {
    /// The time of the service when it executes the operation.
    #[n(0)]
    Now,
    /// A given time.
    #[n(1)]
    To(#[n(0)] Timestamp),
}

/// The attributes to set; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct AttributeChanges {
    /// New mode, 12 bits.
    #[n(0)]
    pub mode: Option<u16>,
    /// New owner.
    #[n(1)]
    pub user: Option<u32>,
    /// New group.
    #[n(2)]
    pub group: Option<u32>,
    /// New size in bytes: truncates or extends by a hole.
    #[n(3)]
    pub size_bytes: Option<u64>,
    /// New access time.
    #[n(4)]
    pub accessed: Option<TimeChange>,
    /// New modification time.
    #[n(5)]
    pub modified: Option<TimeChange>,
}
