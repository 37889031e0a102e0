//! Blocks on a local disk, behind the memory cache.
//!
//! # Shape
//!
//! Blocks are appended to segment files ([`segment`]) by one writer thread, in batches; a few reader threads read and
//! verify them. The index ([`index`]) is in memory and is rebuilt from the segments at start, in the background. The
//! key of a block contains the id of an immutable object, so nothing is ever invalidated.
//!
//! # Invariants
//!
//! * The files together never exceed the limit by more than a batch, and the file system keeps its floor of free space.
//! * A block is returned only if its checksum is the one computed when it was written.
//! * Whatever the disk does, a call answers: a failing, full, slow or hung disk is a miss, and after [`ERRORS_MAX`] failures the
//!   cache is off until the process ends.
//! * Queues are bounded: blocks that the writer cannot keep up with are dropped, not waited for.
//!
//! # Failure cases
//!
//! `kill -9` leaves at most a torn record at the end of a segment, which the next start does not read. A damaged block is
//! forgotten and counted. A full disk evicts. A read that takes longer than [`READ_PATIENCE`] counts as failed.

mod directory;
mod index;
mod segment;
mod writer;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::warn;
use twinshore_protocol::{ObjectId, VolumeId};
use twinshore_storage::object::BLOCK_BYTES;

use self::directory::Slot;
use self::index::Index;
use self::segment::{ReadRun, Record, Segment};
use self::writer::Writer;
use super::CacheCounters;
use super::memory::BlockKey;
use crate::vfs::BlockRun;

/// Failed reads, or one failed write, after which the disk is not trusted any more.
pub const ERRORS_MAX: u32 = 3;

/// How long a read may take: longer than any working disk, shorter than a reader's patience.
pub const READ_PATIENCE: Duration = Duration::from_secs(2);

/// Reads at once: what a local SSD needs to be busy with 64 KiB reads, without taking a small machine over.
const READER_THREADS: usize = 4;

/// Reads that may wait for a thread; beyond that the bucket is asked.
const READ_QUEUE_MAX: usize = 1024;

/// Bytes that may wait to be written: half a second of a slow disk. At most twice as many are kept alive by them.
const WRITE_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Bytes written in one call: large enough to be sequential, small enough to be gone soon.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;

/// The largest segment: dropped whole, so it is the grain of eviction.
const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The smallest useful cache: below it one batch would be most of it.
pub const LIMIT_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// At least this share of the file system stays free, as a divisor, but no more than [`FLOOR_BYTES_MAX`].
const FLOOR_DIVISOR: u64 = 20;
const FLOOR_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// Where and how large.
#[derive(Clone, Debug)]
pub struct DiskCacheOptions {
    /// `--cache-dir`. Other volumes and processes may use the same.
    pub directory: PathBuf,
    /// The volume: object ids are unique only within it.
    pub volume: VolumeId,
    /// `--cache-size`: bytes of all files of this process.
    pub limit_bytes: u64,
}

/// Why there is no cache on disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskCacheError {
    /// The directory cannot be used.
    #[error("the cache directory {directory} cannot be used: choose another with --cache-dir")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Too small.
    #[error(
        "a cache of {given} bytes is too small: give --cache-size at least {LIMIT_BYTES_MIN} bytes, or 0 for none"
    )]
    TooSmall {
        /// What was asked for.
        given: u64,
    },
}

/// Records of one segment that follow one another.
struct ReadJob {
    segment: Arc<Segment>,
    records: Vec<Record>,
    answer: oneshot::Sender<Vec<BlockRun>>,
}

/// Where blocks that are here can be had.
enum Place {
    /// Not written yet.
    Memory(BlockRun),
    /// In a segment, in records that follow one another.
    Disk(Arc<Segment>, Vec<Record>),
}

#[derive(Default)]
struct Reads {
    queue: VecDeque<ReadJob>,
    closed: bool,
}

#[derive(Default)]
struct Writes {
    order: VecDeque<BlockKey>,
    pending: HashMap<BlockKey, Bytes>,
    bytes: usize,
    closed: bool,
}

struct Shared {
    slot: Slot,
    limit_bytes: u64,
    segment_bytes: u64,
    index: RwLock<Index>,
    reads: Mutex<Reads>,
    read_ready: Condvar,
    writes: Mutex<Writes>,
    write_ready: Condvar,
    off: AtomicBool,
    read_errors: AtomicU32,
    counters: Arc<CacheCounters>,
}

/// The cache. Dropping it lets its threads end; [`DiskCache::close`] waits for them.
pub struct DiskCache {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

// A thread that panicked while it held a lock cannot have left it half changed in a way that matters: contents are
// verified when they are read, so poisoning is ignored throughout.
impl Shared {
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn reads(&self) -> MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    fn read_failed(&self, what: &dyn std::fmt::Display) {
        CacheCounters::add(&self.counters.disk_errors, 1);
        if self.read_errors.fetch_add(1, Ordering::Relaxed) + 1 >= ERRORS_MAX {
            self.switch_off(what);
        }
    }

