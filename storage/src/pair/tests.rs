#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use twinshore_protocol::format::Compression;
use twinshore_protocol::{Epoch, ObjectId, Side, Sides};

use super::*;
use crate::fault::{Faults, FaultyBucket};
use crate::health::BreakerState;
use crate::memory::MemoryBucket;
use crate::object::{BLOCK_BYTES, EncodedObject, encode, object_key};

struct World {
    stored: [MemoryBucket; 2],
    faulty: [FaultyBucket; 2],
    pair: BucketPair,
}

const NEAR: Side = Side::Primary;
const FAR: Side = Side::Target;

fn world() -> World {
    world_with(PairOptions::default())
}

fn world_with(options: PairOptions) -> World {
    let stored = [MemoryBucket::new(), MemoryBucket::new()];
    let faulty = [0, 1].map(|n| FaultyBucket::new(Arc::new(stored[n].clone()), n as u64));
    let [primary, target] = faulty
        .clone()
        .map(|bucket| Some(Arc::new(bucket) as Arc<dyn Bucket>));
    World {
        stored,
        faulty,
        pair: BucketPair::new(NEAR, primary, target, options),
    }
}

fn id(number: u64) -> ObjectId {
    ObjectId {
        epoch: Epoch(1),
        number,
    }
}

fn content(length: usize) -> Bytes {
    (0..length)
        .map(|at| (at * 7919 % 253) as u8)
        .collect::<Vec<u8>>()
        .into()
}

fn object(length: usize) -> EncodedObject {
    encode(&[content(length)], Compression::None)
}

impl World {
    fn set(&self, side: Side, change: impl FnOnce(&mut Faults)) {
        self.faulty[side as usize].change(change);
    }

    fn holds(&self, side: Side, id: ObjectId) -> bool {
        self.stored[side as usize].body(&object_key(id)).is_some()
    }

    fn place(&self, side: Side, id: ObjectId, object: &EncodedObject) {
        self.stored[side as usize].tamper(&object_key(id), Some(object.body.clone()));
    }

    fn damage(&self, side: Side, id: ObjectId, at: usize) {
        let mut body = self.stored[side as usize].body(&object_key(id)).unwrap().to_vec();
        body[at] ^= 1;
        self.stored[side as usize].tamper(&object_key(id), Some(body.into()));
    }

    fn requests(&self, side: Side) -> u64 {
        self.faulty[side as usize].counts().requests
    }

