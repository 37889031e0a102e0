//! Tasks: copies and deletions owed to a bucket, and what became of them.

use minicbor::{Decode, Encode};

use crate::identifiers::{ObjectId, Side};

/// What is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TaskKind {
    /// Copy the object from the other side to this one.
    #[n(0)]
    Copy {
        /// Bytes in the bucket.
        #[n(0)]
        stored_bytes: u64,
        /// CRC-32C of the stored bytes, to be verified before the copy is stored.
        #[n(1)]
        checksum: u32,
    },
    /// Delete the object from this side: no file names it any more.
    #[n(1)]
    Delete,
}

/// A task, leased to a worker or a mount. Doing it twice is harmless: objects are immutable and their names unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Task {
    /// The object.
    #[n(0)]
    pub object: ObjectId,
    /// The bucket that is to change.
    #[n(1)]
    pub side: Side,
    /// What to do.
    #[n(2)]
    pub kind: TaskKind,
}

/// What became of a task.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TaskOutcome {
    /// Done and durable.
    #[n(0)]
    Done,
    /// The source does not have the object.
    #[n(1)]
    SourceMissing,
    /// The source's bytes do not match the checksum.
    #[n(2)]
    SourceDamaged,
    /// It may work later.
    #[n(3)]
    Failed {
        /// What went wrong, for a person.
        #[n(0)]
        reason: String,
    },
}

/// A report of one task.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CopyReport {
    /// The object.
    #[n(0)]
    pub object: ObjectId,
    /// The bucket.
    #[n(1)]
    pub side: Side,
    /// It was a deletion.
    #[n(2)]
    pub deletion: bool,
    /// What became of it.
    #[n(3)]
    pub outcome: TaskOutcome,
}

/// Counts of a full synchronisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SynchronisationCounts {
    /// Objects that metadata names.
    #[n(0)]
    pub objects_checked: u64,
    /// Found missing in one bucket and queued again.
    #[n(1)]
    pub missing: u64,
    /// Size or checksum differed; queued again from the other side.
    #[n(2)]
    pub damaged: u64,
    /// Found in neither bucket: lost.
    #[n(3)]
    pub lost: u64,
    /// In a bucket but not in metadata, and old enough: removed.
    #[n(4)]
    pub orphans_removed: u64,
    /// Whose content was read and verified.
    #[n(5)]
    pub checksums_verified: u64,
}

/// What a full synchronisation found since its last report.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SynchronisationReport {
    /// Copies that a side turned out to lack (missing or damaged there).
    #[n(0)]
    pub absent: Vec<(ObjectId, Side)>,
    /// Copies that metadata did not know of.
    #[n(1)]
    pub present: Vec<(ObjectId, Side)>,
    /// Counts so far.
    #[n(2)]
    pub counts: SynchronisationCounts,
    /// Everything up to this object has been joined; a successor resumes here.
    #[n(3)]
    pub checked_until: Option<ObjectId>,
    /// It has come to the end.
    #[n(4)]
    pub finished: bool,
}
