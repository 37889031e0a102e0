//! The persistent epoch of a file journal: what fences older leaders, whatever else happens to the directory.

use std::io;
use std::path::Path;

use twinshore_protocol::{Epoch, VolumeId};

use super::JournalError;
use super::disk::{failed, replace};

const EPOCH_FILE: &str = "epoch";
const EPOCH_MAGIC: [u8; 4] = *b"TSJE";
const EPOCH_VERSION: u16 = 1;
const EPOCH_FILE_BYTES: usize = 36;

/// Replaces the epoch: after a crash either the old or the new one is there.
pub(super) fn write(directory: &Path, volume: VolumeId, epoch: Epoch) -> Result<(), JournalError> {
    let mut bytes = Vec::with_capacity(EPOCH_FILE_BYTES);
    bytes.extend_from_slice(&EPOCH_MAGIC);
    bytes.extend_from_slice(&EPOCH_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&volume.0);
    bytes.extend_from_slice(&epoch.0.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    replace(directory, EPOCH_FILE, &bytes).map_err(|source| failed(directory, "storing the epoch", source))
}

/// The stored epoch and whose it is, or `None` if there never was one.
pub(super) fn read(directory: &Path) -> Result<Option<(VolumeId, Epoch)>, JournalError> {
    let path = directory.join(EPOCH_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(JournalError::Failed {
                what: format!("reading {}", path.display()),
                source,
            });
        }
    };
    let damaged = || JournalError::Damaged(format!("{}: recover from a bucket", path.display()));
    let bytes = <[u8; EPOCH_FILE_BYTES]>::try_from(bytes).map_err(|_| damaged())?;
    let (content, checksum) = bytes.split_at(EPOCH_FILE_BYTES - 4);
    if bytes[..4] != EPOCH_MAGIC
        || bytes[4..6] != EPOCH_VERSION.to_le_bytes()
        || crc32c::crc32c(content).to_le_bytes() != *checksum
    {
        return Err(damaged());
    }
    let (mut volume, mut epoch) = ([0; 16], [0; 8]);
    volume.copy_from_slice(&bytes[8..24]);
    epoch.copy_from_slice(&bytes[24..32]);
    Ok(Some((VolumeId(volume), Epoch(u64::from_le_bytes(epoch)))))
}
