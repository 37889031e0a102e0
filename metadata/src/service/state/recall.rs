//! Telling holders of a change, waiting for them, and releasing replies.
//!
//! A change is answered when every other holder has acknowledged it, or its lease has ended. The session that made the change
//! is not told.
//!
//! # A new stream
//!
//! When a stream breaks, the client drops all that it caches; its kernel does that in its own time: a page that is locked by a
//! read which waits for a bucket may take as long as the read. So nothing of the old stream is forgotten when a new one begins:
//! 1. The first message after `Welcome` is an `Invalidate` without items. The client acknowledges it when its kernel is through.
//! 2. Until then it is a holder of all that it was told before (of everything, if an older service told it), what it had to
//!    acknowledge is still waited for, and changes are told to it as to any other holder.
//! 3. Its acknowledgement settles everything with a lower number, and the older streams do not count any more.
//!
//! As ever nobody waits longer than its lease lasts, and a client that acknowledges nothing for [`ACKNOWLEDGE_SECONDS_MAX`] is
//! given up.
//!
//! Two sessions may wait for each other. That is no circle, because a client acknowledges without waiting for a request of
//! its own: its kernel needs no lock of a request to drop attributes and pages, and where a request holds the lock of a
//! directory, the client has all names looked up again instead (`vfs::KernelInvalidator`). What is left is a write that
//! keeps a page locked while it waits for memory, which waits for such a session: it ends with
//! [`ACKNOWLEDGE_SECONDS_MAX`].

use std::collections::BTreeMap;

use twinshore_protocol::message::{Invalidation, ServerMessage};
use twinshore_protocol::{FileName, InodeNumber, Operation, SessionId};

use super::batch::{Beside, Held};
use super::leases::{Kinds, grants_of, inode_of};
use super::session::Outstanding;
use super::{Fault, Service, WaitId};
use crate::view::ViewStore;

/// A session that sends heartbeats but does not acknowledge for so long is stuck (its kernel does not take notifications).
/// Its stream is closed: without it the lease ends by itself.
const ACKNOWLEDGE_SECONDS_MAX: u64 = 30;

/// A reply that waits for acknowledgements.
#[derive(Debug)]
pub(super) struct Wait {
    held: Held,
    position: twinshore_protocol::Position,
    /// For whom, with the number of the `Invalidate` (0 for a session whose caches are not known).
    remaining: BTreeMap<SessionId, u64>,
    /// The generation of the session's stream when the reply became a grant, if it did.
    granted: Option<u32>,
    /// The inodes that the reply tells of.
    carried: Vec<InodeNumber>,
    /// What of the reply has changed since it was made.
    stale: Vec<Invalidation>,
}

impl Wait {
    /// Takes note of changes of what the reply carries. Once each: a busy session may have hundreds of replies waiting.
    fn became_old(&mut self, changes: &[Invalidation]) {
        for change in changes {
            let carried = match change {
                Invalidation::Entry(directory, name) => names(&self.held.operation, *directory, name),
                Invalidation::Attributes(inode)
                | Invalidation::Content(inode)
                | Invalidation::Everything(inode) => self.carried.contains(inode),
            };
            if carried && !self.stale.contains(change) {
                self.stale.push(change.clone());
            }
        }
    }
}

/// The inodes that a reply tells of.
fn carried(held: &Held) -> Vec<InodeNumber> {
    grants_of_held(held).into_iter().map(|(inode, _)| inode).collect()
}

/// Is it an operation on this name?
fn names(operation: &Operation, in_directory: InodeNumber, file: &FileName) -> bool {
    match operation {
        Operation::MakeNode { parent, name, .. }
        | Operation::MakeDirectory { parent, name, .. }
        | Operation::Create { parent, name, .. }
        | Operation::SymbolicLink { parent, name, .. }
        | Operation::Link { parent, name, .. }
        | Operation::Unlink { parent, name }
        | Operation::RemoveDirectory { parent, name } => (*parent, name) == (in_directory, file),
        Operation::Rename {
            parent,
            name,
            new_parent,
            new_name,
            ..
        } => (*parent, name) == (in_directory, file) || (*new_parent, new_name) == (in_directory, file),
        _ => false,
    }
}

