//! What a process leaves to the next one.
#![allow(clippy::unwrap_used)]

use std::fs::File;

use twinshore_protocol::ExtentSource;
use twinshore_protocol::format::{
    Compression, Durability, Encryption, FORMAT_VERSION, RegionFormat, VolumeFormat, VolumeSettings,
};
use twinshore_protocol::lock::{LockFamily, LockKind};
use twinshore_protocol::operation::{FileCommit, FileWrite, NewInode};
use twinshore_protocol::{FileName, VolumeId};

use super::*;

const FILE: InodeNumber = InodeNumber(70);
const DIRECTORY: InodeNumber = InodeNumber(5);

fn format() -> VolumeFormat {
    VolumeFormat {
        version: FORMAT_VERSION,
        volume: VolumeId([7; 16]),
        name: "volume".to_owned(),
        encryption: Encryption::None,
        settings: VolumeSettings {
            primary: RegionFormat {
                name: "east".to_owned(),
                bucket: "memory:".to_owned(),
            },
            target: None,
            replication_enabled: false,
            durability: Durability::Close,
            compression: Compression::None,
            inline_limit_bytes: 4096,
            trash_retention_seconds: 0,
            synchronisation_interval_seconds: 0,
            bandwidth_limit_bytes_per_second: [0; 2],
        },
    }
}

/// A process that has begun, and the file.
fn begun() -> (Arc<Logbook>, File) {
    let file = tempfile::tempfile().unwrap();
    let (logbook, legacy) = Logbook::open(file.try_clone().unwrap().into()).unwrap();
    assert!(legacy.is_none());
    logbook.opened(SessionId(3), &format());
    logbook.seen(Epoch(2), Position(9));
    logbook.root_is(InodeNumber::ROOT);
    logbook.kernel_offers(KernelOffer { minor: 45, flags: 1 });
    (logbook, file)
}

/// The process is killed, and another one looks.
fn succeeded(logbook: Arc<Logbook>, file: &File) -> (Arc<Logbook>, Legacy) {
    drop(logbook);
    let (logbook, legacy) = Logbook::open(file.try_clone().unwrap().into()).unwrap();
    (logbook, legacy.unwrap())
}

fn unlink(name: &str) -> Operation {
    Operation::Unlink {
        parent: DIRECTORY,
        name: FileName::new(name.as_bytes()).unwrap(),
    }
}

fn numbers(legacy: &Legacy) -> Vec<(u64, bool)> {
    let requests = &legacy.resumption.requests;
    requests
        .iter()
        .map(|request| (request.number.0, request.request.is_some()))
        .collect()
}

#[test]
fn what_was_not_answered_is_left_with_its_number_and_no_number_is_used_twice() {
    let (logbook, file) = begun();
    let look = Operation::GetAttributes { inode: FILE };
    logbook.added(RequestNumber(1), &Caller::ROOT, &look, false);
    logbook.added(RequestNumber(2), &Caller::ROOT, &unlink("a"), false);
    logbook.added(RequestNumber(3), &Caller::ROOT, &unlink("b"), false);
    logbook.added(RequestNumber(4), &Caller::ROOT, &unlink("c"), false);
    logbook.added(RequestNumber(5), &Caller::ROOT, &look, false);
    logbook.answered(RequestNumber(2), &unlink("a"), &Ok(Reply::Done));
    logbook.answered(RequestNumber(5), &look, &Err(Errno::NotFound));
    logbook.withdrawn(RequestNumber(4));
    let (_, legacy) = succeeded(logbook, &file);
    assert_eq!(legacy.resumption.session, SessionId(3));
    assert_eq!(legacy.resumption.seen, (Epoch(2), Position(9)));
    assert_eq!(legacy.resumption.format, format());
    assert_eq!(legacy.resumption.next, RequestNumber(6));
    assert_eq!(numbers(&legacy), [(1, false), (3, true), (4, false)]);
}

#[test]
fn a_reply_is_left_until_the_kernel_is_answered() {
    let (logbook, file) = begun();
    let working = Working::begin(Some(&logbook), (1 << 63) | 0x14);
    logbook.added(RequestNumber(1), &Caller::ROOT, &unlink("a"), false);
    logbook.answered(RequestNumber(1), &unlink("a"), &Err(Errno::NotEmpty));
    // Killed here: nobody says that the kernel was answered.
    std::mem::forget(working);
    if let Some(handed_over) = calls::hand_over(Some(&logbook)) {
        std::mem::forget(handed_over);
    }
    let (logbook, legacy) = succeeded(logbook, &file);
    assert!(matches!(
        legacy.pending.get(&0x14),
        Some(Pending::Answered(Err(Errno::NotEmpty)))
    ));
    assert_eq!(numbers(&legacy), []);
    drop(Working::begin(Some(&logbook), 20));
    let (_, legacy) = succeeded(logbook, &file);
    assert!(legacy.pending.is_empty());
}

fn commit(offset: u64, length: u64) -> Operation {
    Operation::Commit {
        objects: Vec::new(),
        files: vec![FileCommit {
            inode: FILE,
            writes: vec![FileWrite {
                file_offset: offset,
                length,
                source: ExtentSource::Inline(vec![0; usize::try_from(length).unwrap()].into()),
            }],
            modified: None,
            clear_privileges: false,
        }],
    }
}

fn left(legacy: &Legacy) -> Vec<(u64, Vec<u8>)> {
    let restored = legacy.inodes.get(&FILE);
    let data = restored.into_iter().flat_map(|restored| &restored.data);
    data.map(|data| (data.offset, data.content.to_vec())).collect()
}

