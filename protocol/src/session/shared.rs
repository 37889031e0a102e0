//! What the handles of a session and its driver share, under one lock.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::errno::Errno;
use crate::format::VolumeFormat;
use crate::identifiers::{InodeNumber, RequestNumber, SessionId};
use crate::message::Welcome;
use crate::operation::{Caller, Operation};
use crate::reply::Reply;
use crate::session::RequestError;
use crate::session::departure::Departure;
use crate::session::ledger::{self, Entry, Ledger};
use crate::session::numbers::Numbers;
use crate::session::recorder::{Awaited, Recorder, Resumption};
use crate::session::size;
use crate::time::Timestamp;
use crate::wire::MESSAGE_MAX_BYTES;

/// Who waits for a reply.
pub(super) type Waiter = oneshot::Sender<Result<Reply, RequestError>>;

/// How far the end of the session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// In use.
    Open,
    /// No new requests; the stream is closed when all are answered or this time has come.
    Closing(Instant),
    /// Nobody holds the session any more, or the driver has ended.
    Closed,
}

/// What the lock guards.
pub(super) struct State {
    pub ledger: Ledger<Waiter>,
    /// When what it holds is sent.
    pub departure: Departure,
    pub numbers: Numbers,
    pub session: SessionId,
    pub format: Arc<VolumeFormat>,
    pub phase: Phase,
    /// Invalidations of the present stream that are not acknowledged yet.
    pub invalidations: BTreeSet<u64>,
    /// Grows when a session expires: request numbers of different sessions must not be mixed up.
    pub incarnation: u64,
    /// A `GrantNumbers` is under way.
    pub refilling: bool,
    /// The time of the service when it answered a heartbeat, and when that arrived.
    pub service_time: Option<(Timestamp, Instant)>,
}

/// See the module.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Wakes the driver: there may be something to send.
    pub work: Notify,
    /// Wakes the driver wherever it waits: the session is to end.
    pub stop: Notify,
    /// What is kept for a successor.
    pub recorder: Option<Arc<dyn Recorder>>,
    request_deadline: Duration,
    /// Those who found no number wait here, so that one of them asks for more.
    refill_gate: tokio::sync::Mutex<()>,
    base: Instant,
    /// The end of the lease in nanoseconds after `base`; 0 for none. Read for every answer from a cache.
    lease_until_nanoseconds: AtomicU64,
    /// When the last lease that there was ends or ended, the same way.
    last_lease_nanoseconds: AtomicU64,
    /// How often there was a time without a lease between two.
    lease_lapses: AtomicU64,
}

/// A request that has its number.
pub(super) struct Ticket {
    number: RequestNumber,
    incarnation: u64,
    deadline: Option<Instant>,
    reply: oneshot::Receiver<Result<Reply, RequestError>>,
}

impl Shared {
    pub fn new(welcome: &Welcome, request_deadline: Duration, recorder: Option<Arc<dyn Recorder>>) -> Self {
        let numbers = Numbers::granted_by(welcome);
        Self::with(
            welcome.session,
            welcome.format.clone(),
            numbers,
            request_deadline,
            recorder,
        )
    }

    /// With what a predecessor has left. Its numbers for inodes and objects are not used: nobody knows which of them it took.
    pub fn resumed(
        resumption: Resumption,
        request_deadline: Duration,
        recorder: Arc<dyn Recorder>,
    ) -> (Self, Vec<Awaited>) {
        let Resumption {
            session,
            seen: (epoch, _),
            format,
            next,
            requests,
        } = resumption;
        let shared = Self::with(
            session,
            format,
            Numbers::default(),
            request_deadline,
            Some(recorder),
        );
        let mut awaited = Vec::with_capacity(requests.len());
        {
            let mut state = shared.lock();
            let now = Instant::now();
            for request in requests {
                let (waiter, reply) = oneshot::channel();
                let withdrawn = request.request.is_none();
                let (caller, operation) = request.request.unwrap_or((Caller::ROOT, ledger::HARMLESS));
                let entry = Entry {
                    caller,
                    operation,
                    waiter,
                    // Perhaps it was not. Then it is executed now.
                    first_sent: Some(epoch),
                    withdrawn,
                    early: request.early,
                };
                state.ledger.take_up(request.number, entry, now);
                if !withdrawn {
                    awaited.push(Awaited::new(request.number, reply, request_deadline));
                }
            }
            state.ledger.begin_at(next);
        }
        (shared, awaited)
    }

