//! Attribute changes that wait for the writes before them.
//!
//! Programs that unpack (`tar`, `cp -p`, `unzip`) write a file, then set its times, owner and mode, then close it. The writes are
//! still in memory then; told one after the other, each of these calls would cost a message and a record of the journal, and the
//! first one would have to wait for the writes. So while an open file has unwritten data, such changes are kept beside it, are
//! shown to this mount's programs at once, and are sent together with the commit: one wait instead of four.
//!
//! # Guarantees
//!
//! * A deferred change is sent in the same step as the writes before it: at the latest by `close` or `fsync`, and without either
//!   when the writer gets to the data. Others see the change when they see the data.
//! * Only what cannot be refused is deferred: what root does, or an owner with modes and times of its own file, without ACLs
//!   and without set-id bits, whose clearing the service decides.
//! * If it fails all the same (the session was lost), the next `write`, `fsync` or `close` says so.
//!
//! # States
//!
//! None, waiting, sent (and still shown until the reply has been taken in); a change meanwhile makes it waiting again.

use std::sync::Arc;

use twinshore_protocol::attributes::{AttributeChanges, TimeChange};
use twinshore_protocol::{Attributes, Caller, Errno, FileType, InodeNumber, Operation, Reply, Timestamp};

use super::core::{Core, unexpected};
use super::inode::{Inode, InodeState};
use crate::logbook::{DeferredChange, Note};

/// Set-user-id and set-group-id.
const SET_ID: u16 = 0o6000;

/// Changes that are not sent, or whose reply has not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferred {
    caller: Caller,
    changes: AttributeChanges,
    /// When the last one was made.
    changed: Timestamp,
    /// How many were joined: tells whether one came while the others were under way.
    joined: u32,
}

impl Deferred {
    /// As a process before this one left it.
    pub fn restored(change: DeferredChange) -> Self {
        let DeferredChange {
            inode: _,
            caller,
            changes,
            changed,
            joined,
        } = change;
        Self {
            caller,
            changes,
            changed,
            joined,
        }
    }

    /// For a process after this one.
    pub fn recorded(&self, inode: InodeNumber) -> DeferredChange {
        DeferredChange {
            inode,
            caller: self.caller.clone(),
            changes: self.changes,
            changed: self.changed,
            joined: self.joined,
        }
    }

    /// The attributes as they will be.
    pub fn seen(&self, attributes: &mut Attributes) {
        let AttributeChanges {
            mode,
            user,
            group,
            size_bytes: _,
            accessed,
            modified,
        } = self.changes;
        let time = |change: Option<TimeChange>, before| match change {
            Some(TimeChange::To(time)) => time,
            Some(TimeChange::Now) | None => before,
        };
        attributes.mode = mode.unwrap_or(attributes.mode);
        attributes.user = user.unwrap_or(attributes.user);
        attributes.group = group.unwrap_or(attributes.group);
        attributes.accessed = time(accessed, attributes.accessed);
        attributes.modified = time(modified, attributes.modified);
        attributes.changed = attributes.changed.max(self.changed);
    }
}

/// Can these changes wait for the writes?
fn can_wait(state: &InodeState, caller: &Caller, changes: &AttributeChanges) -> bool {
    let Some(seen) = state.seen_attributes() else {
        return false;
    };
    let is_known_time = |change: Option<TimeChange>| !matches!(change, Some(TimeChange::Now));
    let may =
        caller.user == 0 || (caller.user == seen.user && changes.user.is_none() && changes.group.is_none());
    let same_caller = state
        .deferred
        .as_ref()
        .is_none_or(|deferred| deferred.caller == *caller);
    let sets_ids = (seen.mode | changes.mode.unwrap_or(0)) & SET_ID != 0;
    seen.kind == FileType::Regular
        && state.handles > 0
        && !state.dirty.is_empty()
        && changes.size_bytes.is_none()
        && is_known_time(changes.accessed)
        && is_known_time(changes.modified)
        && !seen.has_extended_attributes
        && !sets_ids
        && may
        && same_caller
}

impl InodeState {
    /// Keeps the changes beside the unwritten data, if they can wait.
    pub fn defer(&mut self, caller: &Caller, changes: &AttributeChanges, now: Timestamp) -> bool {
        if !can_wait(self, caller, changes) {
            return false;
        }
        let deferred = self.deferred.get_or_insert_with(|| Deferred {
            caller: caller.clone(),
            changes: AttributeChanges::default(),
            changed: now,
            joined: 0,
        });
        let all = &mut deferred.changes;
        all.mode = changes.mode.or(all.mode);
        all.user = changes.user.or(all.user);
        all.group = changes.group.or(all.group);
        all.accessed = changes.accessed.or(all.accessed);
        all.modified = changes.modified.or(all.modified);
        deferred.changed = now;
        deferred.joined += 1;
        true
    }

    /// Something is written after the changes: its time is younger than the one that was set.
    pub fn wrote_after_deferred(&mut self) {
        if let Some(deferred) = &mut self.deferred {
            deferred.changes.modified = None;
            deferred.joined += 1;
        }
    }

    /// Is everything stored that this client changed?
    pub fn is_written(&self) -> bool {
        self.dirty.is_empty() && self.deferred.is_none()
    }
}

impl Core {
    /// Sends what was deferred. Called by whoever has the inode's turn, after or together with the commit of what was written
    /// before.
    pub async fn send_deferred(self: &Arc<Self>, inode: &Inode) {
        let Some(deferred) = inode.state().deferred.clone() else {
            return;
        };
        let result = if self.is_abandoned() {
            Err(Errno::InputOutput)
        } else {
            let operation = Operation::SetAttributes {
                inode: inode.number,
                changes: deferred.changes,
            };
            let note = Note {
                deferred: Some((inode.number, deferred.joined)),
                ..Note::default()
            };
            match self.ask_noted(deferred.caller.clone(), operation, note).await {
                Ok(Reply::Attributes(_)) => Ok(()),
                Ok(other) => Err(unexpected(&other)),
                Err(errno) => Err(errno),
            }
        };
        let mut state = inode.state();
        let is_newest = state
            .deferred
            .as_ref()
            .is_some_and(|now| now.joined == deferred.joined);
        if is_newest || result.is_err() {
            state.deferred = None;
            self.record_deferred(inode, None);
        }
        if let Err(errno) = result {
            tracing::warn!(inode = %inode.number, %errno, "attributes that were set could not be stored");
            state.error.get_or_insert(errno);
            self.caches.record_failure(inode.number, state.error);
        }
    }
}
