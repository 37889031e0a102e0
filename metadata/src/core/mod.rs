//! The deterministic core: what each operation does to the state of a volume.
//!
//! [`step`] is pure: no clock, no network, no randomness, no memory of its own. It reads the view, and returns the
//! mutations, the changes that others who cache must hear of, and the reply. The same core runs in the service, in a
//! mirror's reads and in the simulation.

use std::collections::BTreeSet;

use twinshore_protocol::{Caller, Epoch, Errno, InodeNumber, Operation, Position, Reply, SessionId, Side, Timestamp};

use crate::view::{Mutation, View, ViewError};

/// Under what circumstances an operation runs.
pub struct Context<'a> {
    /// The time that `now` stands for in this operation.
    pub now: Timestamp,
    /// The position of the record that will hold the mutations.
    pub position: Position,
    /// The leader's epoch.
    pub epoch: Epoch,
    /// Who sent it.
    pub session: SessionId,
    /// The region of that session: where its new objects are.
    pub near: Side,
    /// On whose behalf.
    pub caller: &'a Caller,
    /// Inodes that some session holds open, the caller's included: these outlive their last name.
    pub open: &'a dyn OpenInodes,
}

/// Which inodes are open somewhere.
pub trait OpenInodes {
    /// Must the inode outlive its last name? When in doubt (after a restart, before all sessions have reclaimed), yes.
    fn is_open(&self, inode: InodeNumber) -> bool;
}

impl OpenInodes for BTreeSet<InodeNumber> {
    fn is_open(&self, inode: InodeNumber) -> bool {
        self.contains(&inode)
    }
}

/// What an operation did.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The reply. After an error there are no mutations and no changes.
    pub result: Result<Reply, Errno>,
    /// To be journalled and applied.
    pub mutations: Vec<Mutation>,
    /// What others who cache must drop before the reply is sent.
    pub changes: Vec<twinshore_protocol::message::Invalidation>,
}

/// The core cannot go on: the process must stop, as nothing it would do can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The view failed.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The state contradicts itself.
    #[error("the metadata is damaged at key {key}: {what}")]
    Corrupt {
        /// The key, in hexadecimal.
        key: String,
        /// What was found.
        what: String,
    },
}

/// Executes one operation that needs only durable state. (Locks, `Release` and `GetStatus` are the service's.)
pub fn step(view: &dyn View, context: &Context<'_>, operation: &Operation) -> Result<Outcome, CoreError> {
    let _ = (view, context, operation);
    Ok(Outcome { result: Err(Errno::NotImplemented), mutations: Vec::new(), changes: Vec::new() })
}
