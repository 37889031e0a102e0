//! Blocks of objects, from the cache or from a bucket: each is fetched once, however many readers wait for it.
//!
//! Neighbouring blocks are fetched together by a task of their own, so that a reader that gives up takes nothing away from the
//! others. A block that is neither found nor under way starts a fetch. What arrives lies in one piece of memory and stays there: the
//! cache keeps that piece, and readers are answered with slices of it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use twinshore_protocol::{Errno, ObjectId, Sides};
use twinshore_storage::object::BLOCK_BYTES;
use twinshore_storage::pair::PairError;

use super::budget::Budget;
use super::core::Core;
use super::inode::lock;
use super::interface::{BlockRun, Origin};

/// Content bytes in a block.
pub const BLOCK: u64 = BLOCK_BYTES as u64;

/// Blocks fetched in one request at most: 4 MiB.
const FETCH_BLOCKS_MAX: u64 = 64;

/// Why blocks could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchFailure {
    /// Both buckets answered and neither has it intact. If the extents were old, newer ones may name another object.
    Lost,
    /// No bucket answers.
    Unavailable,
}

impl FetchFailure {
    /// What the program is told. Never zeros.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Lost | Self::Unavailable => Errno::InputOutput,
        }
    }
}

type Outcome = Result<Arc<Vec<BlockRun>>, FetchFailure>;

/// Blocks that are on their way.
#[derive(Clone)]
struct Fetch {
    end_block: u64,
    arrival: Arc<Arrival>,
}

/// What becomes of a fetch. Wakes those who wait in their order (a `watch` would wake them in a random one).
#[derive(Default)]
struct Arrival {
    outcome: OnceLock<Outcome>,
    arrived: Notify,
}

impl Arrival {
    async fn wait(&self) -> Outcome {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            arrived.await;
        }
    }
}

/// Nobody waits in vain, whatever becomes of the task that fetches.
struct Fetching(Arc<Arrival>);

impl Drop for Fetching {
    fn drop(&mut self) {
        // The first outcome counts.
        let _ = self.0.outcome.set(Err(FetchFailure::Unavailable));
        self.0.arrived.notify_waiters();
    }
}

/// What is under way.
pub struct Fetches {
    under_way: Mutex<HashMap<(ObjectId, u64), Fetch>>,
    downloads: Semaphore,
    /// Bytes being fetched ahead.
    pub readahead: Budget,
}

impl Fetches {
    /// At most so many downloads, and so many bytes fetched ahead.
    pub fn new(downloads: usize, readahead_bytes: u64) -> Self {
        Self {
            under_way: Mutex::new(HashMap::new()),
            downloads: Semaphore::new(downloads),
            readahead: Budget::new(readahead_bytes),
        }
    }
}

enum Slot {
    Found(BlockRun),
    /// This much of it is wanted.
    Coming(Fetch),
}

impl Slot {
    fn end_block(&self) -> u64 {
        match self {
            Self::Found(run) => run.end_block(),
            Self::Coming(fetch) => fetch.end_block,
        }
    }
}

/// A range of an object's content that has been asked for.
pub struct Pending {
    content: Range<u64>,
    slots: Vec<Slot>,
}

impl Pending {
    /// Waits for everything and calls `each` with consecutive parts of the range, as few as can be.
    pub async fn resolve(self, mut each: impl FnMut(Bytes)) -> Result<(), FetchFailure> {
        let Range { start: mut at, end } = self.content;
        for slot in self.slots {
            match slot {
                Slot::Found(run) => at = give(&run, at, end, &mut each),
                Slot::Coming(fetch) => {
                    for run in fetch.arrival.wait().await?.iter() {
                        at = give(run, at, end, &mut each);
                    }
                }
            }
        }
        if at < end { Err(FetchFailure::Lost) } else { Ok(()) }
    }
}

/// Passes on the part of the run from `at` to `end`, if it begins in the run. Returns where it ended.
fn give(run: &BlockRun, at: u64, end: u64, each: &mut impl FnMut(Bytes)) -> u64 {
    let Some(from) = at.checked_sub(run.first_block * BLOCK) else {
        return at;
    };
    let length = run.content.len() as u64;
    let to = (from + end.saturating_sub(at)).min(length);
    if from >= to {
        return at;
    }
    // Both are within the content, which is in memory.
    #[allow(clippy::cast_possible_truncation)]
    each(run.content.slice(from as usize..to as usize));
    at + (to - from)
}

