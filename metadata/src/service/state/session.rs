//! What the service knows of one session, and of one connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use twinshore_protocol::message::{LEASE_SECONDS, REQUEST_WINDOW, Reclaim, Role, SessionDescription};
use twinshore_protocol::{Caller, Epoch, Errno, InodeNumber, Operation, RequestNumber, SessionId, Side};

use super::{ConnectionId, WaitId};

/// How long the service waits for a silent holder: the lease and 1 % for clocks that run at different rates.
pub(super) const LEASE_WITH_DRIFT: Duration = Duration::from_millis(LEASE_SECONDS * 1010);

/// A session: what connected once and has not expired.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own; all combinations occur.
pub(super) struct Session {
    pub role: Role,
    pub near: Side,
    pub description: SessionDescription,
    pub task_slots: u32,
    /// Directories can be delegated to it.
    pub delegations: bool,
    /// Its present stream.
    pub connection: Option<ConnectionId>,
    /// The last sign of life.
    pub heard: Duration,
    /// Until then it may use what it has cached.
    pub lease_until: Duration,
    /// Which of its streams is the present one.
    pub generation: u32,
    /// Its kernel may still show what it was told over the streams from this one on.
    pub oldest_generation: u32,
    /// It has claimed what it holds open (or is new).
    pub reclaimed: bool,
    /// Parts of a `Reclaim` that is not complete yet.
    pub reclaiming: Reclaim,
    /// From the `Hello` of a stream until its claim is complete: what the session was told meanwhile that it has opened. The claim
    /// was made before, and does not name it.
    pub opened_unclaimed: Option<Vec<InodeNumber>>,
    /// Its end is being journalled: nothing of it is executed any more.
    pub closing: bool,
    /// Received and not yet executed.
    pub queue: VecDeque<(RequestNumber, Caller, Operation)>,
    /// What the queue weighs, in bytes.
    pub queue_bytes: usize,
    pub paused: bool,
    /// The last number that came over the present stream.
    pub last_received: Option<RequestNumber>,
    /// Up to here a request may have been executed before: look for its result.
    pub check_until: RequestNumber,
    /// Executed and not yet answered.
    pub in_flight: BTreeMap<RequestNumber, UnderWay>,
    /// Mutations that failed: a failure leaves no result in the journal, but a repetition must not succeed later.
    pub failed: BTreeMap<RequestNumber, Errno>,
    /// The number of the next `Invalidate`.
    pub next_invalidation: u64,
    /// Sent and not yet acknowledged.
    pub outstanding: BTreeMap<u64, Outstanding>,
    /// Replies that wait for this session.
    pub waited_by: BTreeSet<WaitId>,
    /// Replies to this session that wait for others.
    pub waiting: BTreeSet<WaitId>,
}

/// An executed request that is not answered yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UnderWay {
    /// What it has opened.
    pub opened: Option<InodeNumber>,
    /// It is a mutation.
    pub mutates: bool,
    /// It waits for a lock: it does not count in the window.
    pub waits_for_lock: bool,
}

/// An `Invalidate` that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub since: Duration,
    /// The reply that waits for it.
    pub wait: Option<WaitId>,
    pub inodes: Vec<InodeNumber>,
    /// Not a change, but the beginning of the stream of this generation: nothing that was cached before it is left.
    pub begins: Option<u32>,
}

impl Session {
    /// Has it been told to drop something of an inode, and not acknowledged?
    pub fn has_to_drop(&self, inode: InodeNumber) -> bool {
        self.outstanding
            .values()
            .any(|outstanding| outstanding.inodes.contains(&inode))
    }

    /// Numbers of invalidations are never used again within the session, not even after a restart: they begin with the
    /// epoch.
    pub fn new(role: Role, near: Side, description: SessionDescription, now: Duration, epoch: Epoch) -> Self {
        Self {
            role,
            near,
            description,
            task_slots: 0,
            delegations: false,
            connection: None,
            heard: now,
            lease_until: now + LEASE_WITH_DRIFT,
            generation: 0,
            oldest_generation: 0,
            reclaimed: true,
            reclaiming: Reclaim::default(),
            opened_unclaimed: None,
            closing: false,
            queue: VecDeque::new(),
            queue_bytes: 0,
            paused: false,
            last_received: None,
            check_until: RequestNumber(0),
            in_flight: BTreeMap::new(),
            failed: BTreeMap::new(),
            next_invalidation: (epoch.0 << 32) | 1,
            outstanding: BTreeMap::new(),
            waited_by: BTreeSet::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// A sign of life.
    pub fn hear(&mut self, now: Duration) {
        self.heard = now;
        self.lease_until = now + LEASE_WITH_DRIFT;
    }

    /// A request is a sign of life, but extends no lease: only an answered heartbeat does.
    pub fn hear_request(&mut self, now: Duration) {
        self.heard = now;
    }

    /// Takes note of the number of a request that comes over the stream. `false`: it breaks the rules.
    ///
    /// Over one stream numbers only grow; gaps are requests of an earlier stream that were answered. Nothing may be a whole
    /// window above the oldest unanswered request: its slot would be overwritten.
    #[must_use]
    pub fn receive(&mut self, number: RequestNumber, operation: &Operation) -> bool {
        if number.0 == 0 || self.last_received.is_some_and(|last| number <= last) {
            return false;
        }
        // Requests that wait for a lock are outside of the window: they keep no result.
        if waits_for_lock(operation) {
            self.last_received = Some(number);
            return true;
        }
        let oldest = self
            .in_flight
            .iter()
            .find(|(_, under_way)| !under_way.waits_for_lock)
            .map(|(oldest, _)| *oldest);
        let queued = self
            .queue
            .iter()
            .find(|(.., operation)| !waits_for_lock(operation))
            .map(|(queued, ..)| *queued);
        let oldest = oldest.into_iter().chain(queued).min();
        if oldest.is_some_and(|oldest| number.0.saturating_sub(oldest.0) >= REQUEST_WINDOW) {
            return false;
        }
        self.last_received = Some(number);
        true
    }

    /// Keeps a failure as long as a repetition can come.
    pub fn remember_failure(&mut self, number: RequestNumber, error: Errno) {
        self.failed.insert(number, error);
        let horizon = RequestNumber(number.0.saturating_sub(REQUEST_WINDOW));
        while self
            .failed
            .first_key_value()
            .is_some_and(|(oldest, _)| *oldest < horizon)
        {
            self.failed.pop_first();
        }
    }
}

/// A stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    /// Nothing came yet.
    New,
    /// Its `Hello` is being journalled.
    Greeting(SessionId),
    /// It carries a session.
    Bound(SessionId),
}

/// May it wait for a lock? Then it is outside of the window of requests.
pub(super) const fn waits_for_lock(operation: &Operation) -> bool {
    matches!(operation, Operation::SetLock { wait: true, .. })
}
