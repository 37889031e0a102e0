//! Reading a range of content from one bucket, with as few requests as can be.
//!
//! With a known header: one request for exactly the blocks. Without one, the place of a block is not known, but it is
//! bounded: no block takes more room than its content. So one request from the beginning of the object brings the
//! header and the blocks, if what lies between them is worth reading; else a short one brings the header first.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::side::{AttemptError, Requests};
use crate::buffer::Buffer;
use crate::object::{BLOCK_BYTES, Header, decode_blocks, fixed_header_bytes};

/// Room for the header in a speculative request: an object of 64 MiB, four times what the file system writes.
const HEADER_ROOM_BYTES: u64 = 8 * 1024;
/// A first request for nothing but the header.
const HEADER_REQUEST_BYTES: u64 = 64 * 1024;
/// Bytes before the wanted ones that are read along to save a request: about what a store sends in the time of a
/// request's first byte.
const WORTH_READING_BYTES: u64 = 1024 * 1024;

/// An answer may keep this share of its length alive besides, as a divisor: a header before 4 MiB, not a MiB before 64 KiB.
const SURPLUS_DIVISOR: usize = 8;

/// What was read.
pub(super) struct ReadBlocks {
    pub(super) header: Arc<Header>,
    pub(super) first_block: u64,
    pub(super) content: Bytes,
}

/// How many bytes a read may hold in memory at once, at most: for the budget.
pub(super) fn bound_bytes(content: &Range<u64>) -> u64 {
    let blocks = block_aligned(content);
    blocks.end - blocks.start + WORTH_READING_BYTES + HEADER_ROOM_BYTES + HEADER_REQUEST_BYTES
}

/// Reads, verifies and decodes the blocks that cover a range of content.
pub(super) async fn read(
    requests: Requests,
    key: String,
    content: Range<u64>,
    known: Option<Arc<Header>>,
) -> Result<ReadBlocks, AttemptError> {
    let (header, beginning) = match known {
        Some(header) => (header, Bytes::new()),
        None => read_header(&requests, &key, first_request(&content)).await?,
    };
    let blocks = header.blocks_of(&content)?;
    let range = header.stored_range(&blocks);
    let stored = match within(&beginning, &range) {
        Some(stored) => stored,
        None => requests.get(&key, Some(range)).await?,
    };
    let decoded = decode_blocks(&header, &blocks, &stored)?;
    Ok(ReadBlocks {
        header,
        first_block: blocks.start,
        content: without_surplus(decoded, beginning.len()),
    })
}

/// The content in memory of its own if it is part of something so much larger that keeping it would keep much else.
fn without_surplus(content: Bytes, part_of_bytes: usize) -> Bytes {
    if part_of_bytes.saturating_sub(content.len()) > content.len() / SURPLUS_DIVISOR {
        Buffer::copy_from(&content).freeze()
    } else {
        content
    }
}

/// How much of the object's beginning to ask for first.
fn first_request(content: &Range<u64>) -> u64 {
    let wanted = block_aligned(content);
    if wanted.start <= WORTH_READING_BYTES.max(wanted.end - wanted.start) {
        HEADER_ROOM_BYTES + wanted.end
    } else {
        HEADER_REQUEST_BYTES
    }
}

/// The header, and as much of the object's beginning as was read with it.
async fn read_header(
    requests: &Requests,
    key: &str,
    request_bytes: u64,
) -> Result<(Arc<Header>, Bytes), AttemptError> {
    let mut beginning = requests.get(key, Some(0..request_bytes)).await?;
    if beginning.len() >= fixed_header_bytes() {
        let length = Header::length(&beginning)?;
        if beginning.len() < length && beginning.len() as u64 == request_bytes {
            beginning = requests.get(key, Some(0..length as u64)).await?;
        }
    }
    let header = Header::parse(&beginning)?;
    Ok((Arc::new(header), beginning))
}

/// The part of the beginning that is this range, if it is all there.
fn within(beginning: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    let start = usize::try_from(range.start).ok()?;
    let end = usize::try_from(range.end).ok()?;
    (end <= beginning.len() || range.is_empty()).then(|| {
        if range.is_empty() {
            Bytes::new()
        } else {
            beginning.slice(start..end)
        }
    })
}

fn block_aligned(content: &Range<u64>) -> Range<u64> {
    let block = BLOCK_BYTES as u64;
    let start = content.start / block * block;
    start
        ..content
            .end
            .max(content.start)
            .div_ceil(block)
            .saturating_mul(block)
}
