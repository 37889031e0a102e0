#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use twinshore_protocol::Epoch;
use twinshore_storage::object::BLOCK_BYTES;

use super::*;

fn object(number: u64) -> ObjectId {
    ObjectId {
        epoch: Epoch(1),
        number,
    }
}

/// So many bytes from the beginning of a block of an object: each block is filled with a number of its own.
fn run(number: u64, first_block: u64, bytes: usize) -> BlockRun {
    let content: Vec<u8> = (0..bytes)
        .map(|at| (number * 31 + first_block + (at / BLOCK_BYTES) as u64) as u8)
        .collect();
    BlockRun {
        first_block,
        content: content.into(),
    }
}

fn cache(limit_bytes: usize) -> (MemoryCache, Arc<CacheCounters>) {
    let counters = Arc::new(CacheCounters::default());
    (MemoryCache::new(limit_bytes, counters.clone()), counters)
}

fn has(cache: &MemoryCache, number: u64, block: u64) -> bool {
    cache.peek(&(object(number), block)).is_some()
}

#[test]
fn a_block_is_found_with_what_follows_it_and_others_are_not() {
    let (cache, counters) = cache(1 << 20);
    let written = run(1, 4, 2 * BLOCK_BYTES + 100);
    cache.insert(object(1), written.clone(), Origin::Fetched);
    assert_eq!(cache.get(&(object(1), 4)), Some(written.content.clone()));
    assert_eq!(
        cache.get(&(object(1), 5)),
        Some(written.content.slice(BLOCK_BYTES..))
    );
    assert_eq!(
        cache.peek(&(object(1), 6)),
        Some(written.content.slice(2 * BLOCK_BYTES..))
    );
    for missing in [(object(1), 3), (object(1), 7), (object(2), 4)] {
        assert_eq!(cache.get(&missing), None);
    }
    let counted = counters.snapshot();
    assert_eq!((counted.memory_hits, counted.memory_misses), (3, 3));
}

#[test]
fn what_is_kept_is_not_copied() {
    let (cache, _) = cache(1 << 20);
    let fetched = run(1, 0, BLOCK_BYTES);
    let place = fetched.content.as_ptr();
    cache.insert(object(1), fetched, Origin::Fetched);
    assert_eq!(cache.get(&(object(1), 0)).unwrap().as_ptr(), place);
}

#[test]
fn nothing_is_kept_with_a_limit_of_zero_and_what_is_larger_than_the_limit_is_passed_over() {
    let (nothing, counters) = cache(0);
    nothing.insert(object(1), run(1, 0, 7), Origin::Fetched);
    assert!(!has(&nothing, 1, 0));
    let (small, _) = cache(1024);
    small.insert(object(1), run(1, 0, 1024), Origin::Fetched);
    assert!(!has(&small, 1, 0));
    assert_eq!(counters.snapshot().memory_bytes, 0);
}

#[test]
fn blocks_that_come_again_in_a_longer_run_are_found_in_it() {
    let (cache, _) = cache(1 << 20);
    cache.insert(object(1), run(1, 1, BLOCK_BYTES), Origin::Fetched);
    let longer = run(1, 0, 3 * BLOCK_BYTES);
    cache.insert(object(1), longer.clone(), Origin::Fetched);
    assert_eq!(
        cache.get(&(object(1), 1)),
        Some(longer.content.slice(BLOCK_BYTES..))
    );
}

#[test]
fn a_scan_larger_than_the_cache_leaves_blocks_that_are_used_again() {
    let (cache, _) = cache(16 << 20);
    for number in 0..16 {
        cache.insert(object(number), run(number, 0, BLOCK_BYTES), Origin::Fetched);
        for _ in 0..2 {
            assert!(has(&cache, number, 0));
        }
    }
    for number in 100..400 {
        cache.insert(object(number), run(number, 0, 4 * BLOCK_BYTES), Origin::Fetched);
        // A reader in order: every block once.
        for block in 0..4 {
            assert!(has(&cache, number, block));
        }
    }
    let kept = (0..16).filter(|number| has(&cache, *number, 0)).count();
    assert_eq!(kept, 16, "of 16 hot blocks survived the scan");
}

