//! Requests of a session, in the order of their numbers, each mutation once.

use twinshore_protocol::format::Durability;
use twinshore_protocol::message::Delegated;
use twinshore_protocol::operation::AllocateMode;
use twinshore_protocol::{
    Attributes, Caller, Errno, ExtentSource, InodeNumber, Operation, Reply, RequestNumber, SessionId,
};

use super::batch::{Entry, Held};
use super::opens::OPEN_INODES_MAX;
use super::roles;
use super::session::{UnderWay, waits_for_lock};
use super::{ConnectionId, Fault, Output, Service, ServiceError};
use crate::core::results::{self, Stored};
use crate::core::{self, Context};
use crate::service::overlay::Depth;
use crate::view::ViewStore;

/// Queued requests of a session weigh at most about this much before its stream is paused: a few commits full of inline
/// data.
const QUEUE_BYTES_MAX: usize = 8 << 20;

/// How many requests of one session run before it is the next one's turn.
const TURN_REQUESTS: usize = 64;

impl<V: ViewStore> Service<V> {
    /// A request came.
    pub(super) fn request(
        &mut self,
        id: SessionId,
        connection: ConnectionId,
        number: RequestNumber,
        caller: Caller,
        operation: Operation,
    ) -> Result<(), ServiceError> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        if !session.receive(number, &operation) {
            tracing::warn!(
                session = id.0,
                number = number.0,
                "a client broke the protocol: its request is out of order"
            );
            self.close(connection);
            return Ok(());
        }
        session.hear_request(self.now.monotonic);
        if session.queue.is_empty() && !self.filling_is_full() {
            return self.execute(id, number, caller, operation);
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        if session.queue.is_empty() {
            self.ready.push_back(id);
        }
        session.queue_bytes += weight(&operation);
        session.queue.push_back((number, caller, operation));
        if session.queue_bytes > QUEUE_BYTES_MAX && !session.paused {
            session.paused = true;
            self.outputs.push(Output::Pause { connection });
        }
        Ok(())
    }

    /// Executes queued requests while the filling batch takes more, the sessions in turn.
    pub(super) fn drain(&mut self) -> Result<(), ServiceError> {
        while !self.filling_is_full() {
            let Some(id) = self.ready.pop_front() else {
                return Ok(());
            };
            for _ in 0..TURN_REQUESTS {
                if self.filling_is_full() || self.frozen.holds_up(id) {
                    break;
                }
                let Some(session) = self.sessions.get_mut(&id) else {
                    break;
                };
                let Some((number, caller, operation)) = session.queue.pop_front() else {
                    break;
                };
                session.queue_bytes -= weight(&operation);
                self.execute(id, number, caller, operation)?;
            }
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            if session.paused && session.queue_bytes <= QUEUE_BYTES_MAX / 2 {
                session.paused = false;
                if let Some(connection) = session.connection {
                    self.outputs.push(Output::Resume { connection });
                }
            }
            // What is done in part has put it back already.
            if !session.queue.is_empty() && !self.ready.contains(&id) && !self.frozen.holds_up(id) {
                self.ready.push_back(id);
            }
        }
        Ok(())
    }

