//! Trees of real files: which to take, what is in them, whether two are the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};

/// What a path of a tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A symbolic link and where it leads.
    Link(PathBuf),
    /// A file.
    File {
        /// Its size in bytes.
        size_bytes: u64,
        /// SHA-256 of its content.
        digest: [u8; 32],
    },
}

/// Which entries of the root belong to a tree.
#[derive(Clone, Copy, Debug)]
pub enum Names<'a> {
    /// All.
    All,
    /// All but these.
    Except(&'a [&'a str]),
    /// These.
    Only(&'a [String]),
}

impl Names<'_> {
    fn contain(self, name: &std::ffi::OsStr) -> bool {
        match self {
            Self::All => true,
            Self::Except(names) => !names.iter().any(|except| name == *except),
            Self::Only(names) => names.iter().any(|only| name == only.as_str()),
        }
    }
}

/// Every path of a tree, relative to its root, and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// By path.
    pub entries: BTreeMap<PathBuf, Entry>,
}

impl Manifest {
    /// Reads a whole tree, its files with several threads at a time (over a distance, one would mostly wait).
    pub fn read(root: &Path, names: Names<'_>, threads: usize) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        let mut files = Vec::new();
        walk(root, Path::new(""), names, &mut |path, kind| match kind {
            Kind::Directory => drop(entries.insert(path, Entry::Directory)),
            Kind::Link(to) => drop(entries.insert(path, Entry::Link(to))),
            Kind::File => files.push(path),
        })?;
        let next = AtomicUsize::new(0);
        let found = Mutex::new(Vec::with_capacity(files.len()));
        let failure = Mutex::new(None);
        let work = || {
            while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                match digest(&root.join(path)) {
                    Ok(entry) => lock(&found).push((path.clone(), entry)),
                    Err(error) => {
                        let error = io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                        lock(&failure).get_or_insert(error);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(work);
            }
        });
        if let Some(error) = lock(&failure).take() {
            return Err(error);
        }
        entries.extend(std::mem::take(&mut *lock(&found)));
        Ok(Self { entries })
    }

    /// How many files.
    pub fn files(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| matches!(entry, Entry::File { .. }))
            .count()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let size = |entry: &Entry| {
            if let Entry::File { size_bytes, .. } = entry {
                *size_bytes
            } else {
                0
            }
        };
        self.entries.values().map(size).sum()
    }

    /// Only files and links: directories do not count in buckets and in git.
    #[must_use]
    pub fn only_content(&self) -> Self {
        let content = self
            .entries
            .iter()
            .filter(|(_, entry)| **entry != Entry::Directory);
        Self {
            entries: content
                .map(|(path, entry)| (path.clone(), entry.clone()))
                .collect(),
        }
    }

    /// The first few differences in words; empty if the trees are the same.
    pub fn differences(&self, other: &Self, here: &str, there: &str) -> Vec<String> {
        const SHOWN: usize = 5;
        let mut differences = Vec::new();
        for (path, entry) in &self.entries {
            match other.entries.get(path) {
                None => differences.push(format!("{} is only in {here}", path.display())),
                Some(found) if found != entry => {
                    differences.push(format!("{} differs between {here} and {there}", path.display()));
                }
                Some(_) => {}
            }
        }
        let only_there = other
            .entries
            .keys()
            .filter(|path| !self.entries.contains_key(*path));
        differences.extend(only_there.map(|path| format!("{} is only in {there}", path.display())));
        let total = differences.len();
        if total > SHOWN {
            differences.truncate(SHOWN);
            differences.push(format!("and {} more", total - SHOWN));
        }
        differences
    }
}

/// A lock whose holders cannot panic between two states: the data is fine even if one did.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

enum Kind {
    Directory,
    Link(PathBuf),
    File,
}

/// Visits a tree in the order of its names.
fn walk(
    root: &Path,
    below: &Path,
    names: Names<'_>,
    visit: &mut impl FnMut(PathBuf, Kind),
) -> io::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(root.join(below))?.collect::<io::Result<_>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if below.as_os_str().is_empty() && !names.contain(&name) {
            continue;
        }
        let path = below.join(&name);
        let kind = entry.file_type()?;
        if kind.is_dir() {
            visit(path.clone(), Kind::Directory);
            walk(root, &path, names, visit)?;
        } else if kind.is_symlink() {
            let to = std::fs::read_link(entry.path())?;
            visit(path, Kind::Link(to));
        } else if kind.is_file() {
            visit(path, Kind::File);
        }
        // Sockets, pipes and devices have no content to compare.
    }
    Ok(())
}

