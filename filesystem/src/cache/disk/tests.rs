#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Instant;

use twinshore_protocol::{Epoch, ObjectId};

use super::*;
use crate::cache::CacheSnapshot;

const BLOCK_BYTES: usize = 64 << 10;

fn key(number: u64) -> BlockKey {
    (
        ObjectId {
            epoch: Epoch(1),
            number: number / 16,
        },
        number % 16,
    )
}

fn content(number: u64) -> Bytes {
    let mut bytes = vec![u8::try_from(number % 251).unwrap(); BLOCK_BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Bytes::from(bytes)
}

fn options(directory: &Path, limit_bytes: u64) -> DiskCacheOptions {
    DiskCacheOptions {
        directory: directory.to_owned(),
        volume: VolumeId([7; 16]),
        limit_bytes,
    }
}

fn open(directory: &Path, limit_bytes: u64) -> (DiskCache, Arc<CacheCounters>) {
    let counters = Arc::new(CacheCounters::default());
    (
        DiskCache::open(&options(directory, limit_bytes), counters.clone()).unwrap(),
        counters,
    )
}

fn insert(cache: &DiskCache, number: u64) {
    let (object, first_block) = key(number);
    let content = content(number);
    cache.insert(object, &BlockRun { first_block, content });
}

async fn get(cache: &DiskCache, number: u64) -> Option<Bytes> {
    let (object, block) = key(number);
    let mut runs = cache.get(object, block..block + 1).await;
    assert!(runs.len() <= 1 && runs.iter().all(|run| run.first_block == block));
    runs.pop().map(|run| run.content)
}

/// Waits until a condition holds, at most a minute.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_mins(1),
            "{what} did not come true"
        );
        std::thread::yield_now();
    }
}

fn all_written(cache: &DiskCache) -> bool {
    cache.shared.writes().pending.is_empty()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let slot = directory.join(VolumeId([7; 16]).to_string()).join("slot-0");
    let mut files: Vec<_> = fs::read_dir(slot)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "blocks"));
    files.sort();
    files
}

#[tokio::test]
async fn blocks_are_found_while_they_are_written_and_after_and_by_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, counters) = open(directory.path(), 64 << 20);
    for number in 0..100 {
        insert(&cache, number);
        assert_eq!(get(&cache, number).await, Some(content(number)));
    }
    wait_until("writing", || all_written(&cache));
    for number in 0..100 {
        assert_eq!(get(&cache, number).await, Some(content(number)));
    }
    assert_eq!(get(&cache, 100).await, None);
    assert!(counters.snapshot().disk_read_bytes >= 100 * BLOCK_BYTES as u64);
    cache.close();
    let (cache, _) = open(directory.path(), 64 << 20);
    wait_until("loading", || cache.shared.index().file_bytes() > 0);
    for number in 0..100 {
        assert_eq!(get(&cache, number).await, Some(content(number)));
    }
}

/// Every block of an object, and where the runs end.
async fn get_all(cache: &DiskCache, object: u64) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    for run in cache.get(key(object * 16).0, 0..16).await {
        for (block, found) in (run.first_block..).zip(run.content.chunks(BLOCK_BYTES)) {
            assert_eq!(found, content(object * 16 + block));
        }
        runs.push((run.first_block, run.end_block()));
    }
    runs
}

#[tokio::test]
async fn blocks_that_were_written_together_are_read_together() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, counters) = open(directory.path(), 64 << 20);
    let whole: Vec<u8> = (0..16).flat_map(content).collect();
    let run = BlockRun {
        first_block: 0,
        content: whole.into(),
    };
    cache.insert(key(0).0, &run);
    wait_until("writing", || all_written(&cache));
    assert_eq!(get_all(&cache, 0).await, [(0, 16)]);
    for number in [16, 17, 18, 20, 21] {
        insert(&cache, number);
    }
    wait_until("writing", || all_written(&cache));
    assert_eq!(get_all(&cache, 1).await, [(0, 3), (4, 6)]);
    assert_eq!(counters.snapshot().disk_misses, 11);
}

#[tokio::test]
async fn damage_in_the_middle_of_a_run_is_left_out_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path(), 64 << 20);
    for number in 0..16 {
        insert(&cache, number);
    }
    cache.close();
    let file = files(directory.path()).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    for block in [0, 5, 6, 15] {
        bytes[block * (BLOCK_BYTES + segment::HEADER_BYTES) + segment::HEADER_BYTES + 77] ^= 1;
    }
    fs::write(&file, bytes).unwrap();
    let (cache, counters) = open(directory.path(), 64 << 20);
    wait_until("loading", || cache.shared.index().contains(&key(15)));
    assert_eq!(get_all(&cache, 0).await, [(1, 5), (7, 15)]);
    assert_eq!(counters.snapshot().disk_damaged_blocks, 4);
    assert_eq!(get_all(&cache, 0).await, [(1, 5), (7, 15)]);
    assert_eq!(counters.snapshot().disk_damaged_blocks, 4, "they are forgotten");
}

