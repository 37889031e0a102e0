//! Every operation of the metadata service. One POSIX operation is one operation here, so it costs one message.

mod arguments;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::attributes::{AttributeChanges, FileType};
use crate::claims::{
    AccessMode, AccessTo, ClaimKey, ClaimRequest, HoldPosition, Label, NodeName, SnapshotKey,
};
use crate::format::VolumeSettings;
use crate::identifiers::{InodeNumber, ObjectId};
use crate::lock::Lock;
use crate::name::FileName;
use crate::replication::{CopyReport, SynchronisationReport};
use crate::time::Timestamp;

pub use self::arguments::{
    AllocateMode, Caller, ExtentExchange, FileCommit, FileWrite, NewInode, NewObject, RenameMode, SeekTarget,
    SetMode,
};

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
        /// The last cookie that is asked for; to the end of the directory if it is missing. Cookies are spread evenly, so
        /// a client can ask for several parts of a large directory at once.
        #[n(4)]
        until: Option<u64>,
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
    /// Finds or makes a directory, limits it and registers a claim on it. Replies `Claim`, or `Refused`. Root only, as all that follow.
    ///
    /// Repeated, it answers the same as long as the parameters are the same.
    #[n(44)]
    ClaimDirectory(#[n(0)] Box<ClaimRequest>),
    /// Gives a claim up. With the last one the directory goes to the trash, whole. Replies `Done`, also if there is no such claim, or `Refused`.
    #[n(45)]
    ReleaseClaim {
        /// Which.
        #[n(0)]
        key: ClaimKey,
    },
    /// Replies `Claim`, or `Refused`.
    #[n(46)]
    GetClaim {
        /// Which.
        #[n(0)]
        key: ClaimKey,
    },
    /// Replies `Claims`.
    #[n(47)]
    ListClaims {
        /// Only those of a cluster.
        #[n(0)]
        region: Option<Label>,
        /// Where to begin: `next` of the page before. Need not exist any more.
        #[n(1)]
        from: Option<ClaimKey>,
        /// How many at most.
        #[n(2)]
        limit: u32,
    },
    /// Lets the directory of a claim grow; all claims on it see it. At least what it has is a success that changes nothing: a claim never
    /// shrinks. Replies `Claim`, or `Refused`.
    #[n(48)]
    ResizeClaim {
        /// Which.
        #[n(0)]
        key: ClaimKey,
        /// How many bytes may be allocated in it at least.
        #[n(1)]
        capacity_bytes: u64,
    },
    /// Makes a snapshot of the directory of a claim: one moment of all of it, read-only, which keeps what it names in the buckets. Replies
    /// `Snapshot`, or `Refused`.
    ///
    /// Repeated, it answers the same snapshot. While it is not ready, who changes the directory waits.
    #[n(49)]
    CreateSnapshot {
        /// Its key.
        #[n(0)]
        key: SnapshotKey,
        /// Of which claim.
        #[n(1)]
        source: ClaimKey,
    },
    /// Removes a snapshot for good. Replies `Done`, also if there is no such snapshot, or `Refused`.
    #[n(50)]
    DeleteSnapshot {
        /// Which.
        #[n(0)]
        key: SnapshotKey,
    },
    /// Replies `Snapshot`, or `Refused`.
    #[n(51)]
    GetSnapshot {
        /// Which.
        #[n(0)]
        key: SnapshotKey,
    },
    /// Replies `Snapshots`.
    #[n(52)]
    ListSnapshots {
        /// Only those of a cluster.
        #[n(0)]
        region: Option<Label>,
        /// Only those of a claim.
        #[n(1)]
        source: Option<ClaimKey>,
        /// Where to begin: `next` of the page before. Need not exist any more.
        #[n(2)]
        from: Option<SnapshotKey>,
        /// How many at most.
        #[n(3)]
        limit: u32,
    },
    /// Takes access to a directory for a target: see [`crate::claims::AccessMode`] for who may have it together. Replies `Done`, also if the target has
    /// it already, or `Refused`.
    #[n(53)]
    HoldAccess {
        /// To what.
        #[n(0)]
        to: AccessTo,
        /// On which node.
        #[n(1)]
        node: NodeName,
        /// For which target there.
        #[n(2)]
        target: Label,
        /// How.
        #[n(3)]
        mode: AccessMode,
    },
    /// Gives back the access of a target. Replies `Done`, also if it has none.
    #[n(54)]
    ReleaseAccess {
        /// On which node.
        #[n(0)]
        node: NodeName,
        /// Which target there.
        #[n(1)]
        target: Label,
    },
    /// Who has access. Replies `Holds`.
    #[n(55)]
    ListAccess {
        /// Only on this node.
        #[n(0)]
        node: Option<NodeName>,
        /// Where to begin: `next` of the page before.
        #[n(1)]
        from: Option<HoldPosition>,
        /// How many at most.
        #[n(2)]
        limit: u32,
    },
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
            | Self::GetClaim { .. }
            | Self::ListClaims { .. }
            | Self::GetSnapshot { .. }
            | Self::ListSnapshots { .. }
            | Self::ListAccess { .. }
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
            | Self::Repoint { .. }
            | Self::ClaimDirectory(_)
            | Self::ReleaseClaim { .. }
            | Self::ResizeClaim { .. }
            | Self::CreateSnapshot { .. }
            | Self::DeleteSnapshot { .. }
            | Self::HoldAccess { .. }
            | Self::ReleaseAccess { .. } => true,
        }
    }
}
