//! The header of an object: what is stored where, and the checksum of each block.

use std::ops::Range;

use twinshore_protocol::format::Compression;

use super::{BLOCK_BYTES, MAXIMUM_BLOCKS, ObjectError};

/// The first bytes of every object.
pub(super) const MAGIC: [u8; 4] = *b"TwSO";
/// The version of the format.
pub(super) const VERSION: u8 = 1;
/// Bytes before the block table.
const FIXED_BYTES: usize = 32;
/// Bytes of an entry of the block table.
const ENTRY_BYTES: usize = 8;
/// Bytes of the header's own checksum.
const CHECKSUM_BYTES: usize = 4;
/// Set in an entry's length: the block is stored as it is, although the object is compressed.
const RAW: u32 = 1 << 31;

/// Bytes from which [`Header::length`] can tell how long the header is.
pub const fn fixed_header_bytes() -> usize {
    FIXED_BYTES
}

/// How long the header of an object with this much content is.
pub const fn header_bytes_for(content_bytes: u64) -> u64 {
    (FIXED_BYTES + CHECKSUM_BYTES) as u64 + content_bytes.div_ceil(BLOCK_BYTES as u64) * ENTRY_BYTES as u64
}

/// An entry of the block table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Where the stored bytes begin in the object.
    pub(super) offset: u64,
    /// How many there are.
    pub(super) stored_bytes: u32,
    /// They are the content as it is.
    pub(super) raw: bool,
    /// The CRC-32C of the stored bytes.
    pub(super) checksum: u32,
}

/// A verified header.
#[allow(clippy::struct_field_names)] // Its own length beside those of content and object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    compression: Compression,
    content_bytes: u64,
    header_bytes: u64,
    stored_bytes: u64,
    blocks: Vec<Block>,
}

impl Header {
    /// Writes the header of blocks in order into the beginning of an object's body.
    pub(super) fn write(body: &mut [u8], compression: Compression, content_bytes: u64, blocks: &[Block]) {
        let mut fields = Fields { rest: body };
        fields.put(&MAGIC);
        fields.put(&[VERSION, compression_number(compression), 0, 0]);
        fields.put(&header_bytes_for(content_bytes).to_le_bytes()[..4]);
        fields.put(&(BLOCK_BYTES as u64).to_le_bytes()[..4]);
        fields.put(&content_bytes.to_le_bytes());
        fields.put(&(blocks.len() as u64).to_le_bytes());
        for block in blocks {
            fields.put(&(block.stored_bytes | if block.raw { RAW } else { 0 }).to_le_bytes());
            fields.put(&block.checksum.to_le_bytes());
        }
    }

    /// How long the header is, from the first [`fixed_header_bytes`] of an object.
    pub fn length(beginning: &[u8]) -> Result<usize, ObjectError> {
        let fixed = beginning.get(..FIXED_BYTES).ok_or(ObjectError::Truncated {
            needed_bytes: FIXED_BYTES as u64,
            found_bytes: beginning.len() as u64,
        })?;
        if fixed[..4] != MAGIC {
            return Err(ObjectError::NotAnObject);
        }
        if fixed[4] != VERSION {
            return Err(ObjectError::UnknownVersion { version: fixed[4] });
        }
        let count =
            usize::try_from(u64_at(fixed, 24)).map_err(|_| ObjectError::BadHeader { what: "block count" })?;
        if count > MAXIMUM_BLOCKS {
            return Err(ObjectError::BadHeader { what: "block count" });
        }
        Ok(FIXED_BYTES + count * ENTRY_BYTES + CHECKSUM_BYTES)
    }

