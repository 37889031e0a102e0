//! From an object to content, verified.

use std::ops::Range;

use bytes::Bytes;
use twinshore_protocol::format::Compression;

use super::ObjectError;
use super::header::{Block, Header};

/// Verifies and decodes consecutive blocks from their stored bytes, which must be exactly [`Header::stored_range`] of them.
///
/// Blocks that are stored as they are become slices of `stored`, without a copy.
pub fn decode_blocks(
    header: &Header,
    blocks: &Range<u64>,
    stored: &Bytes,
) -> Result<Vec<Bytes>, ObjectError> {
    let range = header.stored_range(blocks);
    let needed_bytes = range.end - range.start;
    let found_bytes = stored.len() as u64;
    if found_bytes < needed_bytes {
        return Err(ObjectError::Truncated {
            needed_bytes,
            found_bytes,
        });
    }
    if found_bytes > needed_bytes {
        return Err(ObjectError::Surplus {
            surplus_bytes: found_bytes - needed_bytes,
        });
    }
    let mut decoder = Decoder::new(header.compression());
    let mut contents =
        Vec::with_capacity(usize::try_from(blocks.end.saturating_sub(blocks.start)).unwrap_or(0));
    let mut taken = 0;
    for number in blocks.clone() {
        let Some(block) = header.block(number) else {
            return Err(ObjectError::OutOfRange {
                end: number,
                content_bytes: header.content_bytes(),
            });
        };
        let bytes = stored.slice(taken..taken + block.stored_bytes as usize);
        taken += bytes.len();
        contents.push(decoder.decode(header, number, block, bytes)?);
    }
    Ok(contents)
}

/// Verifies a whole object: its header, its length and every block's stored bytes. Does not decompress.
pub fn verify(body: &Bytes) -> Result<Header, ObjectError> {
    let header = Header::parse(body)?;
    let found_bytes = body.len() as u64;
    if found_bytes < header.stored_bytes() {
        return Err(ObjectError::Truncated {
            needed_bytes: header.stored_bytes(),
            found_bytes,
        });
    }
    if found_bytes > header.stored_bytes() {
        return Err(ObjectError::Surplus {
            surplus_bytes: found_bytes - header.stored_bytes(),
        });
    }
    let mut taken = Header::length(body)?;
    for number in 0..header.block_count() {
        let Some(block) = header.block(number) else { break };
        let end = taken + block.stored_bytes as usize;
        if crc32c::crc32c(&body[taken..end]) != block.checksum {
            return Err(ObjectError::BlockChecksum { block: number });
        }
        taken = end;
    }
    Ok(header)
}

/// Verifies and decodes a whole object.
pub fn decode(body: &Bytes) -> Result<(Header, Vec<Bytes>), ObjectError> {
    let header = Header::parse(body)?;
    let stored = body.slice(Header::length(body)?..);
    let blocks = decode_blocks(&header, &(0..header.block_count()), &stored)?;
    Ok((header, blocks))
}

/// A decompressor with what it keeps between blocks.
struct Decoder {
    compression: Compression,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Decoder {
    fn new(compression: Compression) -> Self {
        Self {
            compression,
            zstd: None,
        }
    }

    fn decode(
        &mut self,
        header: &Header,
        number: u64,
        block: Block,
        stored: Bytes,
    ) -> Result<Bytes, ObjectError> {
        if crc32c::crc32c(&stored) != block.checksum {
            return Err(ObjectError::BlockChecksum { block: number });
        }
        if block.raw {
            return Ok(stored);
        }
        let failed = ObjectError::BlockCompression { block: number };
        // At most BLOCK_BYTES.
        #[allow(clippy::cast_possible_truncation)]
        let length = header.block_content_bytes(number) as usize;
        let mut content = vec![0; length];
        let decompressed = match self.compression {
            Compression::None => return Err(failed),
            Compression::Lz4 => lz4_flex::block::decompress_into(&stored, &mut content).ok(),
            Compression::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = zstd::bulk::Decompressor::new().ok();
                }
                self.zstd
                    .as_mut()
                    .and_then(|zstd| zstd.decompress_to_buffer(&stored, &mut content[..]).ok())
            }
        };
        if decompressed == Some(length) {
            Ok(content.into())
        } else {
            Err(failed)
        }
    }
}
