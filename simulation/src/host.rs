//! The metadata service in the simulation: the real state machine with a simulated disk, network and clock, that crashes
//! and starts again.
//!
//! A crash forgets everything but the disk. It can come before an append has happened, after it, or in the middle of it; in
//! each case before the service has heard of it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval};
use twinshore_metadata::archive::{ArchiveError, ArchiveStatus};
use twinshore_metadata::core::{self, Context, Maintenance};
use twinshore_metadata::journal::memory::{Fault as DiskFault, MemoryDisk, MemoryJournal};
use twinshore_metadata::journal::record::Record;
use twinshore_metadata::journal::{Journal, JournalError, Tail};
use twinshore_metadata::service::state::{
    AppendError, ConnectionId, Input, Instants, Output, Service, ServiceOptions, TICK,
};
use twinshore_metadata::view::ViewStore;
use twinshore_metadata::view::memory::MemoryView;
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::message::{ClientMessage, ServerMessage};
use twinshore_protocol::{Caller, Epoch, InodeNumber, Position, SessionId, Side, Timestamp, VolumeId};

use crate::archive::Archive;
use crate::buckets::Buckets;
use crate::network::{Accepted, Network};
use crate::random::Random;
use crate::trace::Trace;

/// How much is read from the journal at a time when the view is rebuilt.
const REPLAY_BYTES: usize = 1 << 20;

/// The simulated wall clock begins here (2001-09-09), so that times look like times.
pub const WALL_START_SECONDS: i64 = 1_000_000_000;

/// How the service is to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// At once: what is being appended does not happen.
    BeforeAppend,
    /// After what is being appended has happened, before anybody hears of it.
    AfterAppend,
    /// In the middle of an append.
    TornAppend,
}

/// What the rest of the simulation may ask of the service.
#[derive(Clone)]
pub struct Host {
    crash: mpsc::Sender<(Crash, Duration)>,
    disk: MemoryDisk,
    archived: watch::Receiver<[Position; 2]>,
    stopped: watch::Receiver<Option<String>>,
}

/// What the host is made of.
pub struct HostParts {
    /// The seed of the run.
    pub seed: u64,
    /// Where events go.
    pub trace: Trace,
    /// Where clients come from.
    pub network: Network,
    /// Where the archive goes. Both belong to the volume.
    pub buckets: Buckets,
    /// The volume.
    pub format: VolumeFormat,
    /// Limits and a deliberate fault.
    pub options: ServiceOptions,
}

impl Host {
    /// Creates the volume and starts serving it.
    pub fn start(parts: HostParts) -> Result<Self, String> {
        let start = Tail {
            epoch: Epoch(0),
            position: Position::ZERO,
            digest: [0; 32],
        };
        let disk = MemoryDisk::new(parts.format.volume, &start);
        create_volume(&disk, &parts.format)?;
        let (crash, crashes) = mpsc::channel(1);
        let (report, stopped) = watch::channel(None);
        let (tell_archived, archived) = watch::channel([Position::ZERO; 2]);
        let runner = Runner {
            random: Random::fork(parts.seed, "metadata"),
            volume: parts.format.volume,
            buckets: parts.buckets,
            archived: tell_archived,
            trace: parts.trace,
            network: parts.network,
            options: parts.options,
            disk: disk.clone(),
            started: Instant::now(),
            crashes,
        };
        tokio::spawn(async move {
            if let Err(reason) = runner.run().await {
                report.send_replace(Some(reason));
            }
        });
        Ok(Self {
            crash,
            disk,
            archived,
            stopped,
        })
    }

    /// Kills the service; it starts again after a while.
    pub async fn crash(&self, how: Crash, down: Duration) {
        // The channel is closed only when the service has stopped for good, which `stopped` tells.
        let _ = self.crash.send((how, down)).await;
    }

    /// Why the service has stopped for good, if it has: always a bug.
    pub fn stopped(&self) -> Option<String> {
        self.stopped.borrow().clone()
    }

