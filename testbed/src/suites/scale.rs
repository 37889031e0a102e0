//! Much: entries in a directory, bytes through a mount.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use twinshore_testbed::failure::{Failure, blocking, make_directory};
use twinshore_testbed::progress::{bytes, rate};
use twinshore_testbed::regions::Region;

use crate::context::{Context, ensure};

/// Entries of the large directory.
const ENTRIES: usize = 200_000;
/// Programs that fill it.
const WRITERS: usize = 16;
/// The bytes to write.
const TOTAL_BYTES: u64 = 10 << 30;
/// In files of this size.
const FILE_BYTES: u64 = 512 << 20;
/// What a mount may use: its buffers (300 MiB by default) and as much again for all else.
const MEMORY_MAX_BYTES: u64 = 700 << 20;

/// Fills a directory, lists it from the other side while it changes, and removes it.
pub async fn large_directory(context: &mut Context) -> Result<(), Failure> {
    let here = context.path(Region::East, "large");
    let there = context.path(Region::West, "large");
    make_directory(&here).await?;
    let started = Instant::now();
    let directory = here.clone();
    blocking("filling the directory", Duration::from_mins(9), move || {
        let fill = |writer: usize| {
            (writer..ENTRIES)
                .step_by(WRITERS)
                .try_for_each(|number| File::create(directory.join(number.to_string())).map(drop))
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..WRITERS)
                .map(|writer| scope.spawn(move || fill(writer)))
                .collect();
            threads
                .into_iter()
                .map(std::thread::ScopedJoinHandle::join)
                .collect()
        });
        for result in results {
            let result = result.map_err(|_| Failure::Wrong("a writer failed".to_owned()))?;
            result.map_err(Failure::io("fill the directory"))?;
        }
        Ok(())
    })
    .await?;
    println!(
        "  {ENTRIES} entries created, {}",
        rate(ENTRIES, started.elapsed())
    );
    // While it is listed in west, every tenth entry is removed and others come in east: an entry that stays must be listed once.
    let started = Instant::now();
    let directory = here.clone();
    let changes = tokio::task::spawn_blocking(move || {
        for number in (0..ENTRIES / 20).map(|number| number * 10) {
            fs::remove_file(directory.join(number.to_string()))?;
            File::create(directory.join(format!("new-{number}")))?;
        }
        std::io::Result::Ok(())
    });
    let listed = blocking("listing while it changes", Duration::from_mins(2), move || {
        let mut seen = HashSet::new();
        for entry in fs::read_dir(&there).map_err(Failure::io("list the directory"))? {
            let name = entry
                .map_err(Failure::io("list the directory"))?
                .file_name()
                .to_string_lossy()
                .into_owned();
            ensure(seen.insert(name.clone()), || format!("{name} is listed twice"))?;
        }
        let missing = (0..ENTRIES)
            .filter(|number| number % 10 != 0)
            .find(|number| !seen.contains(&number.to_string()));
        ensure(missing.is_none(), || {
            format!("{missing:?} is there all the time and is not listed")
        })?;
        Ok(seen.len())
    })
    .await?;
    println!(
        "  {listed} entries listed from west while east changes it, {}",
        rate(listed, started.elapsed())
    );
    match changes.await {
        Ok(result) => result.map_err(Failure::io("change the directory"))?,
        Err(error) => {
            return Err(Failure::Thread {
                what: "changes".to_owned(),
                reason: error.to_string(),
            });
        }
    }
    let started = Instant::now();
    let there = context.path(Region::West, "large");
    blocking("removing the directory", Duration::from_mins(9), move || {
        fs::remove_dir_all(&here).map_err(Failure::io("remove the directory"))?;
        ensure(!there.exists(), || {
            "the removed directory is seen in west".to_owned()
        })
    })
    .await?;
    println!("  removed, {}", rate(ENTRIES, started.elapsed()));
    Ok(())
}

/// Writes much, reads some of it back from the other side; the mount's memory stays within its bound.
pub async fn ten_gigabytes(context: &mut Context) -> Result<(), Failure> {
    let started = Instant::now();
    let files = TOTAL_BYTES / FILE_BYTES;
    for number in 0..files {
        let path = context.path(Region::East, "much");
        blocking("writing much", Duration::from_secs(200), move || {
            let mut file = File::create(&path).map_err(Failure::io("create a file"))?;
            for offset in (0..FILE_BYTES).step_by(PIECE) {
                file.write_all(&piece(number, offset))
                    .map_err(Failure::io("write"))?;
            }
            file.sync_all().map_err(Failure::io("fsync"))
        })
        .await?;
    }
    println!(
        "  {} written in {:.0} s",
        bytes(TOTAL_BYTES),
        started.elapsed().as_secs_f64()
    );
    for region in Region::BOTH {
        if region == Region::West {
            let path = context.path(region, "much");
            blocking("reading much", Duration::from_secs(200), move || {
                let mut file = File::open(&path).map_err(Failure::io("open"))?;
                let mut found = vec![0; PIECE];
                for offset in (0..FILE_BYTES).step_by(PIECE) {
                    file.read_exact(&mut found).map_err(Failure::io("read"))?;
                    ensure(found == piece(files - 1, offset), || {
                        format!("wrong bytes at {offset}")
                    })?;
                }
                Ok(())
            })
            .await?;
        }
        let peak = peak_memory_bytes(context, region)?;
        println!("  the mount in {region} used at most {}", bytes(peak));
        ensure(peak <= MEMORY_MAX_BYTES, || {
            format!(
                "the mount in {region} used {}, more than {}",
                bytes(peak),
                bytes(MEMORY_MAX_BYTES)
            )
        })?;
    }
    Ok(())
}

const PIECE: usize = 1 << 20;

/// Bytes that tell where they belong.
fn piece(file: u64, offset: u64) -> Vec<u8> {
    let mut piece = Vec::with_capacity(PIECE);
    let mut number = (file << 40) | offset;
    while piece.len() < PIECE {
        piece.extend(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        number += 8;
    }
    piece
}

/// `VmHWM` of the mount's process (proc(5)).
fn peak_memory_bytes(context: &Context, region: Region) -> Result<u64, Failure> {
    let Some(mount) = context.regions.mount_process(region) else {
        return Err(Failure::Wrong(format!("the mount in {region} is not running")));
    };
    let path = format!("/proc/{}/status", mount.process_id());
    let status = fs::read_to_string(&path).map_err(Failure::io(format!("read {path}")))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse::<u64>().ok());
    kibibytes
        .map(|count| count << 10)
        .ok_or_else(|| Failure::Wrong(format!("{path} has no VmHWM")))
}
