//! Files that only the session that made them knows: at durability `fsync` their maker may close them before what it wrote is
//! stored, because whoever else wants to know anything of them waits here until it is.
//!
//! # How it works
//!
//! 1. `Create` makes a file; the reply says that it is private to the session. It stays so until the session has released it,
//!    has been recalled, or is over.
//! 2. A request of another session is executed. If its result would tell of the file, the result is dropped, the request
//!    *blocked*, and the holder told to drop the file's content.
//! 3. The holder stores what it has not stored, and acknowledges. The file is an ordinary one from then on: closing it waits. The
//!    blocked requests are executed anew.
//!
//! # Invariants
//!
//! * A session that does not hold a file has never been told of it. So nobody else has it open, and no commit ever waits here:
//!   two holders that store files at once cannot wait for each other.
//! * A blocked request has done nothing. Executed later, it may come after younger requests of its session: those were made
//!   while it had no answer, so either order is right.
//!
//! # Failure cases
//!
//! A holder that is cut off is waited for until its session is over; what it had closed and not stored is lost with it, as
//! with the power of a local disk. After a restart of the service nobody knows what was private: until every older session has
//! come back or is over, files are told of to nobody else, and whatever a session claims to hold open counts as private to it.

use std::collections::BTreeMap;

use twinshore_protocol::format::Durability;
use twinshore_protocol::lock::LockKind;
use twinshore_protocol::message::Invalidation;
use twinshore_protocol::{Attributes, Caller, Errno, FileType, InodeNumber, Operation, Reply};
use twinshore_protocol::{RequestNumber, SessionId};

use super::{Service, ServiceError};
use crate::view::ViewStore;

/// Who holds which private file, and the number of the `Invalidate` that recalls it.
#[derive(Debug, Default)]
pub(super) struct PrivateFiles {
    holders: BTreeMap<InodeNumber, BTreeMap<SessionId, Option<u64>>>,
}

impl PrivateFiles {
    /// The file is private to the session.
    pub fn hold(&mut self, session: SessionId, inode: InodeNumber) {
        self.holders.entry(inode).or_default().insert(session, None);
    }

    /// It is not any more. Tells whether it was.
    pub fn release(&mut self, session: SessionId, inode: InodeNumber) -> bool {
        let Some(sessions) = self.holders.get_mut(&inode) else {
            return false;
        };
        let was = sessions.remove(&session).is_some();
        if sessions.is_empty() {
            self.holders.remove(&inode);
        }
        was
    }

    /// Nothing is private to the session any more.
    pub fn release_all(&mut self, session: SessionId) {
        self.holders.retain(|_, sessions| {
            sessions.remove(&session);
            !sessions.is_empty()
        });
    }

    /// A new stream of the session begins: it has to be told again what to give up.
    pub fn forget_recalls(&mut self, session: SessionId) {
        for recall in self
            .holders
            .values_mut()
            .filter_map(|sessions| sessions.get_mut(&session))
        {
            *recall = None;
        }
    }

    /// The session has dropped the content of a file, as this `Invalidate` told it to. Tells whether it gave it up by that.
    fn acknowledged(&mut self, session: SessionId, inode: InodeNumber, number: u64) -> bool {
        let recalled = self
            .holders
            .get(&inode)
            .and_then(|sessions| sessions.get(&session))
            .is_some_and(|recall| *recall == Some(number));
        recalled && self.release(session, inode)
    }

    fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
}

/// A request that waits for the holder of a private file, or of a delegation.
#[derive(Debug)]
pub(super) struct Blocked {
    session: SessionId,
    number: RequestNumber,
    caller: Caller,
    operation: Operation,
}

impl Blocked {
    /// Is it a request of this session?
    pub fn is_of(&self, session: SessionId) -> bool {
        self.session == session
    }

    /// The number of a request that changes this session's locks.
    pub fn lock_request_of(&self, session: SessionId) -> Option<RequestNumber> {
        (self.is_of(session) && locked_inode(&self.operation).is_some()).then_some(self.number)
    }
}

/// Whose locks an operation changes.
fn locked_inode(operation: &Operation) -> Option<InodeNumber> {
    match operation {
        Operation::SetLock { inode, .. } | Operation::CancelLock { inode, .. } => Some(*inode),
        _ => None,
    }
}

