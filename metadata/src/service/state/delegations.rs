//! Directories that one session alone works in: it answers its programs for them in place of the service.
//!
//! # How it works
//!
//! 1. A directory is delegated to a session when the session changes a name in it, or lists it, and nobody else can know anything
//!    of it that is leased or on its way. The reply says so. A directory that a session makes is delegated from its first moment.
//! 2. The session answers its programs and sends the operations ([`Caller::answered`]), which are executed like any others.
//! 3. A request of another session is executed. If its result would tell of the directory or change it, the result is dropped, the request
//!    *blocked* ([`super::private`]), and the holder sent a `Recall`.
//! 4. With a look-up or a listing of the directory the session is told which files in it are *sole*: nobody else holds anything of them. Until
//!    the end of the delegation a request of somebody else that would make its session hold something of one is treated as one that concerns
//!    the directory. So what the session does to them can be answered early too.
//! 5. The holder sends `Returned` behind all that it has answered. When what came before it is executed, the directory is
//!    delegated no more, and the blocked requests are executed anew.
//!
//! # Invariants
//!
//! * A directory is delegated to one session at most. From the execution of the operation that it was delegated with until the end of the
//!   delegation nothing of another session that concerns it is executed, unless that was answered already.
//! * A file is told to be sole only if no other session has it open, holds something of it, has to acknowledge something of it, or has a
//!   result on its way that tells of it. Whoever holds something of a file can go on with it: it is not sole.
//! * A reply says that a directory is delegated only if no `Recall` of it stands before the reply in the stream.
//! * What was answered already is never blocked: its session had the delegation, and lost it only by silence.
//! * `Returned` waits for no reply, and a blocked request for nothing but `Returned`, or the silence of the holder.
//!
//! # Failure cases
//!
//! A holder whose stream is broken says `Returned` for all at once over its next one, behind what it sends again. A silent one is
//! waited for until its lease ends; if it has a stream all the same it is told, before its lease can begin anew. After a restart of
//! the service nobody knows who holds what: sessions that were there before are *unsettled* until they have said `Returned`, are
//! over, or their lease has ended, and no other session is told of a directory before that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use twinshore_protocol::message::{
    Delegated, Invalidation, LEASE_SECONDS, REQUEST_WINDOW, SESSION_SECONDS, ServerMessage,
};
use twinshore_protocol::{
    Attributes, Caller, Errno, FileType, InodeNumber, Operation, Reply, RequestNumber, SessionId, Timestamp,
};

use super::batch::{Batch, Entry};
use super::leases::{grants_of, inode_of};
use super::{Fault, Service, ServiceError};
use crate::core::{self, Outcome};
use crate::view::ViewStore;

/// Delegated directories at most, over all sessions: about 100 bytes each. Beyond it one is recalled for each new one.
const DELEGATIONS_MAX: usize = 1 << 16;

/// A directory that is delegated.
#[derive(Debug)]
struct Delegation {
    session: SessionId,
    /// The generation of the session's stream in which it began.
    generation: u32,
    /// The number of the `Recall` that was sent over this stream.
    recall: Option<u64>,
}

/// Which directories are delegated, and to whom.
#[derive(Debug, Default)]
pub(super) struct Delegations {
    held: BTreeMap<InodeNumber, Delegation>,
    by_session: BTreeMap<SessionId, BTreeSet<InodeNumber>>,
    /// Sessions of which nobody knows what they hold.
    unsettled: BTreeSet<SessionId>,
    /// `Recall`s that were not answered, by session and number, and since when.
    recalls: BTreeMap<(SessionId, u64), Duration>,
    /// `Returned` that came behind requests which are not executed yet: the session, its last such request, the number.
    returned: Vec<(SessionId, RequestNumber, u64)>,
    last_recall: u64,
    /// Where the next one to be recalled at the limit is looked for.
    hand: InodeNumber,
}

