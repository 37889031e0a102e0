//! The beginning of a stream: `Hello`, `Welcome` or `Refused`, `Reclaim`.
//!
//! A new session is journalled before it is welcomed. A session that resumes gets new numbers for objects, which is
//! journalled too, so both are welcomed when a batch is committed. Until then nothing is sent over the stream: `Welcome` is
//! its first message. At most one stream carries a session: the newest wins.

use twinshore_protocol::format::Durability;
use twinshore_protocol::identifiers::NumberRange;
use twinshore_protocol::message::{
    Hello, LEASE_SECONDS, PROTOCOL_VERSION, Reclaim, Refusal, ServerMessage, Welcome,
};
use twinshore_protocol::{Caller, Operation, Reply, SessionId};

use super::batch::Entry;
use super::session::{Connection, Session};
use super::{ConnectionId, Fault, Service, ServiceError};
use crate::core::{self, Context, Maintenance};
use crate::view::ViewStore;

/// A `Reclaim` in parts holds at most this much: what a session may hold open, and its locks.
const RECLAIM_ITEMS_MAX: usize = super::opens::OPEN_INODES_MAX + super::locks::LOCKS_PER_SESSION_MAX;

/// A session that is to be welcomed once its record is committed.
#[derive(Debug)]
pub(super) struct Greeting {
    pub connection: ConnectionId,
    session: SessionId,
    /// It had a stream before.
    resumes: bool,
    task_slots: u32,
    inodes: NumberRange,
    objects: NumberRange,
}

impl<V: ViewStore> Service<V> {
    /// A client says hello.
    pub(super) fn hello(&mut self, connection: ConnectionId, hello: Hello) -> Result<(), ServiceError> {
        if let Some(refusal) = self.refusal(&hello) {
            self.send(connection, ServerMessage::Refused(refusal));
            self.close(connection);
            return Ok(());
        }
        let Hello {
            protocol_version: _,
            volume: _,
            session,
            role,
            near,
            task_slots,
            description,
            seen: _,
        } = hello;
        let resumes = session.is_some();
        let (session, outcome) = if let Some(session) = session {
            // The old stream is dead, though perhaps nobody has told us yet. What came over it and is not executed is sent
            // again over the new one.
            if let Some(old) = self.sessions.get(&session).and_then(|state| state.connection) {
                self.close(old);
            }
            self.begin_stream(session);
            self.withdraw_lock_requests(session);
            if let Some(state) = self.sessions.get_mut(&session) {
                state.hear(self.now.monotonic);
                state.queue.clear();
                state.queue_bytes = 0;
                state.last_received = None;
                state.reclaiming = Reclaim::default();
                state.opened_unclaimed = Some(Vec::new());
                (state.role, state.near) = (role, near);
                state.description = description;
            }
            self.ready.retain(|ready| *ready != session);
            self.frozen.forget(session);
            (session, self.grant_numbers(session)?)
        } else {
            let session = SessionId((self.tail.epoch.0 << 32) | self.next_session);
            self.next_session += 1;
            let opened = self.maintain(&Maintenance::OpenSession {
                session,
                role,
                near,
                description: description.clone(),
            })?;
            self.sessions.insert(
                session,
                Session::new(role, near, description, self.now.monotonic, self.tail.epoch),
            );
            (session, opened)
        };
        let (inodes, objects) = match outcome.result {
            Ok(Reply::Granted { inodes, objects }) => (inodes, objects),
            _ if self.faults.is(Fault::SkipEpochOrSessionCheck) => {
                (NumberRange::default(), NumberRange::default())
            }
            _ => {
                return Err(ServiceError::Unexpected {
                    what: "to grant numbers to a session",
                });
            }
        };
        self.filling.add_mutations(&outcome.mutations);
        self.connections.insert(connection, Connection::Greeting(session));
        self.filling.entries.push(Entry::Welcome(Greeting {
            connection,
            session,
            resumes,
            task_slots,
            inodes,
            objects,
        }));
        Ok(())
    }

