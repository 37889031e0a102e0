//! The programs that work while the mount's process is replaced, as threads of one process of their own: a process with open files on a mount
//! must not start what the mount depends on.
//!
//! Each thread knows what it wrote and what names there are, and ends with an error at the first difference. In the end each says what it left.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::regions::Region;

use crate::context::ensure;
use crate::files::close;

/// Threads that count under a lock.
const COUNTERS: u64 = 3;

/// Entries of the directory that is listed again and again.
const LISTED: usize = 300;

/// The command line of the process.
#[derive(Clone, Debug, clap::Args)]
pub struct Work {
    /// Work below this mount point until the standard input ends.
    #[arg(long = "work-below", value_name = "DIR", hide = true)]
    pub work_below: Option<PathBuf>,
    /// What the threads do is made from this.
    #[arg(long = "work-seed", value_name = "NUMBER", default_value_t = 0, hide = true)]
    pub work_seed: u64,
}

/// What a thread left: the digest of a file, or how many entries a directory has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    path: PathBuf,
    what: String,
}

impl Left {
    /// Is it what is there?
    pub fn check(&self, mount_point: &Path, region: Region) -> Result<(), Failure> {
        let path = mount_point.join(&self.path);
        let found = look(&path).map_err(Failure::io(format!("look at {} in {region}", path.display())))?;
        ensure(found == self.what, || {
            format!(
                "{} in {region} is {found}, and was left as {}",
                path.display(),
                self.what
            )
        })
    }
}

fn look(path: &Path) -> io::Result<String> {
    if path.is_dir() {
        return Ok(format!("{} entries", fs::read_dir(path)?.count()));
    }
    Ok(digest(&fs::read(path)?))
}

fn digest(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    let head: [u8; 8] = std::array::from_fn(|at| digest[at]);
    format!("{} bytes {:016x}", content.len(), u64::from_be_bytes(head))
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

/// Says which step failed.
fn at<T>(what: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{what}: {error}")))
}

/// Writes at the end of a file, and reads it from the beginning.
fn append(stop: &AtomicBool, path: &Path, mut random: StdRng) -> io::Result<()> {
    let mut expected = Vec::new();
    let file = at(
        "create",
        OpenOptions::new()
            .create_new(true)
            .read(true)
            .append(true)
            .open(path),
    )?;
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        rounds += 1;
        let mut record = vec![0; random.random_range(1..20_000)];
        random.fill_bytes(&mut record);
        at("append", (&file).write_all(&record))?;
        expected.extend_from_slice(&record);
        if random.random_range(0..8) == 0 {
            at("fsync", file.sync_all())?;
        }
        if rounds % 32 == 0 {
            let found = at("read back", fs::read(path))?;
            if found != expected {
                return Err(wrong(differences("appended", &expected, &found)));
            }
        }
        if expected.len() > 3 << 20 {
            at("cut", file.set_len(1000))?;
            expected.truncate(1000);
        }
    }
    at("close", close(file))
}

fn differences(what: &str, expected: &[u8], found: &[u8]) -> String {
    let first = expected.iter().zip(found).position(|(one, other)| one != other);
    format!(
        "{what}: {} bytes are there instead of {}, the first other byte is at {first:?}",
        found.len(),
        expected.len()
    )
}

/// Overwrites parts of a file through one descriptor, reads parts through another.
fn overwrite(stop: &AtomicBool, path: &Path, mut random: StdRng, keep_name: bool) -> io::Result<()> {
    const SIZE: usize = 3 << 20;
    let mut expected = vec![0; SIZE];
    let file = OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .open(path);
    let file = at("create", file)?;
    at("make long", file.set_len(SIZE as u64))?;
    let reader = at("open again", File::open(path))?;
    if !keep_name {
        at("unlink", fs::remove_file(path))?;
    }
    while !stop.load(Ordering::Relaxed) {
        let longest = [100, 5000, 300_000][random.random_range(0..3)];
        let length = random.random_range(1..longest);
        let offset = random.random_range(0..SIZE - length);
        let range = offset..offset + length;
        if random.random() {
            random.fill_bytes(&mut expected[range.clone()]);
            at("write", file.write_all_at(&expected[range], offset as u64))?;
        } else {
            let mut found = vec![0; length];
            at("read", reader.read_exact_at(&mut found, offset as u64))?;
            if found != expected[range] {
                return Err(wrong(differences(
                    &format!("overwritten at {offset}"),
                    &expected[offset..offset + length],
                    &found,
                )));
            }
        }
        if random.random_range(0..40) == 0 {
            at("fsync", file.sync_all())?;
        }
    }
    at("close", close(file))
}

