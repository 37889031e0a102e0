//! Blocks of objects, from the cache or from a bucket: each is fetched once, however many readers wait for it.
//!
//! A *run* is a range of neighbouring blocks fetched together by a task of its own, so that a reader that gives up takes
//! nothing away from the others. A block that is neither found nor under way starts a run.

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

/// Content bytes in a block.
pub const BLOCK: u64 = BLOCK_BYTES as u64;

/// Blocks fetched in one request at most: 4 MiB.
const RUN_BLOCKS_MAX: u64 = 64;

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

type Outcome = Result<Arc<Vec<Bytes>>, FetchFailure>;

#[derive(Clone)]
struct Run {
    first_block: u64,
    arrival: Arc<Arrival>,
}

/// What becomes of a run. Wakes those who wait in their order (a `watch` would wake them in a random one).
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
    runs: Mutex<HashMap<(ObjectId, u64), Run>>,
    downloads: Semaphore,
    /// Bytes being fetched ahead.
    pub readahead: Budget,
}

impl Fetches {
    /// At most so many downloads, and so many bytes fetched ahead.
    pub fn new(downloads: usize, readahead_bytes: u64) -> Self {
        Self {
            runs: Mutex::new(HashMap::new()),
            downloads: Semaphore::new(downloads),
            readahead: Budget::new(readahead_bytes),
        }
    }
}

enum Slot {
    Found(Bytes),
    Coming(Run),
}

/// A range of an object's content that has been asked for.
pub struct Pending {
    content: Range<u64>,
    slots: Vec<Slot>,
}

impl Pending {
    /// Waits for everything and calls `each` with consecutive parts of the range.
    pub async fn resolve(self, mut each: impl FnMut(Bytes)) -> Result<(), FetchFailure> {
        let first = self.content.start / BLOCK;
        for (block, slot) in (first..).zip(self.slots) {
            let bytes = match slot {
                Slot::Found(bytes) => bytes,
                Slot::Coming(run) => {
                    let blocks = run.arrival.wait().await?;
                    let index = usize::try_from(block - run.first_block).unwrap_or(usize::MAX);
                    blocks.get(index).cloned().ok_or(FetchFailure::Lost)?
                }
            };
            each(part(&bytes, block, &self.content).ok_or(FetchFailure::Lost)?);
        }
        Ok(())
    }
}

/// The part of a block that lies within a range of the content. `None` if the block ends too early.
fn part(bytes: &Bytes, block: u64, content: &Range<u64>) -> Option<Bytes> {
    let start = block * BLOCK;
    let from = usize::try_from(content.start.saturating_sub(start)).ok()?;
    let to = usize::try_from((content.end - start).min(BLOCK)).ok()?;
    (to <= bytes.len()).then(|| bytes.slice(from..to))
}

impl Core {
    /// The range if all of it is in memory.
    pub fn peek_content(&self, object: ObjectId, content: &Range<u64>) -> Option<Vec<Bytes>> {
        (content.start / BLOCK..content.end.div_ceil(BLOCK))
            .map(|block| part(&self.blocks.peek(object, block)?, block, content))
            .collect()
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
        let mut runs = lock(&self.fetches.runs);
        let mut block = content.start / BLOCK;
        while block < last {
            if let Some(slot) = self.known_block(&runs, object, block) {
                slots.push(slot);
                block += 1;
                continue;
            }
            let first_block = block;
            block += 1;
            let mut following = None;
            while block < last && block - first_block < RUN_BLOCKS_MAX {
                following = self.known_block(&runs, object, block);
                if following.is_some() {
                    break;
                }
                block += 1;
            }
            let arrival = Arc::<Arrival>::default();
            let fetching = Fetching(Arc::clone(&arrival));
            let run = Run { first_block, arrival };
            for number in first_block..block {
                runs.insert((object, number), run.clone());
                slots.push(Slot::Coming(run.clone()));
            }
            let core = Arc::clone(self);
            let end = content.end.min(block * BLOCK);
            self.runtime.spawn(async move {
                let result = core.fetch_run(object, present, first_block..block, end).await;
                {
                    let mut runs = lock(&core.fetches.runs);
                    for number in first_block..block {
                        runs.remove(&(object, number));
                    }
                }
                let _ = fetching.0.outcome.set(result.map(Arc::new));
            });
            if let Some(slot) = following {
                slots.push(slot);
                block += 1;
            }
        }
        Pending { content, slots }
    }

    fn known_block(
        &self,
        runs: &HashMap<(ObjectId, u64), Run>,
        object: ObjectId,
        block: u64,
    ) -> Option<Slot> {
        if let Some(run) = runs.get(&(object, block)) {
            return Some(Slot::Coming(run.clone()));
        }
        self.blocks.peek(object, block).map(Slot::Found)
    }

    /// Gets blocks from the slower level of the cache, and the rest from a bucket. `end` is an end of the content that is
    /// known to exist: the last block may be shorter than a block, but reaches at least to there.
    async fn fetch_run(
        self: &Arc<Self>,
        object: ObjectId,
        present: Sides,
        blocks: Range<u64>,
        end: u64,
    ) -> Result<Vec<Bytes>, FetchFailure> {
        let mut found = Vec::new();
        let mut block = blocks.start;
        while block < blocks.end {
            if let Some(bytes) = self.blocks.get(object, block).await {
                found.push(bytes);
                block += 1;
                continue;
            }
            // Up to the next block that is in the cache; which one that is, the cache tells only by being asked.
            let first = block;
            let mut next = None;
            block += 1;
            while block < blocks.end && next.is_none() {
                next = self.blocks.get(object, block).await;
                if next.is_none() {
                    block += 1;
                }
            }
            found.extend(self.download(object, present, first..block, end).await?);
            if let Some(bytes) = next {
                found.push(bytes);
                block += 1;
            }
        }
        Ok(found)
    }

    async fn download(
        self: &Arc<Self>,
        object: ObjectId,
        present: Sides,
        blocks: Range<u64>,
        end: u64,
    ) -> Result<Vec<Bytes>, FetchFailure> {
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
        let skip = usize::try_from(blocks.start.saturating_sub(fetched.first_block)).unwrap_or(usize::MAX);
        let count = usize::try_from(blocks.end - blocks.start).unwrap_or(usize::MAX);
        let wanted: Vec<Bytes> = fetched.blocks.into_iter().skip(skip).take(count).collect();
        for (block, bytes) in blocks.zip(&wanted) {
            self.blocks.insert(object, block, bytes.clone());
        }
        Ok(wanted)
    }
}
