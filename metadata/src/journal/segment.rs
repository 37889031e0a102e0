//! One segment file of the file journal: a header of one block, then frames.
//!
//! Invariants: the header is durable before the file has its final name; a segment's first record follows the last record of
//! the segment before; only the last segment is appended to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use twinshore_protocol::{Epoch, Position, VolumeId};

use super::disk::Disk;
use super::frame::{FRAME_ALIGNMENT, FRAME_HEADER_BYTES, FrameHeader, Salt, frame_bytes};
use super::record::{RECORD_MAX_BYTES, RecordHeader, digest_of};
use super::{Digest, JournalError, Tail};

/// Where the first frame begins: one block, so that appending never touches the header's block.
pub(super) const SEGMENT_HEADER_BYTES: usize = 4096;

const SEGMENT_MAGIC: [u8; 4] = *b"TSJS";
const SEGMENT_VERSION: u16 = 1;
const SEGMENT_SUFFIX: &str = ".segment";

/// The offset of every so many records is kept in memory: at 128 bytes each that is 1 MB per GB of the smallest records.
const INDEX_INTERVAL: u64 = 16;

/// What the header of a segment tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The volume.
    pub(super) volume: VolumeId,
    /// The epoch in which this use of the file began.
    pub(super) epoch: Epoch,
    /// The number of its first record.
    pub(super) first: Position,
    /// The digest of the record before that, or zeros.
    pub(super) previous: Digest,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
        bytes[..4].copy_from_slice(&SEGMENT_MAGIC);
        bytes[4..6].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.volume.0);
        bytes[24..32].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.previous);
        let checksum = crc32c::crc32c(&bytes[..72]);
        bytes[72..76].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let header = bytes.first_chunk::<76>().ok_or("its header is cut off")?;
        if header[..4] != SEGMENT_MAGIC {
            return Err("it does not begin like a journal segment".to_owned());
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version != SEGMENT_VERSION {
            return Err(format!("it has format version {version}: use a newer release"));
        }
        let (content, checksum) = header.split_at(72);
        if crc32c::crc32c(content).to_le_bytes() != *checksum {
            return Err("the checksum of its header is wrong".to_owned());
        }
        let (mut volume, mut epoch, mut first, mut previous) = ([0; 16], [0; 8], [0; 8], [0; 32]);
        volume.copy_from_slice(&header[8..24]);
        epoch.copy_from_slice(&header[24..32]);
        first.copy_from_slice(&header[32..40]);
        previous.copy_from_slice(&header[40..72]);
        Ok(Self {
            volume: VolumeId(volume),
            epoch: Epoch(u64::from_le_bytes(epoch)),
            first: Position(u64::from_le_bytes(first)),
            previous,
        })
    }

    /// Distinguishes this use of the file from all others: no two uses of a volume's files begin in the same epoch after
    /// the same record with different content.
    fn salt(&self) -> Salt {
        let mut salt = [0; 8];
        salt.copy_from_slice(&Sha256::digest(&self.encode()[..72])[..8]);
        salt
    }
}

/// A segment file with its place in the journal.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) header: SegmentHeader,
    pub(super) size_bytes: u64,
    file: File,
    salt: Salt,
    /// Offsets of every [`INDEX_INTERVAL`]th record, in order.
    index: Mutex<Vec<(u64, u64)>>,
}

/// The end of what a segment holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentEnd {
    /// Where the next frame goes.
    pub(super) offset: u64,
    /// The last record, or the one before the first.
    pub(super) position: Position,
    /// Its digest.
    pub(super) digest: Digest,
    /// The highest epoch of a record.
    pub(super) epoch: Epoch,
}

/// The name of the segment that begins with a record.
pub(super) fn segment_name(first: Position) -> String {
    format!("{:020}{SEGMENT_SUFFIX}", first.0)
}

/// The first record of a segment, from its name.
pub(super) fn parse_segment_name(name: &str) -> Option<Position> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    let first = Position(digits.parse().ok()?);
    (segment_name(first) == name).then_some(first)
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> JournalError {
    JournalError::Damaged(format!("{}: {what}", path.display()))
}

