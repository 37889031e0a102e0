//! The state machine with what it needs, behind one lock.
//!
//! Whoever has news takes the lock and carries them out: the task that read a frame, the appender after an append, the ticker. A
//! thread of its own for the state machine would cost two more wake-ups for each operation, which is what an operation costs
//! most of; what is done under the lock takes some tens of microseconds and never waits for the journal or the network.
//!
//! # States
//!
//! Serving, then *stopping* (nothing new is executed, what was executed is committed), then ended. A failure ends it at once. An
//! ended engine has closed its streams and ignores everything.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use twinshore_protocol::message::{ClientMessage, ServerMessage};
use twinshore_protocol::status::VolumeStatus;
use twinshore_protocol::{Extent, ExtentSource, Position, Reply};

use super::Clock;
use super::appender::Job;
use super::disk_space::{DiskSpace, Space};
use crate::archive::FrozenState;
use crate::journal::Tail;
use crate::service::state::{ConnectionId, Input, Numbers, Output, Service};
use crate::view::fjall::FjallView;
use crate::view::{ViewError, ViewStore};

/// What is under way to one stream at most, in bytes, roughly: a window full of directory pages. A client that does not
/// read that much is dead or hostile.
const EGRESS_BYTES_MAX: usize = 64 << 20;

/// How often the view is made durable, so that a restart replays less.
const PERSIST_EVERY: Duration = Duration::from_secs(30);

/// The state and the counters at one moment.
pub(super) struct Report {
    pub status: Result<VolumeStatus, String>,
    pub numbers: Numbers,
}

/// The way out to a stream.
pub(super) struct Egress {
    /// Messages, with their weight.
    pub messages: mpsc::UnboundedSender<(ServerMessage, usize)>,
    /// What goes before the next message, or at the next tick.
    pub later: Vec<ServerMessage>,
    /// The weight of what is under way. The stream's task takes it off.
    pub queued_bytes: Arc<AtomicUsize>,
    /// Whether the stream's reader is to wait.
    pub paused: watch::Sender<bool>,
}

/// The other end of an [`Egress`].
pub(super) struct Outgoing {
    /// What to send, with its weight.
    pub messages: mpsc::UnboundedReceiver<(ServerMessage, usize)>,
    /// What is sent is taken off here.
    pub queued_bytes: Arc<AtomicUsize>,
    /// Whether the stream's reader is to wait. Its sender is gone when the engine has closed the stream.
    pub is_paused: watch::Receiver<bool>,
}

impl Egress {
    /// Both ends of a new stream's.
    pub fn open() -> (Self, Outgoing) {
        let (messages, receiver) = mpsc::unbounded_channel();
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let (paused, is_paused) = watch::channel(false);
        let egress = Self {
            messages,
            later: Vec::new(),
            queued_bytes: Arc::clone(&queued_bytes),
            paused,
        };
        let outgoing = Outgoing {
            messages: receiver,
            queued_bytes,
            is_paused,
        };
        (egress, outgoing)
    }

    /// `false`: nobody reads, or not enough.
    fn send(&self, message: ServerMessage) -> bool {
        let weight = weight(&message);
        let queued = self.queued_bytes.fetch_add(weight, Ordering::Relaxed) + weight;
        self.messages.send((message, weight)).is_ok() && queued <= EGRESS_BYTES_MAX
    }
}

/// Why there is nothing more to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was asked to.
    Stopped,
    /// Something without which it must not go on has failed.
    Failed(String),
}

/// See the module.
pub(super) struct Engine {
    state: Mutex<State>,
    ending: watch::Sender<Option<Ending>>,
}

struct State {
    service: Service<FjallView>,
    clock: Clock,
    /// Taken at the end, so that the appender ends too.
    appends: Option<std_mpsc::Sender<Job>>,
    space: DiskSpace,
    /// The service was told that there is little space left.
    is_low: bool,
    streams: HashMap<ConnectionId, Egress>,
    /// Streams that may have something for later.
    has_later: BTreeSet<ConnectionId>,
    stopping: bool,
    failure: Option<String>,
    persisting: bool,
    persisted_at: Instant,
    persisted: Position,
    trim_floor: Position,
    trimmed: Position,
}

impl Engine {
    /// Nothing happens before [`Engine::begin`].
    pub fn new(service: Service<FjallView>, clock: Clock, space: DiskSpace) -> Self {
        Self {
            state: Mutex::new(State {
                service,
                clock,
                appends: None,
                space,
                is_low: false,
                streams: HashMap::new(),
                has_later: BTreeSet::new(),
                stopping: false,
                failure: None,
                persisting: false,
                persisted_at: Instant::now(),
                persisted: Position::ZERO,
                trim_floor: Position::ZERO,
                trimmed: Position::ZERO,
            }),
            ending: watch::Sender::new(None),
        }
    }

