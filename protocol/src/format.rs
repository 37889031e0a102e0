//! The volume's format record: what every part needs to know of a volume. It stands in the metadata and, as a marker, in
//! both buckets. It holds no secret.

use minicbor::{Decode, Encode};

use crate::identifiers::{Side, VolumeId};

/// The version of everything on disk and in buckets that this release writes.
pub const FORMAT_VERSION: u32 = 1;

/// How content is compressed before it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Compression {
    /// As it is.
    #[default]
    #[n(0)]
    None,
    /// LZ4: fast.
    #[n(1)]
    Lz4,
    /// Zstandard, level 3: smaller.
    #[n(2)]
    Zstd,
}

/// How content is encrypted. Only `None` today; the record and the object header have room for more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Encryption {
    /// Not at all.
    #[default]
    #[n(0)]
    None,
}

/// When `close` and `fsync` return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Durability {
    /// `close` and `fsync` return when data and metadata are durable in the near region.
    #[default]
    #[n(0)]
    Close,
    /// `fsync` does; `close` does not wait, as on a local disk.
    #[n(1)]
    Fsync,
}

/// A region of a volume and its bucket.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RegionFormat {
    /// The region's name, such as `east`.
    #[n(0)]
    pub name: String,
    /// Where the bucket is, without credentials: `file:///path`, or `http(s)://endpoint/bucket/prefix`, or
    /// `s3://bucket/prefix`.
    #[n(1)]
    pub bucket: String,
}

/// What can change while the volume is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VolumeSettings {
    /// The primary region.
    #[n(0)]
    pub primary: RegionFormat,
    /// The target region, if the volume has one.
    #[n(1)]
    pub target: Option<RegionFormat>,
    /// Whether tasks are made and carried out. Reads use both buckets all the same.
    #[n(2)]
    pub replication_enabled: bool,
    /// Compression of new objects.
    #[n(3)]
    pub compression: Compression,
    /// When `close` and `fsync` return.
    #[n(4)]
    pub durability: Durability,
    /// A write of at most this many bytes that must become durable is committed inline.
    #[n(5)]
    pub inline_limit_bytes: u32,
    /// How long removed files can be restored, in seconds; 0 removes at once.
    #[n(6)]
    pub trash_retention_seconds: u64,
    /// Between two full synchronisations, in seconds; 0 for never.
    #[n(7)]
    pub synchronisation_interval_seconds: u64,
    /// Bytes per second that replication may copy to each side; 0 for no limit. Indexed by [`Side`].
    #[n(8)]
    pub bandwidth_limit_bytes_per_second: [u64; 2],
}

impl VolumeSettings {
    /// The region on a side.
    pub fn region(&self, side: Side) -> Option<&RegionFormat> {
        match side {
            Side::Primary => Some(&self.primary),
            Side::Target => self.target.as_ref(),
        }
    }
}

/// The format record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VolumeFormat {
    /// [`FORMAT_VERSION`] of the release that wrote it.
    #[n(0)]
    pub version: u32,
    /// Which volume.
    #[n(1)]
    pub volume: VolumeId,
    /// Its name: lower case letters, digits and `-`, 1 to 63 characters.
    #[n(2)]
    pub name: String,
    /// Encryption, fixed for life.
    #[n(3)]
    pub encryption: Encryption,
    /// What can change.
    #[n(4)]
    pub settings: VolumeSettings,
}
