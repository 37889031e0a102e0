//! Advisory locks.

use minicbor::{Decode, Encode};

/// Which family a lock belongs to. The families do not see each other, as on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum LockFamily {
    /// `fcntl` record locks, of a process or of an open file description.
    #[n(0)]
    Record,
    /// `flock`: whole file.
    #[n(1)]
    Flock,
}

/// How a lock excludes others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum LockKind {
    /// Shared with other readers.
    #[n(0)]
    Read,
    /// Excludes all others.
    #[n(1)]
    Write,
    /// Gives the range back.
    #[n(2)]
    Unlock,
}

/// A lock or a request for one. The owner is unique within its session (FUSE's `lk_owner`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Lock {
    /// The family.
    #[n(0)]
    pub family: LockFamily,
    /// How it excludes.
    #[n(1)]
    pub kind: LockKind,
    /// First byte.
    #[n(2)]
    pub start: u64,
    /// Last byte, inclusive; `u64::MAX` means to the end of the file, however long.
    #[n(3)]
    pub end: u64,
    /// Who holds it, within the session.
    #[n(4)]
    pub owner: u64,
    /// The process, as `F_GETLK` reports it.
    #[n(5)]
    pub process: u32,
}
