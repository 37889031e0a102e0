//! A directory of a local (or mounted) file system as a bucket: `file:///path`.
//!
//! An object is a file under its key. It is written to a temporary file beside the objects, made durable, renamed to its key,
//! and the directory made durable: after `put` returns, a crash of the machine loses nothing, and at no moment can a
//! reader see half an object. A crash in the middle leaves a file in [`TEMPORARY`], which the next process removes.
//!
//! The root must exist: a directory that was made because a disk was not mounted would swallow data.
//!
//! Keys become paths, so they are checked: no `..`, no empty part, nothing outside the root. Symbolic links below the root are not
//! listed; whoever can place them there owns the bucket anyway.

#[cfg(test)]
mod tests;
mod walk;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::bucket::{Bucket, BucketError, Listed};

/// Where objects are written before they get their key.
const TEMPORARY: &str = ".twinshore-temporary";
/// How old a temporary file must be to be a crash's, not another process's: no put takes so long.
const TEMPORARY_LIFE: Duration = Duration::from_hours(1);
/// The longest file name on common file systems.
const LONGEST_NAME_BYTES: usize = 255;
/// S3's limit.
const LONGEST_KEY_BYTES: usize = 1024;

/// A directory as a bucket.
#[derive(Clone, Debug)]
pub struct DirectoryBucket {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Makes the names of temporary files unique in this process; its id makes them unique on this machine, and creating them
    /// exclusively everywhere.
    next: AtomicU64,
}

impl DirectoryBucket {
    /// Opens a directory that exists.
    pub async fn open(root: &Path) -> Result<Self, BucketError> {
        let bucket = Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                next: AtomicU64::new(0),
            }),
        };
        bucket.run("open", Inner::prepare).await?;
        Ok(bucket)
    }

    /// Runs blocking file operations where they block nobody.
    async fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        operation: impl FnOnce(&Inner) -> Result<T, BucketError> + Send + 'static,
    ) -> Result<T, BucketError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || operation(&inner))
            .await
            .unwrap_or_else(|error| {
                Err(BucketError::Unavailable {
                    what: format!("{action} was cut off: {error}"),
                })
            })
    }
}

#[async_trait]
impl Bucket for DirectoryBucket {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), BucketError> {
        let key = Key::new(key)?;
        self.run("put", move |inner| inner.put(&key, &body)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        let key = Key::new(key)?;
        self.run("get", move |inner| inner.get(&key, range)).await
    }

    async fn size(&self, key: &str) -> Result<u64, BucketError> {
        let key = Key::new(key)?;
        self.run("size", move |inner| inner.size(&key)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), BucketError> {
        let keys = keys
            .iter()
            .map(|key| Key::new(key))
            .collect::<Result<Vec<_>, _>>()?;
        self.run("delete", move |inner| inner.delete(&keys)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, BucketError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.run("list", move |inner| {
            inner.must_exist()?;
            walk::list(&inner.root, &prefix, after.as_deref(), limit)
                .map_err(|error| inner.failed("list", &prefix, &error))
        })
        .await
    }
}

/// A key that is safe as a relative path.
#[derive(Clone, Debug)]
struct Key(String);

impl Key {
    fn new(key: &str) -> Result<Self, BucketError> {
        let invalid = |why: &str| BucketError::Invalid {
            what: format!("{key:?} cannot be the key of an object: {why}"),
        };
        if key.len() > LONGEST_KEY_BYTES {
            return Err(invalid("it is longer than 1024 bytes"));
        }
        if key.contains('\0') {
            return Err(invalid("it contains a zero byte"));
        }
        for part in key.split('/') {
            match part {
                "" | "." | ".." => return Err(invalid("parts of it are empty, `.` or `..`")),
                TEMPORARY => return Err(invalid("that name is reserved for files being written")),
                part if part.len() > LONGEST_NAME_BYTES => {
                    return Err(invalid("a part is longer than 255 bytes"));
                }
                _ => {}
            }
        }
        Ok(Self(key.to_owned()))
    }

    fn under(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }
}

impl Inner {
    /// Checks the root and removes what a crash has left.
    fn prepare(&self) -> Result<(), BucketError> {
        self.must_exist()?;
        let temporary = self.root.join(TEMPORARY);
        let fails = |error: &io::Error| self.failed("open", TEMPORARY, error);
        match fs::create_dir(&temporary) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(fails(&error)),
        }
        for entry in fs::read_dir(&temporary).map_err(|error| fails(&error))? {
            let entry = entry.map_err(|error| fails(&error))?;
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > TEMPORARY_LIFE) {
                remove_if_there(&entry.path()).map_err(|error| fails(&error))?;
            }
        }
        Ok(())
    }

