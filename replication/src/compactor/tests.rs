#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use twinshore_protocol::format::Compression;
use twinshore_storage::bucket::Bucket;
use twinshore_storage::fault::{Faults, FaultyBucket};
use twinshore_storage::memory::MemoryBucket;

use super::*;
use crate::double::{Region, id};
use crate::replicator::ReplicatorOptions;

/// Stores an object of real encoding and returns its content.
fn store(region: &Region, number: u64, length: usize, sides: Sides) -> Vec<u8> {
    let content: Vec<u8> = (0..length)
        .map(|at| (at / 7 + usize::try_from(number).unwrap() * 31).to_le_bytes()[0])
        .collect();
    let encoded = object::encode(&[Bytes::copy_from_slice(&content)], Compression::Lz4);
    for side in sides.iter() {
        region.buckets[side as usize].tamper(&object_key(id(number)), Some(encoded.body.clone()));
    }
    content
}

fn extent(
    inode: u64,
    file_offset: u64,
    number: u64,
    object_offset: u64,
    length: u64,
) -> (InodeNumber, Extent) {
    extent_on(Sides::BOTH, inode, file_offset, number, object_offset, length)
}

fn extent_on(
    present: Sides,
    inode: u64,
    file_offset: u64,
    number: u64,
    object_offset: u64,
    length: u64,
) -> (InodeNumber, Extent) {
    let source = ExtentSource::Object {
        object: id(number),
        object_offset,
        present,
    };
    let extent = Extent {
        file_offset,
        length,
        source,
    };
    (InodeNumber(inode), extent)
}

async fn compactor(region: &Region) -> Compactor {
    let replicator = Replicator::new(region.pair.clone(), ReplicatorOptions::default());
    Compactor::new(region.service.session().await, region.pair.clone(), replicator)
}

fn body_of(bucket: &MemoryBucket, object: ObjectId) -> Option<Vec<u8>> {
    let body = bucket.body(&object_key(object))?;
    let (_, content) = object::decode(&body).unwrap();
    Some(content.to_vec())
}

#[tokio::test(start_paused = true)]
async fn pieces_of_several_objects_become_one_in_both_buckets() {
    let region = Region::new();
    let first = store(&region, 1, 300_000, Sides::BOTH);
    let second = store(&region, 2, 1_000, Sides::BOTH);
    let extents = vec![
        extent(10, 0, 1, 70_000, 4_096),
        extent(10, 4_096, 2, 10, 500),
        extent(11, 0, 1, 0, 66_000),
        extent(12, 7, 1, 299_999, 1),
    ];
    region.service.lock().compaction.push_back(extents.clone());
    let compactor = compactor(&region).await;
    let round = compactor.compact_once().await.unwrap();
    assert_eq!((round.bytes, round.more), (4_096 + 500 + 66_000 + 1, false));
    let state = region.service.lock();
    let record = *state.objects.values().next().unwrap();
    assert_eq!(record.present, Sides::BOTH);
    let east = body_of(&region.buckets[0], record.object).unwrap();
    assert_eq!(Some(&east), body_of(&region.buckets[1], record.object).as_ref());
    let expected = [
        &first[70_000..74_096],
        &second[10..510],
        &first[..66_000],
        &first[299_999..],
    ]
    .concat();
    assert!(east == expected);
    let mut offset = 0;
    for ((inode, old, new), (expected_inode, expected)) in state.repointed.iter().zip(&extents) {
        assert_eq!((inode, old), (expected_inode, expected));
        let source = ExtentSource::Object {
            object: record.object,
            object_offset: offset,
            present: Sides::BOTH,
        };
        assert_eq!(*new, source);
        offset += old.length;
    }
    assert_eq!(state.repointed.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_is_only_here_stays_only_here() {
    let region = Region::new();
    let here = Sides::only(Side::Primary);
    store(&region, 1, 1_000, here);
    region
        .service
        .lock()
        .compaction
        .push_back(vec![extent_on(here, 1, 0, 1, 0, 100)]);
    compactor(&region).await.compact_once().await.unwrap();
    let record = *region.service.lock().objects.values().next().unwrap();
    assert_eq!(
        record.present, here,
        "the copy to the other side is a task as any other"
    );
    assert!(body_of(&region.buckets[1], record.object).is_none());
}

#[tokio::test(start_paused = true)]
async fn while_a_bucket_fails_nothing_is_named_and_nothing_is_left_behind() {
    let region = Region::with(|side, bucket| {
        let faulty = FaultyBucket::new(bucket, 1);
        faulty.set(Faults {
            full: side == Side::Primary,
            ..Faults::default()
        });
        Arc::new(faulty) as Arc<dyn Bucket>
    });
    store(&region, 1, 1_000, Sides::BOTH);
    region
        .service
        .lock()
        .compaction
        .push_back(vec![extent(1, 0, 1, 0, 100)]);
    let compactor = compactor(&region).await;
    let error = compactor.compact_once().await.unwrap_err();
    assert!(
        matches!(
            error,
            CompactError::Store {
                side: Side::Primary,
                ..
            }
        ),
        "{error}"
    );
    let state = region.service.lock();
    assert!(state.objects.is_empty() && state.repointed.is_empty());
    assert_eq!(
        region.buckets[1].keys().len(),
        1,
        "what was stored in the other bucket was taken back"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_left_out_and_the_rest_is_rewritten() {
    let region = Region::new();
    store(&region, 1, 1_000, Sides::BOTH);
    let extents = vec![extent(1, 0, 9, 0, 100), extent(2, 0, 1, 500, 100)];
    region.service.lock().compaction.push_back(extents.clone());
    let round = compactor(&region).await.compact_once().await.unwrap();
    assert_eq!(round.bytes, 100);
    let state = region.service.lock();
    assert_eq!(state.repointed.len(), 1);
    assert_eq!(
        (state.repointed[0].0, &state.repointed[0].1),
        (extents[1].0, &extents[1].1)
    );
}

#[test]
fn neighbours_in_an_object_are_read_together_and_the_rest_apart() {
    let extents = vec![
        extent(1, 0, 1, 0, 4_096),
        extent(1, 4_096, 2, 0, 4_096),
        extent(1, 8_192, 1, 100_000, 4_096),
        extent(1, 12_288, 1, 5_000_000, 4_096),
        extent(1, 16_384, 1, 20_000_000, 20_000_000),
    ];
    let reads: Vec<_> = plan(&extents)
        .into_iter()
        .map(|read| (read.object.number, read.start, read.end, read.extents.len()))
        .collect();
    assert_eq!(
        reads,
        [
            (1, 0, 104_096, 2),
            (1, 5_000_000, 5_004_096, 1),
            (1, 20_000_000, 40_000_000, 1),
            (2, 0, 4_096, 1)
        ]
    );
}