    /// The disk is not used any more. Final: a disk that fails once a minute would cost more than it saves.
    fn switch_off(&self, what: &dyn std::fmt::Display) {
        if self.off.swap(true, Ordering::Relaxed) {
            return;
        }
        warn!("the cache on disk is switched off, reads go to the buckets: {what}");
        self.counters.disk_off.store(1, Ordering::Relaxed);
        self.counters.disk_bytes.store(0, Ordering::Relaxed);
        self.index_mut().clear();
        let mut writes = self.writes();
        writes.order.clear();
        writes.pending.clear();
        writes.bytes = 0;
    }

    fn run_reader(&self) {
        loop {
            let mut reads = self.reads();
            let job = loop {
                if let Some(job) = reads.queue.pop_front() {
                    break job;
                }
                if reads.closed {
                    return;
                }
                reads = self
                    .read_ready
                    .wait(reads)
                    .unwrap_or_else(PoisonError::into_inner);
            };
            drop(reads);
            // Whoever asked may have given up.
            if !job.answer.is_closed() {
                let answer = self.read_verified(&job);
                let _ = job.answer.send(answer);
            }
        }
    }

    fn read_verified(&self, job: &ReadJob) -> Vec<BlockRun> {
        match job.segment.read_run(&job.records) {
            Ok(run) => {
                self.read_errors.store(0, Ordering::Relaxed);
                self.intact_runs(&job.records, &run)
            }
            Err(error) => {
                let mut index = self.index_mut();
                for record in &job.records {
                    index.forget(record);
                }
                drop(index);
                self.read_failed(&error);
                Vec::new()
            }
        }
    }

    /// What was read between damaged blocks, which are forgotten.
    fn intact_runs(&self, records: &[Record], read: &ReadRun) -> Vec<BlockRun> {
        let mut runs: Vec<BlockRun> = Vec::with_capacity(1);
        let mut taken = 0;
        let mut begun: Option<(u64, usize)> = None;
        for (record, is_intact) in records.iter().zip(&read.is_intact) {
            let start = taken;
            taken += record.content_bytes as usize;
            if *is_intact {
                begun.get_or_insert((record.key.1, start));
                continue;
            }
            CacheCounters::add(&self.counters.disk_damaged_blocks, 1);
            self.index_mut().forget(record);
            runs.extend(begun.take().map(|(first_block, from)| BlockRun {
                first_block,
                content: Bytes::copy_from_slice(&read.content[from..start]),
            }));
        }
        runs.extend(begun.map(|(first_block, from)| BlockRun {
            first_block,
            content: match from {
                0 => read.content.clone(),
                _ => Bytes::copy_from_slice(&read.content[from..]),
            },
        }));
        let bytes: usize = runs.iter().map(|run| run.content.len()).sum();
        CacheCounters::add(&self.counters.disk_read_bytes, bytes as u64);
        runs
    }
}

impl DiskCache {
    /// Takes a slot of the directory and starts the threads. What is there is found in the background.
    pub fn open(options: &DiskCacheOptions, counters: Arc<CacheCounters>) -> Result<Self, DiskCacheError> {
        if options.limit_bytes < LIMIT_BYTES_MIN {
            return Err(DiskCacheError::TooSmall {
                given: options.limit_bytes,
            });
        }
        let unusable = |source| DiskCacheError::Directory {
            directory: options.directory.clone(),
            source,
        };
        let slot = Slot::take(&options.directory, options.volume).map_err(unusable)?;
        let shared = Arc::new(Shared {
            slot,
            limit_bytes: options.limit_bytes,
            // Eight segments at least, so that eviction takes an eighth at most.
            segment_bytes: (options.limit_bytes / 8).min(SEGMENT_BYTES_MAX),
            index: RwLock::default(),
            reads: Mutex::default(),
            read_ready: Condvar::new(),
            writes: Mutex::default(),
            write_ready: Condvar::new(),
            off: AtomicBool::new(false),
            read_errors: AtomicU32::new(0),
            counters,
        });
        let mut cache = Self {
            shared: shared.clone(),
            threads: Vec::new(),
        };
        let writer = Writer {
            shared: shared.clone(),
            current: None,
            next_number: 0,
        };
        cache
            .start("cache-writer", move || writer.run())
            .map_err(unusable)?;
        for number in 0..READER_THREADS {
            let shared = shared.clone();
            cache
                .start(&format!("cache-reader-{number}"), move || shared.run_reader())
                .map_err(unusable)?;
        }
        Ok(cache)
    }

    fn start(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads
            .push(std::thread::Builder::new().name(name.to_owned()).spawn(body)?);
        Ok(())
    }

