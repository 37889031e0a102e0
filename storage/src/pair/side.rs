//! One side of the pair: its bucket, which can be exchanged, its health, and what runs on it.

use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use twinshore_protocol::Side;

use super::counters::Counting;
use crate::bucket::{Bucket, BucketError};
use crate::health::{Admission, Breaker, BreakerState, Latencies};
use crate::object::ObjectError;

/// What a bucket is used for. Reads and writes have a breaker each: a full or read-only bucket still reads well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
}

/// How a bucket is doing, for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketHealth {
    /// There is a bucket on this side.
    pub configured: bool,
    /// The breaker of reads.
    pub reads: BreakerState,
    /// The breaker of writes.
    pub writes: BreakerState,
    /// The median latency of reads of at most 256 KiB.
    pub small_read_median: Option<Duration>,
    /// The 95th percentile of the same.
    pub small_read_p95: Option<Duration>,
    /// The last failure, until a request succeeds.
    pub last_error: Option<String>,
}

impl BucketHealth {
    /// Is there a bucket, and is it used for everything?
    pub fn is_good(&self) -> bool {
        self.configured && self.reads == BreakerState::Closed && self.writes == BreakerState::Closed
    }
}

/// Why an attempt on one side did not work.
#[derive(Clone, Debug)]
pub(super) enum AttemptError {
    /// The bucket does not hold the object.
    Missing,
    /// What it holds is not what was stored.
    Damaged(ObjectError),
    /// It did not answer, or refused.
    Failed(String),
}

impl From<BucketError> for AttemptError {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::NotFound { .. } => Self::Missing,
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<ObjectError> for AttemptError {
    fn from(error: ObjectError) -> Self {
        Self::Damaged(error)
    }
}

pub(super) struct SideState {
    pub(super) side: Side,
    bucket: RwLock<Option<Arc<dyn Bucket>>>,
    health: Mutex<Health>,
    pub(super) counting: Counting,
    slots: Arc<Semaphore>,
}

/// The health of the bucket that is here now.
#[derive(Default)]
struct Health {
    /// Grows when the bucket is exchanged: what the old one did says nothing about the new one.
    generation: u64,
    reads: Breaker,
    writes: Breaker,
    read_latencies: Latencies,
    write_latencies: Latencies,
    last_error: Option<String>,
}

impl Health {
    fn breaker(&mut self, usage: Use) -> &mut Breaker {
        match usage {
            Use::Read => &mut self.reads,
            Use::Write => &mut self.writes,
        }
    }

    fn latencies(&mut self, usage: Use) -> &mut Latencies {
        match usage {
            Use::Read => &mut self.read_latencies,
            Use::Write => &mut self.write_latencies,
        }
    }
}

/// How patient an attempt is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// After this long without an answer it counts as failed for the breaker, although it goes on.
    pub(super) suspicious: Duration,
    /// After this long it is given up.
    pub(super) limit: Duration,
}

impl SideState {
    pub(super) fn new(side: Side, bucket: Option<Arc<dyn Bucket>>, slots: usize) -> Self {
        Self {
            side,
            bucket: RwLock::new(bucket),
            health: Mutex::default(),
            counting: Counting::default(),
            slots: Arc::new(Semaphore::new(slots)),
        }
    }