    /// Carries out what the start of the service asked for.
    pub fn begin(&self, appends: std_mpsc::Sender<Job>, outputs: Vec<Output>) {
        let mut state = self.lock();
        state.appends = Some(appends);
        state.carry_out(outputs);
        self.look_for_the_end(state);
    }

    /// Ready when everything is over.
    pub fn ending(&self) -> watch::Receiver<Option<Ending>> {
        self.ending.subscribe()
    }

    /// A stream was opened. `false` if no more are taken.
    pub fn connected(&self, connection: ConnectionId, egress: Egress) -> bool {
        let mut state = self.lock();
        if state.stopping || state.is_over() {
            return false;
        }
        state.streams.insert(connection, egress);
        state.handle(Input::Connected { connection });
        self.look_for_the_end(state);
        true
    }

    /// Messages came. What comes after the stop is not executed: its clients ask the next service.
    pub fn messages(&self, connection: ConnectionId, messages: Vec<ClientMessage>) {
        let mut state = self.lock();
        if !state.stopping {
            state.handle(Input::Messages { connection, messages });
        }
        self.look_for_the_end(state);
    }

    /// A stream is gone.
    pub fn disconnected(&self, connection: ConnectionId) {
        let mut state = self.lock();
        state.streams.remove(&connection);
        state.handle(Input::Disconnected { connection });
        self.look_for_the_end(state);
    }

    /// Time has passed: about every [`TICK`](crate::service::state::TICK).
    pub fn tick(&self) {
        let mut state = self.lock();
        state.send_what_is_late();
        state.look_at_disk();
        state.handle(Input::Tick);
        self.look_for_the_end(state);
    }

    /// Anything else for the state machine.
    pub fn input(&self, input: Input) {
        let mut state = self.lock();
        state.handle(input);
        self.look_for_the_end(state);
    }

    /// For metrics and health.
    pub fn report(&self) -> Report {
        let state = self.lock();
        Report {
            status: state.service.status().map_err(|error| error.to_string()),
            numbers: state.service.numbers(),
        }
    }

    /// For a checkpoint. `None` when everything is over.
    pub fn snapshot(&self) -> Option<Result<FrozenState, ViewError>> {
        let state = self.lock();
        if state.is_over() {
            return None;
        }
        let Tail {
            epoch: _,
            position,
            digest,
        } = state.service.tail();
        let frozen = state.service.store().snapshot();
        Some(frozen.map(|view| FrozenState {
            position,
            digest,
            view,
        }))
    }

    /// The archive has moved on: up to `trim_floor` nobody else needs the journal's records.
    pub fn archived(&self, checkpoint: Position, archived: Position, trim_floor: Position) {
        let mut state = self.lock();
        state.trim_floor = trim_floor;
        state.handle(Input::Archived { checkpoint, archived });
        self.look_for_the_end(state);
    }

    /// Something without which the service must not go on has failed.
    pub fn fail(&self, reason: String) {
        let mut state = self.lock();
        state.failure.get_or_insert(reason);
        self.look_for_the_end(state);
    }

    /// Finishes what is executed, then ends.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        self.look_for_the_end(state);
    }

    /// Ends without waiting for what is not committed: its clients have no answer and ask the next service.
    pub fn end(&self) {
        let state = self.lock();
        self.finish(state, Ending::Stopped);
    }

    /// Is it time for [`Engine::persist_and_trim`]? `true` once each time.
    pub fn persist_is_due(&self) -> bool {
        let mut state = self.lock();
        // On an exhausted disk what is not durable yet stays in the journal: nothing is added to it meanwhile.
        let due = state.persisted_at.elapsed() >= PERSIST_EVERY
            && !state.is_over()
            && state.space.look() != Space::Exhausted;
        due && !std::mem::replace(&mut state.persisting, true)
    }

    /// Makes the view durable and trims the journal behind it. Blocks on the disk, but not under the lock.
    pub fn persist_and_trim(&self) {
        let result = self.persist();
        let mut state = self.lock();
        state.persisting = false;
        state.persisted_at = Instant::now();
        match result {
            Ok(persisted) => {
                state.persisted = state.persisted.max(persisted);
                state.trim();
            }
            Err(error) => state.failure = Some(error.to_string()),
        }
        self.look_for_the_end(state);
    }

    /// Makes the view durable. Blocks on the disk. Answers up to where it is.
    pub fn persist(&self) -> Result<Position, ViewError> {
        let (applied, persist) = {
            let state = self.lock();
            let store = state.service.store();
            (store.applied(), store.persister())
        };
        persist()?;
        Ok(applied)
    }

    /// A panic under the lock leaves a state that must not be used: it is the end, as any failure.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut state: MutexGuard<'_, State> = poisoned.into_inner();
            state.failure.get_or_insert_with(|| "it panicked".to_owned());
            state
        })
    }

    fn look_for_the_end(&self, state: MutexGuard<'_, State>) {
        let ending = match &state.failure {
            Some(reason) => Ending::Failed(reason.clone()),
            None if state.stopping && state.service.is_committed() => Ending::Stopped,
            None => return,
        };
        self.finish(state, ending);
    }

    fn finish(&self, mut state: MutexGuard<'_, State>, ending: Ending) {
        state.appends = None;
        state.streams.clear();
        drop(state);
        self.ending.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(ending);
            }
            first
        });
    }
}

