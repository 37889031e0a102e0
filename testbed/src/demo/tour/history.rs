//! git, in both regions on the same repository.

use std::path::{Path, PathBuf};
use std::time::Instant;

use twinshore_testbed::commands::Run;
use twinshore_testbed::progress::rate;
use twinshore_testbed::regions::Region;
use twinshore_testbed::tree::{Entry, Manifest, Names};

use super::Tour;
use twinshore_testbed::failure::{Failure, blocking, make_directory, same, write_file};

/// Keeps git from changing line ends and the like, whatever the input's own `.gitattributes` say: bytes are compared.
const ATTRIBUTES: &str = "* -text -eol -ident -filter -working-tree-encoding\n";

/// A file that is added in west.
const NOTE: &str = "NOTE-FROM-WEST.txt";

impl Tour<'_> {
    fn git(&self, directory: &Path) -> Run {
        Run::git(directory, self.patience)
    }

    /// Makes a repository of the tree, commits all of it and packs it.
    pub async fn commit_in_east(&mut self) -> Result<(), Failure> {
        self.progress.say("east: git init, add, commit, repack");
        let source = self.source(Region::East);
        let started = Instant::now();
        self.git(&source).arguments(["init", "-q"]).success().await?;
        keep_bytes(&source.join(".git")).await?;
        self.git(&source)
            .arguments(["add", "--force", "--all", "."])
            .success()
            .await?;
        self.git(&source)
            .arguments(["commit", "-q", "-m", "As it came"])
            .success()
            .await?;
        self.git(&source)
            .arguments(["repack", "-a", "-d", "-q"])
            .success()
            .await?;
        let took = started.elapsed();
        let count = self
            .git(&source)
            .arguments(["ls-files"])
            .success()
            .await?
            .text()
            .lines()
            .count();
        let result = format!("{count} files committed, {}", rate(count, took));
        self.progress.row("git add, commit, repack in east", result, took);
        Ok(())
    }

    /// `git fsck`, and a clone from the volume in west to the local disk.
    pub async fn check_and_clone_in_west(&mut self) -> Result<(), Failure> {
        self.progress
            .say("west: git fsck, and git clone to the local disk");
        let source = self.source(Region::West);
        let started = Instant::now();
        self.git(&source)
            .arguments(["fsck", "--full", "--strict"])
            .success()
            .await?;
        self.progress
            .row("git fsck in west", "no complaints".to_owned(), started.elapsed());
        let clone = self.work.join("clone");
        let started = Instant::now();
        self.git(&self.work)
            .arguments(["clone", "-q", "--no-hardlinks", "--no-checkout", "--"])
            .arguments([&source, &clone])
            .success()
            .await?;
        keep_bytes(&clone.join(".git")).await?;
        self.git(&clone)
            .arguments(["checkout", "-q", "main"])
            .success()
            .await?;
        let took = started.elapsed();
        let found = blocking("reading the clone", self.patience, move || {
            Manifest::read(&clone, Names::Except(&[".git"]), 4).map_err(Failure::io("read the clone"))
        })
        .await?;
        // git does not keep empty directories.
        same(
            &self.expected.only_content(),
            &found.only_content(),
            "the input",
            "the clone",
        )?;
        self.progress.row(
            "git clone out of west",
            format!("{} files identical", found.files()),
            took,
        );
        Ok(())
    }

    /// Edits a file, adds one and commits in west; east sees the commit and the bytes.
    pub async fn commit_in_west_and_see_it_in_east(&mut self) -> Result<(), Failure> {
        self.progress.say("west: edit, add, commit; then look in east");
        let (east, west) = (self.source(Region::East), self.source(Region::West));
        let edited = self.file_to_edit()?;
        let started = Instant::now();
        let (directory, path) = (west.clone(), edited.clone());
        blocking("editing in west", self.patience, move || {
            edit(&directory.join(path)).map_err(Failure::io("edit a file in west"))?;
            std::fs::write(directory.join(NOTE), "Written in west.\n")
                .map_err(Failure::io("write a file in west"))
        })
        .await?;
        self.git(&west)
            .arguments(["add", "--force", "--all", "."])
            .success()
            .await?;
        self.git(&west)
            .arguments(["commit", "-q", "-m", "Edited in west"])
            .success()
            .await?;
        let took = started.elapsed();
        let log = ["log", "-1", "--format=%H %s"];
        let in_west = self.git(&west).arguments(log).success().await?.text();
        let in_east = self.git(&east).arguments(log).success().await?.text();
        if in_east != in_west || !in_east.ends_with("Edited in west") {
            return Err(Failure::Wrong(format!(
                "the last commit is {in_west} in west but {in_east} in east"
            )));
        }
        let uncommitted = self
            .git(&east)
            .arguments(["status", "--porcelain"])
            .success()
            .await?
            .text();
        if !uncommitted.is_empty() {
            return Err(Failure::Wrong(format!(
                "git status in east is not clean: {uncommitted}"
            )));
        }
        let found = self.read_source(Region::East, 4).await?;
        let mut expected = found.clone();
        std::mem::swap(&mut self.expected, &mut expected);
        // Exactly the two paths of the commit have changed.
        let changed: Vec<&PathBuf> = found
            .entries
            .iter()
            .filter(|(path, entry)| expected.entries.get(*path) != Some(entry))
            .map(|(path, _)| path)
            .collect();
        let note = PathBuf::from(NOTE);
        let is_exact = changed.len() == 2
            && changed.contains(&&note)
            && changed.contains(&&edited)
            && found.entries.len() == expected.entries.len() + 1;
        if !is_exact {
            return Err(Failure::Wrong(format!("unexpected changes in east: {changed:?}")));
        }
        self.progress.row(
            "edit and commit in west, seen in east",
            in_east[..12].to_owned(),
            took,
        );
        Ok(())
    }

    fn file_to_edit(&self) -> Result<PathBuf, Failure> {
        let is_file = |entry: &Entry| matches!(entry, Entry::File { size_bytes, .. } if *size_bytes > 0);
        let found = self
            .expected
            .entries
            .iter()
            .find(|(_, entry)| is_file(entry))
            .map(|(path, _)| path.clone());
        found.ok_or_else(|| Failure::Wrong("the input has only empty files".to_owned()))
    }
}

async fn keep_bytes(git_directory: &Path) -> Result<(), Failure> {
    make_directory(&git_directory.join("info")).await?;
    write_file(&git_directory.join("info/attributes"), ATTRIBUTES).await
}

fn edit(path: &Path) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
    writeln!(file, "// Edited in west.")?;
    file.sync_all()
}
