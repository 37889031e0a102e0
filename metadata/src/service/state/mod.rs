//! The metadata service as a state machine: input and time in, outputs out, no IO.
//!
//! # Flow
//!
//! 1. [`Service::start`] loads the sessions, journals the new epoch and, from then on, [`Service::handle`] takes one input
//!    after the other.
//! 2. A request executes at once, in the order of its session, against the store and the uncommitted batches
//!    ([`crate::service::overlay`]). What changed fills a batch. At most one batch is in flight; the next one fills meanwhile.
//! 3. When a batch is committed, its entries are released in the order of their execution: a change is told to every other
//!    holder, a reply makes its session a holder, then it is sent, or waits for acknowledgements.
//!
//! # Guarantees
//!
//! * A reply leaves when the last record that it could have read from is committed.
//! * Holders are registered, and invalidations made, at release, in the order of execution: an invalidation that a session
//!   receives after a reply is younger than it. A reply that had to wait for acknowledgements, while something it carries
//!   changed again, names that itself.
//! * A mutating request is applied once: its result is a mutation of the same record.
//! * After the record that closes a session nothing of it is executed.
//!
//! # Failure cases
//!
//! While the disk has little room left, what would make the tree grow is answered `ENOSPC`; removing goes on. A full journal
//! fails the mutations of both uncommitted batches with `ENOSPC`; reads go on. Anything else that is wrong
//! with journal, store or state stops the service for good ([`Output::Stop`]): a restart replays the journal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::message::{ClientMessage, Invalidation, Role, ServerMessage};
use twinshore_protocol::{Epoch, InodeNumber, Position, SessionId, Timestamp};

use crate::core::{self, Context, CoreError, Maintenance, OpenInodes};
use crate::journal::{Digest, Tail};
use crate::view::{ViewError, ViewStore};

use batch::Batch;
use compaction::{Compaction, CompactionOptions, Housekeeper};
use leases::Leases;
use locks::Locks;
use opens::Opens;
use recall::Wait;
use session::{Connection, Session};
use tasks::Tasks;

mod ahead;
mod background;
mod batch;
pub mod compaction;
mod delegations;
mod expiry;
pub mod faults;
mod frozen;
mod hello;
pub mod leases;
pub mod locks;
mod numbers;
pub mod opens;
mod private;
mod recall;
mod roles;
mod sequencing;
mod session;
mod soft;
mod status;
mod tasks;
#[cfg(test)]
pub(super) mod tests;

pub use faults::Fault;
pub use numbers::{Numbers, OPERATION_KINDS};

/// A stream of a client, as the shell numbers it. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A reply that waits for acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WaitId(u64);

/// The time of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instants {
    /// For timestamps of files.
    pub wall: Timestamp,
    /// For leases and expiry: never goes back.
    pub monotonic: Duration,
}

/// Why an append did not happen.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full and nothing was appended.
    #[error("the journal's disk is full")]
    Full,
    /// Final: fenced, or nobody knows what is on the disk.
    #[error("the journal failed: {0}")]
    Final(String),
}

/// What happens to the service.
#[derive(Debug)]
pub enum Input {
    /// A stream was opened.
    Connected {
        /// Its number.
        connection: ConnectionId,
    },
    /// Messages came, in the order of the stream.
    Messages {
        /// The stream.
        connection: ConnectionId,
        /// The messages of one or several frames.
        messages: Vec<ClientMessage>,
    },
    /// The stream is gone.
    Disconnected {
        /// Its number.
        connection: ConnectionId,
    },
    /// The append of the last [`Output::Append`] has ended.
    Appended(Result<Tail, AppendError>),
    /// Time has passed: about every [`TICK`].
    Tick,
    /// The disk of journal and view has little room left, or enough again.
    Disk {
        /// Nothing may grow.
        is_low: bool,
    },
    /// The archive has moved on: the last checkpoint, and the last record, that both buckets hold.
    Archived {
        /// Position of the checkpoint.
        checkpoint: Position,
        /// Position of the last archived record.
        archived: Position,
    },
}

/// How often the service wants to be told that time passes: finer than every period it measures by a factor of ten.
pub const TICK: Duration = Duration::from_millis(100);

