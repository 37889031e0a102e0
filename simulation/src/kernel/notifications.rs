//! How the mount's notifications reach the kernel: in lanes, as the notifier of production sends them, each taking its time.
//!
//! Items of one inode keep their order. A batch is done when all its items have been carried out. Names are dropped under the
//! lock of their directory; while the mount itself changes names, all are looked up again instead, by the real rule of
//! [`PendingNames`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use twinshore_filesystem::fuse::{Mark, PendingNames};
use twinshore_filesystem::vfs::KernelInvalidator;
use twinshore_protocol::message::Invalidation;
use twinshore_protocol::{FileName, InodeNumber};

use super::Caches;

/// For inodes as many as the notifier has, and as many again for names.
const LANES: u64 = 4;

/// One notification in so many is slow.
const SLOW_ONE_IN: u64 = 12;

/// How slow, at most: a machine under load.
const SLOW_MAX_MS: u64 = 120;

/// Runs `done` when its last item is carried out.
pub(super) struct Batch(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done();
        }
    }
}

/// `FnOnce` is `Send` but not `Sync`.
pub(super) type SharedBatch = Arc<std::sync::Mutex<Batch>>;

/// What is to be sent.
pub(super) enum Work {
    Item(Invalidation, SharedBatch),
    Name(InodeNumber, FileName, Mark),
    AllNames(SharedBatch),
    /// What came before is carried out.
    Mark(SharedBatch),
}

/// Batches that wait for names to be dropped.
pub(super) type Names = std::sync::Mutex<PendingNames<SharedBatch>>;

type Receivers = Vec<mpsc::UnboundedReceiver<Work>>;

pub(super) fn lanes() -> (Vec<mpsc::UnboundedSender<Work>>, Receivers) {
    (0..=2 * LANES).map(|_| mpsc::unbounded_channel()).unzip()
}

/// Starts the lanes. They end with the runtime.
pub(super) fn start(caches: &Arc<Caches>, receivers: Receivers) {
    for mut lane in receivers {
        let caches = Arc::downgrade(caches);
        tokio::spawn(async move {
            while let Some(work) = lane.recv().await {
                let Some(caches) = caches.upgrade() else { return };
                caches.carry_out(work).await;
            }
        });
    }
}

fn inode_of(item: &Invalidation) -> InodeNumber {
    match item {
        Invalidation::Attributes(inode)
        | Invalidation::Content(inode)
        | Invalidation::Entry(inode, _)
        | Invalidation::Everything(inode) => *inode,
    }
}

impl Caches {
    async fn carry_out(&self, work: Work) {
        let milliseconds = self.random(|random| {
            if matches!(work, Work::Mark(_)) {
                0
            } else if random.one_in(SLOW_ONE_IN) {
                random.between(1, SLOW_MAX_MS)
            } else {
                random.between(0, 3)
            }
        });
        if milliseconds > 0 {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        match work {
            Work::Item(item, batch) => {
                self.drop_item(&item).await;
                self.trace.event(&self.name, &format!("dropped {item:?}"));
                drop(batch);
            }
            Work::Name(directory, name, mark) => {
                let lock = self.directory(directory);
                let _held = lock.write().await;
                let mut state = self.state();
                state.names.remove(&(directory, name.clone()));
                state.outdate(directory);
                drop(state);
                self.trace
                    .event(&self.name, &format!("dropped {name} of {directory}"));
                let batch = self.pending_names().sent(mark);
                drop(batch);
            }
            Work::AllNames(batch) => {
                self.state().epoch += 1;
                self.trace.event(&self.name, "dropped all names");
                drop(batch);
            }
            Work::Mark(batch) => drop(batch),
        }
    }

    async fn drop_item(&self, item: &Invalidation) {
        match item {
            Invalidation::Attributes(inode) => self.state().outdate(*inode),
            Invalidation::Content(inode) => {
                self.state().outdate(*inode);
                self.drop_pages(*inode).await;
            }
            Invalidation::Entry(..) => {}
            Invalidation::Everything(inode) => {
                self.state().outdate(*inode);
                self.drop_pages(*inode).await;
                self.state().epoch += 1;
            }
        }
    }

    fn pending_names(&self) -> std::sync::MutexGuard<'_, PendingNames<SharedBatch>> {
        self.pending_names
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn send(&self, lane: u64, work: Work) {
        if let Some(lane) = self.lanes.get(usize::try_from(lane).unwrap_or(0)) {
            // The lanes live as long as the runtime.
            let _ = lane.send(work);
        }
    }

    fn send_item(&self, item: Invalidation, batch: SharedBatch) {
        match item {
            Invalidation::Entry(directory, name) => match self.pending_names().add(batch) {
                Ok(mark) => self.send(LANES + directory.0 % LANES, Work::Name(directory, name, mark)),
                Err(batch) => self.send(2 * LANES, Work::AllNames(batch)),
            },
            item => self.send(inode_of(&item).0 % LANES, Work::Item(item, batch)),
        }
    }
}

fn batch(done: Option<Box<dyn FnOnce() + Send>>) -> SharedBatch {
    Arc::new(std::sync::Mutex::new(Batch(done)))
}

impl KernelInvalidator for Caches {
    fn invalidate(&self, items: Vec<Invalidation>, done: Box<dyn FnOnce() + Send>) {
        self.freshness.note(&items);
        self.trace.event(&self.name, &format!("is told {items:?}"));
        let batch = batch(Some(done));
        for item in items {
            self.send_item(item, Arc::clone(&batch));
        }
    }

    fn drop_everything(&self) {
        self.freshness.note_everything();
        self.trace.event(&self.name, "is told to drop everything");
        self.send(2 * LANES, Work::AllNames(batch(None)));
        self.send_item(Invalidation::Attributes(InodeNumber::ROOT), batch(None));
        let open: Vec<InodeNumber> = self.state().open.keys().copied().collect();
        for inode in open {
            self.send_item(Invalidation::Content(inode), batch(None));
        }
    }

    fn when_dropped(&self, done: Box<dyn FnOnce() + Send>) {
        let batch = batch(Some(done));
        for lane in (0..LANES).chain([2 * LANES]) {
            self.send(lane, Work::Mark(Arc::clone(&batch)));
        }
    }

    fn changing_names(&self) {
        for batch in self.pending_names().began() {
            self.send(2 * LANES, Work::AllNames(batch));
        }
    }

    fn changed_names(&self) {
        self.pending_names().ended();
    }
}
