//! The envelope of an object of the archive: what it is, whose, a checksum, and compressed content.

use bytes::Bytes;
use twinshore_protocol::VolumeId;

/// Bytes before the compressed content.
const HEADER_BYTES: usize = 52;

/// Where the checksum stands in the header.
const CHECKSUM_OFFSET: usize = 48;

const VERSION: u16 = 1;

/// The most bytes that a content may have: a run of records ends with one of at most 16 MiB, a chunk with one value.
pub const CONTENT_MAX_BYTES: usize = 64 << 20;

/// Zstandard's fastest regular level: the metadata's archive must not compete with the service for its two cores.
const COMPRESSION_LEVEL: i32 = 1;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Journal records.
    Records,
    /// Keys and values of a checkpoint.
    Chunk,
    /// The manifest of a checkpoint.
    Manifest,
    /// The announcement of a leader.
    Reign,
}

impl Kind {
    const fn magic(self) -> [u8; 4] {
        match self {
            Self::Records => *b"TSAR",
            Self::Chunk => *b"TSAC",
            Self::Manifest => *b"TSAM",
            Self::Reign => *b"TSAE",
        }
    }
}

/// The label on the envelope. What `first`, `second` and `count` mean depends on the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// What it is.
    pub kind: Kind,
    /// Whose.
    pub volume: VolumeId,
    /// First record; position of the checkpoint; epoch of the reign.
    pub first: u64,
    /// Last record; number of the chunk; 0.
    pub second: u64,
    /// Records; pairs; 0.
    pub count: u32,
}

/// Why an object cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// It is not what its name says.
    #[error("it is not what its name says")]
    Wrong,
    /// A newer release wrote it.
    #[error("it has format version {0}: use a newer release")]
    Version(u16),
    /// Some bytes have changed or are missing.
    #[error("its checksum is wrong")]
    Checksum,
    /// The content claims to be larger than any.
    #[error("it claims to hold {0} bytes")]
    TooLong(usize),
    /// Zstandard.
    #[error("it cannot be compressed or decompressed")]
    Compression(#[source] std::io::Error),
    /// The checksum is right, but the content makes no sense.
    #[error("its content makes no sense: {0}")]
    Malformed(&'static str),
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CHECKSUM_OFFSET]), &bytes[HEADER_BYTES..])
}

/// Puts content into an envelope. The same content gives the same bytes.
pub fn seal(label: &Label, content: &[u8]) -> Result<Bytes, SealedError> {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    if content.len() > CONTENT_MAX_BYTES {
        return Err(SealedError::TooLong(content.len()));
    }
    let compressed = zstd::bulk::compress(content, COMPRESSION_LEVEL).map_err(SealedError::Compression)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + compressed.len());
    bytes.extend_from_slice(&label.kind.magic());
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&label.volume.0);
    bytes.extend_from_slice(&label.first.to_le_bytes());
    bytes.extend_from_slice(&label.second.to_le_bytes());
    bytes.extend_from_slice(&label.count.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]); // The checksum, at the end.
    bytes.extend_from_slice(&compressed);
    let checksum = checksum(&bytes);
    bytes[CHECKSUM_OFFSET..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes.into())
}

/// Takes content out of an envelope and checks that it is what the label says (apart from the count, which only who knows
/// the content can compare).
pub fn unseal(label: &Label, bytes: &[u8]) -> Result<Vec<u8>, SealedError> {
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(SealedError::Checksum)?;
    if header[..4] != label.kind.magic() {
        return Err(SealedError::Wrong);
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != VERSION {
        return Err(SealedError::Version(version));
    }
    if checksum(bytes).to_le_bytes() != header[CHECKSUM_OFFSET..] {
        return Err(SealedError::Checksum);
    }
    if header[8..24] != label.volume.0
        || header[24..32] != label.first.to_le_bytes()
        || header[32..40] != label.second.to_le_bytes()
    {
        return Err(SealedError::Wrong);
    }
    let length = u32::from_le_bytes([header[44], header[45], header[46], header[47]]) as usize;
    if length > CONTENT_MAX_BYTES {
        return Err(SealedError::TooLong(length));
    }
    let content = zstd::bulk::decompress(&bytes[HEADER_BYTES..], length).map_err(SealedError::Compression)?;
    if content.len() == length {
        Ok(content)
    } else {
        Err(SealedError::Malformed("its length"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_wrong_label_is_noticed() {
        let label = Label {
            kind: Kind::Records,
            volume: VolumeId([1; 16]),
            first: 2,
            second: 3,
            count: 4,
        };
        let bytes = seal(&label, b"content content content").unwrap();
        assert_eq!(unseal(&label, &bytes).unwrap(), b"content content content");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&label, &damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(unseal(&label, &bytes[..length]).is_err());
        }
        for wrong in [
            Label {
                kind: Kind::Chunk,
                ..label
            },
            Label {
                volume: VolumeId([2; 16]),
                ..label
            },
            Label { first: 1, ..label },
            Label { second: 1, ..label },
        ] {
            assert!(matches!(unseal(&wrong, &bytes), Err(SealedError::Wrong)));
        }
    }
}
