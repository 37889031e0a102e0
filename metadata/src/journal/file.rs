//! The `file` engine: a directory of preallocated segments, for one metadata service at a time.
//!
//! # How it works
//!
//! * An append is one durable write into the last segment ([`super::appending`]); it is acknowledged, and visible to readers, after that.
//! * The epoch is a file, replaced atomically by [`Journal::acquire`].
//! * The directory is locked as long as the journal is open: a second one is refused with [`JournalError::InUse`].
//!
//! # After a crash
//!
//! Opening verifies the last two segments: every record, and the digest chain. Older records are verified when they are read
//! (by a replay, an archive), and a missing segment is found then. What was being appended when the process died is
//! discarded if it is incomplete; if it is complete it counts, and is made durable before anyone sees it. A bad record that
//! others follow is [`JournalError::Damaged`], never cut off. (A flipped bit in the very last record cannot be told from an
//! append that was cut off; the service notices it, as its view is then ahead of the journal.)
//!
//! # Failures
//!
//! A full disk while a segment is begun is [`JournalError::Full`]: nothing was appended and the journal stays usable. Any
//! other failure of a write or a sync makes the object refuse everything afterwards: nobody knows what is on the disk, only
//! opening it again can tell.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use twinshore_protocol::{Epoch, Position, VolumeId};

use super::appending::{AppendFailure, Appending};
use super::disk::{Disk, failed, is_full, sync_directory};
use super::frame::frame_bytes;
use super::record::{RECORD_MAX_BYTES, RecordHeader};
use super::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader, parse_segment_name};
use super::spare::Spares;
use super::{Digest, Journal, JournalError, Tail, epoch};

/// Segments must have room for the header and something beside it.
const SEGMENT_MIN_BYTES: u64 = 16 << 10;

/// How a file journal uses the disk.
#[derive(Clone, Copy, Debug)]
pub struct FileJournalOptions {
    /// The size of a segment file. A record must fit into one.
    pub segment_bytes: u64,
    /// The journal takes at most about this much disk; appending beyond it is refused as on a full disk. `None` leaves it
    /// to the disk.
    pub maximum_bytes: Option<u64>,
}

impl Default for FileJournalOptions {
    fn default() -> Self {
        // Large enough for four of the largest records, small enough that opening (which reads the last ones) is fast.
        Self {
            segment_bytes: 64 << 20,
            maximum_bytes: None,
        }
    }
}

/// The last segments are verified when a journal is opened: what was written last is where a crash leaves its traces. The journal
/// of a million files takes minutes to verify, and the older records are verified whenever they are read.
const SEGMENTS_VERIFIED: usize = 2;

/// What the journal and its readers share.
#[derive(Debug)]
struct Shared {
    /// By their first record. Never empty.
    segments: BTreeMap<Position, Arc<Segment>>,
    /// The durable tail.
    tail: Tail,
}

/// Reads a journal's durable records while it is written. Cheap to clone; any thread may read.
#[derive(Clone, Debug)]
pub struct JournalReader {
    shared: Arc<RwLock<Shared>>,
}

/// A journal in a directory.
#[derive(Debug)]
pub struct FileJournal {
    directory: PathBuf,
    volume: VolumeId,
    options: FileJournalOptions,
    shared: Arc<RwLock<Shared>>,
    /// A copy of the shared tail.
    tail: Tail,
    /// The segment that is appended to.
    end: Appending,
    spares: Spares,
    disk: Disk,
    /// What failed, after which nothing is done any more.
    broken: Option<String>,
    /// Locked as long as the journal is open.
    _lock: File,
}

