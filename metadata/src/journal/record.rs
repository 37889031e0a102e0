//! One journal record and its bytes.
//!
//! A record is laid out by hand: it is the hottest encoding of the service and the mutations are copied once, into place.
//! Its digest is the SHA-256 of its bytes, and the bytes carry the digest of the record before: a chain. Two journals
//! with equal digests at a position are equal up to there.
//!
//! The layout stands in `docs/on-disk-format.md`; a change of it needs a new [`RECORD_VERSION`].

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use twinshore_protocol::message::Invalidation;
use twinshore_protocol::{Epoch, Position, Timestamp, VolumeId};

use super::Digest;
use crate::view::Mutation;

/// The first bytes of a record.
pub const RECORD_MAGIC: [u8; 4] = *b"TSJR";

/// The version of the layout.
pub const RECORD_VERSION: u16 = 1;

/// Bytes of the fixed header.
pub const RECORD_HEADER_BYTES: usize = 96;

/// The longest record in bytes: four of the largest messages, so that a batch of commits with inline data fits.
pub const RECORD_MAX_BYTES: usize = 16 << 20;

/// The length of a value that stands for removal of its key.
const REMOVED: u32 = u32::MAX;

/// Bytes of a mutation beside its key and value.
const MUTATION_HEADER_BYTES: usize = 8;

/// One batch of changes, in the order in which they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The volume: a record of another one is never applied.
    pub volume: VolumeId,
    /// The epoch of the leader that made it.
    pub epoch: Epoch,
    /// Its number.
    pub position: Position,
    /// The digest of the record before, zeros for the first.
    pub previous: Digest,
    /// When the leader made it.
    pub time: Timestamp,
    /// What it changes.
    pub mutations: Vec<Mutation>,
    /// What those who cache must drop.
    pub changes: Vec<Invalidation>,
}

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// There are fewer bytes than the header says, or than a header has.
    #[error("the record is cut off: {found} of {expected} bytes")]
    CutOff {
        /// How many there should be at least.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// These are not the bytes of a record.
    #[error("there is no record here")]
    NoRecord,
    /// A newer release wrote it.
    #[error("the record has format version {0}, this release reads {RECORD_VERSION}: use a newer release")]
    Version(u16),
    /// It is longer than any record.
    #[error("the record claims {0} bytes, more than the limit of {RECORD_MAX_BYTES}")]
    TooLong(usize),
    /// A bit has changed.
    #[error("the checksum of the record is wrong")]
    Checksum,
    /// The checksum is right but the content makes no sense: a bug, not a broken disk.
    #[error("the record cannot be decoded: {0}")]
    Malformed(&'static str),
}

/// What the fixed header of a record tells, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The whole record, in bytes.
    pub length_bytes: usize,
    /// The volume.
    pub volume: VolumeId,
    /// The leader's epoch.
    pub epoch: Epoch,
    /// The number.
    pub position: Position,
    /// The digest of the record before.
    pub previous: Digest,
}

impl RecordHeader {
    /// Reads the header at the beginning of `bytes`, which may go on after the record. Verifies nothing but its form.
    pub fn peek(bytes: &[u8]) -> Result<Self, RecordError> {
        let header = bytes
            .first_chunk::<RECORD_HEADER_BYTES>()
            .ok_or(RecordError::CutOff {
                expected: RECORD_HEADER_BYTES,
                found: bytes.len(),
            })?;
        let mut reader = Reader(header);
        if reader.array::<4>()? != RECORD_MAGIC {
            return Err(RecordError::NoRecord);
        }
        let version = u16::from_le_bytes(reader.array()?);
        if version != RECORD_VERSION {
            return Err(RecordError::Version(version));
        }
        let _flags = reader.array::<2>()?;
        let length_bytes = RECORD_HEADER_BYTES.saturating_add(reader.u32()? as usize);
        if length_bytes > RECORD_MAX_BYTES {
            return Err(RecordError::TooLong(length_bytes));
        }
        let _checksum = reader.u32()?;
        Ok(Self {
            length_bytes,
            volume: VolumeId(reader.array()?),
            epoch: Epoch(reader.u64()?),
            position: Position(reader.u64()?),
            previous: reader.array()?,
        })
    }

    /// Reads the header of the record at the beginning of `bytes` and verifies the checksum of the whole record.
    pub fn verified(bytes: &[u8]) -> Result<Self, RecordError> {
        let header = Self::peek(bytes)?;
        let record = bytes.get(..header.length_bytes).ok_or(RecordError::CutOff {
            expected: header.length_bytes,
            found: bytes.len(),
        })?;
        let stored = Reader(&record[12..16]).u32()?;
        if checksum(record) == stored {
            Ok(header)
        } else {
            Err(RecordError::Checksum)
        }
    }
}

/// CRC-32C of a record: of all its bytes but those of the checksum.
fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..12]), &record[16..])
}

