//! The two buckets of a run: memory with delays, outages, lost replies and refusals, all decided by the seed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use twinshore_metadata::archive::claim_bucket;
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::{ObjectId, Side};
use twinshore_storage::bucket::{Bucket, BucketError, Listed};
use twinshore_storage::memory::MemoryBucket;

use crate::random::Random;

/// How long a store that is down lets its clients wait before it refuses.
const OUTAGE_DELAY: Duration = Duration::from_millis(500);

/// One request in so many goes wrong while a bucket is flaky.
const FLAKY_ONE_IN: u64 = 8;

/// Both buckets. Clones are the same.
#[derive(Clone)]
pub struct Buckets {
    sides: [Arc<SimulatedBucket>; 2],
}

impl Buckets {
    /// Two empty buckets.
    pub fn new(seed: u64) -> Self {
        Self {
            sides: Side::BOTH.map(|side| Arc::new(SimulatedBucket::new(seed, side))),
        }
    }

    /// Marks both as the volume's.
    pub async fn claim(&self, format: &VolumeFormat) -> Result<(), String> {
        for side in Side::BOTH {
            claim_bucket(self.content(side), format)
                .await
                .map_err(|error| format!("the {side} bucket cannot be claimed: {error}"))?;
        }
        Ok(())
    }

    /// The bucket of a side, as a store.
    pub fn store(&self, side: Side) -> Arc<dyn Bucket> {
        self.side(side)
    }

    /// The objects of a side as they are, without a request.
    pub fn content(&self, side: Side) -> &MemoryBucket {
        &self.sides[side as usize].memory
    }

    /// Takes a bucket down or up.
    pub fn set_down(&self, side: Side, down: bool) {
        self.side(side).down.store(down, Ordering::Relaxed);
    }

    /// Lets requests of a bucket fail now and then, before or after their effect.
    pub fn set_flaky(&self, side: Side, flaky: bool) {
        self.side(side).flaky.store(flaky, Ordering::Relaxed);
    }

    /// Everything works again.
    pub fn heal(&self) {
        for side in Side::BOTH {
            self.set_down(side, false);
            self.set_flaky(side, false);
        }
    }

    fn side(&self, side: Side) -> Arc<SimulatedBucket> {
        Arc::clone(&self.sides[side as usize])
    }
}

/// The objects of file content in the bucket of a side.
pub fn stored_objects(buckets: &Buckets, side: Side) -> BTreeSet<ObjectId> {
    let keys = buckets.content(side).keys();
    keys.iter()
        .filter_map(|key| twinshore_storage::object::parse_object_key(key))
        .collect()
}

/// What becomes of a request.
enum Fate {
    Fine,
    FailsBefore,
    FailsAfter,
}

struct SimulatedBucket {
    memory: MemoryBucket,
    random: Mutex<Random>,
    down: AtomicBool,
    flaky: AtomicBool,
}

impl SimulatedBucket {
    fn new(seed: u64, side: Side) -> Self {
        Self {
            memory: MemoryBucket::new(),
            random: Mutex::new(Random::fork(seed, &format!("bucket {side}"))),
            down: AtomicBool::new(false),
            flaky: AtomicBool::new(false),
        }
    }

    async fn fate(&self) -> Fate {
        if self.down.load(Ordering::Relaxed) {
            tokio::time::sleep(OUTAGE_DELAY).await;
            return Fate::FailsBefore;
        }
        let (delay_ms, fate) = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            let delay_ms = random.between(5, 40);
            let fails = self.flaky.load(Ordering::Relaxed) && random.one_in(FLAKY_ONE_IN);
            let fate = match fails {
                false => Fate::Fine,
                true if random.one_in(2) => Fate::FailsBefore,
                true => Fate::FailsAfter,
            };
            (delay_ms, fate)
        };
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        fate
    }

    async fn request<T>(
        &self,
        what: &str,
        effect: impl Future<Output = Result<T, BucketError>>,
    ) -> Result<T, BucketError> {
        let unavailable = || BucketError::Unavailable {
            what: format!("{what}: simulated fault"),
        };
        match self.fate().await {
            Fate::Fine => effect.await,
            Fate::FailsBefore => Err(unavailable()),
            Fate::FailsAfter => {
                // The effect happens; its reply is lost.
                drop(effect.await);
                Err(unavailable())
            }
        }
    }
}

#[async_trait]
impl Bucket for SimulatedBucket {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), BucketError> {
        self.request("put", self.memory.put(key, body)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        self.request("get", self.memory.get(key, range)).await
    }

    async fn size(&self, key: &str) -> Result<u64, BucketError> {
        self.request("size", self.memory.size(key)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), BucketError> {
        self.request("delete", self.memory.delete(keys)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, BucketError> {
        self.request("list", self.memory.list(prefix, after, limit)).await
    }
}
