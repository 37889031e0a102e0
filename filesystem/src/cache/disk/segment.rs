//! A segment: one append-only file of blocks.
//!
//! ```text
//! record*                      header (40 bytes) and content
//! table                        the headers of all records again, only in a sealed segment
//! trailer (24 bytes)           magic, number of records, bytes of records, CRC-32C of table and trailer
//! ```
//!
//! A header is, little-endian: magic (4), content length (4), epoch (8), object number (8), block (8), CRC-32C of the
//! content (4), CRC-32C of the header so far (4).
//!
//! Nothing is ever flushed to the device: whatever a crash leaves behind is recognised. An unsealed or torn segment is read record by
//! record up to the first header that does not verify; content is verified whenever it is read.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use twinshore_protocol::{Epoch, ObjectId};
use twinshore_storage::buffer::Buffer;

use crate::cache::memory::BlockKey;
use crate::vfs::BLOCK;

/// Bytes of a record's header.
pub(super) const HEADER_BYTES: usize = 40;

const TRAILER_BYTES: usize = 24;
const HEADER_MAGIC: u32 = 0x4243_5354; // "TSCB"
const TRAILER_MAGIC: u32 = 0x4543_5354; // "TSCE"

/// The largest content that a header may announce: far above a block, far below what would exhaust memory.
const CONTENT_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Where a block is within its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// What it is.
    pub(super) key: BlockKey,
    /// Where its content begins.
    pub(super) content_offset: u64,
    /// Bytes of content.
    pub(super) content_bytes: u32,
    /// CRC-32C of the content.
    pub(super) checksum: u32,
}

impl Record {
    /// Does the next one lie directly behind this one, and hold the block after this one's, so that both can be read into one piece?
    pub(super) fn is_followed_by(&self, next: &Self) -> bool {
        u64::from(self.content_bytes) == BLOCK
            && (next.key.0, next.key.1) == (self.key.0, self.key.1 + 1)
            && next.content_offset
                == self.content_offset + u64::from(self.content_bytes) + HEADER_BYTES as u64
    }
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|part| part.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|part| part.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn encode_header(key: &BlockKey, content_bytes: u32, checksum: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&content_bytes.to_le_bytes());
    header[8..16].copy_from_slice(&key.0.epoch.0.to_le_bytes());
    header[16..24].copy_from_slice(&key.0.number.to_le_bytes());
    header[24..32].copy_from_slice(&key.1.to_le_bytes());
    header[32..36].copy_from_slice(&checksum.to_le_bytes());
    let own = crc32c::crc32c(&header[..36]);
    header[36..40].copy_from_slice(&own.to_le_bytes());
    header
}

/// Reads a header that begins `offset` bytes into the file, or `None` if it is not one.
fn decode_header(header: &[u8], offset: u64) -> Option<Record> {
    if header.len() < HEADER_BYTES
        || number32(header, 0) != HEADER_MAGIC
        || number32(header, 36) != crc32c::crc32c(&header[..36])
    {
        return None;
    }
    let content_bytes = number32(header, 4);
    if content_bytes > CONTENT_BYTES_MAX {
        return None;
    }
    let object = ObjectId {
        epoch: Epoch(number64(header, 8)),
        number: number64(header, 16),
    };
    Some(Record {
        key: (object, number64(header, 24)),
        content_offset: offset + HEADER_BYTES as u64,
        content_bytes,
        checksum: number32(header, 32),
    })
}

/// A batch of blocks, written in one call from where they are.
pub(super) struct Batch {
    /// Header and content of each.
    parts: Vec<([u8; HEADER_BYTES], Bytes)>,
    records: Vec<Record>,
    start: u64,
    bytes: u64,
}

impl Batch {
    /// An empty batch, to be written at `start`.
    pub(super) fn new(start: u64) -> Self {
        Self {
            parts: Vec::new(),
            records: Vec::new(),
            start,
            bytes: 0,
        }
    }

    /// Adds a block.
    pub(super) fn push(&mut self, key: BlockKey, content: Bytes) {
        let Ok(content_bytes) = u32::try_from(content.len()) else {
            return;
        };
        let checksum = crc32c::crc32c(&content);
        let content_offset = self.start + self.bytes + HEADER_BYTES as u64;
        self.records.push(Record {
            key,
            content_offset,
            content_bytes,
            checksum,
        });
        self.bytes += HEADER_BYTES as u64 + u64::from(content_bytes);
        self.parts
            .push((encode_header(&key, content_bytes, checksum), content));
    }

    /// How many bytes it will take.
    pub(super) fn len_bytes(&self) -> u64 {
        self.bytes
    }

    /// Is there nothing to write?
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn write_to(&self, file: &File) -> io::Result<()> {
        let mut at = self.start;
        for parts in self.parts.chunks(SLICES_MAX / 2) {
            let mut slices: Vec<IoSlice<'_>> = parts
                .iter()
                .flat_map(|(header, content)| [IoSlice::new(header), IoSlice::new(content)])
                .collect();
            let mut rest = &mut slices[..];
            while !rest.is_empty() {
                let written = rustix::io::retry_on_intr(|| rustix::io::pwritev(file, rest, at))?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                at += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
        }
        Ok(())
    }
}

/// Slices in one system call, below the kernel's limit of 1024.
const SLICES_MAX: usize = 256;

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
}

