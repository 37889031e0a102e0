//! The directory of the demo.
//!
//! Without `--dir` it is a new temporary one, removed after a success. A given one stays; what an earlier demo left in it is
//! removed before the next: only directories of known names, and only if the mark of a demo is there.

use std::path::{Path, PathBuf};

use twinshore_testbed::mount_table;

use twinshore_testbed::failure::Failure;

/// Marks a directory as a demo's.
const MARK: &str = ".twinshore-demo";

/// All that a demo makes in its directory.
const CONTENTS: [&str; 8] = [
    "east", "west", "buckets", "metadata", "caches", "logs", "work", "restored",
];

/// Where the demo takes place.
pub struct Place {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Place {
    /// Makes the directory, or empties it of an earlier demo.
    pub fn prepare(given: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = given else {
            let temporary = tempfile::Builder::new()
                .prefix("twinshore-demo-")
                .tempdir()
                .map_err(Failure::io("make a temporary directory"))?;
            return Ok(Self {
                path: temporary.path().to_owned(),
                temporary: Some(temporary),
            });
        };
        std::fs::create_dir_all(path).map_err(Failure::io(format!("make {}", path.display())))?;
        let path = path
            .canonicalize()
            .map_err(Failure::io(format!("find {}", path.display())))?;
        let mark = path.join(MARK);
        if mark.exists() {
            remove_contents(&path)?;
        } else if let Some(foreign) = CONTENTS.iter().find(|name| path.join(name).exists()) {
            return Err(Failure::Wrong(format!(
                "{} has a {foreign} that is not of a demo: choose another --dir",
                path.display()
            )));
        }
        std::fs::write(&mark, "").map_err(Failure::io(format!("write {}", mark.display())))?;
        Ok(Self {
            path,
            temporary: None,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// After a success: a temporary directory is removed, a given one stays.
    pub fn remove_if_ours(self) {
        let Some(temporary) = self.temporary else {
            println!("buckets, metadata and logs are left in {}", self.path.display());
            return;
        };
        if let Err(error) = temporary.close() {
            println!("{} could not be removed: {error}", self.path.display());
        }
    }

    /// After a failure: whatever can explain it stays.
    pub fn keep_for_inspection(self) {
        if let Some(temporary) = self.temporary {
            let _path = temporary.keep();
        }
        println!("logs are in {}", self.path.join("logs").display());
    }
}

fn remove_contents(path: &Path) -> Result<(), Failure> {
    for name in CONTENTS {
        let path = path.join(name);
        // A mount that an earlier demo left when it was killed must not be emptied but taken away.
        mount_table::detach(&path).map_err(Failure::io(format!("free {}", path.display())))?;
        match std::fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::io(format!("remove {}", path.display()))(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_directory_of_somebody_else_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("buckets")).unwrap();
        assert!(Place::prepare(Some(directory.path())).is_err());
        assert!(directory.path().join("buckets").is_dir());
    }

    #[test]
    fn what_an_earlier_demo_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::prepare(Some(&directory.path().join("demo"))).unwrap();
        std::fs::create_dir_all(place.path().join("buckets/east")).unwrap();
        std::fs::write(place.path().join("mine"), "").unwrap();
        let place = Place::prepare(Some(place.path())).unwrap();
        assert!(!place.path().join("buckets").exists());
        assert!(place.path().join("mine").exists());
    }
}
