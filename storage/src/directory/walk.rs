//! Listing a directory tree in the order of keys.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

use super::TEMPORARY;
use crate::bucket::Listed;

/// Files whose keys begin with a prefix and come after a key, in order of their keys, at most `limit`.
pub(super) fn list(root: &Path, prefix: &str, after: Option<&str>, limit: usize) -> io::Result<Vec<Listed>> {
    let mut walk = Walk {
        prefix,
        after: after.unwrap_or(""),
        limit,
        found: Vec::new(),
    };
    walk.directory(root, "")?;
    Ok(walk.found)
}

struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    found: Vec<Listed>,
}

impl Walk<'_> {
    /// Walks a directory whose keys begin with `base` (empty, or ending in `/`).
    fn directory(&mut self, path: &Path, base: &str) -> io::Result<()> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            // A prefix whose directory does not exist holds no keys.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            // What is no text is no key of ours.
            let Ok(mut key) = entry.file_name().into_string() else {
                continue;
            };
            if (base.is_empty() && key == TEMPORARY) || !(kind.is_dir() || kind.is_file()) {
                continue;
            }
            key.insert_str(0, base);
            if kind.is_dir() {
                // With the slash, directories sort among files as their keys do.
                key.push('/');
            }
            if self.may_hold(&key, kind.is_dir()) {
                names.push((key, entry.path()));
            }
        }
        names.sort_unstable();
        for (key, path) in names {
            if self.found.len() >= self.limit {
                return Ok(());
            }
            if key.ends_with('/') {
                self.directory(&path, &key)?;
            } else {
                self.file(key, &path)?;
            }
        }
        Ok(())
    }

    /// Can the file, or a file of the directory, belong to the listing?
    fn may_hold(&self, key: &str, is_directory: bool) -> bool {
        if is_directory {
            let matches = key.starts_with(self.prefix) || self.prefix.starts_with(key);
            // All keys of the directory begin with its own: unless `after` does too, they are all on one side of it.
            matches && (key > self.after || self.after.starts_with(key))
        } else {
            key.starts_with(self.prefix) && key > self.after
        }
    }

    fn file(&mut self, key: String, path: &Path) -> io::Result<()> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            // Deleted in the meantime.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let modified = metadata
            .modified()?
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        self.found.push(Listed {
            key,
            size_bytes: metadata.len(),
            modified_seconds: i64::try_from(modified).unwrap_or(i64::MAX),
        });
        Ok(())
    }
}