impl Segment {
    /// Makes an empty one.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        Ok(Self { file })
    }

    /// Opens one that exists and finds out what it holds: its records and how long it is.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<Record>, u64)> {
        let file = OpenOptions::new().read(true).open(path)?;
        let length = file.metadata()?.len();
        let records = match read_table(&file, length)? {
            Some(records) => records,
            None => scan(&file, length)?,
        };
        Ok((Self { file }, records, length))
    }

    /// Writes a batch where it belongs.
    pub(super) fn write(&self, batch: &Batch) -> io::Result<Vec<Record>> {
        batch.write_to(&self.file)?;
        Ok(batch.records.clone())
    }

    /// Writes the table and the trailer, so that the next start reads one range instead of each header.
    pub(super) fn seal(&self, records: &[Record], end: u64) -> io::Result<u64> {
        let mut bytes = Vec::with_capacity(records.len() * HEADER_BYTES + TRAILER_BYTES);
        for record in records {
            bytes.extend_from_slice(&encode_header(&record.key, record.content_bytes, record.checksum));
        }
        bytes.extend_from_slice(&TRAILER_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        bytes.extend_from_slice(&(records.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(end).unwrap_or(u32::MAX).to_le_bytes());
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        self.file.write_all_at(&bytes, end)?;
        Ok(bytes.len() as u64)
    }

    /// Reads a block and verifies it: `None` if what is there is not what was written.
    pub(super) fn read(&self, record: &Record) -> io::Result<Option<Bytes>> {
        let run = self.read_run(std::slice::from_ref(record))?;
        Ok(run.is_intact[0].then_some(run.content))
    }

    /// Reads records that [follow one another](Record::is_followed_by) in one call, into one piece of memory, and verifies each.
    pub(super) fn read_run(&self, records: &[Record]) -> io::Result<ReadRun> {
        let lengths = records.iter().map(|record| record.content_bytes as usize);
        let content_bytes: usize = lengths.clone().sum();
        let mut content = Buffer::with_capacity(content_bytes);
        content.resize(content_bytes, 0);
        let mut headers = vec![[0; HEADER_BYTES]; records.len().saturating_sub(1)];
        let mut slices = Vec::with_capacity(records.len() * 2);
        let mut rest = &mut content[..];
        let mut between = headers.iter_mut();
        for length in lengths.clone() {
            let (place, after) = rest.split_at_mut(length);
            rest = after;
            slices.push(IoSliceMut::new(place));
            // What lies between the contents is not looked at: the index knows it.
            slices.extend(between.next().map(|header| IoSliceMut::new(header)));
        }
        let mut at = records.first().map_or(0, |record| record.content_offset);
        for slices in slices.chunks_mut(SLICES_MAX) {
            let mut rest = slices;
            while !rest.is_empty() {
                let read = rustix::io::retry_on_intr(|| rustix::io::preadv(&self.file, rest, at))?;
                // The file is shorter than its records say: somebody has cut it. That is damage, not a failing disk.
                if read == 0 {
                    break;
                }
                at += read as u64;
                IoSliceMut::advance_slices(&mut rest, read);
            }
        }
        let mut taken = 0;
        let is_intact = records
            .iter()
            .map(|record| {
                let start = taken;
                taken += record.content_bytes as usize;
                // Of a record that begins beyond the file's end, nothing was read; that is not what was written either, unless it
                // was zeros.
                record.content_offset + u64::from(record.content_bytes) <= at
                    && crc32c::crc32c(&content[start..taken]) == record.checksum
            })
            .collect();
        Ok(ReadRun {
            content: content.freeze(),
            is_intact,
        })
    }
}

/// The contents of records, one after the other, and which of them are what was written.
pub(super) struct ReadRun {
    /// The contents.
    pub(super) content: Bytes,
    /// For each record.
    pub(super) is_intact: Vec<bool>,
}

/// The records of a sealed segment; `None` if it is not sealed or the table is damaged.
fn read_table(file: &File, length: u64) -> io::Result<Option<Vec<Record>>> {
    let Some(trailer_start) = length.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(None);
    };
    let mut trailer = [0; TRAILER_BYTES];
    file.read_exact_at(&mut trailer, trailer_start)?;
    if number32(&trailer, 0) != TRAILER_MAGIC {
        return Ok(None);
    }
    let table_bytes = number64(&trailer, 8).checked_mul(HEADER_BYTES as u64);
    let Some(table_start) = table_bytes.and_then(|bytes| trailer_start.checked_sub(bytes)) else {
        return Ok(None);
    };
    let Ok(whole) = usize::try_from(length - table_start) else {
        return Ok(None);
    };
    let mut bytes = vec![0; whole];
    file.read_exact_at(&mut bytes, table_start)?;
    if crc32c::crc32c(&bytes[..whole - 4]) != number32(&bytes, whole - 4) {
        return Ok(None);
    }
    let mut records = Vec::new();
    let mut offset = 0;
    for header in bytes[..whole - TRAILER_BYTES].chunks_exact(HEADER_BYTES) {
        let Some(record) = decode_header(header, offset) else {
            return Ok(None);
        };
        offset = record.content_offset + u64::from(record.content_bytes);
        records.push(record);
    }
    Ok((offset == table_start).then_some(records))
}

/// The records of a segment that was not sealed: up to the first that does not verify or does not fit.
fn scan(file: &File, length: u64) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut offset = 0;
    let mut header = [0; HEADER_BYTES];
    while offset + HEADER_BYTES as u64 <= length {
        file.read_exact_at(&mut header, offset)?;
        let Some(record) = decode_header(&header, offset) else {
            break;
        };
        let end = record.content_offset + u64::from(record.content_bytes);
        if end > length {
            break;
        }
        offset = end;
        records.push(record);
    }
    Ok(records)
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
