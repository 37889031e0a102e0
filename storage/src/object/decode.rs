//! From an object to content, verified.

use std::ops::Range;

use bytes::Bytes;
use twinshore_protocol::format::Compression;

use super::ObjectError;
use super::header::{Block, Header};

/// Verifies and decodes consecutive blocks from their stored bytes, which must be exactly [`Header::stored_range`] of them. Answers
/// their content, one after the other.
///
/// If all are stored as they are, the answer is `stored` itself, without a copy.
pub fn decode_blocks(header: &Header, blocks: &Range<u64>, stored: &Bytes) -> Result<Bytes, ObjectError> {
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
    let mut decoder = Decoder {
        compression: header.compression(),
        zstd: None,
        content: Vec::new(),
    };
    let mut taken = 0;
    let mut are_raw = true;
    for number in blocks.clone() {
        let Some(block) = header.block(number) else {
            return Err(ObjectError::OutOfRange {
                end: number,
                content_bytes: header.content_bytes(),
            });
        };
        let end = taken + block.stored_bytes as usize;
        let bytes = &stored[taken..end];
        if crc32c::crc32c(bytes) != block.checksum {
            return Err(ObjectError::BlockChecksum { block: number });
        }
        if are_raw && !block.raw {
            // What came before was left where it is.
            are_raw = false;
            decoder.content.reserve(stored.len());
            decoder.content.extend_from_slice(&stored[..taken]);
        }
        if !are_raw {
            decoder.decode(header, number, block, bytes)?;
        }
        taken = end;
    }
    if are_raw {
        return Ok(stored.clone());
    }
    decoder.content.shrink_to_fit();
    Ok(decoder.content.into())
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

/// Verifies and decodes a whole object: its header and its content.
pub fn decode(body: &Bytes) -> Result<(Header, Bytes), ObjectError> {
    let header = Header::parse(body)?;
    let stored = body.slice(Header::length(body)?..);
    let content = decode_blocks(&header, &(0..header.block_count()), &stored)?;
    Ok((header, content))
}

/// What has been decoded, and a decompressor with what it keeps between blocks.
struct Decoder {
    compression: Compression,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    /// Grows block by block: a header that lies about many blocks does not make it large.
    content: Vec<u8>,
}

impl Decoder {
    /// Appends the content of a verified block.
    fn decode(
        &mut self,
        header: &Header,
        number: u64,
        block: Block,
        stored: &[u8],
    ) -> Result<(), ObjectError> {
        if block.raw {
            self.content.extend_from_slice(stored);
            return Ok(());
        }
        let failed = ObjectError::BlockCompression { block: number };
        // At most BLOCK_BYTES.
        #[allow(clippy::cast_possible_truncation)]
        let length = header.block_content_bytes(number) as usize;
        let start = self.content.len();
        self.content.resize(start + length, 0);
        let place = &mut self.content[start..];
        let decompressed = match self.compression {
            Compression::None => return Err(failed),
            Compression::Lz4 => lz4_flex::block::decompress_into(stored, place).ok(),
            Compression::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = zstd::bulk::Decompressor::new().ok();
                }
                self.zstd
                    .as_mut()
                    .and_then(|zstd| zstd.decompress_to_buffer(stored, place).ok())
            }
        };
        if decompressed == Some(length) {
            Ok(())
        } else {
            Err(failed)
        }
    }
}
