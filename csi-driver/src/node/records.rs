//! What is staged on this node, written down: the calls that end a use name only an identifier, and the plugin may have been replaced, or the machine
//! started anew, since the call that began it.

use std::fs;
use std::io::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::paths::Paths;
use crate::attributes::Attributes;
use crate::error::CallError;

/// A volume that is staged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its identifier.
    pub volume_id: String,
    /// What it is.
    pub attributes: Attributes,
}

/// Writes a record: whole, or not at all.
pub fn write(paths: &Paths, record: &Record) -> Result<(), CallError> {
    let path = paths.record(&record.volume_id);
    let what = || CallError::system(format!("write {}", path.display()));
    if read(paths, &record.volume_id)?.as_ref() == Some(record) {
        return Ok(());
    }
    fs::create_dir_all(paths.records()).map_err(what())?;
    let text = serde_json::to_vec(record).map_err(|error| what()(io::Error::from(error)))?;
    let partial = path.with_extension("part");
    let mut file = fs::File::create(&partial).map_err(what())?;
    file.write_all(&text).map_err(what())?;
    file.sync_all().map_err(what())?;
    fs::rename(&partial, &path).map_err(what())
}

/// The record of a volume, if it is staged.
pub fn read(paths: &Paths, volume_id: &str) -> Result<Option<Record>, CallError> {
    let path = paths.record(volume_id);
    let what = || CallError::system(format!("read {}", path.display()));
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| what()(io::Error::from(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(what()(error)),
    }
}

/// Forgets a volume.
pub fn remove(paths: &Paths, volume_id: &str) -> Result<(), CallError> {
    let path = paths.record(volume_id);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CallError::system(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// All records. One that cannot be read is told and passed over: it must not hold up the others.
pub fn all(paths: &Paths) -> Vec<Record> {
    let entries = match fs::read_dir(paths.records()) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("cannot read {}: {error}", paths.records().display());
            }
            return Vec::new();
        }
    };
    entries
        .flatten()
        .filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "json")
        })
        .filter_map(|entry| {
            let read = fs::read(entry.path()).and_then(|text| Ok(serde_json::from_slice(&text)?));
            read.inspect_err(|error| tracing::warn!("cannot read {}: {error}", entry.path().display()))
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_record_outlives_its_writer() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let record = Record {
            volume_id: "id/../x".to_owned(),
            attributes: Attributes::from_context(
                &[("twinshore.io/volume".to_owned(), "team/documents".to_owned())].into(),
            )
            .unwrap(),
        };
        assert_eq!(read(&paths, "id/../x").unwrap(), None);
        write(&paths, &record).unwrap();
        write(&paths, &record).unwrap();
        fs::write(paths.records().join("broken.json"), "{").unwrap();
        assert_eq!(all(&paths), std::slice::from_ref(&record));
        assert_eq!(read(&paths, "id/../x").unwrap(), Some(record));
        remove(&paths, "id/../x").unwrap();
        remove(&paths, "id/../x").unwrap();
        assert!(all(&paths).is_empty());
    }
}
