//! Where things are.

use std::path::{Path, PathBuf};

/// Directories of this run.
pub struct Place {
    /// The workspace.
    pub root: PathBuf,
    /// Where this build's programs are, such as `target/debug`.
    programs: PathBuf,
    /// What is kept between runs and clones.
    pub cache: PathBuf,
}

impl Place {
    /// Finds them.
    pub fn find() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .ok_or("xtask lies in no workspace")?
            .to_owned();
        // This program lies where the others will: whatever decides about the target directory decided the same for it.
        let here = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let programs = here
            .parent()
            .ok_or("this program lies in no directory")?
            .to_owned();
        let cache = match (std::env::var_os("TWINSHORE_CACHE"), std::env::var_os("HOME")) {
            (Some(cache), _) => PathBuf::from(cache),
            (None, Some(home)) => Path::new(&home).join(".cache/twinshore"),
            (None, None) => {
                return Err("set TWINSHORE_CACHE or HOME: there is no place for the cache".to_owned());
            }
        };
        Ok(Self {
            root,
            programs,
            cache,
        })
    }

    /// A program of the workspace.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A program of the workspace, built for speed.
    pub fn release_binary(&self, name: &str) -> PathBuf {
        self.programs.with_file_name("release").join(name)
    }

    /// Where the external test programs are.
    pub fn tools(&self) -> PathBuf {
        self.cache.join("tools")
    }
}
