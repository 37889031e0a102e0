//! Makes a data directory out of one bucket.
//!
//! # Flow
//!
//! 1. Read the marker and the names. Reads only: a drill beside a running service changes nothing.
//! 2. Load the newest checkpoint that is whole; a damaged one is passed over for the one before.
//! 3. Apply the records after it, verifying the digest chain; of several copies of a record any sound one will do.
//! 4. Refuse if that does not reach all that the names promise, unless the loss is accepted.
//! 5. Complete the directory, with an epoch higher than any that the bucket can have seen.

use std::path::Path;

use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::{Epoch, Position};
use twinshore_storage::bucket::{Bucket, BucketError};

use super::catalogue::{Catalogue, CheckpointName, RESTORE_EPOCH_STEP};
use super::checkpoint::{self, CheckpointError};
use super::marker::{MarkerError, read_marker};
use super::records;
use super::side::{ArchiveError, read_catalogue};
use crate::journal::directory::{DirectoryError, DirectoryOptions, UnfinishedDirectory};
use crate::journal::{Digest, Tail};
use crate::view::fjall::FjallView;
use crate::view::{ViewError, ViewStore};

/// How to restore.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestoreOptions {
    /// Of the directory to be made.
    pub directory: DirectoryOptions,
    /// Be content with what can be reached, even if the bucket promises more.
    pub accept_loss: bool,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The volume, with the settings it had when the bucket was taken into use; the present ones are in the state.
    pub format: VolumeFormat,
    /// The last record.
    pub position: Position,
    /// The epoch after which the next leader begins.
    pub epoch: Epoch,
    /// The checkpoint that was loaded; zero for none.
    pub checkpoint: Position,
    /// What was found damaged on the way, and not needed.
    pub passed_over: Vec<String>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The bucket.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// The names or announcements.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The view in the directory.
    #[error(transparent)]
    View(#[from] ViewError),
    /// There is a marker but nothing else.
    #[error("the bucket belongs to volume {0} but holds no metadata yet: restore from the other bucket")]
    Empty(String),
    /// Not everything can be reached.
    #[error(
        "the bucket promises records up to {promised}, but only {reached} can be restored ({}): try the other bucket, \
         or accept the loss", damage.join("; ")
    )]
    Incomplete {
        /// The last record that can be reached.
        reached: Position,
        /// The last record that there should be.
        promised: Position,
        /// What is wrong.
        damage: Vec<String>,
    },
}

/// Restores with the defaults.
pub async fn restore(bucket: &dyn Bucket, directory: &Path) -> Result<Restored, RestoreError> {
    restore_with(bucket, directory, RestoreOptions::default()).await
}

/// Restores the volume of a bucket into an empty or missing directory.
pub async fn restore_with(
    bucket: &dyn Bucket,
    directory: &Path,
    options: RestoreOptions,
) -> Result<Restored, RestoreError> {
    let format = read_marker(bucket).await?.ok_or(MarkerError::NoVolume)?;
    let catalogue = read_catalogue(bucket, format.volume).await?;
    let promised = catalogue.promised();
    if promised == Position::ZERO {
        return Err(RestoreError::Empty(format.name));
    }
    // Without a checkpoint all records are needed, from the first.
    let candidates = catalogue.checkpoints().into_iter().map(Some).chain([None]);
    let mut damage = Vec::new();
    let mut best = Position::ZERO;
    for checkpoint in candidates {
        // Each candidate begins with an empty directory; until it is finished there is no volume in it.
        let unfinished = UnfinishedDirectory::begin(directory, options.directory)?;
        let mut view = unfinished.view()?;
        let Some(digest) = load(bucket, &format, checkpoint, &mut view, &mut damage).await? else {
            continue;
        };
        let from = Progress {
            position: view.applied(),
            digest,
            epoch: Epoch(0),
        };
        let reached = replay(bucket, &format, &catalogue, from, &mut view, &mut damage).await?;
        best = best.max(reached.position);
        if reached.position < promised && !(options.accept_loss && reached.position > Position::ZERO) {
            continue;
        }
        view.persist()?;
        drop(view);
        let highest = catalogue.highest_epoch().max(reached.epoch);
        let epoch = Epoch((highest.0 / RESTORE_EPOCH_STEP + 1) * RESTORE_EPOCH_STEP);
        let tail = Tail {
            epoch,
            position: reached.position,
            digest: reached.digest,
        };
        drop(unfinished.finish(&format, &tail)?);
        return Ok(Restored {
            format,
            position: reached.position,
            epoch,
            checkpoint: checkpoint.map_or(Position::ZERO, |name| name.position),
            passed_over: damage,
        });
    }
    Err(RestoreError::Incomplete {
        reached: best,
        promised,
        damage,
    })
}

