#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use twinshore_protocol::Epoch;

use super::*;

fn key(number: u64, block: u64) -> BlockKey {
    (
        ObjectId {
            epoch: Epoch(1),
            number,
        },
        block,
    )
}

fn block(key: BlockKey, bytes: usize) -> Bytes {
    #[allow(clippy::cast_possible_truncation)]
    let seed = (key.0.number * 31 + key.1) as u8;
    Bytes::from(vec![seed; bytes])
}

fn cache(limit_bytes: usize) -> (MemoryCache, Arc<CacheCounters>) {
    let counters = Arc::new(CacheCounters::default());
    (MemoryCache::new(limit_bytes, counters.clone()), counters)
}

#[test]
fn a_block_that_was_taken_in_is_found_and_others_are_not() {
    let (cache, counters) = cache(1 << 20);
    cache.insert(key(1, 0), &Bytes::from_static(b"content"));
    assert_eq!(cache.get(&key(1, 0)), Some(Bytes::from_static(b"content")));
    assert_eq!(cache.get(&key(1, 1)), None);
    assert_eq!(cache.peek(&key(2, 0)), None);
    let counted = counters.snapshot();
    assert_eq!((counted.memory_hits, counted.memory_misses), (1, 1));
}

#[test]
fn nothing_is_kept_with_a_limit_of_zero_and_a_block_larger_than_a_shard_is_passed_over() {
    let (nothing, counters) = cache(0);
    nothing.insert(key(1, 0), &Bytes::from_static(b"content"));
    assert_eq!(nothing.get(&key(1, 0)), None);
    let (small, _) = cache(SHARDS * 1024);
    small.insert(key(1, 0), &Bytes::from(vec![0; 1024]));
    assert_eq!(small.get(&key(1, 0)), None);
    assert_eq!(counters.snapshot().memory_bytes, 0);
}

#[test]
fn a_kept_block_does_not_keep_the_buffer_that_it_was_a_part_of() {
    let (cache, _) = cache(1 << 20);
    let fetched = Bytes::from(vec![7; 1 << 16]);
    cache.insert(key(1, 0), &fetched.slice(0..100));
    assert!(fetched.is_unique());
}

#[test]
fn a_scan_larger_than_the_cache_leaves_blocks_that_are_used_again() {
    let (cache, _) = cache(4 << 20);
    let hot: Vec<BlockKey> = (0..16).map(|number| key(1, number)).collect();
    for key in &hot {
        cache.insert(*key, &block(*key, 16 << 10));
        cache.get(key);
    }
    for number in 0..4096 {
        let key = key(2, number);
        cache.insert(key, &block(key, 16 << 10));
    }
    let kept = hot.iter().filter(|key| cache.get(key).is_some()).count();
    assert!(kept >= 12, "only {kept} of 16 hot blocks survived the scan");
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
                    let key = key((round * 7 + thread) % 64, round % 8);
                    if let Some(found) = cache.get(&key) {
                        assert_eq!(found, block(key, 4096));
                    } else {
                        cache.insert(key, &block(key, 4096));
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
        operations in prop::collection::vec((0_u64..40, 0_u64..4, 1_usize..3000, any::<bool>()), 1..400),
    ) {
        let limit = 64 << 10;
        let (cache, counters) = cache(limit);
        let mut sizes = HashMap::new();
        for (number, number_in_object, bytes, is_read) in operations {
            let key = key(number, number_in_object);
            let bytes = *sizes.entry(key).or_insert(bytes);
            if is_read {
                if let Some(found) = cache.get(&key) {
                    prop_assert_eq!(found, block(key, bytes));
                }
            } else {
                cache.insert(key, &block(key, bytes));
            }
            prop_assert!(counters.snapshot().memory_bytes <= limit as u64);
        }
        for shard in &cache.shards {
            let shard = shard.lock().unwrap();
            let held: usize = shard.entries.values().map(Entry::cost_bytes).sum();
            prop_assert_eq!(held, shard.small_bytes + shard.main_bytes);
            prop_assert_eq!(shard.entries.len(), shard.small.len() + shard.main.len());
        }
    }
}
