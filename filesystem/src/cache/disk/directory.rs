//! Where the cache's files are: `<cache-dir>/<volume>/slot-<n>/`, one slot for each process, guarded by a file lock.
//!
//! A process takes the first free slot, so a restarted mount finds what it cached before. The kernel drops the lock with
//! the process, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statvfs};
use twinshore_protocol::VolumeId;

use super::index::SegmentNumber;

/// Mounts of one volume on one node: more than this is a mistake.
const SLOTS_MAX: u32 = 256;

/// A slot that this process holds.
#[derive(Debug)]
pub(super) struct Slot {
    path: PathBuf,
    /// Holds the lock as long as it is open.
    _lock: File,
}

impl Slot {
    /// Takes the first free slot.
    pub(super) fn take(cache_directory: &Path, volume: VolumeId) -> io::Result<Self> {
        for number in 0..SLOTS_MAX {
            let path = cache_directory
                .join(volume.to_string())
                .join(format!("slot-{number}"));
            fs::create_dir_all(&path)?;
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path.join("lock"))?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { path, _lock: lock }),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other(format!(
            "{SLOTS_MAX} processes already use this cache directory"
        )))
    }

    /// Where a segment's file is.
    pub(super) fn segment_path(&self, number: SegmentNumber) -> PathBuf {
        self.path.join(format!("{:016x}.blocks", number.0))
    }

    /// The segments that exist, oldest first.
    pub(super) fn segments(&self) -> io::Result<Vec<SegmentNumber>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(".blocks"));
            if let Some(number) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
                numbers.push(SegmentNumber(number));
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Removes a segment's file. That it is not there is fine.
    pub(super) fn remove(&self, number: SegmentNumber) -> io::Result<()> {
        match fs::remove_file(self.segment_path(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Free and total bytes of the file system that the slot is on.
    pub(super) fn space_bytes(&self) -> io::Result<(u64, u64)> {
        let space = statvfs(&self.path)?;
        Ok((
            space.f_bavail.saturating_mul(space.f_frsize),
            space.f_blocks.saturating_mul(space.f_frsize),
        ))
    }
}
