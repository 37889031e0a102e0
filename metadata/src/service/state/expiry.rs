//! The end of a session: `Goodbye`, or silence.
//!
//! The end is journalled; from the moment it is executed nothing of the session is executed any more. When it is committed,
//! its open files and locks are given back, its tasks handed on, and, if it is still connected, it is told.

use std::time::Duration;

use twinshore_protocol::SessionId;
use twinshore_protocol::message::{SESSION_SECONDS, ServerMessage};

use super::batch::Entry;
use super::{Fault, Service, ServiceError};
use crate::core::Maintenance;
use crate::view::ViewStore;

impl<V: ViewStore> Service<V> {
    /// A sign of life, answered in the order of the stream: invalidations pushed before it arrive before its answer.
    pub(super) fn heartbeat(&mut self, id: SessionId, number: u64) {
        let now = self.now.monotonic;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.closing {
            return;
        }
        session.hear(now);
        if let Some(connection) = session.connection {
            self.send(connection, ServerMessage::HeartbeatReply { number });
        }
    }

    /// The client is done.
    pub(super) fn goodbye(&mut self, id: SessionId) -> Result<(), ServiceError> {
        // It has dropped its caches.
        self.drop_leases(id);
        self.end_session(id)
    }

    /// Ends the sessions that were silent for too long.
    pub(super) fn expire_sessions(&mut self) -> Result<(), ServiceError> {
        let now = self.now.monotonic;
        let limit = Duration::from_secs(SESSION_SECONDS);
        let silent = self
            .sessions
            .iter()
            .filter(|(_, state)| !state.closing && now.saturating_sub(state.heard) >= limit);
        let silent: Vec<_> = silent.map(|(id, _)| *id).collect();
        for session in silent {
            tracing::warn!(
                session = session.0,
                "a session has been silent for too long: it is over"
            );
            self.end_session(session)?;
        }
        Ok(())
    }

    fn end_session(&mut self, id: SessionId) -> Result<(), ServiceError> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        if session.closing {
            return Ok(());
        }
        session.closing = true;
        session.queue.clear();
        session.queue_bytes = 0;
        self.ready.retain(|ready| *ready != id);
        self.frozen.forget(id);
        let closed = self.maintain(&Maintenance::CloseSession { session: id })?;
        self.filling.add_mutations(&closed.mutations);
        if !closed.changes.is_empty() {
            self.filling.entries.push(Entry::Changes(closed.changes));
        }
        self.filling.entries.push(Entry::Closed(id));
        Ok(())
    }

    /// The end of a session is committed.
    pub(super) fn forget(&mut self, id: SessionId) {
        self.drop_leases(id);
        self.abandon_waits(id);
        self.opens.release_all(id);
        self.private.release_all(id);
        self.blocked.retain(|request| !request.is_of(id));
        self.unblock = true;
        let mut granted = Vec::new();
        self.locks.release_session(id, &mut granted);
        self.answer_granted(granted);
        self.parked.retain(|parked| !parked.is_of(id));
        self.tasks.lost(id);
        self.housekeeper.lost(id);
        self.background.poke();
        if self.faults.is(Fault::SkipEpochOrSessionCheck) {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.closing = false;
                session.reclaimed = true;
                session.heard = self.now.monotonic;
            }
            self.end_grace_if_over();
            return;
        }
        if let Some(session) = self.sessions.remove(&id)
            && let Some(connection) = session.connection
        {
            self.send(connection, ServerMessage::Expired);
            self.close(connection);
        }
        self.end_grace_if_over();
    }
}
