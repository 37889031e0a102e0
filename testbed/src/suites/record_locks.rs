//! `fcntl` record locks as Linux has them, across the mounts: owners that are processes, which are told of a deadlock, and
//! owners that are open file descriptions.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use twinshore_testbed::failure::Failure;

use crate::context::ensure;

/// For a lock that must not be granted: long against a round trip.
const NOT_GRANTED: Duration = Duration::from_millis(700);

/// For a lock that must be granted.
const GRANTED: Duration = Duration::from_secs(20);

/// What a process says when it has its first lock.
const HELD: &str = "held";

/// Who owns a lock, and whether to wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The process, and it waits.
    ProcessWaits,
    /// The open file description.
    Description,
    /// The open file description, and it waits.
    DescriptionWaits,
}

/// A range of bytes: start and length; length 0 means to the end, however long.
type Bytes = (i64, i64);

/// Asks for an exclusive lock.
fn lock(file: &File, how: How, bytes: Bytes) -> io::Result<()> {
    set_lock(file, how, libc::F_WRLCK, bytes)
}

#[allow(unsafe_code)]
fn set_lock(file: &File, how: How, kind: i32, (start, length): Bytes) -> io::Result<()> {
    let command = match how {
        How::ProcessWaits => libc::F_SETLKW,
        How::Description => libc::F_OFD_SETLK,
        How::DescriptionWaits => libc::F_OFD_SETLKW,
    };
    let request = libc::flock {
        l_type: i16::try_from(kind).map_err(io::Error::other)?,
        l_whence: i16::try_from(libc::SEEK_SET).map_err(io::Error::other)?,
        l_start: start,
        l_len: length,
        // Must be 0 for open file descriptions.
        l_pid: 0,
    };
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the kernel only reads the structure during the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const request) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn is_refused(result: &io::Result<()>) -> bool {
    result
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn open(path: &Path) -> Result<File, Failure> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(Failure::io(format!("open {}", path.display())))
}

/// Locks of open file descriptions: they exclude each other within a process and across the mounts, and go with the last
/// descriptor, not with the first.
pub fn descriptions(east: &Path, west: &Path) -> Result<(), Failure> {
    let (holder, neighbour, far) = (open(east)?, open(east)?, open(west)?);
    let system = |what: &'static str| Failure::io(format!("take a lock of an open file description: {what}"));
    lock(&holder, How::Description, (0, 10)).map_err(system("free"))?;
    for (other, place) in [(&neighbour, "beside it"), (&far, "far away")] {
        let result = lock(other, How::Description, (5, 10));
        ensure(is_refused(&result), || {
            format!("two descriptions hold one range, the second {place}: {result:?}")
        })?;
    }
    lock(&far, How::Description, (10, 5)).map_err(system("another range"))?;
    let duplicate = holder
        .try_clone()
        .map_err(Failure::io("duplicate a descriptor"))?;
    drop(holder);
    let result = lock(&neighbour, How::Description, (0, 1));
    ensure(is_refused(&result), || {
        format!("the lock went with the first of two descriptors: {result:?}")
    })?;
    let (tell, told) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        // The test may have given up.
        let _ = tell.send(lock(&far, How::DescriptionWaits, (0, 1)));
    });
    ensure(told.recv_timeout(NOT_GRANTED).is_err(), || {
        "a description that waits has the lock beside another".to_owned()
    })?;
    drop(duplicate);
    let granted = told.recv_timeout(GRANTED);
    ensure(matches!(granted, Ok(Ok(()))), || {
        format!("the lock did not go with the last descriptor: {granted:?}")
    })?;
    ensure(waiter.join().is_ok(), || "the waiting thread failed".to_owned())
}

/// Two processes, one in each region, each with a lock that the other wants: one is told of the deadlock, the other gets its
/// lock.
pub fn deadlock(first: &[PathBuf; 2], second: &[PathBuf; 2]) -> Result<(), Failure> {
    for path in first.iter().chain(second) {
        open(path)?;
    }
    let mut east = Locker::start(&first[0], &second[0])?;
    let mut west = Locker::start(&second[1], &first[1])?;
    let mut ends = [east.go_on()?, west.go_on()?];
    for (end, locker) in ends.iter_mut().zip([&mut east, &mut west]) {
        if end.is_none() {
            *end = locker.answer(GRANTED);
        }
    }
    ends.sort_unstable();
    ensure(ends == [Some(0), Some(libc::EDEADLK)], || {
        format!("two processes that wait for each other are answered {ends:?}, not 0 and EDEADLK")
    })
}

/// A process that runs [`lock_two`].
struct Locker {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Locker {
    /// Starts it and waits until it has its first lock.
    fn start(first: &Path, second: &Path) -> Result<Self, Failure> {
        let start = || "start a process that locks";
        let mut child = Command::new(std::env::current_exe().map_err(Failure::io(start()))?)
            .arg("--lock-two")
            .args([first, second])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Failure::io(start()))?;
        let (tell, lines) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if tell.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let locker = Self { child, lines };
        let said = locker.lines.recv_timeout(GRANTED);
        ensure(said.as_deref() == Ok(HELD), || {
            format!("a process does not get a free lock: {said:?}")
        })?;
        Ok(locker)
    }

    /// Has it wait for its second lock. Its answer, if it comes at once.
    fn go_on(&mut self) -> Result<Option<i32>, Failure> {
        if let Some(input) = &mut self.child.stdin {
            input
                .write_all(b"go on\n")
                .map_err(Failure::io("tell a process to go on"))?;
        }
        Ok(self.answer(NOT_GRANTED))
    }

    fn answer(&self, patience: Duration) -> Option<i32> {
        self.lines.recv_timeout(patience).ok()?.parse().ok()
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        // It may have ended, and nothing else can be done about it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process: locks the first file, says so, waits for a line, waits for the second, says what the kernel answered.
pub fn lock_two(first: &Path, second: &Path) -> ExitCode {
    let work = || -> io::Result<i32> {
        let open = |path: &Path| File::options().read(true).write(true).open(path);
        let (first, second) = (open(first)?, open(second)?);
        lock(&first, How::ProcessWaits, (0, 0))?;
        println!("{HELD}");
        io::stdin().read_line(&mut String::new())?;
        Ok(match lock(&second, How::ProcessWaits, (0, 0)) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(-1),
        })
    };
    match work() {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_local_file_system_has_locks_of_open_file_descriptions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("locked");
        descriptions(&path, &path).unwrap();
    }

    #[test]
    fn two_separate_files_do_not_exclude() {
        let directory = tempfile::tempdir().unwrap();
        assert!(descriptions(&directory.path().join("one"), &directory.path().join("other")).is_err());
    }
}
