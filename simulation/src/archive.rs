//! The archive of the metadata in the simulation: the real archiver, fed from the simulated disk. It lives as long as the
//! service does, and dies with it in the middle of whatever it was doing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use twinshore_metadata::archive::{
    ArchiveError, ArchiveHandle, ArchiveStatus, Archiver, ArchiverOptions, FrozenState, RecordSource,
    SourceError,
};
use twinshore_metadata::journal::memory::MemoryDisk;
use twinshore_metadata::journal::{JournalError, Tail};
use twinshore_metadata::view::ViewStore as _;
use twinshore_protocol::{Position, Side, VolumeId};

use crate::buckets::Buckets;
use crate::host::replay;

/// Runs are short: there shall be several checkpoints in each.
fn options() -> ArchiverOptions {
    ArchiverOptions {
        checkpoint_interval: Duration::from_secs(15),
        ..ArchiverOptions::default()
    }
}

/// A running archiver. It ends when this is dropped.
pub struct Archive {
    handle: ArchiveHandle,
    task: JoinHandle<()>,
}

impl Archive {
    /// Starts one for a leader that began at this tail. `failed` is told when it gives up for good: always a bug.
    pub fn start(
        volume: VolumeId,
        began: &Tail,
        instance: u64,
        disk: MemoryDisk,
        buckets: &Buckets,
        failed: impl FnOnce(ArchiveError) + Send + 'static,
    ) -> Self {
        let stores = Side::BOTH.map(|side| Some(buckets.store(side)));
        let source = Arc::new(Source { disk });
        let (archiver, handle) = Archiver::new(volume, began, instance, source, stores, options());
        let task = tokio::spawn(async move {
            if let Err(error) = archiver.run().await {
                failed(error);
            }
        });
        Self { handle, task }
    }

    /// How far it is.
    pub fn status(&self) -> watch::Receiver<ArchiveStatus> {
        self.handle.status()
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Source {
    disk: MemoryDisk,
}

#[async_trait]
impl RecordSource for Source {
    async fn tail(&self) -> Result<Tail, SourceError> {
        Ok(self.disk.durable_tail())
    }

    async fn read(&self, from: Position, max_bytes: usize) -> Result<Vec<Bytes>, SourceError> {
        self.disk.read(from, max_bytes).map_err(|error| match error {
            JournalError::Trimmed { first } => SourceError::Trimmed { first },
            other => SourceError::Stopped(other.to_string()),
        })
    }

    async fn snapshot(&self) -> Result<FrozenState, SourceError> {
        let view = replay(&self.disk).map_err(SourceError::Stopped)?;
        Ok(FrozenState {
            position: view.applied(),
            digest: self.disk.durable_tail().digest,
            view: view
                .snapshot()
                .map_err(|error| SourceError::Stopped(error.to_string()))?,
        })
    }
}