/// Loads a checkpoint; its journal digest, or `None` if it is damaged.
async fn load(
    bucket: &dyn Bucket,
    format: &VolumeFormat,
    checkpoint: Option<CheckpointName>,
    view: &mut FjallView,
    damage: &mut Vec<String>,
) -> Result<Option<Digest>, RestoreError> {
    let Some(name) = checkpoint else {
        return Ok(Some(Tail::EMPTY.digest));
    };
    match checkpoint::read(bucket, format.volume, name, &mut |pairs| view.load(pairs)).await {
        Ok(manifest) => {
            view.finish_load(name.position)?;
            Ok(Some(manifest.journal_digest))
        }
        Err(error @ CheckpointError::Damaged { .. }) => {
            damage.push(format!("checkpoint {}: {error}", name.position));
            Ok(None)
        }
        Err(CheckpointError::Bucket(BucketError::NotFound { key })) => {
            damage.push(format!("checkpoint {}: {key} is missing", name.position));
            Ok(None)
        }
        Err(CheckpointError::Bucket(error)) => Err(error.into()),
        Err(CheckpointError::View(error)) => Err(error.into()),
    }
}

/// How far the records were applied.
#[derive(Clone, Copy)]
struct Progress {
    position: Position,
    digest: Digest,
    /// The highest epoch of a record.
    epoch: Epoch,
}

/// Applies the records after a position as far as they are there and sound.
async fn replay(
    bucket: &dyn Bucket,
    format: &VolumeFormat,
    catalogue: &Catalogue,
    mut reached: Progress,
    view: &mut FjallView,
    damage: &mut Vec<String>,
) -> Result<Progress, RestoreError> {
    loop {
        let before = reached.position;
        for (run, until) in catalogue.runs_after(reached.position) {
            let key = run.key();
            let body = match bucket.get(&key, None).await {
                Ok(body) => body,
                Err(BucketError::NotFound { .. }) => {
                    note(damage, format!("{key} is missing"));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let records = match records::unpack(format.volume, &run, &body) {
                Ok(records) => records,
                Err(error) => {
                    note(damage, format!("{key}: {error}"));
                    continue;
                }
            };
            let next = reached.position.next();
            let wanted = records
                .iter()
                .filter(|(record, _)| record.position >= next && record.position <= until);
            for (record, digest) in wanted {
                if record.previous != reached.digest {
                    note(
                        damage,
                        format!(
                            "{key}: record {} does not follow the one before it",
                            record.position
                        ),
                    );
                    break;
                }
                view.apply(record.position, &record.mutations)?;
                reached = Progress {
                    position: record.position,
                    digest: *digest,
                    epoch: reached.epoch.max(record.epoch),
                };
            }
            if reached.position > before {
                break;
            }
        }
        if reached.position == before {
            return Ok(reached);
        }
    }
}

/// Notes damage once: several candidates meet the same.
fn note(damage: &mut Vec<String>, what: String) {
    if !damage.contains(&what) {
        damage.push(what);
    }
}