    fn refusal(&self, hello: &Hello) -> Option<Refusal> {
        if hello.protocol_version != PROTOCOL_VERSION {
            return Some(Refusal::Version {
                offered: hello.protocol_version,
                served: PROTOCOL_VERSION,
            });
        }
        if let Some(expected) = hello.volume
            && expected != self.format.volume
        {
            return Some(Refusal::OtherVolume {
                served: self.format.volume,
                expected,
            });
        }
        if let Some((epoch, position)) = hello.seen {
            let beyond = position > self.tail.position;
            if epoch > self.tail.epoch || (epoch == self.tail.epoch && beyond) {
                return Some(Refusal::Behind);
            }
            // A restore from an older archive has taken back what the client saw, its session included.
            if beyond && hello.session.is_some() {
                return Some(Refusal::SessionExpired);
            }
        }
        match hello.session {
            Some(session) => {
                let alive = self.sessions.get(&session).is_some_and(|state| !state.closing);
                (!alive).then_some(Refusal::SessionExpired)
            }
            None => (self.sessions.len() >= self.options.sessions_max as usize).then_some(
                Refusal::TooManySessions {
                    limit: self.options.sessions_max,
                },
            ),
        }
    }

    fn grant_numbers(&self, session: SessionId) -> Result<core::Outcome, ServiceError> {
        let view = self.view();
        let open = self.open_inodes(session);
        let near = self
            .sessions
            .get(&session)
            .map_or(twinshore_protocol::Side::Primary, |state| state.near);
        let context = Context {
            now: self.now.wall,
            position: self.filling_position(),
            epoch: self.tail.epoch,
            session,
            near,
            caller: &Caller::ROOT,
            open: &open,
        };
        Ok(core::step(&view, &context, &Operation::GrantNumbers)?)
    }

    /// The record of a session, or of its new numbers, is committed.
    pub(super) fn welcome(&mut self, greeting: &Greeting) {
        let Greeting {
            connection,
            session,
            resumes,
            task_slots,
            inodes,
            objects,
        } = *greeting;
        if self.connections.get(&connection) != Some(&Connection::Greeting(session)) {
            // It went away meanwhile. A new session that nobody knows of expires.
            return;
        }
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        if state.closing {
            self.close(connection);
            return;
        }
        if let Some(other) = state.connection.replace(connection) {
            self.close(other);
        }
        let now = self.now.monotonic;
        if let Some(state) = self.sessions.get_mut(&session) {
            state.connection = Some(connection);
            state.hear(now);
            state.task_slots = task_slots;
        }
        self.connections.insert(connection, Connection::Bound(session));
        let welcome = Welcome {
            session,
            epoch: self.tail.epoch,
            position: self.tail.position,
            format: self.format.clone(),
            inodes,
            objects,
            objects_epoch: self.tail.epoch,
            lease_seconds: LEASE_SECONDS,
        };
        self.send(connection, ServerMessage::Welcome(Box::new(welcome)));
        if resumes {
            self.push_beginning(session);
        }
    }

    /// A session that resumes says what it holds. That is what it holds from then on, together with what its requests have
    /// opened that are under way or were answered after `Welcome`. Locks need no such exception: none is set for it meanwhile
    /// ([`Self::withdraw_lock_requests`]).
    pub(super) fn reclaim(&mut self, id: SessionId, part: Reclaim) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Reclaim {
            opens,
            locks,
            complete,
        } = part;
        let reclaiming = &mut session.reclaiming;
        reclaiming.opens.extend(opens);
        reclaiming.locks.extend(locks);
        if reclaiming.opens.len() + reclaiming.locks.len() > RECLAIM_ITEMS_MAX {
            tracing::warn!(
                session = id.0,
                "a client claims more open files and locks than a session may hold"
            );
            if let Some(connection) = session.connection {
                self.close(connection);
            }
            return;
        }
        if !complete {
            return;
        }
        let Reclaim {
            opens,
            locks,
            complete: _,
        } = std::mem::take(reclaiming);
        let unclaimed: Vec<_> = session
            .in_flight
            .values()
            .filter_map(|request| request.opened)
            .chain(session.opened_unclaimed.take().unwrap_or_default())
            .collect();
        let is_of_older_service = !std::mem::replace(&mut session.reclaimed, true);
        if is_of_older_service && self.format.settings.durability == Durability::Fsync {
            for (inode, _) in &opens {
                self.private.hold(id, *inode);
            }
        }
        self.unblock = true;
        self.opens.release_all(id);
        for (inode, times) in opens
            .into_iter()
            .chain(unclaimed.into_iter().map(|inode| (inode, 1)))
        {
            if !self.opens.open(id, inode, times) {
                tracing::warn!(
                    session = id.0,
                    inode = inode.0,
                    "too many open inodes: a claim is dropped"
                );
            }
        }
        let mut granted = Vec::new();
        let lost = self.locks.reclaim(id, &locks, &mut granted);
        if lost > 0 {
            tracing::warn!(
                session = id.0,
                lost,
                "locks could not be claimed again: others hold them"
            );
        }
        self.answer_granted(granted);
        self.background.poke();
        self.end_grace_if_over();
    }
}
