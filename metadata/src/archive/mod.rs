//! What of the metadata lies in both buckets, so that a volume can be recovered from either of them alone.
//!
//! | module | what it is |
//! |---|---|
//! | [`marker`] | the object by which a bucket is recognised as a volume's |
//! | [`catalogue`] | the names of everything else, and the plan: which objects belong to the volume's history. Pure |
//! | [`sealed`] | the envelope of each object: checksum and compression |
//! | [`records`] | a run of journal records as one object |
//! | [`checkpoint`] | a whole state as chunks and a manifest |
//! | [`side`] | keeps one bucket up to date |
//! | [`archiver`] | one task for both buckets, and what may be trimmed |
//! | [`restore`] | makes a data directory from a bucket |
//!
//! # Guarantees
//!
//! * No object is ever replaced by a different one: every name contains the epoch of the leader that wrote it, and no two
//!   leaders have the same epoch.
//! * A checkpoint exists when its manifest does: that is stored last, and deleted first.
//! * A leader announces where its reign begins (a *reign* object) before it stores anything else. Records of earlier reigns
//!   beyond that point are not part of the history: after a restore that lost a suffix, they can never come back.
//! * Two checkpoints that were read back and verified are kept, with all records after the older one.

pub mod archiver;
pub mod catalogue;
pub mod checkpoint;
pub mod marker;
pub mod records;
pub mod restore;
pub mod sealed;
pub mod side;

pub use archiver::{ArchiveHandle, ArchiveStatus, Archiver, ArchiverOptions};
pub use marker::{MARKER_KEY, MarkerError, claim_bucket, read_marker};
pub use restore::{RestoreError, RestoreOptions, Restored, restore, restore_with};
pub use side::{ArchiveError, FrozenState, RecordSource, SideStatus, SourceError};

#[cfg(test)]
mod tests;