#[tokio::test]
async fn the_files_stay_within_the_limit_and_blocks_that_are_read_outlive_others() {
    let directory = tempfile::tempdir().unwrap();
    let limit = 16 << 20;
    let (cache, counters) = open(directory.path(), limit);
    for number in 0..1024 {
        insert(&cache, number);
        wait_until("writing", || all_written(&cache));
        // Block 0 is read again and again, the others never.
        assert_eq!(get(&cache, 0).await, Some(content(0)));
        let bytes: u64 = files(directory.path())
            .iter()
            .filter_map(|path| path.metadata().ok())
            .map(|meta| meta.len())
            .sum();
        assert!(bytes <= limit + BATCH_BYTES, "{bytes} bytes of files");
    }
    let CacheSnapshot {
        disk_evictions,
        disk_bytes,
        ..
    } = counters.snapshot();
    assert!(disk_evictions > 500 && disk_bytes <= limit);
    assert_eq!(get(&cache, 1).await, None);
    assert_eq!(get(&cache, 1023).await, Some(content(1023)));
}

#[tokio::test]
async fn damage_is_a_miss_and_the_block_can_be_taken_in_again() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path(), 64 << 20);
    for number in 0..8 {
        insert(&cache, number);
    }
    cache.close();
    let file = files(directory.path()).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    // In the middle of the content of block 2.
    let position = 2 * (BLOCK_BYTES + segment::HEADER_BYTES) + 5000;
    bytes[position] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (cache, counters) = open(directory.path(), 64 << 20);
    wait_until("loading", || cache.shared.index().contains(&key(7)));
    assert_eq!(get(&cache, 2).await, None);
    assert_eq!(get(&cache, 3).await, Some(content(3)));
    assert_eq!(counters.snapshot().disk_damaged_blocks, 1);
    insert(&cache, 2);
    wait_until("writing", || all_written(&cache));
    assert_eq!(get(&cache, 2).await, Some(content(2)));
}

#[tokio::test]
async fn after_a_kill_the_records_before_the_torn_one_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path(), 64 << 20);
    for number in 0..8 {
        insert(&cache, number);
    }
    cache.close();
    // Neither table nor trailer, and the last record torn: what a killed process leaves.
    let file = files(directory.path()).remove(0);
    let torn = 8 * (BLOCK_BYTES + segment::HEADER_BYTES) - 1;
    fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(torn as u64)
        .unwrap();
    // A file that never was one.
    fs::write(file.with_file_name("00000000000000ff.blocks"), b"garbage").unwrap();
    let (cache, counters) = open(directory.path(), 64 << 20);
    wait_until("loading", || cache.shared.index().contains(&key(6)));
    assert_eq!(get(&cache, 6).await, Some(content(6)));
    assert_eq!(get(&cache, 7).await, None);
    wait_until("removal of garbage", || files(directory.path()).len() == 1);
    assert_eq!(counters.snapshot().disk_off, 0);
}

#[tokio::test]
async fn a_failing_disk_switches_the_cache_off_and_reads_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, counters) = open(directory.path(), 16 << 20);
    insert(&cache, 0);
    wait_until("writing", || all_written(&cache));
    // The directory vanishes under the cache: the next segment cannot be made.
    fs::remove_dir_all(directory.path()).unwrap();
    for number in 1..1000 {
        insert(&cache, number);
        if counters.snapshot().disk_off == 1 {
            break;
        }
        wait_until("writing", || all_written(&cache));
    }
    wait_until("switching off", || counters.snapshot().disk_off == 1);
    assert_eq!(get(&cache, 0).await, None);
    insert(&cache, 5);
    assert_eq!(get(&cache, 5).await, None);
}

#[tokio::test]
async fn two_processes_share_a_directory_and_never_a_slot() {
    let directory = tempfile::tempdir().unwrap();
    let (first, _) = open(directory.path(), 16 << 20);
    let (second, _) = open(directory.path(), 16 << 20);
    insert(&first, 1);
    insert(&second, 2);
    assert_eq!(get(&first, 2).await, None);
    assert_eq!(get(&second, 2).await, Some(content(2)));
    first.close();
    let (third, _) = open(directory.path(), 16 << 20);
    wait_until("loading", || third.shared.index().contains(&key(1)));
    assert_eq!(get(&third, 1).await, Some(content(1)));
}

#[test]
fn a_limit_too_small_to_be_of_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let result = DiskCache::open(&options(directory.path(), 1 << 20), Arc::default());
    assert!(matches!(result, Err(DiskCacheError::TooSmall { given }) if given == 1 << 20));
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let result = DiskCache::open(&options(&file, 16 << 20), Arc::default());
    assert!(matches!(result, Err(DiskCacheError::Directory { .. })));
}

#[test]
fn many_readers_and_writers_at_once_see_only_right_contents() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path(), 16 << 20);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    let cache = Arc::new(cache);
    let tasks: Vec<_> = (0..8_u64)
        .map(|task| {
            let cache = cache.clone();
            runtime.spawn(async move {
                for round in 0..300 {
                    let number = (round * 13 + task * 7) % 500;
                    match get(&cache, number).await {
                        Some(found) => assert_eq!(found, content(number)),
                        None => insert(&cache, number),
                    }
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
}
