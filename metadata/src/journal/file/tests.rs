#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use rustix::io::Errno;

use super::*;
use crate::journal::contract::{VOLUME, fill, read_all, record_after};
use crate::journal::segment::segment_name;

const OPTIONS: FileJournalOptions = FileJournalOptions {
    segment_bytes: 16 << 10,
    maximum_bytes: None,
};

fn create(directory: &Path) -> (FileJournal, Tail) {
    let mut journal = FileJournal::create(directory, VOLUME, &Tail::EMPTY, OPTIONS).unwrap();
    let tail = journal.acquire().unwrap();
    (journal, tail)
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A journal of `count` records of `size_bytes`; its tail, and where the last frame is in its first segment.
fn filled(directory: &Path, count: u64, size_bytes: usize) -> (Tail, Tail, std::ops::Range<u64>) {
    let (mut journal, mut tail) = create(directory);
    fill(&mut journal, &mut tail, count - 1, size_bytes);
    let (before, start) = (tail, journal.end.offset());
    fill(&mut journal, &mut tail, 1, size_bytes);
    (before, tail, start..journal.end.offset())
}

#[test]
fn a_tail_torn_at_any_byte_is_discarded_and_appending_goes_on() {
    let original = tempfile::tempdir().unwrap();
    let (before, _, frame) = filled(original.path(), 3, 150);
    let name = segment_name(Position(1));
    let content = std::fs::read(original.path().join(&name)).unwrap();
    let record_end = frame.start + 32 + record_after(&before, 150).0.len() as u64;
    for kept in frame.start..record_end {
        for garbage in [0_u8, 0xa5] {
            let directory = tempfile::tempdir().unwrap();
            copy(original.path(), directory.path());
            let file = File::options()
                .write(true)
                .open(directory.path().join(&name))
                .unwrap();
            let torn = usize::try_from(frame.end - kept).unwrap();
            // A byte that happens to be what was to be written there is not torn off.
            let same = content[usize::try_from(kept).unwrap()..usize::try_from(record_end).unwrap()]
                .iter()
                .all(|b| *b == garbage);
            file.write_all_at(&vec![garbage; torn], kept).unwrap();
            let mut journal = FileJournal::open(directory.path(), OPTIONS).unwrap();
            if same {
                continue;
            }
            assert_eq!(journal.tail().unwrap(), before, "kept {kept}");
            let mut tail = journal.acquire().unwrap();
            fill(&mut journal, &mut tail, 2, 70);
            drop(journal);
            let mut journal = FileJournal::open(directory.path(), OPTIONS).unwrap();
            assert_eq!(read_all(&mut journal, Position(1), 1 << 20).len(), 4);
        }
    }
}

#[test]
fn every_flipped_bit_in_the_middle_is_damage() {
    let original = tempfile::tempdir().unwrap();
    let (_, _, last) = filled(original.path(), 4, 40);
    let name = segment_name(Position(1));
    let content = std::fs::read(original.path().join(&name)).unwrap();
    // From the first byte of the first frame to the last of the last but one; padding carries nothing.
    let mut noticed = 0;
    for byte in 4096..usize::try_from(last.start).unwrap() {
        let path = original.path().join(&name);
        let mut damaged = content.clone();
        damaged[byte] ^= 1 << (byte % 8);
        std::fs::write(&path, &damaged).unwrap();
        match FileJournal::open(original.path(), OPTIONS) {
            Err(JournalError::Damaged(_)) => noticed += 1,
            Ok(mut journal) => {
                // Four bytes after the header's checksum and the padding up to a multiple of 64.
                assert_eq!(
                    read_all(&mut journal, Position(1), 1 << 20).len(),
                    4,
                    "byte {byte}"
                );
                assert_eq!(content[byte], 0, "byte {byte}");
            }
            Err(error) => panic!("byte {byte}: {error}"),
        }
    }
    assert!(noticed > 3 * 150, "{noticed}");
}

/// When it is opened, or when its records are read.
fn is_damaged(directory: &Path) -> bool {
    let read = FileJournal::open(directory, OPTIONS)
        .and_then(|mut journal| {
            journal
                .read(Position(1), usize::MAX >> 1)
                .map(|records| (journal, records))
        })
        .and_then(|(mut journal, mut records)| {
            let tail = journal.tail()?;
            while (records.len() as u64) < tail.position.0 {
                records.extend(journal.read(Position(records.len() as u64 + 1), 1 << 20)?);
            }
            Ok(())
        });
    matches!(read, Err(JournalError::Damaged(_)))
}

#[test]
fn a_segment_that_is_missing_or_belongs_elsewhere_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, mut tail) = create(directory.path());
    fill(&mut journal, &mut tail, 60, 1000);
    let firsts = segments_in(directory.path()).unwrap();
    assert!(firsts.len() > 3);
    drop(journal);
    let second = directory.path().join(segment_name(firsts[1]));
    let kept = std::fs::read(&second).unwrap();
    std::fs::remove_file(&second).unwrap();
    assert!(is_damaged(directory.path()));
    std::fs::write(
        &second,
        std::fs::read(directory.path().join(segment_name(firsts[2]))).unwrap(),
    )
    .unwrap();
    assert!(is_damaged(directory.path()));
    // The last record of a segment that another one follows is not a torn tail.
    let mut damaged = kept.clone();
    let place = damaged.iter().rposition(|byte| *byte != 0).unwrap();
    damaged[place] ^= 1;
    std::fs::write(&second, &damaged).unwrap();
    assert!(is_damaged(directory.path()));
    std::fs::write(&second, &kept).unwrap();
    assert_eq!(
        FileJournal::open(directory.path(), OPTIONS)
            .unwrap()
            .tail()
            .unwrap(),
        tail
    );
}