    async fn read(
        &self,
        id: ObjectId,
        present: Sides,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<u8>, PairError> {
        let fetched = self.pair.fetch(id, present, range.clone()).await?;
        let bytes = fetched.content;
        let skipped = (range.start - fetched.first_block * BLOCK_BYTES as u64) as usize;
        Ok(bytes[skipped..skipped + (range.end - range.start) as usize].to_vec())
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_is_stored_near_and_read_near() {
    let world = world();
    assert_eq!(world.pair.store(id(1), &object(200_000)).await, Ok(NEAR));
    let read = world
        .read(id(1), Sides::only(NEAR), 70_000..150_000)
        .await
        .unwrap();
    assert_eq!(read, content(200_000)[70_000..150_000]);
    assert_eq!(world.requests(FAR), 0);
    assert!(!world.holds(FAR, id(1)));
}

#[tokio::test(start_paused = true)]
async fn flip_exchanges_near_and_far() {
    let world = world();
    let [primary, target] = world
        .faulty
        .clone()
        .map(|bucket| Some(Arc::new(bucket) as Arc<dyn Bucket>));
    let flipped = BucketPair::new(FAR, primary, target, PairOptions::default());
    assert_eq!(flipped.store(id(1), &object(10)).await, Ok(FAR));
    let fetched = world.pair.fetch(id(1), Sides::only(FAR), 0..10).await.unwrap();
    assert_eq!((fetched.read_from, fetched.near_missing), (FAR, true));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_to_be_only_far_is_asked_from_far_without_a_probe() {
    let world = world();
    world.place(FAR, id(1), &object(100));
    world.read(id(1), Sides::only(FAR), 0..100).await.unwrap();
    assert_eq!((world.requests(NEAR), world.requests(FAR)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_range_of_a_cold_object_is_one_request_if_it_is_near_the_beginning_and_two_if_not_and_one_when_known()
 {
    let world = world();
    let large = object(16 << 20);
    for number in 1..=3 {
        world.place(NEAR, id(number), &large);
    }
    let requests = |before: u64| world.requests(NEAR) - before;
    let before = world.requests(NEAR);
    assert_eq!(
        world.read(id(1), Sides::BOTH, 500_000..504_096).await.unwrap(),
        content(16 << 20)[500_000..504_096]
    );
    assert_eq!(requests(before), 1);
    let before = world.requests(NEAR);
    let (start, end) = (10_000_000, 10_004_096);
    assert_eq!(
        world
            .read(id(2), Sides::BOTH, start as u64..end as u64)
            .await
            .unwrap(),
        content(16 << 20)[start..end]
    );
    assert_eq!(requests(before), 2);
    let before = world.requests(NEAR);
    world
        .read(id(2), Sides::BOTH, 5_000_000..5_004_096)
        .await
        .unwrap();
    assert_eq!(requests(before), 1);
    let before = world.requests(NEAR);
    assert_eq!(
        world.read(id(3), Sides::BOTH, 0..16 << 20).await.unwrap(),
        content(16 << 20)
    );
    assert_eq!(requests(before), 1);
    // No more than the blocks and the header were read.
    assert!(world.pair.counters(NEAR).read_bytes < (16 << 20) + 3_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_block_that_was_read_together_with_much_else_keeps_only_itself_in_memory() {
    let world = world();
    let stored = object(2 << 20);
    world.place(NEAR, id(1), &stored);
    // One request brings the header and all up to the block: more than a MiB.
    let small = world
        .pair
        .fetch(id(1), Sides::BOTH, 900_000..900_001)
        .await
        .unwrap();
    assert!(!stored.body.as_ptr_range().contains(&small.content.as_ptr()));
    let whole = world.pair.fetch(id(1), Sides::BOTH, 0..2 << 20).await.unwrap();
    assert!(
        stored.body.as_ptr_range().contains(&whole.content.as_ptr()),
        "not copied"
    );
}

#[tokio::test(start_paused = true)]
async fn a_header_longer_than_expected_is_read_with_a_request_of_its_own() {
    let world = world();
    // 9,600 blocks: a header of 75 KiB, more than a speculative request brings. Then it, and then the block.
    let blocks = vec![Bytes::from(vec![5; 8 << 20]); 75];
    let large = encode(&blocks, Compression::Lz4);
    world.place(NEAR, id(1), &large);
    assert_eq!(world.read(id(1), Sides::BOTH, 10..20).await.unwrap(), [5; 10]);
    assert_eq!(world.requests(NEAR), 3);
}

#[tokio::test(start_paused = true)]
async fn what_near_lacks_is_read_from_far_and_repaired() {
    let world = world();
    world.place(FAR, id(1), &object(100_000));
    let fetched = world.pair.fetch(id(1), Sides::BOTH, 0..100_000).await.unwrap();
    assert_eq!(
        (fetched.read_from, fetched.near_missing, fetched.near_damaged),
        (FAR, true, false)
    );
    assert_eq!(fetched.content, content(100_000));
    assert_eq!(world.pair.counters(NEAR).missing, 1);
    world.pair.repair(id(1), NEAR).await.unwrap();
    assert_eq!(
        world.stored[0].body(&object_key(id(1))).unwrap(),
        object(100_000).body
    );
    let before = world.requests(FAR);
    world.pair.repair(id(1), NEAR).await.unwrap();
    assert_eq!(world.requests(FAR), before, "what is there is not copied again");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_near_copy_is_read_from_far_and_overwritten_by_a_repair() {
    let world = world();
    for side in Side::BOTH {
        world.place(side, id(1), &object(100_000));
    }
    // In a block, and in the header of another object.
    world.damage(NEAR, id(1), 90_000);
    let fetched = world.pair.fetch(id(1), Sides::BOTH, 0..100_000).await.unwrap();
    assert_eq!(
        (fetched.read_from, fetched.near_missing, fetched.near_damaged),
        (FAR, false, true)
    );
    assert_eq!(fetched.content, content(100_000));
    world.pair.repair(id(1), NEAR).await.unwrap();
    assert_eq!(
        world.stored[0].body(&object_key(id(1))).unwrap(),
        object(100_000).body
    );
    let fetched = world.pair.fetch(id(1), Sides::BOTH, 0..100_000).await.unwrap();
    assert_eq!((fetched.read_from, fetched.near_damaged), (NEAR, false));
}

#[tokio::test(start_paused = true)]
async fn a_copy_cut_short_is_found_out_wherever_it_was_cut() {
    for length in [0, 10, 31, 40, 60, 70_000, 99_000] {
        let world = world();
        world.place(FAR, id(1), &object(100_000));
        world.stored[0].tamper(&object_key(id(1)), Some(object(100_000).body.slice(..length)));
        let fetched = world.pair.fetch(id(1), Sides::BOTH, 0..100_000).await.unwrap();
        assert!(fetched.near_damaged, "{length}");
        assert_eq!(fetched.content, content(100_000), "{length}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_repair_never_copies_a_damaged_source() {
    let world = world();
    world.place(FAR, id(1), &object(100_000));
    world.damage(FAR, id(1), 50_000);
    assert!(matches!(
        world.pair.repair(id(1), NEAR).await,
        Err(PairError::Damaged { .. })
    ));
    assert!(!world.holds(NEAR, id(1)));
    assert_eq!(
        world.pair.repair(id(2), NEAR).await,
        Err(PairError::Missing { object: id(2) })
    );
}

#[tokio::test(start_paused = true)]
async fn missing_and_damaged_are_said_only_after_both_have_answered() {
    let world = world();
    assert_eq!(
        world.pair.fetch(id(1), Sides::BOTH, 0..1).await.unwrap_err(),
        PairError::Missing { object: id(1) }
    );
    world.place(NEAR, id(2), &object(100));
    world.damage(NEAR, id(2), 60);
    assert!(matches!(
        world.pair.fetch(id(2), Sides::BOTH, 0..100).await,
        Err(PairError::Damaged { .. })
    ));
    world.set(FAR, |faults| faults.down = true);
    let missing = world.pair.fetch(id(1), Sides::BOTH, 0..1).await;
    assert!(
        matches!(missing, Err(PairError::Unavailable { .. })),
        "{missing:?}"
    );
    let damaged = world.pair.fetch(id(2), Sides::BOTH, 0..100).await;
    assert!(
        matches!(damaged, Err(PairError::Unavailable { .. })),
        "{damaged:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_shorter_than_metadata_says_is_damage_and_not_zeros() {
    let world = world();
    world.place(NEAR, id(1), &object(100));
    assert!(matches!(
        world.pair.fetch(id(1), Sides::only(NEAR), 0..101).await,
        Err(PairError::Damaged { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn with_near_down_everything_goes_far_at_once_and_comes_back_when_near_is_back() {
    let world = world();
    for side in Side::BOTH {
        world.place(side, id(1), &object(100));
    }
    world.set(NEAR, |faults| faults.down = true);
    let start = Instant::now();
    for number in 10..30 {
        assert_eq!(world.pair.store(id(number), &object(1_000)).await, Ok(FAR));
        assert_eq!(
            world
                .pair
                .fetch(id(1), Sides::BOTH, 0..100)
                .await
                .unwrap()
                .read_from,
            FAR
        );
    }
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(world.pair.health(NEAR).reads, BreakerState::Open);
    assert_eq!(world.pair.health(NEAR).writes, BreakerState::Open);
    assert!(world.pair.health(NEAR).last_error.unwrap().contains("refused"));
    assert!(
        world.requests(NEAR) <= 6,
        "a dead bucket is left alone: {}",
        world.requests(NEAR)
    );

    world.set(NEAR, |faults| faults.down = false);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(world.pair.store(id(40), &object(10)).await, Ok(NEAR));
    assert_eq!(
        world
            .pair
            .fetch(id(1), Sides::BOTH, 0..100)
            .await
            .unwrap()
            .read_from,
        NEAR
    );
    assert!(world.pair.health(NEAR).is_good());
}

#[tokio::test(start_paused = true)]
async fn with_both_down_every_call_ends_by_its_deadline_and_works_if_one_comes_back_before() {
    let world = world();
    world.place(FAR, id(1), &object(100));
    for side in Side::BOTH {
        world.set(side, |faults| faults.down = true);
    }
    let start = Instant::now();
    let stored = world.pair.store(id(2), &object(10)).await;
    assert!(
        matches!(&stored, Err(PairError::Unavailable { what }) if what.contains("primary:") && what.contains("target:"))
    );
    assert!(start.elapsed() <= Duration::from_mins(1), "{:?}", start.elapsed());
    let start = Instant::now();
    assert!(matches!(
        world.pair.fetch(id(1), Sides::BOTH, 0..1).await,
        Err(PairError::Unavailable { .. })
    ));
    assert!(
        start.elapsed() <= Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );

    let small = object(10);
    let storing = world.pair.store(id(3), &small);
    let healing = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        world.set(FAR, |faults| faults.down = false);
    };
    let (stored, ()) = tokio::join!(storing, healing);
    assert_eq!(stored, Ok(FAR));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_near_bucket_costs_a_moment_and_then_nothing() {
    let world = world();
    for side in Side::BOTH {
        world.place(side, id(1), &object(100));
    }
    world.set(NEAR, |faults| faults.hanging = true);
    let mut waits = Vec::new();
    for number in 10..30 {
        let start = Instant::now();
        assert_eq!(world.pair.store(id(number), &object(1_000)).await, Ok(FAR));
        assert_eq!(
            world
                .pair
                .fetch(id(1), Sides::BOTH, 0..100)
                .await
                .unwrap()
                .read_from,
            FAR
        );
        waits.push(start.elapsed());
    }
    assert!(
        waits.iter().all(|wait| *wait <= Duration::from_secs(3)),
        "{waits:?}"
    );
    let fast = waits
        .iter()
        .filter(|wait| **wait < Duration::from_millis(50))
        .count();
    assert!(fast >= 12, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_read_slower_than_the_95th_percentile_is_hedged() {
    let world = world();
    for side in Side::BOTH {
        world.place(side, id(1), &object(100));
        world.set(side, |faults| {
            faults.latency_least = Duration::from_millis(30);
            faults.latency_most = Duration::from_millis(30);
        });
    }
    for _ in 0..40 {
        world.pair.fetch(id(1), Sides::BOTH, 0..100).await.unwrap();
    }
    assert_eq!(world.pair.counters(FAR).hedges, 0);
    world.set(NEAR, |faults| {
        faults.latency_least = Duration::from_millis(900);
        faults.latency_most = Duration::from_millis(900);
    });
    let start = Instant::now();
    let fetched = world.pair.fetch(id(1), Sides::BOTH, 0..100).await.unwrap();
    assert_eq!(fetched.read_from, FAR);
    assert!(
        start.elapsed() <= Duration::from_millis(70),
        "{:?}",
        start.elapsed()
    );
    let counters = world.pair.counters(FAR);
    assert_eq!((counters.hedges, counters.hedges_won), (1, 1));
    // What is known not to be far is not asked there.
    let fetched = world.pair.fetch(id(1), Sides::only(NEAR), 0..100).await.unwrap();
    assert_eq!((fetched.read_from, world.pair.counters(FAR).hedges), (NEAR, 1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_bucket_does_not_double_the_requests() {
    let world = world();
    for side in Side::BOTH {
        world.place(side, id(1), &object(100));
    }
    world.set(NEAR, |faults| {
        faults.latency_least = Duration::from_millis(1_100);
        faults.latency_most = Duration::from_millis(1_100);
    });
    // Concurrent, so that the percentile is not yet known to any.
    let reads = (0..200).map(|_| world.pair.fetch(id(1), Sides::BOTH, 0..100));
    let outcomes = futures::future::join_all(reads).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert!(
        world.pair.counters(FAR).hedges <= 16 + 200 / 20,
        "{:?}",
        world.pair.counters(FAR)
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_near_bucket_is_still_read() {
    let world = world();
    assert_eq!(world.pair.store(id(1), &object(100)).await, Ok(NEAR));
    world.set(NEAR, |faults| faults.full = true);
    for number in 2..10 {
        assert_eq!(world.pair.store(id(number), &object(100)).await, Ok(FAR));
    }
    assert_eq!(world.pair.health(NEAR).writes, BreakerState::Open);
    assert_eq!(
        world
            .pair
            .fetch(id(1), Sides::only(NEAR), 0..100)
            .await
            .unwrap()
            .read_from,
        NEAR
    );
    assert_eq!(world.pair.health(NEAR).reads, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_can_be_exchanged_while_it_is_used() {
    let world = world();
    world.set(NEAR, |faults| faults.denied = true);
    for number in 1..6 {
        assert_eq!(world.pair.store(id(number), &object(100)).await, Ok(FAR));
    }
    assert_eq!(world.pair.health(NEAR).writes, BreakerState::Open);
    world.pair.replace(NEAR, Some(Arc::new(world.stored[0].clone())));
    assert!(world.pair.health(NEAR).is_good());
    assert_eq!(world.pair.store(id(7), &object(100)).await, Ok(NEAR));
    world.pair.replace(NEAR, None);
    assert_eq!(world.pair.store(id(8), &object(100)).await, Ok(FAR));
    let fetched = world.pair.fetch(id(8), Sides::only(FAR), 0..1).await.unwrap();
    assert!(
        !fetched.near_missing,
        "a bucket that does not exist misses nothing"
    );
    world.pair.replace(FAR, None);
    assert!(matches!(
        world.pair.store(id(9), &object(100)).await,
        Err(PairError::Unavailable { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn reads_in_flight_hold_no_more_memory_than_allowed_and_give_it_back() {
    let options = PairOptions {
        read_memory_bytes: 8 << 20,
        ..PairOptions::default()
    };
    let world = world_with(options);
    world.place(NEAR, id(1), &object(4 << 20));
    world.set(NEAR, |faults| {
        faults.latency_least = Duration::from_millis(10);
        faults.latency_most = Duration::from_millis(10);
    });
    let start = Instant::now();
    let reads = (0..8).map(|_| world.pair.fetch(id(1), Sides::only(NEAR), 0..4 << 20));
    let outcomes = futures::future::join_all(reads).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert!(
        start.elapsed() >= Duration::from_millis(80),
        "one at a time: {:?}",
        start.elapsed()
    );
    tokio::task::yield_now().await;
    assert_eq!(world.pair.read_memory_bytes(), (0, 8 << 20));
    // More than there is: it gets all there is, alone.
    world.place(NEAR, id(2), &object(20 << 20));
    assert!(
        world
            .pair
            .fetch(id(2), Sides::only(NEAR), 0..20 << 20)
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn under_random_faults_every_answer_is_right_or_an_error() {
    for seed in 0..20 {
        let world = world();
        for side in Side::BOTH {
            world.set(side, |faults| {
                *faults = Faults {
                    latency_most: Duration::from_millis(300),
                    errors_before_per_mille: 150,
                    errors_after_per_mille: 100,
                    damaged_per_mille: 50,
                    cut_per_mille: 50,
                    ..Faults::default()
                }
            });
        }
        for number in 0..30 {
            let length = (number as usize * 37_813 + seed * 1_001) % 300_000 + 1;
            let side = world.pair.store(id(number), &object(length)).await.unwrap();
            assert!(world.holds(side, id(number)));
            if number % 3 == 0 {
                world.place(side.other(), id(number), &object(length));
            }
            let (start, end) = (length as u64 / 3, length as u64);
            match world.read(id(number), Sides::only(side), start..end).await {
                Ok(read) => assert_eq!(read, content(length)[start as usize..end as usize]),
                Err(PairError::Damaged { .. } | PairError::Unavailable { .. }) => {}
                Err(PairError::Missing { object }) => panic!("{object} was stored"),
            }
        }
    }
}