impl FileJournal {
    /// Makes a journal in an empty or missing directory, as if the records up to `start` had been there and were trimmed.
    /// Its first epoch will be higher than that of `start`.
    pub fn create(
        directory: &Path,
        volume: VolumeId,
        start: &Tail,
        options: FileJournalOptions,
    ) -> Result<Self, JournalError> {
        check_options(options)?;
        let cannot = |source| {
            failed(
                directory,
                format!("creating the journal {}", directory.display()),
                source,
            )
        };
        std::fs::create_dir_all(directory).map_err(cannot)?;
        let lock = lock(directory)?;
        if epoch::read(directory)?.is_some() {
            let exists = io::Error::new(io::ErrorKind::AlreadyExists, "there is a journal already");
            return Err(cannot(exists));
        }
        let mut spares = Spares::open(directory, options.segment_bytes).map_err(cannot)?;
        let header = SegmentHeader {
            volume,
            epoch: start.epoch,
            first: start.position.next(),
            previous: start.digest,
        };
        let disk = Disk::default();
        let prepared = spares.take().map_err(cannot)?;
        Segment::start(&disk, &prepared, directory, header).map_err(cannot)?;
        sync_directory(directory).map_err(cannot)?;
        // Last: with the epoch the journal exists.
        epoch::write(directory, volume, start.epoch)?;
        drop((spares, lock));
        Self::open(directory, options)
    }

    /// Opens a journal, verifies all of it, and discards an append that was cut off.
    pub fn open(directory: &Path, options: FileJournalOptions) -> Result<Self, JournalError> {
        check_options(options)?;
        let cannot = |source| JournalError::Failed {
            what: format!("opening the journal {}", directory.display()),
            source,
        };
        let lock = lock(directory)?;
        let Some((volume, epoch)) = epoch::read(directory)? else {
            return Err(JournalError::Damaged(format!(
                "{}: there is no journal",
                directory.display()
            )));
        };
        let mut segments = BTreeMap::new();
        let mut last: Option<(Arc<Segment>, Tail, u64)> = None;
        let firsts = segments_in(directory).map_err(cannot)?;
        let sealed = firsts.len().saturating_sub(SEGMENTS_VERIFIED);
        for (number, first) in firsts.into_iter().enumerate() {
            if number < sealed {
                let segment = Segment::open_sealed(&directory.join(super::segment::segment_name(first)))?;
                check_place(&segment, volume, first)?;
                segments.insert(first, Arc::new(segment));
                continue;
            }
            let (segment, end) = Segment::open(&directory.join(super::segment::segment_name(first)))?;
            check_place(&segment, volume, first)?;
            if let Some((before, tail, _)) = &last
                && (tail.position.next() != first || tail.digest != segment.header.previous)
            {
                let path = before.path.display();
                let end = tail.position;
                return Err(JournalError::Damaged(format!(
                    "{path}: it ends at record {end}, but the next segment begins with {first}: recover from a bucket"
                )));
            }
            let segment = Arc::new(segment);
            segments.insert(first, Arc::clone(&segment));
            let epoch = last
                .as_ref()
                .map_or(end.epoch, |(_, tail, _)| tail.epoch.max(end.epoch));
            last = Some((segment, Tail { epoch, ..end.into() }, end.offset));
        }
        let Some((active, tail, offset)) = last else {
            return Err(JournalError::Damaged(format!(
                "{}: all segments are gone",
                directory.display()
            )));
        };
        let disk = Disk::default();
        // The last record may have been written but not synced when the process was killed: it counts from now on.
        active.sync(&disk).map_err(cannot)?;
        let tail = Tail {
            epoch: tail.epoch.max(epoch),
            ..tail
        };
        let mut spares = Spares::open(directory, options.segment_bytes).map_err(cannot)?;
        spares.prepare().map_err(cannot)?;
        Ok(Self {
            directory: directory.to_owned(),
            volume,
            options,
            shared: Arc::new(RwLock::new(Shared { segments, tail })),
            tail,
            end: Appending::at(active, offset).map_err(cannot)?,
            spares,
            disk,
            broken: None,
            _lock: lock,
        })
    }

