//! What a volume tells about itself.

use minicbor::{Decode, Encode};

use crate::format::VolumeFormat;
use crate::identifiers::{Epoch, ObjectId, Position, SessionId, Side};
use crate::message::{Role, SessionDescription};
use crate::replication::SynchronisationCounts;
use crate::reply::FileSystemUsage;
use crate::time::Timestamp;

/// How far a side is behind.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReplicationStatus {
    /// The side that is owed.
    #[n(0)]
    pub side: Side,
    /// The position up to which it has every object.
    #[n(1)]
    pub watermark: Position,
    /// Objects owed, those only inline in the metadata included.
    #[n(2)]
    pub pending_objects: u64,
    /// Bytes owed.
    #[n(3)]
    pub pending_bytes: u64,
    /// Age of the oldest, in seconds, rounded up; 0 if nothing is owed.
    #[n(4)]
    pub lag_seconds: u64,
    /// Objects set aside because they cannot be copied, with the reason.
    #[n(5)]
    pub quarantined: Vec<(ObjectId, String)>,
    /// Objects waiting to be deleted here.
    #[n(6)]
    pub pending_deletions: u64,
    /// Objects copied to this side since the service started.
    #[n(7)]
    pub copied_objects: u64,
    /// Bytes copied to this side since the service started.
    #[n(8)]
    pub copied_bytes: u64,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionStatus {
    /// Which.
    #[n(0)]
    pub session: SessionId,
    /// What it is.
    #[n(1)]
    pub role: Role,
    /// Who it says it is.
    #[n(2)]
    pub description: SessionDescription,
    /// Whether its stream is up.
    #[n(3)]
    pub connected: bool,
    /// Seconds since it was last heard of.
    #[n(4)]
    pub silent_seconds: u64,
    /// Inodes that it holds open.
    #[n(5)]
    pub open_inodes: u64,
}

/// The full synchronisation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SynchronisationStatus {
    /// One was asked for or is running.
    #[n(0)]
    pub running: bool,
    /// Counts of the running one, or of the last.
    #[n(1)]
    pub counts: SynchronisationCounts,
    /// How far the running one has come, among all objects.
    #[n(2)]
    pub objects_total: u64,
    /// When the last one finished.
    #[n(3)]
    pub finished: Option<Timestamp>,
}

/// Compaction: what could be gained, and what was done since the service started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct CompactionStatus {
    /// A pass was asked for or is running.
    #[n(0)]
    pub running: bool,
    /// Passes that came to their end.
    #[n(1)]
    pub passes: u64,
    /// Objects of which files name at most half.
    #[n(2)]
    pub sparse_objects: u64,
    /// Bytes of content in them that no file names.
    #[n(3)]
    pub sparse_bytes: u64,
    /// Files that lie in many small extents.
    #[n(4)]
    pub fragmented_files: u64,
    /// Extents that were written anew.
    #[n(5)]
    pub rewritten_extents: u64,
    /// Their bytes.
    #[n(6)]
    pub rewritten_bytes: u64,
    /// Rows looked at by the running pass, or by the last.
    #[n(7)]
    pub rows_looked_at: u64,
}

/// The state of a volume at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VolumeStatus {
    /// The format record.
    #[n(0)]
    pub format: VolumeFormat,
    /// The leader's epoch.
    #[n(1)]
    pub epoch: Epoch,
    /// The last committed record.
    #[n(2)]
    pub position: Position,
    /// Usage of the whole tree.
    #[n(3)]
    pub usage: FileSystemUsage,
    /// Bytes and inodes in the trash.
    #[n(4)]
    pub trash: FileSystemUsage,
    /// Objects that metadata names.
    #[n(5)]
    pub objects: u64,
    /// Their bytes in one bucket.
    #[n(6)]
    pub object_bytes: u64,
    /// Bytes that are inline in the metadata and not yet in any object.
    #[n(7)]
    pub inline_bytes: u64,
    /// One for each side that is owed copies: none without a target.
    #[n(8)]
    pub replication: Vec<ReplicationStatus>,
    /// The sessions.
    #[n(9)]
    pub sessions: Vec<SessionStatus>,
    /// The full synchronisation.
    #[n(10)]
    pub synchronisation: SynchronisationStatus,
    /// Position of the last checkpoint that both buckets hold.
    #[n(11)]
    pub checkpoint: Position,
    /// Position up to which sealed segments are in both buckets.
    #[n(12)]
    pub archived: Position,
    /// Compaction.
    #[n(13)]
    pub compaction: CompactionStatus,
}
