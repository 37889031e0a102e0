//! Group commit: batches of executed operations, one of them in flight, and what happens when it is committed or fails.

use twinshore_protocol::message::{Delegated, Invalidation, ServerMessage};
use twinshore_protocol::{
    Attributes, Caller, Errno, InodeNumber, Operation, Position, Reply, RequestNumber, SessionId,
};

use super::hello::Greeting;
use super::{AppendError, ConnectionId, Output, Service, ServiceError, all_changes};
use crate::journal::Tail;
use crate::journal::record::Record;
use crate::service::overlay::{Depth, Layered, Overlay};
use crate::view::{Mutation, ViewStore};

/// An executed request that is not answered yet.
#[derive(Debug)]
pub(super) struct Held {
    pub session: SessionId,
    pub number: RequestNumber,
    pub caller: Caller,
    pub operation: Operation,
    pub result: Result<Reply, Errno>,
    /// It has mutations in its batch.
    pub mutates: bool,
    pub changes: Vec<Invalidation>,
    /// What it opened when it executed.
    pub opened: Option<InodeNumber>,
    /// The directories whose entries it changed, as they were after it.
    pub directories: Vec<Attributes>,
    /// What is delegated to its session, of that which it concerned.
    pub delegated: Delegated,
    /// The result is that of an earlier execution: what it tells of may have changed since, so it grants nothing.
    pub replayed: bool,
}

/// What an answer tells besides the result.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// The directories that it changed.
    pub directories: Vec<Attributes>,
    /// What of it has changed since.
    pub superseded: Vec<Invalidation>,
    /// What is delegated, if it still is.
    pub delegated: Delegated,
}

/// What is to be done when a batch is committed, in the order of execution.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // Nearly all are replies: a box for each would only cost.
pub(super) enum Entry {
    /// Answer a request.
    Reply(Held),
    /// Welcome a session.
    Welcome(Greeting),
    /// Forget a session.
    Closed(SessionId),
    /// Tell of changes that no request made.
    Changes(Vec<Invalidation>),
    /// Tell of the changes of a part of a request, which goes on in its session's queue.
    Part {
        /// Whose.
        session: SessionId,
        /// Its number.
        number: RequestNumber,
        /// What has changed so far.
        changes: Vec<Invalidation>,
    },
}

/// Uncommitted mutations and what waits for them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub overlay: Overlay,
    pub mutations: Vec<Mutation>,
    pub entries: Vec<Entry>,
    pub operations: usize,
    pub bytes: usize,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.mutations.is_empty()
    }

    pub fn add_mutations(&mut self, mutations: &[Mutation]) {
        self.overlay.extend(mutations);
        for mutation in mutations {
            self.bytes += mutation.key.len() + mutation.value.as_ref().map_or(0, bytes::Bytes::len) + 8;
            self.mutations.push(mutation.clone());
        }
        self.operations += 1;
    }
}

