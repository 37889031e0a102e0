//! Why the demo or a suite failed, and running what blocks with a deadline.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::commands::CommandError;
use crate::patience::Impatient;
use crate::process::ProcessError;
use crate::regions::RegionsError;
use crate::s3server::S3ServerError;
use crate::tree::Manifest;

/// Why the demo or a suite failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The regions.
    #[error(transparent)]
    Regions(#[from] RegionsError),
    /// A program that was run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A bucket.
    #[error(transparent)]
    Bucket(#[from] S3ServerError),
    /// A program that should run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Something that did not come true.
    #[error(transparent)]
    Impatient(#[from] Impatient),
    /// A file operation.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A step took too long.
    #[error("{what} was not done after {seconds} s")]
    TooSlow {
        /// The step.
        what: String,
        /// How long it was given.
        seconds: u64,
    },
    /// Something was found that should not be.
    #[error("{0}")]
    Wrong(String),
    /// A worker thread of this process ended without a result.
    #[error("{what}: {reason}")]
    Thread {
        /// The step.
        what: String,
        /// What the thread said.
        reason: String,
    },
    /// A person does not want to go on.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// For `map_err`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

/// Runs what blocks (file operations on a mount) on a thread of its own, with a deadline. After it the thread is left alone: it ends
/// with an error when the mount is taken away.
pub async fn blocking<T: Send + 'static>(
    what: &str,
    patience: Duration,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::time::timeout(patience, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(Failure::Thread {
            what: what.to_owned(),
            reason: error.to_string(),
        }),
        Err(_) => Err(Failure::TooSlow {
            what: what.to_owned(),
            seconds: patience.as_secs(),
        }),
    }
}

/// Fails if two trees are not the same.
pub fn same(expected: &Manifest, found: &Manifest, here: &str, there: &str) -> Result<(), Failure> {
    let differences = expected.differences(found, here, there);
    if differences.is_empty() {
        Ok(())
    } else {
        Err(Failure::Wrong(differences.join("; ")))
    }
}

/// For one operation on a mount: what a person would wait before giving up.
const ONE_OPERATION: Duration = Duration::from_mins(1);

/// Makes a directory on a mount (which may hang) and those above it.
pub async fn make_directory(path: &Path) -> Result<(), Failure> {
    let path = path.to_owned();
    let what = format!("make the directory {}", path.display());
    blocking(&what.clone(), ONE_OPERATION, move || {
        std::fs::create_dir_all(path).map_err(Failure::io(what))
    })
    .await
}

/// Writes a file on a mount.
pub async fn write_file(path: &Path, content: impl Into<Vec<u8>>) -> Result<(), Failure> {
    let (path, content) = (path.to_owned(), content.into());
    let what = format!("write {}", path.display());
    blocking(&what.clone(), ONE_OPERATION, move || {
        std::fs::write(path, content).map_err(Failure::io(what))
    })
    .await
}

/// Reads a file on a mount.
pub async fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let path = path.to_owned();
    let what = format!("read {}", path.display());
    blocking(&what.clone(), ONE_OPERATION, move || {
        std::fs::read(path).map_err(Failure::io(what))
    })
    .await
}
