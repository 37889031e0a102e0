//! Programs that write while something is done to the parts below them.
//!
//! They are processes of their own. A process with open files on a mount must not start what the mount depends on: a child closes
//! its copies of them when it becomes another program, and waits for the mount in that `close`.
//!
//! A writer says on its standard output what was acknowledged, a line for each file, and ends when its standard input does: with
//! whoever started it, too.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use twinshore_testbed::failure::{Failure, blocking, make_directory};
use twinshore_testbed::patience::{Look, wait_for};
use twinshore_testbed::regions::Region;

use crate::files::close;

/// Threads of a writer: one closes, one also calls `fsync` before.
const THREADS: u64 = 2;

/// A file that was closed or fsynced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Below the mount point.
    pub path: PathBuf,
    /// What its content is made from.
    pub seed: u64,
    /// Its length.
    pub size_bytes: usize,
}

impl Acknowledged {
    /// The content: different for each file; cheap, and nothing that compresses to nothing.
    pub fn content(&self) -> Vec<u8> {
        let mut state = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..self.size_bytes)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[0]
            })
            .collect()
    }
}

impl fmt::Display for Acknowledged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.seed, self.size_bytes, self.path.display())
    }
}

impl FromStr for Acknowledged {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().ok_or_else(|| line.to_owned());
        let seed = word()?.parse().map_err(|_| line.to_owned())?;
        let size_bytes = word()?.parse().map_err(|_| line.to_owned())?;
        let path = PathBuf::from(word()?);
        Ok(Self {
            path,
            seed,
            size_bytes,
        })
    }
}

/// What a writer is to do; its command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Assignment {
    /// Write below this mount point until the standard input ends.
    #[arg(long = "write-below", value_name = "DIR", hide = true)]
    pub mount_point: Option<PathBuf>,
    /// The directory for a thread, without its number.
    #[arg(long, value_name = "NAME", default_value = "files", hide = true)]
    pub directory: String,
    /// The number of the first file.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide = true)]
    pub first: u64,
}

/// The life of a writer.
pub fn write(
    assignment: &Assignment,
    mount_point: &Path,
    mut until: impl Read + Send + 'static,
    tell: impl Write + Send,
) -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    std::thread::spawn(move || {
        // An error is an end, too.
        let _ = io::copy(&mut until, &mut io::sink());
        stopped.store(true, Ordering::Relaxed);
    });
    let (stop, tell) = (&*stop, &Mutex::new(tell));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let directory = PathBuf::from(format!("{}-{thread}", assignment.directory));
                let first = (assignment.first + thread) << 32;
                scope.spawn(move || write_until(stop, mount_point, &directory, first, thread == 1, tell))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            let end = thread.join();
            end.unwrap_or_else(|_| Err(io::Error::other("a thread of the writer failed")))
        })
    })
}

fn write_until(
    stop: &AtomicBool,
    mount_point: &Path,
    directory: &Path,
    first: u64,
    with_sync: bool,
    tell: &Mutex<impl Write>,
) -> io::Result<()> {
    // Tiny ones ride in the metadata, middle ones share objects, large ones have their own.
    const SIZES: [usize; 5] = [0, 700, 12_000, 90_000, 1_300_000];
    let mut seed = first;
    while !stop.load(Ordering::Relaxed) {
        let size_bytes = SIZES[(seed % 5) as usize];
        let file = Acknowledged {
            path: directory.join(format!("{seed:x}")),
            seed,
            size_bytes,
        };
        let mut handle = File::create_new(mount_point.join(&file.path))?;
        handle.write_all(&file.content())?;
        if with_sync {
            handle.sync_all()?;
        }
        close(handle)?;
        let mut tell = tell.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(tell, "{file}")?;
        tell.flush()?;
        seed += 1;
    }
    Ok(())
}

/// A running writer. Dropping it ends the process: its standard input ends.
struct Writer {
    child: Child,
    until: ChildStdin,
    reader: JoinHandle<()>,
}

/// Writers in some mounts, each a process.
pub struct Writers {
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    writers: Vec<Writer>,
}

impl Writers {
    /// One in each of the given mounts.
    pub async fn start(mounts: &[(Region, PathBuf)], below: &str) -> Result<Self, Failure> {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let mut writers = Vec::new();
        for (index, (region, mount_point)) in mounts.iter().enumerate() {
            let directory = format!("{below}-{region}");
            for thread in 0..THREADS {
                make_directory(&mount_point.join(format!("{directory}-{thread}"))).await?;
            }
            let first = index as u64 * THREADS;
            writers.push(start_writer(mount_point, &directory, first, &acknowledged)?);
        }
        Ok(Self {
            acknowledged,
            writers,
        })
    }

