#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

fn key(block: u64) -> BlockKey {
    (
        ObjectId {
            epoch: Epoch(3),
            number: 9,
        },
        block,
    )
}

fn content(block: u64) -> Vec<u8> {
    (0..1000 + block)
        .map(|byte| u8::try_from((byte * 7 + block) % 251).unwrap())
        .collect()
}

/// A segment of some blocks, and where it ends.
fn written(path: &Path, blocks: u64) -> (Segment, Vec<Record>, u64) {
    let segment = Segment::create(path).unwrap();
    let mut batch = Batch::new(0);
    for block in 0..blocks {
        batch.push(key(block), content(block).into());
    }
    let records = segment.write(&batch).unwrap();
    (segment, records, batch.len_bytes())
}

#[test]
fn what_was_written_is_found_again_sealed_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("segment");
    let (segment, records, end) = written(&path, 5);
    let (_, found, length) = Segment::open(&path).unwrap();
    assert_eq!((found, length), (records.clone(), end));
    let table_bytes = segment.seal(&records, end).unwrap();
    let (sealed, found, length) = Segment::open(&path).unwrap();
    assert_eq!((&found, length), (&records, end + table_bytes));
    for (block, record) in (0..).zip(&found) {
        assert_eq!(sealed.read(record).unwrap().unwrap(), content(block));
    }
}

#[test]
fn a_file_cut_anywhere_keeps_the_records_before_the_cut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("segment");
    let (segment, records, end) = written(&path, 3);
    let sealed_end = end + segment.seal(&records, end).unwrap();
    for cut in (0..sealed_end).step_by(13) {
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(cut)
            .unwrap();
        let (opened, found, _) = Segment::open(&path).unwrap();
        let whole = records
            .iter()
            .filter(|record| record.content_offset + u64::from(record.content_bytes) <= cut)
            .count();
        assert_eq!(found, records[..whole], "cut at {cut}");
        for record in &found {
            assert!(opened.read(record).unwrap().is_some());
        }
        let (segment, records, end) = written(&path, 3);
        segment.seal(&records, end).unwrap();
    }
}

#[test]
fn a_flipped_bit_anywhere_never_returns_wrong_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("segment");
    let (segment, records, end) = written(&path, 3);
    segment.seal(&records, end).unwrap();
    let good = std::fs::read(&path).unwrap();
    for position in (0..good.len()).step_by(11) {
        let mut bad = good.clone();
        bad[position] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let (opened, found, _) = Segment::open(&path).unwrap();
        for record in found {
            assert_eq!(record.key.0.number, 9);
            if let Some(read) = opened.read(&record).unwrap() {
                assert_eq!(read, content(record.key.1), "flipped at {position}");
            }
        }
    }
}
