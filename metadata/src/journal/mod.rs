//! The journal: numbered records with compare-and-append on (epoch, tail).
//!
//! # Guarantees
//!
//! * A record is appended only if the epoch is the present one and the tail is what the caller believes it to be.
//! * What was appended is read back, in order, without gaps, until it is trimmed.
//! * An epoch, once acquired, fences all older ones for ever.
//!
//! | module | what it is |
//! |---|---|
//! | [`record`] | a record and its bytes |
//! | [`file`] | the engine in a directory |
//! | [`memory`] | the engine for tests and the simulation |
//! | [`directory`] | a metadata service's data directory, of which the journal is a part |

pub mod directory;
pub mod file;
pub mod memory;
pub mod record;

mod appending;
mod disk;
mod epoch;
mod frame;
mod segment;
mod spare;

#[cfg(test)]
pub(crate) mod contract;

pub use directory::DataDirectory;
pub use file::{FileJournal, FileJournalOptions, JournalReader};
pub use record::{Record, digest_of};

use bytes::Bytes;
use twinshore_protocol::{Epoch, Position};

/// A digest of a record and all before it.
pub type Digest = [u8; 32];

/// The end of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The epoch that may append.
    pub epoch: Epoch,
    /// The last record, or [`Position::ZERO`].
    pub position: Position,
    /// Its digest, or zeros.
    pub digest: Digest,
}

impl Tail {
    /// The tail of a journal that never had a record or a leader.
    pub const EMPTY: Self = Self {
        epoch: Epoch(0),
        position: Position::ZERO,
        digest: [0; 32],
    };
}

/// Why a journal did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A newer leader has taken over, or the tail is not what the caller believes. Final: step down.
    #[error("fenced: the journal is at epoch {}, record {}", found.epoch, found.position)]
    Fenced {
        /// What was found.
        found: Tail,
    },
    /// It may or may not have happened: read the tail. Equal position and digest means it did; the position before means
    /// it did not, and the same bytes may be sent again; anything else means fenced.
    #[error("the outcome of an append is unknown")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The journal cannot be written or read. Final: after a failed fsync nobody knows what is on the disk.
    #[error("the journal failed: {what}")]
    Failed {
        /// What was tried.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A record in the middle is damaged.
    #[error("the journal is damaged: {0}")]
    Damaged(String),
    /// The disk is full. Nothing was appended; appending may be tried again when there is space.
    #[error("the journal's disk is full: free some space under {0}")]
    Full(String),
    /// Another process has it open.
    #[error("the journal {0} is in use by another metadata service")]
    InUse(String),
    /// The records before this one are gone.
    #[error("records before {first} were trimmed")]
    Trimmed {
        /// The first that is still there.
        first: Position,
    },
}

/// A journal engine. Calls block: a thread of its own makes them.
pub trait Journal: Send {
    /// Takes the journal over: raises the epoch. Later appends of older epochs are refused.
    fn acquire(&mut self) -> Result<Tail, JournalError>;

    /// The tail, as it is durable.
    fn tail(&mut self) -> Result<Tail, JournalError>;

    /// Appends one encoded record after `tail`, durably, and returns the new tail. `bytes` carry position `tail.position + 1`.
    fn append(&mut self, tail: &Tail, digest: Digest, bytes: Bytes) -> Result<Tail, JournalError>;

    /// Records from `from`, in order, at most about `max_bytes` (but one at least, if there is one).
    fn read(&mut self, from: Position, max_bytes: usize) -> Result<Vec<Bytes>, JournalError>;

    /// Forgets records before `first`, as far as that is convenient.
    fn trim(&mut self, first: Position) -> Result<(), JournalError>;
}
