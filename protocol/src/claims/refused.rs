//! Why an operation on claims was refused.

use minicbor::{Decode, Encode};

use super::{AccessHold, AccessMode, AccessTo, ClaimKey, DirectoryPath, NodeName, SnapshotKey};

/// Why an operation on claims, snapshots or access was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Refused {
    /// There is no such claim.
    #[n(0)]
    #[error("there is no claim {0}")]
    UnknownClaim(#[n(0)] ClaimKey),
    /// There is no such snapshot.
    #[n(1)]
    #[error("there is no snapshot {0}")]
    UnknownSnapshot(#[n(0)] SnapshotKey),
    /// The path of a hold leads to no directory.
    #[n(2)]
    #[error("there is no directory {0}")]
    NoDirectory(#[n(0)] DirectoryPath),
    /// The key is in use with other parameters.
    #[n(3)]
    #[error("{key} was asked for before with another {what}: {stands} then, {asked} now")]
    Differs {
        /// The key of the claim or snapshot.
        #[n(0)]
        key: String,
        /// Which parameter, in a word.
        #[n(1)]
        what: String,
        /// As it stands.
        #[n(2)]
        stands: String,
        /// As it was asked now.
        #[n(3)]
        asked: String,
    },
    /// The directory is claimed with another size.
    #[n(4)]
    #[error(
        "directory {path} is claimed with {stands_bytes} bytes (0: no limit), not with {asked_bytes}: ask for the same size in every cluster, and resize afterwards"
    )]
    OtherSize {
        /// The directory.
        #[n(0)]
        path: DirectoryPath,
        /// Its capacity.
        #[n(1)]
        stands_bytes: u64,
        /// What was asked for.
        #[n(2)]
        asked_bytes: u64,
    },
    /// Something else than a directory is in the way.
    #[n(5)]
    #[error("directory {0} cannot be made: something else has the name of it, or of one that would hold it")]
    NotADirectory(#[n(0)] DirectoryPath),
    /// It lies within a claimed directory, or one lies within it: the quota of one would be that of the other, and so would its end.
    #[n(6)]
    #[error("directory {path} cannot be claimed: {other} is, and one would be within the other")]
    Nested {
        /// What was asked for.
        #[n(0)]
        path: DirectoryPath,
        /// What is claimed.
        #[n(1)]
        other: String,
    },
    /// It was to begin as a copy, but exists.
    #[n(7)]
    #[error("directory {0} exists and did not begin as that copy: nothing is copied over what is there")]
    Occupied(#[n(0)] DirectoryPath),
    /// A copy needs more than was asked for.
    #[n(8)]
    #[error("{needed_bytes} bytes are to be copied, but only {asked_bytes} asked for")]
    SourceTooLarge {
        /// What was asked for.
        #[n(0)]
        asked_bytes: u64,
        /// What there is.
        #[n(1)]
        needed_bytes: u64,
    },
    /// A copy of a directory in use would hold its writers up for too long.
    #[n(9)]
    #[error("{inodes} files are too many to copy at one moment: at most {limit}")]
    TooManyInodes {
        /// How many there are.
        #[n(0)]
        inodes: u64,
        /// How many may be.
        #[n(1)]
        limit: u64,
    },
    /// What was to be copied from, or removed, is still being copied: ask again.
    #[n(10)]
    #[error("{0} is being copied: try again when that is done")]
    BeingCopied(#[n(0)] String),
    /// The copy could not be finished, and what there was of it is removed. Release, or delete, and begin anew.
    #[n(11)]
    #[error("copying to {what} failed: {reason}")]
    CopyFailed {
        /// What was to be made.
        #[n(0)]
        what: String,
        /// Why.
        #[n(1)]
        reason: String,
    },
    /// The last claim of a directory that somebody uses.
    #[n(12)]
    #[error(
        "directory {path} is in use by {} on node {} ({}): it cannot be removed", holder.target, holder.node, holder.mode
    )]
    InUse {
        /// The directory.
        #[n(0)]
        path: String,
        /// One who uses it.
        #[n(1)]
        holder: Box<AccessHold>,
    },
    /// The access mode of another, or that asked for, forbids it.
    #[n(13)]
    #[error(
        "{asked} is not possible: {} on node {} has it as {}", holder.target, holder.node, holder.mode
    )]
    Held {
        /// What was asked for.
        #[n(0)]
        asked: AccessMode,
        /// Who is in the way.
        #[n(1)]
        holder: Box<AccessHold>,
    },
    /// The target has another directory, or another mode.
    #[n(14)]
    #[error("this target already has access to {} as {}", display(to), mode)]
    OtherHold {
        /// What it has.
        #[n(0)]
        to: AccessTo,
        /// How.
        #[n(1)]
        mode: AccessMode,
    },
    /// Access is asked for on a node of which no mount is connected: it would not count.
    #[n(16)]
    #[error("no mount of node {0} is connected: mount there first, with that name")]
    NoMount(#[n(0)] NodeName),
    /// No more of them.
    #[n(15)]
    #[error("there are {limit} {what} already, which is the limit")]
    TooMany {
        /// Of what.
        #[n(0)]
        what: String,
        /// How many may be.
        #[n(1)]
        limit: u64,
    },
}

fn display(to: &AccessTo) -> String {
    match to {
        AccessTo::Claim(claim) => format!("claim {claim}"),
        AccessTo::Path(path) => format!("directory {path}"),
    }
}