/// Makes, moves and removes names, each exactly once.
fn names(stop: &AtomicBool, directory: &Path, mut random: StdRng) -> io::Result<()> {
    let mut there: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    at("mkdir", fs::create_dir(directory))?;
    let mut next = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        next += 1;
        let chosen = there
            .keys()
            .nth(random.random_range(0..there.len().max(1)))
            .cloned();
        match (random.random_range(0..10), chosen) {
            (0..=4, _) | (_, None) => {
                let name = format!("n{next}");
                let path = directory.join(&name);
                let file = at("create a new name", File::create_new(&path))?;
                let mut content = vec![0; random.random_range(0..3000)];
                random.fill_bytes(&mut content);
                at("write", (&file).write_all(&content))?;
                at("close", close(file))?;
                there.insert(name, content);
            }
            (5 | 6, Some(name)) => {
                at("unlink", fs::remove_file(directory.join(&name)))?;
                there.remove(&name);
            }
            (7, Some(name)) => {
                let new = format!("r{next}");
                at("rename", fs::rename(directory.join(&name), directory.join(&new)))?;
                let content = there.remove(&name).unwrap_or_default();
                there.insert(new, content);
            }
            (8, Some(name)) => {
                let new = format!("l{next}");
                at("link", fs::hard_link(directory.join(&name), directory.join(&new)))?;
                let content = there.get(&name).cloned().unwrap_or_default();
                there.insert(new, content);
            }
            (_, Some(name)) => {
                let below = directory.join(format!("d{next}"));
                at("mkdir", fs::create_dir(&below))?;
                at(
                    "symlink",
                    std::os::unix::fs::symlink("nowhere", below.join("link")),
                )?;
                at("unlink the link", fs::remove_file(below.join("link")))?;
                at("rmdir", fs::remove_dir(&below))?;
                let found = at("read", fs::read(directory.join(&name)))?;
                if Some(&found) != there.get(&name) {
                    return Err(wrong(format!("{name} has another content")));
                }
            }
        }
        if next.is_multiple_of(100) {
            let mut found = Vec::new();
            for entry in at("list", fs::read_dir(directory))? {
                found.push(at("list", entry)?.file_name().to_string_lossy().into_owned());
            }
            found.sort_unstable();
            if !found.iter().eq(there.keys()) {
                let lost: Vec<_> = there.keys().filter(|name| !found.contains(name)).collect();
                let new: Vec<_> = found.iter().filter(|name| !there.contains_key(*name)).collect();
                return Err(wrong(format!("names were lost: {lost:?}, or came: {new:?}")));
            }
        }
        if there.len() > 300 {
            for name in there.keys().take(200).cloned().collect::<Vec<_>>() {
                at("unlink", fs::remove_file(directory.join(&name)))?;
                there.remove(&name);
            }
        }
    }
    Ok(())
}

/// Counts in a file under a lock. Two at the same time would lose a count.
fn count(stop: &AtomicBool, path: &Path, counted: &Mutex<u64>) -> io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path);
    let file = at("open", file)?;
    while !stop.load(Ordering::Relaxed) {
        at(
            "lock",
            flock(&file, FlockOperation::LockExclusive).map_err(io::Error::from),
        )?;
        let mut bytes = [0; 8];
        let length = at("read", file.read_at(&mut bytes, 0))?;
        let before = if length == 0 { 0 } else { u64::from_le_bytes(bytes) };
        {
            let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
            if before != *counted {
                return Err(wrong(format!("{before} stands there, {} were counted", *counted)));
            }
            *counted += 1;
        }
        at("write", file.write_all_at(&(before + 1).to_le_bytes(), 0))?;
        at(
            "unlock",
            flock(&file, FlockOperation::Unlock).map_err(io::Error::from),
        )?;
    }
    at("close", close(file))
}

/// Lists a directory that does not change, slowly.
fn list(stop: &AtomicBool, directory: &Path) -> io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let mut count = 0;
        for entry in at("open the directory", fs::read_dir(directory))? {
            at("list", entry)?;
            count += 1;
            if count % 200 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if count != LISTED {
            return Err(wrong(format!("{count} entries of {LISTED}")));
        }
    }
    Ok(())
}