impl Delegations {
    /// After a start, with the sessions that an older service knew.
    pub fn new(epoch: u64, unsettled: BTreeSet<SessionId>) -> Self {
        Self {
            // Numbers are never used again within a session, not even after a restart.
            last_recall: epoch << 32,
            unsettled,
            ..Self::default()
        }
    }

    fn hold(&mut self, directory: InodeNumber, session: SessionId, generation: u32) {
        self.let_go(directory);
        let delegation = Delegation {
            session,
            generation,
            recall: None,
        };
        self.held.insert(directory, delegation);
        self.by_session.entry(session).or_default().insert(directory);
    }

    fn let_go(&mut self, directory: InodeNumber) -> bool {
        let Some(delegation) = self.held.remove(&directory) else {
            return false;
        };
        if let Some(directories) = self.by_session.get_mut(&delegation.session) {
            directories.remove(&directory);
            if directories.is_empty() {
                self.by_session.remove(&delegation.session);
            }
        }
        true
    }

    /// Lets go of a session's directories that fit. Tells whether there were any.
    fn let_go_of(&mut self, session: SessionId, fits: impl Fn(&Delegation) -> bool) -> bool {
        let directories: Vec<_> = self
            .by_session
            .get(&session)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        let mut any = false;
        for directory in directories {
            if self.held.get(&directory).is_some_and(&fits) {
                any |= self.let_go(directory);
            }
        }
        any
    }

    /// Can anything be delegated to another session?
    fn are_all_of(&self, session: SessionId) -> bool {
        let others = self.by_session.keys().chain(&self.unsettled);
        others.copied().all(|other| other == session)
    }

    fn is_idle(&self) -> bool {
        self.held.is_empty() && self.unsettled.is_empty()
    }

    /// The next one beyond the limit that is not recalled yet.
    fn overflow(&mut self) -> Option<InodeNumber> {
        if self.held.len() <= DELEGATIONS_MAX {
            return None;
        }
        let directory = self
            .held
            .range(self.hand..)
            .chain(self.held.range(..self.hand))
            .find(|(_, delegation)| delegation.recall.is_none())
            .map(|(directory, _)| *directory)?;
        self.hand = InodeNumber(directory.0 + 1);
        Some(directory)
    }
}

/// The directories whose names an operation reads or changes.
fn directories_named(operation: &Operation) -> impl Iterator<Item = InodeNumber> {
    let (first, second) = match operation {
        Operation::Lookup { parent, .. }
        | Operation::MakeNode { parent, .. }
        | Operation::MakeDirectory { parent, .. }
        | Operation::Create { parent, .. }
        | Operation::SymbolicLink { parent, .. }
        | Operation::Link { parent, .. }
        | Operation::Unlink { parent, .. }
        | Operation::RemoveDirectory { parent, .. } => (Some(*parent), None),
        Operation::Rename {
            parent, new_parent, ..
        } => (Some(*parent), Some(*new_parent)),
        Operation::ReadDirectory { directory, .. } => (Some(*directory), None),
        _ => (None, None),
    };
    first.into_iter().chain(second)
}

/// The directories that a request tells of, or changes.
fn concerned(
    operation: &Operation,
    result: &Result<Reply, Errno>,
    changes: &[Invalidation],
) -> BTreeSet<InodeNumber> {
    let directory =
        |attributes: &Attributes| (attributes.kind == FileType::Directory).then_some(attributes.inode);
    let mut all: BTreeSet<InodeNumber> = directories_named(operation).collect();
    all.extend(changes.iter().filter_map(|change| match change {
        Invalidation::Entry(directory, _) => Some(*directory),
        _ => None,
    }));
    // A default ACL, among others, and the time of the change. What these name may be no directory.
    if let Operation::SetExtendedAttribute { inode, .. } | Operation::RemoveExtendedAttribute { inode, .. } =
        operation
    {
        all.insert(*inode);
    }
    match result {
        Ok(
            Reply::Entry(attributes)
            | Reply::Attributes(attributes)
            | Reply::Created { attributes, .. }
            | Reply::Removed { attributes, .. },
        ) => all.extend(directory(attributes)),
        Ok(Reply::Renamed { moved, replaced }) => {
            all.extend(std::iter::once(moved).chain(replaced).filter_map(directory));
        }
        Ok(Reply::Directory { entries, .. }) => {
            let told = entries.iter().filter_map(|entry| entry.attributes.as_ref());
            all.extend(told.filter_map(directory));
        }
        _ => {}
    }
    all
}