    /// The volume that the journal belongs to.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// A reader for other threads.
    pub fn reader(&self) -> JournalReader {
        JournalReader {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Bytes of all segments in use.
    pub fn size_bytes(&self) -> u64 {
        self.shared.read().map_or(0, |shared| {
            shared.segments.values().map(|segment| segment.size_bytes).sum()
        })
    }

    fn check_usable(&self) -> Result<(), JournalError> {
        match &self.broken {
            None => Ok(()),
            Some(what) => Err(JournalError::Failed {
                what: "using the journal after it failed".to_owned(),
                source: io::Error::other(what.clone()),
            }),
        }
    }

    /// Remembers that nobody knows what is on the disk.
    fn broke(&mut self, what: &str, source: io::Error) -> JournalError {
        self.broken = Some(format!("{what}: {source}"));
        JournalError::Failed {
            what: what.to_owned(),
            source,
        }
    }

    /// Checks what the caller promises. A broken promise is a bug of the caller; nothing has happened to the journal.
    fn check_record(&self, tail: &Tail, bytes: &[u8]) -> Result<(), JournalError> {
        let refuse = |what: String| JournalError::Failed {
            what: "appending a record".to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, what),
        };
        let capacity = self
            .options
            .segment_bytes
            .saturating_sub(SEGMENT_HEADER_BYTES as u64);
        if bytes.len() > RECORD_MAX_BYTES || frame_bytes(bytes.len()) as u64 > capacity {
            return Err(refuse(format!("a record of {} bytes is too long", bytes.len())));
        }
        let header = RecordHeader::peek(bytes).map_err(|error| refuse(error.to_string()))?;
        if header.length_bytes != bytes.len()
            || header.volume != self.volume
            || header.epoch != tail.epoch
            || header.position != tail.position.next()
            || header.previous != tail.digest
        {
            return Err(refuse(format!(
                "record {} does not follow the tail",
                header.position
            )));
        }
        Ok(())
    }

    /// Begins the next segment. Nothing is appended to the present one any more.
    fn rotate(&mut self) -> Result<(), JournalError> {
        let full = || JournalError::Full(self.directory.display().to_string());
        if self
            .options
            .maximum_bytes
            .is_some_and(|maximum| self.size_bytes() + self.options.segment_bytes > maximum)
        {
            return Err(full());
        }
        let prepared = match self.spares.take() {
            Ok(prepared) => prepared,
            Err(error) if is_full(&error) => return Err(full()),
            Err(error) => return Err(self.broke("making a segment", error)),
        };
        let header = SegmentHeader {
            volume: self.volume,
            epoch: self.tail.epoch,
            first: self.tail.position.next(),
            previous: self.tail.digest,
        };
        let started = Segment::start(&self.disk, &prepared, &self.directory, header)
            .and_then(|segment| sync_directory(&self.directory).map(|()| Arc::new(segment)))
            .map_err(|error| self.broke("beginning a segment", error))?;
        if let Ok(mut shared) = self.shared.write() {
            shared.segments.insert(header.first, Arc::clone(&started));
        }
        self.end = Appending::at(started, SEGMENT_HEADER_BYTES as u64)
            .map_err(|error| self.broke("beginning a segment", error))?;
        // The next one is made while this one fills; if that fails, the next rotation tells.
        self.spares
            .prepare()
            .map_err(|error| self.broke("starting a thread", error))
    }
}

/// A segment must be where its name says, in the journal of its volume.
fn check_place(segment: &Segment, volume: VolumeId, first: Position) -> Result<(), JournalError> {
    if segment.header.volume == volume && segment.header.first == first {
        return Ok(());
    }
    let path = segment.path.display();
    Err(JournalError::Damaged(format!(
        "{path}: it belongs to another journal"
    )))
}

impl Journal for FileJournal {
    fn acquire(&mut self) -> Result<Tail, JournalError> {
        self.check_usable()?;
        let epoch = Epoch(self.tail.epoch.0 + 1);
        match epoch::write(&self.directory, self.volume, epoch) {
            Ok(()) => {}
            Err(JournalError::Failed { what, source }) => return Err(self.broke(&what, source)),
            Err(error) => return Err(error),
        }
        self.tail.epoch = epoch;
        if let Ok(mut shared) = self.shared.write() {
            shared.tail = self.tail;
        }
        Ok(self.tail)
    }

    fn tail(&mut self) -> Result<Tail, JournalError> {
        self.check_usable()?;
        Ok(self.tail)
    }

