//! A worker: one session that carries out tasks, packs inline data, compacts, and synchronises.
//!
//! # Failure cases
//!
//! A worker that dies loses nothing: what it was doing stands in the outbox and is handed to others. When its session
//! expires it opens a new one by itself, because a worker that only waits to be told something would wait for ever.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::message::{Invalidation, Reclaim, Role, SessionDescription};
use twinshore_protocol::replication::Task;
use twinshore_protocol::session::{ConnectError, Session, SessionHandler, SessionOptions, Transport};
use twinshore_protocol::{Attributes, Caller, Errno, ObjectId, Operation, Reply, VolumeId};
use twinshore_storage::pair::BucketPair;

use crate::compactor::Compactor;
use crate::packer::Packer;
use crate::replicator::{Counters, Replicator, ReplicatorOptions};
use crate::synchronisation::{Synchroniser, SynchroniserOptions};

/// Between two attempts to open a new session.
const REOPEN_PAUSE: Duration = Duration::from_secs(2);

/// Tasks asked for, for each that runs at a time: while reports are on their way, are committed, and new tasks come, there has to be something
/// to do. That takes a linger, two trips over the line and an append: about 80 ms at worst, in which a copy that takes 5 ms is done 16 times.
const SLOTS_PER_PARALLEL: usize = 16;

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The volume that is expected, if known.
    pub volume: Option<VolumeId>,
    /// For people.
    pub description: SessionDescription,
    /// How long a request may take.
    pub request_deadline: Duration,
    /// Copies and deletions.
    pub replicator: ReplicatorOptions,
    /// The full synchronisation.
    pub synchroniser: SynchroniserOptions,
    /// Pack inline data and compact, when the service gives it to this worker: to one at a time, and to one near the primary if
    /// there is any.
    pub housekeeping: bool,
}

/// A running worker.
pub struct Worker {
    session: Session,
    replicator: Replicator,
    formats: watch::Receiver<Option<Arc<VolumeFormat>>>,
    replication: tokio::task::JoinHandle<()>,
    background: JoinSet<()>,
}

/// The last order to synchronise.
#[derive(Clone, Copy, Debug)]
enum Told {
    Nothing,
    Synchronise { after: Option<ObjectId> },
}

/// The handler of the worker's session.
struct Handler {
    replicator: Replicator,
    formats: watch::Sender<Option<Arc<VolumeFormat>>>,
    /// The last `Synchronise` that was pushed and not taken up yet.
    synchronise: watch::Sender<Told>,
    expired: Arc<Notify>,
    changed: Arc<Notify>,
}

impl SessionHandler for Handler {
    fn replied(&self, _: &Operation, _: &Result<Reply, Errno>, _: &[Attributes]) {}
    fn invalidated(&self, _: u64, _: Vec<Invalidation>) {}
    fn acknowledges(&self) -> bool {
        false
    }
    fn disconnected(&self) {}
    fn tasks(&self, tasks: Vec<Task>) {
        self.replicator.submit(tasks);
    }
    fn synchronise(&self, after: Option<ObjectId>) {
        self.synchronise.send_replace(Told::Synchronise { after });
    }
    fn format_changed(&self, format: &VolumeFormat) {
        self.replicator.format_changed(format);
        self.formats.send_replace(Some(Arc::new(format.clone())));
        self.changed.notify_one();
    }
    fn expired(&self) {
        self.expired.notify_one();
    }
    fn held(&self) -> Reclaim {
        Reclaim {
            complete: true,
            ..Reclaim::default()
        }
    }
}

impl Worker {
    /// Connects and starts to work.
    pub async fn start(
        transport: Arc<dyn Transport>,
        buckets: BucketPair,
        options: WorkerOptions,
    ) -> Result<Self, ConnectError> {
        let WorkerOptions {
            volume,
            description,
            request_deadline,
            replicator,
            synchroniser,
            housekeeping,
        } = options;
        let slots = replicator
            .parallel
            .saturating_mul(SLOTS_PER_PARALLEL)
            .min(crate::replicator::QUEUE_MAX);
        let replicator = Replicator::new(buckets.clone(), replicator);
        let (expired, changed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (synchronise, synchronisations) = watch::channel(Told::Nothing);
        let (formats, format_receiver) = watch::channel(None);
        let handler = Arc::new(Handler {
            replicator: replicator.clone(),
            formats,
            synchronise,
            expired: Arc::clone(&expired),
            changed: Arc::clone(&changed),
        });
        let session_options = SessionOptions {
            volume,
            role: Role::Worker,
            near: buckets.near_side(),
            task_slots: u32::try_from(slots).unwrap_or(u32::MAX),
            description,
            request_deadline,
        };
        let session = Session::connect(
            transport,
            session_options,
            Arc::clone(&handler) as Arc<dyn SessionHandler>,
        )
        .await?;
        let mut background = JoinSet::new();
        background.spawn(reopen(session.clone(), expired));
        background.spawn(synchronise_when_told(
            Synchroniser::new(session.clone(), buckets.clone(), synchroniser),
            synchronisations,
            changed,
        ));
        if housekeeping {
            let packer = Packer::new(session.clone(), buckets.clone());
            background.spawn(async move { packer.run().await });
            let compactor = Compactor::new(session.clone(), buckets, replicator.clone());
            background.spawn(async move { compactor.run().await });
        }
        let replication = tokio::spawn({
            let (replicator, session) = (replicator.clone(), session.clone());
            async move { replicator.run(session).await }
        });
        Ok(Self {
            session,
            replicator,
            formats: format_receiver,
            replication,
            background,
        })
    }

    /// The session.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// What was copied and deleted so far.
    pub fn counters(&self) -> Counters {
        self.replicator.counters()
    }

    /// Tells of every change of the settings, so that the owner can open other buckets (`BucketPair::replace`). `None`
    /// until the first change: what there is at the start is `session().format()`.
    pub fn formats(&self) -> watch::Receiver<Option<Arc<VolumeFormat>>> {
        self.formats.clone()
    }

    /// Ends what is running, reports it, and says goodbye.
    pub async fn stop(mut self) {
        self.background.shutdown().await;
        self.replicator.stop();
        if let Err(error) = self.replication.await {
            tracing::error!(%error, "the replication task failed");
        }
        self.session.close().await;
    }
}

/// Opens a new session whenever one has expired: any request does.
async fn reopen(session: Session, expired: Arc<Notify>) {
    loop {
        expired.notified().await;
        while let Err(error) = session.request(Caller::ROOT, Operation::GetStatus).await {
            tracing::warn!(%error, "no new session yet");
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }
}

/// Runs full synchronisations, one after the other.
async fn synchronise_when_told(
    synchroniser: Synchroniser,
    mut told: watch::Receiver<Told>,
    changed: Arc<Notify>,
) {
    while told.changed().await.is_ok() {
        let order = *told.borrow_and_update();
        if let Told::Synchronise { after } = order {
            synchroniser.run(after, &changed).await;
        }
    }
}
