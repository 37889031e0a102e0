//! The files of an image.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// What a file holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// What a file of this machine holds.
    Of(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// One name of the tree.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A directory.
    Directory {
        /// Its permissions.
        mode: u32,
    },
    /// A file.
    File {
        /// Its permissions.
        mode: u32,
        /// What it holds.
        content: Content,
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        target: String,
    },
}

/// The files of an image, by path without the slash at the beginning. Sorted, so directories come before what is in them.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    /// What every image has: directories that the runtime mounts to, users that Kubernetes names.
    pub fn base() -> Self {
        let mut tree = Self::default();
        for directory in ["dev", "etc", "proc", "root", "run", "sys", "var/run"] {
            tree.directory(directory, 0o755);
        }
        tree.directory("tmp", 0o1777);
        tree.text(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        );
        tree.text("etc/group", "root:x:0:\nnonroot:x:65532:\nnogroup:x:65534:\n");
        tree.text(
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n",
        );
        tree
    }

    /// A directory with everything in it.
    pub fn read(directory: &Path) -> Result<Self, Failure> {
        let mut tree = Self::default();
        tree.read_below(directory, "")?;
        Ok(tree)
    }

    fn read_below(&mut self, directory: &Path, prefix: &str) -> Result<(), Failure> {
        for entry in fs::read_dir(directory).map_err(Failure::file("read", directory))? {
            let path = entry.map_err(Failure::file("read", directory))?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .ok_or_else(|| Failure::wrong(format!("{} has a name that is not text", path.display())))?;
            let name = format!("{prefix}{name}");
            let metadata = fs::symlink_metadata(&path).map_err(Failure::file("look at", &path))?;
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_dir() {
                self.read_below(&path, &format!("{name}/"))?;
                self.directory(&name, mode);
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(Failure::file("read", &path))?;
                self.link(&name, &target.to_string_lossy());
            } else if metadata.is_file() {
                self.file(&name, mode, &path);
            } else {
                return Err(Failure::wrong(format!(
                    "{} is neither a file nor a directory nor a link",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// A directory.
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.add(path, Entry::Directory { mode });
    }

    /// A file of this machine.
    pub fn file(&mut self, path: &str, mode: u32, from: &Path) {
        let content = Content::Of(from.to_owned());
        self.add(path, Entry::File { mode, content });
    }

    /// A file with a text.
    pub fn text(&mut self, path: &str, text: &str) {
        let content = Content::Bytes(text.into());
        self.add(path, Entry::File { mode: 0o644, content });
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        let target = target.to_owned();
        self.add(path, Entry::Link { target });
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (slash, _) in path.match_indices('/') {
            self.entries
                .entry(path[..slash].to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// All of it.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn directories_come_before_what_is_in_them() {
        let mut tree = Tree::default();
        tree.text("a/b/c", "");
        tree.text("a.b", "");
        let paths: Vec<&str> = tree.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a", "a.b", "a/b", "a/b/c"]);
    }

    #[test]
    fn a_directory_of_this_machine_becomes_a_tree() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("bin")).unwrap();
        fs::write(directory.path().join("bin/x"), "x").unwrap();
        std::os::unix::fs::symlink("x", directory.path().join("bin/y")).unwrap();
        let tree = Tree::read(directory.path()).unwrap();
        let paths: Vec<&str> = tree.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, ["bin", "bin/x", "bin/y"]);
    }
}
