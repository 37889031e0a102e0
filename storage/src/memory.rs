//! A bucket in memory: for tests and the simulation.
//!
//! Deterministic: it reads no clock but `tokio`'s (or the one it is given) and orders everything by key. Faults and
//! latency come from [`crate::fault::FaultyBucket`] around it.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::bucket::{Bucket, BucketError, Listed, clipped};

/// Tells the seconds since 1970.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A bucket in memory. Clones share their objects, as two clients of one bucket do.
#[derive(Clone)]
pub struct MemoryBucket {
    objects: Arc<Mutex<BTreeMap<String, Stored>>>,
    clock: Clock,
}

struct Stored {
    body: Bytes,
    modified_seconds: i64,
}

impl Default for MemoryBucket {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBucket {
    /// An empty bucket whose objects are dated by `tokio`'s clock: seconds since the bucket was made.
    pub fn new() -> Self {
        let start = Instant::now();
        Self::with_clock(Arc::new(move || {
            i64::try_from(start.elapsed().as_secs()).unwrap_or(i64::MAX)
        }))
    }

    /// An empty bucket whose objects are dated by a clock that tells the seconds since 1970.
    pub fn with_clock(clock: Arc<dyn Fn() -> i64 + Send + Sync>) -> Self {
        Self {
            objects: Arc::default(),
            clock,
        }
    }

    /// The keys of all objects, in order.
    pub fn keys(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The bytes of an object, without a request.
    pub fn body(&self, key: &str) -> Option<Bytes> {
        self.lock().get(key).map(|stored| stored.body.clone())
    }

    /// Replaces an object behind everybody's back (or removes it, with `None`). For tests of damage and loss.
    pub fn tamper(&self, key: &str, body: Option<Bytes>) {
        let modified_seconds = (self.clock)();
        let mut objects = self.lock();
        match body {
            Some(body) => drop(objects.insert(
                key.to_owned(),
                Stored {
                    body,
                    modified_seconds,
                },
            )),
            None => drop(objects.remove(key)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Stored>> {
        // Every critical section leaves the map whole, so one that panicked has damaged nothing.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Bucket for MemoryBucket {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), BucketError> {
        self.tamper(key, Some(body));
        Ok(())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        let body = self
            .body(key)
            .ok_or_else(|| BucketError::NotFound { key: key.to_owned() })?;
        Ok(range.map_or_else(|| body.clone(), |range| body.slice(clipped(&range, body.len()))))
    }

    async fn size(&self, key: &str) -> Result<u64, BucketError> {
        let body = self
            .body(key)
            .ok_or_else(|| BucketError::NotFound { key: key.to_owned() })?;
        Ok(body.len() as u64)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), BucketError> {
        let mut objects = self.lock();
        for key in keys {
            objects.remove(key);
        }
        Ok(())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, BucketError> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let objects = self.lock();
        let listed = objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, stored)| Listed {
                key: key.clone(),
                size_bytes: stored.body.len() as u64,
                modified_seconds: stored.modified_seconds,
            })
            .collect();
        Ok(listed)
    }
}