    /// Executes one request against everything executed before it.
    #[allow(clippy::too_many_lines)] // The order of the steps is the rule; apart they would hide it.
    pub(super) fn execute(
        &mut self,
        id: SessionId,
        number: RequestNumber,
        caller: Caller,
        operation: Operation,
    ) -> Result<(), ServiceError> {
        let twice = self.faults.is(Fault::ApplyRetryTwice);
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        if session.closing && !self.faults.is(Fault::SkipEpochOrSessionCheck) {
            return Ok(());
        }
        let mut maybe_repeated = number <= session.check_until;
        if maybe_repeated && !twice {
            if session.in_flight.contains_key(&number) {
                // Its reply goes to the present stream.
                return Ok(());
            }
            if let Some(error) = session.failed.get(&number).copied() {
                self.reply(id, number, self.tail.position, Err(error));
                return Ok(());
            }
        }
        session.check_until = session.check_until.max(number);
        let waits_for_lock = waits_for_lock(&operation);
        session.in_flight.insert(
            number,
            UnderWay {
                opened: None,
                mutates: operation.is_mutation(),
                waits_for_lock,
            },
        );
        self.numbers.count(&operation);
        if !roles::allows(session.role, &operation) {
            let (role, kind) = (session.role, kind_of(&operation));
            tracing::warn!(
                session = id.0,
                ?role,
                kind,
                "a request was refused: its role may not ask for that"
            );
            self.reply(id, number, self.tail.position, Err(Errno::NotPermitted));
            return Ok(());
        }
        let (near, full_of_opens) = (session.near, self.opens.count(id) >= OPEN_INODES_MAX);
        if twice {
            maybe_repeated = false;
        }
        if self.keeps_lock(id, number, &caller, &operation) {
            return Ok(());
        }
        let Some(operation) = self.execute_soft(id, number, operation)? else {
            return Ok(());
        };
        if full_of_opens
            && caller.answered.is_none()
            && matches!(operation, Operation::Open { .. } | Operation::Create { .. })
        {
            self.reply(id, number, self.tail.position, Err(Errno::NoLocks));
            return Ok(());
        }

        if self.hold_up(id, number, &caller, &operation)? {
            return Ok(());
        }
        let view = self.view();
        let mutation = operation.is_mutation();
        if mutation && maybe_repeated {
            let replayed = match results::stored(&view, id, number)? {
                Stored::Fresh => None,
                Stored::Replay(reply) => Some(Ok(reply)),
                // Only a client that breaks the window rule asks for what was overwritten.
                Stored::TooOld => Some(Err(Errno::InputOutput)),
            };
            if let Some(result) = replayed {
                let depth = view.depth();
                let opened = self.note_opened(id, number, &operation, &result);
                let held = Held {
                    session: id,
                    number,
                    caller,
                    operation,
                    result,
                    mutates: false,
                    changes: Vec::new(),
                    opened,
                    directories: Vec::new(),
                    delegated: Delegated::default(),
                    replayed: true,
                };
                self.hold(depth, held);
                return Ok(());
            }
        }
        let open = self.open_inodes(id);
        let context = Context {
            now: self.time_of(&caller),
            position: self.filling_position(),
            epoch: self.tail.epoch,
            session: id,
            near,
            caller: &caller,
            open: &open,
        };
        let mut outcome = core::step(&view, &context, &operation)?;
        let answered = caller.answered.is_some();
        if self.disk_is_low && !answered && !outcome.mutations.is_empty() && grows(&operation) {
            outcome = core::Outcome {
                result: Err(Errno::NoSpace),
                unfinished: false,
                mutations: Vec::new(),
                changes: Vec::new(),
                beyond_limits: false,
            };
        }
        let depth = view.depth();
        if self.waits_for_holders(id, number, &caller, &operation, &outcome)? {
            return Ok(());
        }
        if self.block(id, number, &caller, &operation, &outcome.result) {
            return Ok(());
        }
        let core::Outcome {
            mut result,
            unfinished,
            mut mutations,
            changes,
            beyond_limits,
        } = outcome;
        if unfinished {
            self.filling.add_mutations(&mutations);
            self.filling.entries.push(Entry::Part {
                session: id,
                number,
                changes,
            });
            self.go_on_later(id, number, caller, operation);
            return Ok(());
        }
        let opened = self.note_opened(id, number, &operation, &result);
        let mutates = !mutations.is_empty();
        if mutates {
            if let (Ok(reply), true) = (&result, mutation) {
                mutations.push(results::remember(id, number, reply));
            }
            self.make_private(id, &mut result);
            self.faults.tamper(&mut mutations);
            self.filling.add_mutations(&mutations);
        }
        let directories = if mutates {
            self.directories_of(&operation)?
        } else {
            Vec::new()
        };
        let delegated = self.delegate(id, &caller, &operation, &result)?;
        if beyond_limits {
            self.recall_all_delegations(Some(id));
        } else if mutates && matches!(operation, Operation::SetQuota { .. }) {
            self.recall_all_delegations(None);
        }
        let held = Held {
            session: id,
            number,
            caller,
            operation,
            result,
            mutates,
            changes,
            opened,
            directories,
            delegated,
            replayed: false,
        };
        if mutates && copies(&held.operation) {
            self.look_for_copies()?;
        }
        self.mark_removed(&held);
        if mutates && self.faults.is(Fault::AcknowledgeBeforeJournal) {
            self.release(held, self.filling_position());
        } else {
            self.hold(if mutates { Depth::Filling } else { depth }, held);
        }
        Ok(())
    }

    /// The directories whose entries an operation has changed, as it left them.
    fn directories_of(&self, operation: &Operation) -> Result<Vec<Attributes>, ServiceError> {
        let changed: &[InodeNumber] = match operation {
            Operation::MakeNode { parent, .. }
            | Operation::MakeDirectory { parent, .. }
            | Operation::Create { parent, .. }
            | Operation::SymbolicLink { parent, .. }
            | Operation::Link { parent, .. } => &[*parent],
            Operation::Rename {
                parent, new_parent, ..
            } if parent == new_parent => &[*parent],
            Operation::Rename {
                parent, new_parent, ..
            } => &[*parent, *new_parent],
            // `Unlink` and `RemoveDirectory` tell it in their reply.
            _ => &[],
        };
        let view = self.view();
        let mut directories = Vec::with_capacity(changed.len());
        for directory in changed {
            directories.extend(core::attributes(&view, *directory)?);
        }
        Ok(directories)
    }

