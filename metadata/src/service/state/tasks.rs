//! Handing out what buckets are owed.
//!
//! The outbox in the state says what is owed; this says who does it. Tasks are leased in memory: doing one twice is harmless,
//! losing one is impossible, as the outbox still has it. A worker that is lost or late loses its leases. A task that fails
//! is tried again later and later; after [`FAILURES_SET_ASIDE`] failures it is reported as set aside, and still owed.
//!
//! The full synchronisation is handed to one worker at a time, and resumed where the last report ended.

use std::collections::BTreeMap;
use std::time::Duration;

use twinshore_protocol::message::{Role, ServerMessage};
use twinshore_protocol::replication::{CopyReport, Task, TaskKind, TaskOutcome};
use twinshore_protocol::{ObjectId, Operation, Position, SessionId, Side};

use super::batch::Held;
use super::{Fault, Service, ServiceError};
use crate::core::{keys, outbox, volume};
use crate::view::ViewStore;

/// How long a worker has for a task: a large object over a slow line, and its report.
const TASK_LEASE: Duration = Duration::from_mins(2);

/// The pause before the second attempt; doubled with each failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// The longest pause.
const RETRY_MAX: Duration = Duration::from_mins(10);

/// After so many failures an object is listed as set aside: about two minutes of trying.
const FAILURES_SET_ASIDE: u32 = 8;

/// Objects whose failures are remembered; beyond it the oldest objects are tried anew.
const FAILURES_MAX: usize = 1 << 16;

/// Rows of the outbox looked at in one go.
const LOOK_ROWS: usize = 256;

/// Tasks of one session at most, whatever it asks for: they all stand in memory here.
const SLOTS_MAX: u32 = 4096;

/// How long a service has run before it asks for the first scheduled full synchronisation of a volume.
const FIRST_SYNCHRONISATION: Duration = Duration::from_hours(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TaskKey {
    side: Side,
    deletion: bool,
    object: ObjectId,
}

#[derive(Clone, Copy, Debug)]
struct Leased {
    session: SessionId,
    until: Duration,
    stored_bytes: u64,
}

#[derive(Debug)]
struct Failure {
    count: u32,
    retry_at: Duration,
    reason: String,
}

/// What is handed out, what failed, what was done.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    leased: BTreeMap<TaskKey, Leased>,
    by_session: BTreeMap<SessionId, u32>,
    failures: BTreeMap<TaskKey, Failure>,
    /// Where the search for copies to each side goes on.
    cursors: [Option<(Position, ObjectId)>; 2],
    /// There may be something to hand out before the next tick.
    pub pending: bool,
    pub copied_objects: [u64; 2],
    pub copied_bytes: [u64; 2],
    /// The worker that carries out the full synchronisation.
    synchroniser: Option<SessionId>,
    /// The settings have changed: all sessions are to be told.
    pub settings_changed: bool,
}

impl Tasks {
    pub fn handed_out(&self) -> usize {
        self.leased.len()
    }

    /// A worker is gone: others take its tasks.
    pub fn lost(&mut self, session: SessionId) {
        if self.by_session.remove(&session).is_some() {
            self.leased.retain(|_, leased| leased.session != session);
            self.cursors = [None; 2];
        }
        if self.synchroniser == Some(session) {
            self.synchroniser = None;
        }
        self.pending = true;
    }

    fn free(&mut self, key: &TaskKey) -> Option<Leased> {
        let leased = self.leased.remove(key)?;
        if let Some(count) = self.by_session.get_mut(&leased.session) {
            *count -= 1;
            if *count == 0 {
                self.by_session.remove(&leased.session);
            }
        }
        Some(leased)
    }

    fn lease(&mut self, key: TaskKey, session: SessionId, stored_bytes: u64, now: Duration) {
        self.leased.insert(
            key,
            Leased {
                session,
                until: now + TASK_LEASE,
                stored_bytes,
            },
        );
        *self.by_session.entry(session).or_default() += 1;
    }

    fn end_leases(&mut self, now: Duration) {
        let late: Vec<_> = self
            .leased
            .iter()
            .filter(|(_, leased)| leased.until <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            self.free(&key);
            self.cursors = [None; 2];
        }
    }

    fn is_free(&self, key: &TaskKey, now: Duration) -> bool {
        !self.leased.contains_key(key)
            && self
                .failures
                .get(key)
                .is_none_or(|failure| failure.retry_at <= now)
    }