/// What the service wants done, in order.
#[derive(Debug)]
pub enum Output {
    /// Send a message.
    Send {
        /// The stream.
        connection: ConnectionId,
        /// The message.
        message: ServerMessage,
    },
    /// Send a message that nobody waits for: before the next one to this stream, or at the next tick. A frame of its own would
    /// cost as much as the answer to an operation.
    SendLater {
        /// The stream.
        connection: ConnectionId,
        /// The message.
        message: ServerMessage,
    },
    /// Append a record durably and report it as [`Input::Appended`]. There is never more than one under way.
    Append {
        /// The tail that it follows.
        tail: Tail,
        /// The digest of the record.
        digest: Digest,
        /// The record.
        bytes: Bytes,
    },
    /// Close a stream after what was sent to it. No [`Input::Disconnected`] need follow.
    Close {
        /// Its number.
        connection: ConnectionId,
    },
    /// Read no more messages from this stream for now.
    Pause {
        /// Its number.
        connection: ConnectionId,
    },
    /// Read from it again.
    Resume {
        /// Its number.
        connection: ConnectionId,
    },
    /// Nothing can be trusted any more: end the process. The last output for ever.
    Stop {
        /// Why.
        reason: String,
    },
}

/// Limits and switches. The defaults are those of production.
#[derive(Clone, Copy, Debug)]
pub struct ServiceOptions {
    /// Sessions at most.
    pub sessions_max: u32,
    /// Holders in the lease table at most.
    pub leases_max: usize,
    /// Operations in a batch at most.
    pub batch_operations_max: usize,
    /// Bytes of mutations at which a batch takes no more operations. One operation may go beyond it.
    pub batch_bytes_max: usize,
    /// When compaction is worth while.
    pub compaction: CompactionOptions,
    /// A deliberate fault.
    pub fault: Option<Fault>,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            // A session costs a few KiB when idle; a cluster has fewer nodes than this.
            sessions_max: 4096,
            // About 36 bytes each.
            leases_max: 1 << 20,
            batch_operations_max: 4096,
            batch_bytes_max: 1 << 20,
            compaction: CompactionOptions::default(),
            fault: None,
        }
    }
}

/// The service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The core.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The store has not applied all of the journal.
    #[error("the state is at record {applied}, the journal at record {tail}: replay first")]
    Behind {
        /// What the store has.
        applied: Position,
        /// What the journal has.
        tail: Position,
    },
    /// There is no volume.
    #[error("there is no volume here: create one first")]
    NoVolume,
    /// What the core did does not fit what it was asked.
    #[error("the metadata core answered {what} wrongly")]
    Unexpected {
        /// What it was asked.
        what: &'static str,
    },
    /// The journal.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// An append was reported that was not under way.
    #[error("an append was reported for record {0}, which is not the one in flight")]
    WrongAppend(Position),
}

impl From<ViewError> for ServiceError {
    fn from(error: ViewError) -> Self {
        Self::Core(error.into())
    }
}

/// In place of a session, where the service itself acts.
const NOBODY: SessionId = SessionId(0);

/// The state machine.
#[allow(clippy::struct_excessive_bools)] // Each says something of its own, in any combination.
pub struct Service<V: ViewStore> {
    store: V,
    format: VolumeFormat,
    /// The last committed record, in our epoch.
    tail: Tail,
    options: ServiceOptions,
    now: Instants,
    sessions: BTreeMap<SessionId, Session>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_session: u64,
    flight: Option<Batch>,
    filling: Batch,
    /// Sessions with queued requests, each once.
    ready: VecDeque<SessionId>,
    leases: Leases,
    ahead: ahead::Ahead,
    /// Sessions that an older service has told what it does not know: each counts as holder of everything.
    hold_everything: BTreeSet<SessionId>,
    opens: Opens,
    locks: Locks,
    /// Inodes that some session has been told to drop and has not acknowledged, or will be told to when the removal of a
    /// name is committed.
    unacknowledged: BTreeMap<InodeNumber, u32>,
    waits: BTreeMap<WaitId, Wait>,
    next_wait: u64,
    /// Some session has not claimed its opens and locks yet.
    grace: bool,
    /// Lock requests that wait for the end of grace.
    parked: Vec<soft::Parked>,
    frozen: frozen::Frozen,
    private: private::PrivateFiles,
    delegations: delegations::Delegations,
    /// Requests that wait for holders of private files, or of delegations.
    blocked: Vec<private::Blocked>,
    /// Something has changed that blocked requests may wait for.
    unblock: bool,
    tasks: Tasks,
    compaction: Compaction,
    housekeeper: Housekeeper,
    background: background::Background,
    checkpoint: Position,
    archived: Position,
    /// The disk has little room left: what grows is refused.
    disk_is_low: bool,
    numbers: Numbers,
    faults: faults::Faults,
    stopped: bool,
    outputs: Vec<Output>,
}

