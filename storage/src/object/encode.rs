//! From content to an object.

use bytes::Bytes;
use twinshore_protocol::format::Compression;

use super::header::{Block, Header};
use super::{BLOCK_BYTES, MAXIMUM_BLOCKS, checksum, header_bytes_for};
use crate::buffer::Buffer;

/// The level of zstd: its own default. Higher ones cost more than they save on 64 KiB.
const ZSTD_LEVEL: i32 = 3;

/// An object ready to be stored.
#[derive(Clone, Debug)]
pub struct EncodedObject {
    /// What is stored.
    pub body: Bytes,
    /// The CRC-32C of the body.
    pub checksum: u32,
    /// Bytes of content.
    pub content_bytes: u64,
    /// Every block is stored as it is.
    is_raw: bool,
}

impl EncodedObject {
    /// The content, if it stands in the body as it is: a slice of it.
    pub fn raw_content(&self) -> Option<Bytes> {
        let header_bytes = self
            .body
            .len()
            .checked_sub(usize::try_from(self.content_bytes).ok()?)?;
        self.is_raw.then(|| self.body.slice(header_bytes..))
    }

    /// Bytes in the bucket.
    pub const fn stored_bytes(&self) -> u64 {
        self.body.len() as u64
    }
}

/// Encodes content: the concatenation of the slices, at most [`MAXIMUM_BLOCKS`] blocks (4 GiB).
///
/// Each byte is copied once (into the body), and read once for its checksum.
pub fn encode(content: &[Bytes], compression: Compression) -> EncodedObject {
    let content_bytes: usize = content.iter().map(Bytes::len).sum();
    debug_assert!(
        content_bytes <= MAXIMUM_BLOCKS * BLOCK_BYTES,
        "an object holds at most 4 GiB"
    );
    // A usize fits into a u64 and a header's length into a usize on every platform this runs on (32 or 64 bits).
    #[allow(clippy::cast_possible_truncation)]
    let header_bytes = header_bytes_for(content_bytes as u64) as usize;

    let mut body = Buffer::with_capacity(header_bytes + content_bytes);
    body.resize(header_bytes, 0);
    let mut blocks = Vec::with_capacity(content_bytes.div_ceil(BLOCK_BYTES));
    let mut compressor = Compressor::new(compression);
    let mut incompressible = Incompressible::default();
    let mut is_raw = true;
    let mut pieces = Pieces {
        slices: content,
        skipped: 0,
    };
    let mut gathered = Vec::new();
    let mut blocks_checksum = 0;
    let mut remaining = content_bytes;
    while remaining > 0 {
        let length = remaining.min(BLOCK_BYTES);
        remaining -= length;
        let start = body.len();
        let raw = match &mut compressor {
            Compressor::None => {
                pieces.take(length, |piece| body.extend_from_slice(piece));
                true
            }
            compressor => {
                let block = pieces.contiguous(length, &mut gathered);
                let shrunk = incompressible.is_worth_trying() && compressor.append(block, &mut body);
                incompressible.tried(shrunk);
                if !shrunk {
                    body.extend_from_slice(block);
                }
                !shrunk
            }
        };
        is_raw &= raw;
        let stored = &body[start..];
        let checksum = crc32c::crc32c(stored);
        blocks_checksum = checksum::join(blocks_checksum, checksum, stored.len());
        blocks.push(Block {
            offset: start as u64,
            // At most BLOCK_BYTES.
            #[allow(clippy::cast_possible_truncation)]
            stored_bytes: stored.len() as u32,
            raw: raw && compression != Compression::None,
            checksum,
        });
    }

    Header::write(
        &mut body[..header_bytes],
        compression,
        content_bytes as u64,
        &blocks,
    );
    let (header, stored) = body.split_at_mut(header_bytes);
    let (covered, place) = header.split_at_mut(header_bytes - 4);
    place.copy_from_slice(&crc32c::crc32c(covered).to_le_bytes());
    let checksum = checksum::join(crc32c::crc32c(header), blocks_checksum, stored.len());
    EncodedObject {
        body: body.freeze(),
        checksum,
        content_bytes: content_bytes as u64,
        is_raw,
    }
}

/// Keeps what does not compress (media, archives, ciphertext) from being tried block by block: after some failures in a row only
/// every eighth block is tried, until one shrinks.
#[derive(Default)]
struct Incompressible {
    failures: u32,
}

impl Incompressible {
    /// Failures in a row before blocks are passed over.
    const FAILURES: u32 = 2;
    /// Then one of so many is tried.
    const INTERVAL: u32 = 8;

    fn is_worth_trying(&self) -> bool {
        self.failures < Self::FAILURES
            || (self.failures - Self::FAILURES) % Self::INTERVAL == Self::INTERVAL - 1
    }

    fn tried(&mut self, shrunk: bool) {
        self.failures = if shrunk { 0 } else { self.failures + 1 };
    }
}

/// The content, taken from its slices piece by piece.
struct Pieces<'a> {
    slices: &'a [Bytes],
    /// Bytes of the first slice that have been taken.
    skipped: usize,
}

impl<'a> Pieces<'a> {
    /// Takes so many bytes, in one or more pieces.
    fn take(&mut self, mut length: usize, mut each: impl FnMut(&'a [u8])) {
        while length > 0 {
            let Some((first, rest)) = self.slices.split_first() else {
                return;
            };
            let piece = &first[self.skipped..(self.skipped + length).min(first.len())];
            self.skipped += piece.len();
            length -= piece.len();
            if self.skipped == first.len() {
                self.slices = rest;
                self.skipped = 0;
            }
            each(piece);
        }
    }

    /// Takes so many bytes as one slice: as they are if they lie together, else gathered.
    fn contiguous<'b>(&mut self, length: usize, gathered: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        let together = self
            .slices
            .first()
            .is_some_and(|first| first.len() - self.skipped >= length);
        if together {
            let mut block: &'a [u8] = &[];
            self.take(length, |piece| block = piece);
            return block;
        }
        gathered.clear();
        self.take(length, |piece| gathered.extend_from_slice(piece));
        gathered
    }
}

/// A compressor with what it keeps between blocks.
enum Compressor {
    None,
    Lz4,
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl Compressor {
    fn new(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
            // Without memory for a zstd context everything else fails too; storing raw is always correct.
            Compression::Zstd => zstd::bulk::Compressor::new(ZSTD_LEVEL)
                .map_or(Self::None, |compressor| Self::Zstd(Box::new(compressor))),
        }
    }

    /// Appends the compressed block if that is smaller than the block. If not, nothing is appended.
    fn append(&mut self, block: &[u8], body: &mut Vec<u8>) -> bool {
        let start = body.len();
        // One byte less than the block: what would not shrink does not fit and is an error.
        let most = block.len() - 1;
        match self {
            Self::None => false,
            Self::Lz4 => {
                // lz4_flex wants room for the worst case before it begins.
                body.resize(start + lz4_flex::block::get_maximum_output_size(block.len()), 0);
                let shrunk = lz4_flex::block::compress_into(block, &mut body[start..])
                    .ok()
                    .filter(|n| *n <= most);
                body.truncate(start + shrunk.unwrap_or(0));
                shrunk.is_some()
            }
            Self::Zstd(compressor) => {
                body.resize(start + most, 0);
                let shrunk = compressor.compress_to_buffer(block, &mut body[start..]).ok();
                body.truncate(start + shrunk.unwrap_or(0));
                shrunk.is_some()
            }
        }
    }
}
