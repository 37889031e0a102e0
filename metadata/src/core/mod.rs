//! The deterministic core: what each operation does to the state of a volume.
//!
//! [`step`] is pure: no clock, no network, no randomness, no memory of its own. It reads the view, and returns the
//! mutations, the changes that others who cache must hear of, and the reply. The same core runs in the service, in a
//! mirror's reads and in the simulation.

use std::collections::BTreeSet;

use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::message::{Role, SessionDescription};
use twinshore_protocol::{
    Attributes, Caller, Epoch, Errno, FileName, FileType, InodeNumber, Operation, Position, Reply, SessionId,
    Side, Timestamp,
};

use crate::view::{Mutation, View, ViewError};

mod acl;
pub mod check;
pub mod claims;
pub mod compaction;
pub mod copying;
mod extents;
mod garbage;
pub mod keys;
mod maintenance;
mod names;
mod objects;
mod operations;
pub mod outbox;
mod permissions;
pub mod results;
mod sessions;
mod transaction;
mod trash;
mod trees;
mod usage;
pub mod values;
pub mod volume;

#[cfg(test)]
mod tests;

use transaction::Transaction;
pub use usage::has_room;

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
    /// Only a part of it is done: the mutations are to be journalled without the reply, then the same operation executed
    /// again, until it is finished. Each part leaves a state that a smaller operation of the same kind could have left.
    pub unfinished: bool,
    /// To be journalled and applied.
    pub mutations: Vec<Mutation>,
    /// What others who cache must drop before the reply is sent.
    pub changes: Vec<twinshore_protocol::message::Invalidation>,
    /// It went beyond a limit, as its program had been answered already.
    pub beyond_limits: bool,
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

/// The limits that a volume is made with. They can be changed later: they are those of its root directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeLimits {
    /// Bytes allocated at most, or `None` for no limit.
    pub bytes: Option<u64>,
    /// Inodes at most, the root included, or `None` for no limit.
    pub inodes: Option<u64>,
}

/// What the service itself does to the state of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Makes an empty volume, in an empty view. Replies `Done`; `EEXIST` if there is one.
    CreateVolume {
        /// Its format record.
        format: VolumeFormat,
        /// Its limits, from the first record on.
        limits: VolumeLimits,
    },
    /// A leader begins its reign. Replies `Done`; `EINVAL` if the epoch is not higher than the last.
    StartEpoch {
        /// The new epoch.
        epoch: Epoch,
    },
    /// A session begins. Replies `Granted`.
    OpenSession {
        /// Its number, never used before.
        session: SessionId,
        /// What connects.
        role: Role,
        /// Its near side.
        near: Side,
        /// Who it says it is.
        description: SessionDescription,
    },
    /// A session is over: its ranges and results go. Replies `Done`, also if it is unknown.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// A bounded piece of a copy under way. Replies `Offset`: 0 if there is none.
    CopyOn,
    /// A copy cannot be completed. Replies `Done`, also if it is not under way.
    FailCopy {
        /// The root of the copy.
        copy: InodeNumber,
        /// Why, for a person.
        reason: String,
    },
    /// A bounded piece of the work in the background: expired trash, inodes without a name that are not open, dead
    /// objects, the walk after a change of the target. Replies `Offset`: how much was done, 0 if nothing is left for now.
    CleanUp {
        /// How many rows to remove or to look at, about.
        limit: usize,
        /// The archive in every bucket holds the records up to here: objects that died later are kept.
        archived: Position,
    },
}

/// Executes one operation that needs only durable state. (Locks, `Release` and `GetStatus` are the service's.)
pub fn step(view: &dyn View, context: &Context<'_>, operation: &Operation) -> Result<Outcome, CoreError> {
    let mut transaction = Transaction::new(view, context);
    let result = operations::execute(&mut transaction, operation);
    transaction.finish(result)
}

/// The attributes of an inode that exists.
pub fn attributes(view: &dyn View, inode: InodeNumber) -> Result<Option<Attributes>, CoreError> {
    let row: Option<values::InodeRow> = transaction::read(view, &keys::inode(inode))?;
    Ok(row.map(|row| row.attributes))
}

/// The directory in which an inode that is no directory has its only name.
pub fn only_parent(view: &dyn View, inode: InodeNumber) -> Result<Option<InodeNumber>, CoreError> {
    let row: Option<values::InodeRow> = transaction::read(view, &keys::inode(inode))?;
    Ok(row.and_then(|row| match row.place {
        values::Place::Named { parent } if !row.is_directory() && row.attributes.links == 1 => Some(parent),
        _ => None,
    }))
}

/// What the entries behind a name in the order of a listing name, directories left out: at most `limit` entries are looked at.
pub fn entries_after(
    view: &dyn View,
    directory: InodeNumber,
    name: &FileName,
    limit: usize,
) -> Result<Vec<InodeNumber>, CoreError> {
    let start = keys::after(&names::entry_key(directory, name));
    let end = keys::after_prefix(&keys::of(keys::ENTRY, directory.0));
    let mut inodes = Vec::new();
    for (key, value) in view.scan(&start, &end, limit)? {
        let values::EntryRow { inode, kind } = transaction::decode(&key, &value)?;
        if kind != FileType::Directory {
            inodes.push(inode);
        }
    }
    Ok(inodes)
}

/// Does one piece of the service's own work.
pub fn maintain(
    view: &dyn View,
    context: &Context<'_>,
    maintenance: &Maintenance,
) -> Result<Outcome, CoreError> {
    let mut transaction = Transaction::new(view, context);
    let result = maintenance::execute(&mut transaction, maintenance);
    transaction.finish(result)
}
