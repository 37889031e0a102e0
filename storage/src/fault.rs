//! A bucket with faults: for tests and the simulation.
//!
//! Every fault of a store that a client can see: slow, down (refusing or hanging), an error before anything was done, an error
//! after everything was done (the reply is lost), answers damaged or cut short, listings that lag behind. Deterministic:
//! the same seed and the same calls give the same faults; time is `tokio`'s.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::bucket::{Bucket, BucketError, Listed};

/// Which faults happen. The default has none.
#[allow(clippy::struct_excessive_bools)] // Independent switches: every combination is a store that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The store refuses every connection.
    pub down: bool,
    /// The store accepts every request and never answers.
    pub hanging: bool,
    /// The store refuses to store (a full disk), and does everything else.
    pub full: bool,
    /// The credentials are refused.
    pub denied: bool,
    /// How long an answer takes, at least.
    pub latency_least: Duration,
    /// How long an answer takes, at most.
    pub latency_most: Duration,
    /// Of a thousand requests, how many fail before anything is done.
    pub errors_before_per_mille: u32,
    /// Of a thousand requests, how many are carried out and then fail: the reply is lost.
    pub errors_after_per_mille: u32,
    /// Of a thousand answers to `get`, how many have a bit flipped.
    pub damaged_per_mille: u32,
    /// Of a thousand answers to `get`, how many end too early.
    pub cut_per_mille: u32,
    /// How long a stored object is missing from listings.
    pub listing_lag: Duration,
}

/// How many faults have happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Requests.
    pub requests: u64,
    /// Requests that failed before anything was done.
    pub errors_before: u64,
    /// Requests whose reply was lost.
    pub errors_after: u64,
    /// Answers that were damaged or cut short.
    pub damaged: u64,
}

/// A bucket with faults around another one. Clones share their faults.
#[derive(Clone)]
pub struct FaultyBucket {
    inner: Arc<dyn Bucket>,
    state: Arc<Mutex<State>>,
}

struct State {
    random: StdRng,
    faults: Faults,
    counts: FaultCounts,
    stored: BTreeMap<String, Instant>,
}

/// What happens to one request.
struct Fate {
    latency: Duration,
    before: bool,
    after: bool,
    faults: Faults,
}