impl State {
    fn is_over(&self) -> bool {
        self.failure.is_some() || self.appends.is_none()
    }

    fn look_at_disk(&mut self) {
        let is_low = self.space.look() != Space::Enough;
        if is_low != self.is_low {
            self.is_low = is_low;
            self.handle(Input::Disk { is_low });
        }
    }

    fn handle(&mut self, input: Input) {
        if !self.is_over() {
            let outputs = self.service.handle(input, self.clock.now());
            self.carry_out(outputs);
        }
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        let mut outputs = VecDeque::from(outputs);
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Send { connection, message } => {
                    if !self.send(connection, message) {
                        // What follows from it comes after what was made before it: streams keep their order.
                        let disconnected = Input::Disconnected { connection };
                        outputs.extend(self.service.handle(disconnected, self.clock.now()));
                    }
                }
                Output::SendLater { connection, message } => {
                    if let Some(egress) = self.streams.get_mut(&connection) {
                        egress.later.push(message);
                        self.has_later.insert(connection);
                    }
                }
                Output::Append { tail, digest, bytes } => {
                    self.append(Job::Append { tail, digest, bytes });
                }
                Output::Close { connection } => {
                    self.streams.remove(&connection);
                }
                Output::Pause { connection } => self.pause(connection, true),
                Output::Resume { connection } => self.pause(connection, false),
                Output::Stop { reason } => self.failure = Some(reason),
            }
        }
    }

    fn append(&mut self, job: Job) {
        let sent = self.appends.as_ref().map(|appends| appends.send(job));
        if !matches!(sent, Some(Ok(()))) {
            self.failure.get_or_insert_with(|| "its journal ended".into());
        }
    }

    /// Sends a message after those that wait for it. `false`: the stream had to be given up.
    fn send(&mut self, connection: ConnectionId, message: ServerMessage) -> bool {
        let Some(egress) = self.streams.get_mut(&connection) else {
            return true;
        };
        let later = std::mem::take(&mut egress.later);
        let sent = later
            .into_iter()
            .chain([message])
            .all(|message| egress.send(message));
        if !sent {
            tracing::warn!(
                connection = connection.0,
                "a client does not read what it asked for, or is gone: closing its stream"
            );
            self.streams.remove(&connection);
        }
        sent
    }

    /// Sends what waited for another message, in vain.
    fn send_what_is_late(&mut self) {
        for connection in std::mem::take(&mut self.has_later) {
            let Some(last) = self
                .streams
                .get_mut(&connection)
                .and_then(|egress| egress.later.pop())
            else {
                continue;
            };
            if !self.send(connection, last) {
                self.handle(Input::Disconnected { connection });
            }
        }
    }

    fn pause(&self, connection: ConnectionId, paused: bool) {
        if let Some(egress) = self.streams.get(&connection) {
            egress.paused.send_replace(paused);
        }
    }

    /// The view needs what it has not made durable, the archive what it has not stored.
    fn trim(&mut self) {
        let trim_to = self.persisted.min(self.trim_floor);
        if trim_to > self.trimmed && !self.is_over() {
            self.trimmed = trim_to;
            self.append(Job::Trim(trim_to.next()));
        }
    }
}

/// What a message takes in memory, roughly.
fn weight(message: &ServerMessage) -> usize {
    const SMALL: usize = 256;
    let extents = |extents: &[Extent]| -> usize {
        let inline = extents.iter().map(|extent| match &extent.source {
            ExtentSource::Inline(bytes) => bytes.len() + 64,
            ExtentSource::Object { .. } | ExtentSource::Reserved => 64,
        });
        inline.sum()
    };
    let content = match message {
        ServerMessage::Reply {
            result: Ok(reply), ..
        } => match reply {
            Reply::Bytes(bytes) => bytes.len(),
            Reply::Directory { entries, .. } => entries.len() * 256,
            Reply::Extents { extents: list, .. } => extents(list),
            Reply::Committed { attributes } => attributes.len() * 128,
            Reply::Trash(items) => items.len() * 256,
            Reply::Objects(objects) => objects.len() * 64,
            Reply::InlineExtents(list) => list
                .iter()
                .map(|(_, extent)| extents(std::slice::from_ref(extent)))
                .sum(),
            Reply::Status(status) => status.sessions.len() * 256,
            _ => 0,
        },
        ServerMessage::Invalidate { items, .. } => items.len() * 64,
        ServerMessage::Tasks(tasks) => tasks.len() * 48,
        _ => 0,
    };
    SMALL + content
}
