#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;
use twinshore_protocol::{Epoch, Position, Side, VolumeId};
use twinshore_storage::bucket::Bucket;
use twinshore_storage::fault::{Faults, FaultyBucket};
use twinshore_storage::memory::MemoryBucket;

use super::*;
use crate::journal::contract::{VOLUME, fill};
use crate::journal::directory::tests::{format, small};
use crate::journal::memory::{MemoryDisk, MemoryJournal};
use crate::journal::{DataDirectory, Journal, JournalError, Record, Tail};
use crate::view::fjall::{FjallOptions, FjallView};
use crate::view::{View, ViewStore};

/// A leader without a service: a journal, a view that follows it, and the archiver.
struct Leader {
    shared: Arc<Shared>,
    handle: ArchiveHandle,
    task: tokio::task::JoinHandle<Result<(), ArchiveError>>,
}

struct Shared {
    journal: Mutex<MemoryJournal>,
    view: Mutex<FjallView>,
    _directory: tempfile::TempDir,
}

fn source_error(error: JournalError) -> SourceError {
    match error {
        JournalError::Trimmed { first } => SourceError::Trimmed { first },
        other => SourceError::Stopped(other.to_string()),
    }
}

#[async_trait]
impl RecordSource for Shared {
    async fn tail(&self) -> Result<Tail, SourceError> {
        self.journal.lock().unwrap().tail().map_err(source_error)
    }

    async fn read(&self, from: Position, max_bytes: usize) -> Result<Vec<Bytes>, SourceError> {
        self.journal
            .lock()
            .unwrap()
            .read(from, max_bytes)
            .map_err(source_error)
    }

    async fn snapshot(&self) -> Result<FrozenState, SourceError> {
        let tail = self.journal.lock().unwrap().tail().map_err(source_error)?;
        let view = self.view.lock().unwrap();
        assert_eq!(view.applied(), tail.position);
        Ok(FrozenState {
            position: tail.position,
            digest: tail.digest,
            view: view.snapshot().unwrap(),
        })
    }
}

fn options() -> ArchiverOptions {
    ArchiverOptions {
        run_bytes: 3000,
        ..ArchiverOptions::default()
    }
}

impl Leader {
    /// Takes over a journal, whose records are applied to a new view (or one that was restored).
    fn start(
        disk: &MemoryDisk,
        view: Option<FjallView>,
        instance: u64,
        buckets: [Option<Arc<dyn Bucket>>; 2],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = disk.open().unwrap();
        let tail = journal.acquire().unwrap();
        let view =
            view.unwrap_or_else(|| FjallView::open(directory.path(), FjallOptions::default()).unwrap());
        let shared = Arc::new(Shared {
            journal: Mutex::new(journal),
            view: Mutex::new(view),
            _directory: directory,
        });
        shared.follow();
        let source: Arc<dyn RecordSource> = Arc::clone(&shared) as _;
        let (archiver, handle) = Archiver::new(VOLUME, &tail, instance, source, buckets, options());
        Self {
            shared,
            handle,
            task: tokio::spawn(archiver.run()),
        }
    }

    fn commit(&self, count: u64) -> Tail {
        let tail = {
            let mut journal = self.shared.journal.lock().unwrap();
            let mut tail = journal.tail().unwrap();
            fill(&mut *journal, &mut tail, count, 400);
            tail
        };
        self.shared.follow();
        tail
    }

    async fn until(&self, what: impl Fn(&ArchiveStatus) -> bool) -> ArchiveStatus {
        let mut status = self.handle.status();
        let reached = timeout(Duration::from_hours(24), status.wait_for(|status| what(status))).await;
        reached
            .expect("it took longer than a day")
            .expect("the archiver stopped")
            .clone()
    }

    async fn checkpoint(&self, position: Position) {
        assert!(self.handle.make_checkpoint().await);
        self.until(|status| status.checkpoint() == position).await;
    }