    /// A committed report of one task.
    fn reported(&mut self, report: &CopyReport, now: Duration) {
        let key = TaskKey {
            side: report.side,
            deletion: report.deletion,
            object: report.object,
        };
        let leased = self.free(&key);
        let reason = match &report.outcome {
            TaskOutcome::Done => {
                self.failures.remove(&key);
                if !report.deletion {
                    self.copied_objects[report.side as usize] += 1;
                    self.copied_bytes[report.side as usize] += leased.map_or(0, |leased| leased.stored_bytes);
                }
                return;
            }
            TaskOutcome::SourceMissing => "the other bucket does not have it",
            TaskOutcome::SourceDamaged => "in the other bucket it does not match its checksum",
            TaskOutcome::Failed { reason } => reason,
        };
        if self.failures.len() >= FAILURES_MAX {
            self.failures.pop_first();
        }
        let failure = self.failures.entry(key).or_insert_with(|| Failure {
            count: 0,
            retry_at: now,
            reason: String::new(),
        });
        failure.retry_at = now
            + RETRY_FIRST
                .saturating_mul(1 << failure.count.min(16))
                .min(RETRY_MAX);
        failure.count = failure.count.saturating_add(1);
        failure.reason.clear();
        failure.reason.push_str(reason);
    }

    /// Copies to a side that have failed so often that a person should know, with the last reason.
    pub fn set_aside(&self, side: Side) -> impl Iterator<Item = (ObjectId, String)> {
        self.failures
            .iter()
            .filter(move |(key, failure)| {
                key.side == side && !key.deletion && failure.count >= FAILURES_SET_ASIDE
            })
            .map(|(key, failure)| (key.object, failure.reason.clone()))
    }
}

/// A session that takes tasks.
struct Taker {
    session: SessionId,
    free: u32,
    near: Side,
    worker: bool,
}

impl<V: ViewStore> Service<V> {
    /// Effects of a committed request on what is only in memory.
    pub(super) fn take_effect(&mut self, held: &Held) {
        if held.result.is_err() {
            return;
        }
        match &held.operation {
            Operation::ReportCopies { reports } => {
                for report in reports {
                    self.tasks.reported(report, self.now.monotonic);
                }
                self.tasks.pending = true;
            }
            Operation::ReportSynchronisation { report } => {
                if report.finished {
                    self.tasks.synchroniser = None;
                }
                self.tasks.pending = true;
            }
            Operation::RequestSynchronisation => self.tasks.pending = true,
            Operation::Repoint { exchanges, .. } => self.compaction.rewritten(exchanges),
            Operation::SetSettings { .. } => self.tasks.settings_changed = true,
            _ => {}
        }
    }

    /// Tells all sessions of new settings, once they are committed.
    pub(super) fn after_settings(&mut self) -> Result<(), ServiceError> {
        if !std::mem::take(&mut self.tasks.settings_changed) {
            return Ok(());
        }
        self.format = volume::format(&self.store)?.ok_or(ServiceError::NoVolume)?;
        let connections: Vec<_> = self
            .sessions
            .values()
            .filter_map(|session| session.connection)
            .collect();
        for connection in connections {
            self.send(
                connection,
                ServerMessage::FormatChanged(Box::new(self.format.clone())),
            );
        }
        Ok(())
    }

    /// After a report there are free slots: fill them without waiting for a tick.
    pub(super) fn after_reports(&mut self) -> Result<(), ServiceError> {
        if self.tasks.pending {
            self.dispatch_tasks()
        } else {
            Ok(())
        }
    }

    /// Hands out tasks to free slots.
    pub(super) fn dispatch_tasks(&mut self) -> Result<(), ServiceError> {
        self.tasks.pending = false;
        let now = self.now.monotonic;
        self.tasks.end_leases(now);
        let mut takers: Vec<Taker> = self.takers();
        if takers.is_empty() {
            return self.dispatch_synchronisation();
        }
        let mut handed_out: BTreeMap<SessionId, Vec<Task>> = BTreeMap::new();
        for side in Side::BOTH {
            self.find_copies(side, now, &mut takers, &mut handed_out)?;
            self.find_deletions(side, now, &mut takers, &mut handed_out)?;
        }
        if let Some(task) = self.deliberate_deletion()?
            && let Some(taker) = best(&mut takers, task.side)
        {
            handed_out.entry(taker.session).or_default().push(task);
        }
        for (session, tasks) in handed_out {
            if let Some(connection) = self.sessions.get(&session).and_then(|session| session.connection) {
                self.send(connection, ServerMessage::Tasks(tasks));
            }
        }
        self.dispatch_synchronisation()
    }

    fn takers(&self) -> Vec<Taker> {
        let connected = self
            .sessions
            .iter()
            .filter(|(_, session)| session.connection.is_some() && !session.closing);
        let takers = connected.map(|(id, session)| Taker {
            session: *id,
            free: session
                .task_slots
                .min(SLOTS_MAX)
                .saturating_sub(self.tasks.by_session.get(id).copied().unwrap_or_default()),
            near: session.near,
            worker: session.role == Role::Worker,
        });
        takers.filter(|taker| taker.free > 0).collect()
    }

