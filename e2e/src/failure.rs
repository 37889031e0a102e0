//! Why something of the lab failed.

use std::error::Error;
use std::io;
use std::path::Path;

use crate::command::CommandError;
use crate::patience::Impatient;

/// Why something of the lab failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A program that was run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Something that did not come true.
    #[error(transparent)]
    Impatient(#[from] Impatient),
    /// The operating system refused something.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificate of {what}")]
    Certificate {
        /// Whose.
        what: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// Something is missing on this machine.
    #[error("{what}: {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// Something was found that should not be.
    #[error("{0}")]
    Wrong(String),
    /// Several things failed beside each other.
    #[error("{}", .0.iter().map(|one| chain(one)).collect::<Vec<_>>().join("; "))]
    Several(Vec<Failure>),
    /// A thread of this process ended without a result.
    #[error("a thread panicked while it was to {0}")]
    Thread(String),
}

impl Failure {
    /// For `map_err` of what the operating system refused.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what: what.into(),
            source,
        }
    }

    /// The same, about a file.
    pub fn file(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("{verb} {}", path.display()))
    }

    /// The same, for system calls.
    pub fn system(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Io {
            what: what.into(),
            source: errno.into(),
        }
    }

    /// A finding.
    pub fn wrong(what: impl Into<String>) -> Self {
        Self::Wrong(what.into())
    }
}

/// An error with everything that caused it, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Makes a directory and those above it.
pub fn make_directory(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(Failure::file("make the directory", path))
}

/// Writes a file, and the directories above it.
pub fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<(), Failure> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    std::fs::write(path, content).map_err(Failure::file("write", path))
}

/// Does the same for several things at once, each in a thread of its own, and waits for all.
pub fn at_once<T: Send + Sync>(
    what: &str,
    things: &[T],
    each: impl Fn(&T) -> Result<(), Failure> + Sync,
) -> Result<(), Failure> {
    let each = &each;
    let mut failures: Vec<Failure> = std::thread::scope(|scope| {
        let threads: Vec<_> = things
            .iter()
            .map(|thing| scope.spawn(move || each(thing)))
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| match thread.join() {
                Ok(result) => result.err(),
                Err(_) => Some(Failure::Thread(what.to_owned())),
            })
            .collect()
    });
    match (failures.pop(), failures.is_empty()) {
        (None, _) => Ok(()),
        (Some(only), true) => Err(only),
        (Some(last), false) => {
            failures.push(last);
            Err(Failure::Several(failures))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn everything_that_failed_beside_each_other_is_told() {
        let error = at_once("count", &[1, 2, 3], |number| {
            if *number == 2 {
                Ok(())
            } else {
                Err(Failure::wrong(format!("no {number}")))
            }
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "no 1; no 3");
    }

    #[test]
    fn the_cause_is_told() {
        let error = Failure::file("read", Path::new("/x"))(io::Error::other("gone"));
        assert_eq!(chain(&error), "cannot read /x: gone");
    }
}