/// The digest of an encoded record.
pub fn digest_of(record: &[u8]) -> Digest {
    Sha256::digest(record).into()
}

impl Record {
    /// The bytes and their digest. A record of more than [`RECORD_MAX_BYTES`] is encoded but refused by every journal.
    pub fn encode(&self) -> (Bytes, Digest) {
        let mutation_bytes: usize = self
            .mutations
            .iter()
            .map(|mutation| {
                MUTATION_HEADER_BYTES + mutation.key.len() + mutation.value.as_ref().map_or(0, Bytes::len)
            })
            .sum();
        let changes = twinshore_protocol::wire::encode(&self.changes);
        let mut buffer = Vec::with_capacity(RECORD_HEADER_BYTES + mutation_bytes + changes.len());
        buffer.extend_from_slice(&RECORD_MAGIC);
        buffer.extend_from_slice(&RECORD_VERSION.to_le_bytes());
        buffer.extend_from_slice(&[0; 2]);
        buffer.extend_from_slice(&length32(mutation_bytes + changes.len()).to_le_bytes());
        buffer.extend_from_slice(&[0; 4]); // The checksum, at the end.
        buffer.extend_from_slice(&self.volume.0);
        buffer.extend_from_slice(&self.epoch.0.to_le_bytes());
        buffer.extend_from_slice(&self.position.0.to_le_bytes());
        buffer.extend_from_slice(&self.previous);
        buffer.extend_from_slice(&self.time.seconds.to_le_bytes());
        buffer.extend_from_slice(&self.time.nanoseconds.to_le_bytes());
        buffer.extend_from_slice(&length32(self.mutations.len()).to_le_bytes());
        for Mutation { key, value } in &self.mutations {
            buffer.extend_from_slice(&length32(key.len()).to_le_bytes());
            let value_length = value.as_ref().map_or(REMOVED, |value| length32(value.len()));
            buffer.extend_from_slice(&value_length.to_le_bytes());
            buffer.extend_from_slice(key);
            buffer.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        buffer.extend_from_slice(&changes);
        let checksum = checksum(&buffer);
        buffer[12..16].copy_from_slice(&checksum.to_le_bytes());
        let digest = digest_of(&buffer);
        (buffer.into(), digest)
    }

    /// Verifies and decodes a record that takes up all of `bytes`. Its keys and values are copies: the frame can be freed.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Digest), RecordError> {
        let RecordHeader {
            length_bytes,
            volume,
            epoch,
            position,
            previous,
        } = RecordHeader::verified(bytes)?;
        if length_bytes != bytes.len() {
            return Err(RecordError::Malformed("bytes after the end"));
        }
        let mut reader = Reader(&bytes[80..]);
        let time = Timestamp {
            seconds: i64::from_le_bytes(reader.array()?),
            nanoseconds: reader.u32()?,
        };
        let count = reader.u32()? as usize;
        if count > reader.0.len() / MUTATION_HEADER_BYTES {
            return Err(RecordError::Malformed("more mutations than bytes"));
        }
        // One allocation for all keys and values: they live and die together in the overlay.
        let content = Bytes::copy_from_slice(reader.0);
        let mut mutations = Vec::with_capacity(count);
        for _ in 0..count {
            let key_length = reader.u32()? as usize;
            let value_length = reader.u32()?;
            let key = content.slice_ref_of(&mut reader, key_length)?;
            let value = match value_length {
                REMOVED => None,
                length => Some(content.slice_ref_of(&mut reader, length as usize)?),
            };
            mutations.push(Mutation { key, value });
        }
        let mut decoder = minicbor::Decoder::new(reader.0);
        let changes = decoder
            .decode()
            .map_err(|_| RecordError::Malformed("the changes"))?;
        if decoder.position() != reader.0.len() {
            return Err(RecordError::Malformed("bytes after the changes"));
        }
        Ok((
            Self {
                volume,
                epoch,
                position,
                previous,
                time,
                mutations,
                changes,
            },
            digest_of(bytes),
        ))
    }
}

/// A length as the layout holds it. What does not fit is beyond [`RECORD_MAX_BYTES`] anyway and refused by its size.
fn length32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Takes parts off the front of a slice.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let (front, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(RecordError::Malformed("a part is longer than the record"))?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (front, rest) = self
            .0
            .split_first_chunk()
            .ok_or(RecordError::Malformed("a part is longer than the record"))?;
        self.0 = rest;
        Ok(*front)
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Slicing the shared copy where a reader of the same content stands.
trait SliceAtReader {
    fn slice_ref_of(&self, reader: &mut Reader<'_>, length: usize) -> Result<Bytes, RecordError>;
}

impl SliceAtReader for Bytes {
    fn slice_ref_of(&self, reader: &mut Reader<'_>, length: usize) -> Result<Bytes, RecordError> {
        let start = self.len() - reader.0.len();
        reader.take(length)?;
        Ok(self.slice(start..start + length))
    }
}

#[cfg(test)]
mod tests;
