//! Locks across the mounts: exclusion, blocking, and what happens to a lock whose holder is gone.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use twinshore_testbed::commands::Run;
use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::patience::{Look, wait_for};
use twinshore_testbed::regions::Region;

use crate::context::{Context, ensure};
use crate::record_locks;

/// For a lock that must not be granted: long against a round trip.
const NOT_GRANTED: Duration = Duration::from_millis(700);

/// For a lock that must be granted.
const GRANTED: Duration = Duration::from_secs(20);

/// For the lock of a mount that was killed: until its session has ended.
const SESSION_ENDS: Duration = Duration::from_mins(2);

/// All cases.
pub async fn run(context: &mut Context) -> Result<(), Failure> {
    let paths = Region::BOTH.map(|region| context.path(region, "locked"));
    blocking("flock across the mounts", Duration::from_mins(1), {
        let paths = paths.clone();
        move || exclusion(&paths)
    })
    .await?;
    println!("  flock: exclusive, shared, upgraded, blocking");
    posix_between_processes(context).await?;
    println!("  POSIX locks of ranges between processes");
    let [east, west] = paths.clone();
    blocking(
        "locks of open file descriptions",
        Duration::from_mins(1),
        move || record_locks::descriptions(&east, &west),
    )
    .await?;
    println!("  locks of open file descriptions: exclusive, blocking, gone with the last descriptor");
    let [first, second] =
        ["deadlock-1", "deadlock-2"].map(|name| Region::BOTH.map(|region| context.path(region, name)));
    blocking("a deadlock", Duration::from_mins(1), move || {
        record_locks::deadlock(&first, &second)
    })
    .await?;
    println!("  a deadlock across the mounts: EDEADLK");
    killed_holder(context, &paths).await?;
    println!("  a killed mount's locks are released");
    Ok(())
}

fn lock(file: &File, operation: FlockOperation) -> Result<bool, Failure> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(Failure::io("flock")(error.into())),
    }
}

fn exclusion(paths: &[PathBuf; 2]) -> Result<(), Failure> {
    let open = |path: &PathBuf| -> io::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    };
    let (east, west) = (open(&paths[0]), open(&paths[1]));
    let (east, west) = (
        east.map_err(Failure::io("open"))?,
        west.map_err(Failure::io("open"))?,
    );
    let taken = lock(&east, FlockOperation::LockExclusive)?;
    ensure(taken, || "a free lock is not granted".to_owned())?;
    ensure(!lock(&west, FlockOperation::NonBlockingLockExclusive)?, || {
        "two hold an exclusive lock".to_owned()
    })?;
    ensure(!lock(&west, FlockOperation::NonBlockingLockShared)?, || {
        "shared beside exclusive".to_owned()
    })?;
    lock(&east, FlockOperation::LockShared)?;
    ensure(lock(&west, FlockOperation::NonBlockingLockShared)?, || {
        "two cannot share a lock".to_owned()
    })?;
    ensure(!lock(&east, FlockOperation::NonBlockingLockExclusive)?, || {
        "upgraded beside another".to_owned()
    })?;
    lock(&east, FlockOperation::Unlock)?;
    ensure(lock(&west, FlockOperation::NonBlockingLockExclusive)?, || {
        "not upgraded although alone".to_owned()
    })?;
    // A lock that blocks is granted by push when the holder lets go.
    let (tell, told) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let result = flock(&east, FlockOperation::LockExclusive);
        let _ = tell.send(result.is_ok());
    });
    ensure(told.recv_timeout(NOT_GRANTED).is_err(), || {
        "a blocking lock is granted beside another".to_owned()
    })?;
    // Closing releases as unlocking does.
    drop(west);
    let granted = told.recv_timeout(GRANTED);
    ensure(granted == Ok(true), || {
        format!("a blocking lock is not granted after the release: {granted:?}")
    })?;
    ensure(waiter.join().is_ok(), || "the waiting thread failed".to_owned())
}

/// POSIX locks belong to processes: sqlite3 takes them on ranges of its file.
async fn posix_between_processes(context: &Context) -> Result<(), Failure> {
    let database = |region| context.path(region, "locks.sqlite");
    let sqlite = |region, script: &str| {
        Run::new("sqlite3", Duration::from_secs(30))
            .arguments(["-batch", "-bail"])
            .argument(database(region))
            .argument(script)
    };
    sqlite(Region::East, "CREATE TABLE t (x)").success().await?;
    // While one side holds the write lock, for as long as its shell command takes, the other is refused at once.
    let signal = context.work.join("holder-has-the-lock");
    let script = format!(
        "BEGIN IMMEDIATE; INSERT INTO t VALUES (1);\n.shell touch {}; sleep 4\nCOMMIT;",
        signal.display()
    );
    let script_file = context.work.join("holder.sql");
    std::fs::write(&script_file, script).map_err(Failure::io("write a script"))?;
    let holder = tokio::spawn(sqlite(Region::East, &format!(".read {}", script_file.display())).success());
    wait_for("the holder to have the lock", GRANTED, async || {
        if signal.exists() {
            Look::Done(())
        } else {
            Look::NotYet("it has not".to_owned())
        }
    })
    .await?;
    let refused = sqlite(Region::West, "INSERT INTO t VALUES (2)").output().await?;
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure(!refused.status.success() && complaint.contains("locked"), || {
        format!("west writes while east holds the lock: {complaint}")
    })?;
    match holder.await {
        Ok(result) => drop(result?),
        Err(error) => {
            return Err(Failure::Thread {
                what: "the holder".to_owned(),
                reason: error.to_string(),
            });
        }
    }
    sqlite(Region::West, "INSERT INTO t VALUES (3)").success().await?;
    let count = sqlite(Region::East, "SELECT count(*) FROM t")
        .success()
        .await?
        .text();
    ensure(count == "2", || format!("{count} rows after two inserts"))
}

/// A lock of a mount that was killed goes when its session ends, not before and not never.
async fn killed_holder(context: &mut Context, paths: &[PathBuf; 2]) -> Result<(), Failure> {
    let holder = paths[0].clone();
    let held = blocking("locking in east", GRANTED, move || {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&holder)
            .map_err(Failure::io("open"))?;
        fcntl_lock(&file, FlockOperation::LockExclusive)
            .map_err(|error| Failure::io("lock")(error.into()))?;
        Ok(file)
    })
    .await?;
    context.regions.kill_mount(Region::East).await?;
    let path = paths[1].clone();
    blocking("locking in west", SESSION_ENDS, move || {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(Failure::io("open"))?;
        fcntl_lock(&file, FlockOperation::LockExclusive).map_err(|error| Failure::io("lock")(error.into()))
    })
    .await?;
    drop(held);
    context.regions.start_mount(Region::East).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_local_file_system_excludes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("locked");
        exclusion(&[path.clone(), path]).unwrap();
    }

    #[test]
    fn two_separate_files_do_not() {
        let directory = tempfile::tempdir().unwrap();
        assert!(exclusion(&[directory.path().join("one"), directory.path().join("other")]).is_err());
    }
}
