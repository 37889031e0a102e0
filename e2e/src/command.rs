//! Running programs to their end, with a limit on time, and telling what they said if they fail.

use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// For programs that answer at once on a machine that is not overloaded.
pub const SHORT: Duration = Duration::from_mins(1);

/// How often a program that runs is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// As much of what a program said as a message repeats.
const SAID_MAX_CHARS: usize = 2000;

/// A program failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("`{command}` cannot be run")]
    Start {
        /// The command line.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error("`{command}` ended with {status}: {said}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        said: String,
    },
    /// It did not end.
    #[error("`{command}` had not ended after {} s and was killed: {said}", waited.as_secs())]
    TooSlow {
        /// The command line.
        command: String,
        /// How long it was given.
        waited: Duration,
        /// What it had said.
        said: String,
    },
}

impl CommandError {
    /// What the program said.
    pub fn said(&self) -> &str {
        match self {
            Self::Start { .. } => "",
            Self::Failed { said, .. } | Self::TooSlow { said, .. } => said,
        }
    }
}

/// A program to be run to its end.
#[derive(Debug)]
pub struct Run {
    command: Command,
    input: Option<Vec<u8>>,
    patience: Duration,
}

impl Run {
    /// A program with arguments.
    pub fn new<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self {
            command,
            input: None,
            patience: SHORT,
        }
    }

    /// A program with its arguments in one string, separated by spaces.
    pub fn words(line: &str) -> Self {
        let mut words = line.split_whitespace();
        Self::new(words.next().unwrap_or_default(), words)
    }

    /// A variable of its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs it; what it wrote to its standard output, without the white space at the end.
    pub fn output(self) -> Result<String, CommandError> {
        let Self {
            mut command,
            input,
            patience,
        } = self;
        let line = command_line(&command);
        let failed_to_start = |source| CommandError::Start {
            command: line.clone(),
            source,
        };
        let mut child = command
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed_to_start)?;
        let writer = child.stdin.take().zip(input).map(|(mut stdin, input)| {
            // A program that does not read all of it says itself what it did not like.
            thread::spawn(move || stdin.write_all(&input).unwrap_or_default())
        });
        let output = child.stdout.take().map(read_all);
        let errors = child.stderr.take().map(read_all);
        let status = wait(&mut child, patience).map_err(failed_to_start)?;
        if status.is_none() {
            // Whoever inherited the pipes may hold them open, so they are not read to their end.
            return Err(CommandError::TooSlow {
                command: line,
                waited: patience,
                said: errors
                    .filter(JoinHandle::is_finished)
                    .map_or(String::new(), collect),
            });
        }
        if let Some(writer) = writer {
            let _ = writer.join();
        }
        let output = output.map_or(String::new(), collect);
        let errors = errors.map_or(String::new(), collect);
        match status {
            Some(status) if !status.success() => Err(CommandError::Failed {
                command: line,
                status,
                said: last_characters(if errors.trim().is_empty() {
                    &output
                } else {
                    &errors
                }),
            }),
            _ => Ok(output.trim_end().to_owned()),
        }
    }

    /// Runs it for its effect.
    pub fn done(self) -> Result<(), CommandError> {
        self.output().map(|_| ())
    }

    /// Whether it succeeds. One that cannot be run does not.
    pub fn succeeds(self) -> bool {
        self.output().is_ok()
    }
}

fn command_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth telling.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn collect(thread: JoinHandle<String>) -> String {
    thread.join().unwrap_or_default()
}

fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

fn last_characters(text: &str) -> String {
    let text = text.trim();
    let count = text.chars().count();
    text.chars().skip(count.saturating_sub(SAID_MAX_CHARS)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_program_gets_its_input_and_its_output_is_returned() {
        let output = Run::words("cat").input("hello\n").output().unwrap();
        assert_eq!(output, "hello");
    }

    #[test]
    fn a_program_that_fails_tells_what_it_said() {
        let error = Run::new("sh", ["-c", "echo oh >&2; exit 3"])
            .output()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c echo oh >&2; exit 3` ended with exit status: 3: oh"
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let error = Run::words("sleep 100")
            .patience(Duration::from_millis(20))
            .output()
            .unwrap_err();
        assert!(matches!(error, CommandError::TooSlow { .. }), "{error}");
    }
}
