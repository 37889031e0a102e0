//! The one thread that writes: batches, segments, eviction.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tracing::{info, warn};

use super::super::CacheCounters;
use super::super::memory::BlockKey;
use super::index::SegmentNumber;
use super::segment::{Batch, Record, Segment};

use super::{BATCH_BYTES, FLOOR_BYTES_MAX, FLOOR_DIVISOR, Shared};

/// The writer thread's own state.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) current: Option<Current>,
    pub(super) next_number: u64,
}

pub(super) struct Current {
    number: SegmentNumber,
    segment: Arc<Segment>,
    records: Vec<Record>,
    end: u64,
}

impl Writer {
    pub(super) fn run(mut self) {
        if let Err(error) = self.load() {
            self.shared.switch_off(&error);
        }
        while let Some(blocks) = self.next_batch() {
            let outcome = if self.shared.is_off() {
                Ok(())
            } else {
                self.write(&blocks)
            };
            if let Err(error) = outcome {
                CacheCounters::add(&self.shared.counters.disk_errors, 1);
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) {
                    // Somebody else filled the disk: give back, and go on with a new segment.
                    self.current = None;
                    self.evict_oldest(false);
                    CacheCounters::add(&self.shared.counters.disk_dropped_blocks, blocks.len() as u64);
                } else {
                    self.shared.switch_off(&error);
                }
            }
            self.settled(&blocks);
        }
        if !self.shared.is_off() {
            self.seal();
        }
    }

    /// Finds what an earlier process left. Files that cannot be read are removed.
    fn load(&mut self) -> io::Result<()> {
        for number in self.shared.slot.segments()? {
            self.next_number = self.next_number.max(number.0 + 1);
            match Segment::open(&self.shared.slot.segment_path(number)) {
                Ok((segment, records, length)) if !records.is_empty() => {
                    self.shared
                        .index_mut()
                        .add_segment(number, Arc::new(segment), records, length);
                }
                Ok(_) => self.shared.slot.remove(number)?,
                Err(error) => {
                    CacheCounters::add(&self.shared.counters.disk_errors, 1);
                    warn!("a file of the cache cannot be read and is removed: {error}");
                    self.shared.slot.remove(number)?;
                }
            }
        }
        // The limit may be lower than last time.
        while self.shared.index().file_bytes() > self.shared.limit_bytes && self.evict_oldest(false).is_some()
        {
        }
        self.publish_size();
        Ok(())
    }

    /// Waits for blocks to write. `None` when the cache is closed and everything is written.
    fn next_batch(&self) -> Option<Vec<(BlockKey, Bytes)>> {
        let mut writes = self.shared.writes();
        while writes.order.is_empty() {
            if writes.closed {
                return None;
            }
            writes = self
                .shared
                .write_ready
                .wait(writes)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let mut blocks = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let Some(key) = writes.order.pop_front() else {
                break;
            };
            if let Some(content) = writes.pending.get(&key) {
                bytes += content.len() as u64;
                blocks.push((key, content.clone()));
            }
        }
        Some(blocks)
    }

    /// The blocks are on disk or given up: they need not be kept in memory for readers any more.
    fn settled(&self, blocks: &[(BlockKey, Bytes)]) {
        let mut writes = self.shared.writes();
        for (key, _) in blocks {
            if let Some(content) = writes.pending.remove(key) {
                writes.bytes -= content.len();
            }
        }
    }

    fn write(&mut self, blocks: &[(BlockKey, Bytes)]) -> io::Result<()> {
        let bytes: u64 = blocks.iter().map(|(_, content)| content.len() as u64).sum();
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.end + bytes > self.shared.segment_bytes)
        {
            self.seal();
            if !self.open_segment()? {
                CacheCounters::add(&self.shared.counters.disk_dropped_blocks, blocks.len() as u64);
                return Ok(());
            }
        }
        self.append(blocks)
    }

    fn append(&mut self, blocks: &[(BlockKey, Bytes)]) -> io::Result<()> {
        let Some(current) = self.current.as_mut() else {
            return Ok(());
        };
        let mut batch = Batch::new(current.end);
        for (key, content) in blocks {
            if !self.shared.index().contains(key) {
                batch.push(*key, content.clone());
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let records = current.segment.write(&batch)?;
        current.end += batch.len_bytes();
        current.records.extend_from_slice(&records);
        CacheCounters::add(&self.shared.counters.disk_written_bytes, batch.len_bytes());
        let mut index = self.shared.index_mut();
        index.add_records(current.number, records);
        index.add_bytes(current.number, batch.len_bytes());
        drop(index);
        self.publish_size();
        Ok(())
    }

    /// Makes room and begins a segment. False if the file system has too little free space.
    fn open_segment(&mut self) -> io::Result<bool> {
        let mut carried = Vec::new();
        while self.shared.index().file_bytes() + self.shared.segment_bytes > self.shared.limit_bytes {
            match self.evict_oldest(carried.is_empty()) {
                Some(worthy) => carried.extend(worthy),
                None => break,
            }
        }
        loop {
            let (free, total) = self.shared.slot.space_bytes()?;
            let floor = (total / FLOOR_DIVISOR).min(FLOOR_BYTES_MAX);
            if free >= floor + self.shared.segment_bytes {
                break;
            }
            if self.evict_oldest(false).is_none() {
                return Ok(false);
            }
        }
        let number = SegmentNumber(self.next_number);
        self.next_number += 1;
        let segment = Arc::new(Segment::create(&self.shared.slot.segment_path(number))?);
        self.shared
            .index_mut()
            .add_segment(number, segment.clone(), Vec::new(), 0);
        self.current = Some(Current {
            number,
            segment,
            records: Vec::new(),
            end: 0,
        });
        self.append(&carried)?;
        Ok(true)
    }

    /// Drops the oldest segment; answers the blocks that deserve a second chance, read back, if they are wanted.
    fn evict_oldest(&self, carry: bool) -> Option<Vec<(BlockKey, Bytes)>> {
        let worthy_bytes_max = if carry { self.shared.segment_bytes / 2 } else { 0 };
        let writing = self.current.as_ref().map(|current| current.number);
        let victim = self.shared.index_mut().take_oldest(writing, worthy_bytes_max)?;
        CacheCounters::add(&self.shared.counters.disk_evictions, victim.unread);
        let mut carried = Vec::new();
        for record in victim.worthy {
            // What cannot be read is not worth keeping.
            if let Ok(Some(content)) = victim.segment.read(&record) {
                carried.push((record.key, content));
            }
        }
        if let Err(error) = self.shared.slot.remove(victim.number) {
            self.shared.switch_off(&error);
        }
        info!(
            segment = victim.number.0,
            bytes = victim.file_bytes,
            kept = carried.len(),
            "cache segment evicted"
        );
        self.publish_size();
        Some(carried)
    }

    fn seal(&mut self) {
        let Some(current) = self.current.take() else {
            return;
        };
        match current.segment.seal(&current.records, current.end) {
            Ok(bytes) => self.shared.index_mut().add_bytes(current.number, bytes),
            // Without its table it is scanned at the next start.
            Err(error) => info!("a cache segment could not be sealed: {error}"),
        }
    }

    fn publish_size(&self) {
        if !self.shared.is_off() {
            self.shared
                .counters
                .disk_bytes
                .store(self.shared.index().file_bytes(), Ordering::Relaxed);
        }
    }
}
