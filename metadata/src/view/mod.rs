//! The state of a volume as an ordered map of keys to values: a materialised view of the journal.
//!
//! Invariants: a store holds exactly the mutations of the records 1 to [`ViewStore::applied`], in order; it can always be
//! rebuilt from a checkpoint and the journal, so it need not be durable by itself.

use bytes::Bytes;
use twinshore_protocol::Position;

pub mod fjall;
pub mod memory;

/// One change of the state. Physical: applying it needs no knowledge of its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// The key: a prefix byte and big-endian parts, so that order is meaning.
    pub key: Bytes,
    /// The new value, or `None` to remove the key.
    pub value: Option<Bytes>,
}

/// The store behind a view failed. Final for the process: what was read can no longer be trusted.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The embedded store.
    #[error("the metadata store failed")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A record was applied out of order.
    #[error("record {offered} was applied after record {applied}")]
    OutOfOrder {
        /// The last applied position.
        applied: Position,
        /// What came.
        offered: Position,
    },
}

/// Reading the state.
pub trait View {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError>;

    /// At most `limit` pairs with `start <= key < end`, in order.
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, ViewError>;
}

/// See [`ViewStore::persister`].
pub type Persister = Box<dyn FnOnce() -> Result<(), ViewError> + Send>;

/// Keeping the state.
pub trait ViewStore: View + Send {
    /// The last record that was applied.
    fn applied(&self) -> Position;

    /// Applies the mutations of the record after [`ViewStore::applied`], all or nothing. Later mutations of a key win.
    fn apply(&mut self, position: Position, mutations: &[Mutation]) -> Result<(), ViewError>;

    /// What makes durable all that is applied now, so that a restart replays less. Never needed for safety. It may block for
    /// long, on any thread, while the store is used.
    fn persister(&self) -> Persister;

    /// A frozen view of this moment, for a checkpoint made in the background while more is applied.
    fn snapshot(&self) -> Result<Box<dyn View + Send>, ViewError>;
}