    /// Stops at once, as a crash does.
    async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl Shared {
    fn follow(&self) {
        let mut view = self.view.lock().unwrap();
        let mut journal = self.journal.lock().unwrap();
        loop {
            let page = journal.read(view.applied().next(), 1 << 20).unwrap();
            if page.is_empty() {
                return;
            }
            for bytes in page {
                let (record, _) = Record::decode(&bytes).unwrap();
                view.apply(record.position, &record.mutations).unwrap();
            }
        }
    }

    fn pairs(&self) -> Vec<(Bytes, Bytes)> {
        all_pairs(&*self.view.lock().unwrap())
    }
}

fn all_pairs(view: &dyn View) -> Vec<(Bytes, Bytes)> {
    view.scan(b"", b"\xff", usize::MAX).unwrap()
}

async fn claimed() -> MemoryBucket {
    let bucket = MemoryBucket::new();
    claim_bucket(&bucket, &format(VOLUME)).await.unwrap();
    bucket
}

fn one(bucket: &MemoryBucket) -> [Option<Arc<dyn Bucket>>; 2] {
    [Some(Arc::new(bucket.clone())), None]
}

fn disk() -> MemoryDisk {
    MemoryDisk::new(VOLUME, &Tail::EMPTY)
}

/// Restores into a new directory; what was restored, and the directory.
async fn restored(bucket: &MemoryBucket) -> (Restored, DataDirectory, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let before = bucket.keys();
    let restored = restore_with(bucket, directory.path(), options_of(false))
        .await
        .unwrap();
    assert_eq!(bucket.keys(), before, "a restore only reads");
    let open = DataDirectory::open(directory.path(), Some(VOLUME), small()).unwrap();
    (restored, open, directory)
}

fn options_of(accept_loss: bool) -> RestoreOptions {
    RestoreOptions {
        directory: small(),
        accept_loss,
    }
}

/// The only key that ends or begins like this.
fn keys_with(bucket: &MemoryBucket, part: &str) -> Vec<String> {
    bucket
        .keys()
        .into_iter()
        .filter(|key| key.contains(part))
        .collect()
}

fn flip(bucket: &MemoryBucket, key: &str) {
    let mut body = bucket.body(key).unwrap().to_vec();
    let middle = body.len() / 2;
    body[middle] ^= 4;
    bucket.tamper(key, Some(body.into()));
}

#[tokio::test(start_paused = true)]
async fn either_bucket_alone_restores_everything() {
    let buckets = [claimed().await, claimed().await];
    let pair = buckets
        .each_ref()
        .map(|bucket| Some(Arc::new(bucket.clone()) as Arc<dyn Bucket>));
    let leader = Leader::start(&disk(), None, 1, pair);
    let tail = leader.commit(50);
    leader.checkpoint(tail.position).await;
    let tail = leader.commit(30);
    leader.until(|status| status.archived() == tail.position).await;
    for bucket in &buckets {
        let (restored, mut open, _directory) = restored(bucket).await;
        assert_eq!(
            (restored.position, restored.checkpoint),
            (Position(80), Position(50))
        );
        assert_eq!(restored.passed_over, Vec::<String>::new());
        assert_eq!(all_pairs(&open.view), leader.shared.pairs());
        let began = open.journal.acquire().unwrap();
        assert_eq!((began.position, began.digest), (tail.position, tail.digest));
        assert_eq!(began.epoch, Epoch(4097));
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_without_a_checkpoint_is_restored_from_its_records() {
    let bucket = claimed().await;
    let leader = Leader::start(&disk(), None, 1, one(&bucket));
    // The first step makes a checkpoint of what is there: nothing yet.
    leader.until(|status| status.sides[0].is_some()).await;
    let tail = leader.commit(20);
    leader.until(|status| status.archived() == tail.position).await;
    for key in keys_with(&bucket, "/checkpoints/") {
        bucket.tamper(&key, None);
    }
    let (restored, open, _directory) = restored(&bucket).await;
    assert_eq!(
        (restored.position, restored.checkpoint),
        (Position(20), Position::ZERO)
    );
    assert_eq!(all_pairs(&open.view), leader.shared.pairs());
}

#[tokio::test(start_paused = true)]
async fn two_checkpoints_are_kept_and_a_damaged_one_is_passed_over() {
    let bucket = claimed().await;
    let leader = Leader::start(&disk(), None, 1, one(&bucket));
    for round in 1..=4 {
        let tail = leader.commit(20);
        assert_eq!(tail.position, Position(round * 20));
        leader.checkpoint(tail.position).await;
    }
    let tail = leader.commit(7);
    let status = leader.until(|status| status.archived() == tail.position).await;
    assert_eq!(status.trim_floor, Position(60));
    let manifests = keys_with(&bucket, "manifest");
    assert_eq!(manifests.len(), 2, "{manifests:?}");
    // What is below the older checkpoint is gone.
    let runs = keys_with(&bucket, "/journal/");
    let catalogue = side::read_catalogue(&bucket, VOLUME).await.unwrap();
    assert_eq!(catalogue.runs_after(Position(59)).len(), 0, "{runs:?}");
    assert_eq!(catalogue.reach(Position(60)), Position(87));
    for object in ["manifest", "chunk-00000000"] {
        let newest = keys_with(&bucket, object).pop().unwrap();
        let sound = bucket.body(&newest).unwrap();
        for gone in [false, true] {
            if gone {
                bucket.tamper(&newest, None);
            } else {
                flip(&bucket, &newest);
            }
            let (restored, open, _directory) = restored(&bucket).await;
            assert_eq!(
                (restored.position, restored.checkpoint),
                (Position(87), Position(60))
            );
            assert_eq!(all_pairs(&open.view), leader.shared.pairs());
            // A manifest that is missing altogether does not promise anything.
            assert_eq!(
                restored.passed_over.len(),
                usize::from(!(gone && object == "manifest"))
            );
            bucket.tamper(&newest, Some(sound.clone()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_missing_run_is_an_error_unless_the_loss_is_accepted() {
    let bucket = claimed().await;
    let leader = Leader::start(&disk(), None, 1, one(&bucket));
    let tail = leader.commit(10);
    leader.checkpoint(tail.position).await;
    let tail = leader.commit(40);
    leader.until(|status| status.archived() == tail.position).await;
    let runs = keys_with(&bucket, "/journal/");
    let middle = &runs[runs.len() - 2];
    flip(&bucket, middle);
    let directory = tempfile::tempdir().unwrap();
    let error = restore_with(&bucket, directory.path(), options_of(false))
        .await
        .unwrap_err();
    let RestoreError::Incomplete {
        reached,
        promised,
        damage,
    } = error
    else {
        panic!("{error}")
    };
    assert!(reached >= Position(10) && reached < promised && promised == Position(50));
    assert!(damage.iter().any(|what| what.contains(middle)), "{damage:?}");
    assert!(DataDirectory::open(directory.path(), None, small()).is_err());
    let restored = restore_with(&bucket, directory.path(), options_of(true))
        .await
        .unwrap();
    assert_eq!(restored.position, reached);
    let open = DataDirectory::open(directory.path(), None, small()).unwrap();
    assert_eq!(open.view.applied(), reached);
}

#[tokio::test(start_paused = true)]
async fn buckets_that_hold_nothing_of_use_are_named_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let bucket = MemoryBucket::new();
    let error = restore(&bucket, directory.path()).await.unwrap_err();
    assert!(
        matches!(error, RestoreError::Marker(MarkerError::NoVolume)),
        "{error}"
    );
    claim_bucket(&bucket, &format(VOLUME)).await.unwrap();
    let error = restore(&bucket, directory.path()).await.unwrap_err();
    assert!(matches!(error, RestoreError::Empty(_)), "{error}");
    claim_bucket(&bucket, &format(VOLUME)).await.unwrap();
    let error = claim_bucket(&bucket, &format(VolumeId([8; 16])))
        .await
        .unwrap_err();
    assert!(
        matches!(error, MarkerError::OtherVolume { found: VOLUME, .. }),
        "{error}"
    );
    bucket.tamper(MARKER_KEY, Some(Bytes::from_static(b"\xff")));
    assert!(matches!(
        restore(&bucket, directory.path()).await,
        Err(RestoreError::Marker(MarkerError::Damaged(_)))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_where_the_archive_was() {
    let bucket = claimed().await;
    let disk = disk();
    for reign in 1..=4 {
        let leader = Leader::start(&disk, None, reign, one(&bucket));
        let tail = leader.commit(25);
        leader.until(|status| status.archived() == tail.position).await;
        if reign % 2 == 0 {
            leader.checkpoint(tail.position).await;
        }
        // Crashed after a commit that was not archived.
        leader.commit(3);
        leader.crash().await;
    }
    let leader = Leader::start(&disk, None, 9, one(&bucket));
    // The first step of a leader ends with a checkpoint: nothing is stored or deleted after that.
    leader.until(|status| status.checkpoint() == Position(112)).await;
    let (restored, open, _directory) = restored(&bucket).await;
    assert_eq!(restored.position, Position(112));
    assert_eq!(all_pairs(&open.view), leader.shared.pairs());
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_down_only_delays() {
    let buckets = [claimed().await, claimed().await];
    let faulty = FaultyBucket::new(Arc::new(buckets[1].clone()), 1);
    let pair: [Option<Arc<dyn Bucket>>; 2] =
        [Some(Arc::new(buckets[0].clone())), Some(Arc::new(faulty.clone()))];
    let leader = Leader::start(&disk(), None, 1, pair);
    leader.commit(10);
    leader.until(|status| status.checkpoint() == Position(10)).await;
    faulty.set(Faults {
        down: true,
        ..Faults::default()
    });
    for round in 2..=4 {
        let tail = leader.commit(10);
        assert!(leader.handle.make_checkpoint().await);
        leader
            .until(|status| {
                status.sides[0]
                    .as_ref()
                    .is_some_and(|side| side.checkpoint == Position(round * 10))
            })
            .await;
        assert_eq!(tail.position, Position(round * 10));
    }
    let status = leader
        .until(|status| status.sides[1].as_ref().is_some_and(|side| side.error.is_some()))
        .await;
    assert!(
        status.trim_floor < Position(30),
        "the other bucket is still waited for"
    );
    // Patience ends; the journal is trimmed beyond what the bucket has.
    let status = leader.until(|status| status.trim_floor == Position(30)).await;
    assert_eq!(status.archived(), Position(10));
    leader
        .shared
        .journal
        .lock()
        .unwrap()
        .trim(status.trim_floor.next())
        .unwrap();
    faulty.set(Faults::default());
    leader
        .until(|status| status.archived() == Position(40) && status.checkpoint() == Position(40))
        .await;
    let (restored, open, _directory) = restored(&buckets[1]).await;
    assert_eq!(
        (restored.position, restored.checkpoint),
        (Position(40), Position(40))
    );
    assert_eq!(all_pairs(&open.view), leader.shared.pairs());
}

#[tokio::test(start_paused = true)]
async fn a_bucket_full_of_faults_ends_up_whole() {
    for seed in 0..8 {
        let bucket = claimed().await;
        let faulty = FaultyBucket::new(Arc::new(bucket.clone()), seed);
        faulty.set(Faults {
            errors_before_per_mille: 200,
            errors_after_per_mille: 200,
            damaged_per_mille: 50,
            ..Faults::default()
        });
        let disk = disk();
        let mut tail = Tail::EMPTY;
        for reign in 1..=3 {
            let leader = Leader::start(&disk, None, reign, [Some(Arc::new(faulty.clone())), None]);
            for _ in 0..3 {
                tail = leader.commit(15);
                leader.until(|status| status.archived() == tail.position).await;
                leader.checkpoint(tail.position).await;
            }
            leader.crash().await;
        }
        let (restored, open, _directory) = restored(&bucket).await;
        assert_eq!(restored.position, tail.position, "seed {seed}");
        assert_eq!(open.view.applied(), tail.position);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restore_the_lost_suffix_stays_lost_and_the_old_leader_is_deposed() {
    let (east, west) = (claimed().await, claimed().await);
    let old_disk = disk();
    let old = Leader::start(
        &old_disk,
        None,
        1,
        [Some(Arc::new(east.clone())), Some(Arc::new(west.clone()))],
    );
    old.commit(20);
    old.until(|status| status.checkpoint() == Position(20)).await;
    assert!(old.handle.replace(Side::Target, None).await);
    // Only the eastern bucket hears of these.
    let tail = old.commit(15);
    old.until(|status| status.archived() == tail.position).await;

    let (restored_west, mut open, _directory) = restored(&west).await;
    assert_eq!(restored_west.position, Position(20));
    let start = open.journal.tail().unwrap();
    assert_eq!(start.epoch, restored_west.epoch);
    let new_disk = MemoryDisk::new(VOLUME, &start);
    let pair: [Option<Arc<dyn Bucket>>; 2] = [Some(Arc::new(east.clone())), Some(Arc::new(west.clone()))];
    let DataDirectory { view, .. } = open;
    let new = Leader::start(&new_disk, Some(view), 2, pair);
    let tail = new.commit(3);
    new.until(|status| status.archived() == tail.position).await;

    let error = timeout(Duration::from_hours(1), old.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, ArchiveError::Deposed { .. }), "{error}");
    assert!(error.is_final());
    for bucket in [&east, &west] {
        let (restored, open, _directory) = restored(bucket).await;
        assert_eq!(restored.position, Position(23));
        assert_eq!(restored.epoch, Epoch(8192));
        assert_eq!(all_pairs(&open.view), new.shared.pairs());
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_copy_of_the_data_directory_is_refused() {
    let bucket = claimed().await;
    let disk = disk();
    let leader = Leader::start(&disk, None, 1, one(&bucket));
    leader.commit(20);
    leader.until(|status| status.archived() == Position(20)).await;
    leader.crash().await;
    let start = |epoch: u64| Tail {
        epoch: Epoch(epoch),
        ..Tail::EMPTY
    };
    // The copy was made before the first start: it has the same epoch, but is another process.
    let copy = Leader::start(&MemoryDisk::new(VOLUME, &start(0)), None, 2, one(&bucket));
    let error = timeout(Duration::from_mins(1), copy.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, ArchiveError::Deposed { .. }), "{error}");
    // Started once more, its epoch is higher, but the bucket knows more than it does.
    let copy = Leader::start(&MemoryDisk::new(VOLUME, &start(1)), None, 3, one(&bucket));
    let error = timeout(Duration::from_mins(1), copy.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(
            error,
            ArchiveError::Behind {
                bucket: Position(20),
                local: Position::ZERO
            }
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn records_are_stored_while_a_checkpoint_is_on_its_way() {
    /// Takes checkpoints, but never to the end.
    struct SlowCheckpoints(MemoryBucket);
    #[async_trait]
    impl Bucket for SlowCheckpoints {
        async fn put(&self, key: &str, body: Bytes) -> Result<(), twinshore_storage::bucket::BucketError> {
            if key.contains("checkpoints") {
                std::future::pending::<()>().await;
            }
            self.0.put(key, body).await
        }
        async fn get(
            &self,
            key: &str,
            range: Option<std::ops::Range<u64>>,
        ) -> Result<Bytes, twinshore_storage::bucket::BucketError> {
            self.0.get(key, range).await
        }
        async fn size(&self, key: &str) -> Result<u64, twinshore_storage::bucket::BucketError> {
            self.0.size(key).await
        }
        async fn delete(&self, keys: &[String]) -> Result<(), twinshore_storage::bucket::BucketError> {
            self.0.delete(keys).await
        }
        async fn list(
            &self,
            prefix: &str,
            after: Option<&str>,
            limit: usize,
        ) -> Result<Vec<twinshore_storage::bucket::Listed>, twinshore_storage::bucket::BucketError> {
            self.0.list(prefix, after, limit).await
        }
    }
    let disk = disk();
    let bucket = SlowCheckpoints(claimed().await);
    let leader = Leader::start(&disk, None, 1, [Some(Arc::new(bucket)), None]);
    let interval = ArchiverOptions::default().records_interval;
    for _ in 0..5 {
        let tail = leader.commit(7);
        let stored = leader.until(|status| status.archived() == tail.position);
        timeout(interval + Duration::from_secs(1), stored)
            .await
            .expect("records wait for a checkpoint");
    }
    let tail = leader.commit(7);
    let stored = leader.handle.store_everything(tail.position);
    let in_time = timeout(interval / 10, stored).await;
    assert_eq!(in_time, Ok(true), "asked for, it waits for no interval");
    leader.crash().await;
}

#[tokio::test(start_paused = true)]
async fn no_object_is_ever_replaced_by_a_different_one() {
    /// Refuses what the archive must not do.
    struct Immutable(MemoryBucket);
    #[async_trait]
    impl Bucket for Immutable {
        async fn put(&self, key: &str, body: Bytes) -> Result<(), twinshore_storage::bucket::BucketError> {
            if let Some(before) = self.0.body(key) {
                assert_eq!(before, body, "{key}");
            }
            self.0.put(key, body).await
        }
        async fn get(
            &self,
            key: &str,
            range: Option<std::ops::Range<u64>>,
        ) -> Result<Bytes, twinshore_storage::bucket::BucketError> {
            self.0.get(key, range).await
        }
        async fn size(&self, key: &str) -> Result<u64, twinshore_storage::bucket::BucketError> {
            self.0.size(key).await
        }
        async fn delete(&self, keys: &[String]) -> Result<(), twinshore_storage::bucket::BucketError> {
            self.0.delete(keys).await
        }
        async fn list(
            &self,
            prefix: &str,
            after: Option<&str>,
            limit: usize,
        ) -> Result<Vec<twinshore_storage::bucket::Listed>, twinshore_storage::bucket::BucketError> {
            self.0.list(prefix, after, limit).await
        }
    }
    let bucket = claimed().await;
    let faulty = FaultyBucket::new(Arc::new(Immutable(bucket.clone())), 7);
    faulty.set(Faults {
        errors_after_per_mille: 300,
        ..Faults::default()
    });
    let disk = disk();
    for reign in 1..=3 {
        let leader = Leader::start(&disk, None, reign, [Some(Arc::new(faulty.clone())), None]);
        for _ in 0..4 {
            let tail = leader.commit(9);
            leader.until(|status| status.archived() == tail.position).await;
            leader.checkpoint(tail.position).await;
        }
        assert!(!leader.task.is_finished());
        leader.crash().await;
    }
}