    /// The last record that the archive in each bucket has told to hold.
    pub fn archived(&self) -> [Position; 2] {
        *self.archived.borrow()
    }

    /// What is under the journal.
    pub fn disk(&self) -> MemoryDisk {
        self.disk.clone()
    }

    /// The durable state, rebuilt from the journal as a follower would.
    pub fn durable_view(&self) -> Result<MemoryView, String> {
        replay(&self.disk)
    }
}

/// The time of an input.
fn instants(started: Instant) -> Instants {
    let elapsed = started.elapsed();
    let wall = Timestamp::since_epoch(elapsed).plus_seconds(WALL_START_SECONDS);
    Instants {
        wall,
        monotonic: elapsed,
    }
}

fn create_volume(disk: &MemoryDisk, format: &VolumeFormat) -> Result<(), String> {
    let mut journal = disk.open().map_err(|error| error.to_string())?;
    let tail = journal.acquire().map_err(|error| error.to_string())?;
    let none: std::collections::BTreeSet<InodeNumber> = std::collections::BTreeSet::new();
    let context = Context {
        now: Timestamp {
            seconds: WALL_START_SECONDS,
            nanoseconds: 0,
        },
        position: tail.position.next(),
        epoch: tail.epoch,
        session: SessionId(0),
        near: Side::Primary,
        caller: &Caller::ROOT,
        open: &none,
    };
    let created = core::maintain(
        &MemoryView::new(),
        &context,
        &Maintenance::CreateVolume {
            format: format.clone(),
            limits: core::VolumeLimits::default(),
        },
    )
    .map_err(|error| error.to_string())?;
    let record = Record {
        volume: format.volume,
        epoch: tail.epoch,
        position: tail.position.next(),
        previous: tail.digest,
        time: context.now,
        mutations: created.mutations,
        changes: Vec::new(),
    };
    let (bytes, digest) = record.encode();
    journal
        .append(&tail, digest, bytes)
        .map_err(|error| error.to_string())?;
    Ok(())
}

/// The state after the last durable record.
pub fn replay(disk: &MemoryDisk) -> Result<MemoryView, String> {
    replay_until(disk, disk.durable_tail().position)
}

/// The state after a record.
pub fn replay_until(disk: &MemoryDisk, until: Position) -> Result<MemoryView, String> {
    let mut view = MemoryView::new();
    loop {
        let records = disk
            .read(view.applied().next(), REPLAY_BYTES)
            .map_err(|error| error.to_string())?;
        if records.is_empty() {
            return Ok(view);
        }
        for bytes in records {
            let (record, _) = Record::decode(&bytes).map_err(|error| error.to_string())?;
            if record.position > until {
                return Ok(view);
            }
            view.apply(record.position, &record.mutations)
                .map_err(|error| error.to_string())?;
        }
    }
}

/// What comes to the service from its surroundings.
enum Event {
    Connected(Accepted),
    Messages(ConnectionId, Vec<ClientMessage>),
    Disconnected(ConnectionId),
    /// The disk has taken the time that an append takes.
    DiskReady {
        tail: Tail,
        digest: [u8; 32],
        bytes: bytes::Bytes,
    },
    Archived(ArchiveStatus),
    ArchiveFailed(ArchiveError),
}

struct Runner {
    random: Random,
    volume: VolumeId,
    buckets: Buckets,
    archived: watch::Sender<[Position; 2]>,
    trace: Trace,
    network: Network,
    options: ServiceOptions,
    disk: MemoryDisk,
    started: Instant,
    crashes: mpsc::Receiver<(Crash, Duration)>,
}

impl Runner {
    /// Serves, dies, and serves again. Returns only when the service gives up: a bug.
    async fn run(mut self) -> Result<(), String> {
        loop {
            let Some((how, down)) = self.serve().await? else {
                return Ok(());
            };
            self.trace.event("metadata", &format!("crashed ({how:?})"));
            self.network.listen(None);
            self.network.cut_all();
            tokio::time::sleep(down).await;
        }
    }

