//! The few calls to the disk that a journal makes, in one place so that tests can make them fail.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::JournalError;

/// Writes and syncs.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) faults: std::sync::Arc<std::sync::Mutex<Faults>>,
}

/// What the next calls shall do instead of what they should.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The next write stores this many bytes, then fails.
    pub(super) write: Option<(usize, rustix::io::Errno)>,
    /// The next sync fails.
    pub(super) sync: Option<rustix::io::Errno>,
}

#[cfg_attr(not(test), allow(clippy::unused_self))] // Only tests keep state here: the faults to come.
impl Disk {
    /// Writes all bytes at an offset.
    pub(super) fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some((stored, error)) = self.faults.lock().map_or(None, |mut faults| faults.write.take()) {
            file.write_all_at(&bytes[..stored.min(bytes.len())], offset)?;
            return Err(error.into());
        }
        file.write_all_at(bytes, offset)
    }

    /// Writes whole blocks to a file that is open for direct, synchronous writes: what is written is durable. What lies before `begun` of
    /// them stands there already.
    pub(super) fn write_blocks(
        &self,
        file: &File,
        blocks: &mut [u8],
        begun: usize,
        offset: u64,
    ) -> io::Result<()> {
        #[cfg(test)]
        if let Some((stored, error)) = self.faults.lock().map_or(None, |mut faults| faults.write.take()) {
            let torn = begun.saturating_add(stored).min(blocks.len());
            blocks[torn..].fill(0);
            file.write_all_at(blocks, offset)?;
            return Err(error.into());
        }
        debug_assert!(begun <= blocks.len());
        file.write_all_at(blocks, offset)?;
        #[cfg(test)]
        if let Some(error) = self.faults.lock().map_or(None, |mut faults| faults.sync.take()) {
            return Err(error.into());
        }
        Ok(())
    }

    /// Makes written bytes durable, and as much of the file's attributes as is needed to read them.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        #[cfg(test)]
        if let Some(error) = self.faults.lock().map_or(None, |mut faults| faults.sync.take()) {
            return Err(error.into());
        }
        file.sync_data()
    }
}

/// Makes names made, changed or removed in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Replaces a small file as a whole, durably.
pub(super) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unfinished = directory.join(format!("{name}.new"));
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, directory.join(name))?;
    sync_directory(directory)
}

/// Is there no room on the disk, or in the quota?
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The error of a journal for a failed call that appended nothing.
pub(super) fn failed(directory: &Path, what: impl Into<String>, source: io::Error) -> JournalError {
    if is_full(&source) {
        return JournalError::Full(directory.display().to_string());
    }
    JournalError::Failed {
        what: what.into(),
        source,
    }
}
