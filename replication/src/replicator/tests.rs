#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tokio::time::Instant;
use twinshore_protocol::Sides;
use twinshore_protocol::reply::ObjectRecord;
use twinshore_storage::bucket::Bucket;
use twinshore_storage::fault::{Faults, FaultyBucket};
use twinshore_storage::object::object_key;

use super::*;
use crate::double::{Region, body, id};

const PRIMARY: Sides = Sides::only(Side::Primary);

fn copy_of(record: ObjectRecord, side: Side) -> Task {
    let kind = TaskKind::Copy {
        stored_bytes: record.stored_bytes,
        checksum: record.checksum,
    };
    Task {
        object: record.object,
        side,
        kind,
    }
}

fn deletion_of(number: u64, side: Side) -> Task {
    Task {
        object: id(number),
        side,
        kind: TaskKind::Delete,
    }
}

async fn start(region: &Region, options: ReplicatorOptions) -> Replicator {
    let replicator = Replicator::new(region.pair.clone(), options);
    let session = region.service.session().await;
    tokio::spawn({
        let replicator = replicator.clone();
        async move { replicator.run(session).await }
    });
    replicator
}

async fn outcomes(region: &Region, count: usize) -> Vec<TaskOutcome> {
    region
        .service
        .until("the reports", |state| {
            state.report_batches.iter().flatten().count() >= count
        })
        .await;
    let mut reports = region.service.reports();
    reports.sort_by_key(|report| report.object);
    reports.into_iter().map(|report| report.outcome).collect()
}