impl<V: ViewStore> Service<V> {
    /// The state with everything that has been executed.
    pub(super) fn view(&self) -> Layered<'_, V> {
        Layered::new(
            &self.store,
            self.flight.as_ref().map(|flight| &flight.overlay),
            &self.filling.overlay,
        )
    }

    /// The position that the filling batch will have.
    pub(super) fn filling_position(&self) -> Position {
        let last = if self.flight.is_some() {
            self.tail.position.next()
        } else {
            self.tail.position
        };
        last.next()
    }

    pub(super) fn filling_is_full(&self) -> bool {
        self.filling.operations >= self.options.batch_operations_max
            || self.filling.bytes >= self.options.batch_bytes_max
    }

    /// Releases what is executed now, or leaves it with the batch that it depends on.
    pub(super) fn hold(&mut self, depth: Depth, held: Held) {
        match depth {
            Depth::Committed => self.release(held, self.tail.position),
            Depth::Flight => match &mut self.flight {
                Some(flight) => flight.entries.push(Entry::Reply(held)),
                None => self.release(held, self.tail.position),
            },
            Depth::Filling => self.filling.entries.push(Entry::Reply(held)),
        }
    }

    /// Starts an append if there is something to append and none is under way.
    pub(super) fn flush(&mut self) -> Result<(), ServiceError> {
        self.recall_ahead()?;
        if self.flight.is_some() {
            return self.drain();
        }
        self.drain()?;
        self.copy_on()?;
        self.clean_up()?;
        if self.filling.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.filling);
        let changes = all_changes(batch.entries.iter().filter_map(|entry| match entry {
            Entry::Reply(held) => Some(&held.changes),
            Entry::Changes(changes) | Entry::Part { changes, .. } => Some(changes),
            Entry::Welcome(_) | Entry::Closed(_) => None,
        }));
        let mut record = Record {
            volume: self.format.volume,
            epoch: self.tail.epoch,
            position: self.tail.position.next(),
            previous: self.tail.digest,
            time: self.now.wall,
            mutations: batch.mutations,
            changes,
        };
        let (bytes, digest) = record.encode();
        self.numbers.batches += 1;
        self.numbers.batch_operations += batch.operations as u64;
        self.numbers.last_batch_operations = batch.operations as u64;
        self.numbers.journal_bytes += bytes.len() as u64;
        let mutations = std::mem::take(&mut record.mutations);
        self.flight = Some(Batch { mutations, ..batch });
        self.outputs.push(Output::Append {
            tail: self.tail,
            digest,
            bytes,
        });
        // What did not fit can fill the next one.
        self.drain()
    }

    /// An append has ended.
    pub(super) fn appended(&mut self, result: Result<Tail, AppendError>) -> Result<(), ServiceError> {
        match result {
            Ok(tail) => self.committed(tail),
            Err(AppendError::Full) => self.full(),
            Err(error @ AppendError::Final(_)) => Err(error.into()),
        }
    }

    fn committed(&mut self, tail: Tail) -> Result<(), ServiceError> {
        let Some(batch) = self.flight.take() else {
            return Err(ServiceError::WrongAppend(tail.position));
        };
        if tail.position != self.tail.position.next() || tail.epoch != self.tail.epoch {
            return Err(ServiceError::WrongAppend(tail.position));
        }
        self.store.apply(tail.position, &batch.mutations)?;
        self.tail = tail;
        self.numbers.full = self.disk_is_low;
        for entry in batch.entries {
            match entry {
                Entry::Reply(held) => self.release(held, tail.position),
                Entry::Welcome(greeting) => self.welcome(&greeting),
                Entry::Closed(session) => self.forget(session),
                Entry::Changes(changes) | Entry::Part { changes, .. } => self.tell(&changes),
            }
        }
        self.after_settings()?;
        self.after_reports()
    }

    /// The disk has become nearly full, or has room again.
    pub(super) fn disk(&mut self, is_low: bool) {
        self.disk_is_low = is_low;
        self.numbers.full = is_low;
        if is_low {
            self.recall_all_delegations(None);
            tracing::error!(
                "the disk of the metadata is nearly full: nothing new is accepted until there is space"
            );
        } else {
            tracing::info!("the disk of the metadata has room again");
        }
    }

    /// The journal's disk is full: nothing of both batches will ever be. The next mutation tries again.
    fn full(&mut self) -> Result<(), ServiceError> {
        self.numbers.full = true;
        tracing::error!("the journal's disk is full: changes are refused until there is space");
        let flight = self
            .flight
            .take()
            .ok_or(ServiceError::WrongAppend(self.tail.position))?;
        let filling = std::mem::take(&mut self.filling);
        self.background.failed(self.now.monotonic);
        self.frozen.failed(self.now.monotonic);
        self.look_for_copies()?;
        self.recall_all_delegations(None);
        for entry in flight.entries.into_iter().chain(filling.entries) {
            match entry {
                Entry::Reply(held) => {
                    if let Some(inode) = held.opened {
                        self.opens.release(held.session, inode);
                        let session = self.sessions.get_mut(&held.session);
                        if let Some(request) = session.and_then(|state| state.in_flight.get_mut(&held.number))
                        {
                            request.opened = None;
                        }
                        self.unblock |= self.private.release(held.session, inode);
                    }
                    self.unmark_removed(&held);
                    if held.mutates {
                        let failed = Held {
                            result: Err(Errno::NoSpace),
                            mutates: false,
                            changes: Vec::new(),
                            opened: None,
                            directories: Vec::new(),
                            delegated: Delegated::default(),
                            ..held
                        };
                        self.release(failed, self.tail.position);
                    } else if let Some(session) = self.sessions.get_mut(&held.session) {
                        // It has read what will never be.
                        session.in_flight.remove(&held.number);
                        self.execute(held.session, held.number, held.caller, held.operation)?;
                    }
                }
                // Without a journal there is no session. The client comes again.
                Entry::Welcome(greeting) => self.close(greeting.connection),
                Entry::Closed(session) => {
                    if let Some(session) = self.sessions.get_mut(&session) {
                        session.closing = false;
                    }
                }
                Entry::Changes(_) => {}
                Entry::Part { session, number, .. } => self.fail_unfinished(session, number),
            }
        }
        Ok(())
    }

    /// Sends a reply to the present stream of the session.
    pub(super) fn reply(
        &mut self,
        session: SessionId,
        number: RequestNumber,
        position: Position,
        result: Result<Reply, Errno>,
    ) {
        let nothing = Beside::default();
        self.answer(session, number, position, result, nothing);
    }

    /// The same for a request that was held: with the directories that it changed, and what changes have overtaken it.
    pub(super) fn answer(
        &mut self,
        session: SessionId,
        number: RequestNumber,
        position: Position,
        result: Result<Reply, Errno>,
        beside: Beside,
    ) {
        let Beside {
            directories,
            superseded,
            delegated,
        } = beside;
        if let Some(connection) = self.answered(session, number) {
            let delegated = self.still_delegated(session, delegated);
            let message = ServerMessage::Reply {
                number,
                position,
                result,
                directories,
                superseded,
                delegated,
            };
            self.send(connection, message);
        }
    }

    /// The same for a reply of committed state that nobody waits for.
    pub(super) fn reply_later(
        &mut self,
        session: SessionId,
        number: RequestNumber,
        result: Result<Reply, Errno>,
    ) {
        if let Some(connection) = self.answered(session, number) {
            let message = ServerMessage::Reply {
                number,
                position: self.tail.position,
                result,
                directories: Vec::new(),
                superseded: Vec::new(),
                delegated: Delegated::default(),
            };
            self.outputs.push(Output::SendLater { connection, message });
        }
    }

    /// A request is no longer under way. Answers the present stream of the session.
    fn answered(&mut self, session: SessionId, number: RequestNumber) -> Option<ConnectionId> {
        let state = self.sessions.get_mut(&session)?;
        let request = state.in_flight.remove(&number).unwrap_or_default();
        if let (Some(inode), Some(_), Some(unclaimed)) =
            (request.opened, state.connection, &mut state.opened_unclaimed)
        {
            unclaimed.push(inode);
        }
        // An unlock may wait for it.
        self.unblock |= request.mutates && !self.blocked.is_empty();
        state.connection
    }
}
