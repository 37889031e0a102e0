//! The thread that owns the state machine and its view.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use twinshore_protocol::message::{ClientMessage, ServerMessage};
use twinshore_protocol::status::VolumeStatus;
use twinshore_protocol::{Extent, ExtentSource, Position, Reply};

use super::appender::Job;
use super::disk_space::{DiskSpace, Space};
use super::{Clock, ServeError};
use crate::archive::FrozenState;
use crate::journal::Tail;
use crate::service::state::{ConnectionId, Input, Numbers, Output, Service};
use crate::view::{ViewError, ViewStore};

/// What is under way to one stream at most, in bytes, roughly: a window full of directory pages. A client that does not
/// read that much is dead or hostile.
const EGRESS_BYTES_MAX: usize = 64 << 20;

/// Commands taken at a time.
const COMMANDS_AT_ONCE: usize = 256;

/// How long a stop waits for what is executed to be committed.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How often the view is made durable, so that a restart replays less.
const PERSIST_EVERY: Duration = Duration::from_secs(30);

/// What the executor is to do.
pub(super) enum Command {
    /// A stream was opened.
    Connected(ConnectionId, Egress),
    /// Messages came. The permits are given back when they are processed.
    Messages(ConnectionId, Vec<ClientMessage>, OwnedSemaphorePermit),
    /// Anything else for the state machine.
    Input(Input),
    /// Time has passed.
    Tick,
    /// For metrics and health.
    Report(oneshot::Sender<Report>),
    /// For a checkpoint.
    Snapshot(oneshot::Sender<Result<FrozenState, ViewError>>),
    /// The archive has moved on.
    Archived {
        checkpoint: Position,
        archived: Position,
        /// Up to here nobody else needs the journal's records.
        trim_floor: Position,
    },
    /// Something without which the service must not go on has failed.
    Fail(String),
    /// Finish what is executed, make the view durable, end.
    Stop,
}

/// The state and the counters at one moment.
pub(super) struct Report {
    pub status: Result<VolumeStatus, String>,
    pub numbers: Numbers,
}

/// The way out to a stream.
pub(super) struct Egress {
    /// Messages, with their weight.
    pub messages: mpsc::UnboundedSender<(ServerMessage, usize)>,
    /// The weight of what is under way. The stream's task takes it off.
    pub queued_bytes: Arc<AtomicUsize>,
    /// Whether the stream's reader is to wait.
    pub paused: watch::Sender<bool>,
}

/// The executor's state.
pub(super) struct Executor<V: ViewStore> {
    service: Service<V>,
    clock: Clock,
    appends: std_mpsc::Sender<Job>,
    space: DiskSpace,
    is_low: bool,
    streams: HashMap<ConnectionId, Egress>,
    failure: Option<String>,
    persisted_at: Instant,
    persisted: Position,
    trim_floor: Position,
    trimmed: Position,
}

