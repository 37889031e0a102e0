//! The object: how the content of files becomes an immutable blob in a bucket.
//!
//! A header names the stored length and the CRC-32C of every block; the blocks follow. Each block holds
//! [`BLOCK_BYTES`] of content and is compressed by itself, so a ranged read fetches and verifies whole blocks and nothing
//! else. Every byte is described in `docs/object-format.md`.
//!
//! Invariants: a block never takes more room than its content (what does not shrink is stored as it is), so a reader
//! that knows no header can bound where a range of content lies. No damaged or hostile input makes a reader allocate more
//! than the input's own size plus one block, or answer bytes that were not written.

mod checksum;
mod decode;
mod encode;
mod header;
mod key;
#[cfg(test)]
mod tests;

pub use decode::{decode, decode_blocks, verify};
pub use encode::{EncodedObject, encode};
pub use header::{Header, fixed_header_bytes, header_bytes_for};
pub use key::{OBJECTS_PREFIX, object_key, parse_object_key};

/// Content bytes in a block; the last block of an object may hold fewer.
///
/// Small enough that a random read of 4 KiB does not cost much more, large enough that a table entry (8 bytes) and a
/// compressor's start-up are lost in it.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// Blocks in an object, at most: 4 GiB of content. It bounds the header that a reader is willing to fetch to 512 KiB.
pub const MAXIMUM_BLOCKS: usize = 65_536;

/// Why bytes are not the object they should be. Always damage: the object may be intact on the other side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// It does not begin as an object begins.
    #[error("the object does not begin with the object magic")]
    NotAnObject,
    /// It was written by a newer release, or its version byte is damaged.
    #[error("the object has format version {version}; this release reads version 1: use a newer release")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// A field of the header has no meaning.
    #[error("the object's header is damaged: {what}")]
    BadHeader {
        /// Which field.
        what: &'static str,
    },
    /// The header's checksum does not match.
    #[error("the object's header does not match its checksum")]
    HeaderChecksum,
    /// It ends too early.
    #[error("the object is cut short: {needed_bytes} bytes are needed, {found_bytes} are there")]
    Truncated {
        /// Bytes that must be there.
        needed_bytes: u64,
        /// Bytes that are there.
        found_bytes: u64,
    },
    /// It goes on after its end.
    #[error("the object is followed by {surplus_bytes} bytes that do not belong to it")]
    Surplus {
        /// How many.
        surplus_bytes: u64,
    },
    /// A block's checksum does not match.
    #[error("block {block} of the object does not match its checksum")]
    BlockChecksum {
        /// Its number.
        block: u64,
    },
    /// A block matches its checksum and cannot be decompressed to its length all the same.
    #[error("block {block} of the object cannot be decompressed")]
    BlockCompression {
        /// Its number.
        block: u64,
    },
    /// The range asked for is not within the content.
    #[error("the object holds {content_bytes} bytes of content, but bytes up to {end} are expected in it")]
    OutOfRange {
        /// The end of the range.
        end: u64,
        /// The length of the content.
        content_bytes: u64,
    },
}