#[test]
fn what_was_fetched_ahead_stays_until_it_is_read_beside_a_cache_full_of_other_things() {
    let (cache, _) = cache(32 << 20);
    for number in 0..500 {
        cache.insert(object(number), run(number, 0, BLOCK_BYTES), Origin::Fetched);
        for _ in 0..4 {
            has(&cache, number, 0);
        }
    }
    // A window of three tenths of the cache, far beyond the tenth that new blocks have.
    let window = 10;
    for ahead in 0..100_u64 {
        cache.insert(object(1000 + ahead), run(ahead, 0, 1 << 20), Origin::Fetched);
        if let Some(now) = ahead.checked_sub(window) {
            for block in 0..16 {
                assert!(
                    has(&cache, 1000 + now, block),
                    "block {block} of {now} was dropped unread"
                );
            }
        }
    }
    let kept = (0..500).filter(|number| has(&cache, *number, 0)).count();
    assert!(kept > 250, "only {kept} hot blocks were left");
}

#[test]
fn what_was_fetched_for_a_reader_that_went_away_leaves_in_the_end() {
    let (cache, _) = cache(8 << 20);
    cache.insert(object(1), run(1, 0, 1 << 20), Origin::Fetched);
    for number in 2..100 {
        cache.insert(object(number), run(number, 0, 1 << 20), Origin::Fetched);
    }
    assert!(!has(&cache, 1, 0));
}

#[test]
fn many_threads_at_once_see_only_right_contents_and_keep_the_bound() {
    let limit = 1 << 20;
    let (cache, counters) = cache(limit);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..4000_u64 {
                    let (number, block) = ((round * 7 + thread) % 64, round % 8);
                    if let Some(found) = cache.get(&(object(number), block)) {
                        assert_eq!(found, run(number, block, 4096).content);
                    } else {
                        cache.insert(object(number), run(number, block, 4096), Origin::Fetched);
                    }
                }
            });
        }
    });
    assert!(counters.memory_bytes.load(Ordering::Relaxed) <= limit as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_limit_holds_and_contents_are_right_whatever_is_done(
        operations in prop::collection::vec((0_u64..12, 0_u64..6, 1_u64..4, any::<bool>(), any::<bool>()), 1..200),
    ) {
        let limit = 12 * BLOCK_BYTES;
        let (cache, counters) = cache(limit);
        for (number, block, blocks, is_read, is_written) in operations {
            if is_read {
                if let Some(found) = cache.get(&(object(number), block)) {
                    let expected = run(number, block, found.len()).content;
                    prop_assert_eq!(found, expected);
                }
            } else {
                let origin = if is_written { Origin::Written } else { Origin::Fetched };
                cache.insert(object(number), run(number, block, blocks as usize * BLOCK_BYTES), origin);
            }
            prop_assert!(counters.snapshot().memory_bytes <= limit as u64);
        }
        let state = cache.state.lock().unwrap();
        let held: usize = state.slabs.values().map(Slab::cost_bytes).sum();
        prop_assert_eq!(held, state.small_bytes + state.main_bytes);
        prop_assert_eq!(held as u64, counters.snapshot().memory_bytes);
        prop_assert_eq!(state.slabs.len(), state.small.len() + state.main.len());
        let expected = state.slabs.values().filter(|slab| slab.is_expected && slab.queue == Queue::Small);
        prop_assert_eq!(state.expected_bytes, expected.map(Slab::cost_bytes).sum::<usize>());
        for ((of, block), number) in &state.blocks {
            let slab = &state.slabs[number];
            prop_assert!(slab.object == *of && (slab.run.first_block..slab.run.end_block()).contains(block));
        }
    }
}