    pub(super) fn bucket(&self) -> Option<Arc<dyn Bucket>> {
        self.bucket.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn replace(&self, bucket: Option<Arc<dyn Bucket>>) {
        // In this order no attempt can pair the new bucket with the old generation.
        let mut health = self.health();
        *health = Health {
            generation: health.generation + 1,
            ..Health::default()
        };
        *self.bucket.write().unwrap_or_else(PoisonError::into_inner) = bucket;
    }

    pub(super) fn admit(&self, usage: Use) -> Admission {
        self.health().breaker(usage).admit(Instant::now())
    }

    pub(super) fn would_admit(&self, usage: Use) -> bool {
        self.health().breaker(usage).would_admit(Instant::now())
    }

    /// The 95th percentile of the latency of requests of so many bytes.
    pub(super) fn p95(&self, usage: Use, bytes: u64) -> Option<Duration> {
        self.health().latencies(usage).p95(bytes)
    }

    pub(super) fn report(&self) -> BucketHealth {
        let configured = self.bucket().is_some();
        let health = self.health();
        BucketHealth {
            configured,
            reads: health.reads.state(),
            writes: health.writes.state(),
            small_read_median: health.read_latencies.median(1),
            small_read_p95: health.read_latencies.p95(1),
            last_error: health.last_error.clone(),
        }
    }

    /// Runs one attempt on the bucket and reports its outcome to the breaker. Runs to its end or its limit even if
    /// nobody waits for it any more, so that a bucket that hangs is noticed although a faster one has answered.
    pub(super) async fn attempt<T, F, Fut>(
        self: Arc<Self>,
        usage: Use,
        bytes: u64,
        patience: Patience,
        operation: F,
    ) -> Result<T, AttemptError>
    where
        F: FnOnce(Requests) -> Fut + Send,
        Fut: Future<Output = Result<T, AttemptError>> + Send,
    {
        let slots = Arc::clone(&self.slots);
        let waited = tokio::time::timeout(patience.limit, slots.acquire_owned()).await;
        let Ok(Ok(_slot)) = waited else {
            return Err(AttemptError::Failed("too many requests are under way".to_owned()));
        };
        let (bucket, generation) = {
            let health = self.health();
            (self.bucket(), health.generation)
        };
        let Some(bucket) = bucket else {
            return Err(AttemptError::Failed("there is no bucket on this side".to_owned()));
        };
        let started = Instant::now();
        let running = operation(Requests {
            bucket,
            side: Arc::clone(&self),
        });
        let suspected = AtomicBool::new(false);
        let watched = async {
            tokio::pin!(running);
            tokio::select! {
                biased;
                outcome = &mut running => return outcome,
                () = tokio::time::sleep(patience.suspicious.min(patience.limit)) => {}
            }
            suspected.store(true, Ordering::Relaxed);
            self.failed(
                usage,
                generation,
                format!("no answer after {:.1} s", patience.suspicious.as_secs_f64()),
            );
            running.await
        };
        let outcome = match tokio::time::timeout(patience.limit, watched).await {
            Ok(outcome) => outcome,
            Err(_) => Err(AttemptError::Failed(format!(
                "no answer after {:.1} s",
                patience.limit.as_secs_f64()
            ))),
        };
        match &outcome {
            Ok(_) => self.answered(usage, generation, Some((bytes, started.elapsed()))),
            Err(AttemptError::Missing | AttemptError::Damaged(_)) => self.answered(usage, generation, None),
            Err(AttemptError::Failed(what)) => {
                self.counting.failures.one();
                // One hanging request is one failure, not two.
                if !suspected.load(Ordering::Relaxed) {
                    self.failed(usage, generation, what.clone());
                }
            }
        }
        outcome
    }

    fn answered(&self, usage: Use, generation: u64, latency: Option<(u64, Duration)>) {
        let mut health = self.health();
        if health.generation == generation {
            health.breaker(usage).answered();
            health.last_error = None;
            if let Some((bytes, latency)) = latency {
                health.latencies(usage).record(bytes, latency);
            }
        }
    }

    fn failed(&self, usage: Use, generation: u64, what: String) {
        let mut health = self.health();
        if health.generation == generation {
            let before = health.breaker(usage).state();
            health.breaker(usage).failed(Instant::now());
            if before == BreakerState::Closed && health.breaker(usage).state() == BreakerState::Open {
                tracing::warn!(side = %self.side, ?usage, error = what, "the bucket fails and is left alone for a while");
            }
            health.last_error = Some(what);
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // Every critical section is a few assignments of plain values.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bucket whose requests are counted.
pub(super) struct Requests {
    bucket: Arc<dyn Bucket>,
    side: Arc<SideState>,
}

impl Requests {
    pub(super) async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        self.side.counting.reads.one();
        let bytes = self.bucket.get(key, range).await?;
        self.side.counting.read_bytes.add(bytes.len() as u64);
        Ok(bytes)
    }

    pub(super) async fn put(&self, key: &str, body: Bytes, checksum: u32) -> Result<(), BucketError> {
        let length = body.len() as u64;
        self.bucket.put_with_checksum(key, body, checksum).await?;
        self.side.counting.stores.one();
        self.side.counting.stored_bytes.add(length);
        Ok(())
    }

    pub(super) async fn size(&self, key: &str) -> Result<u64, BucketError> {
        self.bucket.size(key).await
    }
}