    /// Serves until the next crash.
    async fn serve(&mut self) -> Result<Option<(Crash, Duration)>, String> {
        let mut journal = self.disk.open().map_err(|error| error.to_string())?;
        let tail = journal.acquire().map_err(|error| error.to_string())?;
        let view = replay(&self.disk)?;
        let (service, outputs) = Service::start(view, tail, instants(self.started), self.options)
            .map_err(|error| format!("the service does not start: {error}"))?;
        self.trace.event(
            "metadata",
            &format!("epoch {} starts after record {}", tail.epoch, tail.position),
        );
        let (events, inbox) = mpsc::unbounded_channel();
        let (listener, accepted) = mpsc::channel(64);
        tokio::spawn(accept(accepted, events.clone()));
        let tell = events.clone();
        let archive = Archive::start(
            self.volume,
            &tail,
            self.random.between(0, u64::MAX),
            self.disk.clone(),
            &self.buckets,
            // After a crash nobody is left to be told.
            move |error| drop(tell.send(Event::ArchiveFailed(error))),
        );
        tokio::spawn(follow(archive.status(), events.clone()));
        let life = Life {
            _archive: archive,
            service,
            disk: self.disk.clone(),
            journal,
            events,
            inbox,
            outgoing: BTreeMap::new(),
            next_connection: 1,
            appending: None,
            started: self.started,
        };
        self.network.listen(Some(listener));
        life.live(self, outputs).await
    }
}

async fn accept(mut accepted: mpsc::Receiver<Accepted>, events: mpsc::UnboundedSender<Event>) {
    while let Some(stream) = accepted.recv().await {
        if events.send(Event::Connected(stream)).is_err() {
            return;
        }
    }
}

async fn follow(mut status: watch::Receiver<ArchiveStatus>, events: mpsc::UnboundedSender<Event>) {
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        if events.send(Event::Archived(now)).is_err() {
            return;
        }
    }
}

/// One life of the service, from start to crash.
struct Life {
    _archive: Archive,
    service: Service<MemoryView>,
    disk: MemoryDisk,
    journal: MemoryJournal,
    events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Event>,
    outgoing: BTreeMap<ConnectionId, mpsc::UnboundedSender<ServerMessage>>,
    next_connection: u64,
    appending: Option<(Tail, [u8; 32], bytes::Bytes)>,
    started: Instant,
}

impl Life {
    async fn live(
        mut self,
        runner: &mut Runner,
        outputs: Vec<Output>,
    ) -> Result<Option<(Crash, Duration)>, String> {
        self.carry_out(runner, outputs)?;
        let mut ticks = interval(TICK);
        loop {
            let input = tokio::select! {
                biased;
                crash = runner.crashes.recv() => {
                    let Some((how, down)) = crash else { return Ok(None) };
                    self.die(how)?;
                    return Ok(Some((how, down)));
                }
                event = self.inbox.recv() => match event {
                    Some(event) => self.input(event, runner)?,
                    None => return Ok(None),
                },
                _ = ticks.tick() => Some(Input::Tick),
            };
            if let Some(input) = input {
                let outputs = self.service.handle(input, instants(self.started));
                self.carry_out(runner, outputs)?;
            }
        }
    }

    fn input(&mut self, event: Event, runner: &Runner) -> Result<Option<Input>, String> {
        Ok(Some(match event {
            Event::Connected(stream) => {
                let connection = ConnectionId(self.next_connection);
                self.next_connection += 1;
                let (outgoing, queue) = mpsc::unbounded_channel();
                self.outgoing.insert(connection, outgoing);
                tokio::spawn(send(queue, stream.sender));
                tokio::spawn(receive(connection, stream.receiver, self.events.clone()));
                Input::Connected { connection }
            }
            Event::Messages(connection, messages) => Input::Messages { connection, messages },
            Event::Disconnected(connection) => {
                self.outgoing.remove(&connection);
                Input::Disconnected { connection }
            }
            Event::DiskReady { tail, digest, bytes } => {
                self.appending = None;
                Input::Appended(append(&mut self.journal, &tail, digest, &bytes)?)
            }
            Event::Archived(status) => {
                let sides = Side::BOTH.map(|side| {
                    let status = status.sides[side as usize].as_ref();
                    status.map_or(Position::ZERO, |status| status.archived)
                });
                runner.archived.send_replace(sides);
                Input::Archived {
                    checkpoint: status.checkpoint(),
                    archived: status.archived(),
                }
            }
            Event::ArchiveFailed(error) => return Err(format!("the archive stopped: {error}")),
        }))
    }

