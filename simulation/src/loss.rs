//! The loss of the metadata service's disk at some moment, with one of the buckets: what is in the other bucket at that moment
//! has to be enough for the volume.
//!
//! # How it is judged
//!
//! At moments that the seed decides, and once at the end, both buckets are copied as they are ([`Loss::of`]), with what the archive had
//! said of them. When the run is over, each copy alone is restored, by the code of `twinshore volume restore`, and compared with the
//! journal, which is still there ([`Loss::judge`]):
//! 1. nothing is missing that the archive had told to be in the bucket;
//! 2. the state is that of the journal at that record, bit for bit;
//! 3. every object that files name is in the buckets that the restored metadata says it is in: nothing was deleted for a reason that
//!    the restored metadata does not know.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use twinshore_metadata::archive::{RestoreOptions, restore_with};
use twinshore_metadata::journal::directory::{DataDirectory, DirectoryOptions};
use twinshore_metadata::journal::file::FileJournalOptions;
use twinshore_metadata::journal::memory::MemoryDisk;
use twinshore_metadata::view::fjall::FjallOptions;
use twinshore_metadata::view::memory::MemoryView;
use twinshore_metadata::view::{View, ViewStore as _};
use twinshore_protocol::{ObjectId, Position, Side};
use twinshore_storage::memory::MemoryBucket;

use crate::buckets::{Buckets, stored_objects};
use crate::host::{Host, replay_until};
use crate::random::Random;
use crate::state::named_objects;

/// Rows that are compared at a time.
const PAGE_ROWS: usize = 10_000;

/// The longest pause before the last loss of a run, after everything is healed: dead objects leave the buckets a minute after their
/// death, and an archive that was held up may still be waiting to try again.
const HEALED_SECONDS: u64 = 150;

/// All losses of a run. Clones are the same.
#[derive(Clone, Default)]
pub struct Losses(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    losses: Vec<Loss>,
    journal: Option<MemoryDisk>,
}

impl Losses {
    /// Takes one while faults strike for so many seconds, and one when they have ended, if the run lasts so long.
    pub fn begin(&self, host: &Host, buckets: &Buckets, mut random: Random, seconds: u64) {
        let moments = [
            random.between(1, seconds * 1000),
            random.between(seconds * 1000, (seconds + HEALED_SECONDS) * 1000),
        ];
        let (losses, host, buckets) = (self.clone(), host.clone(), buckets.clone());
        tokio::spawn(async move {
            let started = Instant::now();
            for moment in moments.map(Duration::from_millis) {
                tokio::time::sleep_until(started + moment).await;
                losses.take(&format!("after {} ms", moment.as_millis()), &host, &buckets);
            }
        });
    }

    /// Takes one now.
    pub fn take(&self, moment: &str, host: &Host, buckets: &Buckets) {
        let loss = Loss::of(moment.to_owned(), buckets, host.archived());
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.losses.push(loss);
        taken.journal = Some(host.disk());
    }

    /// What was broken by any of them. To be called when the run is over: restoring uses a real disk, and takes real time.
    pub fn judge(&self) -> Result<Vec<String>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| error.to_string())?;
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut broken = Vec::new();
        for loss in &taken.losses {
            if let Some(journal) = &taken.journal {
                broken.extend(runtime.block_on(loss.judge(journal))?);
            }
        }
        Ok(broken)
    }
}

/// The buckets at one moment.
struct Loss {
    /// When, for people.
    moment: String,
    sides: [Copy; 2],
}

/// One bucket at one moment.
struct Copy {
    side: Side,
    /// What the archive had told to be there.
    archived: Position,
    /// Marker and archive.
    metadata: MemoryBucket,
    objects: BTreeSet<ObjectId>,
}

impl Loss {
    /// Copies what is in the buckets now.
    fn of(moment: String, buckets: &Buckets, archived: [Position; 2]) -> Self {
        let sides = Side::BOTH.map(|side| {
            let content = buckets.content(side);
            let metadata = MemoryBucket::new();
            let is_object = |key: &str| twinshore_storage::object::parse_object_key(key).is_some();
            for key in content.keys().into_iter().filter(|key| !is_object(key)) {
                metadata.tamper(&key, content.body(&key));
            }
            Copy {
                side,
                archived: archived[side as usize],
                metadata,
                objects: stored_objects(buckets, side),
            }
        });
        Self { moment, sides }
    }

    /// What would have been lost. `journal` is what the lost disk held, and later records.
    async fn judge(&self, journal: &MemoryDisk) -> Result<Vec<String>, String> {
        let mut broken = Vec::new();
        for copy in self.sides.iter().filter(|copy| copy.archived > Position::ZERO) {
            let place = format!("{}, restored from {} alone", self.moment, copy.side);
            match restored(&copy.metadata).await {
                Ok(view) => {
                    for problem in self.compare(copy, &view, journal)? {
                        broken.push(format!("{place}: {problem}"));
                    }
                }
                Err(error) => broken.push(format!("{place}: {error}")),
            }
        }
        Ok(broken)
    }

    fn compare(&self, copy: &Copy, view: &MemoryView, journal: &MemoryDisk) -> Result<Vec<String>, String> {
        let mut problems = Vec::new();
        if view.applied() < copy.archived {
            problems.push(format!(
                "the archive said that it had record {}, and only {} came back",
                copy.archived,
                view.applied()
            ));
        }
        let expected = replay_until(journal, view.applied())?;
        if rows(view)? != rows(&expected)? {
            problems.push(format!("the state is not that of record {}", view.applied()));
        }
        for named in named_objects(view)? {
            for side in named.present.iter() {
                if !self.sides[side as usize].objects.contains(&named.object) {
                    problems.push(format!(
                        "files name {} after record {}, and {side} does not have it any more",
                        named.object,
                        view.applied()
                    ));
                }
            }
        }
        Ok(problems)
    }
}

/// Restores into a directory that is gone afterwards.
async fn restored(bucket: &MemoryBucket) -> Result<MemoryView, String> {
    let parent = tempfile::tempdir().map_err(|error| error.to_string())?;
    let directory = parent.path().join("metadata");
    let options = RestoreOptions {
        directory: DirectoryOptions {
            // A run has some thousands of small records.
            journal: FileJournalOptions {
                segment_bytes: 1 << 20,
                maximum_bytes: None,
            },
            view: FjallOptions::default(),
        },
        accept_loss: false,
    };
    restore_with(bucket, &directory, options)
        .await
        .map_err(|error| error.to_string())?;
    read_view(&directory, options.directory)
}

fn read_view(directory: &Path, options: DirectoryOptions) -> Result<MemoryView, String> {
    let opened = DataDirectory::open(directory, None, options).map_err(|error| error.to_string())?;
    Ok(MemoryView::restored(rows(&opened.view)?, opened.view.applied()))
}

fn rows(view: &dyn View) -> Result<Vec<(Bytes, Bytes)>, String> {
    let mut rows: Vec<(Bytes, Bytes)> = Vec::new();
    let mut start = Bytes::new();
    loop {
        let page = view
            .scan(&start, &[u8::MAX; 32], PAGE_ROWS)
            .map_err(|error| error.to_string())?;
        let Some((last, _)) = page.last() else {
            return Ok(rows);
        };
        start = [last.as_ref(), &[0]].concat().into();
        rows.extend(page);
    }
}
