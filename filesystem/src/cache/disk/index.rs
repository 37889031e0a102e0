//! What is on disk, and what goes first. Pure: no file is touched here.
//!
//! Segments are dropped whole, oldest first. Blocks of the victim that were read since they were written are written
//! again into the newest segment (a second chance), up to half a segment, so that eviction always frees space.
//!
//! Invariant: every key in `blocks` points at a record of a segment in `segments`, and no other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::segment::{Record, Segment};
use crate::cache::memory::BlockKey;

/// The number of a segment: grows for ever within a directory, so age is order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentNumber(pub(super) u64);

struct Block {
    segment: SegmentNumber,
    record: Record,
    read: AtomicBool,
}

struct Held {
    segment: Arc<Segment>,
    file_bytes: u64,
    keys: Vec<BlockKey>,
}

/// A segment that was taken out, with what deserves a second chance.
pub(super) struct Victim {
    /// Which.
    pub(super) number: SegmentNumber,
    /// Still readable.
    pub(super) segment: Arc<Segment>,
    /// Bytes of its file.
    pub(super) file_bytes: u64,
    /// Blocks that were read since they were written.
    pub(super) worthy: Vec<Record>,
    /// How many others there were.
    pub(super) unread: u64,
}

/// What is on disk.
#[derive(Default)]
pub(super) struct Index {
    blocks: HashMap<BlockKey, Block>,
    segments: BTreeMap<SegmentNumber, Held>,
    file_bytes: u64,
}

impl Index {
    /// Adds an empty or a found segment.
    pub(super) fn add_segment(
        &mut self,
        number: SegmentNumber,
        segment: Arc<Segment>,
        records: Vec<Record>,
        file_bytes: u64,
    ) {
        self.segments.insert(
            number,
            Held {
                segment,
                file_bytes: 0,
                keys: Vec::new(),
            },
        );
        self.add_records(number, records);
        self.add_bytes(number, file_bytes);
    }

    /// Adds what was written to a segment. A key that is already known points at the newer copy from now on.
    pub(super) fn add_records(&mut self, number: SegmentNumber, records: Vec<Record>) {
        let Some(held) = self.segments.get_mut(&number) else {
            return;
        };
        for record in records {
            held.keys.push(record.key);
            self.blocks.insert(
                record.key,
                Block {
                    segment: number,
                    record,
                    read: AtomicBool::new(false),
                },
            );
        }
    }

    /// A segment's file has grown.
    pub(super) fn add_bytes(&mut self, number: SegmentNumber, bytes: u64) {
        if let Some(held) = self.segments.get_mut(&number) {
            held.file_bytes += bytes;
            self.file_bytes += bytes;
        }
    }

    /// Finds a block and remembers that it was asked for.
    pub(super) fn find(&self, key: &BlockKey) -> Option<(Arc<Segment>, Record)> {
        let block = self.blocks.get(key)?;
        block.read.store(true, Ordering::Relaxed);
        let held = self.segments.get(&block.segment)?;
        Some((held.segment.clone(), block.record))
    }

    /// Is the block there? Does not count as reading.
    pub(super) fn contains(&self, key: &BlockKey) -> bool {
        self.blocks.contains_key(key)
    }

    /// Forgets a damaged block, unless a newer copy has been written meanwhile.
    pub(super) fn forget(&mut self, damaged: &Record) {
        if self
            .blocks
            .get(&damaged.key)
            .is_some_and(|block| block.record == *damaged)
        {
            self.blocks.remove(&damaged.key);
        }
    }

    /// Takes the oldest segment out, except `writing`.
    pub(super) fn take_oldest(
        &mut self,
        writing: Option<SegmentNumber>,
        worthy_bytes_max: u64,
    ) -> Option<Victim> {
        let number = *self.segments.keys().find(|number| Some(**number) != writing)?;
        let held = self.segments.remove(&number)?;
        self.file_bytes -= held.file_bytes;
        let mut worthy = Vec::new();
        let mut worthy_bytes = 0;
        let mut unread = 0;
        for key in held.keys {
            if self.blocks.get(&key).is_none_or(|block| block.segment != number) {
                continue;
            }
            let Some(block) = self.blocks.remove(&key) else {
                continue;
            };
            let bytes = u64::from(block.record.content_bytes);
            if block.read.load(Ordering::Relaxed) && worthy_bytes + bytes <= worthy_bytes_max {
                worthy_bytes += bytes;
                worthy.push(block.record);
            } else {
                unread += 1;
            }
        }
        Some(Victim {
            number,
            segment: held.segment,
            file_bytes: held.file_bytes,
            worthy,
            unread,
        })
    }

    /// Bytes of all files.
    pub(super) const fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
        self.segments.clear();
        self.file_bytes = 0;
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
