#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use twinshore_protocol::format::{
    Compression, Durability, Encryption, FORMAT_VERSION, RegionFormat, VolumeSettings,
};
use twinshore_protocol::{Epoch, Timestamp};

use super::*;
use crate::journal::contract::{VOLUME, fill};
use crate::journal::record::Record;
use crate::view::View;

/// A format for tests.
pub(crate) fn format(volume: VolumeId) -> VolumeFormat {
    VolumeFormat {
        version: FORMAT_VERSION,
        volume,
        name: "shore".to_owned(),
        encryption: Encryption::None,
        settings: VolumeSettings {
            primary: RegionFormat {
                name: "east".to_owned(),
                bucket: "file:///east".to_owned(),
            },
            target: None,
            replication_enabled: false,
            compression: Compression::Zstd,
            durability: Durability::Close,
            inline_limit_bytes: 16 << 10,
            trash_retention_seconds: 86_400,
            synchronisation_interval_seconds: 0,
            bandwidth_limit_bytes_per_second: [0, 0],
        },
    }
}

pub(crate) fn small() -> DirectoryOptions {
    DirectoryOptions {
        journal: FileJournalOptions {
            segment_bytes: 16 << 10,
            maximum_bytes: None,
        },
        view: FjallOptions::default(),
    }
}

#[test]
fn a_directory_is_created_once_and_opened_again() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    assert!(matches!(
        DataDirectory::open(&path, None, small()),
        Err(DirectoryError::NoVolume(_))
    ));
    assert!(!path.exists());
    let mut directory = DataDirectory::create(&path, &format(VOLUME), small()).unwrap();
    assert_eq!(directory.journal.acquire().unwrap().epoch, Epoch(1));
    assert!(matches!(
        DataDirectory::open(&path, None, small()),
        Err(DirectoryError::InUse(_))
    ));
    let error = DataDirectory::create(&path, &format(VOLUME), small()).unwrap_err();
    assert!(
        matches!(error, DirectoryError::Exists { volume: VOLUME, .. }),
        "what stands in the way is the volume, not who uses it: {error}"
    );
    drop(directory);
    let error = DataDirectory::create(&path, &format(VOLUME), small()).unwrap_err();
    assert!(matches!(error, DirectoryError::Exists { volume: VOLUME, .. }));
    let mut directory = DataDirectory::open(&path, Some(VOLUME), small()).unwrap();
    assert_eq!(directory.format, format(VOLUME));
    assert_eq!(directory.journal.acquire().unwrap().epoch, Epoch(2));
}

#[test]
fn a_creation_whose_first_record_fails_leaves_no_volume_and_can_be_repeated() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    let cut_off = DataDirectory::create_with(&path, &format(VOLUME), small(), |_| {
        Err(DirectoryError::Full(path.clone()))
    });
    assert!(matches!(cut_off, Err(DirectoryError::Full(_))));
    assert!(matches!(
        DataDirectory::open(&path, None, small()),
        Err(DirectoryError::NoVolume(_))
    ));
    DataDirectory::create(&path, &format(VOLUME), small()).unwrap();
}

#[test]
fn the_directory_of_another_volume_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(DataDirectory::create(directory.path(), &format(VOLUME), small()).unwrap());
    let error = DataDirectory::open(directory.path(), Some(VolumeId([6; 16])), small()).unwrap_err();
    assert!(matches!(error, DirectoryError::OtherVolume { found: VOLUME, .. }));
    // A journal that was copied from elsewhere.
    let other = tempfile::tempdir().unwrap();
    drop(DataDirectory::create(other.path(), &format(VolumeId([6; 16])), small()).unwrap());
    std::fs::remove_dir_all(directory.path().join("journal")).unwrap();
    std::fs::rename(other.path().join("journal"), directory.path().join("journal")).unwrap();
    let error = DataDirectory::open(directory.path(), Some(VOLUME), small()).unwrap_err();
    assert!(matches!(
        error,
        DirectoryError::OtherVolume { expected: VOLUME, .. }
    ));
}

