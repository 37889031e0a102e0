//! The task that owns a session's stream: connects, resumes, sends what the ledger holds, delivers what arrives.
//!
//! # States
//!
//! ```text
//! Serve  --stream broke-->  Reconnect --Welcome, same session-->  Serve
//!   |                           |
//!   +--Expired--> Idle <--expired, refused--+        Idle --a request--> Reconnect (a new session) --> Serve
//! ```
//!
//! Any state ends when the session is closed or its last handle is dropped.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::attributes::Attributes;
use crate::errno::Errno;
use crate::identifiers::{Epoch, InodeNumber, ObjectId, Position, RequestNumber, SessionId};
use crate::message::{ClientMessage, Delegated, Invalidation, Refusal, ServerMessage, Welcome};
use crate::operation::Operation;
use crate::replication::Task;
use crate::reply::Reply;
use crate::session::backoff::Backoff;
use crate::session::handler::SessionHandler;
use crate::session::lease::Heartbeats;
use crate::session::ledger::Entry;
use crate::session::numbers::Numbers;
use crate::session::opening::{goodbye, hello, open, reclaim_messages};
use crate::session::recorder::{Awaited, Recorder, Resumption};
use crate::session::shared::{Phase, Shared, Waiter};
use crate::session::transport::{Stream, Transport};
use crate::session::{ConnectError, RequestError, SessionOptions};

/// Messages handed to the transport at once: enough to fill a frame with small requests, few enough that a heartbeat
/// does not wait long behind them.
const BATCH_MESSAGES: usize = 128;

/// What the driver does next.
enum Next {
    Serve(Box<Opened>),
    Reconnect { resume: bool },
    Idle,
    Closed,
}

/// A stream whose `Welcome` has been taken in.
struct Opened {
    stream: Stream,
    /// When it was asked for.
    asked: Instant,
    lease_seconds: u64,
    /// What came in the same batch after `Welcome`.
    rest: Vec<ServerMessage>,
    /// To be sent before anything else.
    first: VecDeque<ClientMessage>,
}

