//! Blocks of objects near at hand: in memory, and below that on a local disk.
//!
//! A block is [`twinshore_storage::object::BLOCK_BYTES`] of an object's decoded content. Its key names an immutable object, so a
//! cached block is never stale and nothing is invalidated. What the caches return was verified: memory holds what was
//! verified when it was fetched, the disk verifies at every read.

mod counters;
pub mod disk;
mod memory;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use twinshore_protocol::ObjectId;

pub use self::counters::{CacheCounters, CacheSnapshot};
pub use self::disk::{DiskCache, DiskCacheError, DiskCacheOptions};
pub use self::memory::{BlockKey, MemoryCache};
use crate::vfs::BlockCache;

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

    async fn get(&self, object: ObjectId, block: u64) -> Option<Bytes> {
        let key = (object, block);
        if let Some(content) = self.memory.get(&key) {
            return Some(content);
        }
        let content = self.disk.as_ref()?.get(key).await?;
        self.memory.insert(key, &content);
        Some(content)
    }

    fn insert(&self, object: ObjectId, block: u64, content: Bytes) {
        let key = (object, block);
        self.memory.insert(key, &content);
        if let Some(disk) = &self.disk {
            disk.insert(key, &content);
        }
    }
}
