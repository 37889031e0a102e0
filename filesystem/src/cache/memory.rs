//! Blocks in memory: sharded, bounded in bytes, evicted by S3-FIFO.
//!
//! S3-FIFO (three queues): a new block enters a *small* queue of a tenth of the space; a block that is read again before
//! it reaches the end moves to the *main* queue, others leave and only their key is kept for a while in a *ghost* queue,
//! so that a block that comes back soon goes to the main queue at once. A scan through a file larger than the cache
//! therefore passes through the small queue and leaves the main queue alone.
//!
//! Invariants: the bytes of a shard never exceed its share of the limit; a key is in at most one of the queues; a block is
//! never changed, because its key names an immutable object.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use twinshore_protocol::ObjectId;

use super::CacheCounters;

/// What a block is found by: the object and the number of the block in it.
pub type BlockKey = (ObjectId, u64);

/// Enough that readers on all cores of a node rarely meet; a power of two.
const SHARDS: usize = 16;

/// What an entry costs beyond its content: key, table slot, queue slot and the allocation's header.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// The share of a shard that new blocks may fill before they have to prove themselves, in tenths.
const SMALL_TENTHS: usize = 1;

/// A block read this often in the main queue survives this many turns of it.
const FREQUENCY_MAX: u8 = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

struct Entry {
    content: Bytes,
    frequency: u8,
    queue: Queue,
}

impl Entry {
    fn cost_bytes(&self) -> usize {
        self.content.len() + ENTRY_OVERHEAD_BYTES
    }
}

#[derive(Default)]
struct Shard {
    entries: HashMap<BlockKey, Entry>,
    small: VecDeque<BlockKey>,
    main: VecDeque<BlockKey>,
    ghost: VecDeque<BlockKey>,
    ghost_keys: HashSet<BlockKey>,
    small_bytes: usize,
    main_bytes: usize,
}

/// What an insertion changed, for the counters.
#[derive(Default)]
struct Change {
    added_bytes: usize,
    evicted_bytes: usize,
    evicted_blocks: u64,
}

impl Shard {
    fn get(&mut self, key: &BlockKey) -> Option<Bytes> {
        let entry = self.entries.get_mut(key)?;
        entry.frequency = (entry.frequency + 1).min(FREQUENCY_MAX);
        Some(entry.content.clone())
    }

    fn insert(&mut self, key: BlockKey, content: Bytes, limit_bytes: usize) -> Change {
        let mut change = Change::default();
        let cost = content.len() + ENTRY_OVERHEAD_BYTES;
        if cost > limit_bytes || self.entries.contains_key(&key) {
            return change;
        }
        while self.small_bytes + self.main_bytes + cost > limit_bytes {
            if !self.evict_one(limit_bytes, &mut change) {
                return change;
            }
        }
        // A key that left not long ago comes back: it is used more often than the small queue could see.
        let queue = if self.ghost_keys.remove(&key) {
            Queue::Main
        } else {
            Queue::Small
        };
        match queue {
            Queue::Small => {
                self.small.push_back(key);
                self.small_bytes += cost;
            }
            Queue::Main => {
                self.main.push_back(key);
                self.main_bytes += cost;
            }
        }
        self.entries.insert(
            key,
            Entry {
                content,
                frequency: 0,
                queue,
            },
        );
        change.added_bytes = cost;
        change
    }

    /// Drops one block, or moves blocks between queues until it can. Answers false if there is nothing to drop.
    fn evict_one(&mut self, limit_bytes: usize, change: &mut Change) -> bool {
        loop {
            let small_is_full = self.small_bytes * 10 > limit_bytes * SMALL_TENTHS;
            if small_is_full || self.main.is_empty() {
                let Some(key) = self.small.pop_front() else {
                    return false;
                };
                let Some(entry) = self.entries.get_mut(&key) else {
                    continue;
                };
                let cost = entry.cost_bytes();
                self.small_bytes -= cost;
                if entry.frequency > 0 {
                    entry.frequency = 0;
                    entry.queue = Queue::Main;
                    self.main.push_back(key);
                    self.main_bytes += cost;
                } else {
                    self.drop_entry(&key, change);
                    self.remember_ghost(key);
                    return true;
                }
            } else {
                let Some(key) = self.main.pop_front() else {
                    return false;
                };
                let Some(entry) = self.entries.get_mut(&key) else {
                    continue;
                };
                if entry.frequency > 0 {
                    entry.frequency -= 1;
                    self.main.push_back(key);
                } else {
                    self.main_bytes -= entry.cost_bytes();
                    self.drop_entry(&key, change);
                    return true;
                }
            }
        }
    }

    fn drop_entry(&mut self, key: &BlockKey, change: &mut Change) {
        if let Some(entry) = self.entries.remove(key) {
            change.evicted_bytes += entry.cost_bytes();
            change.evicted_blocks += 1;
        }
    }

    fn remember_ghost(&mut self, key: BlockKey) {
        // As many ghosts as blocks: a key costs a thousandth of a block.
        while self.ghost.len() > self.entries.len().max(64) {
            if let Some(oldest) = self.ghost.pop_front() {
                self.ghost_keys.remove(&oldest);
            }
        }
        if self.ghost_keys.insert(key) {
            self.ghost.push_back(key);
        }
    }
}

/// Blocks in memory.
pub struct MemoryCache {
    shards: Vec<Mutex<Shard>>,
    shard_limit_bytes: usize,
    counters: Arc<CacheCounters>,
}

impl MemoryCache {
    /// An empty cache of at most `limit_bytes`, its own bookkeeping included. 0 caches nothing.
    pub fn new(limit_bytes: usize, counters: Arc<CacheCounters>) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect();
        Self {
            shards,
            shard_limit_bytes: limit_bytes / SHARDS,
            counters,
        }
    }

    /// A block, if it is here.
    pub fn get(&self, key: &BlockKey) -> Option<Bytes> {
        let found = self.shard(key).get(key);
        let counter = if found.is_some() {
            &self.counters.memory_hits
        } else {
            &self.counters.memory_misses
        };
        CacheCounters::add(counter, 1);
        found
    }

    /// The same for a caller that will ask again with [`MemoryCache::get`] if it is not: only a hit is counted.
    pub fn peek(&self, key: &BlockKey) -> Option<Bytes> {
        let found = self.shard(key).get(key)?;
        CacheCounters::add(&self.counters.memory_hits, 1);
        Some(found)
    }

    /// Takes a block in, at the expense of others. The content is copied when it is part of something larger, because a
    /// slice would keep the whole buffer that was fetched alive and break the bound.
    pub fn insert(&self, key: BlockKey, content: &Bytes) {
        if content.len() + ENTRY_OVERHEAD_BYTES > self.shard_limit_bytes {
            return;
        }
        let own = Bytes::copy_from_slice(content);
        let change = self.shard(&key).insert(key, own, self.shard_limit_bytes);
        CacheCounters::add(&self.counters.memory_bytes, change.added_bytes as u64);
        CacheCounters::subtract(&self.counters.memory_bytes, change.evicted_bytes as u64);
        CacheCounters::add(&self.counters.memory_evictions, change.evicted_blocks);
    }

    fn shard(&self, key: &BlockKey) -> MutexGuard<'_, Shard> {
        // Fibonacci hashing: neighbouring blocks of one object go to different shards.
        let mixed = (key.0.number ^ key.0.epoch.0.rotate_left(32))
            .wrapping_add(key.1)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let index = usize::try_from(mixed >> 60).unwrap_or(0) % SHARDS;
        // A panic elsewhere cannot leave a shard half changed in a way that matters: blocks are immutable.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