/// What a message turns into once the shared state has been updated. Nearly all are replies: boxing them would cost an
/// allocation for each.
#[allow(clippy::large_enum_variant)]
enum Event {
    Replied(Answered),
    Recalled(u64, Vec<InodeNumber>),
    Invalidated(u64, Vec<Invalidation>),
    Tasks(Vec<Task>),
    Synchronise(Option<ObjectId>),
    FormatChanged,
    Expired,
    Broken(&'static str),
}

/// A reply, with the request that it belongs to.
struct Answered {
    number: RequestNumber,
    entry: Entry<Waiter>,
    result: Result<Reply, Errno>,
    directories: Vec<Attributes>,
    superseded: Vec<Invalidation>,
    delegated: Delegated,
}

enum Flushed {
    All,
    Blocked,
    Broken,
}

struct Driver {
    transport: Arc<dyn Transport>,
    options: SessionOptions,
    handler: Arc<dyn SessionHandler>,
    shared: Arc<Shared>,
    backoff: Backoff,
    /// A heartbeat was answered on the last stream.
    stream_worked: bool,
    /// The highest that was seen.
    seen: (Epoch, Position),
    finished: watch::Sender<bool>,
}

/// What the handles of a session share with its driver, and what tells the end of the driver.
pub(super) type Started = (Arc<Shared>, watch::Receiver<bool>);

/// Opens the first stream and starts the driver.
pub(super) async fn start(
    transport: Arc<dyn Transport>,
    mut options: SessionOptions,
    handler: Arc<dyn SessionHandler>,
    recorder: Option<Arc<dyn Recorder>>,
) -> Result<Started, ConnectError> {
    let asked = Instant::now();
    let (stream, welcome, rest) =
        open(&*transport, hello(&options, handler.takes_delegations(), None)).await?;
    // From now on only this volume will do: another one's service may come to this address, with a session of this number.
    options.volume = Some(welcome.format.volume);
    if let Some(recorder) = &recorder {
        recorder.opened(welcome.session, &welcome.format);
        recorder.seen(welcome.epoch, welcome.position);
    }
    let shared = Arc::new(Shared::new(&welcome, options.request_deadline, recorder));
    let (finished, finished_receiver) = watch::channel(false);
    let opened = Opened {
        stream,
        asked,
        lease_seconds: welcome.lease_seconds,
        rest,
        first: VecDeque::new(),
    };
    let driver = Driver {
        transport,
        backoff: Backoff::new(seed(&options, welcome.session)),
        stream_worked: false,
        options,
        handler,
        shared: Arc::clone(&shared),
        seen: (welcome.epoch, welcome.position),
        finished,
    };
    tokio::spawn(driver.run(Next::Serve(Box::new(opened))));
    Ok((shared, finished_receiver))
}

/// Takes a session that a predecessor has left, as if its stream had just broken. The driver runs in the future that is returned, so that its
/// handler can be told first what it holds.
pub(super) fn resume(
    transport: Arc<dyn Transport>,
    mut options: SessionOptions,
    handler: Arc<dyn SessionHandler>,
    recorder: Arc<dyn Recorder>,
    resumption: Resumption,
) -> (Started, impl Future<Output = ()> + use<>, Vec<Awaited>) {
    options.volume = Some(resumption.format.volume);
    let (seen, backoff) = (resumption.seen, Backoff::new(seed(&options, resumption.session)));
    let (shared, awaited) = Shared::resumed(resumption, options.request_deadline, recorder);
    let shared = Arc::new(shared);
    let (finished, finished_receiver) = watch::channel(false);
    let driver = Driver {
        transport,
        backoff,
        // The first attempt needs no pause: it was not the stream that failed.
        stream_worked: true,
        options,
        handler,
        shared: Arc::clone(&shared),
        seen,
        finished,
    };
    let start = driver.run(Next::Reconnect { resume: true });
    ((shared, finished_receiver), start, awaited)
}

/// Different for every client, the same in every run of a simulation.
fn seed(options: &SessionOptions, session: SessionId) -> u64 {
    let text = options
        .description
        .host
        .bytes()
        .chain(options.description.purpose.bytes());
    // FNV-1a.
    text.fold(0xcbf2_9ce4_8422_2325 ^ session.0, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Driver {
    async fn run(mut self, mut next: Next) {
        loop {
            next = match next {
                Next::Serve(opened) => self.serve(*opened).await,
                Next::Reconnect { resume } => self.reconnect(resume).await,
                Next::Idle => self.idle().await,
                Next::Closed => break,
            };
        }
        self.shared.set_lease(None);
        self.shared.lock().phase = Phase::Closed;
        self.fail_all(&RequestError::SessionLost);
        self.finished.send_replace(true);
    }

    /// Serves one stream until it ends.
    async fn serve(&mut self, opened: Opened) -> Next {
        let Opened {
            stream: Stream { sender, mut receiver },
            asked,
            lease_seconds,
            rest,
            mut first,
        } = opened;
        let shared = Arc::clone(&self.shared);
        let mut heartbeats = Heartbeats::new(asked, Instant::now(), lease_seconds);
        if let Some(next) = self.receive(rest, &mut heartbeats) {
            return next;
        }
        let mut timer = Box::pin(sleep_until(heartbeats.next_event(true)));
        loop {
            let (phase, answered) = {
                let state = shared.lock();
                (state.phase, state.ledger.is_empty())
            };
            let mut close_at = None;
            match phase {
                Phase::Open => {}
                Phase::Closing(until) if answered || Instant::now() >= until => {
                    goodbye(sender, receiver).await;
                    return Next::Closed;
                }
                Phase::Closing(until) => close_at = Some(until),
                Phase::Closed => {
                    goodbye(sender, receiver).await;
                    return Next::Closed;
                }
            }
            let blocked = match self.flush(&sender, &mut heartbeats, &mut first) {
                Flushed::All => false,
                Flushed::Blocked => true,
                Flushed::Broken => return self.disconnected(),
            };
            let departure = shared.lock().departure.next_event().filter(|_| !blocked);
            let heartbeat = heartbeats.next_event(!blocked);
            let wake = [close_at, departure]
                .into_iter()
                .flatten()
                .fold(heartbeat, Instant::min);
            reset(&mut timer, wake);
            tokio::select! {
                biased;
                () = shared.stop.notified() => {}
                batch = receiver.recv() => {
                    let Some(batch) = batch else { return self.disconnected() };
                    heartbeats.received(Instant::now());
                    if let Some(next) = self.receive(batch, &mut heartbeats) {
                        return next;
                    }
                }
                () = &mut timer => {
                    if heartbeats.is_silent(Instant::now()) {
                        tracing::warn!("the metadata service is silent: connecting again");
                        return self.disconnected();
                    }
                }
                permit = sender.reserve(), if blocked => {
                    if permit.is_err() {
                        return self.disconnected();
                    }
                }
                () = shared.work.notified(), if !blocked => {}
            }
        }
    }

    /// Hands the transport all that may be sent and that it takes.
    fn flush(
        &mut self,
        sender: &mpsc::Sender<Vec<ClientMessage>>,
        heartbeats: &mut Heartbeats,
        first: &mut VecDeque<ClientMessage>,
    ) -> Flushed {
        loop {
            let now = Instant::now();
            let heartbeat_due = heartbeats.is_due(now);
            if first.is_empty() && !heartbeat_due && !self.is_anything_due(now) {
                return Flushed::All;
            }
            let permit = match sender.try_reserve() {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => return Flushed::Blocked,
                Err(TrySendError::Closed(())) => return Flushed::Broken,
            };
            if let Some(message) = first.pop_front() {
                permit.send(vec![message]);
                continue;
            }
            let mut messages = Vec::new();
            if let Some(number) = heartbeats.due(now) {
                messages.push(ClientMessage::Heartbeat { number });
            }
            self.shared
                .lock()
                .ledger
                .drain(self.seen.0, BATCH_MESSAGES, &mut messages);
            permit.send(messages);
        }
    }

    /// Is anything to be sent now? What may not be sent yet is not waited for: a reply wakes the driver.
    fn is_anything_due(&self, now: Instant) -> bool {
        let mut state = self.shared.lock();
        let has_work = state.ledger.has_work();
        if !has_work {
            state.departure.departed();
        }
        has_work && state.departure.is_due(now)
    }

    /// Takes in a batch: first the shared state under one lock, then the handler and the waiters, in order, without it.
    fn receive(&mut self, batch: Vec<ServerMessage>, heartbeats: &mut Heartbeats) -> Option<Next> {
        let mut events = Vec::with_capacity(batch.len());
        let seen_before = self.seen;
        {
            let mut state = self.shared.lock();
            for message in batch {
                let event = match message {
                    ServerMessage::Reply {
                        number,
                        position,
                        result,
                        directories,
                        superseded,
                        delegated,
                    } => {
                        self.seen.1 = self.seen.1.max(position);
                        // A duplicate of a reply that came before.
                        let Some(entry) = state.ledger.answered(number) else {
                            continue;
                        };
                        if matches!(entry.operation, Operation::GrantNumbers) {
                            state.refilling = false;
                            if let Ok(Reply::Granted { inodes, objects }) = &result {
                                let same_epoch = entry.first_sent.filter(|epoch| *epoch == self.seen.0);
                                state.numbers.granted(*inodes, *objects, same_epoch);
                            }
                        }
                        Event::Replied(Answered {
                            number,
                            entry,
                            result,
                            directories,
                            superseded,
                            delegated,
                        })
                    }
                    ServerMessage::Recall { number, directories } => Event::Recalled(number, directories),
                    ServerMessage::Invalidate { number, items } => {
                        state.invalidations.insert(number);
                        Event::Invalidated(number, items)
                    }
                    ServerMessage::HeartbeatReply { number, time } => {
                        if let Some(time) = time {
                            state.service_time = Some((time, Instant::now()));
                        }
                        self.shared.set_lease(heartbeats.answered(number));
                        // The stream works: the next break starts with a short pause again.
                        self.backoff.reset();
                        self.stream_worked = true;
                        continue;
                    }
                    ServerMessage::Tasks(tasks) => Event::Tasks(tasks),
                    ServerMessage::Synchronise { after } => Event::Synchronise(after),
                    ServerMessage::FormatChanged(format) => {
                        state.format = Arc::from(format);
                        Event::FormatChanged
                    }
                    ServerMessage::Expired | ServerMessage::Refused(Refusal::SessionExpired) => {
                        Event::Expired
                    }
                    ServerMessage::Welcome(_) => Event::Broken("a second Welcome"),
                    ServerMessage::Refused(_) => Event::Broken("a refusal after Welcome"),
                };
                // What a service says after it has ended the session or broken the rules does not count.
                let last = matches!(event, Event::Expired | Event::Broken(_));
                events.push(event);
                if last {
                    break;
                }
            }
        }
        if self.seen != seen_before
            && let Some(recorder) = &self.shared.recorder
        {
            recorder.seen(self.seen.0, self.seen.1);
        }
        events.into_iter().find_map(|event| self.deliver(event))
    }

    fn deliver(&mut self, event: Event) -> Option<Next> {
        match event {
            Event::Replied(Answered {
                number,
                entry,
                result,
                ..
            }) if entry.withdrawn => self.recorded(number, &entry.operation, &result),
            Event::Replied(answered) => self.deliver_reply(answered),
            Event::Recalled(number, directories) => {
                self.handler.recalled(number, &directories);
                if !self.handler.takes_delegations() {
                    self.shared.returned(number);
                }
            }
            Event::Invalidated(number, items) => {
                self.handler.invalidated(number, items);
                if !self.handler.acknowledges() {
                    self.shared.acknowledge(number);
                }
            }
            Event::Tasks(tasks) => self.handler.tasks(tasks),
            Event::Synchronise(after) => self.handler.synchronise(after),
            Event::FormatChanged => {
                let (session, format) = (self.shared.id(), self.shared.format());
                if let Some(recorder) = &self.shared.recorder {
                    recorder.opened(session, &format);
                }
                self.handler.format_changed(&format);
            }
            Event::Expired => {
                self.drop_lease();
                self.expire(&RequestError::SessionLost);
                return Some(Next::Idle);
            }
            Event::Broken(what) => {
                tracing::error!(
                    what,
                    "the metadata service broke the rules of the stream: connecting again"
                );
                return Some(self.disconnected());
            }
        }
        None
    }

    fn deliver_reply(&self, answered: Answered) {
        let Answered {
            number,
            entry,
            result,
            directories,
            superseded,
            delegated,
        } = answered;
        let handler = &self.handler;
        if entry.early {
            handler.replied_early(number, &entry.operation, &result, &directories);
        } else {
            handler.replied(&entry.operation, &result, &directories);
        }
        if !delegated.is_empty() {
            handler.delegated(&entry.operation, &result, &delegated);
        }
        if !superseded.is_empty() {
            handler.superseded(&superseded);
        }
        self.recorded(number, &entry.operation, &result);
        // Nobody waits any more: the handler has heard of it.
        let _ = entry.waiter.send(result.map_err(RequestError::Failed));
    }

    fn recorded(&self, number: RequestNumber, operation: &Operation, result: &Result<Reply, Errno>) {
        if let Some(recorder) = &self.shared.recorder {
            recorder.answered(number, operation, result);
        }
    }

    fn drop_lease(&mut self) {
        self.shared.set_lease(None);
        self.shared.lock().invalidations.clear();
        self.handler.disconnected();
    }

    fn disconnected(&mut self) -> Next {
        self.drop_lease();
        Next::Reconnect { resume: true }
    }

    /// The session is over. The handler hears of it before those who wait.
    fn expire(&mut self, error: &RequestError) {
        let entries: Vec<_> = {
            let mut state = self.shared.lock();
            state.incarnation += 1;
            state.numbers = Numbers::default();
            state.refilling = false;
            if let Some(recorder) = &self.shared.recorder {
                recorder.expired();
            }
            state.ledger.take_all().collect()
        };
        tracing::warn!(
            requests = entries.len(),
            "the session with the metadata service is over"
        );
        self.handler.expired();
        for entry in entries {
            let _ = entry.waiter.send(Err(error.clone()));
        }
    }

    fn fail_all(&self, error: &RequestError) {
        let entries: Vec<_> = {
            let mut state = self.shared.lock();
            state.incarnation += 1;
            state.refilling = false;
            if let Some(recorder) = &self.shared.recorder {
                recorder.expired();
            }
            state.ledger.take_all().collect()
        };
        for entry in entries {
            let _ = entry.waiter.send(Err(error.clone()));
        }
    }

    /// Without a session: waits for a reason to open one.
    async fn idle(&mut self) -> Next {
        loop {
            {
                let state = self.shared.lock();
                if state.phase != Phase::Open {
                    return Next::Closed;
                }
                if !state.ledger.is_empty() {
                    return Next::Reconnect { resume: false };
                }
            }
            tokio::select! {
                biased;
                () = self.shared.stop.notified() => {}
                () = self.shared.work.notified() => {}
            }
        }
    }

    /// Connects until it works or there is no more point in it.
    async fn reconnect(&mut self, resume: bool) -> Next {
        // Something that takes streams and drops them again (a proxy, a service that fails at once) counts as a failed attempt.
        let mut pause_first = !std::mem::replace(&mut self.stream_worked, false);
        loop {
            if std::mem::replace(&mut pause_first, true) {
                let pause = self.backoff.pause();
                if self.unless_stopped(tokio::time::sleep(pause)).await.is_none() {
                    return Next::Closed;
                }
            }
            match self.shared.lock().phase {
                Phase::Closed => return Next::Closed,
                Phase::Closing(until) if Instant::now() >= until => return Next::Closed,
                Phase::Closing(_) | Phase::Open => {}
            }
            let resumed = resume.then(|| (self.shared.id(), self.seen));
            let transport = Arc::clone(&self.transport);
            let asked = Instant::now();
            let greeting = hello(&self.options, self.handler.takes_delegations(), resumed);
            let attempt = open(&*transport, greeting);
            let Some(attempt) = self.unless_stopped(attempt).await else {
                return Next::Closed;
            };
            match attempt {
                Ok((stream, welcome, rest)) => {
                    if let Some(opened) = self.welcomed(resume, asked, stream, &welcome, rest) {
                        return Next::Serve(Box::new(opened));
                    }
                }
                Err(ConnectError::Refused(Refusal::SessionExpired)) if resume => {
                    self.expire(&RequestError::SessionLost);
                    return Next::Idle;
                }
                Err(ConnectError::Refused(
                    refusal @ (Refusal::OtherVolume { .. }
                    | Refusal::Version { .. }
                    | Refusal::TooManySessions { .. }
                    | Refusal::SessionExpired),
                )) => {
                    tracing::error!(error = %refusal, "the metadata service refuses the session");
                    if resume {
                        self.expire(&RequestError::SessionLost);
                    } else {
                        self.fail_all(&RequestError::Refused(refusal));
                    }
                    return Next::Idle;
                }
                // A leader that is not yet, or no longer, the leader: the next attempt may find the right one.
                Err(error) => tracing::debug!(%error, "cannot connect yet"),
            }
        }
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.shared.stop.notified() => None,
            result = work => Some(result),
        }
    }

    /// Takes a `Welcome` in. `None` if the service is older than what was seen.
    fn welcomed(
        &mut self,
        resume: bool,
        asked: Instant,
        stream: Stream,
        welcome: &Welcome,
        rest: Vec<ServerMessage>,
    ) -> Option<Opened> {
        let resumed = resume && welcome.session == self.shared.id();
        if resumed && (welcome.epoch, welcome.position) < self.seen {
            tracing::warn!("the metadata service is behind what was already seen: not using it");
            return None;
        }
        if resume && !resumed {
            self.expire(&RequestError::SessionLost);
        }
        self.seen = (welcome.epoch, welcome.position);
        if let Some(recorder) = &self.shared.recorder {
            recorder.opened(welcome.session, &welcome.format);
            recorder.seen(welcome.epoch, welcome.position);
        }
        let format_changed = {
            let mut state = self.shared.lock();
            state.session = welcome.session;
            if resumed {
                state.numbers.resumed(welcome);
            } else {
                state.numbers = Numbers::granted_by(welcome);
            }
            state.ledger.restart();
            state.departure.hurry();
            state.service_time = None;
            if resumed && self.handler.takes_delegations() {
                state.ledger.give_back(0);
            }
            let changed = *state.format != welcome.format;
            if changed {
                state.format = Arc::new(welcome.format.clone());
            }
            changed
        };
        if format_changed {
            self.handler.format_changed(&welcome.format);
        }
        let first = if resumed {
            reclaim_messages(&self.handler.held())
        } else {
            VecDeque::new()
        };
        tracing::info!(session = %welcome.session, epoch = %welcome.epoch, resumed, "connected");
        Some(Opened {
            stream,
            asked,
            lease_seconds: welcome.lease_seconds,
            rest,
            first,
        })
    }
}

fn reset(timer: &mut std::pin::Pin<Box<Sleep>>, deadline: Instant) {
    // Resetting takes the lock of the timer wheel; nearly always nothing has changed.
    if timer.deadline() != deadline || timer.is_elapsed() {
        timer.as_mut().reset(deadline);
    }
}
