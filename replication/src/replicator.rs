//! Carries out tasks: copies and deletions, in parallel, with bounded memory and bandwidth, and reports them.
//!
//! # Flow
//!
//! [`Replicator::submit`] takes tasks from the session's handler; [`Replicator::run`] starts as many as its options allow
//! and reports what became of each. A task that is submitted while the same one is waiting or running is dropped: the
//! service hands tasks out again when it has lost sight of them.
//!
//! # Limits
//!
//! Tasks in parallel, bytes of bodies in memory, tasks waiting ([`QUEUE_MAX`]; more are dropped, and handed out again when
//! their lease is over), bytes per second to each side.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::replication::{CopyReport, Task, TaskKind, TaskOutcome};
use twinshore_protocol::session::Session;
use twinshore_protocol::{ObjectId, Side};
use twinshore_storage::pair::BucketPair;

use crate::bandwidth::Gate;
use crate::copy::{self, Expected};
use crate::reports;

/// Tasks that wait. As many as the service hands to one session.
pub const QUEUE_MAX: usize = 4096;

/// Deletions in one call: what S3 takes in one `DeleteObjects`.
const DELETIONS_MAX: usize = 1000;

/// The unit of the memory limit, so that its semaphore counts far enough.
const MEMORY_UNIT_BYTES: u64 = 4096;

/// How much a replicator does at a time.
#[derive(Clone, Debug)]
pub struct ReplicatorOptions {
    /// Tasks in parallel.
    pub parallel: usize,
    /// Bytes of bodies in memory. An object that is larger is copied alone.
    pub memory_bytes: u64,
    /// How long the tasks that are running may go on when it stops.
    pub stop_patience: Duration,
}

impl Default for ReplicatorOptions {
    fn default() -> Self {
        // Small objects wait for stores and lines, so many go at a time (64 in 60 ms are 1,000 a second and worker); large ones are
        // held back by the memory, which is what a small pod has.
        Self {
            parallel: 64,
            memory_bytes: 256 << 20,
            stop_patience: Duration::from_secs(10),
        }
    }
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Objects copied, indexed by the side that they were copied to.
    pub copied_objects: [u64; 2],
    /// Their bytes.
    pub copied_bytes: [u64; 2],
    /// Objects deleted.
    pub deleted_objects: [u64; 2],
    /// Tasks that did not work.
    pub failed: [u64; 2],
}

#[derive(Debug, Default)]
struct AtomicCounters {
    copied_objects: [AtomicU64; 2],
    copied_bytes: [AtomicU64; 2],
    deleted_objects: [AtomicU64; 2],
    failed: [AtomicU64; 2],
}

/// Identifies a task: the same twice at once would only cost.
type TaskKey = (Side, bool, ObjectId);

#[derive(Default)]
struct Queue {
    copies: VecDeque<Task>,
    deletions: [VecDeque<ObjectId>; 2],
    /// Waiting or running.
    known: BTreeSet<TaskKey>,
    stopped: bool,
}

/// What is to be started next.
enum Job {
    Copy { side: Side, expected: Expected },
    Delete { side: Side, objects: Vec<ObjectId> },
}

/// See the module. Clones are the same replicator.
#[derive(Clone)]
pub struct Replicator {
    inner: Arc<Inner>,
}

struct Inner {
    buckets: BucketPair,
    options: ReplicatorOptions,
    queue: Mutex<Queue>,
    work: Notify,
    memory: Semaphore,
    memory_units: u32,
    gates: [Gate; 2],
    counters: AtomicCounters,
}

