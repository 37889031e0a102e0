//! Where the bytes of a file are.

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::identifiers::{ObjectId, Sides};

/// Encodes [`Bytes`] as a CBOR byte string.
pub mod cbor_bytes {
    use bytes::Bytes;
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};

    /// Writes the bytes.
    pub fn encode<C, W: Write>(
        bytes: &Bytes,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.bytes(bytes)?.ok()
    }

    /// Reads the bytes (a copy: the frame that carried them can then be freed).
    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Bytes, DecodeError> {
        Ok(Bytes::copy_from_slice(d.bytes()?))
    }
}

/// What an extent's bytes are read from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ExtentSource {
    /// A range of an object's content (decoded bytes, before compression).
    #[n(0)]
    Object {
        /// The object.
        #[n(0)]
        object: ObjectId,
        /// Where the extent begins in the object's content, in bytes.
        #[n(1)]
        object_offset: u64,
        /// Where the object is known to be. A hint: it may have been copied since.
        #[n(2)]
        present: Sides,
    },
    /// The bytes themselves, in the metadata.
    #[n(1)]
    Inline(#[cbor(n(0), with = "crate::extent::cbor_bytes")] Bytes),
    /// Space reserved by `fallocate`: reads as zeros.
    #[n(2)]
    Reserved,
}

/// A range of a file. Ranges of a file that no extent covers are holes and read as zeros.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Extent {
    /// Where the range begins in the file, in bytes.
    #[n(0)]
    pub file_offset: u64,
    /// How long it is, in bytes; never 0.
    #[n(1)]
    pub length: u64,
    /// Where its bytes are.
    #[n(2)]
    pub source: ExtentSource,
}

impl Extent {
    /// The file offset after the last byte.
    pub const fn end(&self) -> u64 {
        self.file_offset + self.length
    }

    /// The part of this extent within `[start, end)`, or `None` if they do not meet.
    #[must_use]
    pub fn clipped(&self, start: u64, end: u64) -> Option<Self> {
        let from = self.file_offset.max(start);
        let to = self.end().min(end);
        if from >= to {
            return None;
        }
        let skipped = from - self.file_offset;
        let length = to - from;
        let source = match &self.source {
            ExtentSource::Object {
                object,
                object_offset,
                present,
            } => ExtentSource::Object {
                object: *object,
                object_offset: object_offset + skipped,
                present: *present,
            },
            ExtentSource::Inline(bytes) => {
                // Inline extents are at most some KiB, so their offsets fit any usize.
                #[allow(clippy::cast_possible_truncation)]
                let range = skipped as usize..(skipped + length) as usize;
                ExtentSource::Inline(bytes.slice(range))
            }
            ExtentSource::Reserved => ExtentSource::Reserved,
        };
        Some(Self {
            file_offset: from,
            length,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use super::*;

    #[test]
    fn clipping_moves_the_source_with_the_range() {
        let extent = Extent {
            file_offset: 100,
            length: 10,
            source: ExtentSource::Inline(Bytes::from_static(b"0123456789")),
        };
        let clipped = extent.clipped(103, 105).expect("they meet");
        assert_eq!((clipped.file_offset, clipped.length), (103, 2));
        assert_eq!(clipped.source, ExtentSource::Inline(Bytes::from_static(b"34")));
        assert_eq!(extent.clipped(110, 120), None);
        assert_eq!(extent.clipped(0, 1000), Some(extent));
    }
}