    fn find_copies(
        &mut self,
        side: Side,
        now: Duration,
        takers: &mut [Taker],
        handed_out: &mut BTreeMap<SessionId, Vec<Task>>,
    ) -> Result<(), ServiceError> {
        let mut wrapped = self.tasks.cursors[side as usize].is_none();
        loop {
            if takers.iter().all(|taker| taker.free == 0) {
                return Ok(());
            }
            let after = self.tasks.cursors[side as usize];
            let owed = outbox::pending(&self.store, side, after, LOOK_ROWS)?;
            for copy in &owed {
                let key = TaskKey {
                    side,
                    deletion: false,
                    object: copy.object,
                };
                if self.tasks.is_free(&key, now) {
                    let Some(taker) = best(takers, side) else {
                        return Ok(());
                    };
                    let (stored_bytes, checksum) = (copy.stored_bytes, copy.checksum);
                    self.tasks.lease(key, taker.session, stored_bytes, now);
                    let task = Task {
                        object: copy.object,
                        side,
                        kind: TaskKind::Copy {
                            stored_bytes,
                            checksum,
                        },
                    };
                    handed_out.entry(taker.session).or_default().push(task);
                }
                self.tasks.cursors[side as usize] = Some((copy.position, copy.object));
            }
            if owed.len() < LOOK_ROWS {
                self.tasks.cursors[side as usize] = None;
                if wrapped {
                    return Ok(());
                }
                wrapped = true;
            } else if wrapped {
                // Everything in this page is handed out or has to wait: go on at the next tick.
                return Ok(());
            }
        }
    }

    fn find_deletions(
        &mut self,
        side: Side,
        now: Duration,
        takers: &mut [Taker],
        handed_out: &mut BTreeMap<SessionId, Vec<Task>>,
    ) -> Result<(), ServiceError> {
        if takers.iter().all(|taker| taker.free == 0) {
            return Ok(());
        }
        // What is handed out or has to wait stands at the front of the list.
        let passed = self.tasks.leased.keys().chain(self.tasks.failures.keys());
        let passed = passed.filter(|key| key.deletion && key.side == side).count();
        for object in outbox::pending_deletions(&self.store, side, passed + LOOK_ROWS)? {
            let key = TaskKey {
                side,
                deletion: true,
                object,
            };
            if self.tasks.is_free(&key, now) {
                let Some(taker) = best(takers, side) else {
                    return Ok(());
                };
                self.tasks.lease(key, taker.session, 0, now);
                handed_out.entry(taker.session).or_default().push(Task {
                    object,
                    side,
                    kind: TaskKind::Delete,
                });
            }
        }
        Ok(())
    }

    /// Hands the full synchronisation to a worker, if one was asked for or is due.
    fn dispatch_synchronisation(&mut self) -> Result<(), ServiceError> {
        if self.tasks.synchroniser.is_some() {
            return Ok(());
        }
        let row = volume::synchronisation(&self.store)?;
        let settings = &self.format.settings;
        let interval = i64::try_from(settings.synchronisation_interval_seconds).unwrap_or(i64::MAX);
        let due = interval > 0
            && settings.target.is_some()
            && settings.replication_enabled
            && match row.finished {
                Some(finished) => finished.plus_seconds(interval) <= self.now.wall,
                // The first one of a volume: not while it is being set up.
                None => self.now.monotonic >= FIRST_SYNCHRONISATION,
            };
        if !row.running && !due {
            return Ok(());
        }
        let worker = self.sessions.iter().find(|(_, session)| {
            session.role == Role::Worker && session.connection.is_some() && session.task_slots > 0
        });
        let Some((id, connection)) = worker.and_then(|(id, session)| Some((*id, session.connection?))) else {
            return Ok(());
        };
        self.tasks.synchroniser = Some(id);
        let after = if row.running { row.checked_until } else { None };
        self.send(connection, ServerMessage::Synchronise { after });
        Ok(())
    }

    /// With the deliberate fault: a task to delete an object that files name.
    fn deliberate_deletion(&mut self) -> Result<Option<Task>, ServiceError> {
        if !self.faults.is(Fault::DeleteReferencedObject) {
            return Ok(None);
        }
        let rows = crate::view::View::scan(&self.store, &[keys::OBJECT], &[keys::OBJECT + 1], 1)?;
        let Some((key, _)) = rows.first() else {
            return Ok(None);
        };
        let object = keys::KeyReader::new(key).object();
        Ok(object.map(|object| Task {
            object,
            side: Side::Primary,
            kind: TaskKind::Delete,
        }))
    }
}

/// Takes a slot for a task that changes a side: workers before mounts, those near to that side before those that are near
/// to its source (a worker then reads over the wide line, where parallel reads are cheap), then who has the most free slots.
fn best(takers: &mut [Taker], side: Side) -> Option<&Taker> {
    let taker = takers
        .iter_mut()
        .filter(|taker| taker.free > 0)
        .max_by_key(|taker| {
            (
                taker.worker,
                taker.near == side,
                taker.free,
                std::cmp::Reverse(taker.session),
            )
        })?;
    taker.free -= 1;
    Some(taker)
}
