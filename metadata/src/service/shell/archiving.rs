//! What the archiver needs of the service: records, frozen states; and what follows from its progress: status, trimming.
//!
//! An error of the archiver is final: another leader is at work, or this data directory is not the volume's newest.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use twinshore_protocol::{Position, VolumeId};
use twinshore_storage::bucket::Bucket;

use super::engine::Engine;
use crate::archive::{
    ArchiveError, ArchiveHandle, Archiver, ArchiverOptions, FrozenState, RecordSource, SourceError,
};
use crate::journal::{JournalError, JournalReader, Tail};

/// The parts that the archiver is built from.
pub(super) struct Parts {
    pub volume: VolumeId,
    /// The tail as it was when the journal was taken over.
    pub began: Tail,
    pub buckets: [Option<Arc<dyn Bucket>>; 2],
    pub reader: JournalReader,
    pub engine: Arc<Engine>,
    pub stopped: watch::Receiver<bool>,
}

/// Starts the archiver. It runs without buckets too: one may come later.
pub(super) fn start(parts: Parts) -> (ArchiveHandle, JoinHandle<()>) {
    let Parts {
        volume,
        began,
        buckets,
        reader,
        engine,
        stopped,
    } = parts;
    let source = Arc::new(Source {
        reader,
        engine: Arc::clone(&engine),
    });
    // Random, so that two processes with a copied data directory can be told apart.
    let instance = RandomState::new().build_hasher().finish();
    let (archiver, handle) = Archiver::new(
        volume,
        &began,
        instance,
        source,
        buckets,
        ArchiverOptions::default(),
    );
    let task = tokio::spawn(run(archiver, handle.clone(), engine, stopped));
    (handle, task)
}

async fn run(
    archiver: Archiver,
    handle: ArchiveHandle,
    engine: Arc<Engine>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut status = handle.status();
    let tell = async {
        while status.changed().await.is_ok() {
            let now = status.borrow_and_update().clone();
            engine.archived(now.checkpoint(), now.archived(), now.trim_floor);
        }
    };
    let ended = tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => return,
        ended = archiver.run() => ended,
        () = tell => return,
    };
    if let Err(error) = ended {
        engine.fail(explain(&error));
    }
}

fn explain(error: &ArchiveError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

struct Source {
    reader: JournalReader,
    engine: Arc<Engine>,
}

#[async_trait]
impl RecordSource for Source {
    async fn tail(&self) -> Result<Tail, SourceError> {
        self.reader.tail().map_err(failed)
    }

    async fn read(&self, from: Position, max_bytes: usize) -> Result<Vec<Bytes>, SourceError> {
        let reader = self.reader.clone();
        // Reading blocks on the disk.
        let read = tokio::task::spawn_blocking(move || reader.read(from, max_bytes)).await;
        read.map_err(|error| SourceError::Stopped(error.to_string()))?
            .map_err(failed)
    }

    async fn snapshot(&self) -> Result<FrozenState, SourceError> {
        let stopped = || SourceError::Stopped("it is stopping".into());
        let frozen = self.engine.snapshot().ok_or_else(stopped)?;
        frozen.map_err(|error| SourceError::Stopped(error.to_string()))
    }
}

fn failed(error: JournalError) -> SourceError {
    match error {
        JournalError::Trimmed { first } => SourceError::Trimmed { first },
        other => SourceError::Stopped(other.to_string()),
    }
}