impl Core {
    /// The range if all of it is in memory.
    pub fn peek_content(&self, object: ObjectId, content: &Range<u64>) -> Option<Vec<Bytes>> {
        let mut parts = Vec::new();
        let mut at = content.start;
        while at < content.end {
            let first_block = at / BLOCK;
            let content_of_run = self.blocks.peek(object, first_block)?;
            let run = BlockRun {
                first_block,
                content: content_of_run,
            };
            let next = give(&run, at, content.end, &mut |part| parts.push(part));
            // The block ends before the range does: not what the extents promise. Whoever waits will hear of it.
            if next == at {
                return None;
            }
            at = next;
        }
        Some(parts)
    }

    /// Asks for a range of an object's content, which must lie within it. What is not there starts to be fetched now.
    pub fn request_content(
        self: &Arc<Self>,
        object: ObjectId,
        present: Sides,
        content: Range<u64>,
    ) -> Pending {
        let last = content.end.div_ceil(BLOCK);
        let mut slots = Vec::new();
        let mut under_way = lock(&self.fetches.under_way);
        let mut block = content.start / BLOCK;
        while block < last {
            if let Some(slot) = self.known_block(&under_way, object, block) {
                block = slot.end_block().max(block + 1);
                slots.push(slot);
                continue;
            }
            let first_block = block;
            block += 1;
            let mut following = None;
            while block < last && block - first_block < FETCH_BLOCKS_MAX {
                following = self.known_block(&under_way, object, block);
                if following.is_some() {
                    break;
                }
                block += 1;
            }
            let arrival = Arc::<Arrival>::default();
            let fetching = Fetching(Arc::clone(&arrival));
            let fetch = Fetch {
                end_block: block,
                arrival,
            };
            for number in first_block..block {
                under_way.insert((object, number), fetch.clone());
            }
            slots.push(Slot::Coming(fetch));
            let core = Arc::clone(self);
            let blocks = first_block..block;
            let end = content.end.min(block * BLOCK);
            self.runtime.spawn(async move {
                let result = core.fetch(object, present, blocks.clone(), end).await;
                {
                    let mut under_way = lock(&core.fetches.under_way);
                    for number in blocks {
                        under_way.remove(&(object, number));
                    }
                }
                let _ = fetching.0.outcome.set(result.map(Arc::new));
            });
            if let Some(slot) = following {
                block = slot.end_block().max(block + 1);
                slots.push(slot);
            }
        }
        Pending { content, slots }
    }

    fn known_block(
        &self,
        under_way: &HashMap<(ObjectId, u64), Fetch>,
        object: ObjectId,
        block: u64,
    ) -> Option<Slot> {
        if let Some(fetch) = under_way.get(&(object, block)) {
            return Some(Slot::Coming(fetch.clone()));
        }
        let content = self.blocks.peek(object, block)?;
        Some(Slot::Found(BlockRun {
            first_block: block,
            content,
        }))
    }

    /// Gets blocks from the slower level of the cache, and the rest from a bucket. `end` is an end of the content that is
    /// known to exist: the last block may be shorter than a block, but reaches at least to there.
    async fn fetch(
        self: &Arc<Self>,
        object: ObjectId,
        present: Sides,
        blocks: Range<u64>,
        end: u64,
    ) -> Result<Vec<BlockRun>, FetchFailure> {
        let cached = self.blocks.get(object, blocks.clone()).await;
        let mut found = Vec::with_capacity(1);
        let mut block = blocks.start;
        for run in cached {
            if block < run.first_block {
                found.push(
                    self.download(object, present, block..run.first_block, end)
                        .await?,
                );
            }
            block = run.end_block();
            found.push(run);
        }
        if block < blocks.end {
            found.push(self.download(object, present, block..blocks.end, end).await?);
        }
        Ok(found)
    }

    async fn download(
        self: &Arc<Self>,
        object: ObjectId,
        present: Sides,
        blocks: Range<u64>,
        end: u64,
    ) -> Result<BlockRun, FetchFailure> {
        let _permit = self.fetches.downloads.acquire().await.ok();
        let content = blocks.start * BLOCK..(blocks.end * BLOCK).min(end);
        let fetched = self
            .buckets
            .fetch(object, present, content)
            .await
            .map_err(|error| {
                tracing::warn!(%object, %error, "content could not be read");
                match error {
                    PairError::Missing { .. } | PairError::Damaged { .. } => FetchFailure::Lost,
                    PairError::Unavailable { .. } => FetchFailure::Unavailable,
                }
            })?;
        if fetched.near_missing || fetched.near_damaged {
            self.repair_near(object);
        }
        let run = BlockRun {
            first_block: fetched.first_block,
            content: fetched.content,
        };
        self.blocks.insert(object, run.clone(), Origin::Fetched);
        Ok(run)
    }
}