    /// At durability `fsync` a new file is private to its maker. Told in the first reply only: who asks again has missed what
    /// came in between.
    fn make_private(&mut self, id: SessionId, result: &mut Result<Reply, Errno>) {
        if self.format.settings.durability == Durability::Fsync
            && let Ok(Reply::Created {
                attributes,
                new: true,
                private,
            }) = result
        {
            *private = true;
            self.private.hold(id, attributes.inode);
        }
    }

    /// Puts a request that is done in part back to the front of its session's queue: what follows it there has to wait, others do not.
    fn go_on_later(&mut self, id: SessionId, number: RequestNumber, caller: Caller, operation: Operation) {
        self.put_back(id, number, caller, operation);
        if !self.ready.contains(&id) {
            self.ready.push_back(id);
        }
    }

    /// Puts a request back to the front of its session's queue.
    pub(super) fn put_back(
        &mut self,
        id: SessionId,
        number: RequestNumber,
        caller: Caller,
        operation: Operation,
    ) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.in_flight.remove(&number);
            session.queue_bytes += weight(&operation);
            session.queue.push_front((number, caller, operation));
        }
    }

    /// A part of a request could not be journalled: the request fails. What of it is journalled stays.
    pub(super) fn fail_unfinished(&mut self, id: SessionId, number: RequestNumber) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.queue.front().is_none_or(|(front, ..)| *front != number) {
            return;
        }
        let Some((number, caller, operation)) = session.queue.pop_front() else {
            return;
        };
        session.queue_bytes -= weight(&operation);
        let failed = Held {
            session: id,
            number,
            caller,
            operation,
            result: Err(Errno::NoSpace),
            mutates: false,
            changes: Vec::new(),
            opened: None,
            directories: Vec::new(),
            delegated: Delegated::default(),
            replayed: false,
        };
        self.release(failed, self.tail.position);
    }

    /// Counts an open as soon as it is executed: an unlink right after it must see it.
    fn note_opened(
        &mut self,
        id: SessionId,
        number: RequestNumber,
        operation: &Operation,
        result: &Result<Reply, Errno>,
    ) -> Option<InodeNumber> {
        let inode = match (operation, result) {
            (Operation::Open { inode, .. }, Ok(_)) => *inode,
            (Operation::Create { .. }, Ok(Reply::Created { attributes, .. })) => attributes.inode,
            _ => return None,
        };
        if !self.opens.open(id, inode, 1) {
            return None;
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.in_flight.insert(
                number,
                UnderWay {
                    opened: Some(inode),
                    mutates: operation.is_mutation(),
                    waits_for_lock: false,
                },
            );
        }
        Some(inode)
    }
}

/// The name of an operation, for the log: what it holds may be long, and is nobody's business.
fn kind_of(operation: &Operation) -> String {
    let text = format!("{operation:?}");
    text.split([' ', '(']).next().unwrap_or_default().to_owned()
}

/// Can the operation begin or end a copy of a tree?
const fn copies(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::ClaimDirectory(_)
            | Operation::ReleaseClaim { .. }
            | Operation::CreateSnapshot { .. }
            | Operation::DeleteSnapshot { .. }
    )
}

/// Does the operation add to what is stored? On a disk that is nearly full these are refused; what takes away, replication's
/// reports and the work of administrators go on.
fn grows(operation: &Operation) -> bool {
    match operation {
        Operation::Allocate { mode, .. } => !matches!(mode, AllocateMode::PunchHole),
        Operation::MakeNode { .. }
        | Operation::MakeDirectory { .. }
        | Operation::Create { .. }
        | Operation::SymbolicLink { .. }
        | Operation::Link { .. }
        | Operation::Commit { .. }
        | Operation::CopyRange { .. }
        | Operation::SetExtendedAttribute { .. }
        | Operation::ClaimDirectory(_)
        | Operation::CreateSnapshot { .. } => true,
        _ => false,
    }
}

/// What a queued request weighs, in bytes of memory, roughly.
fn weight(operation: &Operation) -> usize {
    const SMALL: usize = 256;
    match operation {
        Operation::Commit { objects, files } => {
            let inline = files
                .iter()
                .flat_map(|file| &file.writes)
                .map(|write| match &write.source {
                    ExtentSource::Inline(bytes) => bytes.len() + 64,
                    ExtentSource::Object { .. } | ExtentSource::Reserved => 64,
                });
            SMALL + objects.len() * 64 + inline.sum::<usize>()
        }
        Operation::SetExtendedAttribute { value, .. } => SMALL + value.len(),
        Operation::ReportCopies { reports } => SMALL + reports.len() * 64,
        Operation::Repoint { objects, exchanges } => SMALL + (objects.len() + exchanges.len()) * 256,
        _ => SMALL,
    }
}