/// Does a batch hold a result of somebody else that tells of the directory?
fn tells_others(batch: &Batch, session: SessionId, directory: InodeNumber) -> bool {
    batch.entries.iter().any(|entry| match entry {
        Entry::Reply(held) => {
            held.session != session
                && concerned(&held.operation, &held.result, &held.changes).contains(&directory)
        }
        Entry::Part {
            session: other,
            changes,
            ..
        } => *other != session && changes.iter().any(|change| inode_of(change) == directory),
        Entry::Changes(changes) => changes.iter().any(|change| inode_of(change) == directory),
        Entry::Welcome(_) | Entry::Closed(_) => false,
    })
}

impl<V: ViewStore> Service<V> {
    /// The time at which an operation is executed: that of its answer, if it was answered. Within reason: a client's idea of our clock is off by
    /// the way of a message, and it may have been away for as long as a session lives.
    pub(super) fn time_of(&self, caller: &Caller) -> Timestamp {
        let now = self.now.wall;
        let bounded = |time: Timestamp| {
            let early = now.plus_seconds(-2 * SESSION_SECONDS.cast_signed());
            let late = now.plus_seconds(LEASE_SECONDS.cast_signed());
            time.clamp(early, late)
        };
        caller.answered.map_or(now, bounded)
    }

    /// Blocks a request that concerns what is delegated to others. `true`: it must not be answered now.
    pub(super) fn waits_for_holders(
        &mut self,
        id: SessionId,
        number: RequestNumber,
        caller: &Caller,
        operation: &Operation,
        outcome: &Outcome,
    ) -> Result<bool, ServiceError> {
        if self.delegations.is_idle() || self.delegations.are_all_of(id) {
            return Ok(false);
        }
        let mut concerned = concerned(operation, &outcome.result, &outcome.changes);
        concerned.extend(self.directories_of_news(id, operation, outcome)?);
        let held: Vec<InodeNumber> = (concerned.iter().copied())
            .filter(|directory| self.is_held_by_other(*directory, id))
            .collect();
        let may_be_held = !concerned.is_empty() && self.is_somebody_unsettled(id);
        if held.is_empty() && !may_be_held {
            return Ok(false);
        }
        self.recall_delegations(&held);
        if caller.answered.is_some() || self.faults.is(Fault::ExecuteWithoutRecall) {
            return Ok(false);
        }
        self.set_aside(id, number, caller, operation);
        Ok(true)
    }

    /// The directories of the files that a request names by number, or changes, and of which its session holds nothing yet. (What it names by
    /// name stands in a directory that it names.)
    fn directories_of_news(
        &self,
        id: SessionId,
        operation: &Operation,
        outcome: &Outcome,
    ) -> Result<BTreeSet<InodeNumber>, ServiceError> {
        let mut directories = BTreeSet::new();
        let by_name =
            directories_named(operation).next().is_some() && !matches!(operation, Operation::Link { .. });
        // It tells its session nothing, and changes no byte.
        let repoints = matches!(operation, Operation::Repoint { .. });
        if by_name || repoints || self.faults.is(Fault::TellOfSoleFiles) {
            return Ok(directories);
        }
        let mut grants = Vec::new();
        grants_of(operation, &outcome.result, &mut grants);
        let told = grants.into_iter().map(|(inode, _)| inode);
        let told: BTreeSet<InodeNumber> = told.chain(outcome.changes.iter().map(inode_of)).collect();
        let news: Vec<InodeNumber> = told.into_iter().filter(|inode| !self.knows(id, *inode)).collect();
        let view = self.view();
        for inode in news {
            directories.extend(core::only_parent(&view, inode)?);
        }
        Ok(directories)
    }