#[test]
fn written_bytes_are_left_until_their_commit_is_and_no_longer() {
    let (logbook, file) = begun();
    let time = (Timestamp::default(), true);
    let (first, _) = logbook.write(FILE, 0, b"0123456789", time, 0).unwrap();
    let (second, bytes) = logbook.write(FILE, 10, b"abcdefghij", time, 0).unwrap();
    assert_eq!((second, bytes), (first + 1, 20));
    let (logbook, legacy) = succeeded(logbook, &file);
    assert_eq!(
        left(&legacy),
        [(0, b"0123456789".to_vec()), (10, b"abcdefghij".to_vec())]
    );
    // A piece that was sealed before the third write, and holds half of the second.
    let (third, _) = logbook.write(FILE, 0, b"ABC", time, second).unwrap();
    assert!(third > second);
    let note = Note {
        commits: vec![(FILE, vec![second])],
        ..Note::default()
    };
    calls::noted(note, || {
        logbook.added(RequestNumber(1), &Caller::ROOT, &commit(0, 15), false);
    });
    logbook.cut(FILE, 18);
    let (logbook, legacy) = succeeded(logbook, &file);
    assert_eq!(left(&legacy), [(15, b"fgh".to_vec()), (0, b"ABC".to_vec())]);
    assert_eq!(numbers(&legacy), [(1, true)]);
    assert!(legacy.inodes[&FILE].data[0].clear_privileges);
    logbook.nothing_written(FILE);
    let (_, legacy) = succeeded(logbook, &file);
    assert_eq!(left(&legacy), []);
}

#[test]
fn a_limit_refuses_writes_until_something_is_committed() {
    let (logbook, _file) = begun();
    let time = (Timestamp::default(), false);
    logbook.set_limit(15);
    assert!(
        logbook.write(FILE, 0, &[1; 100], time, 0).is_some(),
        "a single one always fits"
    );
    assert!(logbook.write(FILE, 100, &[1], time, 0).is_none());
    logbook.nothing_written(FILE);
    assert!(logbook.write(FILE, 100, &[1], time, 0).is_some());
}

#[test]
fn handles_opens_locks_and_early_answers_are_left() {
    let (logbook, file) = begun();
    let open = Operation::Open {
        inode: FILE,
        truncate: false,
    };
    let handle = OpenHandle {
        handle: logbook.first_handle() + 1,
        inode: FILE,
        flags: Some(3),
        call: 0,
    };
    logbook.added(RequestNumber(1), &Caller::ROOT, &open, false);
    logbook.handle_opened(handle);
    let lock = Lock {
        family: LockFamily::Flock,
        kind: LockKind::Write,
        start: 0,
        end: u64::MAX,
        owner: 4,
        process: 5,
    };
    logbook.locks_are(FILE, &[lock]);
    logbook.owner_locks(handle.handle, 4);
    let made = InodeNumber(71);
    let create = Operation::Create {
        parent: DIRECTORY,
        name: "x".parse().unwrap(),
        new: NewInode {
            inode: made,
            mode: 0o600,
            umask: 0,
        },
        exclusive: true,
        truncate: false,
    };
    let note = Note {
        concerned: vec![made, DIRECTORY],
        ..Note::default()
    };
    calls::noted(note, || {
        logbook.added(RequestNumber(2), &Caller::ROOT, &create, true);
    });
    let (logbook, legacy) = succeeded(logbook, &file);
    assert_eq!(legacy.handles, [handle]);
    assert_eq!(legacy.locks, [(FILE, vec![lock])]);
    assert_eq!(legacy.owners, [(handle.handle, 4)]);
    assert_eq!(legacy.early, [(RequestNumber(2), vec![made, DIRECTORY])]);
    let counts = |inode: InodeNumber| {
        let restored = &legacy.inodes[&inode];
        (restored.opens_replied, restored.opens_sent, restored.early)
    };
    assert_eq!(
        (counts(FILE), counts(made), counts(DIRECTORY)),
        ((0, 1, 0), (0, 1, 1), (0, 0, 1))
    );
    assert!(
        logbook.first_handle() > handle.handle,
        "no number of a handle means two files"
    );
    logbook.answered(RequestNumber(1), &open, &Ok(Reply::Done));
    logbook.handle_closed(handle.handle);
    logbook.locks_are(FILE, &[]);
    logbook.owner_gone(handle.handle, 4);
    let (logbook, legacy) = succeeded(logbook, &file);
    assert!(legacy.handles.is_empty() && legacy.locks.is_empty() && legacy.owners.is_empty());
    assert_eq!(legacy.inodes[&FILE].opens_replied, 1);
    logbook.expired();
    logbook.opened(SessionId(4), &format());
    let (_, legacy) = succeeded(logbook, &file);
    assert!(legacy.inodes.is_empty() && legacy.resumption.requests.is_empty());
    assert_eq!(legacy.resumption.next, RequestNumber(1));
}

#[test]
fn what_was_given_up_or_makes_no_sense_is_not_gone_on_from() {
    let (logbook, file) = begun();
    logbook.give_up(&"a test");
    drop(logbook);
    let given_up = Logbook::open(file.try_clone().unwrap().into());
    assert!(matches!(given_up, Err(Damaged::GivenUp)));
    let (logbook, file) = begun();
    logbook.put(99, b"?").unwrap();
    drop(logbook);
    let damaged = Logbook::open(file.try_clone().unwrap().into());
    assert!(matches!(damaged, Err(Damaged::Record(99))));
}