#[tokio::test(start_paused = true)]
async fn objects_are_copied_both_ways_and_reported_in_batches() {
    let region = Region::new();
    let replicator = start(&region, ReplicatorOptions::default()).await;
    let tasks = (0..1000).map(|number| {
        let from = if number % 2 == 0 {
            Side::Primary
        } else {
            Side::Target
        };
        copy_of(region.store(number, 100, Sides::only(from)), from.other())
    });
    replicator.submit(tasks.collect());
    assert!(
        outcomes(&region, 1000)
            .await
            .iter()
            .all(|outcome| *outcome == TaskOutcome::Done)
    );
    for number in 0..1000 {
        for bucket in &region.buckets {
            assert_eq!(bucket.body(&object_key(id(number))), Some(body(number, 100)));
        }
    }
    let batches = region.service.lock().report_batches.len();
    assert!(batches <= 40, "{batches} batches");
    assert_eq!(replicator.counters().copied_objects, [500, 500]);
    assert_eq!(replicator.counters().copied_bytes, [50_000, 50_000]);
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_or_damaged_at_its_source_is_told_and_never_copied() {
    let region = Region::new();
    let replicator = start(&region, ReplicatorOptions::default()).await;
    let records: Vec<_> = (0..4).map(|number| region.store(number, 64, PRIMARY)).collect();
    let primary = &region.buckets[0];
    primary.tamper(&object_key(id(0)), None);
    primary.tamper(&object_key(id(1)), Some(body(99, 64)));
    primary.tamper(&object_key(id(2)), Some(body(2, 63)));
    replicator.submit(
        records
            .into_iter()
            .map(|record| copy_of(record, Side::Target))
            .collect(),
    );
    let found = outcomes(&region, 4).await;
    assert_eq!(
        found,
        [
            TaskOutcome::SourceMissing,
            TaskOutcome::SourceDamaged,
            TaskOutcome::SourceDamaged,
            TaskOutcome::Done
        ]
    );
    assert_eq!(region.buckets[1].keys(), [object_key(id(3))]);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_fails_or_is_not_there_is_a_failure_with_a_reason() {
    let region = Region::with(|side, bucket| {
        let faulty = FaultyBucket::new(bucket, 1);
        if side == Side::Target {
            faulty.set(Faults {
                down: true,
                ..Faults::default()
            });
        }
        Arc::new(faulty)
    });
    let replicator = start(&region, ReplicatorOptions::default()).await;
    replicator.submit(vec![copy_of(region.store(1, 10, PRIMARY), Side::Target)]);
    let found = outcomes(&region, 1).await;
    assert!(matches!(&found[0], TaskOutcome::Failed { reason } if reason.contains("storing in the target")));
    region.pair.replace(Side::Target, None);
    replicator.submit(vec![copy_of(region.store(2, 10, PRIMARY), Side::Target)]);
    let found = outcomes(&region, 2).await;
    assert!(
        matches!(&found[1], TaskOutcome::Failed { reason } if reason.contains("no access to the target"))
    );
    // A bucket that is given later is used.
    region
        .pair
        .replace(Side::Target, Some(Arc::new(region.buckets[1].clone())));
    replicator.submit(vec![copy_of(region.store(3, 10, PRIMARY), Side::Target)]);
    assert_eq!(outcomes(&region, 3).await[2], TaskOutcome::Done);
    assert_eq!(replicator.counters().failed, [0, 2]);
}

#[tokio::test(start_paused = true)]
async fn deletions_go_to_the_bucket_in_batches() {
    let region = Region::with(|_, bucket| Arc::new(FaultyBucket::new(bucket, 1)));
    for number in 0..2500 {
        region.store(number, 8, Sides::BOTH);
    }
    let replicator = start(&region, ReplicatorOptions::default()).await;
    replicator.submit(
        (0..2500)
            .map(|number| deletion_of(number, Side::Target))
            .collect(),
    );
    outcomes(&region, 2500).await;
    assert!(region.buckets[1].keys().is_empty());
    assert_eq!(region.buckets[0].keys().len(), 2500);
    assert_eq!(replicator.counters().deleted_objects, [0, 2500]);
}

#[tokio::test(start_paused = true)]
async fn the_same_task_twice_is_done_once_at_a_time() {
    let region = Region::with(|_, bucket| {
        let faulty = FaultyBucket::new(bucket, 1);
        let latency = Duration::from_millis(100);
        faulty.set(Faults {
            latency_least: latency,
            latency_most: latency,
            ..Faults::default()
        });
        Arc::new(faulty)
    });
    let replicator = start(&region, ReplicatorOptions::default()).await;
    let task = copy_of(region.store(1, 10, PRIMARY), Side::Target);
    replicator.submit(vec![task, task]);
    replicator.submit(vec![task]);
    outcomes(&region, 1).await;
    assert_eq!(region.service.reports().len(), 1);
    // Handed out again later, it is done again: harmless, and the service had a reason.
    replicator.submit(vec![task]);
    outcomes(&region, 2).await;
}

/// Counts how many bytes and bodies are being copied at once.
struct Gauge {
    inner: Arc<dyn Bucket>,
    now: Arc<Mutex<(usize, usize)>>,
    object_bytes: usize,
}

#[async_trait::async_trait]
impl Bucket for Gauge {
    async fn put(&self, key: &str, body: bytes::Bytes) -> Result<(), twinshore_storage::BucketError> {
        {
            let mut now = self.now.lock().unwrap();
            now.0 += 1;
            now.1 = now.1.max(now.0 * self.object_bytes);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.now.lock().unwrap().0 -= 1;
        self.inner.put(key, body).await
    }
    async fn get(
        &self,
        key: &str,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<bytes::Bytes, twinshore_storage::BucketError> {
        self.inner.get(key, range).await
    }
    async fn size(&self, key: &str) -> Result<u64, twinshore_storage::BucketError> {
        self.inner.size(key).await
    }
    async fn delete(&self, keys: &[String]) -> Result<(), twinshore_storage::BucketError> {
        self.inner.delete(keys).await
    }
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<twinshore_storage::Listed>, twinshore_storage::BucketError> {
        self.inner.list(prefix, after, limit).await
    }
}

#[tokio::test(start_paused = true)]
async fn memory_and_parallelism_are_bounded_and_an_object_larger_than_the_memory_is_copied_alone() {
    const OBJECT: usize = 64 << 10;
    let now = Arc::new(Mutex::new((0, 0)));
    let region = Region::with(|_, inner| {
        Arc::new(Gauge {
            inner,
            now: Arc::clone(&now),
            object_bytes: OBJECT,
        })
    });
    let options = ReplicatorOptions {
        parallel: 20,
        memory_bytes: 5 * OBJECT as u64,
        ..ReplicatorOptions::default()
    };
    let replicator = start(&region, options).await;
    let mut tasks: Vec<_> = (0..50)
        .map(|number| copy_of(region.store(number, OBJECT, PRIMARY), Side::Target))
        .collect();
    tasks.push(copy_of(region.store(50, 40 * OBJECT, PRIMARY), Side::Target));
    replicator.submit(tasks);
    outcomes(&region, 51).await;
    assert_eq!(now.lock().unwrap().1, 5 * OBJECT);
}

#[tokio::test(start_paused = true)]
async fn the_bandwidth_limit_of_the_settings_holds_and_can_change() {
    let region = Region::new();
    let mut format = crate::double::format();
    format.settings.bandwidth_limit_bytes_per_second = [0, 100_000];
    region.service.lock().format = format.clone();
    let replicator = start(&region, ReplicatorOptions::default()).await;
    let begin = Instant::now();
    let tasks = |from: u64| {
        (from..from + 10).map(|number| copy_of(region.store(number, 100_000, PRIMARY), Side::Target))
    };
    replicator.submit(tasks(0).collect());
    outcomes(&region, 10).await;
    let seconds = begin.elapsed().as_secs_f64();
    assert!((8.5..9.5).contains(&seconds), "{seconds}");
    format.settings.bandwidth_limit_bytes_per_second = [0, 0];
    replicator.format_changed(&format);
    let begin = Instant::now();
    replicator.submit(tasks(10).collect());
    outcomes(&region, 20).await;
    assert!(begin.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn more_in_parallel_means_more_throughput_on_a_slow_line() {
    let mut seconds = Vec::new();
    for parallel in [1, 2, 4] {
        let region = Region::with(|_, bucket| {
            let faulty = FaultyBucket::new(bucket, 1);
            let latency = Duration::from_millis(30);
            faulty.set(Faults {
                latency_least: latency,
                latency_most: latency,
                ..Faults::default()
            });
            Arc::new(faulty)
        });
        let replicator = start(
            &region,
            ReplicatorOptions {
                parallel,
                ..ReplicatorOptions::default()
            },
        )
        .await;
        let begin = Instant::now();
        let tasks = (0..200).map(|number| copy_of(region.store(number, 10, PRIMARY), Side::Target));
        replicator.submit(tasks.collect());
        outcomes(&region, 200).await;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    assert!((1.9..2.1).contains(&(seconds[0] / seconds[1])), "{seconds:?}");
    assert!((1.9..2.1).contains(&(seconds[1] / seconds[2])), "{seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_what_runs_reports_it_and_begins_nothing_more() {
    let region = Region::with(|_, bucket| {
        let faulty = FaultyBucket::new(bucket, 1);
        let latency = Duration::from_secs(1);
        faulty.set(Faults {
            latency_least: latency,
            latency_most: latency,
            ..Faults::default()
        });
        Arc::new(faulty)
    });
    let replicator = Replicator::new(
        region.pair.clone(),
        ReplicatorOptions {
            parallel: 4,
            ..ReplicatorOptions::default()
        },
    );
    let session = region.service.session().await;
    let running = tokio::spawn({
        let replicator = replicator.clone();
        async move { replicator.run(session).await }
    });
    let tasks: Vec<_> = (0..100)
        .map(|number| copy_of(region.store(number, 10, PRIMARY), Side::Target))
        .collect();
    replicator.submit(tasks.clone());
    tokio::time::sleep(Duration::from_millis(500)).await;
    replicator.stop();
    running.await.unwrap();
    assert_eq!(region.service.reports().len(), 4);
    replicator.submit(tasks);
    assert_eq!(region.buckets[1].keys().len(), 4);
    assert_eq!(region.service.lock().objects[&id(0)].present, Sides::BOTH);
}
