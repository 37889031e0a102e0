//! The works: the same on every mounted file system, whoever made it.

mod files;
mod large;
mod programs;
mod trees;

use twinshore_testbed::failure::Failure;

use crate::report::Sample;
use crate::subject::Subject;

/// How much of each work to do.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    /// A tenth of everything.
    pub quick: bool,
}

impl Amounts {
    /// How much of something to do.
    pub fn of(self, full: usize) -> usize {
        if self.quick { full.div_ceil(10) } else { full }
    }
}

/// A work that can be done on any mounted file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Makes empty files, and files of 4 KiB.
    Create,
    /// Looks names up that the kernel does not know.
    LookUp,
    /// Renames and removes.
    Rename,
    /// Lists a large directory.
    List,
    /// Unpacks, searches and removes a source tree.
    Tree,
    /// A database.
    Sqlite,
    /// A clone of a repository.
    Git,
    /// One large file from end to end.
    Sequential,
    /// One large file here and there.
    Random,
}

impl Work {
    /// Whether a file system that forgets content can do it.
    pub fn needs_content(self) -> bool {
        matches!(self, Self::Sqlite | Self::Git)
    }

    /// Does it, in directories of its own.
    pub async fn run<S: Subject>(self, subject: &mut S, amounts: Amounts) -> Result<Vec<Sample>, Failure> {
        match self {
            Self::Create => files::create(subject, amounts).await,
            Self::LookUp => files::look_up(subject, amounts).await,
            Self::Rename => files::rename_and_unlink(subject, amounts).await,
            Self::List => files::list(subject, "").await,
            Self::Tree => trees::source_tree(subject, amounts).await,
            Self::Sqlite => programs::sqlite(subject, amounts).await,
            Self::Git => programs::git_clone(subject, amounts).await,
            Self::Sequential => large::sequential(subject, amounts).await,
            Self::Random => large::random(subject, amounts).await,
        }
    }
}

pub use files::{Crew, create_files, fill_listed, list};
pub use trees::{pack_tree, untar};
