//! The requests of a session: their numbers, the window, and what has to be sent (again). Pure.
//!
//! A request gets its number when it is made, so numbers follow the order of the calls. It is sent when the window
//! reaches it, in order, and stays here until its reply has come. A new stream starts sending from the oldest again: the
//! service applies a mutation once, and what it has not seen it executes now.
//!
//! # Invariants
//!
//! * Requests are sent in the order of their numbers, on every stream.
//! * A number is never skipped and never used twice within a session.
//! * A request that was answered early is added only if it can be sent at once, and nothing is said to be returned before all
//!   those added until then are sent.
//! * A request is sent only if every request at least [`REQUEST_WINDOW`] older has been answered, requests that wait for a
//!   lock excepted: they may wait for hours, the service keeps no result for them, and the unlock that they wait for may
//!   have to come through the same window.
//! * A request that was given up before it was ever sent is never executed: a harmless one takes its number. Except for what
//!   gives something back: nobody would do so in its place, and what it gives back would be held for ever.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::identifiers::{Epoch, InodeNumber, RequestNumber};
use crate::lock::{Lock, LockKind};
use crate::message::{ClientMessage, REQUEST_WINDOW};
use crate::operation::{Caller, Operation};

/// How many requests may be here, sent or not. FUSE keeps a few hundred calls under way at most; the rest is room for
/// many tasks in one process. More are refused: memory must have a bound.
pub const REQUESTS_MAX: usize = 64 << 10;

/// A request without a reply.
pub struct Entry<W> {
    /// On whose behalf.
    pub caller: Caller,
    /// What to do.
    pub operation: Operation,
    /// Who waits for it.
    pub waiter: W,
    /// The epoch in which it was first sent.
    pub first_sent: Option<Epoch>,
    /// It was given up before it was sent: a harmless operation stands in its place.
    pub withdrawn: bool,
    /// Its program has been answered already.
    pub early: bool,
}

/// How many of the window's requests may be answered early: what is sent besides must find room.
pub const EARLY_MAX: usize = (REQUEST_WINDOW / 2) as usize;

/// When the oldest request that was answered early has no reply for so long, nothing more is: the line is slow or cut, and what
/// programs are told should not get far ahead of what is executed.
const EARLY_AGE_MAX: Duration = Duration::from_secs(1);

/// No more requests fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// See the module.
pub struct Ledger<W> {
    /// Those that the window counts.
    counted: BTreeMap<u64, Entry<W>>,
    /// Those that wait for a lock.
    parked: BTreeMap<u64, Entry<W>>,
    /// The number of the next request.
    next: u64,
    /// Everything below has been sent on the present stream.
    cursor: u64,
    /// Acknowledgements to be sent.
    acknowledgements: VecDeque<u64>,
    /// Those of `counted` that were answered early, and when.
    early: BTreeMap<u64, Instant>,
    /// What is to be returned, each with the last request that was answered early before it.
    returns: VecDeque<(u64, u64)>,
}

/// Takes the number of what is not to be executed: it leaves no lease behind and changes nothing.
pub const HARMLESS: Operation = Operation::StatFileSystem {
    inode: InodeNumber::ROOT,
};

/// Does it only give back what the session holds?
const fn gives_back(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Release { .. }
            | Operation::CancelLock { .. }
            | Operation::SetLock {
                lock: Lock {
                    kind: LockKind::Unlock,
                    ..
                },
                ..
            }
    )
}

/// May it wait for ever?
pub const fn waits_for_a_lock(operation: &Operation) -> bool {
    matches!(operation, Operation::SetLock { wait: true, .. })
}

impl<W> Ledger<W> {
    /// Without requests; the first one will have number 1.
    pub const fn new() -> Self {
        Self {
            counted: BTreeMap::new(),
            parked: BTreeMap::new(),
            next: 1,
            cursor: 1,
            acknowledgements: VecDeque::new(),
            early: BTreeMap::new(),
            returns: VecDeque::new(),
        }
    }

    /// Adds a request that is answered early.
    pub fn add_early(
        &mut self,
        caller: Caller,
        operation: Operation,
        waiter: W,
        now: Instant,
    ) -> Result<RequestNumber, Full> {
        let oldest = self.early.first_key_value().map(|(_, since)| *since);
        let is_slow = oldest.is_some_and(|since| now.saturating_duration_since(since) >= EARLY_AGE_MAX);
        if is_slow || self.early.len() >= EARLY_MAX || self.next >= self.window_end() {
            return Err(Full);
        }
        let number = self.add(caller, operation, waiter)?;
        if let Some(entry) = self.counted.get_mut(&number.0) {
            entry.early = true;
            self.early.insert(number.0, now);
        }
        Ok(number)
    }

    /// Something is to be returned, once everything is sent that was answered early until now.
    pub fn give_back(&mut self, number: u64) {
        let last = self.early.last_key_value().map_or(0, |(last, _)| *last);
        self.returns.push_back((last, number));
    }

    /// The next that can be returned.
    fn next_return(&self) -> Option<u64> {
        let (last, number) = self.returns.front()?;
        let all_sent = *last < self.cursor || self.early.range(self.cursor..=*last).next().is_none();
        all_sent.then_some(*number)
    }

