//! How a record lies in a segment file: a small header before it, and padding after it.
//!
//! Segment files are reused, so the place where the next record goes holds old bytes. The header carries the *salt* of
//! the segment's present use, a digest that nobody who writes file content can know: neither an old record nor content
//! that imitates one is ever taken for a record of this use.

/// The first bytes of a frame.
const FRAME_MAGIC: [u8; 4] = *b"TSJF";

/// Bytes before the record.
pub(super) const FRAME_HEADER_BYTES: usize = 32;

/// Frames begin at multiples of this, so that the search for frames behind a damaged one looks at few places.
pub(super) const FRAME_ALIGNMENT: usize = 64;

/// What distinguishes the present use of a segment file from earlier ones.
pub(super) type Salt = [u8; 8];

/// What stands before a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Bytes of the record.
    pub(super) record_bytes: usize,
    /// The number of the record.
    pub(super) position: u64,
}

impl FrameHeader {
    /// Bytes of the whole frame, padding included.
    pub(super) fn frame_bytes(&self) -> usize {
        frame_bytes(self.record_bytes)
    }

    /// The header's bytes.
    pub(super) fn encode(&self, salt: Salt) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        // Records are at most `RECORD_MAX_BYTES` long: `append` has checked it.
        bytes[4..8].copy_from_slice(&u32::try_from(self.record_bytes).unwrap_or(u32::MAX).to_le_bytes());
        bytes[8..16].copy_from_slice(&salt);
        bytes[16..24].copy_from_slice(&self.position.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header at the beginning of `bytes`, if there is an undamaged one of this use of the segment.
    pub(super) fn decode(bytes: &[u8], salt: Salt) -> Option<Self> {
        let header = bytes.first_chunk::<FRAME_HEADER_BYTES>()?;
        let (content, rest) = header.split_first_chunk::<24>()?;
        let (checksum, _) = rest.split_first_chunk::<4>()?;
        if content[..4] != FRAME_MAGIC
            || content[8..16] != salt
            || crc32c::crc32c(content).to_le_bytes() != *checksum
        {
            return None;
        }
        let (_, length) = content[..8].split_last_chunk::<4>()?;
        let (_, position) = content.split_last_chunk::<8>()?;
        Some(Self {
            record_bytes: u32::from_le_bytes(*length) as usize,
            position: u64::from_le_bytes(*position),
        })
    }
}

/// Bytes of the frame of a record.
pub(super) fn frame_bytes(record_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + record_bytes).next_multiple_of(FRAME_ALIGNMENT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_frame_of_another_use_or_with_a_flipped_bit_is_no_frame() {
        let header = FrameHeader {
            record_bytes: 1000,
            position: 9,
        };
        let bytes = header.encode([1; 8]);
        assert_eq!(FrameHeader::decode(&bytes, [1; 8]), Some(header));
        assert_eq!(FrameHeader::decode(&bytes, [2; 8]), None);
        for bit in 0..28 * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&damaged, [1; 8]), None, "bit {bit}");
        }
        assert_eq!(header.frame_bytes() % FRAME_ALIGNMENT, 0);
    }
}
