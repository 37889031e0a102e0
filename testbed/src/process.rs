//! Programs that run as long as a test or the demo does.
//!
//! Each runs in a process group of its own (a Ctrl-C reaches only us, and we end them in order), writes all it says into one log
//! file, and is told to end when the process that started it dies, even by `kill -9`. Dropping a [`Supervised`] kills it; by its
//! own process id, never by a name.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::mount_table;

/// Lines of a log that an error shows.
const TAIL_LINES: usize = 12;

/// How often a port is tried until somebody listens, or a mount looked for.
const LISTEN_INTERVAL: Duration = Duration::from_millis(20);

/// Why a program is not running.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("{name} cannot be started ({})", program.display())]
    Start {
        /// What it is called here.
        name: String,
        /// The file.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("{name} ended ({status}) before it was ready; the end of {}:\n{tail}", log.display())]
    Ended {
        /// What it is called here.
        name: String,
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// It runs, but is not ready in time.
    #[error("{name} was not ready after {} s; the end of {}:\n{tail}", waited.as_secs(), log.display())]
    NotReady {
        /// What it is called here.
        name: String,
        /// How long it was given.
        waited: Duration,
        /// Its log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// It did not end when it was asked to and had to be killed.
    #[error("{name} did not end within {} s of SIGTERM and was killed; see {}", waited.as_secs(), log.display())]
    Killed {
        /// What it is called here.
        name: String,
        /// How long it was given.
        waited: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// The operating system refused something about it.
    #[error("{name}: {what}")]
    System {
        /// What it is called here.
        name: String,
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How a program tells that it is ready.
#[derive(Clone, Debug)]
pub enum Ready {
    /// A line on its standard output begins with this.
    Says(String),
    /// It accepts connections there.
    Listens(SocketAddr),
    /// Something is mounted there.
    Mounted(PathBuf),
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// What it is called here, also the name of its log file.
    pub name: String,
    /// The file.
    pub program: PathBuf,
    /// Its arguments. No secrets: everybody can read them.
    pub arguments: Vec<OsString>,
    /// Its environment besides ours. Secrets belong here.
    pub environment: Vec<(String, String)>,
    /// Where its log goes.
    pub log_directory: PathBuf,
    /// When it is ready.
    pub ready: Ready,
    /// It must be ready after this time.
    pub patience: Duration,
}

/// A running program.
#[derive(Debug)]
pub struct Supervised {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
}

impl Supervised {
    /// Starts a program and waits until it is ready. If it is not in time, it is killed.
    pub async fn start(program: &Program) -> Result<Self, ProcessError> {
        let Program {
            name,
            program: file,
            arguments,
            environment,
            log_directory,
            ready,
            patience,
        } = program;
        let system = |what, source| ProcessError::System {
            name: name.clone(),
            what,
            source,
        };
        let log = log_directory.join(format!("{name}.log"));
        std::fs::create_dir_all(log_directory).map_err(|error| system("create the log directory", error))?;
        let open_log = || OpenOptions::new().create(true).append(true).open(&log);
        let errors = open_log().map_err(|error| system("open the log", error))?;
        let output = open_log().map_err(|error| system("open the log", error))?;
        let mut command = Command::new(file);
        command
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true);
        end_with_parent(&mut command);
        let mut child = command.spawn().map_err(|source| ProcessError::Start {
            name: name.clone(),
            program: file.clone(),
            source,
        })?;
        let pid = child
            .id()
            .and_then(|pid| Pid::from_raw(pid.cast_signed()))
            .ok_or_else(|| system("learn its process id", io::Error::from(io::ErrorKind::NotFound)))?;
        let (tell_ready, told_ready) = oneshot::channel();
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(follow(
                stdout,
                tokio::fs::File::from_std(output),
                ready.clone(),
                tell_ready,
            ));
        }
        let mut supervised = Self {
            name: name.clone(),
            child,
            pid,
            log,
        };
        match timeout(*patience, told_ready).await {
            Ok(Ok(())) => Ok(supervised),
            // Its output ended without the line: it is ending, or has closed its output and never will be ready.
            Ok(Err(_)) => {
                let status = supervised.end(*patience).await?;
                Err(ProcessError::Ended {
                    name: name.clone(),
                    status: status.to_string(),
                    tail: supervised.log_tail(),
                    log: supervised.log.clone(),
                })
            }
            Err(_) => {
                supervised.kill().await?;
                Err(ProcessError::NotReady {
                    name: name.clone(),
                    waited: *patience,
                    tail: supervised.log_tail(),
                    log: supervised.log.clone(),
                })
            }
        }
    }

    /// What it is called here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn process_id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        self.child
            .try_wait()
            .map_err(|source| self.system("look whether it runs", source))
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<(), ProcessError> {
        match self.child.kill().await {
            Ok(()) => Ok(()),
            // It had ended by itself.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            Err(source) => Err(self.system("kill it", source)),
        }
    }

    /// Stops it where it is, as a machine that hangs.
    pub fn freeze(&self) -> Result<(), ProcessError> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<(), ProcessError> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM.
    pub fn ask_to_end(&self) -> Result<(), ProcessError> {
        self.signal(Signal::TERM)
    }

    /// SIGTERM, and waits for it to end; kills it (and says so) if it does not.
    pub async fn terminate(&mut self, patience: Duration) -> Result<ExitStatus, ProcessError> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        self.end(patience).await
    }

    /// Waits for it to end; kills it (and says so) if it does not.
    pub async fn end(&mut self, patience: Duration) -> Result<ExitStatus, ProcessError> {
        match timeout(patience, self.child.wait()).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(source)) => Err(self.system("wait for its end", source)),
            Err(_) => {
                self.kill().await?;
                Err(ProcessError::Killed {
                    name: self.name.clone(),
                    waited: patience,
                    log: self.log.clone(),
                })
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        // The id is ours as long as the child has not been waited for, and `Child` waits only through us.
        rustix::process::kill_process(self.pid, signal)
            .map_err(|error| self.system("send it a signal", error.into()))
    }

    fn system(&self, what: &'static str, source: io::Error) -> ProcessError {
        ProcessError::System {
            name: self.name.clone(),
            what,
            source,
        }
    }
}

/// Lets a command's process get SIGTERM when the thread that starts it ends, so that nothing outlives a killed test. Start it
/// from a thread that lives as long as the process (a worker of the runtime, not one of its blocking threads).
#[allow(unsafe_code)]
fn end_with_parent(command: &mut Command) {
    let set = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: this is one prctl without allocation or locks.
    unsafe {
        command.pre_exec(set);
    }
}

/// Copies the output to the log, and tells when the program says that it is ready. Dropping `tell_ready` unsent says that it
/// never will be.
async fn follow(
    output: ChildStdout,
    mut log: tokio::fs::File,
    ready: Ready,
    tell_ready: oneshot::Sender<()>,
) {
    let mut tell_ready = Some(tell_ready);
    let mut watch = None;
    let line_of_ready = match ready {
        Ready::Says(line) => Some(line),
        Ready::Listens(address) => {
            watch = tell_ready
                .take()
                .map(|tell_ready| tokio::spawn(watch_port(address, tell_ready)));
            None
        }
        Ready::Mounted(mount_point) => {
            watch = tell_ready
                .take()
                .map(|tell_ready| tokio::spawn(watch_mount(mount_point, tell_ready)));
            None
        }
    };
    let mut lines = BufReader::new(output).split(b'\n');
    while let Ok(Some(mut line)) = lines.next_segment().await {
        if line_of_ready
            .as_ref()
            .is_some_and(|ready| line.starts_with(ready.as_bytes()))
            && let Some(tell_ready) = tell_ready.take()
        {
            // Nobody listens any more if the patience was over.
            let _ = tell_ready.send(());
        }
        line.push(b'\n');
        // A log that cannot be written (disk full) must not stop the program from being read.
        let _ = log.write_all(&line).await;
        let _ = log.flush().await;
    }
    // The program is ending: it will not become ready any more.
    if let Some(watch) = watch {
        watch.abort();
    }
}

/// Tells when somebody accepts connections at the address.
async fn watch_port(address: SocketAddr, tell_ready: oneshot::Sender<()>) {
    while TcpStream::connect(address).await.is_err() {
        if tell_ready.is_closed() {
            return;
        }
        tokio::time::sleep(LISTEN_INTERVAL).await;
    }
    // Nobody waits any more if the patience was over.
    let _ = tell_ready.send(());
}

/// Tells when something is mounted there. An unreadable mount table counts as "not yet": the patience is bounded.
async fn watch_mount(mount_point: PathBuf, tell_ready: oneshot::Sender<()>) {
    while !matches!(mount_table::mounted_at(&mount_point), Ok(Some(_))) {
        if tell_ready.is_closed() {
            return;
        }
        tokio::time::sleep(LISTEN_INTERVAL).await;
    }
    // Nobody waits any more if the patience was over.
    let _ = tell_ready.send(());
}

#[cfg(test)]
mod tests;
