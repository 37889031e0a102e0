//! One mount process: started with a device, watched, ended.
//!
//! States: *starting* (it has not said that it is ready), *serving*, *ended*. It ends by itself, successfully, when its mount is gone and everything is written; when it is
//! asked to (`SIGTERM`), after it has written everything; or by being killed. Programs that use the mount then wait for the next one.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

use super::message::MountKey;

/// The line with which `twinshore mount` says that it can be used.
const READY_LINE: &str = "mount: ready";

/// What `twinshore` puts before the reason for which it fails.
const REASON_PREFIX: &str = "twinshore: ";

/// How long a process may take to be ready: as long as it waits for the metadata service itself, and some more.
const START_LIMIT: Duration = Duration::from_secs(80);

/// The longest line that is passed on; what is longer is cut.
const LINE_MAX_BYTES: usize = 16 * 1024;

/// How to end it.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Terminate,
    Kill,
}

/// A process as its owner sees it.
#[derive(Clone, Debug)]
pub struct Process {
    endings: mpsc::Sender<Ending>,
    ended: watch::Receiver<Option<Ended>>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// By itself, with everything done.
    pub successfully: bool,
    /// For people.
    pub how: String,
}

/// What it said last, for the reason of a failure.
type LastWords = Arc<Mutex<String>>;

impl Process {
    /// Starts one, and waits until it is ready or has failed. Its log goes to standard error, each line with the volume before it.
    pub async fn start(
        program: &OsStr,
        arguments: &[String],
        key: &MountKey,
        device: OwnedFd,
    ) -> Result<Self, String> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(device))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", Path::new(program).display()))?;
        let (says_ready, mut is_ready) = watch::channel(false);
        let last_words = LastWords::default();
        let output = child.stdout.take();
        let errors = child.stderr.take();
        let reading = (
            tokio::spawn(pass_on(output, key.clone(), last_words.clone(), Some(says_ready))),
            tokio::spawn(pass_on(errors, key.clone(), last_words.clone(), None)),
        );
        let (endings, asked) = mpsc::channel(4);
        let (says_ended, ended) = watch::channel(None);
        tokio::spawn(async move {
            let Ended { successfully, how } = wait(&mut child, asked).await;
            // Both pipes are closed by now, or nearly.
            let _ = tokio::join!(reading.0, reading.1);
            let words = last_words.lock().unwrap_or_else(PoisonError::into_inner).clone();
            says_ended.send_replace(Some(Ended {
                successfully,
                how: if words.is_empty() {
                    how
                } else {
                    format!("{how}: {words}")
                },
            }));
        });
        let mut process = Self { endings, ended };
        let started = tokio::time::timeout(START_LIMIT, async {
            tokio::select! {
                biased;
                Ok(_) = is_ready.wait_for(|ready| *ready) => Ok(()),
                ended = process.wait_for_end() => Err(ended),
            }
        })
        .await;
        match started {
            Ok(Ok(())) => Ok(process),
            Ok(Err(ended)) => Err(ended.how),
            Err(_) => {
                process.kill();
                process.wait_for_end().await;
                Err(format!(
                    "the mount was not ready within {} s",
                    START_LIMIT.as_secs()
                ))
            }
        }
    }

    /// Has it write everything and end.
    pub fn terminate(&self) {
        // A full queue holds an ending already.
        let _ = self.endings.try_send(Ending::Terminate);
    }

    /// Ends it at once.
    pub fn kill(&self) {
        let _ = self.endings.try_send(Ending::Kill);
    }

    /// Waits until it has ended, and tells how.
    pub async fn wait_for_end(&mut self) -> Ended {
        let ended = self.ended.wait_for(Option::is_some).await;
        ended
            .ok()
            .and_then(|ended| ended.clone())
            .unwrap_or_else(|| Ended {
                successfully: false,
                how: "nobody knows how it ended".to_owned(),
            })
    }
}

async fn wait(child: &mut Child, mut asked: mpsc::Receiver<Ending>) -> Ended {
    loop {
        tokio::select! {
            status = child.wait() => return match status {
                Ok(status) => Ended { successfully: status.success(), how: describe(status) },
                Err(error) => Ended { successfully: false, how: format!("cannot be waited for: {error}") },
            },
            Some(ending) = asked.recv() => end(child, ending),
        }
    }
}

fn end(child: &mut Child, ending: Ending) {
    let result = match ending {
        Ending::Kill => child.start_kill(),
        Ending::Terminate => terminate(child),
    };
    if let Err(error) = result {
        tracing::warn!("a mount process cannot be ended: {error}");
    }
}

fn terminate(child: &Child) -> std::io::Result<()> {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    // None: it has been waited for.
    if let Some(process) = id.and_then(rustix::process::Pid::from_raw) {
        rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
    }
    Ok(())
}

fn describe(status: ExitStatus) -> String {
    if status.success() {
        "ended".to_owned()
    } else {
        format!("ended with {status}")
    }
}

/// Passes on what it says, line by line.
async fn pass_on(
    from: Option<impl AsyncRead + Unpin>,
    key: MountKey,
    last_words: LastWords,
    ready: Option<watch::Sender<bool>>,
) {
    let Some(from) = from else { return };
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        line.truncate(LINE_MAX_BYTES);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if let (READY_LINE, Some(ready)) = (text, &ready) {
            ready.send_replace(true);
        }
        if let Some(reason) = text.strip_prefix(REASON_PREFIX) {
            reason.clone_into(&mut last_words.lock().unwrap_or_else(PoisonError::into_inner));
        }
        eprintln!("{key}: {text}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    async fn shell(script: &str) -> Result<Process, String> {
        let device = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let arguments = ["-c".to_owned(), script.to_owned()];
        Process::start(OsStr::new("sh"), &arguments, &"team/documents".to_owned(), device).await
    }

    #[tokio::test]
    async fn a_process_that_fails_before_it_is_ready_tells_why() {
        let failed = shell("echo something; echo 'twinshore: no such volume' >&2; exit 3").await;
        assert_eq!(failed.unwrap_err(), "ended with exit status: 3: no such volume");
    }

    #[tokio::test]
    async fn a_process_that_is_ready_serves_until_it_is_asked_to_end() {
        let mut process = shell("trap 'exit 0' TERM; echo 'mount: ready'; while :; do sleep 0.01; done")
            .await
            .unwrap();
        process.terminate();
        assert_eq!(process.wait_for_end().await.how, "ended");
    }

    #[tokio::test]
    async fn a_process_that_ignores_everything_is_killed() {
        let mut process = shell("trap '' TERM; echo 'mount: ready'; while :; do sleep 0.01; done")
            .await
            .unwrap();
        process.terminate();
        process.kill();
        let ended = process.wait_for_end().await;
        assert!(!ended.successfully && ended.how.contains("signal: 9"));
    }
}