    fn must_exist(&self) -> Result<(), BucketError> {
        let root = self.root.display();
        match fs::metadata(&self.root) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => Err(BucketError::Invalid {
                what: format!("{root} is not a directory"),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(BucketError::Invalid {
                what: format!(
                    "the bucket's directory {root} does not exist: create it, or mount the disk that holds it"
                ),
            }),
            Err(error) => Err(self.failed("open", "", &error)),
        }
    }

    fn put(&self, key: &Key, body: &[u8]) -> Result<(), BucketError> {
        self.must_exist()?;
        let fails = |error: &io::Error| match error.kind() {
            ErrorKind::NotFound => BucketError::Unavailable {
                what: format!("put {}: {error}", key.0),
            },
            _ => self.failed("put", &key.0, error),
        };
        let temporary = self.write_temporary(body).map_err(|error| fails(&error))?;
        let placed = self.place(&temporary, &key.under(&self.root));
        if placed.is_err() {
            // It may have been renamed: then there is nothing to remove.
            remove_if_there(&temporary).map_err(|error| fails(&error))?;
        }
        placed.map_err(|error| fails(&error))
    }

    fn write_temporary(&self, body: &[u8]) -> io::Result<PathBuf> {
        let directory = self.root.join(TEMPORARY);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let nanoseconds = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        let path = directory.join(format!("{}-{number}-{nanoseconds}", std::process::id()));
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(body)?;
            file.sync_all()
        });
        if written.is_err() {
            remove_if_there(&path)?;
        }
        written.map(|()| path)
    }

    /// Gives a durable file its name, durably.
    fn place(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        let parent = path.parent().unwrap_or(&self.root);
        if !parent.is_dir() {
            self.create_directories(parent)?;
        }
        fs::rename(temporary, path)?;
        File::open(parent)?.sync_all()
    }

    /// Creates the directories below the root, each durable in its parent.
    fn create_directories(&self, path: &Path) -> io::Result<()> {
        let mut directory = self.root.clone();
        for part in path.strip_prefix(&self.root).unwrap_or(path) {
            let parent = directory.clone();
            directory.push(part);
            match fs::create_dir(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            // Also when another put has just created it: that one may not have made it durable yet.
            File::open(&parent)?.sync_all()?;
        }
        Ok(())
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        let mut file = self.open_object(key)?;
        let fails = |error: &io::Error| self.failed("get", &key.0, error);
        let length = file.metadata().map_err(|error| fails(&error))?.len();
        let range = range.unwrap_or(0..length);
        let start = range.start.min(length);
        let wanted = range.end.min(length).saturating_sub(start);
        if start > 0 {
            file.seek(SeekFrom::Start(start)).map_err(|error| fails(&error))?;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
        file.take(wanted)
            .read_to_end(&mut bytes)
            .map_err(|error| fails(&error))?;
        Ok(bytes.into())
    }

    fn size(&self, key: &Key) -> Result<u64, BucketError> {
        let metadata = self
            .open_object(key)?
            .metadata()
            .map_err(|error| self.failed("size", &key.0, &error))?;
        Ok(metadata.len())
    }

    fn open_object(&self, key: &Key) -> Result<File, BucketError> {
        let not_found = || BucketError::NotFound { key: key.0.clone() };
        match File::open(key.under(&self.root)) {
            Ok(file) => {
                // The parent of other objects is no object.
                let metadata = file
                    .metadata()
                    .map_err(|error| self.failed("get", &key.0, &error))?;
                if metadata.is_file() {
                    Ok(file)
                } else {
                    Err(not_found())
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                // A disk that is gone must not look like an object that is gone.
                self.must_exist()?;
                Err(not_found())
            }
            Err(error) => Err(self.failed("get", &key.0, &error)),
        }
    }

    fn delete(&self, keys: &[Key]) -> Result<(), BucketError> {
        self.must_exist()?;
        for key in keys {
            // Directories stay: removing an empty one would race with a put into it.
            remove_if_there(&key.under(&self.root)).map_err(|error| self.failed("delete", &key.0, &error))?;
        }
        Ok(())
    }

    fn failed(&self, action: &str, key: &str, error: &io::Error) -> BucketError {
        let what = format!("{action} {key} in {}: {error}", self.root.display());
        match error.kind() {
            ErrorKind::PermissionDenied => BucketError::Denied { what },
            ErrorKind::ReadOnlyFilesystem | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
                BucketError::Invalid { what }
            }
            _ => BucketError::Unavailable { what },
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(()),
        outcome => outcome,
    }
}
