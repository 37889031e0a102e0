//! Blocks of objects near at hand: in memory, and below that on a local disk.
//!
//! A block is [`twinshore_storage::object::BLOCK_BYTES`] of an object's decoded content. Its key names an immutable object, so a
//! cached block is never stale and nothing is invalidated. What the caches return was verified: memory holds what was
//! verified when it was fetched, the disk verifies at every read.

mod counters;
pub mod disk;
mod memory;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use twinshore_protocol::ObjectId;

pub use self::counters::{CacheCounters, CacheSnapshot};
pub use self::disk::{DiskCache, DiskCacheError, DiskCacheOptions};
pub use self::memory::{BlockKey, MemoryCache};
use crate::vfs::{BlockCache, BlockRun, Origin};

/// The two levels together.
pub struct TieredCache {
    memory: MemoryCache,
    disk: Option<DiskCache>,
    counters: Arc<CacheCounters>,
}

impl TieredCache {
    /// A cache of `memory_bytes`, with a level on disk if options are given.
    pub fn open(memory_bytes: usize, disk: Option<&DiskCacheOptions>) -> Result<Self, DiskCacheError> {
        let counters = Arc::new(CacheCounters::default());
        let disk = disk
            .map(|options| DiskCache::open(options, counters.clone()))
            .transpose()?;
        Ok(Self {
            memory: MemoryCache::new(memory_bytes, counters.clone()),
            disk,
            counters,
        })
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<CacheCounters> {
        self.counters.clone()
    }
}

#[async_trait]
impl BlockCache for TieredCache {
    fn peek(&self, object: ObjectId, block: u64) -> Option<Bytes> {
        self.memory.peek(&(object, block))
    }

    async fn get(&self, object: ObjectId, blocks: Range<u64>) -> Vec<BlockRun> {
        let mut found = Vec::new();
        let mut block = blocks.start;
        let mut missing = blocks.start;
        while block < blocks.end {
            let Some(content) = self.memory.get(&(object, block)) else {
                block += 1;
                continue;
            };
            self.get_from_disk(object, missing..block, &mut found).await;
            let run = BlockRun {
                first_block: block,
                content,
            };
            block = run.end_block();
            missing = block;
            found.push(run);
        }
        self.get_from_disk(object, missing..blocks.end, &mut found).await;
        found
    }

    fn insert(&self, object: ObjectId, run: BlockRun, origin: Origin) {
        if let Some(disk) = &self.disk {
            disk.insert(object, &run);
        }
        self.memory.insert(object, run, origin);
    }
}

impl TieredCache {
    async fn get_from_disk(&self, object: ObjectId, blocks: Range<u64>, found: &mut Vec<BlockRun>) {
        let Some(disk) = &self.disk else { return };
        if blocks.is_empty() {
            return;
        }
        for run in disk.get(object, blocks).await {
            self.memory.insert(object, run.clone(), Origin::Fetched);
            found.push(run);
        }
    }
}
