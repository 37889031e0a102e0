//! Keeps the archive in one bucket up to date.
//!
//! # Flow
//!
//! 1. *Prepare*: check the marker; read what is there; refuse to go on if another leader is or was there that this one does
//!    not descend from; store the own announcement.
//! 2. *Records*: store what was committed since, in runs.
//! 3. *Checkpoint*: store the state, read it back, then delete what two verified checkpoints make superfluous. It takes as
//!    long as the state is large, so it is a job of its own ([`CheckpointJob`]): records are stored meanwhile.
//!
//! # Failures
//!
//! A bucket that does not answer costs time only: the step is tried again. Names are unique and contents deterministic, so
//! trying again is harmless, whatever became of the first attempt. When the records that a bucket lacks were trimmed in the
//! meantime, a new checkpoint bridges the gap. That another leader has taken over is final ([`ArchiveError::is_final`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use twinshore_protocol::{Epoch, Position, VolumeId};
use twinshore_storage::bucket::{Bucket, BucketError};

use super::catalogue::{Catalogue, CheckpointName, PREFIX, RESTORE_EPOCH_STEP, RunName, reign_key};
use super::checkpoint::{self, CheckpointError, Reign};
use super::marker::{MarkerError, verify_bucket};
use super::records;
use super::sealed::SealedError;
use crate::journal::record::RecordHeader;
use crate::journal::{Digest, Tail};
use crate::view::View;

/// Keys per listing: the most that S3 answers.
const LISTING_PAGE: usize = 1000;

/// Keys per deletion: the most that S3 takes.
const DELETION_PAGE: usize = 1000;

/// Why the service did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The records before this one are gone.
    #[error("records before {first} were trimmed")]
    Trimmed {
        /// The first that is still there.
        first: Position,
    },
    /// The service is stopping or has failed.
    #[error("the metadata service does not deliver records: {0}")]
    Stopped(String),
}

/// A state that does not change any more.
pub struct FrozenState {
    /// The last record whose effect it holds.
    pub position: Position,
    /// The digest of that record.
    pub digest: Digest,
    /// The state.
    pub view: Box<dyn View + Send>,
}

/// What the archive needs of the service.
#[async_trait]
pub trait RecordSource: Send + Sync {
    /// The last committed record.
    async fn tail(&self) -> Result<Tail, SourceError>;

    /// Committed records from a position, in order, at most about `max_bytes` but one at least; none beyond the tail.
    async fn read(&self, from: Position, max_bytes: usize) -> Result<Vec<Bytes>, SourceError>;

    /// The state of this moment.
    async fn snapshot(&self) -> Result<FrozenState, SourceError>;
}

/// Why a step of the archive failed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Another leader has begun.
    #[error(
        "another metadata service with epoch {found} uses this bucket (ours is {ours}): stop one of them"
    )]
    Deposed {
        /// Its epoch.
        found: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// The bucket knows more than the journal.
    #[error(
        "the bucket holds records up to {bucket}, the data directory ends at {local}: it is an old copy; recover the volume \
         with `twinshore volume restore`"
    )]
    Behind {
        /// The last record in the bucket.
        bucket: Position,
        /// The last record of the journal when the leader began.
        local: Position,
    },
    /// The bucket knows something else than the journal.
    #[error(
        "record {0} in the bucket is not the one in the journal: the data directory is of another history"
    )]
    Diverged(Position),
    /// The marker.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An object that is needed is damaged.
    #[error("the object {key} is damaged")]
    Damaged {
        /// Its key.
        key: String,
        /// How.
        #[source]
        source: SealedError,
    },
    /// The service.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl ArchiveError {
    /// Trying again cannot help: the leader must stop, as its records are not part of the history.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Deposed { .. } | Self::Behind { .. } | Self::Diverged(_)
        )
    }
}

/// How far the archive in one bucket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideStatus {
    /// All records up to here are in the bucket, or the effect of them in a checkpoint.
    pub archived: Position,
    /// The newest verified checkpoint.
    pub checkpoint: Position,
    /// The one before, zero if there is none.
    pub previous_checkpoint: Position,
    /// What the last attempt failed with; the next one is under way.
    pub error: Option<String>,
}

/// The archive in one bucket.
pub(super) struct SideArchive {
    bucket: Arc<dyn Bucket>,
    source: Arc<dyn RecordSource>,
    volume: VolumeId,
    reign: Reign,
    run_bytes: usize,
    catalogue: Catalogue,
    prepared: bool,
    archived: Position,
    /// Verified checkpoints, at most the two newest.
    kept: BTreeSet<CheckpointName>,
    /// A checkpoint was stored since the last cleaning up.
    to_be_cleaned_up: bool,
}

/// A checkpoint on its way to a bucket.
pub(super) struct CheckpointJob {
    bucket: Arc<dyn Bucket>,
    source: Arc<dyn RecordSource>,
    volume: VolumeId,
    epoch: Epoch,
    newest: Position,
}