impl Segment {
    /// Puts a prepared file to use: writes its header, durably, then gives it its name. The caller syncs the directory.
    pub(super) fn start(
        disk: &Disk,
        prepared: &Path,
        directory: &Path,
        header: SegmentHeader,
    ) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(prepared)?;
        disk.write(&file, &header.encode(), 0)?;
        disk.sync(&file)?;
        let path = directory.join(segment_name(header.first));
        std::fs::rename(prepared, &path)?;
        Self::new(path, file, header)
    }

    fn new(path: PathBuf, file: File, header: SegmentHeader) -> io::Result<Self> {
        let size_bytes = file.metadata()?.len();
        Ok(Self {
            path,
            header,
            size_bytes,
            file,
            salt: header.salt(),
            index: Mutex::new(Vec::new()),
        })
    }

    /// Opens a segment and verifies all its records. Finds the end: everything after the last good record must look like
    /// a record that was never completed, else the segment is damaged.
    pub(super) fn open(path: &Path) -> Result<(Self, SegmentEnd), JournalError> {
        let unreadable = |source| JournalError::Failed {
            what: format!("reading {}", path.display()),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(unreadable)?;
        // A whole segment in memory for the moment of its verification: bounded, and a sequential read.
        let content = std::fs::read(path).map_err(unreadable)?;
        let header = SegmentHeader::decode(&content).map_err(|what| damaged(path, what))?;
        let segment = Self::new(path.to_owned(), file, header).map_err(unreadable)?;
        let end = segment.verify(&content)?;
        Ok((segment, end))
    }

    /// Opens a segment that others follow. Its records are verified when they are read.
    pub(super) fn open_sealed(path: &Path) -> Result<Self, JournalError> {
        let unreadable = |source| JournalError::Failed {
            what: format!("reading {}", path.display()),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let content = read_block(&file, 0, SEGMENT_HEADER_BYTES).map_err(unreadable)?;
        let header = SegmentHeader::decode(&content).map_err(|what| damaged(path, what))?;
        let segment = Self::new(path.to_owned(), file, header).map_err(unreadable)?;
        segment.remember(header.first.0, SEGMENT_HEADER_BYTES as u64);
        Ok(segment)
    }

    fn verify(&self, content: &[u8]) -> Result<SegmentEnd, JournalError> {
        let first = self.header.first.0;
        let mut end = SegmentEnd {
            offset: SEGMENT_HEADER_BYTES as u64,
            position: Position(first.saturating_sub(1)),
            digest: self.header.previous,
            epoch: Epoch(0),
        };
        let mut offset = SEGMENT_HEADER_BYTES;
        while let Some((header, record)) = frame_at(content, offset, self.salt) {
            let expected = end.position.next();
            if header.position != expected.0 {
                return Err(damaged(
                    &self.path,
                    format_args!("record {} follows {}", header.position, end.position),
                ));
            }
            let Ok(found) = RecordHeader::verified(record) else {
                break;
            };
            if found.length_bytes != record.len()
                || found.position != expected
                || found.volume != self.header.volume
                || found.previous != end.digest
                || found.epoch < end.epoch
            {
                return Err(damaged(
                    &self.path,
                    format_args!("record {expected} does not follow the one before it"),
                ));
            }
            self.remember(expected.0, offset as u64);
            offset += header.frame_bytes();
            end = SegmentEnd {
                offset: offset as u64,
                position: expected,
                digest: digest_of(record),
                epoch: found.epoch,
            };
        }
        // A record is begun only when the one before it is durable. So a later one proves that the bad one was good once.
        if let Some(later) = later_frame(content, offset, self.salt, end.position.next()) {
            let bad = end.position.next();
            return Err(damaged(
                &self.path,
                format_args!(
                    "record {bad} is damaged, but record {later} was written after it: recover from a bucket"
                ),
            ));
        }
        Ok(end)
    }

    /// For the appender alone.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// What distinguishes this use of the file.
    pub(super) fn salt(&self) -> Salt {
        self.salt
    }

    /// Makes sure that no header stands at an offset, after a write that failed without any doubt.
    pub(super) fn erase(&self, disk: &Disk, offset: u64) -> io::Result<()> {
        disk.write(&self.file, &[0; FRAME_HEADER_BYTES], offset)?;
        disk.sync(&self.file)
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self, disk: &Disk) -> io::Result<()> {
        disk.sync(&self.file)
    }

    /// Is there room for a record?
    pub(super) fn has_room(&self, offset: u64, record_bytes: usize) -> bool {
        offset + frame_bytes(record_bytes) as u64 <= self.size_bytes
    }

    /// Notes where a record is, the first time that it is passed.
    pub(super) fn remember(&self, position: u64, offset: u64) {
        if (position - self.header.first.0).is_multiple_of(INDEX_INTERVAL)
            && let Ok(mut index) = self.index.lock()
            && index.last().is_none_or(|(last, _)| *last < position)
        {
            index.push((position, offset));
        }
    }

    /// Reads records `from..=last` of this segment: at most about `max_bytes`, but one at least.
    pub(super) fn read(
        &self,
        from: Position,
        last: Position,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, JournalError> {
        let unreadable = |source| JournalError::Failed {
            what: format!("reading {}", self.path.display()),
            source,
        };
        let (mut position, mut offset) = self.place_before(from)?;
        let mut records = Vec::new();
        let mut total_bytes = 0;
        // The first block holds what is asked for, and what lies between the index entry and the first record.
        let mut block_bytes = max_bytes.clamp(64 << 10, 1 << 20);
        while position <= last.0 && (records.is_empty() || total_bytes < max_bytes) {
            let block = Bytes::from(read_block(&self.file, offset, block_bytes).map_err(unreadable)?);
            let mut used = 0;
            let mut needed = FRAME_HEADER_BYTES;
            while position <= last.0 && (records.is_empty() || total_bytes < max_bytes) {
                let Some(header) = FrameHeader::decode(&block[used.min(block.len())..], self.salt) else {
                    if block.len().saturating_sub(used) < FRAME_HEADER_BYTES && used > 0 {
                        break;
                    }
                    return Err(damaged(
                        &self.path,
                        format_args!("record {position} cannot be read"),
                    ));
                };
                if header.position != position || header.record_bytes > RECORD_MAX_BYTES {
                    return Err(damaged(
                        &self.path,
                        format_args!("record {position} is not where it should be"),
                    ));
                }
                let start = used + FRAME_HEADER_BYTES;
                if start + header.record_bytes > block.len() {
                    needed = header.frame_bytes();
                    break;
                }
                self.remember(position, offset + used as u64);
                if position >= from.0 {
                    let record = block.slice(start..start + header.record_bytes);
                    RecordHeader::verified(&record)
                        .map_err(|error| damaged(&self.path, format_args!("record {position}: {error}")))?;
                    total_bytes += record.len();
                    records.push(record);
                }
                used += header.frame_bytes();
                position += 1;
            }
            if used == 0 && needed <= block_bytes {
                return Err(damaged(&self.path, format_args!("record {position} is cut off")));
            }
            offset += used as u64;
            block_bytes = block_bytes.max(needed);
        }
        Ok(records)
    }

    /// A known record at or before `from`, and its offset.
    fn place_before(&self, from: Position) -> Result<(u64, u64), JournalError> {
        let index = self
            .index
            .lock()
            .map_err(|_| damaged(&self.path, "the index is lost after a panic"))?;
        let after = index.partition_point(|(position, _)| *position <= from.0);
        let place = after.checked_sub(1).and_then(|place| index.get(place));
        place
            .copied()
            .ok_or_else(|| damaged(&self.path, format_args!("record {from} is not in this segment")))
    }
}

/// At most `length` bytes at an offset; fewer at the end of the file.
fn read_block(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut block = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut block[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    block.truncate(filled);
    Ok(block)
}

/// The frame header at an offset, with as many bytes as it claims for its record.
fn frame_at(content: &[u8], offset: usize, salt: Salt) -> Option<(FrameHeader, &[u8])> {
    let frame = content.get(offset..)?;
    let header = FrameHeader::decode(frame, salt)?;
    let record = frame.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES.checked_add(header.record_bytes)?)?;
    Some((header, record))
}

/// The number of a frame of this use of the segment that was written after the record `bad`, if there is one.
fn later_frame(content: &[u8], offset: usize, salt: Salt, bad: Position) -> Option<u64> {
    (offset..content.len())
        .step_by(FRAME_ALIGNMENT)
        .filter_map(|place| FrameHeader::decode(content.get(place..)?, salt))
        .map(|header| header.position)
        .find(|position| *position > bad.0)
}

/// Where a journal goes on after the end of its last segment.
impl From<SegmentEnd> for Tail {
    fn from(end: SegmentEnd) -> Self {
        Self {
            epoch: end.epoch,
            position: end.position,
            digest: end.digest,
        }
    }
}