impl<V: ViewStore> Service<V> {
    /// Takes over a volume. `store` has applied everything up to `tail`, whose epoch was just acquired.
    pub fn start(
        store: V,
        tail: Tail,
        now: Instants,
        options: ServiceOptions,
    ) -> Result<(Self, Vec<Output>), ServiceError> {
        if store.applied() != tail.position {
            return Err(ServiceError::Behind {
                applied: store.applied(),
                tail: tail.position,
            });
        }
        let format = core::volume::format(&store)?.ok_or(ServiceError::NoVolume)?;
        let mut sessions = BTreeMap::new();
        for row in core::volume::sessions(&store)? {
            let mut session = Session::new(row.role, row.near, row.description, now.monotonic, tail.epoch);
            session.reclaimed = false;
            session.check_until = twinshore_protocol::RequestNumber(u64::MAX);
            sessions.insert(row.session, session);
        }
        let mounts = sessions
            .iter()
            .filter(|(_, session)| session.role == Role::Client);
        let unsettled = mounts.map(|(id, _)| *id).collect();
        let mut service = Self {
            store,
            format,
            tail,
            options,
            now,
            grace: !sessions.is_empty(),
            hold_everything: sessions.keys().copied().collect(),
            sessions,
            connections: BTreeMap::new(),
            next_session: 1,
            flight: None,
            filling: Batch::default(),
            ready: VecDeque::new(),
            leases: Leases::new(options.leases_max),
            ahead: ahead::Ahead::default(),
            opens: Opens::default(),
            locks: Locks::default(),
            unacknowledged: BTreeMap::new(),
            waits: BTreeMap::new(),
            next_wait: 1,
            parked: Vec::new(),
            frozen: frozen::Frozen::default(),
            private: private::PrivateFiles::default(),
            delegations: delegations::Delegations::new(tail.epoch.0, unsettled),
            blocked: Vec::new(),
            unblock: false,
            tasks: Tasks::default(),
            compaction: Compaction::new(now.monotonic),
            housekeeper: Housekeeper::default(),
            background: background::Background::default(),
            checkpoint: Position::ZERO,
            archived: Position::ZERO,
            disk_is_low: false,
            numbers: Numbers::default(),
            faults: faults::Faults::new(options.fault),
            stopped: false,
            outputs: Vec::new(),
        };
        service.look_for_copies()?;
        let started = service.maintain(&Maintenance::StartEpoch { epoch: tail.epoch })?;
        service.filling.add_mutations(&started.mutations);
        service.flush()?;
        let outputs = std::mem::take(&mut service.outputs);
        Ok((service, outputs))
    }