    /// Does the session hold something of the inode, or has it been told to drop it and has not said that it has?
    fn knows(&self, id: SessionId, inode: InodeNumber) -> bool {
        self.opens.is_open_by(id, inode)
            || self.sessions.get(&id).is_some_and(|state| {
                self.leases.is_cached_by(inode, id, state.oldest_generation) || state.has_to_drop(inode)
            })
    }

    /// Those of some files of which nobody but this session holds anything.
    fn sole<'a>(&self, id: SessionId, files: impl Iterator<Item = &'a Attributes>) -> Vec<InodeNumber> {
        let others = |sessions: &BTreeSet<SessionId>| sessions.iter().any(|session| *session != id);
        if self.grace || others(&self.hold_everything) || others(&self.delegations.unsettled) {
            return Vec::new();
        }
        let on_their_way = self.told_to_others(id);
        let counts = |session: SessionId| self.sessions.get(&session).map(|state| state.oldest_generation);
        files
            .filter(|file| file.kind != FileType::Directory && file.links == 1)
            .map(|file| file.inode)
            .filter(|inode| {
                !self.opens.is_open_by_other(id, *inode)
                    && !self.unacknowledged.contains_key(inode)
                    && !self.leases.is_cached_by_other(*inode, id, counts)
                    && !on_their_way.contains(inode)
            })
            .collect()
    }

    /// The inodes that results of other sessions tell of which are executed and not answered.
    fn told_to_others(&self, id: SessionId) -> BTreeSet<InodeNumber> {
        let mut grants = Vec::new();
        let mut told = BTreeSet::new();
        for batch in std::iter::once(&self.filling).chain(&self.flight) {
            for entry in &batch.entries {
                match entry {
                    Entry::Reply(held) if held.session != id => {
                        grants_of(&held.operation, &held.result, &mut grants);
                        told.extend(held.changes.iter().map(inode_of));
                    }
                    Entry::Part { session, changes, .. } if *session != id => {
                        told.extend(changes.iter().map(inode_of));
                    }
                    Entry::Changes(changes) => told.extend(changes.iter().map(inode_of)),
                    Entry::Reply(_) | Entry::Part { .. } | Entry::Welcome(_) | Entry::Closed(_) => {}
                }
            }
        }
        told.extend(grants.into_iter().map(|(inode, _)| inode));
        told
    }

    /// Is the directory delegated to another session, whose lease lasts? If it does not, the delegation ends here.
    fn is_held_by_other(&mut self, directory: InodeNumber, id: SessionId) -> bool {
        let Some(delegation) = self.delegations.held.get(&directory) else {
            return false;
        };
        let holder = delegation.session;
        if holder == id {
            return false;
        }
        if self.is_waited_for(holder) {
            return true;
        }
        // If it is alive it must hear of it before it hears that its lease goes on.
        self.recall_delegations(&[directory]);
        self.delegations.let_go(directory);
        false
    }

    /// May somebody who was there before this service started hold anything?
    fn is_somebody_unsettled(&mut self, id: SessionId) -> bool {
        let ended: Vec<_> = (self.delegations.unsettled.iter().copied())
            .filter(|session| !self.is_waited_for(*session))
            .collect();
        for session in ended {
            self.delegations.unsettled.remove(&session);
        }
        self.delegations.unsettled.iter().any(|session| *session != id)
    }

    /// Asks the holders of directories to return them, if that was not done yet.
    fn recall_delegations(&mut self, directories: &[InodeNumber]) {
        let mut recalls: BTreeMap<SessionId, Vec<InodeNumber>> = BTreeMap::new();
        for directory in directories {
            let Some(delegation) = self.delegations.held.get(directory) else {
                continue;
            };
            let session = self.sessions.get(&delegation.session);
            // What was delegated over an older stream is returned with the beginning of the new one.
            let can_be_asked = session
                .is_some_and(|state| state.connection.is_some() && state.generation == delegation.generation);
            if delegation.recall.is_none() && can_be_asked {
                recalls.entry(delegation.session).or_default().push(*directory);
            }
        }
        for (session, directories) in recalls {
            self.delegations.last_recall += 1;
            let number = self.delegations.last_recall;
            for directory in &directories {
                if let Some(delegation) = self.delegations.held.get_mut(directory) {
                    delegation.recall = Some(number);
                }
            }
            self.delegations
                .recalls
                .insert((session, number), self.now.monotonic);
            self.numbers.delegations_recalled += directories.len() as u64;
            if let Some(connection) = self.sessions.get(&session).and_then(|state| state.connection) {
                self.send(connection, ServerMessage::Recall { number, directories });
            }
        }
    }

    /// Asks for everything back: limits or the disk leave too little room.
    pub(super) fn recall_all_delegations(&mut self, of: Option<SessionId>) {
        let all: Vec<InodeNumber> = (self.delegations.held.iter())
            .filter(|(_, delegation)| of.is_none_or(|session| delegation.session == session))
            .map(|(directory, _)| *directory)
            .collect();
        self.recall_delegations(&all);
    }

    /// Delegates the directories that a request which was just executed concerned, if nobody else knows of them. Returns what is
    /// delegated to its session.
    pub(super) fn delegate(
        &mut self,
        id: SessionId,
        caller: &Caller,
        operation: &Operation,
        result: &Result<Reply, Errno>,
    ) -> Result<Delegated, ServiceError> {
        let Ok(reply) = result else {
            return Ok(Delegated::default());
        };
        let Some((generation, true)) = self
            .sessions
            .get(&id)
            .map(|state| (state.generation, state.delegations))
        else {
            return Ok(Delegated::default());
        };
        let lists = matches!(operation, Operation::ReadDirectory { .. });
        let looks_up = matches!(operation, Operation::Lookup { .. });
        let mut delegated = Vec::new();
        if lists || looks_up || (operation.is_mutation() && caller.answered.is_none()) {
            for directory in directories_named(operation) {
                let known = self.delegations.held.get(&directory);
                let is_held = known.is_some_and(|held| {
                    held.session == id && held.generation == generation && held.recall.is_none()
                });
                if !is_held {
                    if known.is_some() || looks_up || !self.can_be_delegated(directory, id)? {
                        continue;
                    }
                    self.delegations.hold(directory, id, generation);
                }
                delegated.push(directory);
            }
        }
        let sole = match reply {
            Reply::Entry(found) if looks_up && !delegated.is_empty() => self.sole(id, std::iter::once(found)),
            Reply::Directory { entries, .. } if !delegated.is_empty() => {
                self.sole(id, entries.iter().filter_map(|entry| entry.attributes.as_ref()))
            }
            _ => Vec::new(),
        };
        if let (Operation::MakeDirectory { parent, .. }, Reply::Entry(made)) = (operation, reply)
            && (caller.answered.is_some()
                || delegated.contains(parent)
                || self.can_be_delegated(made.inode, id)?)
        {
            self.delegations.hold(made.inode, id, generation);
            delegated.push(made.inode);
        }
        if let Some(one) = self.delegations.overflow() {
            self.recall_delegations(&[one]);
        }
        Ok(if caller.answered.is_some() {
            Delegated::default()
        } else {
            Delegated {
                directories: delegated,
                sole,
            }
        })
    }

    /// Does nobody but this session know anything of the directory, and is there room for what is answered before it is executed?
    fn can_be_delegated(&self, directory: InodeNumber, id: SessionId) -> Result<bool, ServiceError> {
        let others = |sessions: &BTreeSet<SessionId>| sessions.iter().any(|session| *session != id);
        let is_connected =
            (self.sessions.get(&id)).is_some_and(|state| state.connection.is_some() && !state.closing);
        let counts = |session: SessionId| self.sessions.get(&session).map(|state| state.oldest_generation);
        if !is_connected
            || self.grace
            || self.disk_is_low
            || others(&self.hold_everything)
            || others(&self.delegations.unsettled)
            || self.unacknowledged.contains_key(&directory)
            || self.leases.is_cached_by_other(directory, id, counts)
            || tells_others(&self.filling, id, directory)
            || (self.flight.as_ref()).is_some_and(|flight| tells_others(flight, id, directory))
        {
            return Ok(false);
        }
        let under_way = self.sessions.len() as u64 * REQUEST_WINDOW;
        Ok(core::has_room(&self.view(), directory, under_way)?)
    }

    /// Of this, what the session may be told is delegated to it.
    pub(super) fn still_delegated(&self, id: SessionId, delegated: Delegated) -> Delegated {
        let generation = self.sessions.get(&id).map(|state| state.generation);
        let Delegated {
            mut directories,
            mut sole,
        } = delegated;
        directories.retain(|directory| {
            self.delegations.held.get(directory).is_some_and(|held| {
                held.session == id && held.recall.is_none() && Some(held.generation) == generation
            })
        });
        if directories.is_empty() {
            sole.clear();
        }
        Delegated { directories, sole }
    }

    /// A session gives directories back. What it sent before that is in its queue, if it is not executed.
    pub(super) fn returned(&mut self, id: SessionId, number: u64) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let last = session.queue.back().map_or(RequestNumber(0), |(last, ..)| *last);
        self.delegations.returned.push((id, last, number));
    }

    /// Lets go of what was returned behind requests that are executed by now. Tells whether there was anything.
    pub(super) fn settle_returned(&mut self) -> bool {
        let mut settled = false;
        for (id, last, number) in std::mem::take(&mut self.delegations.returned) {
            let Some(session) = self.sessions.get(&id) else {
                continue;
            };
            if session.queue.front().is_some_and(|(next, ..)| *next <= last) {
                self.delegations.returned.push((id, last, number));
                continue;
            }
            let generation = session.generation;
            if number == 0 {
                self.delegations.unsettled.remove(&id);
                self.delegations
                    .let_go_of(id, |held| held.generation < generation);
            } else {
                self.delegations.recalls.remove(&(id, number));
                self.delegations.let_go_of(id, |held| held.recall == Some(number));
            }
            settled = true;
        }
        self.unblock |= settled;
        settled
    }

    /// A new stream of the session begins: what came over the old one and is not executed comes again, and what was returned behind
    /// it too. It need not be told again what to return.
    pub(super) fn forget_returned(&mut self, id: SessionId, takes_delegations: bool) {
        self.delegations.returned.retain(|(session, ..)| *session != id);
        self.delegations.recalls.retain(|(session, _), _| *session != id);
        if !takes_delegations {
            self.delegations.unsettled.remove(&id);
            self.delegations.let_go_of(id, |_| true);
            self.unblock = true;
        }
    }

    /// The session is over.
    pub(super) fn drop_delegations(&mut self, id: SessionId) {
        self.forget_returned(id, false);
    }

    /// Lets those go on that wait for a session whose lease has ended.
    pub(super) fn end_delegations(&mut self) {
        if self.blocked.is_empty() {
            return;
        }
        let delegations = &self.delegations;
        let holders = delegations.by_session.keys().chain(&delegations.unsettled);
        let ended = holders.copied().any(|session| !self.is_waited_for(session));
        self.unblock |= ended;
    }

    /// Sessions that have not answered a `Recall` for so long.
    pub(super) fn do_not_return(&self, limit: Duration) -> BTreeSet<SessionId> {
        let now = self.now.monotonic;
        let late = (self.delegations.recalls.iter()).filter(|(_, since)| now.saturating_sub(**since) > limit);
        late.map(|((session, _), _)| *session).collect()
    }

    /// How many directories are delegated.
    pub(super) fn delegations_held(&self) -> usize {
        self.delegations.held.len()
    }
}