    fn append(&mut self, tail: &Tail, digest: Digest, bytes: Bytes) -> Result<Tail, JournalError> {
        self.check_usable()?;
        if *tail != self.tail {
            return Err(JournalError::Fenced { found: self.tail });
        }
        self.check_record(tail, &bytes)?;
        if !self.end.has_room(bytes.len()) {
            self.rotate()?;
        }
        let position = tail.position.next();
        match self.end.append(&self.disk, position, &bytes) {
            Ok(()) => {}
            // Space was allocated, but a file system that copies on write may still run out.
            Err(AppendFailure::Write(error)) if is_full(&error) && self.end.erase(&self.disk).is_ok() => {
                return Err(JournalError::Full(self.directory.display().to_string()));
            }
            Err(AppendFailure::Write(error)) => return Err(self.broke("writing a record", error)),
            Err(AppendFailure::Sync(error)) => return Err(self.broke("syncing a record", error)),
        }
        self.tail = Tail {
            epoch: tail.epoch,
            position,
            digest,
        };
        if let Ok(mut shared) = self.shared.write() {
            shared.tail = self.tail;
        }
        Ok(self.tail)
    }

    fn read(&mut self, from: Position, max_bytes: usize) -> Result<Vec<Bytes>, JournalError> {
        self.check_usable()?;
        self.reader().read(from, max_bytes)
    }

    fn trim(&mut self, first: Position) -> Result<(), JournalError> {
        self.check_usable()?;
        loop {
            let Ok(mut shared) = self.shared.write() else {
                return Ok(());
            };
            let mut firsts = shared.segments.keys();
            let (Some(oldest), Some(next)) = (firsts.next().copied(), firsts.next().copied()) else {
                return Ok(());
            };
            if next > first {
                return Ok(());
            }
            let Some(segment) = shared.segments.remove(&oldest) else {
                return Ok(());
            };
            drop(shared);
            // A file that is still being read is not written again, only removed.
            let trimmed = match Arc::try_unwrap(segment) {
                Ok(segment) => self.spares.recycle(&segment.path),
                Err(segment) => std::fs::remove_file(&segment.path),
            };
            trimmed
                .and_then(|()| sync_directory(&self.directory))
                .map_err(|error| self.broke("removing a trimmed segment", error))?;
        }
    }
}

impl JournalReader {
    /// The durable tail.
    pub fn tail(&self) -> Result<Tail, JournalError> {
        self.shared
            .read()
            .map(|shared| shared.tail)
            .map_err(|_| poisoned())
    }

    /// Records from `from`, in order, at most about `max_bytes` but one at least; none beyond the tail.
    pub fn read(&self, from: Position, max_bytes: usize) -> Result<Vec<Bytes>, JournalError> {
        let from = from.max(Position(1));
        let (segment, last) = {
            let shared = self.shared.read().map_err(|_| poisoned())?;
            if from > shared.tail.position {
                return Ok(Vec::new());
            }
            let Some((_, segment)) = shared.segments.range(..=from).next_back() else {
                let first = shared
                    .segments
                    .keys()
                    .next()
                    .copied()
                    .unwrap_or(shared.tail.position.next());
                return Err(JournalError::Trimmed { first });
            };
            let next = shared
                .segments
                .range(from.next()..)
                .next()
                .map(|(first, _)| Position(first.0 - 1));
            (Arc::clone(segment), next.unwrap_or(shared.tail.position))
        };
        segment.read(from, last, max_bytes)
    }
}

fn poisoned() -> JournalError {
    JournalError::Failed {
        what: "reading the journal".to_owned(),
        source: io::Error::other("another thread panicked"),
    }
}

fn check_options(options: FileJournalOptions) -> Result<(), JournalError> {
    if options.segment_bytes < SEGMENT_MIN_BYTES {
        return Err(JournalError::Failed {
            what: "opening the journal".to_owned(),
            source: io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a segment needs at least {SEGMENT_MIN_BYTES} bytes"),
            ),
        });
    }
    Ok(())
}

/// Locks the directory itself: the lock needs no file and ends with the process, however that ends.
fn lock(directory: &Path) -> Result<File, JournalError> {
    let cannot = |source| JournalError::Failed {
        what: format!("opening {}", directory.display()),
        source,
    };
    let handle = File::open(directory).map_err(cannot)?;
    match rustix::fs::flock(&handle, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(handle),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::InUse(directory.display().to_string())),
        Err(error) => Err(cannot(error.into())),
    }
}

/// The first records of all segments, in order.
fn segments_in(directory: &Path) -> io::Result<Vec<Position>> {
    let mut firsts = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        firsts.extend(entry?.file_name().to_str().and_then(parse_segment_name));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

#[cfg(test)]
mod tests;
