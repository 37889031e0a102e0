//! The data directory of a metadata service.
//!
//! | name | what it is |
//! |---|---|
//! | `lock` | locked as long as a service (or a restore) uses the directory |
//! | `volume` | which volume this is: the last thing that is made, so a directory without it is not complete |
//! | `journal/` | the [`FileJournal`] |
//! | `view/` | the [`FjallView`]; may be deleted as long as the journal reaches back to record 1 |

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::{Position, VolumeId};

use super::disk::{is_full, replace, sync_directory};
use super::file::{FileJournal, FileJournalOptions};
use super::{Journal, JournalError, Tail};
use crate::view::fjall::{FjallOptions, FjallView};
use crate::view::{ViewError, ViewStore};

const VOLUME_MAGIC: [u8; 4] = *b"TSJV";
const VOLUME_VERSION: u16 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Nothing was made here, or not to the end.
    #[error(
        "{0} holds no volume: create one with `twinshore volume create` or recover one with `twinshore volume restore`"
    )]
    NoVolume(PathBuf),
    /// There is something already.
    #[error("{path} already holds volume {volume}: choose another directory")]
    Exists {
        /// The directory.
        path: PathBuf,
        /// What it holds.
        volume: VolumeId,
    },
    /// It belongs to another volume.
    #[error("{path} belongs to volume {found}, not {expected}: choose its own directory")]
    OtherVolume {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: VolumeId,
        /// Whose it should be.
        expected: VolumeId,
    },
    /// Another process has it open.
    #[error("{0} is in use by another metadata service: stop that first")]
    InUse(PathBuf),
    /// The disk is full.
    #[error("the disk is full: free some space under {0}")]
    Full(PathBuf),
    /// A file that is small and written as a whole is damaged.
    #[error("{0} is damaged: recover the volume from a bucket with `twinshore volume restore`")]
    Damaged(PathBuf),
    /// The view holds records that the journal has lost.
    #[error(
        "the journal in {path} ends at record {tail}, but record {applied} was applied: the disk lost data, recover the \
         volume from a bucket with `twinshore volume restore`"
    )]
    JournalLost {
        /// The directory.
        path: PathBuf,
        /// The last record of the journal.
        tail: Position,
        /// The last record that the view knows.
        applied: Position,
    },
    /// The records that the view lacks were trimmed.
    #[error(
        "the view in {path} ends at record {applied}, but the journal begins after it: recover the volume from a bucket \
         with `twinshore volume restore`"
    )]
    ViewLost {
        /// The directory.
        path: PathBuf,
        /// The last record that the view knows.
        applied: Position,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The view.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Anything else that the disk said.
    #[error("cannot use {path}")]
    Failed {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// How the parts of a data directory use disk and memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectoryOptions {
    /// The journal.
    pub journal: FileJournalOptions,
    /// The view.
    pub view: FjallOptions,
}

/// Keeps others out of the directory until it is dropped. Drop it last.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// An open data directory.
pub struct DataDirectory {
    /// The format as it was when the directory was made. The present one stands in the view; only the identity is
    /// the same for ever.
    pub format: VolumeFormat,
    /// The journal.
    pub journal: FileJournal,
    /// The view, at or behind the journal's tail.
    pub view: FjallView,
    /// The lock.
    pub lock: DirectoryLock,
}

impl std::fmt::Debug for DataDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataDirectory")
            .field("volume", &self.format.volume)
            .finish_non_exhaustive()
    }
}

impl DataDirectory {
    /// Makes the directory of a new volume, whose journal and view are empty.
    pub fn create(
        path: &Path,
        format: &VolumeFormat,
        options: DirectoryOptions,
    ) -> Result<Self, DirectoryError> {
        Self::create_with(path, format, options, |_| Ok(()))
    }

    /// The same, with the first records in the journal before the directory counts as complete: whatever cuts this off, the
    /// directory holds the volume as it was asked for, or none and can be made again.
    pub fn create_with<E: From<DirectoryError>>(
        path: &Path,
        format: &VolumeFormat,
        options: DirectoryOptions,
        first_records: impl FnOnce(&mut FileJournal) -> Result<(), E>,
    ) -> Result<Self, E> {
        let unfinished = UnfinishedDirectory::begin(path, options)?;
        unfinished.finish_with(format, &Tail::EMPTY, first_records)
    }

    /// Opens a directory. `expected` is the volume that it must belong to, if the caller knows.
    pub fn open(
        path: &Path,
        expected: Option<VolumeId>,
        options: DirectoryOptions,
    ) -> Result<Self, DirectoryError> {
        // Before the lock: opening must not make a directory out of a mistyped name.
        if read_volume(path)?.is_none() {
            return Err(DirectoryError::NoVolume(path.to_owned()));
        }
        let lock = lock(path)?;
        Self::open_locked(path, expected, options, lock)
    }