/// A checkpoint that was stored and verified.
pub(super) struct StoredCheckpoint {
    name: CheckpointName,
    chunks: u64,
}

impl CheckpointJob {
    /// Stores and verifies a checkpoint, if there is anything new.
    pub(super) async fn run(self) -> Result<Option<StoredCheckpoint>, ArchiveError> {
        let frozen = self.source.snapshot().await?;
        if frozen.position <= self.newest {
            return Ok(None);
        }
        let name = CheckpointName {
            position: frozen.position,
            epoch: self.epoch,
        };
        checkpoint::store(&*self.bucket, self.volume, name, frozen.digest, frozen.view).await?;
        let manifest = checkpoint::read(&*self.bucket, self.volume, name, &mut |_| Ok(())).await?;
        Ok(Some(StoredCheckpoint {
            name,
            chunks: manifest.chunks,
        }))
    }
}

impl SideArchive {
    pub(super) fn new(
        bucket: Arc<dyn Bucket>,
        source: Arc<dyn RecordSource>,
        volume: VolumeId,
        reign: Reign,
        run_bytes: usize,
    ) -> Self {
        Self {
            bucket,
            source,
            volume,
            reign,
            run_bytes,
            catalogue: Catalogue::default(),
            prepared: false,
            archived: Position::ZERO,
            kept: BTreeSet::new(),
            to_be_cleaned_up: false,
        }
    }

    /// How far it is.
    pub(super) fn status(&self) -> SideStatus {
        let mut newest_first = self.kept.iter().rev().map(|checkpoint| checkpoint.position);
        SideStatus {
            archived: self.archived,
            checkpoint: newest_first.next().unwrap_or_default(),
            previous_checkpoint: newest_first.next().unwrap_or_default(),
            error: None,
        }
    }

