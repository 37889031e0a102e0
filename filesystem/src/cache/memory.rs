//! Blocks in memory: bounded in bytes, evicted by S3-FIFO.
//!
//! What is taken in and dropped is a *slab*: consecutive blocks of one object that lie in one piece of memory, as they were fetched
//! or written. Nothing is copied on the way in or out, and dropping a slab frees all of its memory, so the bound holds.
//!
//! S3-FIFO (three queues): a new slab enters a *small* queue; one that is read again before it reaches the end moves to the *main*
//! queue, others leave and only their key is kept for a while in a *ghost* queue, so that what comes back soon goes to the main
//! queue at once. The small queue has a tenth of the space, besides what was fetched ahead and has not been read yet. A scan through
//! a file larger than the cache therefore passes through the small queue and leaves the main queue alone, and is not overtaken by
//! its own readahead.
//!
//! Invariants: the bytes of all slabs never exceed the limit; a slab is in exactly one queue; a block is found in at most one
//! slab; contents never change, because their key names an immutable object.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use twinshore_protocol::ObjectId;

use super::CacheCounters;
use crate::vfs::{BlockRun, Origin};

/// What a block is found by: the object and the number of the block in it.
pub type BlockKey = (ObjectId, u64);

/// What a slab costs beyond its content: its entry, a queue slot, the allocation's header and what may surround the content.
const SLAB_OVERHEAD_BYTES: usize = 256;

/// What each block of it costs: an entry of the index.
const BLOCK_OVERHEAD_BYTES: usize = 64;

/// The share of the limit that new slabs may fill before they have to prove themselves, in tenths.
const SMALL_TENTHS: usize = 1;

/// What was fetched ahead and waits for its reader may fill this share of the limit besides, as a divisor: a reader that went
/// away does not keep the memory for long.
const EXPECTED_DIVISOR: usize = 2;

/// A slab read this often again in the main queue survives this many turns of it.
const FREQUENCY_MAX: u8 = 3;

/// Slabs whose keys are remembered at least.
const GHOSTS_MIN: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

type SlabNumber = u64;

struct Slab {
    object: ObjectId,
    run: BlockRun,
    /// Blocks before this one have been read. To read on is not to read again.
    read_until: u64,
    /// It was fetched, and nobody has read anything of it yet.
    is_expected: bool,
    frequency: u8,
    queue: Queue,
}

impl Slab {
    fn cost_bytes(&self) -> usize {
        cost_bytes(&self.run)
    }

    fn key(&self) -> BlockKey {
        (self.object, self.run.first_block)
    }
}

fn cost_bytes(run: &BlockRun) -> usize {
    let blocks = usize::try_from(run.end_block() - run.first_block).unwrap_or(usize::MAX);
    run.content.len() + SLAB_OVERHEAD_BYTES + blocks.saturating_mul(BLOCK_OVERHEAD_BYTES)
}

#[derive(Default)]
struct State {
    slabs: HashMap<SlabNumber, Slab>,
    blocks: HashMap<BlockKey, SlabNumber>,
    last: SlabNumber,
    small: VecDeque<SlabNumber>,
    main: VecDeque<SlabNumber>,
    ghost: VecDeque<BlockKey>,
    ghost_keys: HashSet<BlockKey>,
    small_bytes: usize,
    main_bytes: usize,
    /// Of the small queue.
    expected_bytes: usize,
}

/// What an insertion changed.
#[derive(Default)]
struct Change {
    added_bytes: usize,
    evicted_bytes: usize,
    evicted_blocks: u64,
    /// Freed when the lock has been given back.
    dropped: Vec<Slab>,
}

impl State {
    /// The content from the block on, and the counting of the read.
    fn get(&mut self, key: &BlockKey) -> Option<Bytes> {
        let slab = self.slabs.get_mut(self.blocks.get(key)?)?;
        if key.1 < slab.read_until {
            slab.frequency = (slab.frequency + 1).min(FREQUENCY_MAX);
        } else {
            slab.read_until = key.1 + 1;
        }
        if std::mem::take(&mut slab.is_expected) && slab.queue == Queue::Small {
            self.expected_bytes -= cost_bytes(&slab.run);
        }
        let from = usize::try_from((key.1 - slab.run.first_block) * crate::vfs::BLOCK).ok()?;
        (from < slab.run.content.len()).then(|| slab.run.content.slice(from..))
    }

