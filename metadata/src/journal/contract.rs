//! What every journal engine must do, as tests that each engine runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use twinshore_protocol::{Epoch, Position, Timestamp, VolumeId};

use super::memory::MemoryDisk;
use super::record::Record;
use super::{Digest, FileJournal, FileJournalOptions, Journal, JournalError, Tail};
use crate::view::Mutation;

/// The volume of all tests.
pub(crate) const VOLUME: VolumeId = VolumeId([5; 16]);

/// A record after a tail, with content of about `size_bytes` that depends on the position.
pub(crate) fn record_after(tail: &Tail, size_bytes: usize) -> (Bytes, Digest) {
    let position = tail.position.next();
    Record {
        volume: VOLUME,
        epoch: tail.epoch,
        position,
        previous: tail.digest,
        time: Timestamp {
            seconds: 1,
            nanoseconds: 2,
        },
        mutations: vec![Mutation {
            key: Bytes::from(format!("I{}", position.0)),
            #[allow(clippy::cast_possible_truncation)]
            value: Some(vec![position.0 as u8; size_bytes].into()),
        }],
        changes: vec![],
    }
    .encode()
}

/// Appends `count` records.
pub(crate) fn fill(journal: &mut dyn Journal, tail: &mut Tail, count: u64, size_bytes: usize) {
    for _ in 0..count {
        let (bytes, digest) = record_after(tail, size_bytes);
        *tail = journal.append(tail, digest, bytes).unwrap();
    }
}

/// All records from a position, read page by page.
pub(crate) fn read_all(journal: &mut dyn Journal, from: Position, page_bytes: usize) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    loop {
        let next = records.last().map_or(from, |record| record.position.next());
        let page = journal.read(next, page_bytes).unwrap();
        if page.is_empty() {
            return records;
        }
        records.extend(page.iter().map(|bytes| Record::decode(bytes).unwrap().0));
    }
}

/// Where a kind of journal lives, and how it is opened.
pub(crate) trait Place {
    fn open(&self) -> Result<Box<dyn Journal>, JournalError>;
}

struct FilePlace {
    directory: tempfile::TempDir,
    options: FileJournalOptions,
}

impl FilePlace {
    fn new() -> Self {
        let place = Self {
            directory: tempfile::tempdir().unwrap(),
            options: FileJournalOptions {
                segment_bytes: 16 << 10,
                maximum_bytes: None,
            },
        };
        drop(FileJournal::create(place.directory.path(), VOLUME, &Tail::EMPTY, place.options).unwrap());
        place
    }
}

impl Place for FilePlace {
    fn open(&self) -> Result<Box<dyn Journal>, JournalError> {
        Ok(Box::new(FileJournal::open(self.directory.path(), self.options)?))
    }
}

impl Place for MemoryDisk {
    fn open(&self) -> Result<Box<dyn Journal>, JournalError> {
        Ok(Box::new(MemoryDisk::open(self)?))
    }
}

fn an_empty_journal_has_no_records(place: &dyn Place) {
    let mut journal = place.open().unwrap();
    assert_eq!(journal.tail().unwrap(), Tail::EMPTY);
    assert_eq!(journal.read(Position(1), 100).unwrap(), Vec::<Bytes>::new());
    assert_eq!(
        journal.acquire().unwrap(),
        Tail {
            epoch: Epoch(1),
            ..Tail::EMPTY
        }
    );
}

fn what_was_appended_is_read_back_in_pages_of_any_size(place: &dyn Place) {
    let mut journal = place.open().unwrap();
    let mut tail = journal.acquire().unwrap();
    for size_bytes in [0, 1, 3000, 100, 7000, 12] {
        fill(&mut *journal, &mut tail, 9, size_bytes);
    }
    assert_eq!(journal.tail().unwrap(), tail);
    assert_eq!(tail.position, Position(54));
    for page_bytes in [0, 1, 500, 5000, 1 << 20] {
        for from in [0, 1, 17, 53, 54, 55] {
            let records = read_all(&mut *journal, Position(from), page_bytes);
            let positions: Vec<u64> = records.iter().map(|record| record.position.0).collect();
            assert_eq!(
                positions,
                (from.max(1)..=54).collect::<Vec<u64>>(),
                "{page_bytes} from {from}"
            );
        }
    }
}

fn a_journal_goes_on_where_it_was_when_it_is_opened_again(place: &dyn Place) {
    let mut expected = Tail::EMPTY;
    for reign in 1..=4 {
        let mut journal = place.open().unwrap();
        assert_eq!(journal.tail().unwrap(), expected);
        expected = journal.acquire().unwrap();
        assert_eq!(expected.epoch, Epoch(reign));
        fill(&mut *journal, &mut expected, 10, 900);
    }
    let mut journal = place.open().unwrap();
    let records = read_all(&mut *journal, Position(1), 4000);
    let mut previous = [0; 32];
    for record in &records {
        assert_eq!(record.previous, previous);
        previous = record.encode().1;
    }
    assert_eq!((records.len(), previous), (40, expected.digest));
}