    /// Step 1. Does nothing once it has succeeded.
    pub(super) async fn prepare(&mut self) -> Result<(), ArchiveError> {
        if self.prepared {
            return Ok(());
        }
        verify_bucket(&*self.bucket, self.volume).await?;
        let mut catalogue = read_catalogue(&*self.bucket, self.volume).await?;
        self.check_reigns(&catalogue).await?;
        let key = reign_key(self.reign.epoch);
        let body = self
            .reign
            .pack(self.volume)
            .map_err(|source| ArchiveError::Damaged {
                key: key.clone(),
                source,
            })?;
        self.bucket.put(&key, body).await?;
        catalogue.add_reign(&self.reign);
        // Checkpoints of earlier leaders were verified when they were stored; what can have changed since is that
        // something was lost, so look that all is still there.
        self.kept.clear();
        for name in catalogue.checkpoints() {
            if self.kept.len() == 2 {
                break;
            }
            match checkpoint::read_manifest(&*self.bucket, self.volume, name).await {
                Ok(manifest) if catalogue.chunk_count(&name) as u64 >= manifest.chunks => {
                    self.kept.insert(name);
                }
                Ok(_) | Err(CheckpointError::Damaged { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let base = self
            .kept
            .last()
            .map_or(Position::ZERO, |checkpoint| checkpoint.position);
        self.archived = self.check_history(&catalogue, base).await?;
        self.catalogue = catalogue;
        self.prepared = true;
        Ok(())
    }

    /// Is this leader the latest, and does its journal continue what the bucket holds?
    async fn check_reigns(&self, catalogue: &Catalogue) -> Result<(), ArchiveError> {
        let (found, ours) = (catalogue.highest_epoch(), self.reign.epoch);
        if found > ours {
            return Err(ArchiveError::Deposed { found, ours });
        }
        if catalogue.announced().any(|epoch| epoch == ours) {
            let key = reign_key(ours);
            let body = self.bucket.get(&key, None).await?;
            let theirs = Reign::unpack(self.volume, ours, &body).map_err(|source| ArchiveError::Damaged {
                key: key.clone(),
                source,
            })?;
            if theirs != self.reign {
                return Err(ArchiveError::Deposed { found, ours });
            }
        }
        // After a restore, and only then, is it right that the bucket may hold more: see `RESTORE_EPOCH_STEP`.
        let restored = ours.0 / RESTORE_EPOCH_STEP > found.0 / RESTORE_EPOCH_STEP;
        let (bucket, local) = (catalogue.promised(), self.reign.position);
        if bucket > local && !restored && found < ours {
            return Err(ArchiveError::Behind { bucket, local });
        }
        Ok(())
    }

    /// How far the bucket holds the journal's records after a checkpoint; verifies that the last is the journal's.
    async fn check_history(&self, catalogue: &Catalogue, base: Position) -> Result<Position, ArchiveError> {
        let mut reached = base;
        let mut last = None;
        while let Some((run, until)) = catalogue.runs_after(reached).first().copied() {
            (reached, last) = (until, Some(run));
        }
        let Some(run) = last else { return Ok(reached) };
        let key = run.key();
        let body = self.bucket.get(&key, None).await?;
        let Ok(records) = records::unpack(self.volume, &run, &body) else {
            // A damaged run is as good as none: the records after the checkpoint are stored again.
            return Ok(base);
        };
        let Some((_, theirs)) = records.iter().find(|(record, _)| record.position == reached) else {
            return Ok(base);
        };
        match self.digest_at(reached).await? {
            Some(ours) if ours != *theirs => Err(ArchiveError::Diverged(reached)),
            Some(_) | None => Ok(reached),
        }
    }

    /// The digest of a record of the journal, if it is not trimmed.
    async fn digest_at(&self, position: Position) -> Result<Option<Digest>, ArchiveError> {
        let tail = self.source.tail().await?;
        if tail.position == position {
            return Ok(Some(tail.digest));
        }
        match self.source.read(position.next(), 1).await {
            Ok(records) => Ok(records
                .first()
                .and_then(|next| RecordHeader::peek(next).ok())
                .map(|next| next.previous)),
            Err(SourceError::Trimmed { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Step 2, once: stores the next run. Tells whether there may be more. [`SourceError::Trimmed`] asks for a checkpoint.
    pub(super) async fn store_records(&mut self) -> Result<bool, ArchiveError> {
        let first = self.archived.next();
        let records = self.source.read(first, self.run_bytes).await?;
        if records.is_empty() {
            return Ok(false);
        }
        let last = Position(self.archived.0 + records.len() as u64);
        let run = RunName {
            epoch: self.reign.epoch,
            first,
            last,
        };
        let key = run.key();
        let body = records::pack(self.volume, &run, &records).map_err(|source| ArchiveError::Damaged {
            key: key.clone(),
            source,
        })?;
        self.bucket.put(&key, body).await?;
        self.catalogue.add_run(run);
        self.archived = last;
        Ok(true)
    }

    /// Has step 1 succeeded?
    pub(super) fn is_prepared(&self) -> bool {
        self.prepared
    }

    /// Step 3: the job that stores a checkpoint. One at a time.
    pub(super) fn checkpoint_job(&self) -> CheckpointJob {
        CheckpointJob {
            bucket: Arc::clone(&self.bucket),
            source: Arc::clone(&self.source),
            volume: self.volume,
            epoch: self.reign.epoch,
            newest: self
                .kept
                .last()
                .map_or(Position::ZERO, |checkpoint| checkpoint.position),
        }
    }

    /// The job has ended well.
    pub(super) fn checkpoint_stored(&mut self, stored: &StoredCheckpoint) {
        let StoredCheckpoint { name, chunks } = *stored;
        self.catalogue.add_checkpoint(name, chunks);
        self.kept.insert(name);
        while self.kept.len() > 2 {
            self.kept.pop_first();
        }
        self.archived = self.archived.max(name.position);
        self.to_be_cleaned_up = true;
    }

    /// Deletes what is superfluous since the last checkpoint.
    pub(super) async fn clean_up(&mut self) -> Result<(), ArchiveError> {
        if !self.to_be_cleaned_up {
            return Ok(());
        }
        let keys = self.catalogue.superfluous(&self.kept);
        for page in keys.chunks(DELETION_PAGE) {
            self.bucket.delete(page).await?;
            for key in page {
                self.catalogue.remove_key(key);
            }
        }
        self.to_be_cleaned_up = false;
        Ok(())
    }

    /// Has another leader announced itself since?
    pub(super) async fn check_deposed(&self) -> Result<(), ArchiveError> {
        let after = reign_key(self.reign.epoch);
        let later = self
            .bucket
            .list(&format!("{PREFIX}reigns/"), Some(&after), 1)
            .await?;
        let mut catalogue = Catalogue::default();
        for object in &later {
            catalogue.add_key(&object.key);
        }
        match catalogue.announced().next() {
            Some(found) => Err(ArchiveError::Deposed {
                found,
                ours: self.reign.epoch,
            }),
            None => Ok(()),
        }
    }
}

/// Lists the archive in a bucket and reads the announcements.
pub(super) async fn read_catalogue(bucket: &dyn Bucket, volume: VolumeId) -> Result<Catalogue, ArchiveError> {
    let mut catalogue = Catalogue::default();
    let mut after: Option<String> = None;
    loop {
        let page = bucket.list(PREFIX, after.as_deref(), LISTING_PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        for object in &page {
            catalogue.add_key(&object.key);
        }
    }
    for epoch in catalogue.announced().collect::<Vec<Epoch>>() {
        let key = reign_key(epoch);
        let body = bucket.get(&key, None).await?;
        let reign = Reign::unpack(volume, epoch, &body).map_err(|source| ArchiveError::Damaged {
            key: key.clone(),
            source,
        })?;
        catalogue.add_reign(&reign);
    }
    Ok(catalogue)
}
