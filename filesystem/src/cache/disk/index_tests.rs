#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use twinshore_protocol::{Epoch, ObjectId};

use super::*;

fn record(block: u64) -> Record {
    let object = ObjectId {
        epoch: Epoch(1),
        number: 1,
    };
    Record {
        key: (object, block),
        content_offset: block * 100,
        content_bytes: 100,
        checksum: 0,
    }
}

fn segment() -> Arc<Segment> {
    let directory = tempfile::tempdir().unwrap();
    Arc::new(Segment::create(&directory.path().join("segment")).unwrap())
}

#[test]
fn the_oldest_segment_goes_and_what_was_read_gets_a_second_chance() {
    let mut index = Index::default();
    index.add_segment(SegmentNumber(1), segment(), (0..4).map(record).collect(), 400);
    index.add_segment(SegmentNumber(2), segment(), (4..6).map(record).collect(), 200);
    assert!(index.find(&record(1).key).is_some());
    assert!(index.find(&record(2).key).is_some());
    // Half a segment may be carried on: of the two only one fits.
    let victim = index.take_oldest(None, 150).unwrap();
    assert_eq!((victim.number, victim.file_bytes), (SegmentNumber(1), 400));
    assert_eq!((victim.worthy, victim.unread), (vec![record(1)], 3));
    assert!(!index.contains(&record(1).key));
    assert!(index.contains(&record(5).key));
    assert_eq!(index.file_bytes(), 200);
}

#[test]
fn the_segment_that_is_being_written_is_never_the_victim() {
    let mut index = Index::default();
    index.add_segment(SegmentNumber(7), segment(), Vec::new(), 0);
    assert!(index.take_oldest(Some(SegmentNumber(7)), 0).is_none());
    assert!(index.take_oldest(None, 0).is_some());
}

#[test]
fn a_damaged_copy_is_forgotten_and_a_newer_one_is_not() {
    let mut index = Index::default();
    let newer = Record {
        content_offset: 5000,
        ..record(1)
    };
    index.add_segment(SegmentNumber(1), segment(), vec![record(1)], 100);
    index.add_segment(SegmentNumber(2), segment(), vec![newer], 100);
    index.forget(&record(1));
    assert!(index.contains(&record(1).key));
    // The old segment no longer owns the block, so it takes nothing with it.
    assert_eq!(index.take_oldest(None, 1000).unwrap().unread, 0);
    index.forget(&newer);
    assert!(!index.contains(&record(1).key));
}
