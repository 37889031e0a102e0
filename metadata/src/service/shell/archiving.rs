//! What the archiver needs of the service: records, frozen states; and what follows from its progress: status, trimming.
//!
//! At a graceful stop the archiver stores what is left, within [`STORE_EVERYTHING_LIMIT`]: after it either bucket alone holds
//! everything that was acknowledged. A bucket that does not answer may hold the stop up no longer.
//!
//! An error of the archiver is final: another leader is at work, or this data directory is not the volume's newest.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use twinshore_protocol::{Position, VolumeId};
use twinshore_storage::bucket::Bucket;

use super::engine::Engine;
use crate::archive::{
    ArchiveError, ArchiveHandle, Archiver, ArchiverOptions, FrozenState, RecordSource, SourceError,
};
use crate::journal::{JournalError, JournalReader, Tail};

/// How long a graceful stop waits for the buckets. With everything else that ends it stays below the 30 s that Kubernetes
/// gives a pod.
const STORE_EVERYTHING_LIMIT: Duration = Duration::from_secs(15);

/// How the archiver is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Store what was committed, within the limit. Nothing more is being committed.
    StoreEverything,
    /// At once: the journal has failed, nobody knows what is committed.
    AtOnce,
}

/// The parts that the archiver is built from.
pub(super) struct Parts {
    pub volume: VolumeId,
    /// The tail as it was when the journal was taken over.
    pub began: Tail,
    pub buckets: [Option<Arc<dyn Bucket>>; 2],
    pub reader: JournalReader,
    pub engine: Arc<Engine>,
    /// Without an answer: at once.
    pub ending: oneshot::Receiver<Ending>,
}

/// Starts the archiver. It runs without buckets too: one may come later.
pub(super) fn start(parts: Parts) -> (ArchiveHandle, JoinHandle<()>) {
    let Parts {
        volume,
        began,
        buckets,
        reader,
        engine,
        ending,
    } = parts;
    let source = Arc::new(Source {
        reader: reader.clone(),
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
    let task = tokio::spawn(run(archiver, handle.clone(), reader, engine, ending));
    (handle, task)
}

async fn run(
    archiver: Archiver,
    handle: ArchiveHandle,
    reader: JournalReader,
    engine: Arc<Engine>,
    ending: oneshot::Receiver<Ending>,
) {
    let mut status = handle.status();
    let tell = async {
        while status.changed().await.is_ok() {
            let now = status.borrow_and_update().clone();
            engine.archived(now.checkpoint(), now.archived(), now.trim_floor);
        }
        // Who is told has ended. What is left is stored nevertheless.
        std::future::pending::<()>().await;
    };
    let end = async {
        match ending.await {
            Ok(Ending::StoreEverything) => store_everything(&handle, &reader).await,
            Ok(Ending::AtOnce) | Err(_) => {}
        }
    };
    let ended = tokio::select! {
        biased;
        () = end => return,
        ended = archiver.run() => ended,
        () = tell => return,
    };
    if let Err(error) = ended {
        engine.fail(explain(&error));
    }
}

async fn store_everything(handle: &ArchiveHandle, reader: &JournalReader) {
    let until = match reader.tail() {
        Ok(tail) => tail.position,
        Err(error) => {
            tracing::warn!(%error, "the last records are not archived: the journal cannot be read");
            return;
        }
    };
    match tokio::time::timeout(STORE_EVERYTHING_LIMIT, handle.store_everything(until)).await {
        Ok(true) => tracing::info!(position = until.0, "everything is archived"),
        Ok(false) => tracing::warn!("the last records are not archived: the archive has failed"),
        Err(_) => tracing::warn!(
            position = until.0,
            archived = handle.status().borrow().archived().0,
            seconds = STORE_EVERYTHING_LIMIT.as_secs(),
            "not all records could be archived in time: a bucket does not answer"
        ),
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
