//! The object by which any program recognises to which volume a bucket belongs.
//!
//! It is the CBOR of the volume's [`VolumeFormat`] as it was when the bucket was taken into use, written once and never
//! again: the settings in it may be old, the identity is not.

use twinshore_protocol::VolumeId;
use twinshore_protocol::format::{FORMAT_VERSION, VolumeFormat};
use twinshore_protocol::wire::WireError;
use twinshore_storage::bucket::{Bucket, BucketError};

/// The key of the marker.
pub const MARKER_KEY: &str = "twinshore-volume";

/// Why a bucket cannot be used for a volume.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// It belongs to another volume.
    #[error("the bucket belongs to volume {name} ({found}), not to {expected}: use another bucket or prefix")]
    OtherVolume {
        /// Whose it is.
        found: VolumeId,
        /// The name of that volume.
        name: String,
        /// Whose it should be.
        expected: VolumeId,
    },
    /// There is no marker.
    #[error("the bucket holds no volume: there is no `{MARKER_KEY}` in it; check the bucket and the prefix")]
    NoVolume,
    /// A newer release wrote it.
    #[error("the volume has format version {0}, this release knows {FORMAT_VERSION}: use a newer release")]
    Version(u32),
    /// The marker cannot be read.
    #[error("the object `{MARKER_KEY}` in the bucket is damaged: compare it with that in the other bucket")]
    Damaged(#[source] WireError),
    /// The bucket does not do what it should.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// The format that a bucket's marker holds, or `None` if it has no marker.
pub async fn read_marker(bucket: &dyn Bucket) -> Result<Option<VolumeFormat>, MarkerError> {
    let body = match bucket.get(MARKER_KEY, None).await {
        Ok(body) => body,
        Err(BucketError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let format: VolumeFormat = twinshore_protocol::wire::decode(&body).map_err(MarkerError::Damaged)?;
    if format.version > FORMAT_VERSION {
        return Err(MarkerError::Version(format.version));
    }
    Ok(Some(format))
}

/// Takes a bucket into use for a volume. Harmless if it already is in use for that volume; refused if for another one.
pub async fn claim_bucket(bucket: &dyn Bucket, format: &VolumeFormat) -> Result<(), MarkerError> {
    if read_marker(bucket).await?.is_none() {
        bucket
            .put(MARKER_KEY, twinshore_protocol::wire::encode(format))
            .await?;
    }
    // Read back: of two volumes that claim a bucket at once, the one whose marker was replaced must notice.
    verify_bucket(bucket, format.volume).await
}

/// Checks that a bucket belongs to a volume.
pub async fn verify_bucket(bucket: &dyn Bucket, expected: VolumeId) -> Result<(), MarkerError> {
    match read_marker(bucket).await? {
        None => Err(MarkerError::NoVolume),
        Some(format) if format.volume == expected => Ok(()),
        Some(format) => Err(MarkerError::OtherVolume {
            found: format.volume,
            name: format.name,
            expected,
        }),
    }
}