    /// Reads and verifies a header from the beginning of an object; what follows the header is not looked at.
    pub fn parse(beginning: &[u8]) -> Result<Self, ObjectError> {
        let length = Self::length(beginning)?;
        let header = beginning.get(..length).ok_or(ObjectError::Truncated {
            needed_bytes: length as u64,
            found_bytes: beginning.len() as u64,
        })?;
        let (covered, checksum) = header.split_at(length - CHECKSUM_BYTES);
        if crc32c::crc32c(covered) != u32_at(checksum, 0) {
            return Err(ObjectError::HeaderChecksum);
        }
        let compression =
            compression_from(covered[5]).ok_or(ObjectError::BadHeader { what: "compression" })?;
        if covered[6] != 0 {
            return Err(ObjectError::BadHeader {
                what: "encryption is not known to this release",
            });
        }
        if covered[7] != 0 {
            return Err(ObjectError::BadHeader { what: "flags" });
        }
        if u32_at(covered, 8) as usize != length {
            return Err(ObjectError::BadHeader {
                what: "header length",
            });
        }
        if u32_at(covered, 12) as usize != BLOCK_BYTES {
            return Err(ObjectError::BadHeader { what: "block size" });
        }
        let content_bytes = u64_at(covered, 16);
        let table = &covered[FIXED_BYTES..];
        if content_bytes.div_ceil(BLOCK_BYTES as u64) != (table.len() / ENTRY_BYTES) as u64 {
            return Err(ObjectError::BadHeader {
                what: "content length",
            });
        }
        let mut blocks = Vec::with_capacity(table.len() / ENTRY_BYTES);
        let mut offset = length as u64;
        for (number, entry) in table.chunks_exact(ENTRY_BYTES).enumerate() {
            let (length_and_flag, checksum) = (u32_at(entry, 0), u32_at(entry, 4));
            let block = Block {
                offset,
                stored_bytes: length_and_flag & !RAW,
                raw: compression == Compression::None || length_and_flag & RAW != 0,
                checksum,
            };
            if compression == Compression::None && length_and_flag & RAW != 0 {
                return Err(ObjectError::BadHeader { what: "block flags" });
            }
            let content = content_bytes_of(content_bytes, number as u64);
            // A compressed block that is not smaller than its content would have been stored as it is.
            let fits = if block.raw {
                u64::from(block.stored_bytes) == content
            } else {
                block.stored_bytes > 0 && u64::from(block.stored_bytes) < content
            };
            if !fits {
                return Err(ObjectError::BadHeader { what: "block length" });
            }
            offset += u64::from(block.stored_bytes);
            blocks.push(block);
        }
        Ok(Self {
            compression,
            content_bytes,
            header_bytes: length as u64,
            stored_bytes: offset,
            blocks,
        })
    }

    /// How the blocks are compressed.
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// Bytes of content.
    pub const fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Bytes of the header.
    pub const fn header_bytes(&self) -> u64 {
        self.header_bytes
    }

    /// Bytes of the whole object in the bucket.
    pub const fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Bytes of content in a block.
    pub fn block_content_bytes(&self, block: u64) -> u64 {
        content_bytes_of(self.content_bytes, block)
    }

    /// The blocks that hold a range of content.
    pub fn blocks_of(&self, content: &Range<u64>) -> Result<Range<u64>, ObjectError> {
        if content.start > content.end || content.end > self.content_bytes {
            let end = content.end.max(content.start);
            return Err(ObjectError::OutOfRange {
                end,
                content_bytes: self.content_bytes,
            });
        }
        if content.is_empty() {
            let block = content.start / BLOCK_BYTES as u64;
            return Ok(block..block);
        }
        Ok(content.start / BLOCK_BYTES as u64..content.end.div_ceil(BLOCK_BYTES as u64))
    }

    /// Where blocks are stored in the object.
    pub fn stored_range(&self, blocks: &Range<u64>) -> Range<u64> {
        self.stored_offset(blocks.start)..self.stored_offset(blocks.end.max(blocks.start))
    }

    /// Bytes that this header occupies in memory.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.blocks.capacity() * size_of::<Block>()
    }

    /// The entry of a block.
    pub(super) fn block(&self, number: u64) -> Option<Block> {
        self.blocks.get(usize::try_from(number).ok()?).copied()
    }

    fn stored_offset(&self, block: u64) -> u64 {
        self.block(block).map_or(self.stored_bytes, |block| block.offset)
    }
}

/// Bytes of content in a block of an object with so much content.
fn content_bytes_of(content_bytes: u64, block: u64) -> u64 {
    content_bytes
        .saturating_sub(block.saturating_mul(BLOCK_BYTES as u64))
        .min(BLOCK_BYTES as u64)
}

const fn compression_number(compression: Compression) -> u8 {
    match compression {
        Compression::None => 0,
        Compression::Lz4 => 1,
        Compression::Zstd => 2,
    }
}

const fn compression_from(number: u8) -> Option<Compression> {
    match number {
        0 => Some(Compression::None),
        1 => Some(Compression::Lz4),
        2 => Some(Compression::Zstd),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Writes fields one after the other, then the checksum of them all.
struct Fields<'a> {
    rest: &'a mut [u8],
}

impl Fields<'_> {
    fn put(&mut self, field: &[u8]) {
        let rest = std::mem::take(&mut self.rest);
        let (place, rest) = rest.split_at_mut(field.len());
        place.copy_from_slice(field);
        self.rest = rest;
    }
}