    fn open_locked(
        path: &Path,
        expected: Option<VolumeId>,
        options: DirectoryOptions,
        lock: DirectoryLock,
    ) -> Result<Self, DirectoryError> {
        let format = read_volume(path)?.ok_or_else(|| DirectoryError::NoVolume(path.to_owned()))?;
        let other = |found, expected| DirectoryError::OtherVolume {
            path: path.to_owned(),
            found,
            expected,
        };
        if let Some(expected) = expected
            && format.volume != expected
        {
            return Err(other(format.volume, expected));
        }
        let mut journal = FileJournal::open(&path.join("journal"), options.journal)?;
        if journal.volume() != format.volume {
            return Err(other(journal.volume(), format.volume));
        }
        let view = FjallView::open(&path.join("view"), options.view)?;
        let (tail, applied) = (journal.tail()?, view.applied());
        if applied > tail.position {
            return Err(DirectoryError::JournalLost {
                path: path.to_owned(),
                tail: tail.position,
                applied,
            });
        }
        match journal.read(applied.next(), 1) {
            Ok(_) => Ok(Self {
                format,
                journal,
                view,
                lock,
            }),
            Err(JournalError::Trimmed { .. }) => Err(DirectoryError::ViewLost {
                path: path.to_owned(),
                applied,
            }),
            Err(error) => Err(error.into()),
        }
    }
}

/// A directory that is being filled: by a restore, with a view first. If it is dropped before
/// [`UnfinishedDirectory::finish`], the directory holds no volume and can be filled again.
#[derive(Debug)]
pub struct UnfinishedDirectory {
    path: PathBuf,
    options: DirectoryOptions,
    lock: DirectoryLock,
}

impl UnfinishedDirectory {
    /// Takes an empty or missing directory, or one that was left unfinished.
    pub fn begin(path: &Path, options: DirectoryOptions) -> Result<Self, DirectoryError> {
        let cannot = |source| failed(path, source);
        std::fs::create_dir_all(path).map_err(cannot)?;
        for entry in std::fs::read_dir(path).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let ours = ["lock", "journal", "view", "volume", "volume.new", "lost+found"];
            if !ours.iter().any(|name| entry.file_name() == *name) {
                let what = format!(
                    "it holds {}, which is not ours: choose an empty directory",
                    entry.path().display()
                );
                return Err(failed(path, io::Error::new(io::ErrorKind::AlreadyExists, what)));
            }
        }
        let no_volume = || match read_volume(path)? {
            Some(format) => Err(DirectoryError::Exists {
                path: path.to_owned(),
                volume: format.volume,
            }),
            None => Ok(()),
        };
        // Before the lock too: that a service uses the directory is not what stands in the way.
        no_volume()?;
        let lock = lock(path)?;
        no_volume()?;
        for part in ["journal", "view"] {
            match std::fs::remove_dir_all(path.join(part)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(failed(path, source)),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            options,
            lock,
        })
    }

    /// Opens the view, to be loaded. Drop it before [`UnfinishedDirectory::finish`].
    pub fn view(&self) -> Result<FjallView, DirectoryError> {
        Ok(FjallView::open(&self.path.join("view"), self.options.view)?)
    }

    /// Makes the journal begin after `start`, and the directory complete.
    pub fn finish(self, format: &VolumeFormat, start: &Tail) -> Result<DataDirectory, DirectoryError> {
        self.finish_with(format, start, |_| Ok(()))
    }

    fn finish_with<E: From<DirectoryError>>(
        self,
        format: &VolumeFormat,
        start: &Tail,
        first_records: impl FnOnce(&mut FileJournal) -> Result<(), E>,
    ) -> Result<DataDirectory, E> {
        let journal_path = self.path.join("journal");
        let mut journal = FileJournal::create(&journal_path, format.volume, start, self.options.journal)
            .map_err(DirectoryError::from)?;
        first_records(&mut journal)?;
        drop(journal);
        Ok(self.complete(format)?)
    }

    fn complete(self, format: &VolumeFormat) -> Result<DataDirectory, DirectoryError> {
        let content = twinshore_protocol::wire::encode(format);
        let mut bytes = Vec::with_capacity(content.len() + 16);
        bytes.extend_from_slice(&VOLUME_MAGIC);
        bytes.extend_from_slice(&VOLUME_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&content);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let cannot = |source| failed(&self.path, source);
        replace(&self.path, "volume", &bytes).map_err(cannot)?;
        if let Some(parent) = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent).map_err(cannot)?;
        }
        DataDirectory::open_locked(&self.path, Some(format.volume), self.options, self.lock)
    }
}

fn failed(path: &Path, source: io::Error) -> DirectoryError {
    if is_full(&source) {
        return DirectoryError::Full(path.to_owned());
    }
    DirectoryError::Failed {
        path: path.to_owned(),
        source,
    }
}

fn lock(path: &Path) -> Result<DirectoryLock, DirectoryError> {
    let lock_path = path.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(|source| failed(&lock_path, source))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirectoryLock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DirectoryError::InUse(path.to_owned())),
        Err(error) => Err(failed(&lock_path, error.into())),
    }
}

/// The format that stands in a directory, or `None` if there is none.
pub fn read_volume(path: &Path) -> Result<Option<VolumeFormat>, DirectoryError> {
    let file = path.join("volume");
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(&file, source)),
    };
    let content = bytes.split_last_chunk::<4>().and_then(|(content, checksum)| {
        let sound = content.len() > 8
            && content[..4] == VOLUME_MAGIC
            && content[4..6] == VOLUME_VERSION.to_le_bytes()
            && crc32c::crc32c(content).to_le_bytes() == *checksum;
        sound.then(|| &content[8..])
    });
    match content.map(twinshore_protocol::wire::decode::<VolumeFormat>) {
        Some(Ok(format)) => Ok(Some(format)),
        Some(Err(_)) | None => Err(DirectoryError::Damaged(file)),
    }
}

#[cfg(test)]
pub(crate) mod tests;