    fn carry_out(&mut self, runner: &mut Runner, outputs: Vec<Output>) -> Result<(), String> {
        for output in outputs {
            match output {
                Output::Send { connection, message } | Output::SendLater { connection, message } => {
                    if let Some(outgoing) = self.outgoing.get(&connection) {
                        // A stream that has just broken is reported as disconnected in a moment.
                        let _ = outgoing.send(message);
                    }
                }
                Output::Append { tail, digest, bytes } => {
                    self.appending = Some((tail, digest, bytes.clone()));
                    let delay = Duration::from_millis(runner.random.between(1, 6));
                    let events = self.events.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        // Nobody listens any more after a crash, which has decided what became of the append.
                        let _ = events.send(Event::DiskReady { tail, digest, bytes });
                    });
                }
                Output::Close { connection } => drop(self.outgoing.remove(&connection)),
                // The simulated clients are within their limits, so nothing piles up while a stream is paused.
                Output::Pause { .. } | Output::Resume { .. } => {}
                Output::Stop { reason } => return Err(format!("the service stopped: {reason}")),
            }
        }
        Ok(())
    }

    fn die(&mut self, how: Crash) -> Result<(), String> {
        let Some((tail, digest, bytes)) = self.appending.take() else {
            return Ok(());
        };
        match how {
            Crash::BeforeAppend => {}
            Crash::AfterAppend => drop(append(&mut self.journal, &tail, digest, &bytes)?),
            Crash::TornAppend => {
                self.disk.fail_next(DiskFault::Torn);
                drop(append(&mut self.journal, &tail, digest, &bytes)?);
            }
        }
        Ok(())
    }
}

/// Appends, with the rule for an unknown outcome: equal tail means done, the tail before means the same bytes again.
fn append(
    journal: &mut impl Journal,
    tail: &Tail,
    digest: [u8; 32],
    bytes: &bytes::Bytes,
) -> Result<Result<Tail, AppendError>, String> {
    loop {
        match journal.append(tail, digest, bytes.clone()) {
            Ok(tail) => return Ok(Ok(tail)),
            Err(JournalError::Full(_)) => return Ok(Err(AppendError::Full)),
            Err(JournalError::Unknown(_)) => {
                let found = journal.tail().map_err(|error| error.to_string())?;
                if found.digest == digest {
                    return Ok(Ok(found));
                }
                if found != *tail {
                    return Ok(Err(AppendError::Final(
                        "another leader has taken over".to_owned(),
                    )));
                }
            }
            Err(error) => return Ok(Err(AppendError::Final(error.to_string()))),
        }
    }
}

async fn send(mut queue: mpsc::UnboundedReceiver<ServerMessage>, stream: mpsc::Sender<Vec<ServerMessage>>) {
    while let Some(first) = queue.recv().await {
        let mut messages = vec![first];
        while let Ok(message) = queue.try_recv() {
            messages.push(message);
        }
        if stream.send(messages).await.is_err() {
            return;
        }
    }
}

async fn receive(
    connection: ConnectionId,
    mut stream: mpsc::Receiver<Vec<ClientMessage>>,
    events: mpsc::UnboundedSender<Event>,
) {
    while let Some(messages) = stream.recv().await {
        if events.send(Event::Messages(connection, messages)).is_err() {
            return;
        }
    }
    // After a crash nobody is left to be told.
    let _ = events.send(Event::Disconnected(connection));
}