#[test]
fn segments_are_used_again_and_their_old_records_are_never_seen() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, mut tail) = create(directory.path());
    for _ in 0..30 {
        fill(&mut journal, &mut tail, 20, 1000);
        journal.trim(tail.position).unwrap();
        let files = std::fs::read_dir(directory.path()).unwrap().count();
        assert!(files <= 8, "{files} files");
    }
    drop(journal);
    let mut journal = FileJournal::open(directory.path(), OPTIONS).unwrap();
    assert_eq!(journal.tail().unwrap(), tail);
    let first = match journal.read(Position(1), 1) {
        Err(JournalError::Trimmed { first }) => first,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        read_all(&mut journal, first, 1 << 20).last().unwrap().position,
        tail.position
    );
}

#[test]
fn a_reader_on_another_thread_sees_a_prefix_and_never_damage() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, mut tail) = create(directory.path());
    let reader = journal.reader();
    let follower = std::thread::spawn(move || {
        let mut next = Position(1);
        while next <= Position(400) {
            match reader.read(next, 5000) {
                Ok(records) => {
                    for record in records {
                        assert_eq!(RecordHeader::verified(&record).unwrap().position, next);
                        next = next.next();
                    }
                }
                Err(JournalError::Trimmed { first }) => next = first,
                Err(error) => panic!("{error}"),
            }
        }
    });
    for _ in 0..40 {
        fill(&mut journal, &mut tail, 10, 1500);
        journal
            .trim(Position(tail.position.0.saturating_sub(30)))
            .unwrap();
    }
    follower.join().unwrap();
}

#[test]
fn a_full_disk_appends_nothing_and_can_be_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let options = FileJournalOptions {
        maximum_bytes: Some(48 << 10),
        ..OPTIONS
    };
    let mut journal = FileJournal::create(directory.path(), VOLUME, &Tail::EMPTY, options).unwrap();
    let mut tail = journal.acquire().unwrap();
    let error = loop {
        let (bytes, digest) = record_after(&tail, 2000);
        match journal.append(&tail, digest, bytes) {
            Ok(new) => tail = new,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, JournalError::Full(_)), "{error}");
    assert_eq!(journal.tail().unwrap(), tail);
    assert_eq!(tail.position, Position(15));
    journal.trim(Position(10)).unwrap();
    fill(&mut journal, &mut tail, 5, 2000);
    assert_eq!(read_all(&mut journal, Position(12), 1 << 20).len(), 9);
}

#[test]
fn running_out_of_space_in_a_write_leaves_no_trace() {
    for (direct, stored) in [false, true]
        .into_iter()
        .flat_map(|direct| [0, 10, 40, usize::MAX].map(|stored| (direct, stored)))
    {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, mut tail) = create(directory.path());
        if !direct {
            journal.end.refuse_direct_writes();
        }
        fill(&mut journal, &mut tail, 2, 100);
        journal.disk.faults.lock().unwrap().write = Some((stored, Errno::NOSPC));
        let (bytes, digest) = record_after(&tail, 100);
        assert!(matches!(
            journal.append(&tail, digest, bytes),
            Err(JournalError::Full(_))
        ));
        assert_eq!(journal.tail().unwrap(), tail);
        drop(journal);
        let mut journal = FileJournal::open(directory.path(), OPTIONS).unwrap();
        assert_eq!(journal.tail().unwrap(), tail);
        tail = journal.acquire().unwrap();
        fill(&mut journal, &mut tail, 1, 100);
    }
}

