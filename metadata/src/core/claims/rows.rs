//! The values of claims, snapshots, access, and copies of trees.

use minicbor::{Decode, Encode};
use twinshore_protocol::claims::{
    AccessMode, AccessTo, ClaimDisplay, ClaimKey, CopySource, DirectoryPath, SnapshotKey,
};
use twinshore_protocol::{FileName, InodeNumber, Timestamp};

/// `c`: a claim.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClaimRow {
    /// What it holds.
    #[n(0)]
    pub directory: InodeNumber,
    /// What people call it.
    #[n(1)]
    pub display: ClaimDisplay,
    /// The size that was asked for: repeated, it is the same request, whatever the size has become.
    #[n(2)]
    pub requested_bytes: u64,
    /// When.
    #[n(3)]
    pub created: Timestamp,
}

/// `d`: a claimed directory.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClaimedRow {
    /// Where it is, or will be.
    #[n(0)]
    pub path: DirectoryPath,
    /// What it began with.
    #[n(1)]
    pub source: Option<CopySource>,
    /// Whether it is there.
    #[n(2)]
    pub state: CopyState,
}

/// `s`: a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotRow {
    /// The claim that it was made of.
    #[n(0)]
    pub source: ClaimKey,
    /// Where its directory was.
    #[n(1)]
    pub path: DirectoryPath,
    /// The root of the copy, which no name leads to.
    #[n(2)]
    pub directory: InodeNumber,
    /// The moment that it shows.
    #[n(3)]
    pub created: Timestamp,
    /// Whether it is complete.
    #[n(4)]
    pub state: CopyState,
}

/// How far what began as a copy is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CopyState {
    /// Complete (or no copy at all).
    #[n(0)]
    Ready,
    /// There is a row in `j`.
    #[n(1)]
    Copying,
    /// It never will be: what there was of it is removed.
    #[n(2)]
    Failed {
        /// Why.
        #[n(0)]
        reason: String,
    },
}

/// `i`: the access of a target.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HoldRow {
    /// To which directory.
    #[n(0)]
    pub directory: InodeNumber,
    /// What was asked for.
    #[n(1)]
    pub to: AccessTo,
    /// How.
    #[n(2)]
    pub mode: AccessMode,
    /// Since when.
    #[n(3)]
    pub since: Timestamp,
}

/// `Vhidden`: directories that no name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HiddenRow {
    /// Holds snapshots and what is being copied. Its usage counts in the volume's.
    #[n(0)]
    pub copies: InodeNumber,
    /// Holds removed trees: a root of its own, so what is in it is counted apart, as all trash is.
    #[n(1)]
    pub removed: InodeNumber,
}

/// `t`: a tree in the trash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct TreeRow(
    /// Since when: with it, its row in `H` is found.
    #[n(0)]
    pub Timestamp,
);

/// `j`: a copy of a tree. The root of the copy is in the key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CopyRow {
    /// The root of the source.
    #[n(0)]
    pub source: InodeNumber,
    /// The source has a name: whoever would change it has to wait.
    #[n(1)]
    pub live: bool,
    /// What it is for.
    #[n(2)]
    pub goal: CopyGoal,
    /// What is to be done.
    #[n(3)]
    pub phase: CopyPhase,
    /// The directory whose entries are being copied.
    #[n(4)]
    pub directory: Option<CopyDirectory>,
    /// The file whose extents are being copied.
    #[n(5)]
    pub file: Option<CopyFile>,
}

/// What a copy is for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CopyGoal {
    /// A claim's directory.
    #[n(0)]
    Claim {
        /// Its limit; 0 for none.
        #[n(0)]
        capacity_bytes: u64,
    },
    /// A snapshot.
    #[n(1)]
    Snapshot(#[n(0)] SnapshotKey),
}

/// What is to be done of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum CopyPhase {
    /// Copy.
    #[n(0)]
    Copying,
    /// It is complete or given up: its rows in `k` and `l` go.
    #[n(1)]
    Clearing,
}

/// How far the entries of a directory are copied.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CopyDirectory {
    /// The directory of the source.
    #[n(0)]
    pub source: InodeNumber,
    /// That of the copy.
    #[n(1)]
    pub copy: InodeNumber,
    /// The last entry that was copied.
    #[n(2)]
    pub after: Option<FileName>,
}

/// How far the extents of a file are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CopyFile {
    /// The file of the source.
    #[n(0)]
    pub source: InodeNumber,
    /// That of the copy.
    #[n(1)]
    pub copy: InodeNumber,
    /// Up to which offset.
    #[n(2)]
    pub until: u64,
}
