//! Programs that go on running when this one has ended.
//!
//! States of a record: *none* (nothing was started), *alive*, *dead* (the record is there, the process is not). A record names a process by its number and the
//! time of its start: after a restart of the machine, or when the number is given to somebody else, a record is dead and
//! its number is never signalled.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::{Failure, make_directory, write_file};
use crate::patience::{Look, wait_for};

/// A killed process is gone when the kernel has torn its namespaces down: pods' mounts and links among them.
const DEATH_PATIENCE: Duration = Duration::from_mins(1);

/// Debian has some of the programs where only root looks.
pub const PROGRAM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process, which may be dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    /// In clock ticks since the machine started.
    started: u64,
}

impl Process {
    /// The process that a number names now.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = state_and_start(&stat)?;
        (state != "Z").then_some(Self { pid, started })
    }

    /// Its number.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// Whether it runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Kills it and waits until it is gone.
    pub fn kill(self, name: &str) -> Result<(), Failure> {
        if !self.is_alive() {
            return Ok(());
        }
        if let Some(pid) = Pid::from_raw(self.pid) {
            match kill_process(pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => return Err(Failure::system(format!("kill {name}"))(errno)),
            }
        }
        wait_for(&format!("{name} to be gone"), DEATH_PATIENCE, || {
            Look::at(!self.is_alive(), format!("process {} is still there", self.pid))
        })?;
        Ok(())
    }

    /// Its first child: what `unshare --fork` has started.
    pub fn first_child(self) -> Option<i32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// What a record says.
    pub fn recorded(record: &Path) -> Result<Option<Self>, Failure> {
        let text = match fs::read_to_string(record) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::file("read", record)(error)),
        };
        let mut numbers = text.split_whitespace();
        let process = (|| {
            Some(Self {
                pid: numbers.next()?.parse().ok()?,
                started: numbers.next()?.parse().ok()?,
            })
        })();
        // A record is written at once after the start; a torn one is of a machine that stopped at that moment.
        Ok(process)
    }

    /// The process that a record names, if it runs.
    pub fn alive(record: &Path) -> Result<Option<Self>, Failure> {
        Ok(Self::recorded(record)?.filter(|process| process.is_alive()))
    }
}

/// State and time of start from `/proc/PID/stat`. The name of the program, in parentheses, may contain anything.
fn state_and_start(stat: &str) -> Option<(&str, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    // The state is the third field, the start the twenty-second.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Starts a program that outlives this one, in a session of its own, and records it.
pub fn start(name: &str, command: &Command, log: &Path, record: &Path) -> Result<Process, Failure> {
    if let Some(parent) = log.parent() {
        make_directory(parent)?;
    }
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .map_err(Failure::file("open", log))?;
    let errors = file.try_clone().map_err(Failure::file("open", log))?;
    // `setsid` replaces itself by the program, as it does not lead a group: the number stays, and no terminal that closes ends it.
    let mut detached = Command::new("setsid");
    detached.arg(command.get_program()).args(command.get_args());
    // Nothing of whoever brings the lab up leaks into it.
    detached
        .env_clear()
        .env("PATH", PROGRAM_PATH)
        .env("HOME", "/root");
    for (variable, value) in command.get_envs() {
        if let Some(value) = value {
            detached.env(variable, value);
        }
    }
    let child = detached
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(Failure::io(format!("start {name}")))?;
    let pid = i32::try_from(child.id()).map_err(|_| Failure::wrong("a process number is too large"))?;
    let process = Process::of(pid)
        .ok_or_else(|| Failure::wrong(format!("{name} ended at once; see {}", log.display())))?;
    write_file(record, format!("{} {}\n", process.pid, process.started))?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_program_whose_name_looks_like_fields_is_read_right() {
        let stat = "77 (a) R (b) S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(state_and_start(stat), Some(("S", 4711)));
    }

    #[test]
    fn a_record_of_a_number_that_somebody_else_has_now_is_dead() {
        let directory = tempfile::tempdir().unwrap();
        let record = directory.path().join("record");
        let me = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        write_file(&record, format!("{} {}\n", me.pid, me.started + 1)).unwrap();
        assert!(Process::recorded(&record).unwrap().is_some());
        assert_eq!(Process::alive(&record).unwrap(), None);
    }
}