impl<V: ViewStore + 'static> Executor<V> {
    /// Starts the thread. The receiver gets `None` after a stop and a reason after a failure.
    pub fn start(
        service: Service<V>,
        outputs: Vec<Output>,
        clock: Clock,
        commands: mpsc::Receiver<Command>,
        appends: std_mpsc::Sender<Job>,
        space: DiskSpace,
    ) -> Result<(JoinHandle<()>, oneshot::Receiver<Option<String>>), ServeError> {
        let (ended, receiver) = oneshot::channel();
        let mut executor = Self {
            service,
            clock,
            appends,
            space,
            is_low: false,
            streams: HashMap::new(),
            failure: None,
            persisted_at: Instant::now(),
            persisted: Position::ZERO,
            trim_floor: Position::ZERO,
            trimmed: Position::ZERO,
        };
        let run = move || {
            executor.carry_out(outputs);
            executor.run(commands);
            // Streams end with their senders, then whoever waits is told.
            let failure = executor.failure.take();
            drop(executor);
            let _ = ended.send(failure);
        };
        let thread = std::thread::Builder::new()
            .name("executor".into())
            .spawn(run)
            .map_err(ServeError::Thread)?;
        Ok((thread, receiver))
    }

    fn run(&mut self, mut commands: mpsc::Receiver<Command>) {
        let mut taken = Vec::with_capacity(COMMANDS_AT_ONCE);
        let mut stop_by: Option<Instant> = None;
        while self.failure.is_none() {
            if commands.blocking_recv_many(&mut taken, COMMANDS_AT_ONCE) == 0 {
                break;
            }
            for command in taken.drain(..) {
                let stopping = stop_by.is_some();
                match command {
                    // What came after the stop is not executed: its clients ask the next service.
                    Command::Messages(..) | Command::Connected(..) if stopping => {}
                    Command::Connected(connection, egress) => {
                        self.streams.insert(connection, egress);
                        self.handle(Input::Connected { connection });
                    }
                    Command::Messages(connection, messages, permits) => {
                        self.handle(Input::Messages { connection, messages });
                        drop(permits);
                    }
                    Command::Input(input) => {
                        if let Input::Disconnected { connection } = &input {
                            self.streams.remove(connection);
                        }
                        self.handle(input);
                    }
                    Command::Tick => {
                        self.look_at_disk();
                        self.handle(Input::Tick);
                        self.persist_now_and_then();
                    }
                    Command::Report(sender) => {
                        let status = self.service.status().map_err(|error| error.to_string());
                        let _ = sender.send(Report {
                            status,
                            numbers: self.service.numbers(),
                        });
                    }
                    Command::Snapshot(sender) => {
                        let Tail {
                            epoch: _,
                            position,
                            digest,
                        } = self.service.tail();
                        let frozen = self.service.store().snapshot();
                        let _ = sender.send(frozen.map(|view| FrozenState {
                            position,
                            digest,
                            view,
                        }));
                    }
                    Command::Archived {
                        checkpoint,
                        archived,
                        trim_floor,
                    } => {
                        self.trim_floor = trim_floor;
                        self.handle(Input::Archived { checkpoint, archived });
                    }
                    Command::Fail(reason) => self.failure = Some(reason),
                    Command::Stop => stop_by = Some(Instant::now() + DRAIN_DEADLINE),
                }
            }
            if stop_by.is_some_and(|deadline| self.service.is_committed() || Instant::now() >= deadline) {
                break;
            }
        }
        if self.failure.is_none()
            && let Err(error) = self.service.store_mut().persist()
        {
            self.failure = Some(error.to_string());
        }
    }

    fn look_at_disk(&mut self) {
        let is_low = self.space.look() != Space::Enough;
        if is_low != self.is_low {
            self.is_low = is_low;
            self.handle(Input::Disk { is_low });
        }
    }

    fn handle(&mut self, input: Input) {
        if self.failure.is_none() {
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
                Output::Append { tail, digest, bytes } => {
                    if self.appends.send(Job::Append { tail, digest, bytes }).is_err() {
                        self.failure = Some("its journal ended".into());
                    }
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

    /// Sends a message. `false`: the stream had to be given up.
    fn send(&mut self, connection: ConnectionId, message: ServerMessage) -> bool {
        let Some(egress) = self.streams.get(&connection) else {
            return true;
        };
        let weight = weight(&message);
        let queued = egress.queued_bytes.fetch_add(weight, Ordering::Relaxed) + weight;
        let gone = egress.messages.send((message, weight)).is_err();
        if queued > EGRESS_BYTES_MAX {
            tracing::warn!(
                connection = connection.0,
                "a client does not read what it asked for: closing its stream"
            );
        }
        let lost = gone || queued > EGRESS_BYTES_MAX;
        if lost {
            self.streams.remove(&connection);
        }
        !lost
    }

    fn pause(&self, connection: ConnectionId, paused: bool) {
        if let Some(egress) = self.streams.get(&connection) {
            egress.paused.send_replace(paused);
        }
    }

    fn persist_now_and_then(&mut self) {
        if self.failure.is_some() || self.persisted_at.elapsed() < PERSIST_EVERY {
            return;
        }
        self.persisted_at = Instant::now();
        let position = self.service.position();
        if position != self.persisted {
            if let Err(error) = self.service.store_mut().persist() {
                self.failure = Some(error.to_string());
                return;
            }
            self.persisted = position;
        }
        // The view needs what it has not made durable, the archive what it has not stored.
        let trim_to = self.persisted.min(self.trim_floor);
        if trim_to > self.trimmed {
            self.trimmed = trim_to;
            if self.appends.send(Job::Trim(trim_to.next())).is_err() {
                self.failure = Some("its journal ended".into());
            }
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