#[test]
fn a_directory_with_foreign_files_is_refused_and_an_unfinished_one_is_filled_again() {
    let directory = tempfile::tempdir().unwrap();
    let unfinished = UnfinishedDirectory::begin(directory.path(), small()).unwrap();
    let mut view = unfinished.view().unwrap();
    view.load(&[(Bytes::from("Ia"), Bytes::from("1"))]).unwrap();
    drop((view, unfinished));
    assert!(matches!(
        DataDirectory::open(directory.path(), None, small()),
        Err(DirectoryError::NoVolume(_))
    ));
    let created = DataDirectory::create(directory.path(), &format(VOLUME), small()).unwrap();
    assert_eq!(created.view.get(b"Ia").unwrap(), None);
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("thesis.tex"), "x").unwrap();
    assert!(DataDirectory::create(foreign.path(), &format(VOLUME), small()).is_err());
}

#[test]
fn a_damaged_volume_file_is_told_from_a_missing_one() {
    let directory = tempfile::tempdir().unwrap();
    drop(DataDirectory::create(directory.path(), &format(VOLUME), small()).unwrap());
    let path = directory.path().join("volume");
    let mut bytes = std::fs::read(&path).unwrap();
    for place in 0..bytes.len() {
        bytes[place] ^= 0x10;
        // Two reserved bytes are covered by the checksum too.
        std::fs::write(&path, &bytes).unwrap();
        let error = DataDirectory::open(directory.path(), None, small()).unwrap_err();
        assert!(
            matches!(error, DirectoryError::Damaged(_)),
            "byte {place}: {error}"
        );
        bytes[place] ^= 0x10;
    }
}

#[test]
fn a_journal_that_lost_applied_records_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let mut open = DataDirectory::create(directory.path(), &format(VOLUME), small()).unwrap();
    let mut tail = open.journal.acquire().unwrap();
    fill(&mut open.journal, &mut tail, 2, 100);
    for position in 1..=3 {
        open.view.apply(Position(position), &[]).unwrap();
    }
    drop(open);
    let error = DataDirectory::open(directory.path(), None, small()).unwrap_err();
    assert!(matches!(
        error,
        DirectoryError::JournalLost {
            tail: Position(2),
            applied: Position(3),
            ..
        }
    ));
}

#[test]
fn a_lost_view_is_rebuilt_from_the_journal_unless_that_was_trimmed() {
    let directory = tempfile::tempdir().unwrap();
    let mut open = DataDirectory::create(directory.path(), &format(VOLUME), small()).unwrap();
    let mut tail = open.journal.acquire().unwrap();
    fill(&mut open.journal, &mut tail, 60, 1000);
    drop(open);
    std::fs::remove_dir_all(directory.path().join("view")).unwrap();
    let mut open = DataDirectory::open(directory.path(), None, small()).unwrap();
    assert_eq!(open.view.applied(), Position::ZERO);
    let mut next = Position(1);
    while next <= tail.position {
        for bytes in open.journal.read(next, 10_000).unwrap() {
            let (record, _) = Record::decode(&bytes).unwrap();
            assert_eq!(
                record.time,
                Timestamp {
                    seconds: 1,
                    nanoseconds: 2
                }
            );
            open.view.apply(record.position, &record.mutations).unwrap();
            next = next.next();
        }
    }
    assert_eq!(open.view.get(b"I60").unwrap().unwrap().len(), 1000);
    open.journal.trim(Position(50)).unwrap();
    drop(open);
    drop(DataDirectory::open(directory.path(), None, small()).unwrap());
    std::fs::remove_dir_all(directory.path().join("view")).unwrap();
    let error = DataDirectory::open(directory.path(), None, small()).unwrap_err();
    assert!(matches!(
        error,
        DirectoryError::ViewLost {
            applied: Position::ZERO,
            ..
        }
    ));
}