impl Replicator {
    /// A replicator that waits for tasks and for [`Self::run`].
    pub fn new(buckets: BucketPair, options: ReplicatorOptions) -> Self {
        let memory_units = u32::try_from(options.memory_bytes / MEMORY_UNIT_BYTES)
            .unwrap_or(u32::MAX)
            .max(1);
        let inner = Inner {
            buckets,
            memory: Semaphore::new(
                usize::try_from(memory_units)
                    .unwrap_or(usize::MAX)
                    .min(Semaphore::MAX_PERMITS),
            ),
            memory_units,
            options,
            queue: Mutex::default(),
            work: Notify::new(),
            gates: [Gate::new(0), Gate::new(0)],
            counters: AtomicCounters::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Takes tasks: to be called from `SessionHandler::tasks`.
    pub fn submit(&self, tasks: Vec<Task>) {
        let mut queue = self.inner.lock();
        for task in tasks {
            let key = (task.side, task.kind == TaskKind::Delete, task.object);
            if queue.stopped || queue.known.len() >= QUEUE_MAX || !queue.known.insert(key) {
                continue;
            }
            match task.kind {
                TaskKind::Copy { .. } => queue.copies.push_back(task),
                TaskKind::Delete => queue.deletions[task.side as usize].push_back(task.object),
            }
        }
        drop(queue);
        self.inner.work.notify_one();
    }

    /// Takes the bandwidth limits: to be called with the format at the start and from `SessionHandler::format_changed`.
    pub fn format_changed(&self, format: &VolumeFormat) {
        for side in Side::BOTH {
            self.inner.gates[side as usize]
                .set_limit(format.settings.bandwidth_limit_bytes_per_second[side as usize]);
        }
    }

    /// Waits until so many bytes may be copied to a side.
    pub(crate) async fn pass(&self, side: Side, bytes: u64) {
        self.inner.gates[side as usize].pass(bytes).await;
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let read =
            |counters: &[AtomicU64; 2]| [0, 1].map(|side: usize| counters[side].load(Ordering::Relaxed));
        let AtomicCounters {
            copied_objects,
            copied_bytes,
            deleted_objects,
            failed,
        } = &self.inner.counters;
        Counters {
            copied_objects: read(copied_objects),
            copied_bytes: read(copied_bytes),
            deleted_objects: read(deleted_objects),
            failed: read(failed),
        }
    }

    /// Begins no more tasks; [`Self::run`] ends when those that are running have.
    pub fn stop(&self) {
        let mut queue = self.inner.lock();
        queue.stopped = true;
        // What waits is not begun: the service hands it to others.
        let waiting: Vec<_> = std::mem::take(&mut queue.copies).into();
        for task in waiting {
            queue.known.remove(&(task.side, false, task.object));
        }
        for side in Side::BOTH {
            for object in std::mem::take(&mut queue.deletions[side as usize]) {
                queue.known.remove(&(side, true, object));
            }
        }
        drop(queue);
        self.inner.work.notify_one();
    }

    /// Carries out tasks and reports them over the session until [`Self::stop`] is called; what is running then has
    /// `stop_patience` to end.
    pub async fn run(&self, session: Session) {
        self.format_changed(&session.format());
        let inner = Arc::clone(&self.inner);
        let (reports, receiver) = mpsc::channel(QUEUE_MAX);
        let sender = {
            let inner = Arc::clone(&inner);
            tokio::spawn(reports::send(session, receiver, move || {
                inner.lock().known.is_empty()
            }))
        };
        let mut running = JoinSet::new();
        loop {
            while running.len() < inner.options.parallel {
                let Some(job) = inner.next_job() else { break };
                running.spawn(Arc::clone(&inner).carry_out(job, reports.clone()));
            }
            if inner.lock().stopped {
                break;
            }
            tokio::select! {
                biased;
                Some(_) = running.join_next() => {}
                () = inner.work.notified() => {}
            }
        }
        let rest = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(inner.options.stop_patience, rest)
            .await
            .is_err()
        {
            tracing::warn!("tasks that did not end in time are given up: the service hands them to others");
            running.shutdown().await;
        }
        drop(reports);
        // It ends when all reports are answered or the session is over.
        let _ = sender.await;
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletions first: they are cheap, come in batches, and make room.
    fn next_job(&self) -> Option<Job> {
        let mut queue = self.lock();
        for side in Side::BOTH {
            let waiting = &mut queue.deletions[side as usize];
            if !waiting.is_empty() {
                let objects = waiting.drain(..waiting.len().min(DELETIONS_MAX)).collect();
                return Some(Job::Delete { side, objects });
            }
        }
        while let Some(Task { object, side, kind }) = queue.copies.pop_front() {
            if let TaskKind::Copy {
                stored_bytes,
                checksum,
            } = kind
            {
                return Some(Job::Copy {
                    side,
                    expected: Expected {
                        object,
                        stored_bytes,
                        checksum,
                    },
                });
            }
        }
        None
    }

    async fn carry_out(self: Arc<Self>, job: Job, reports: mpsc::Sender<CopyReport>) {
        let (side, objects, deletion, outcome) = match job {
            Job::Copy { side, expected } => (
                side,
                vec![expected.object],
                false,
                self.copy(side, expected).await,
            ),
            Job::Delete { side, objects } => {
                let outcome = match copy::bucket(&self.buckets, side) {
                    Ok(bucket) => copy::delete(&*bucket, side, &objects).await,
                    Err(outcome) => outcome,
                };
                (side, objects, true, outcome)
            }
        };
        self.count(side, deletion, objects.len() as u64, &outcome);
        {
            let mut queue = self.lock();
            for object in &objects {
                queue.known.remove(&(side, deletion, *object));
            }
        }
        for object in objects {
            let report = CopyReport {
                object,
                side,
                deletion,
                outcome: outcome.clone(),
            };
            // The receiver is gone only when the session is over; the service then hands the task to others.
            if reports.send(report).await.is_err() {
                return;
            }
        }
    }

    async fn copy(&self, side: Side, expected: Expected) -> TaskOutcome {
        let (source, destination) = match (
            copy::bucket(&self.buckets, side.other()),
            copy::bucket(&self.buckets, side),
        ) {
            (Ok(source), Ok(destination)) => (source, destination),
            (Err(outcome), _) | (_, Err(outcome)) => return outcome,
        };
        let units = u32::try_from(expected.stored_bytes.div_ceil(MEMORY_UNIT_BYTES)).unwrap_or(u32::MAX);
        let Ok(_memory) = self.memory.acquire_many(units.clamp(1, self.memory_units)).await else {
            return TaskOutcome::Failed {
                reason: "the worker is stopping".to_owned(),
            };
        };
        self.gates[side as usize].pass(expected.stored_bytes).await;
        let outcome = copy::copy(&*source, &*destination, side, expected).await;
        if outcome == TaskOutcome::Done {
            self.counters.copied_bytes[side as usize].fetch_add(expected.stored_bytes, Ordering::Relaxed);
        }
        outcome
    }

    fn count(&self, side: Side, deletion: bool, objects: u64, outcome: &TaskOutcome) {
        let counter = match (outcome, deletion) {
            (TaskOutcome::Done, false) => &self.counters.copied_objects,
            (TaskOutcome::Done, true) => &self.counters.deleted_objects,
            (TaskOutcome::SourceMissing | TaskOutcome::SourceDamaged | TaskOutcome::Failed { .. }, _) => {
                tracing::warn!(%side, deletion, ?outcome, "a task did not work");
                &self.counters.failed
            }
        };
        counter[side as usize].fetch_add(objects, Ordering::Relaxed);
    }
}
