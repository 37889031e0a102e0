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
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use twinshore_protocol::{Epoch, ObjectId};

use crate::cache::memory::BlockKey;

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

/// A batch of blocks in the form in which it is written, in one call.
pub(super) struct Batch {
    bytes: Vec<u8>,
    records: Vec<Record>,
    start: u64,
}

impl Batch {
    /// An empty batch, to be written at `start`.
    pub(super) fn new(start: u64) -> Self {
        Self {
            bytes: Vec::new(),
            records: Vec::new(),
            start,
        }
    }

    /// Adds a block.
    pub(super) fn push(&mut self, key: BlockKey, content: &[u8]) {
        let Ok(content_bytes) = u32::try_from(content.len()) else {
            return;
        };
        let checksum = crc32c::crc32c(content);
        let content_offset = self.start + (self.bytes.len() + HEADER_BYTES) as u64;
        self.bytes
            .extend_from_slice(&encode_header(&key, content_bytes, checksum));
        self.bytes.extend_from_slice(content);
        self.records.push(Record {
            key,
            content_offset,
            content_bytes,
            checksum,
        });
    }

    /// How many bytes it will take.
    pub(super) fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Is there nothing to write?
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

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
        self.file.write_all_at(&batch.bytes, batch.start)?;
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
        let mut content = vec![0; record.content_bytes as usize];
        match self.file.read_exact_at(&mut content, record.content_offset) {
            Ok(()) => {}
            // The file is shorter than its records say: somebody has cut it. That is damage, not a failing disk.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok((crc32c::crc32c(&content) == record.checksum).then(|| Bytes::from(content)))
    }
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