#[test]
fn what_is_written_past_the_page_cache_is_what_is_written_through_it() {
    let contents = [false, true].map(|direct| {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, mut tail) = create(directory.path());
        if !direct {
            journal.end.refuse_direct_writes();
        }
        // Frames that end within a block, at its end, and that span several; read in between, so that pages are cached.
        for size_bytes in [100, 1500, 2300, 1, 5000, 60] {
            fill(&mut journal, &mut tail, 1, size_bytes);
            assert_eq!(
                read_all(&mut journal, Position(1), 1 << 20).len() as u64,
                tail.position.0
            );
        }
        let reopened = {
            drop(journal);
            FileJournal::open(directory.path(), OPTIONS)
                .unwrap()
                .tail()
                .unwrap()
        };
        assert_eq!(reopened, tail);
        std::fs::read(directory.path().join(segment_name(Position(1)))).unwrap()
    });
    assert!(contents[0] == contents[1]);
}

#[test]
fn after_a_failed_write_or_sync_everything_is_refused_until_it_is_opened_again() {
    for sync in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, mut tail) = create(directory.path());
        fill(&mut journal, &mut tail, 2, 100);
        if sync {
            journal.disk.faults.lock().unwrap().sync = Some(Errno::IO);
        } else {
            journal.disk.faults.lock().unwrap().write = Some((50, Errno::IO));
        }
        let (bytes, digest) = record_after(&tail, 100);
        assert!(matches!(
            journal.append(&tail, digest, bytes.clone()),
            Err(JournalError::Failed { .. })
        ));
        assert!(matches!(
            journal.append(&tail, digest, bytes),
            Err(JournalError::Failed { .. })
        ));
        assert!(matches!(journal.tail(), Err(JournalError::Failed { .. })));
        assert!(matches!(journal.acquire(), Err(JournalError::Failed { .. })));
        assert!(matches!(
            journal.read(Position(1), 1),
            Err(JournalError::Failed { .. })
        ));
        assert!(matches!(
            journal.trim(Position(1)),
            Err(JournalError::Failed { .. })
        ));
        drop(journal);
        // A record that was written but not synced counts when it turns out to be complete.
        let found = FileJournal::open(directory.path(), OPTIONS)
            .unwrap()
            .tail()
            .unwrap();
        assert_eq!(found.position, Position(if sync { 3 } else { 2 }));
    }
}

#[test]
fn a_journal_of_a_restored_volume_begins_after_the_restored_record() {
    let directory = tempfile::tempdir().unwrap();
    let start = Tail {
        epoch: Epoch(4096),
        position: Position(1000),
        digest: [3; 32],
    };
    let mut journal = FileJournal::create(directory.path(), VOLUME, &start, OPTIONS).unwrap();
    assert_eq!(journal.tail().unwrap(), start);
    let mut tail = journal.acquire().unwrap();
    assert_eq!(tail.epoch, Epoch(4097));
    fill(&mut journal, &mut tail, 2, 10);
    assert_eq!(tail.position, Position(1002));
    assert!(matches!(
        journal.read(Position(1000), 1),
        Err(JournalError::Trimmed {
            first: Position(1001)
        })
    ));
    drop(journal);
    assert!(FileJournal::create(directory.path(), VOLUME, &start, OPTIONS).is_err());
}

#[test]
fn a_directory_without_a_journal_or_with_a_damaged_epoch_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(
        FileJournal::open(directory.path(), OPTIONS),
        Err(JournalError::Damaged(_))
    ));
    drop(create(directory.path()));
    let epoch = directory.path().join("epoch");
    let mut bytes = std::fs::read(&epoch).unwrap();
    bytes[25] ^= 1;
    std::fs::write(&epoch, &bytes).unwrap();
    assert!(matches!(
        FileJournal::open(directory.path(), OPTIONS),
        Err(JournalError::Damaged(_))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever happens to the bytes of the last frame and after it: the records before are all there, and nothing is
    /// invented.
    #[test]
    fn no_damage_to_the_last_record_costs_an_earlier_one(
        sizes in prop::collection::vec(0_usize..1500, 1..6), cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 0..4), zeros in any::<bool>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, mut tail) = create(directory.path());
        let (mut before, mut start) = (tail, 0);
        for size in &sizes {
            (before, start) = (tail, journal.end.offset());
            fill(&mut journal, &mut tail, 1, *size);
        }
        let length = usize::try_from(journal.end.offset() - start).unwrap();
        drop(journal);
        let path = directory.path().join(segment_name(Position(1)));
        let original = std::fs::read(&path).unwrap();
        let mut content = original.clone();
        let frame = &mut content[usize::try_from(start).unwrap()..][..length];
        for (place, bit) in &flips {
            frame[place.index(length)] ^= 1 << bit;
        }
        if zeros {
            frame[cut.index(length)..].fill(0);
        }
        std::fs::write(&path, &content).unwrap();
        let mut journal = FileJournal::open(directory.path(), OPTIONS).unwrap();
        let found = journal.tail().unwrap();
        prop_assert!(found == tail || found == before);
        if content == original {
            prop_assert_eq!(found, tail);
        }
        prop_assert_eq!(read_all(&mut journal, Position(1), 1 << 20).len() as u64, found.position.0);
    }
}