    fn insert(&mut self, object: ObjectId, run: BlockRun, origin: Origin, limit_bytes: usize) -> Change {
        let mut change = Change::default();
        let keys = (run.first_block..run.end_block()).map(|block| (object, block));
        let cost = cost_bytes(&run);
        if cost > limit_bytes || keys.clone().all(|key| self.blocks.contains_key(&key)) {
            return change;
        }
        while self.small_bytes + self.main_bytes + cost > limit_bytes {
            if !self.evict_one(limit_bytes, &mut change) {
                return change;
            }
        }
        self.last += 1;
        let number = self.last;
        let is_expected = origin == Origin::Fetched;
        // What left not long ago comes back: it is used more often than the small queue could see.
        let queue = if self.ghost_keys.remove(&(object, run.first_block)) {
            self.main.push_back(number);
            self.main_bytes += cost;
            Queue::Main
        } else {
            self.small.push_back(number);
            self.small_bytes += cost;
            if is_expected {
                self.expected_bytes += cost;
            }
            Queue::Small
        };
        for key in keys {
            self.blocks.insert(key, number);
        }
        self.slabs.insert(
            number,
            Slab {
                object,
                read_until: run.first_block,
                is_expected,
                run,
                frequency: 0,
                queue,
            },
        );
        change.added_bytes = cost;
        change
    }

    /// Drops one slab, or moves slabs between queues until it can. Answers false if there is nothing to drop.
    fn evict_one(&mut self, limit_bytes: usize, change: &mut Change) -> bool {
        loop {
            let expected = self.expected_bytes.min(limit_bytes / EXPECTED_DIVISOR);
            let small_is_full = (self.small_bytes - expected) * 10 > limit_bytes * SMALL_TENTHS;
            if small_is_full || self.main.is_empty() {
                let Some(number) = self.small.pop_front() else {
                    return false;
                };
                let Some(slab) = self.slabs.get_mut(&number) else {
                    continue;
                };
                let cost = slab.cost_bytes();
                self.small_bytes -= cost;
                if slab.is_expected {
                    self.expected_bytes -= cost;
                }
                if slab.frequency > 0 {
                    slab.frequency = 0;
                    slab.queue = Queue::Main;
                    self.main.push_back(number);
                    self.main_bytes += cost;
                } else {
                    let key = slab.key();
                    self.drop_slab(number, change);
                    self.remember_ghost(key);
                    return true;
                }
            } else {
                let Some(number) = self.main.pop_front() else {
                    return false;
                };
                let Some(slab) = self.slabs.get_mut(&number) else {
                    continue;
                };
                if slab.frequency > 0 {
                    slab.frequency -= 1;
                    self.main.push_back(number);
                } else {
                    self.main_bytes -= slab.cost_bytes();
                    self.drop_slab(number, change);
                    return true;
                }
            }
        }
    }

    fn drop_slab(&mut self, number: SlabNumber, change: &mut Change) {
        let Some(slab) = self.slabs.remove(&number) else {
            return;
        };
        change.evicted_bytes += slab.cost_bytes();
        for block in slab.run.first_block..slab.run.end_block() {
            // A younger slab may hold it by now.
            let key = (slab.object, block);
            if self.blocks.get(&key) == Some(&number) {
                self.blocks.remove(&key);
                change.evicted_blocks += 1;
            }
        }
        change.dropped.push(slab);
    }

    fn remember_ghost(&mut self, key: BlockKey) {
        // As many ghosts as slabs: a key costs a thousandth of a block.
        while self.ghost.len() > self.slabs.len().max(GHOSTS_MIN) {
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
    /// One lock: what is done under it takes less than a microsecond, and readers come with up to a MiB at a time.
    state: Mutex<State>,
    limit_bytes: usize,
    counters: Arc<CacheCounters>,
}

impl MemoryCache {
    /// An empty cache of at most `limit_bytes`, its own bookkeeping included. 0 caches nothing.
    pub fn new(limit_bytes: usize, counters: Arc<CacheCounters>) -> Self {
        Self {
            state: Mutex::default(),
            limit_bytes,
            counters,
        }
    }

    /// The content from the beginning of a block on, as far as it lies together, if the block is here.
    pub fn get(&self, key: &BlockKey) -> Option<Bytes> {
        let found = self.state().get(key);
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
        let found = self.state().get(key)?;
        CacheCounters::add(&self.counters.memory_hits, 1);
        Some(found)
    }

    /// Takes blocks in, at the expense of others. Their content keeps no more memory alive than its own length: that is for
    /// whoever made it to see to.
    pub fn insert(&self, object: ObjectId, run: BlockRun, origin: Origin) {
        let change = self.state().insert(object, run, origin, self.limit_bytes);
        CacheCounters::add(&self.counters.memory_bytes, change.added_bytes as u64);
        CacheCounters::subtract(&self.counters.memory_bytes, change.evicted_bytes as u64);
        CacheCounters::add(&self.counters.memory_evictions, change.evicted_blocks);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave it half changed in a way that matters: blocks are immutable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
