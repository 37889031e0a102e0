#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use twinshore_protocol::{ObjectId, Side};
use twinshore_storage::object::object_key;

use super::*;
use crate::double::Region;

fn inline(inode: u64, file_offset: u64, content: &str) -> (InodeNumber, Extent) {
    let bytes = Bytes::copy_from_slice(content.as_bytes());
    let extent = Extent {
        file_offset,
        length: bytes.len() as u64,
        source: ExtentSource::Inline(bytes),
    };
    (InodeNumber(inode), extent)
}

/// What a file's extent reads as after it was repointed.
fn read(region: &Region, source: &ExtentSource, length: u64) -> Bytes {
    let ExtentSource::Object {
        object,
        object_offset,
        present,
    } = source
    else {
        panic!("not an object")
    };
    assert_eq!(*present, Sides::only(Side::Primary));
    let body = region.buckets[0].body(&object_key(*object)).unwrap();
    let (_, content) = object::decode(&body).unwrap();
    Bytes::copy_from_slice(
        &content[usize::try_from(*object_offset).unwrap()..][..usize::try_from(length).unwrap()],
    )
}

#[tokio::test(start_paused = true)]
async fn inline_extents_of_many_files_become_one_object() {
    let region = Region::new();
    let extents = vec![
        inline(10, 0, "first"),
        inline(11, 4096, "second file"),
        inline(10, 100, "3"),
    ];
    region.service.lock().inline.clone_from(&extents);
    let packer = Packer::new(region.service.session().await, region.pair.clone());
    assert_eq!(packer.pack_once().await.unwrap(), 17);
    assert_eq!(packer.pack_once().await.unwrap(), 0);
    let state = region.service.lock();
    assert_eq!(state.objects.len(), 1);
    assert_eq!(state.repointed.len(), 3);
    for ((inode, old, new), (expected_inode, expected)) in state.repointed.iter().zip(&extents) {
        assert_eq!((inode, old), (expected_inode, expected));
        assert_eq!(
            ExtentSource::Inline(read(&region, new, old.length)),
            expected.source
        );
    }
    drop(state);
    let record = *region.service.lock().objects.values().next().unwrap();
    let body = region.buckets[0].body(&object_key(record.object)).unwrap();
    assert_eq!(
        (record.stored_bytes, record.checksum),
        (body.len() as u64, crc32c::crc32c(&body))
    );
}

#[tokio::test(start_paused = true)]
async fn more_than_a_message_carries_is_packed_in_several_rounds() {
    let region = Region::new();
    let content = "x".repeat(16 << 10);
    region.service.lock().inline = (0..400).map(|inode| inline(inode, 0, &content)).collect();
    let packer = Packer::new(region.service.session().await, region.pair.clone());
    let mut sizes = Vec::new();
    loop {
        match packer.pack_once().await.unwrap() {
            0 => break,
            bytes => sizes.push(bytes),
        }
    }
    assert_eq!(sizes.iter().sum::<u64>(), 400 << 14);
    assert!(
        sizes.iter().all(|bytes| *bytes <= PACK_BYTES) && sizes.len() == 3,
        "{sizes:?}"
    );
    let names: Vec<ObjectId> = region.service.lock().objects.keys().copied().collect();
    assert_eq!(names.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn packing_goes_on_by_itself_and_survives_a_failing_bucket() {
    let region = Region::new();
    region.pair.replace(Side::Primary, None);
    region.pair.replace(Side::Target, None);
    region.service.lock().inline = vec![inline(1, 0, "abc")];
    let packer = Packer::new(region.service.session().await, region.pair.clone());
    let running = tokio::spawn(async move { packer.run().await });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(region.service.lock().inline.len(), 1);
    region.pair.replace(
        Side::Primary,
        Some(std::sync::Arc::new(region.buckets[0].clone())),
    );
    region
        .service
        .until("packing", |state| state.inline.is_empty())
        .await;
    region.service.lock().inline = vec![inline(2, 0, "later")];
    region
        .service
        .until("packing", |state| state.inline.is_empty())
        .await;
    running.abort();
}