    fn list(&self) -> Vec<Acknowledged> {
        let list = self.acknowledged.lock();
        list.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many more files are acknowledged.
    pub async fn wait_for_more(&self, more: usize, patience: Duration) -> Result<(), Failure> {
        let wanted = self.list().len() + more;
        wait_for("writers to go on", patience, async || {
            let count = self.list().len();
            if count >= wanted {
                Look::Done(())
            } else {
                Look::NotYet(format!("{count} of {wanted} files"))
            }
        })
        .await?;
        Ok(())
    }

    /// Stops them: what was acknowledged, and how each ended.
    pub async fn finish(
        self,
        patience: Duration,
    ) -> Result<(Vec<Acknowledged>, Vec<Result<(), Failure>>), Failure> {
        let writers = self.writers;
        let ends = blocking("the end of the writers", patience, move || {
            writers.into_iter().map(end_of).collect()
        })
        .await?;
        let acknowledged = self.acknowledged.lock();
        let acknowledged = acknowledged.unwrap_or_else(PoisonError::into_inner).clone();
        Ok((acknowledged, ends))
    }
}

fn start_writer(
    mount_point: &Path,
    directory: &str,
    first: u64,
    acknowledged: &Arc<Mutex<Vec<Acknowledged>>>,
) -> Result<Writer, Failure> {
    let failed = || Failure::io("start a writer");
    let mut child = Command::new(std::env::current_exe().map_err(failed())?)
        .arg("--write-below")
        .arg(mount_point)
        .args(["--directory", directory, "--first", &first.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed())?;
    let no_pipe = || Failure::Wrong("a writer has no pipes".to_owned());
    let until = child.stdin.take().ok_or_else(no_pipe)?;
    let output = child.stdout.take().ok_or_else(no_pipe)?;
    let acknowledged = Arc::clone(acknowledged);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Ok(file) = line.parse() {
                let mut list = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                list.push(file);
            }
        }
    });
    Ok(Writer { child, until, reader })
}

/// How a writer ended; an error for those that failed.
fn end_of(writer: Writer) -> Result<Result<(), Failure>, Failure> {
    let Writer { child, until, reader } = writer;
    drop(until);
    let output = child
        .wait_with_output()
        .map_err(Failure::io("wait for a writer"))?;
    if reader.join().is_err() {
        return Err(Failure::Wrong("what a writer said could not be read".to_owned()));
    }
    Ok(if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Failure::Wrong(format!("a writer failed: {said}")))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn file(seed: u64) -> Acknowledged {
        Acknowledged {
            path: PathBuf::from("a directory/file"),
            seed,
            size_bytes: 1000,
        }
    }

    #[test]
    fn contents_differ_by_file_and_are_the_same_each_time() {
        assert_eq!(file(3).content(), file(3).content());
        assert_ne!(file(3).content(), file(4).content());
    }

    #[test]
    fn what_was_acknowledged_survives_being_told() {
        assert_eq!(file(7).to_string().parse(), Ok(file(7)));
        assert!("7 nothing".parse::<Acknowledged>().is_err());
    }

    #[test]
    fn a_writer_goes_on_until_its_input_ends_and_tells_what_it_wrote() {
        let directory = tempfile::tempdir().unwrap();
        for thread in 0..THREADS {
            std::fs::create_dir(directory.path().join(format!("files-{thread}"))).unwrap();
        }
        let (until, keep) = io::pipe().unwrap();
        let (heard, tell) = io::pipe().unwrap();
        let below = directory.path().to_owned();
        let writer = std::thread::spawn(move || {
            let assignment = Assignment {
                mount_point: None,
                directory: "files".to_owned(),
                first: 0,
            };
            write(&assignment, &below, until, tell)
        });
        let mut lines = BufReader::new(heard).lines();
        let mut files: Vec<Acknowledged> = Vec::new();
        files.extend(
            lines
                .by_ref()
                .take(10)
                .map(|line| line.unwrap().parse::<Acknowledged>().unwrap()),
        );
        drop(keep);
        files.extend(lines.map(|line| line.unwrap().parse::<Acknowledged>().unwrap()));
        writer.join().unwrap().unwrap();
        assert!(files.len() >= 10);
        for file in files {
            let found = std::fs::read(directory.path().join(&file.path)).unwrap();
            assert_eq!(found, file.content());
        }
    }
}