    fn with(
        session: SessionId,
        format: VolumeFormat,
        numbers: Numbers,
        request_deadline: Duration,
        recorder: Option<Arc<dyn Recorder>>,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                ledger: Ledger::new(),
                departure: Departure::default(),
                numbers,
                session,
                format: Arc::new(format),
                phase: Phase::Open,
                invalidations: BTreeSet::new(),
                incarnation: 0,
                refilling: false,
                service_time: None,
            }),
            work: Notify::new(),
            stop: Notify::new(),
            recorder,
            request_deadline,
            refill_gate: tokio::sync::Mutex::new(()),
            base: Instant::now(),
            lease_until_nanoseconds: AtomicU64::new(0),
            last_lease_nanoseconds: AtomicU64::new(0),
            lease_lapses: AtomicU64::new(0),
        }
    }

    /// The state. It is consistent between statements, so a panic elsewhere does not make it useless.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a request its number and has it sent.
    pub fn request(&self, caller: Caller, operation: Operation) -> Result<Ticket, RequestError> {
        if size::bound_bytes(&caller, &operation) > MESSAGE_MAX_BYTES {
            return Err(RequestError::Failed(Errno::TooBig));
        }
        let deadline = if ledger::waits_for_a_lock(&operation) {
            None
        } else {
            Some(Instant::now() + self.request_deadline)
        };
        let (waiter, reply) = oneshot::channel();
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(RequestError::SessionLost);
        }
        let incarnation = state.incarnation;
        // Nobody waits for it: it goes with the next message, at the latest with the next heartbeat.
        let hurries = !matches!(operation, Operation::Release { .. });
        let added = self.add(&mut state, caller, operation, waiter);
        if hurries {
            state.departure.request(Instant::now());
        }
        drop(state);
        let number = added.map_err(|ledger::Full| RequestError::Failed(Errno::Again))?;
        if hurries {
            self.work.notify_one();
        }
        Ok(Ticket {
            number,
            incarnation,
            deadline,
            reply,
        })
    }

    /// Adds a request, recorded before anybody can send it: whoever sends needs the lock.
    fn add(
        &self,
        state: &mut State,
        caller: Caller,
        operation: Operation,
        waiter: Waiter,
    ) -> Result<RequestNumber, ledger::Full> {
        let Some(recorder) = &self.recorder else {
            return state.ledger.add(caller, operation, waiter);
        };
        let (on_behalf, copy) = (caller.clone(), operation.clone());
        let number = state.ledger.add(caller, operation, waiter)?;
        recorder.added(number, &on_behalf, &copy, false);
        Ok(number)
    }

    /// Takes a request whose program is answered without waiting for the reply.
    pub fn early(&self, caller: Caller, operation: Operation) -> Option<RequestNumber> {
        if size::bound_bytes(&caller, &operation) > MESSAGE_MAX_BYTES {
            return None;
        }
        let (waiter, _) = oneshot::channel();
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return None;
        }
        let now = Instant::now();
        let number = match &self.recorder {
            None => state.ledger.add_early(caller, operation, waiter, now),
            Some(recorder) => {
                let (on_behalf, copy) = (caller.clone(), operation.clone());
                state
                    .ledger
                    .add_early(caller, operation, waiter, now)
                    .inspect(|number| recorder.added(*number, &on_behalf, &copy, true))
            }
        }
        .ok()?;
        let is_news = state.departure.linger(now);
        drop(state);
        if is_news {
            self.work.notify_one();
        }
        Some(number)
    }

    /// Somebody waits for what was taken early.
    pub fn hurry(&self) {
        self.lock().departure.hurry_what_lingers();
        self.work.notify_one();
    }

    /// A number for a new inode, if there is one at hand.
    pub fn take_inode_now(&self) -> Option<InodeNumber> {
        self.try_take(&Numbers::take_inode).ok().flatten()
    }

    /// What the clock of the service shows now, not counting the way of its answer.
    pub fn service_time(&self) -> Option<Timestamp> {
        let (time, arrived) = self.lock().service_time?;
        Some(time.plus(arrived.elapsed()))
    }

    /// Directories are given back.
    pub fn returned(&self, number: u64) {
        let mut state = self.lock();
        state.ledger.give_back(number);
        state.departure.hurry();
        drop(state);
        self.work.notify_one();
    }

    /// Waits for the reply.
    pub async fn wait(&self, ticket: Ticket) -> Result<Reply, RequestError> {
        let Ticket {
            number,
            incarnation,
            deadline,
            reply,
        } = ticket;
        let Some(deadline) = deadline else {
            return reply.await.unwrap_or(Err(RequestError::SessionLost));
        };
        if let Ok(result) = tokio::time::timeout_at(deadline, reply).await {
            return result.unwrap_or(Err(RequestError::SessionLost));
        }
        let mut state = self.lock();
        if state.incarnation == incarnation
            && state.ledger.give_up(number)
            && let Some(recorder) = &self.recorder
        {
            recorder.withdrawn(number);
        }
        Err(RequestError::TimedOut)
    }

    /// Takes a number, asking for more ahead of need.
    pub async fn take<T>(&self, take: impl Fn(&mut Numbers) -> Option<T>) -> Result<T, RequestError> {
        if let Some(number) = self.try_take(&take)? {
            return Ok(number);
        }
        let _gate = self.refill_gate.lock().await;
        // A grant may be used up by others before it is seen here, but not for ever: a few hundred grants in a row
        // without one number for us mean that the service grants nothing.
        for _ in 0..256 {
            if let Some(number) = self.try_take(&take)? {
                return Ok(number);
            }
            self.wait(self.request(Caller::ROOT, Operation::GrantNumbers)?)
                .await?;
        }
        Err(RequestError::Failed(Errno::NoSpace))
    }

    fn try_take<T>(&self, take: &impl Fn(&mut Numbers) -> Option<T>) -> Result<Option<T>, RequestError> {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(RequestError::SessionLost);
        }
        let Some(number) = take(&mut state.numbers) else {
            return Ok(None);
        };
        if !state.refilling && state.numbers.are_low() {
            // Nobody waits for this reply: the driver adds the numbers. If the ledger is full, the next one tries again.
            let (waiter, _) = oneshot::channel();
            state.refilling = self
                .add(&mut state, Caller::ROOT, Operation::GrantNumbers, waiter)
                .is_ok();
            state.departure.hurry();
            drop(state);
            self.work.notify_one();
        }
        Ok(Some(number))
    }

    pub fn acknowledge(&self, number: u64) {
        let mut state = self.lock();
        if state.invalidations.remove(&number) {
            state.ledger.acknowledge(number);
            state.departure.hurry();
            drop(state);
            self.work.notify_one();
        }
    }

    pub fn set_lease(&self, until: Option<Instant>) {
        let nanoseconds = until.map_or(0, |until| {
            u64::try_from(until.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX)
        });
        if until.is_some() {
            let before = self.last_lease_nanoseconds.swap(nanoseconds, Ordering::AcqRel);
            if before > 0 && self.base + Duration::from_nanos(before) < Instant::now() {
                self.lease_lapses.fetch_add(1, Ordering::AcqRel);
            }
        }
        self.lease_until_nanoseconds.store(nanoseconds, Ordering::Release);
    }

    pub fn lease_lapses(&self) -> u64 {
        self.lease_lapses.load(Ordering::Acquire)
    }

    pub fn lease_until(&self) -> Option<Instant> {
        match self.lease_until_nanoseconds.load(Ordering::Acquire) {
            0 => None,
            nanoseconds => Some(self.base + Duration::from_nanos(nanoseconds)),
        }
    }

    pub fn format(&self) -> Arc<VolumeFormat> {
        Arc::clone(&self.lock().format)
    }

    pub fn id(&self) -> SessionId {
        self.lock().session
    }

    pub fn begin_close(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing(Instant::now() + self.request_deadline);
        }
        state.departure.hurry();
        drop(state);
        self.work.notify_one();
    }
}

/// Ends the session when its last handle is dropped.
pub(super) struct Guard {
    shared: Arc<Shared>,
    finished: watch::Receiver<bool>,
}

impl Guard {
    pub const fn new(shared: Arc<Shared>, finished: watch::Receiver<bool>) -> Self {
        Self { shared, finished }
    }

    /// Waits for the end of the driver.
    pub async fn finished(&self) {
        // An error means that the driver is gone, which is what is waited for.
        let _ = self.finished.clone().wait_for(|finished| *finished).await;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.lock().phase = Phase::Closed;
        self.shared.stop.notify_one();
    }
}