impl FaultyBucket {
    /// A bucket around another one, with no faults yet.
    pub fn new(inner: Arc<dyn Bucket>, seed: u64) -> Self {
        let state = State {
            random: StdRng::seed_from_u64(seed),
            faults: Faults::default(),
            counts: FaultCounts::default(),
            stored: BTreeMap::new(),
        };
        Self {
            inner,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Sets the faults from now on. Requests under way keep the fate they have, but for `down` and `hanging`.
    pub fn set(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Changes the faults from now on.
    pub fn change(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    /// How many faults have happened.
    pub fn counts(&self) -> FaultCounts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves plain values behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what happens to a request, waits as long as it takes, and fails it if it fails before anything is done.
    async fn begin(&self, what: &str, stores: bool) -> Result<Fate, BucketError> {
        let fate = self.lock().decide();
        let error = |said: &str| BucketError::Unavailable {
            what: format!("{what}: {said}"),
        };
        if fate.faults.down {
            return Err(error("connection refused"));
        }
        tokio::time::sleep(fate.latency).await;
        // A store that hangs (or goes down) does so for the requests that it already has, too.
        if self.lock().faults.hanging {
            std::future::pending::<()>().await;
        }
        if self.lock().faults.down {
            return Err(error("connection reset"));
        }
        if fate.faults.denied {
            return Err(BucketError::Denied {
                what: format!("{what}: access denied"),
            });
        }
        if fate.before {
            self.lock().counts.errors_before += 1;
            return Err(error("internal error"));
        }
        if stores && fate.faults.full {
            return Err(error("no space left"));
        }
        Ok(fate)
    }

    /// Fails a request that has been carried out, if its reply is lost.
    fn end<T>(&self, what: &str, fate: &Fate, value: T) -> Result<T, BucketError> {
        if fate.after || self.lock().faults.down {
            self.lock().counts.errors_after += 1;
            return Err(BucketError::Unavailable {
                what: format!("{what}: the connection broke before the answer"),
            });
        }
        Ok(value)
    }

    /// Damages an answer, or not.
    fn received(&self, fate: &Fate, bytes: Bytes) -> Bytes {
        let mut state = self.lock();
        if bytes.is_empty() {
            return bytes;
        }
        if state.happens(fate.faults.damaged_per_mille) {
            state.counts.damaged += 1;
            let (at, bit) = (
                state.random.random_range(0..bytes.len()),
                state.random.random_range(0..8),
            );
            let mut damaged = BytesMut::from(&bytes[..]);
            damaged[at] ^= 1 << bit;
            return damaged.freeze();
        }
        if state.happens(fate.faults.cut_per_mille) {
            state.counts.damaged += 1;
            let length = state.random.random_range(0..bytes.len());
            return bytes.slice(..length);
        }
        bytes
    }
}

impl State {
    fn happens(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.random.random_range(0..1_000) < per_mille
    }

    fn decide(&mut self) -> Fate {
        self.counts.requests += 1;
        let faults = self.faults.clone();
        let spread = faults.latency_most.saturating_sub(faults.latency_least);
        let microseconds = u64::try_from(spread.as_micros()).unwrap_or(u64::MAX);
        let extra = if microseconds == 0 {
            0
        } else {
            self.random.random_range(0..=microseconds)
        };
        let latency = faults.latency_least + Duration::from_micros(extra);
        let before = self.happens(faults.errors_before_per_mille);
        let after = self.happens(faults.errors_after_per_mille);
        Fate {
            latency,
            before,
            after,
            faults,
        }
    }
}

#[async_trait]
impl Bucket for FaultyBucket {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), BucketError> {
        let what = format!("put {key}");
        let fate = self.begin(&what, true).await?;
        self.inner.put(key, body).await?;
        self.lock().stored.insert(key.to_owned(), Instant::now());
        self.end(&what, &fate, ())
    }

    async fn put_with_checksum(&self, key: &str, body: Bytes, checksum: u32) -> Result<(), BucketError> {
        let what = format!("put {key}");
        let fate = self.begin(&what, true).await?;
        self.inner.put_with_checksum(key, body, checksum).await?;
        self.lock().stored.insert(key.to_owned(), Instant::now());
        self.end(&what, &fate, ())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        let what = format!("get {key}");
        let fate = self.begin(&what, false).await?;
        let bytes = self.inner.get(key, range).await?;
        let bytes = self.received(&fate, bytes);
        self.end(&what, &fate, bytes)
    }

    async fn size(&self, key: &str) -> Result<u64, BucketError> {
        let what = format!("head {key}");
        let fate = self.begin(&what, false).await?;
        let size = self.inner.size(key).await?;
        self.end(&what, &fate, size)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), BucketError> {
        let what = format!("delete of {} keys", keys.len());
        let fate = self.begin(&what, false).await?;
        self.inner.delete(keys).await?;
        self.end(&what, &fate, ())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, BucketError> {
        let what = format!("list {prefix}");
        let fate = self.begin(&what, false).await?;
        let hidden: Vec<String> = {
            let mut state = self.lock();
            let now = Instant::now();
            let lag = fate.faults.listing_lag;
            state.stored.retain(|_, stored| now.duration_since(*stored) < lag);
            state.stored.keys().cloned().collect()
        };
        // As many more as may be hidden, so that a page that is not full is the last.
        let mut listed = self
            .inner
            .list(prefix, after, limit.saturating_add(hidden.len()))
            .await?;
        listed.retain(|object| hidden.binary_search(&object.key).is_err());
        listed.truncate(limit);
        self.end(&what, &fate, listed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::memory::MemoryBucket;

    fn bucket(seed: u64) -> (MemoryBucket, FaultyBucket) {
        let memory = MemoryBucket::new();
        (memory.clone(), FaultyBucket::new(Arc::new(memory), seed))
    }

    async fn history(seed: u64) -> Vec<String> {
        let (_, bucket) = bucket(seed);
        bucket.set(Faults {
            latency_most: Duration::from_millis(100),
            errors_before_per_mille: 200,
            errors_after_per_mille: 200,
            damaged_per_mille: 200,
            cut_per_mille: 200,
            ..Faults::default()
        });
        let start = Instant::now();
        let mut history = Vec::new();
        for n in 0..50 {
            let put = bucket
                .put(&format!("k{}", n % 5), Bytes::from(vec![n; 100]))
                .await;
            let get = bucket.get(&format!("k{}", n % 3), None).await;
            history.push(format!("{:?} {put:?} {get:?}", start.elapsed()));
        }
        history
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_gives_the_same_faults_and_another_seed_others() {
        assert_eq!(history(7).await, history(7).await);
        assert_ne!(history(7).await, history(8).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_reply_has_its_effect_and_an_early_error_has_none() {
        let (memory, bucket) = bucket(1);
        bucket.set(Faults {
            errors_after_per_mille: 1_000,
            ..Faults::default()
        });
        assert!(bucket.put("after", Bytes::from_static(b"x")).await.is_err());
        bucket.set(Faults {
            errors_before_per_mille: 1_000,
            ..Faults::default()
        });
        assert!(bucket.put("before", Bytes::from_static(b"x")).await.is_err());
        assert_eq!(memory.keys(), ["after"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_lags_behind_and_catches_up() {
        let (_, bucket) = bucket(1);
        bucket.put("old", Bytes::new()).await.unwrap();
        bucket.set(Faults {
            listing_lag: Duration::from_secs(5),
            ..Faults::default()
        });
        tokio::time::sleep(Duration::from_secs(6)).await;
        bucket.put("new", Bytes::new()).await.unwrap();
        let keys = |listed: Vec<Listed>| listed.into_iter().map(|object| object.key).collect::<Vec<_>>();
        assert_eq!(keys(bucket.list("", None, 10).await.unwrap()), ["old"]);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(keys(bucket.list("", None, 10).await.unwrap()), ["new", "old"]);
    }
}