    /// What there is of these blocks, verified, in runs, in order. Waits no longer than [`READ_PATIENCE`] for each run.
    pub async fn get(&self, object: ObjectId, blocks: Range<u64>) -> Vec<BlockRun> {
        let asked = blocks.end - blocks.start;
        let mut found = Vec::with_capacity(1);
        // All are asked for before the first is waited for.
        let answers: Vec<_> = self
            .places(object, blocks)
            .into_iter()
            .map(|place| match place {
                Place::Memory(run) => Ok(run),
                Place::Disk(segment, records) => Err(self.queue_read(segment, records)),
            })
            .collect();
        for answer in answers {
            match answer {
                Ok(run) => found.push(run),
                Err(Some(answered)) => found.extend(self.wait_for(answered).await),
                Err(None) => {}
            }
        }
        let hits: u64 = found.iter().map(|run| run.end_block() - run.first_block).sum();
        CacheCounters::add(&self.shared.counters.disk_hits, hits);
        CacheCounters::add(&self.shared.counters.disk_misses, asked.saturating_sub(hits));
        found
    }

    /// Where these blocks are, as far as they are here, in order.
    fn places(&self, object: ObjectId, blocks: Range<u64>) -> Vec<Place> {
        if self.shared.is_off() {
            return Vec::new();
        }
        let mut places: Vec<Place> = Vec::new();
        let writes = self.shared.writes();
        let index = self.shared.index();
        for block in blocks {
            let key = (object, block);
            if let Some(content) = writes.pending.get(&key) {
                places.push(Place::Memory(BlockRun {
                    first_block: block,
                    content: content.clone(),
                }));
            } else if let Some((segment, record)) = index.find(&key) {
                match places.last_mut() {
                    Some(Place::Disk(before, records))
                        if Arc::ptr_eq(before, &segment)
                            && records.last().is_some_and(|last| last.is_followed_by(&record)) =>
                    {
                        records.push(record);
                    }
                    _ => places.push(Place::Disk(segment, vec![record])),
                }
            }
        }
        places
    }

    /// Has records read. `None` if there are too many reads already.
    fn queue_read(
        &self,
        segment: Arc<Segment>,
        records: Vec<Record>,
    ) -> Option<oneshot::Receiver<Vec<BlockRun>>> {
        let (answer, answered) = oneshot::channel();
        {
            let mut reads = self.shared.reads();
            if reads.queue.len() >= READ_QUEUE_MAX {
                return None;
            }
            reads.queue.push_back(ReadJob {
                segment,
                records,
                answer,
            });
        }
        self.shared.read_ready.notify_one();
        Some(answered)
    }

    async fn wait_for(&self, answered: oneshot::Receiver<Vec<BlockRun>>) -> Vec<BlockRun> {
        if let Ok(answer) = tokio::time::timeout(READ_PATIENCE, answered).await {
            return answer.unwrap_or_default();
        }
        self.shared.read_failed(&format_args!(
            "a read took longer than {} s",
            READ_PATIENCE.as_secs()
        ));
        Vec::new()
    }

    /// Takes blocks in, in the background. Dropped if the disk cannot keep up: all of them, because a single one that waits would keep
    /// all of the run's memory alive.
    pub fn insert(&self, object: ObjectId, run: &BlockRun) {
        if self.shared.is_off() {
            return;
        }
        let mut writes = self.shared.writes();
        if writes.closed {
            return;
        }
        let mut new = Vec::new();
        let mut new_bytes = 0;
        {
            let index = self.shared.index();
            for (position, block) in (run.first_block..run.end_block()).enumerate() {
                let key = (object, block);
                if !writes.pending.contains_key(&key) && !index.contains(&key) {
                    let start = position * BLOCK_BYTES;
                    let range = start..(start + BLOCK_BYTES).min(run.content.len());
                    new_bytes += range.len();
                    new.push((key, range));
                }
            }
        }
        if writes.bytes + new_bytes > WRITE_QUEUE_BYTES {
            drop(writes);
            CacheCounters::add(&self.shared.counters.disk_dropped_blocks, new.len() as u64);
            return;
        }
        let is_little = new_bytes < run.content.len() / 2;
        for (key, range) in new {
            let content = if is_little {
                Bytes::copy_from_slice(&run.content[range])
            } else {
                run.content.slice(range)
            };
            writes.bytes += content.len();
            writes.pending.insert(key, content);
            writes.order.push_back(key);
        }
        drop(writes);
        self.shared.write_ready.notify_one();
    }

    /// Waits until everything that was taken in is written, and lets go of the slot.
    pub fn close(mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                warn!("a thread of the cache had panicked");
            }
        }
    }

    fn stop(&self) {
        self.shared.writes().closed = true;
        self.shared.write_ready.notify_all();
        self.shared.reads().closed = true;
        self.shared.read_ready.notify_all();
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