impl<V: ViewStore> Service<V> {
    /// Blocks a request whose result tells of files that are private to others. `true`: it must not be answered now.
    pub(super) fn block(
        &mut self,
        id: SessionId,
        number: RequestNumber,
        caller: &Caller,
        operation: &Operation,
        result: &Result<Reply, Errno>,
    ) -> bool {
        let older_are_missing = self.grace && self.format.settings.durability == Durability::Fsync;
        // What was answered already concerns only what its session made, and younger requests rest on it.
        let never_waits = matches!(operation, Operation::Commit { .. }) || caller.answered.is_some();
        if (self.private.is_empty() && !older_are_missing) || never_waits {
            return false;
        }
        let told = files_told_of(operation, result);
        let mut recalls = Vec::new();
        let mut is_held = false;
        for inode in &told {
            for (holder, recall) in self.private.holders.get(inode).into_iter().flatten() {
                if *holder != id {
                    is_held = true;
                    if recall.is_none() {
                        recalls.push((*holder, *inode));
                    }
                }
            }
        }
        // An open of a file that is told of already is not waited for by its client, and must keep its place before the
        // release that may follow.
        let may_be_held = older_are_missing
            && !told.is_empty()
            && !matches!(operation, Operation::Open { .. } | Operation::Release { .. })
            && self
                .sessions
                .iter()
                .any(|(other, state)| *other != id && !state.reclaimed);
        if !is_held && !may_be_held {
            return false;
        }
        for (holder, inode) in recalls {
            let is_connected = self
                .sessions
                .get(&holder)
                .is_some_and(|state| state.connection.is_some());
            if is_connected {
                let pushed = self.push(holder, vec![Invalidation::Content(inode)]);
                if let Some(recall) = self
                    .private
                    .holders
                    .get_mut(&inode)
                    .and_then(|sessions| sessions.get_mut(&holder))
                {
                    *recall = Some(pushed);
                }
            }
        }
        self.set_aside(id, number, caller, operation);
        true
    }

    /// Keeps a request to be executed anew ([`Self::run_blocked`]).
    pub(super) fn set_aside(
        &mut self,
        session: SessionId,
        number: RequestNumber,
        caller: &Caller,
        operation: &Operation,
    ) {
        self.blocked.push(Blocked {
            session,
            number,
            caller: caller.clone(),
            operation: operation.clone(),
        });
    }

    /// A lock is given back after what was requested before: a client that has given up waiting for the answer to a commit may give
    /// back the lock under which it wrote, and whoever gets it next must neither miss the commit nor still show what was there
    /// before. Blocks such an unlock, and what the session asks of the same file's locks after it. `true`: it must wait.
    pub(super) fn keeps_lock(
        &mut self,
        id: SessionId,
        number: RequestNumber,
        caller: &Caller,
        operation: &Operation,
    ) -> bool {
        let Some(inode) = locked_inode(operation) else {
            return false;
        };
        let gives_back = matches!(operation, Operation::SetLock { lock, .. } if lock.kind != LockKind::Write);
        let unanswered = gives_back
            && self.sessions.get(&id).is_some_and(|session| {
                session
                    .in_flight
                    .range(..number)
                    .any(|(_, before)| before.mutates)
            });
        // A request for a lock must not come after its own cancellation: nobody would give it back.
        let behind = self
            .blocked
            .iter()
            .any(|blocked| blocked.is_of(id) && locked_inode(&blocked.operation) == Some(inode));
        if !unanswered && !behind {
            return false;
        }
        self.set_aside(id, number, caller, operation);
        true
    }

    /// A session has acknowledged an `Invalidate` that named these inodes.
    pub(super) fn gave_up(&mut self, session: SessionId, inodes: &[InodeNumber], number: u64) {
        for inode in inodes {
            self.unblock |= self.private.acknowledged(session, *inode, number);
        }
    }

    /// Executes blocked requests anew, if anything has changed that they may have waited for.
    pub(super) fn run_blocked(&mut self) -> Result<(), ServiceError> {
        if !std::mem::take(&mut self.unblock) {
            return Ok(());
        }
        for request in std::mem::take(&mut self.blocked) {
            let Blocked {
                session,
                number,
                caller,
                operation,
            } = request;
            let is_under_way = self
                .sessions
                .get_mut(&session)
                .is_some_and(|state| state.in_flight.remove(&number).is_some());
            if is_under_way {
                self.execute(session, number, caller, operation)?;
            }
        }
        Ok(())
    }
}

/// The files, not directories, that a result tells something of which another client's unwritten data can change.
fn files_told_of(operation: &Operation, result: &Result<Reply, Errno>) -> Vec<InodeNumber> {
    let Ok(reply) = result else {
        return Vec::new();
    };
    let file = |attributes: &Attributes| (attributes.kind == FileType::Regular).then_some(attributes.inode);
    let mut told: Vec<InodeNumber> = match reply {
        Reply::Created { new: true, .. } => Vec::new(),
        Reply::Entry(attributes)
        | Reply::Attributes(attributes)
        | Reply::Created { attributes, .. }
        | Reply::Extents { attributes, .. }
        | Reply::Copied { attributes, .. }
        | Reply::Removed { attributes, .. } => file(attributes).into_iter().collect(),
        Reply::Renamed { moved, replaced } => {
            let both = std::iter::once(moved).chain(replaced);
            both.filter_map(file).collect()
        }
        Reply::Directory { entries, .. } => entries
            .iter()
            .filter_map(|entry| entry.attributes.as_ref())
            .filter_map(file)
            .collect(),
        _ => Vec::new(),
    };
    match operation {
        Operation::MakeNode { .. } => told.clear(),
        Operation::CopyRange { source, .. } => told.push(*source),
        Operation::Seek { inode, .. } => told.push(*inode),
        _ => {}
    }
    told
}
