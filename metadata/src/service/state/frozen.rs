//! Copies of trees under way, and who waits for them.
//!
//! # How it works
//!
//! While a directory with a name is being copied ([`crate::core::copying`]), a request that would change anything in it is put back to the front of its
//! session's queue, and the session *held up*: what follows goes on when the copy is complete, in its order, as the requests of a session may depend on
//! each other. Other sessions, and changes elsewhere, go on. One piece of a copy rides in each batch.
//!
//! # Guarantees
//!
//! * A copy waits for nobody, so nobody waits in a circle. Acknowledgements and heartbeats are no requests: they are never held up.
//! * A directory is frozen for [`FROZEN_MAX`] at most; then the copy fails, and says so.
//! * After a restart copies go on where they were, and what they freeze is frozen before anything is executed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use twinshore_protocol::{Caller, InodeNumber, Operation, Reply, RequestNumber, SessionId};

use super::batch::Entry;
use super::{Fault, Service, ServiceError};
use crate::core::copying::{self, CopyUnderWay};
use crate::core::{Maintenance, Outcome};
use crate::view::ViewStore;

/// How long those who would change a directory wait, at most: half of what a mount gives a request.
const FROZEN_MAX: Duration = Duration::from_secs(30);

/// After a failed append: how long to leave a full disk alone.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// What is known of the copies under way.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    copies: Vec<CopyUnderWay>,
    /// The directories that nobody may change, and since when.
    trees: BTreeMap<InodeNumber, Duration>,
    /// Sessions whose next request waits.
    held_up: BTreeSet<SessionId>,
    retry_at: Duration,
}

impl Frozen {
    /// Does the next request of the session wait?
    pub fn holds_up(&self, session: SessionId) -> bool {
        self.held_up.contains(&session)
    }

    /// The session has no next request any more.
    pub fn forget(&mut self, session: SessionId) {
        self.held_up.remove(&session);
    }

    /// An append has failed.
    pub fn failed(&mut self, now: Duration) {
        self.retry_at = now + AFTER_FAILURE;
    }
}

/// The inodes that an operation would change, for all that a copy would show of it.
fn changed_by(operation: &Operation) -> Vec<InodeNumber> {
    match operation {
        Operation::SetAttributes { inode, .. }
        | Operation::Open {
            inode,
            truncate: true,
        }
        | Operation::Allocate { inode, .. }
        | Operation::SetExtendedAttribute { inode, .. }
        | Operation::RemoveExtendedAttribute { inode, .. }
        | Operation::SetQuota { directory: inode, .. }
        | Operation::CopyRange {
            destination: inode, ..
        }
        | Operation::MakeNode { parent: inode, .. }
        | Operation::MakeDirectory { parent: inode, .. }
        | Operation::Create { parent: inode, .. }
        | Operation::SymbolicLink { parent: inode, .. }
        | Operation::Unlink { parent: inode, .. }
        | Operation::RemoveDirectory { parent: inode, .. } => vec![*inode],
        Operation::Link { inode, parent, .. } => vec![*inode, *parent],
        Operation::Rename {
            parent, new_parent, ..
        } => vec![*parent, *new_parent],
        Operation::Commit { files, .. } => files.iter().map(|file| file.inode).collect(),
        Operation::RestoreTrash {
            to: Some((parent, _)),
            ..
        } => vec![*parent],
        // What claims do to a directory that is being copied is refused, or changes no more than its limit; the rest changes nothing that a
        // copy shows.
        _ => Vec::new(),
    }
}

impl<V: ViewStore> Service<V> {
    /// Looks which copies are under way, and lets those go on who waited for others.
    pub(super) fn look_for_copies(&mut self) -> Result<(), ServiceError> {
        let copies = copying::under_way(&self.view())?;
        let now = self.now.monotonic;
        let before = std::mem::take(&mut self.frozen.trees);
        let trees = copies.iter().filter_map(|copy| copy.frozen);
        self.frozen.trees = trees
            .map(|tree| (tree, before.get(&tree).copied().unwrap_or(now)))
            .collect();
        self.frozen.copies = copies;
        if before.keys().any(|tree| !self.frozen.trees.contains_key(tree)) {
            for session in std::mem::take(&mut self.frozen.held_up) {
                let waits = self
                    .sessions
                    .get(&session)
                    .is_some_and(|state| !state.queue.is_empty());
                if waits && !self.ready.contains(&session) {
                    self.ready.push_back(session);
                }
            }
        }
        Ok(())
    }

    /// Holds a request up that would change what is being copied. `true`: it must not be executed now.
    pub(super) fn hold_up(
        &mut self,
        id: SessionId,
        number: RequestNumber,
        caller: &Caller,
        operation: &Operation,
    ) -> Result<bool, ServiceError> {
        if self.frozen.trees.is_empty() || self.faults.is(Fault::CopyWithoutHoldingStill) {
            return Ok(false);
        }
        // Where it goes back to is only known once it is done.
        let anywhere = matches!(operation, Operation::RestoreTrash { to: None, .. });
        let trees: Vec<InodeNumber> = self.frozen.trees.keys().copied().collect();
        let view = self.view();
        let mut waits = anywhere;
        for inode in changed_by(operation) {
            waits = waits || copying::is_within_any(&view, inode, &trees)?;
        }
        if waits {
            self.frozen.held_up.insert(id);
            self.put_back(id, number, caller.clone(), operation.clone());
        }
        Ok(waits)
    }

    /// Adds a piece of a copy to the filling batch, if there is any under way.
    pub(super) fn copy_on(&mut self) -> Result<(), ServiceError> {
        let now = self.now.monotonic;
        if self.frozen.copies.is_empty() || self.filling_is_full() || now < self.frozen.retry_at {
            return Ok(());
        }
        let outcome = if let Some((copy, reason)) = self.copy_to_fail() {
            self.fail_copy(copy, reason)?
        } else {
            let outcome = self.maintain(&Maintenance::CopyOn)?;
            match (&outcome.result, self.frozen.copies.first()) {
                // Nothing of it is done. It would fail again.
                (Err(errno), Some(copy)) => self.fail_copy(copy.copy, errno.to_string())?,
                _ => outcome,
            }
        };
        if outcome.result.is_err() {
            return Err(ServiceError::Unexpected { what: "to copy" });
        }
        self.filling.add_mutations(&outcome.mutations);
        if !outcome.changes.is_empty() {
            self.filling.entries.push(Entry::Changes(outcome.changes));
        }
        if outcome.result == Ok(Reply::Offset(0)) {
            self.frozen.copies.clear();
        }
        self.look_for_copies()
    }

    /// A copy that must not go on, and why.
    fn copy_to_fail(&self) -> Option<(InodeNumber, String)> {
        self.frozen.copies.iter().find_map(|copy| {
            let since = self.frozen.trees.get(&copy.frozen?)?;
            if self.disk_is_low {
                return Some((copy.copy, "the disk of the metadata is nearly full".to_owned()));
            }
            (self.now.monotonic.saturating_sub(*since) > FROZEN_MAX).then(|| {
                let limit = FROZEN_MAX.as_secs();
                (
                    copy.copy,
                    format!("it takes longer than the {limit} s for which writers may be held up"),
                )
            })
        })
    }

    fn fail_copy(&self, copy: InodeNumber, reason: String) -> Result<Outcome, ServiceError> {
        tracing::warn!(copy = copy.0, reason, "a copy of a directory has failed");
        self.maintain(&Maintenance::FailCopy { copy, reason })
    }
}