impl<V: ViewStore> Service<V> {
    /// Releases an executed request whose records are committed.
    pub(super) fn release(&mut self, held: Held, position: twinshore_protocol::Position) {
        if let Err(error) = &held.result
            && held.operation.is_mutation()
            && let Some(session) = self.sessions.get_mut(&held.session)
        {
            session.remember_failure(held.number, *error);
        }
        let mut waiting_for = self.recall(Some(held.session), &held.changes);
        self.unmark_removed(&held);
        if held.replayed {
            // Those whom an older service had told of it, and had not heard of.
            self.wait_for_unknown(Some(held.session), &mut waiting_for);
        }
        if held.replayed && waiting_for.is_empty() {
            let superseded = carried(&held).into_iter().map(Invalidation::Everything).collect();
            self.answer(
                held.session,
                held.number,
                position,
                held.result,
                Beside {
                    superseded,
                    ..Beside::default()
                },
            );
            return;
        }
        let granted = if held.replayed {
            None
        } else {
            let granted = self.grant(&held);
            self.take_effect(&held);
            granted
        };
        if waiting_for.is_empty() {
            self.answer(
                held.session,
                held.number,
                position,
                held.result,
                Beside {
                    directories: held.directories,
                    superseded: Vec::new(),
                    delegated: held.delegated,
                },
            );
            return;
        }
        self.ahead.waits(&held, waiting_for.keys());
        let id = WaitId(self.next_wait);
        self.next_wait += 1;
        for (other, number) in &waiting_for {
            if let Some(other) = self.sessions.get_mut(other) {
                other.waited_by.insert(id);
                if let Some(outstanding) = other.outstanding.get_mut(number) {
                    outstanding.wait = Some(id);
                }
            }
        }
        let Some(session) = self.sessions.get_mut(&held.session) else {
            return;
        };
        session.waiting.insert(id);
        self.numbers.recalls_waited += 1;
        let wait = Wait {
            carried: carried(&held),
            held,
            position,
            remaining: waiting_for,
            granted,
            stale: Vec::new(),
        };
        self.waits.insert(id, wait);
    }

    /// A name was removed, which nobody has been told yet: what it named must not be cleaned up meanwhile.
    pub(super) fn mark_removed(&mut self, held: &Held) {
        if removes_names(held) {
            for change in &held.changes {
                *self.unacknowledged.entry(inode_of(change)).or_default() += 1;
            }
        }
    }

    /// Everybody has been told, or the removal will never be.
    pub(super) fn unmark_removed(&mut self, held: &Held) {
        if removes_names(held) {
            for change in &held.changes {
                self.settle_inode(inode_of(change));
            }
            self.background.poke();
        }
    }

    /// Tells everybody of changes that no request made.
    pub(super) fn tell(&mut self, changes: &[Invalidation]) {
        self.recall(None, changes);
    }

    /// Tells the other holders of changes; answers for whom to wait.
    fn recall(&mut self, cause: Option<SessionId>, changes: &[Invalidation]) -> BTreeMap<SessionId, u64> {
        let mut told: BTreeMap<SessionId, Vec<Invalidation>> = BTreeMap::new();
        let sessions = &self.sessions;
        for change in changes {
            self.leases.recall(
                change,
                cause,
                |session| sessions.get(&session).map(|session| session.oldest_generation),
                |session, item| told.entry(session).or_default().push(item),
            );
            // Who was told of an earlier change, and has not acknowledged it, is no holder any more, but may still show what
            // was there before both.
            let inode = inode_of(change);
            if self.unacknowledged.contains_key(&inode) {
                for (id, _) in sessions
                    .iter()
                    .filter(|(id, state)| Some(**id) != cause && state.has_to_drop(inode))
                {
                    let items = told.entry(*id).or_default();
                    if !items.contains(change) {
                        items.push(change.clone());
                    }
                }
            }
        }
        if !changes.is_empty() {
            // A reply that is still held here was made before these changes.
            for wait in self.waits.values_mut() {
                if Some(wait.held.session) == cause || told.contains_key(&wait.held.session) {
                    wait.became_old(changes);
                }
            }
        }
        let mut waiting_for = BTreeMap::new();
        for (session, items) in told {
            if self.faults.take(Fault::LoseOneRecall) {
                continue;
            }
            let number = self.push(session, items);
            if self.is_waited_for(session) {
                waiting_for.insert(session, number);
            }
        }
        if !changes.is_empty() {
            self.wait_for_unknown(cause, &mut waiting_for);
        }
        waiting_for
    }

    /// Adds the sessions whose caches are not known.
    fn wait_for_unknown(&self, cause: Option<SessionId>, waiting_for: &mut BTreeMap<SessionId, u64>) {
        for session in &self.hold_everything {
            if Some(*session) != cause && self.is_waited_for(*session) {
                waiting_for.entry(*session).or_insert(0);
            }
        }
    }