fn only_the_true_tail_is_appended_to(place: &dyn Place) {
    let mut journal = place.open().unwrap();
    let before = journal.acquire().unwrap();
    let mut tail = before;
    fill(&mut *journal, &mut tail, 1, 10);
    for wrong in [
        before,
        Tail {
            digest: [1; 32],
            ..tail
        },
        Tail {
            position: tail.position.next(),
            ..tail
        },
        Tail {
            epoch: Epoch(0),
            ..tail
        },
        Tail {
            epoch: Epoch(2),
            ..tail
        },
    ] {
        let (bytes, digest) = record_after(&wrong, 10);
        let error = journal.append(&wrong, digest, bytes).unwrap_err();
        assert!(
            matches!(error, JournalError::Fenced { found } if found == tail),
            "{wrong:?}: {error:?}"
        );
    }
    fill(&mut *journal, &mut tail, 1, 10);
    assert_eq!(read_all(&mut *journal, Position(1), 100).len(), 2);
}

fn an_older_epoch_is_fenced_for_ever(place: &dyn Place) {
    let mut journal = place.open().unwrap();
    let mut old = journal.acquire().unwrap();
    fill(&mut *journal, &mut old, 3, 10);
    let new = journal.acquire().unwrap();
    assert_eq!((new.position, new.digest), (old.position, old.digest));
    let (bytes, digest) = record_after(&old, 10);
    assert!(matches!(
        journal.append(&old, digest, bytes.clone()),
        Err(JournalError::Fenced { .. })
    ));
    drop(journal);
    let mut journal = place.open().unwrap();
    assert!(matches!(
        journal.append(&old, digest, bytes),
        Err(JournalError::Fenced { .. })
    ));
    assert_eq!(journal.tail().unwrap(), new);
}

fn a_record_that_does_not_fit_its_place_is_refused_and_changes_nothing(place: &dyn Place) {
    let mut journal = place.open().unwrap();
    let mut tail = journal.acquire().unwrap();
    let elsewhere = Tail {
        position: Position(7),
        ..tail
    };
    let (bytes, digest) = record_after(&elsewhere, 10);
    assert!(matches!(
        journal.append(&tail, digest, bytes),
        Err(JournalError::Failed { .. })
    ));
    let mut cut = record_after(&tail, 10).0;
    cut.truncate(50);
    assert!(matches!(
        journal.append(&tail, [0; 32], cut),
        Err(JournalError::Failed { .. })
    ));
    let (bytes, digest) = record_after(&tail, 17 << 20);
    assert!(matches!(
        journal.append(&tail, digest, bytes),
        Err(JournalError::Failed { .. })
    ));
    fill(&mut *journal, &mut tail, 1, 10);
}

fn trimmed_records_are_gone_and_the_rest_stays(place: &dyn Place) {
    let mut journal = place.open().unwrap();
    let mut tail = journal.acquire().unwrap();
    fill(&mut *journal, &mut tail, 60, 1000);
    journal.trim(Position(0)).unwrap();
    assert_eq!(read_all(&mut *journal, Position(1), 100).len(), 60);
    journal.trim(Position(40)).unwrap();
    let Err(JournalError::Trimmed { first }) = journal.read(Position(1), 100) else {
        panic!("it is still there")
    };
    assert!(
        first > Position(20) && first <= Position(40),
        "trimmed before {first}"
    );
    assert_eq!(read_all(&mut *journal, Position(40), 100).len(), 21);
    fill(&mut *journal, &mut tail, 60, 1000);
    journal.trim(Position(1000)).unwrap();
    assert_eq!(journal.tail().unwrap(), tail);
    drop(journal);
    let mut journal = place.open().unwrap();
    assert_eq!(journal.tail().unwrap(), tail);
    tail = journal.acquire().unwrap();
    fill(&mut *journal, &mut tail, 1, 10);
    assert_eq!(read_all(&mut *journal, tail.position, 100).len(), 1);
}

fn only_one_writer_at_a_time(place: &dyn Place) {
    let journal = place.open().unwrap();
    assert!(matches!(place.open(), Err(JournalError::InUse(_))));
    drop(journal);
    drop(place.open().unwrap());
}

macro_rules! contract {
    ($($test:ident)*) => {
        mod file {
            $(#[test] fn $test() { super::$test(&super::FilePlace::new()); })*
        }
        mod memory {
            $(#[test] fn $test() { super::$test(&super::MemoryDisk::new(super::VOLUME, &super::Tail::EMPTY)); })*
        }
    };
}

contract! {
    an_empty_journal_has_no_records
    what_was_appended_is_read_back_in_pages_of_any_size
    a_journal_goes_on_where_it_was_when_it_is_opened_again
    only_the_true_tail_is_appended_to
    an_older_epoch_is_fenced_for_ever
    a_record_that_does_not_fit_its_place_is_refused_and_changes_nothing
    trimmed_records_are_gone_and_the_rest_stays
    only_one_writer_at_a_time
}
