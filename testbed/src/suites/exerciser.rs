//! Random operations on one file through both mounts in turn, against a model: what fsx does, with every operation on the other
//! side of the line than the one before (close to open: each opens, works, closes).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rustix::fs::FallocateFlags;
use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::regions::Region;

use crate::context::Context;

const SEEDS: [u64; 3] = [3, 14, 159];
const OPERATIONS: u32 = 700;
const SIZE_MAX: usize = 600 << 10;
const LENGTH_MAX: usize = 150 << 10;

/// Runs each seed on a file of its own.
pub async fn both_mounts_in_turn(context: &mut Context) -> Result<(), Failure> {
    for seed in SEEDS {
        let paths = Region::BOTH.map(|region| context.path(region, &format!("turns-{seed}")));
        blocking(
            "random operations from both sides",
            Duration::from_secs(100),
            move || exercise(&paths, seed),
        )
        .await?;
        println!("  seed {seed}: {OPERATIONS} operations");
    }
    Ok(())
}

fn exercise(paths: &[PathBuf; 2], seed: u64) -> Result<(), Failure> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut model: Vec<u8> = Vec::new();
    File::create(&paths[0]).map_err(Failure::io("create the file"))?;
    let mut before = String::new();
    for number in 0..OPERATIONS {
        // Mostly in turn, sometimes twice on the same side.
        let side = if random.random_ratio(1, 5) {
            0
        } else {
            number as usize % 2
        };
        let what = operate(&paths[side], &mut model, &mut random).map_err(Failure::io(format!(
            "do operation {number} of seed {seed} on side {side}"
        )))?;
        let check = &paths[1 - side];
        let found = read_all(check).map_err(Failure::io(format!(
            "read after operation {number} of seed {seed}"
        )))?;
        if found != model {
            let first = found
                .iter()
                .zip(&model)
                .position(|(found, wanted)| found != wanted);
            return Err(Failure::Wrong(format!(
                "seed {seed}, operation {number}: after {what} on side {side} (before it: {before}) the other side reads {} bytes, \
                 {} expected, first difference {first:?}",
                found.len(),
                model.len()
            )));
        }
        before = what;
    }
    Ok(())
}

/// One operation on the file and on the model; what it was.
fn operate(path: &Path, model: &mut Vec<u8>, random: &mut StdRng) -> io::Result<String> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let offset = random.random_range(0..SIZE_MAX - LENGTH_MAX);
    let length = random.random_range(1..LENGTH_MAX);
    let end = offset + length;
    let what = match random.random_range(0..10) {
        0..=4 => {
            let mut content = vec![0; length];
            random.fill_bytes(&mut content);
            file.write_all_at(&content, offset as u64)?;
            model.resize(model.len().max(end), 0);
            model[offset..end].copy_from_slice(&content);
            if random.random() {
                file.sync_all()?;
            }
            format!("write {offset}+{length}")
        }
        5 | 6 => {
            let size = random.random_range(0..SIZE_MAX);
            file.set_len(size as u64)?;
            model.resize(size, 0);
            format!("truncate to {size}")
        }
        7 | 8 => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, offset as u64, length as u64)?;
            let size = model.len();
            model[offset.min(size)..end.min(size)].fill(0);
            format!("punch {offset}+{length}")
        }
        _ => {
            // Twice the same small write through one open file, to cross inline data and buffers.
            file.write_all_at(b"small", offset as u64)?;
            file.write_all_at(b"tiny", offset as u64 + 2)?;
            model.resize(model.len().max(offset + 6), 0);
            model[offset..offset + 6].copy_from_slice(b"smtiny");
            format!("two small writes at {offset}")
        }
    };
    Ok(what)
}

fn read_all(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut content = vec![0; size];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_local_file_system_passes() {
        // In memory: local disks need not know how to punch holes.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("file");
        exercise(&[path.clone(), path], 7).unwrap();
    }
}
