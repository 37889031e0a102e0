//! Operations on what is not durable: locks, `Release`, status. They execute in the order of their session like all others,
//! and are answered at once: they tell of nothing uncommitted.
//!
//! In the time of grace after a start, requests for new locks are *parked*: a session that has not come back yet may hold
//! what they want.

use twinshore_protocol::lock::{Lock, LockKind};
use twinshore_protocol::{Errno, InodeNumber, Operation, Reply, RequestNumber, SessionId};

use super::locks::{Owner, SetOutcome, Waiter};
use super::{Service, ServiceError};
use crate::view::ViewStore;

/// Parked requests at most.
const PARKED_MAX: usize = 1 << 16;

/// A lock request that waits for the end of grace.
#[derive(Debug)]
pub(super) struct Parked {
    inode: InodeNumber,
    session: SessionId,
    number: RequestNumber,
    lock: Lock,
    /// `None`: it only wants to know what is in the way.
    wait: Option<bool>,
}

impl Parked {
    /// Is it a request of this session?
    pub fn is_of(&self, session: SessionId) -> bool {
        self.session == session
    }

    /// The number of a request of this session.
    pub fn number_of(&self, session: SessionId) -> Option<RequestNumber> {
        self.is_of(session).then_some(self.number)
    }
}

impl<V: ViewStore> Service<V> {
    /// Executes what needs no durable state; gives every other operation back.
    pub(super) fn execute_soft(
        &mut self,
        session: SessionId,
        number: RequestNumber,
        operation: Operation,
    ) -> Result<Option<Operation>, ServiceError> {
        match operation {
            Operation::GetLock { inode, lock } => self.get_lock(Parked {
                inode,
                session,
                number,
                lock,
                wait: None,
            }),
            Operation::SetLock { inode, lock, wait } => {
                self.set_lock(Parked {
                    inode,
                    session,
                    number,
                    lock,
                    wait: Some(wait),
                });
            }
            Operation::CancelLock { inode, owner } => self.cancel_lock(session, number, inode, owner),
            Operation::Release { inode } => {
                let result = if self.opens.release(session, inode) {
                    // Its holder has stored what it wrote before it lets go.
                    self.unblock |= self.private.release(session, inode);
                    Ok(Reply::Done)
                } else {
                    Err(Errno::BadHandle)
                };
                self.background.poke();
                self.reply_later(session, number, result);
            }
            Operation::GetStatus => {
                let status = self.status()?;
                self.reply(
                    session,
                    number,
                    self.tail.position,
                    Ok(Reply::Status(Box::new(status))),
                );
            }
            Operation::ListInline { .. } if !self.keeps_house(session) => {
                let nothing = Ok(Reply::InlineExtents(Vec::new()));
                self.reply(session, number, self.tail.position, nothing);
            }
            Operation::ListCompaction { limit_bytes } => {
                let reply = self.list_compaction(session, limit_bytes)?;
                self.reply(session, number, self.tail.position, Ok(reply));
            }
            Operation::RequestCompaction => {
                self.compaction.request();
                self.reply(session, number, self.tail.position, Ok(Reply::Done));
            }
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    fn park(&mut self, parked: Parked) {
        if self.parked.len() >= PARKED_MAX {
            self.reply(
                parked.session,
                parked.number,
                self.tail.position,
                Err(Errno::NoLocks),
            );
        } else {
            self.parked.push(parked);
        }
    }

    fn get_lock(&mut self, request: Parked) {
        if self.grace {
            self.park(request);
            return;
        }
        let found = self.locks.conflict(request.inode, request.session, &request.lock);
        self.reply(
            request.session,
            request.number,
            self.tail.position,
            Ok(Reply::Lock(found)),
        );
    }

    fn set_lock(&mut self, request: Parked) {
        if self.grace && request.lock.kind == LockKind::Unlock {
            // Who gives back what he has asked for no longer waits for it. Granted after this it would never be given back.
            self.drop_parked(request.session, request.inode, request.lock.owner);
        }
        if self.grace && request.lock.kind != LockKind::Unlock {
            self.park(request);
            return;
        }
        let Parked {
            inode,
            session,
            number,
            lock,
            wait,
        } = request;
        let mut granted = Vec::new();
        let outcome = self.locks.set(
            inode,
            Waiter {
                session,
                number,
                lock,
            },
            wait == Some(true),
            &mut granted,
        );
        let result = match outcome {
            SetOutcome::Granted => Ok(Reply::Done),
            SetOutcome::Conflict => Err(Errno::Again),
            SetOutcome::Waiting => return,
            SetOutcome::Deadlock => Err(Errno::Deadlock),
            SetOutcome::TooMany => Err(Errno::NoLocks),
            SetOutcome::Invalid => Err(Errno::Invalid),
        };
        self.reply(session, number, self.tail.position, result);
        self.answer_granted(granted);
    }

    fn cancel_lock(&mut self, session: SessionId, number: RequestNumber, inode: InodeNumber, owner: u64) {
        let cancelled = self.locks.cancel(inode, Owner { session, owner });
        for waiter in cancelled {
            self.reply(
                session,
                waiter.number,
                self.tail.position,
                Err(Errno::Interrupted),
            );
        }
        self.drop_parked(session, inode, owner);
        self.reply(session, number, self.tail.position, Ok(Reply::Done));
    }

    /// Answers the parked requests of an owner for locks with `EINTR`.
    fn drop_parked(&mut self, session: SessionId, inode: InodeNumber, owner: u64) {
        let mut numbers = Vec::new();
        self.parked.retain(|parked| {
            let stays = parked.wait.is_none()
                || (parked.session, parked.inode, parked.lock.owner) != (session, inode, owner);
            if !stays {
                numbers.push(parked.number);
            }
            stays
        });
        for waiting in numbers {
            self.reply(session, waiting, self.tail.position, Err(Errno::Interrupted));
        }
    }

    /// A new stream of a session begins: what waits of the requests for locks that came over the old one is forgotten. They
    /// come again, after the session has claimed what it holds. Executed before that they would be answered over the new
    /// stream, and undone by a claim that was made before the answer arrived: the session would believe that it holds a
    /// lock which is granted to the next, or keep one for ever that it has given back.
    pub(super) fn withdraw_lock_requests(&mut self, session: SessionId) {
        let mut withdrawn = self.locks.withdraw(session);
        withdrawn.extend(self.parked.iter().filter_map(|parked| parked.number_of(session)));
        self.parked.retain(|parked| !parked.is_of(session));
        let blocked = self.blocked.iter();
        withdrawn.extend(blocked.filter_map(|blocked| blocked.lock_request_of(session)));
        self.blocked
            .retain(|blocked| blocked.lock_request_of(session).is_none());
        if let Some(state) = self.sessions.get_mut(&session) {
            for number in withdrawn {
                state.in_flight.remove(&number);
            }
        }
    }

    /// Answers requests whose turn has come.
    pub(super) fn answer_granted(&mut self, granted: Vec<Waiter>) {
        for waiter in granted {
            self.reply(waiter.session, waiter.number, self.tail.position, Ok(Reply::Done));
        }
    }

    /// Ends the time of grace once every session has claimed what it holds or is gone.
    pub(super) fn end_grace_if_over(&mut self) {
        if !self.grace || self.sessions.values().any(|session| !session.reclaimed) {
            return;
        }
        self.grace = false;
        self.unblock = true;
        tracing::info!("every session has claimed its open files and locks, or is gone");
        self.background.poke();
        for request in std::mem::take(&mut self.parked) {
            if !self.sessions.contains_key(&request.session) {
                continue;
            }
            if request.wait.is_some() {
                self.set_lock(request);
            } else {
                self.get_lock(request);
            }
        }
    }
}