    /// Adds a request and gives it its number.
    pub fn add(&mut self, caller: Caller, operation: Operation, waiter: W) -> Result<RequestNumber, Full> {
        if self.counted.len() + self.parked.len() >= REQUESTS_MAX {
            return Err(Full);
        }
        let number = self.next;
        self.next += 1;
        let parks = waits_for_a_lock(&operation);
        let entry = Entry {
            caller,
            operation,
            waiter,
            first_sent: None,
            withdrawn: false,
            early: false,
        };
        if parks {
            self.parked.insert(number, entry)
        } else {
            self.counted.insert(number, entry)
        };
        Ok(RequestNumber(number))
    }

    /// Takes up a request of a predecessor: it may have been sent. Called in the order of the numbers, before anything else is added.
    pub fn take_up(&mut self, number: RequestNumber, entry: Entry<W>, now: Instant) {
        self.next = self.next.max(number.0 + 1);
        if entry.early {
            self.early.insert(number.0, now);
        }
        if waits_for_a_lock(&entry.operation) {
            self.parked.insert(number.0, entry)
        } else {
            self.counted.insert(number.0, entry)
        };
    }

    /// Numbers below this one have been used.
    pub fn begin_at(&mut self, next: RequestNumber) {
        self.next = self.next.max(next.0);
    }

    /// The caller no longer waits. What has never been sent will never be executed; what has been sent stays until the
    /// service has answered, because only the service knows whether it was executed. Answers whether it was withdrawn.
    pub fn give_up(&mut self, number: RequestNumber) -> bool {
        let mut entry = match self.parked.remove(&number.0) {
            Some(entry) if entry.first_sent.is_some() => {
                self.parked.insert(number.0, entry);
                return false;
            }
            Some(entry) => entry,
            None => match self.counted.remove(&number.0) {
                Some(entry) => entry,
                None => return false,
            },
        };
        if entry.first_sent.is_none() && !gives_back(&entry.operation) {
            entry.operation = HARMLESS;
            entry.withdrawn = true;
        }
        let withdrawn = entry.withdrawn;
        self.counted.insert(number.0, entry);
        withdrawn
    }

    /// Takes the request that a reply belongs to. `None` for a duplicate reply.
    pub fn answered(&mut self, number: RequestNumber) -> Option<Entry<W>> {
        self.early.remove(&number.0);
        self.counted
            .remove(&number.0)
            .or_else(|| self.parked.remove(&number.0))
    }

    /// Queues an acknowledgement.
    pub fn acknowledge(&mut self, number: u64) {
        self.acknowledgements.push_back(number);
    }

    /// A new stream begins: everything unreplied is to be sent again. Acknowledgements of the old stream are void: the
    /// service knows that a client without a stream holds nothing.
    pub fn restart(&mut self) {
        self.cursor = 0;
        self.acknowledgements.clear();
        self.returns.clear();
    }

    /// Is there anything that [`Self::drain`] would give?
    pub fn has_work(&self) -> bool {
        !self.acknowledgements.is_empty() || self.next_return().is_some() || self.next_to_send().is_some()
    }

    /// Moves what may be sent now into `messages`, acknowledgements first (the changes of others wait for them), then requests, then
    /// what is returned, until it holds `limit`.
    pub fn drain(&mut self, epoch: Epoch, limit: usize, messages: &mut Vec<ClientMessage>) {
        while messages.len() < limit {
            let Some(number) = self.acknowledgements.pop_front() else {
                break;
            };
            messages.push(ClientMessage::Acknowledge { number });
        }
        let window_end = self.window_end();
        let (mut counted, mut parked) = (
            self.counted.range_mut(self.cursor..).peekable(),
            self.parked.range_mut(self.cursor..).peekable(),
        );
        while messages.len() < limit {
            let parked_first = match (counted.peek(), parked.peek()) {
                (Some((counted, _)), Some((parked, _))) => parked < counted,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            let next = if parked_first {
                parked.next()
            } else {
                counted.next()
            };
            let Some((&number, entry)) = next.filter(|(number, _)| **number < window_end) else {
                break;
            };
            entry.first_sent.get_or_insert(epoch);
            messages.push(ClientMessage::Request {
                number: RequestNumber(number),
                caller: entry.caller.clone(),
                operation: entry.operation.clone(),
            });
            self.cursor = number + 1;
        }
        while messages.len() < limit {
            let Some(number) = self.next_return() else {
                break;
            };
            self.returns.pop_front();
            messages.push(ClientMessage::Returned { number });
        }
    }

    /// Are there no requests?
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty() && self.parked.is_empty()
    }

    /// The session is over: takes all requests, in order, and starts numbering anew.
    pub fn take_all(&mut self) -> impl Iterator<Item = Entry<W>> + use<W> {
        let mut all = std::mem::take(&mut self.counted);
        all.append(&mut self.parked);
        *self = Self::new();
        all.into_values()
    }

    fn window_end(&self) -> u64 {
        self.counted
            .first_key_value()
            .map_or(self.next, |(oldest, _)| *oldest)
            .saturating_add(REQUEST_WINDOW)
    }

    fn next_to_send(&self) -> Option<u64> {
        let counted = self
            .counted
            .range(self.cursor..)
            .next()
            .map(|(number, _)| *number);
        let parked = self.parked.range(self.cursor..).next().map(|(number, _)| *number);
        let next = match (counted, parked) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        (next < self.window_end()).then_some(next)
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