fn digest(path: &Path) -> io::Result<Entry> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut size_bytes = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(Entry::File {
                size_bytes,
                digest: hash.finalize().into(),
            });
        }
        hash.update(&buffer[..count]);
        size_bytes += count as u64;
    }
}

/// A part of a tree: its root, and which entries of the root to take.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The root.
    pub root: PathBuf,
    /// Names in it.
    pub names: Vec<String>,
    /// Files in them.
    pub files: usize,
}

impl Selection {
    /// All of a directory.
    pub fn all(root: &Path) -> io::Result<Self> {
        Self::part(root, usize::MAX, usize::MAX)
    }

    /// Entries of the root, in the order of their names, each whole, until there are `enough` files; entries that would make
    /// it more than `limit` are passed over.
    pub fn part(root: &Path, enough: usize, limit: usize) -> io::Result<Self> {
        let mut names: Vec<String> = Vec::new();
        for entry in std::fs::read_dir(root)? {
            // Names that are not UTF-8 do not occur in the sources this is for.
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        let mut taken = Self {
            root: root.to_owned(),
            names: Vec::new(),
            files: 0,
        };
        for name in names {
            let path = root.join(&name);
            let kind = std::fs::symlink_metadata(&path)?;
            let mut files = usize::from(kind.is_file());
            if kind.is_dir() {
                walk(&path, Path::new(""), Names::All, &mut |_, kind| {
                    files += usize::from(matches!(kind, Kind::File));
                })?;
            }
            if taken.files.saturating_add(files) <= limit {
                taken.names.push(name);
                taken.files += files;
            }
            if taken.files >= enough {
                break;
            }
        }
        Ok(taken)
    }
}

/// Source trees that a machine with Rust or Go has: the standard libraries, or the packages that this was built from.
pub fn known_source_trees() -> Vec<PathBuf> {
    let mut trees = Vec::new();
    if let Ok(output) = std::process::Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
    {
        let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        trees.push(Path::new(&sysroot).join("lib/rustlib/src/rust/library"));
    }
    trees.push(PathBuf::from("/usr/local/go/src"));
    trees.push(PathBuf::from("/usr/lib/go/src"));
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    if let Some(Ok(registries)) = cargo_home.map(|home| std::fs::read_dir(home.join("registry/src"))) {
        let mut registries: Vec<PathBuf> = registries.flatten().map(|entry| entry.path()).collect();
        registries.sort();
        trees.extend(registries);
    }
    trees
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn sample() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, content) in [
            ("a/one", "1"),
            ("a/two", "22"),
            ("b/deep/three", "333"),
            ("c", "4444"),
        ] {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        std::os::unix::fs::symlink("a/one", directory.path().join("link")).unwrap();
        directory
    }

    #[test]
    fn a_tree_is_the_same_as_itself_and_differs_by_content_and_presence() {
        let directory = sample();
        let before = Manifest::read(directory.path(), Names::All, 4).unwrap();
        assert_eq!((before.files(), before.bytes()), (4, 10));
        assert_eq!(before, Manifest::read(directory.path(), Names::All, 1).unwrap());
        std::fs::write(directory.path().join("a/one"), "X").unwrap();
        std::fs::remove_file(directory.path().join("c")).unwrap();
        std::fs::write(directory.path().join("d"), "").unwrap();
        let after = Manifest::read(directory.path(), Names::All, 4).unwrap();
        let differences = before.differences(&after, "before", "after");
        assert_eq!(
            differences,
            [
                "a/one differs between before and after",
                "c is only in before",
                "d is only in after"
            ]
        );
    }

    #[test]
    fn entries_of_the_root_can_be_left_out() {
        let directory = sample();
        let manifest = Manifest::read(directory.path(), Names::Except(&["a", "link"]), 2).unwrap();
        assert_eq!(manifest.entries.len(), 4);
    }

    #[test]
    fn a_selection_takes_whole_entries_up_to_the_limit() {
        let directory = sample();
        let two = Selection::part(directory.path(), 2, 3).unwrap();
        assert_eq!(
            (two.names.as_slice(), two.files),
            (["a".to_owned()].as_slice(), 2)
        );
        let passed_over = Selection::part(directory.path(), 2, 1).unwrap();
        assert_eq!(
            (passed_over.names.as_slice(), passed_over.files),
            (["b".to_owned(), "link".to_owned()].as_slice(), 1)
        );
        assert_eq!(Selection::all(directory.path()).unwrap().files, 4);
    }

    #[test]
    fn a_missing_tree_is_an_error() {
        assert!(Manifest::read(Path::new("/no/such/tree"), Names::All, 2).is_err());
    }
}
