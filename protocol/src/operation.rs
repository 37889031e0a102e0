//! Every operation of the metadata service. One POSIX operation is one operation here, so it costs one message.

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::attributes::{AttributeChanges, FileType};
use crate::extent::ExtentSource;
use crate::format::VolumeSettings;
use crate::identifiers::{InodeNumber, ObjectId, Sides};
use crate::lock::Lock;
use crate::name::FileName;
use crate::replication::{CopyReport, SynchronisationReport};
use crate::time::Timestamp;

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
}

impl Caller {
    /// The superuser.
    pub const ROOT: Self = Self {
        user: 0,
        group: 0,
        groups: Vec::new(),
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

/// An operation. The reply that each expects is named in its documentation; all may fail with an [`crate::Errno`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Operation {
    /// Finds a name. Replies `Entry`.
    #[n(0)]
    Lookup {
        /// The directory.
        #[n(0)]
        parent: InodeNumber,
        /// The name in it.
        #[n(1)]
        name: FileName,
    },
    /// Replies `Attributes`.
    #[n(1)]
    GetAttributes {
        /// The inode.
        #[n(0)]
        inode: InodeNumber,
    },
    /// Replies `Attributes`.
    #[n(2)]
    SetAttributes {
        /// The inode.
        #[n(0)]
        inode: InodeNumber,
        /// What to set.
        #[n(1)]
        changes: AttributeChanges,
    },
    /// Makes a regular file without opening it, a pipe, a socket or a device. Replies `Entry`.
    #[n(3)]
    MakeNode {
        /// The directory.
        #[n(0)]
        parent: InodeNumber,
        /// The name in it.
        #[n(1)]
        name: FileName,
        /// Number and mode.
        #[n(2)]
        new: NewInode,
        /// Any type but a directory or a symbolic link.
        #[n(3)]
        kind: FileType,
        /// Device number for a device, else 0.
        #[n(4)]
        device: u32,
    },
    /// Replies `Entry`.
    #[n(4)]
    MakeDirectory {
        /// The directory.
        #[n(0)]
        parent: InodeNumber,
        /// The name in it.
        #[n(1)]
        name: FileName,
        /// Number and mode.
        #[n(2)]
        new: NewInode,
    },
    /// Finds or makes a regular file and opens it. Replies `Created`.
    #[n(5)]
    Create {
        /// The directory.
        #[n(0)]
        parent: InodeNumber,
        /// The name in it.
        #[n(1)]
        name: FileName,
        /// Number and mode if it has to be made.
        #[n(2)]
        new: NewInode,
        /// `O_EXCL`: fails with `EEXIST` if the name exists.
        #[n(3)]
        exclusive: bool,
        /// `O_TRUNC`: an existing file loses its content.
        #[n(4)]
        truncate: bool,
    },
    /// Makes a symbolic link. Replies `Entry`.
    #[n(6)]
    SymbolicLink {
        /// The directory.
        #[n(0)]
        parent: InodeNumber,
        /// The name in it.
        #[n(1)]
        name: FileName,
        /// The number (mode is always 0777).
        #[n(2)]
        inode: InodeNumber,
        /// Where it points: 1 to 4,095 bytes.
        #[n(3)]
        #[cbor(with = "crate::extent::cbor_bytes")]
        target: Bytes,
    },
    /// Replies `Bytes`.
    #[n(7)]
    ReadLink {
        /// The symbolic link.
        #[n(0)]
        inode: InodeNumber,
    },
    /// Gives an inode another name. Replies `Entry`.
    #[n(8)]
    Link {
        /// The inode, not a directory.
        #[n(0)]
        inode: InodeNumber,
        /// The directory of the new name.
        #[n(1)]
        parent: InodeNumber,
        /// The new name.
        #[n(2)]
        name: FileName,
    },
    /// Removes a name of a file. Replies `Removed`.
    #[n(9)]
    Unlink {
        /// The directory.
        #[n(0)]
        parent: InodeNumber,
        /// The name in it.
        #[n(1)]
        name: FileName,
    },
    /// Removes an empty directory. Replies `Removed`.
    #[n(10)]
    RemoveDirectory {
        /// The directory that holds it.
        #[n(0)]
        parent: InodeNumber,
        /// The name in it.
        #[n(1)]
        name: FileName,
    },
    /// Replies `Renamed`.
    #[n(11)]
    Rename {
        /// The directory of the old name.
        #[n(0)]
        parent: InodeNumber,
        /// The old name.
        #[n(1)]
        name: FileName,
        /// The directory of the new name.
        #[n(2)]
        new_parent: InodeNumber,
        /// The new name.
        #[n(3)]
        new_name: FileName,
        /// What happens to what the new name names.
        #[n(4)]
        mode: RenameMode,
    },
    /// Lists a page of a directory (without `.` and `..`). Replies `Directory`.
    ///
    /// A cookie is a hash of the name, so it stays valid whatever happens to the directory: every entry that exists
    /// during the whole listing is returned exactly once.
    #[n(12)]
    ReadDirectory {
        /// The directory.
        #[n(0)]
        directory: InodeNumber,
        /// 0, or the cookie of the last entry that was taken.
        #[n(1)]
        after: u64,
        /// How many entries at most; the service may return fewer, or a few more where cookies are equal.
        #[n(2)]
        limit: u32,
        /// Whether to return each entry's attributes.
        #[n(3)]
        with_attributes: bool,
    },
    /// Tells the service that the session holds the inode open; the client need not wait for the reply when it has a
    /// lease. An open inode outlives its name. Replies `Attributes`.
    #[n(13)]
    Open {
        /// The inode.
        #[n(0)]
        inode: InodeNumber,
        /// `O_TRUNC`.
        #[n(1)]
        truncate: bool,
    },
    /// Takes one `Open` or `Create` back. Replies `Done`.
    #[n(14)]
    Release {
        /// The inode.
        #[n(0)]
        inode: InodeNumber,
    },
    /// Replies `Extents`.
    #[n(15)]
    GetExtents {
        /// The regular file.
        #[n(0)]
        inode: InodeNumber,
        /// Start of the range in bytes.
        #[n(1)]
        offset: u64,
        /// Length of the range; the service may answer for less (`Extents::covered_until`).
        #[n(2)]
        length: u64,
    },
    /// Gives files new content: stored objects or inline bytes become visible and durable. Replies `Committed`.
    #[n(16)]
    Commit {
        /// Objects named for the first time. Listed even if no range of a file survives, so that they are collected.
        #[n(0)]
        objects: Vec<NewObject>,
        /// The files. All or nothing.
        #[n(1)]
        files: Vec<FileCommit>,
    },
    /// `fallocate`. Replies `Attributes`.
    ///
    /// Where very many extents are in the range it is done in several records, from the front, and so is cutting a file (`SetAttributes`,
    /// `Open`, `Create`): meanwhile others see a part of it done. What is to be cut reads as zeros until the size changes, at the end.
    #[n(17)]
    Allocate {
        /// The regular file.
        #[n(0)]
        inode: InodeNumber,
        /// Start of the range.
        #[n(1)]
        offset: u64,
        /// Its length, not 0.
        #[n(2)]
        length: u64,
        /// What to do to it.
        #[n(3)]
        mode: AllocateMode,
    },
    /// Copies a range between files, or within one without overlap, by sharing extents. Replies `Copied`.
    #[n(18)]
    CopyRange {
        /// The file to read.
        #[n(0)]
        source: InodeNumber,
        /// Where to begin in it.
        #[n(1)]
        source_offset: u64,
        /// The file to write.
        #[n(2)]
        destination: InodeNumber,
        /// Where to begin in it.
        #[n(3)]
        destination_offset: u64,
        /// How many bytes at most.
        #[n(4)]
        length: u64,
    },
    /// `SEEK_DATA` and `SEEK_HOLE`. Replies `Offset`; beyond the end `ENXIO` is `NoData` here.
    #[n(19)]
    Seek {
        /// The regular file.
        #[n(0)]
        inode: InodeNumber,
        /// Where to begin.
        #[n(1)]
        offset: u64,
        /// What to look for.
        #[n(2)]
        target: SeekTarget,
    },
    /// Replies `Bytes`.
    #[n(20)]
    GetExtendedAttribute {
        /// The inode.
        #[n(0)]
        inode: InodeNumber,
        /// Name with its namespace (`user.`, `trusted.`, `security.`, `system.posix_acl_access`, ...).
        #[n(1)]
        #[cbor(with = "crate::extent::cbor_bytes")]
        name: Bytes,
    },
    /// Replies `Done`.
    #[n(21)]
    SetExtendedAttribute {
        /// The inode.
        #[n(0)]
        inode: InodeNumber,
        /// Name with its namespace, 1 to 255 bytes.
        #[n(1)]
        #[cbor(with = "crate::extent::cbor_bytes")]
        name: Bytes,
        /// At most 64 KiB.
        #[n(2)]
        #[cbor(with = "crate::extent::cbor_bytes")]
        value: Bytes,
        /// Whether it has to exist.
        #[n(3)]
        mode: SetMode,
    },
    /// Replies `Names`.
    #[n(22)]
    ListExtendedAttributes {
        /// The inode.
        #[n(0)]
        inode: InodeNumber,
    },
    /// Replies `Done`.
    #[n(23)]
    RemoveExtendedAttribute {
        /// The inode.
        #[n(0)]
        inode: InodeNumber,
        /// Name with its namespace.
        #[n(1)]
        #[cbor(with = "crate::extent::cbor_bytes")]
        name: Bytes,
    },
    /// Replies `FileSystem`: of the volume, or of the nearest directory with a quota.
    #[n(24)]
    StatFileSystem {
        /// Any inode of the tree.
        #[n(0)]
        inode: InodeNumber,
    },
    /// `F_GETLK`. Replies `Lock`.
    #[n(25)]
    GetLock {
        /// The inode.
        #[n(0)]
        inode: InodeNumber,
        /// The lock that would be asked for.
        #[n(1)]
        lock: Lock,
    },
    /// Takes, changes or gives back a lock. Replies `Done`, late if it has to wait.
    #[n(26)]
    SetLock {
        /// The inode.
        #[n(0)]
        inode: InodeNumber,
        /// The lock.
        #[n(1)]
        lock: Lock,
        /// Wait for conflicting locks instead of `EAGAIN`.
        #[n(2)]
        wait: bool,
    },
    /// Gives up waiting: the waiting request is answered `EINTR`. Replies `Done`.
    #[n(27)]
    CancelLock {
        /// The inode.
        #[n(0)]
        inode: InodeNumber,
        /// The owner who waits.
        #[n(1)]
        owner: u64,
    },
    /// Asks for more numbers. Replies `Granted`.
    #[n(28)]
    GrantNumbers,
    /// Replies `DirectoryUsage`.
    #[n(29)]
    GetUsage {
        /// The directory.
        #[n(0)]
        directory: InodeNumber,
    },
    /// Limits a directory's tree. Root only. Replies `Done`.
    #[n(30)]
    SetQuota {
        /// The directory; the root stands for the volume.
        #[n(0)]
        directory: InodeNumber,
        /// Bytes allocated at most, or `None` for no limit.
        #[n(1)]
        limit_bytes: Option<u64>,
        /// Inodes at most, or `None` for no limit.
        #[n(2)]
        limit_inodes: Option<u64>,
    },
    /// Lists removed files and directories, oldest first. Root only. Replies `Trash`.
    #[n(31)]
    ListTrash {
        /// The last item of the previous page: its time and inode.
        #[n(0)]
        after: Option<(Timestamp, InodeNumber)>,
        /// How many at most.
        #[n(1)]
        limit: u32,
    },
    /// Gives a removed inode a name again. Root only. Replies `Entry`.
    #[n(32)]
    RestoreTrash {
        /// The removed inode.
        #[n(0)]
        inode: InodeNumber,
        /// Where to: its old place if `None`.
        #[n(1)]
        to: Option<(InodeNumber, FileName)>,
    },
    /// Removes for ever what was removed before a time. Root only. Replies `Done`; the work goes on in the background.
    #[n(33)]
    PurgeTrash {
        /// What was removed before this time.
        #[n(0)]
        before: Timestamp,
    },
    /// Replies `Status`.
    #[n(34)]
    GetStatus,
    /// Changes the volume's settings while it is mounted; all sessions are told. Replies `Done`.
    #[n(35)]
    SetSettings {
        /// The settings as they shall be.
        #[n(0)]
        settings: VolumeSettings,
    },
    /// A worker or mount tells what became of its tasks. Replies `Done`.
    #[n(36)]
    ReportCopies {
        /// One for each task.
        #[n(0)]
        reports: Vec<CopyReport>,
    },
    /// A page of the objects that metadata names, in order of their names, for the full synchronisation. Replies `Objects`.
    #[n(37)]
    ListObjects {
        /// The last object of the previous page.
        #[n(0)]
        after: Option<ObjectId>,
        /// How many at most.
        #[n(1)]
        limit: u32,
    },
    /// A full synchronisation tells its findings and its progress. Replies `Done`.
    #[n(38)]
    ReportSynchronisation {
        /// The findings since the last report.
        #[n(0)]
        report: SynchronisationReport,
    },
    /// Asks for a full synchronisation; a worker takes it up. Replies `Done`.
    #[n(39)]
    RequestSynchronisation,
    /// Exchanges extents for others with the same bytes, if they still stand: packing of inline data and compaction.
    /// Replies `Done`; what no longer stands is skipped.
    #[n(40)]
    Repoint {
        /// Objects named for the first time.
        #[n(0)]
        objects: Vec<NewObject>,
        /// The exchanges.
        #[n(1)]
        exchanges: Vec<ExtentExchange>,
    },
    /// Inline extents that no object holds yet, oldest first, for whoever packs them. Replies `InlineExtents`.
    #[n(41)]
    ListInline {
        /// How many bytes of content at most (one extent at least, if there is one).
        #[n(0)]
        limit_bytes: u64,
    },
    /// The next extents of the compaction that is under way, for whoever rewrites them. Replies `Compaction`.
    ///
    /// The service keeps the place: what one asker was given it gives to nobody else in this pass. Like `ListInline`, only
    /// one session at a time is given anything.
    #[n(42)]
    ListCompaction {
        /// How many bytes of content at most (one extent at least, if there is one).
        #[n(0)]
        limit_bytes: u64,
    },
    /// Asks for a compaction of everything that can be compacted, however young. Replies `Done`.
    #[n(43)]
    RequestCompaction,
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

impl Operation {
    /// Does it change durable state? Then its result is kept with the session, so that a retry is applied once.
    pub const fn is_mutation(&self) -> bool {
        match self {
            Self::Lookup { .. }
            | Self::GetAttributes { .. }
            | Self::ReadLink { .. }
            | Self::ReadDirectory { .. }
            | Self::Release { .. }
            | Self::GetExtents { .. }
            | Self::Seek { .. }
            | Self::GetExtendedAttribute { .. }
            | Self::ListExtendedAttributes { .. }
            | Self::StatFileSystem { .. }
            | Self::GetLock { .. }
            | Self::SetLock { .. }
            | Self::CancelLock { .. }
            | Self::GetUsage { .. }
            | Self::ListTrash { .. }
            | Self::GetStatus
            | Self::ListObjects { .. }
            | Self::ListInline { .. }
            | Self::ListCompaction { .. }
            | Self::RequestCompaction
            | Self::Open { truncate: false, .. } => false,
            Self::SetAttributes { .. }
            | Self::MakeNode { .. }
            | Self::MakeDirectory { .. }
            | Self::Create { .. }
            | Self::SymbolicLink { .. }
            | Self::Link { .. }
            | Self::Unlink { .. }
            | Self::RemoveDirectory { .. }
            | Self::Rename { .. }
            | Self::Open { truncate: true, .. }
            | Self::Commit { .. }
            | Self::Allocate { .. }
            | Self::CopyRange { .. }
            | Self::SetExtendedAttribute { .. }
            | Self::RemoveExtendedAttribute { .. }
            | Self::GrantNumbers
            | Self::SetQuota { .. }
            | Self::RestoreTrash { .. }
            | Self::PurgeTrash { .. }
            | Self::SetSettings { .. }
            | Self::ReportCopies { .. }
            | Self::ReportSynchronisation { .. }
            | Self::RequestSynchronisation
            | Self::Repoint { .. } => true,
        }
    }
}