    pub(super) fn is_waited_for(&self, session: SessionId) -> bool {
        self.sessions
            .get(&session)
            .is_some_and(|state| state.lease_until > self.now.monotonic)
    }

    /// Sends an `Invalidate` and remembers that it is not acknowledged. Without a stream it is only remembered: the client drops
    /// everything before the next one.
    pub(super) fn push(&mut self, id: SessionId, items: Vec<Invalidation>) -> u64 {
        if items.is_empty() {
            return 0;
        }
        self.push_numbered(id, items, None)
    }

    /// The session is welcomed over a new stream: asks it to say when its kernel has dropped what came over the older ones.
    pub(super) fn push_beginning(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get(&id) {
            let generation = session.generation;
            self.push_numbered(id, Vec::new(), Some(generation));
        }
    }

    fn push_numbered(&mut self, id: SessionId, items: Vec<Invalidation>, begins: Option<u32>) -> u64 {
        let Some(session) = self.sessions.get_mut(&id) else {
            return 0;
        };
        let number = session.next_invalidation;
        session.next_invalidation += 1;
        let inodes: Vec<InodeNumber> = items.iter().map(inode_of).collect();
        for inode in &inodes {
            *self.unacknowledged.entry(*inode).or_default() += 1;
        }
        session.outstanding.insert(
            number,
            Outstanding {
                since: self.now.monotonic,
                wait: None,
                inodes,
                begins,
            },
        );
        self.numbers.invalidations += items.len() as u64;
        if let Some(connection) = session.connection {
            self.send(connection, ServerMessage::Invalidate { number, items });
        }
        number
    }

    /// Makes the session a holder of what a reply carries. `None` if it has no stream now: what it will be told over the next one,
    /// which may have begun already (`Hello`), it does not hold.
    fn grant(&mut self, held: &Held) -> Option<u32> {
        let session = self.sessions.get(&held.session)?;
        session.connection?;
        let (oldest, generation) = (session.oldest_generation, session.generation);
        for (inode, kinds) in grants_of_held(held) {
            self.leases.grant(held.session, oldest, generation, inode, kinds);
        }
        while let Some((inode, holder)) = self.leases.overflow() {
            self.push(holder, vec![Invalidation::Everything(inode)]);
        }
        Some(generation)
    }

    /// A holder has dropped what it was told to.
    pub(super) fn acknowledged(&mut self, session: SessionId, number: u64) {
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        let Some(outstanding) = state.outstanding.remove(&number) else {
            return;
        };
        self.settle(&outstanding);
        if let Some(generation) = outstanding.begins {
            self.dropped_older_streams(session, generation, number);
        }
        self.gave_up(session, &outstanding.inodes, number);
        if let Some(wait) = outstanding.wait {
            if let Some(state) = self.sessions.get_mut(&session) {
                state.waited_by.remove(&wait);
            }
            self.stop_waiting(wait, session);
        }
    }

