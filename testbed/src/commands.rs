//! Ordinary programs, run with a deadline, with their output when they fail.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// Most of a program's complaints that an error shows, from the end.
const COMPLAINT_BYTES: usize = 1500;

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be run.
    #[error("{what} cannot be run: is it installed?")]
    Start {
        /// Program and arguments.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{what} failed ({status}): {complaint}")]
    Failed {
        /// Program and arguments.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        complaint: String,
    },
    /// It did not end.
    #[error("{what} was not done after {} s and was killed", patience.as_secs())]
    TimedOut {
        /// Program and arguments.
        what: String,
        /// How long it was given.
        patience: Duration,
    },
}

/// What a program said.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, without the line end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// A program to be run.
pub struct Run {
    command: Command,
    what: String,
    patience: Duration,
}

impl Run {
    /// A program with a deadline.
    pub fn new(program: impl AsRef<OsStr>, patience: Duration) -> Self {
        let mut command = Command::new(&program);
        command.stdin(Stdio::null()).kill_on_drop(true);
        Self {
            command,
            what: program.as_ref().to_string_lossy().into_owned(),
            patience,
        }
    }

    /// `git` that trusts repositories of any owner and takes nothing from this machine's configuration.
    pub fn git(directory: &Path, patience: Duration) -> Self {
        Self::new("git", patience)
            .environment("GIT_CONFIG_GLOBAL", "/dev/null")
            .environment("GIT_CONFIG_SYSTEM", "/dev/null")
            .environment("GIT_TERMINAL_PROMPT", "0")
            .arguments([
                "-c",
                "safe.directory=*",
                "-c",
                "user.name=Twinshore",
                "-c",
                "user.email=demo@localhost",
            ])
            // Housekeeping in the background would outlive the step that started it.
            .arguments([
                "-c",
                "gc.auto=0",
                "-c",
                "maintenance.auto=false",
                "-c",
                "init.defaultBranch=main",
                "-C",
            ])
            .argument(directory)
    }

    /// One more argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.what.push(' ');
        self.what.push_str(&argument.as_ref().to_string_lossy());
        self.command.arg(argument);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn arguments<A: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = A>) -> Self {
        arguments.into_iter().fold(self, Self::argument)
    }

    /// The working directory.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// A variable of the environment. Not shown in errors.
    #[must_use]
    pub fn environment(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs it; how it ends is for the caller to judge.
    pub async fn output(mut self) -> Result<Output, CommandError> {
        let Self { what, patience, .. } = self;
        match timeout(patience, self.command.output()).await {
            Ok(Ok(output)) => Ok(Output {
                status: output.status,
                stdout: output.stdout,
                stderr: output.stderr,
            }),
            Ok(Err(source)) => Err(CommandError::Start { what, source }),
            Err(_) => Err(CommandError::TimedOut { what, patience }),
        }
    }

    /// Runs it; anything but success is an error.
    pub async fn success(self) -> Result<Output, CommandError> {
        let what = self.what.clone();
        let output = self.output().await?;
        if output.status.success() {
            return Ok(output);
        }
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let end = &said[said.len().saturating_sub(COMPLAINT_BYTES)..];
        let complaint = String::from_utf8_lossy(end).trim().to_owned();
        Err(CommandError::Failed {
            what,
            status: output.status,
            complaint,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_failure_tells_the_command_and_its_complaint() {
        let run = Run::new("sh", PATIENCE).arguments(["-c", "echo no space left >&2; exit 4"]);
        let error = run.success().await.unwrap_err().to_string();
        assert!(
            error.contains("sh -c") && error.contains("no space left") && error.contains('4'),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed() {
        let run = Run::new("sleep", Duration::from_millis(200)).argument("60");
        assert!(matches!(run.output().await, Err(CommandError::TimedOut { .. })));
    }

    #[tokio::test]
    async fn a_missing_program_says_so() {
        let error = Run::new("no-such-program-here", PATIENCE)
            .output()
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("is it installed?"), "{error}");
    }
}