    /// Takes one input and says what is to be done.
    pub fn handle(&mut self, input: Input, now: Instants) -> Vec<Output> {
        if self.stopped {
            return Vec::new();
        }
        self.now = now;
        if let Err(error) = self.process(input) {
            self.stopped = true;
            // What was made before the error may rest on what cannot be trusted.
            self.outputs.clear();
            let mut reason = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                reason.push_str(": ");
                reason.push_str(&cause.to_string());
                source = cause.source();
            }
            self.outputs.push(Output::Stop { reason });
        }
        std::mem::take(&mut self.outputs)
    }

    fn process(&mut self, input: Input) -> Result<(), ServiceError> {
        match input {
            Input::Connected { connection } => {
                self.connections.insert(connection, Connection::New);
            }
            Input::Messages { connection, messages } => {
                for message in messages {
                    self.receive(connection, message)?;
                }
            }
            Input::Disconnected { connection } => self.disconnected(connection),
            Input::Appended(result) => self.appended(result)?,
            Input::Tick => self.tick()?,
            Input::Disk { is_low } => self.disk(is_low),
            Input::Archived { checkpoint, archived } => {
                self.checkpoint = checkpoint;
                self.archived = archived;
            }
        }
        self.settle_returned();
        self.run_blocked()?;
        self.flush()?;
        // What was returned behind queued requests, which may have been executed just now.
        if self.settle_returned() {
            self.run_blocked()?;
            self.flush()?;
        }
        Ok(())
    }

    fn receive(&mut self, connection: ConnectionId, message: ClientMessage) -> Result<(), ServiceError> {
        let Some(state) = self.connections.get(&connection).copied() else {
            // Closed by us: what was under way is dropped.
            return Ok(());
        };
        let session = match (state, message) {
            (Connection::New, ClientMessage::Hello(hello)) => return self.hello(connection, hello),
            (Connection::New | Connection::Greeting(_), _) | (_, ClientMessage::Hello(_)) => {
                tracing::warn!(
                    connection = connection.0,
                    "a client broke the protocol: not one hello first"
                );
                self.close(connection);
                return Ok(());
            }
            (Connection::Bound(session), message) => (session, message),
        };
        match session {
            (session, ClientMessage::Reclaim(reclaim)) => {
                self.reclaim(session, reclaim);
                Ok(())
            }
            (
                session,
                ClientMessage::Request {
                    number,
                    caller,
                    operation,
                },
            ) => self.request(session, connection, number, caller, operation),
            (session, ClientMessage::Acknowledge { number }) => {
                self.acknowledged(session, number);
                Ok(())
            }
            (session, ClientMessage::Heartbeat { number }) => {
                self.heartbeat(session, number);
                Ok(())
            }
            (session, ClientMessage::Returned { number }) => {
                self.returned(session, number);
                Ok(())
            }
            (session, ClientMessage::Goodbye) => self.goodbye(session),
            (_, ClientMessage::Hello(_)) => Ok(()),
        }
    }

    fn tick(&mut self) -> Result<(), ServiceError> {
        self.end_leases();
        self.end_delegations();
        self.close_the_stuck();
        self.expire_sessions()?;
        self.dispatch_tasks()?;
        self.background.tick(self.now.monotonic);
        Ok(())
    }

    /// Runs an operation of the service's own against the newest state.
    fn maintain(&self, maintenance: &Maintenance) -> Result<core::Outcome, ServiceError> {
        let view = self.view();
        let open = self.open_inodes(NOBODY);
        let caller = twinshore_protocol::Caller::ROOT;
        let context = Context {
            now: self.now.wall,
            position: self.filling_position(),
            epoch: self.tail.epoch,
            session: NOBODY,
            near: twinshore_protocol::Side::Primary,
            caller: &caller,
            open: &open,
        };
        Ok(core::maintain(&view, &context, maintenance)?)
    }

    fn open_inodes(&self, session: SessionId) -> OpenSomewhere<'_> {
        OpenSomewhere {
            grace: self.grace,
            opens: &self.opens,
            leases: &self.leases,
            unacknowledged: &self.unacknowledged,
            session,
        }
    }

    fn send(&mut self, connection: ConnectionId, message: ServerMessage) {
        self.outputs.push(Output::Send { connection, message });
    }

    /// Closes a stream from our side.
    fn close(&mut self, connection: ConnectionId) {
        self.outputs.push(Output::Close { connection });
        self.disconnected(connection);
    }

    fn disconnected(&mut self, connection: ConnectionId) {
        let Some(Connection::Bound(id)) = self.connections.remove(&connection) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(&id)
            && session.connection == Some(connection)
        {
            session.connection = None;
            session.paused = false;
            self.tasks.lost(id);
            self.housekeeper.lost(id);
        }
    }

    /// The leader's epoch.
    pub fn epoch(&self) -> Epoch {
        self.tail.epoch
    }

    /// The last committed record.
    pub fn position(&self) -> Position {
        self.tail.position
    }

    /// The last committed record, with its digest.
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// The state as it is committed.
    pub fn store(&self) -> &V {
        &self.store
    }

    /// The store, to make it durable at the end.
    pub fn store_mut(&mut self) -> &mut V {
        &mut self.store
    }

    /// The format record as it is committed.
    pub fn format(&self) -> &VolumeFormat {
        &self.format
    }

    /// Is nothing uncommitted, and nothing queued?
    pub fn is_committed(&self) -> bool {
        self.flight.is_none() && self.filling.is_empty() && self.ready.is_empty()
    }

    /// Is nothing uncommitted, queued or waiting for acknowledgements?
    pub fn is_idle(&self) -> bool {
        self.is_committed() && self.waits.is_empty()
    }
}

/// What outlives its last name, as [`Context::open`].
struct OpenSomewhere<'a> {
    grace: bool,
    opens: &'a Opens,
    leases: &'a Leases,
    unacknowledged: &'a BTreeMap<InodeNumber, u32>,
    /// Whose operation runs.
    session: SessionId,
}

impl OpenInodes for OpenSomewhere<'_> {
    /// A session with a lease may open without waiting for the reply: until it has acknowledged that the name is gone, its
    /// `Open` can be under way. Before it was told, it stands in the lease table; from then on, until it has acknowledged, the
    /// inode stands in `unacknowledged`. So what is cleaned up later ([`NOBODY`]) need not ask the lease table.
    fn is_open(&self, inode: InodeNumber) -> bool {
        self.grace
            || self.opens.is_open(inode)
            || self.unacknowledged.contains_key(&inode)
            || (self.session != NOBODY && self.leases.held_by_other(inode, self.session))
    }
}

/// The changes of a record, as they stand in it.
fn all_changes<'a>(lists: impl Iterator<Item = &'a Vec<Invalidation>>) -> Vec<Invalidation> {
    lists.flatten().cloned().collect()
}