    /// The session's kernel is through with all that came over streams before the one that began with this number.
    fn dropped_older_streams(&mut self, id: SessionId, generation: u32, number: u64) {
        self.hold_everything.remove(&id);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.oldest_generation = session.oldest_generation.max(generation);
        let younger = session.outstanding.split_off(&number);
        let older = std::mem::replace(&mut session.outstanding, younger);
        let waits: Vec<WaitId> = session.waited_by.iter().copied().collect();
        for outstanding in older.values() {
            self.settle(outstanding);
        }
        for wait in waits {
            let waits_for = self
                .waits
                .get(&wait)
                .and_then(|wait| wait.remaining.get(&id).copied());
            if waits_for.is_some_and(|waits_for| waits_for < number) {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.waited_by.remove(&wait);
                }
                self.stop_waiting(wait, id);
            }
        }
    }

    fn settle(&mut self, outstanding: &Outstanding) {
        for inode in &outstanding.inodes {
            self.settle_inode(*inode);
        }
        self.background.poke();
    }

    fn settle_inode(&mut self, inode: InodeNumber) {
        if let Some(count) = self.unacknowledged.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                self.unacknowledged.remove(&inode);
            }
        }
    }

    /// A reply waits no longer for a session; it is sent if that was the last one.
    fn stop_waiting(&mut self, id: WaitId, session: SessionId) {
        let Some(wait) = self.waits.get_mut(&id) else {
            return;
        };
        wait.remaining.remove(&session);
        if !wait.remaining.is_empty() {
            return;
        }
        let Some(wait) = self.waits.remove(&id) else {
            return;
        };
        let receiver = wait.held.session;
        let Some(state) = self.sessions.get_mut(&receiver) else {
            return;
        };
        state.waiting.remove(&id);
        let mut superseded = wait.stale;
        if wait.granted != Some(state.generation) {
            // There was no stream, or another has begun: the grant of the reply was lost with the old one.
            superseded.extend(wait.carried.into_iter().map(Invalidation::Everything));
        }
        self.answer(
            receiver,
            wait.held.number,
            wait.position,
            wait.held.result,
            Beside {
                directories: wait.held.directories,
                superseded,
                delegated: wait.held.delegated,
            },
        );
    }

    /// Nobody waits for a session any more: its lease has ended, or it is over.
    pub(super) fn stop_waiting_for(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        for wait in std::mem::take(&mut state.waited_by) {
            self.stop_waiting(wait, session);
        }
    }

    /// A new stream of a session begins. What it was told over the old one counts until it acknowledges the beginning of this.
    pub(super) fn begin_stream(&mut self, session: SessionId) {
        self.private.forget_recalls(session);
        let now = self.now.monotonic;
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        state.generation += 1;
        if state.lease_until <= now {
            // It could not acknowledge, and nobody has waited: its time begins again.
            for outstanding in state.outstanding.values_mut() {
                outstanding.since = now;
            }
        }
    }

    /// Forgets everything that a session may have cached.
    pub(super) fn drop_leases(&mut self, session: SessionId) {
        self.hold_everything.remove(&session);
        self.private.forget_recalls(session);
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        state.generation += 1;
        state.oldest_generation = state.generation;
        let outstanding = std::mem::take(&mut state.outstanding);
        for outstanding in outstanding.values() {
            self.settle(outstanding);
        }
        self.stop_waiting_for(session);
    }

    /// Gives up waiting for sessions whose lease has ended.
    pub(super) fn end_leases(&mut self) {
        let now = self.now.monotonic;
        let ended = self.sessions.iter().filter(|(_, state)| state.lease_until <= now);
        let ended: Vec<_> = ended
            .filter(|(_, state)| !state.waited_by.is_empty())
            .map(|(id, _)| *id)
            .collect();
        for session in ended {
            self.stop_waiting_for(session);
        }
    }

    /// Gives up sessions that are alive but do not acknowledge, and closes their streams.
    pub(super) fn close_the_stuck(&mut self) {
        let now = self.now.monotonic;
        let limit = std::time::Duration::from_secs(ACKNOWLEDGE_SECONDS_MAX);
        let stuck = self.sessions.iter().filter(|(_, state)| {
            state
                .outstanding
                .first_key_value()
                .is_some_and(|(_, oldest)| now.saturating_sub(oldest.since) > limit)
        });
        let mut stuck: Vec<_> = stuck
            .filter_map(|(id, state)| Some((*id, state.connection?)))
            .collect();
        for session in self.do_not_return(limit) {
            let connection = self.sessions.get(&session).and_then(|state| state.connection);
            if let Some(connection) = connection.filter(|_| stuck.iter().all(|(id, _)| *id != session)) {
                stuck.push((session, connection));
            }
        }
        for (session, connection) in stuck {
            tracing::warn!(
                connection = connection.0,
                "a client does not acknowledge invalidations, or return delegations: closing its stream"
            );
            // Two that wait for each other would do so for ever if its next stream were waited for again.
            self.drop_leases(session);
            self.close(connection);
        }
    }

    /// Ends the waits of a session's own replies: there is nobody to send them to.
    pub(super) fn abandon_waits(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        for id in std::mem::take(&mut state.waiting) {
            if let Some(wait) = self.waits.remove(&id) {
                for other in wait.remaining.keys() {
                    if let Some(other) = self.sessions.get_mut(other) {
                        other.waited_by.remove(&id);
                    }
                }
            }
        }
    }
}

/// What a reply makes its session a holder of.
fn grants_of_held(held: &Held) -> Vec<(InodeNumber, Kinds)> {
    let mut grants = Vec::new();
    grants_of(&held.operation, &held.result, &mut grants);
    let directories = held.directories.iter();
    grants.extend(directories.map(|directory| (directory.inode, Kinds::ATTRIBUTES)));
    grants
}

/// Can it take the last name from an inode?
fn removes_names(held: &Held) -> bool {
    held.mutates
        && matches!(
            held.operation,
            Operation::Unlink { .. } | Operation::RemoveDirectory { .. } | Operation::Rename { .. }
        )
}
