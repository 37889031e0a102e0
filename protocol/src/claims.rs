//! Claims on directories, snapshots of them, and who has access: what Kubernetes needs of a volume.
//!
//! A *claim* is the hold of a PVC on a directory. Clusters claim under keys of their own; a directory can be held by several claims, usually by the
//! one of the same namespace and name in each cluster. It goes to the trash when the last of them is released.
//!
//! # Guarantees
//!
//! * Every operation here can be repeated: what was done already is answered as it was the first time, from the metadata, also by another
//!   process, after a restart of the service, and years later.
//! * A refusal ([`Refused`]) says what stands in the way. Nothing was changed.
//! * A copy (the clone of a claim, a snapshot, what is restored from one) is one moment of the whole directory, or it is not there. It is `ready`
//!   or not; a small one is when it is answered for the first time.

mod access;
mod keys;
mod path;
mod refused;

use minicbor::{Decode, Encode};

use crate::identifiers::InodeNumber;
use crate::time::Timestamp;

pub use self::access::{AccessHold, AccessMode, AccessTo, HoldPosition, HoldsPage, NodeName};
pub use self::keys::{ClaimKey, KeyError, Label, SnapshotKey};
pub use self::path::{DirectoryPath, PathError};
pub use self::refused::Refused;

/// What a PVC is called by people.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClaimDisplay {
    /// The namespace of the PVC.
    #[n(0)]
    pub namespace: String,
    /// Its name.
    #[n(1)]
    pub name: String,
}

/// What a new directory begins with.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CopySource {
    /// What the directory of a claim holds now.
    #[n(0)]
    Claim(#[n(0)] ClaimKey),
    /// What a snapshot holds.
    #[n(1)]
    Snapshot(#[n(0)] SnapshotKey),
}

/// Owner and mode of a directory that has to be made. An existing one keeps its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NewDirectory {
    /// Permission bits.
    #[n(0)]
    pub mode: u16,
    /// The owner.
    #[n(1)]
    pub user: u32,
    /// The group.
    #[n(2)]
    pub group: u32,
}

impl Default for NewDirectory {
    /// Of root, and open to every user of a pod, as other drivers of shared file systems make it: nobody but who mounts the claim sees it.
    fn default() -> Self {
        Self {
            mode: 0o777,
            user: 0,
            group: 0,
        }
    }
}

/// Asks for a directory.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClaimRequest {
    /// Whose it is.
    #[n(0)]
    pub key: ClaimKey,
    /// What people call it.
    #[n(1)]
    pub display: ClaimDisplay,
    /// The directory, from the volume's root. It and those that hold it are made if they are missing.
    #[n(2)]
    pub path: DirectoryPath,
    /// How many bytes may be allocated in it. 0: no wish; an existing directory stays as it is, a new one has no limit.
    #[n(3)]
    pub capacity_bytes: u64,
    /// What it begins with. With one the directory must be missing, or claimed already by somebody who asked for the same.
    #[n(4)]
    pub source: Option<CopySource>,
    /// How to make it.
    #[n(5)]
    pub new: NewDirectory,
}

/// A claim as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Claim {
    /// Whose it is.
    #[n(0)]
    pub key: ClaimKey,
    /// What people call it.
    #[n(1)]
    pub display: ClaimDisplay,
    /// The directory. As long as it is claimed it can be neither moved nor removed, nor can those that hold it.
    #[n(2)]
    pub path: DirectoryPath,
    /// Its inode. Of a copy that is not ready, its future inode.
    #[n(3)]
    pub directory: InodeNumber,
    /// How many bytes may be allocated in it; 0 for no limit.
    #[n(4)]
    pub capacity_bytes: u64,
    /// How many are, exactly.
    #[n(5)]
    pub used_bytes: u64,
    /// Inodes in it, itself included.
    #[n(6)]
    pub used_inodes: u64,
    /// When it was claimed under this key.
    #[n(7)]
    pub created: Timestamp,
    /// What it began with.
    #[n(8)]
    pub source: Option<CopySource>,
    /// It is there. Else its content is being copied: ask again.
    #[n(9)]
    pub ready: bool,
    /// Other claims on the same directory.
    #[n(10)]
    pub others: u32,
}

/// A snapshot as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Snapshot {
    /// Whose it is.
    #[n(0)]
    pub key: SnapshotKey,
    /// The claim whose directory it was made of.
    #[n(1)]
    pub source: ClaimKey,
    /// That directory, then.
    #[n(2)]
    pub path: DirectoryPath,
    /// The moment that it shows.
    #[n(3)]
    pub created: Timestamp,
    /// Bytes allocated in it: what a claim that is restored from it must allow at least.
    #[n(4)]
    pub size_bytes: u64,
    /// Inodes in it.
    #[n(5)]
    pub inodes: u64,
    /// It is complete. Else it is being made: ask again.
    #[n(6)]
    pub ready: bool,
}

/// A page of claims, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ClaimsPage {
    /// The claims.
    #[n(0)]
    pub claims: Vec<Claim>,
    /// Where the next page begins; `None` if this is the last.
    #[n(1)]
    pub next: Option<ClaimKey>,
}

/// A page of snapshots, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotsPage {
    /// The snapshots.
    #[n(0)]
    pub snapshots: Vec<Snapshot>,
    /// Where the next page begins; `None` if this is the last.
    #[n(1)]
    pub next: Option<SnapshotKey>,
}

/// The longest page.
pub const PAGE_MAX: u32 = 1000;