/// The life of the process.
pub fn work(mount_point: &Path, seed: u64, mut until: impl Read + Send + 'static) -> io::Result<()> {
    let listed = mount_point.join("listed");
    fs::create_dir(&listed)?;
    for number in 0..LISTED {
        File::create_new(listed.join(format!("a file with number {number}")))?;
    }
    println!("started");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    std::thread::spawn(move || {
        // An error is an end, too.
        let _ = io::copy(&mut until, &mut io::sink());
        stopped.store(true, Ordering::Relaxed);
    });
    let (stop, counted) = (&*stop, &Mutex::new(0));
    let path = |name: &str| mount_point.join(name);
    let random = |number: u64| StdRng::seed_from_u64(seed.wrapping_add(number));
    // Who finds something wrong stops all.
    let heard = |result: io::Result<()>| result.inspect_err(|_| stop.store(true, Ordering::Relaxed));
    std::thread::scope(|scope| {
        let mut threads = vec![
            (
                "append",
                scope.spawn(|| heard(append(stop, &path("appended"), random(1)))),
            ),
            (
                "overwrite",
                scope.spawn(|| heard(overwrite(stop, &path("overwritten"), random(2), true))),
            ),
            (
                "unlinked",
                scope.spawn(|| heard(overwrite(stop, &path("unlinked"), random(3), false))),
            ),
            (
                "names",
                scope.spawn(|| heard(names(stop, &path("names"), random(4)))),
            ),
            (
                "more names",
                scope.spawn(|| heard(names(stop, &path("names-2"), random(5)))),
            ),
            ("list", scope.spawn(|| heard(list(stop, &path("listed"))))),
        ];
        for _ in 0..COUNTERS {
            threads.push((
                "count",
                scope.spawn(|| heard(count(stop, &path("counted"), counted))),
            ));
        }
        let mut result = Ok(());
        for (name, thread) in threads {
            let end = thread.join().unwrap_or_else(|_| Err(wrong("it panicked")));
            if let Err(error) = at(name, end) {
                eprintln!("{error}");
                result = Err(error);
            }
        }
        result
    })?;
    let counted = *counted.lock().unwrap_or_else(PoisonError::into_inner);
    if fs::read(path("counted"))? != counted.to_le_bytes() {
        return Err(wrong("the last count is not there"));
    }
    for name in ["appended", "overwritten", "counted", "names", "names-2", "listed"] {
        println!("left {name}\t{}", look(&path(name))?);
    }
    Ok(())
}

/// The process.
pub struct Programs {
    child: Mutex<Option<Child>>,
    lines: Option<BufReader<std::process::ChildStdout>>,
}

impl Programs {
    /// Starts it, and waits until it works.
    pub async fn start(mount_point: &Path, seed: u64) -> Result<Self, Failure> {
        let failed = || Failure::io("start the programs");
        let mut child = Command::new(std::env::current_exe().map_err(failed())?)
            .arg("--work-below")
            .arg(mount_point)
            .args(["--work-seed", &seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed())?;
        let output = child.stdout.take();
        let output = output.ok_or_else(|| Failure::Wrong("the programs have no output".to_owned()))?;
        let mut lines = BufReader::new(output);
        let lines = blocking("the start of the programs", Duration::from_mins(2), move || {
            let mut line = String::new();
            lines.read_line(&mut line).map_err(failed())?;
            ensure(line == "started\n", || format!("the programs say `{line}`"))?;
            Ok(lines)
        })
        .await?;
        Ok(Self {
            child: Mutex::new(Some(child)),
            lines: Some(lines),
        })
    }

    /// Fails if they have ended.
    pub fn check(&self) -> Result<(), Failure> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = child.as_mut() else {
            return Ok(());
        };
        match child.try_wait().map_err(Failure::io("look at the programs"))? {
            None => Ok(()),
            Some(status) => {
                let mut said = String::new();
                if let Some(mut errors) = child.stderr.take() {
                    // What cannot be read is not shown.
                    let _ = errors.read_to_string(&mut said);
                }
                Err(Failure::Wrong(format!(
                    "the programs ended ({status}): {}",
                    said.trim()
                )))
            }
        }
    }

    /// Has them end, and tells what they left.
    pub async fn finish(mut self, patience: Duration) -> Result<Vec<Left>, Failure> {
        let began = Instant::now();
        let child = self
            .child
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (Some(mut child), Some(lines)) = (child, self.lines.take()) else {
            return Err(Failure::Wrong("the programs have ended".to_owned()));
        };
        let left = blocking("the end of the programs", patience, move || {
            drop(child.stdin.take());
            let mut left = Vec::new();
            for line in lines.lines() {
                let line = line.map_err(Failure::io("hear what the programs left"))?;
                if let Some((path, what)) = line.strip_prefix("left ").and_then(|rest| rest.split_once('\t'))
                {
                    left.push(Left {
                        path: path.into(),
                        what: what.to_owned(),
                    });
                }
            }
            let output = child
                .wait_with_output()
                .map_err(Failure::io("wait for the programs"))?;
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            ensure(output.status.success(), || format!("the programs failed: {said}"))?;
            Ok(left)
        })
        .await?;
        println!("  the programs ended within {} s", began.elapsed().as_secs());
        ensure(!left.is_empty(), || "the programs left nothing".to_owned())?;
        Ok(left)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        if let Ok(Some(child)) = self.child.get_mut() {
            // It may have ended, and nothing else can be done about it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_programs_find_nothing_wrong_with_a_local_file_system_and_tell_what_they_left() {
        let directory = tempfile::tempdir().unwrap();
        let (until, keep) = io::pipe().unwrap();
        let below = directory.path().to_owned();
        let worker = std::thread::spawn(move || work(&below, 1, until));
        std::thread::sleep(Duration::from_millis(300));
        drop(keep);
        worker.join().unwrap().unwrap();
        let left = Left {
            path: "listed".into(),
            what: format!("{LISTED} entries"),
        };
        left.check(directory.path(), Region::East).unwrap();
    }
}
