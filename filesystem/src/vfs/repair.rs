//! Copies that a read found missing or damaged in the near bucket are made at once, a few at a time, and reported.
//!
//! Bounded and without memory: what is dropped here is still owed in the metadata, or found by the full synchronisation.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use twinshore_protocol::replication::{CopyReport, TaskOutcome};
use twinshore_protocol::{Caller, ObjectId, Operation, Side};

use super::core::Core;
use super::inode::lock;

/// Repairs that wait at most.
const WAITING_MAX: usize = 1024;

/// Repairs under way at most: reads go first.
const RUNNING_MAX: usize = 4;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<ObjectId>,
    /// Waiting or under way.
    known: BTreeSet<ObjectId>,
    running: usize,
}

/// The queue.
#[derive(Default)]
pub struct Repairs {
    queue: Mutex<Queue>,
}

impl Core {
    /// The near bucket needs this object.
    pub fn repair_near(self: &Arc<Self>, object: ObjectId) {
        {
            let mut queue = lock(&self.repairs.queue);
            if queue.waiting.len() >= WAITING_MAX || !queue.known.insert(object) {
                return;
            }
            queue.waiting.push_back(object);
            if queue.running >= RUNNING_MAX {
                return;
            }
            queue.running += 1;
        }
        let core = Arc::clone(self);
        self.runtime.spawn(async move { core.run_repairs().await });
    }

    async fn run_repairs(self: Arc<Self>) {
        loop {
            let object = {
                let mut queue = lock(&self.repairs.queue);
                match queue.waiting.pop_front() {
                    Some(object) if !self.is_abandoned() => object,
                    _ => {
                        queue.running -= 1;
                        return;
                    }
                }
            };
            self.repair(object, self.buckets.near_side()).await;
            lock(&self.repairs.queue).known.remove(&object);
        }
    }

    async fn repair(&self, object: ObjectId, side: Side) {
        if let Err(error) = self.buckets.repair(object, side).await {
            tracing::warn!(%object, %side, %error, "a missing copy could not be made; replication will");
            return;
        }
        let report = CopyReport {
            object,
            side,
            deletion: false,
            outcome: TaskOutcome::Done,
        };
        if let Err(errno) = self
            .ask(
                Caller::ROOT,
                Operation::ReportCopies {
                    reports: vec![report],
                },
            )
            .await
        {
            tracing::warn!(%object, %side, %errno, "a copy was made but could not be reported; it will be made again");
        }
    }
}
