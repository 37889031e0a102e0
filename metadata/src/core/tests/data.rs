//! Contents: truncating, allocating, copying, seeking.

use super::*;
use twinshore_protocol::operation::{AllocateMode, SeekTarget};

fn allocate(
    world: &mut World,
    inode: InodeNumber,
    offset: u64,
    length: u64,
    mode: AllocateMode,
) -> Attributes {
    match world
        .run(&Operation::Allocate {
            inode,
            offset,
            length,
            mode,
        })
        .unwrap()
    {
        Reply::Attributes(attributes) => attributes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_cut_off_reads_as_zeros_when_the_file_grows_again() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    world.write_object(file, 0, b"0123456789", Sides::BOTH).unwrap();
    let cut = world.truncate(file, 4).unwrap();
    assert_eq!((cut.size_bytes, cut.allocated_bytes), (4, 4));
    world.truncate(file, 8).unwrap();
    assert_eq!(world.content(file), b"0123\0\0\0\0");
    assert_eq!(world.truncate(file, u64::MAX), Err(Errno::FileTooBig));
    assert_eq!(world.truncate(ROOT, 0), Err(Errno::IsDirectory));
}

#[test]
fn later_writes_win_and_cut_earlier_ones() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    world.write_object(file, 0, b"aaaaaaaaaa", Sides::BOTH).unwrap();
    world.write_inline(file, 3, b"bbb").unwrap();
    world.write_inline(file, 4, b"c").unwrap();
    world.write_inline(file, 12, b"d").unwrap();
    assert_eq!(world.content(file), b"aaabcbaaaa\0\0d");
    assert_eq!(world.stat(file).allocated_bytes, 11);
}

#[test]
fn a_commit_changes_all_its_files_or_none() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let commit = |inode| FileCommit {
        inode,
        writes: vec![FileWrite {
            file_offset: 0,
            length: 1,
            source: ExtentSource::Inline(Bytes::from_static(b"x")),
        }],
        modified: None,
        clear_privileges: false,
    };
    let files = vec![commit(file), commit(InodeNumber(999))];
    assert_eq!(
        world.run(&Operation::Commit {
            objects: Vec::new(),
            files
        }),
        Err(Errno::Stale)
    );
    assert_eq!(world.stat(file).size_bytes, 0);
    let version = world.stat(file).content_version;
    world
        .run(&Operation::Commit {
            objects: Vec::new(),
            files: vec![commit(file)],
        })
        .unwrap();
    assert!(world.stat(file).content_version > version);
    assert_eq!(world.stat(file).content_version, world.position());
}

#[test]
fn malformed_writes_are_refused() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let known = world.write_object(file, 0, b"0123456789", Sides::BOTH).unwrap();
    let object = |object, object_offset| ExtentSource::Object {
        object,
        object_offset,
        present: Sides::BOTH,
    };
    let stranger = ObjectId {
        epoch: Epoch(1),
        number: 1 << 40,
    };
    let cases = [
        (0, 0, ExtentSource::Inline(Bytes::new()), Errno::Invalid),
        (
            0,
            2,
            ExtentSource::Inline(Bytes::from_static(b"x")),
            Errno::Invalid,
        ),
        (0, 1, ExtentSource::Reserved, Errno::Invalid),
        (0, 1, object(stranger, 0), Errno::Invalid),
        (0, 5, object(known, 6), Errno::Invalid),
        (u64::MAX, 5, object(known, 0), Errno::FileTooBig),
        (i64::MAX.cast_unsigned(), 5, object(known, 0), Errno::FileTooBig),
        (
            0,
            1 << 20,
            ExtentSource::Inline(Bytes::from(vec![0; 1 << 20])),
            Errno::Invalid,
        ),
    ];
    for (offset, length, source, expected) in cases {
        let text = format!("{offset} {length} {source:?}");
        assert_eq!(
            world.write_source(file, offset, length, source, &[]),
            Err(expected),
            "{}",
            &text[..40.min(text.len())]
        );
    }
}

#[test]
fn fallocate_reserves_punches_and_zeroes() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    world.write_inline(file, 4, b"abcd").unwrap();
    let reserved = allocate(&mut world, file, 0, 16, AllocateMode::Reserve { keep_size: true });
    assert_eq!((reserved.size_bytes, reserved.allocated_bytes), (8, 16));
    assert_eq!(world.content(file), b"\0\0\0\0abcd");
    let grown = allocate(
        &mut world,
        file,
        0,
        12,
        AllocateMode::Reserve { keep_size: false },
    );
    assert_eq!((grown.size_bytes, grown.allocated_bytes), (12, 16));
    let punched = allocate(&mut world, file, 5, 2, AllocateMode::PunchHole);
    assert_eq!((punched.size_bytes, punched.allocated_bytes), (12, 14));
    assert_eq!(world.content(file), b"\0\0\0\0a\0\0d\0\0\0\0");
    let zeroed = allocate(&mut world, file, 7, 13, AllocateMode::Zero { keep_size: false });
    assert_eq!((zeroed.size_bytes, zeroed.allocated_bytes), (20, 18));
    assert_eq!(world.content(file)[4..8], *b"a\0\0\0");
    let nothing = Operation::Allocate {
        inode: file,
        offset: 0,
        length: 0,
        mode: AllocateMode::PunchHole,
    };
    assert_eq!(world.run(&nothing), Err(Errno::Invalid));
    // Space reserved beyond the end becomes part of the file as zeros.
    world.truncate(file, 3).unwrap();
    assert_eq!(world.truncate(file, 6).unwrap().allocated_bytes, 3);
    assert_eq!(world.content(file), [0; 6]);
}

#[test]
fn copies_share_objects() {
    let mut world = World::new();
    let (a, b) = (world.create(ROOT, "a"), world.create(ROOT, "b"));
    let object = world.write_object(a, 2, b"0123456789", Sides::BOTH).unwrap();
    world.write_inline(a, 5, b"I").unwrap();
    let copy = Operation::CopyRange {
        source: a,
        source_offset: 0,
        destination: b,
        destination_offset: 1,
        length: 99,
    };
    let Reply::Copied { length, attributes } = world.run(&copy).unwrap() else {
        panic!()
    };
    assert_eq!(
        (length, attributes.size_bytes, attributes.allocated_bytes),
        (12, 13, 10)
    );
    assert_eq!(world.content(b), b"\0\0\x00012I456789");
    let row: crate::core::values::ObjectRow =
        crate::core::transaction::read(&world.view, &crate::core::keys::object(object))
            .unwrap()
            .unwrap();
    assert_eq!(row.live_bytes, 18);
    world.unlink(ROOT, "a").unwrap();
    assert_eq!(world.content(b), b"\0\0\x00012I456789");
    let onto_itself = Operation::CopyRange {
        source: b,
        source_offset: 0,
        destination: b,
        destination_offset: 2,
        length: 5,
    };
    assert_eq!(world.run(&onto_itself), Err(Errno::Invalid));
    let beyond = Operation::CopyRange {
        source: b,
        source_offset: 50,
        destination: b,
        destination_offset: 0,
        length: 5,
    };
    assert!(matches!(world.run(&beyond), Ok(Reply::Copied { length: 0, .. })));
}

#[test]
fn pieces_of_an_object_that_meet_again_are_one_extent() {
    let mut world = World::new();
    let (a, b) = (world.create(ROOT, "a"), world.create(ROOT, "b"));
    world.write_object(a, 0, &[7; 100], Sides::BOTH).unwrap();
    for start in [0_u64, 50, 25, 75] {
        let copy = Operation::CopyRange {
            source: a,
            source_offset: start,
            destination: b,
            destination_offset: start,
            length: 25,
        };
        world.run(&copy).unwrap();
    }
    let Reply::Extents { extents, .. } = world
        .run(&Operation::GetExtents {
            inode: b,
            offset: 0,
            length: 100,
        })
        .unwrap()
    else {
        panic!()
    };
    assert_eq!(extents.len(), 1);
    assert_eq!((extents[0].file_offset, extents[0].length), (0, 100));
}

#[test]
fn seeking_finds_data_and_holes() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    world.write_inline(file, 10, b"abc").unwrap();
    world.write_inline(file, 13, b"def").unwrap();
    world.truncate(file, 30).unwrap();
    allocate(&mut world, file, 20, 5, AllocateMode::Reserve { keep_size: true });
    let mut seek = |offset, target| {
        world.run(&Operation::Seek {
            inode: file,
            offset,
            target,
        })
    };
    let cases = [
        (0, SeekTarget::Data, Ok(10)),
        (12, SeekTarget::Data, Ok(12)),
        (16, SeekTarget::Data, Err(Errno::NoData)),
        (0, SeekTarget::Hole, Ok(0)),
        (10, SeekTarget::Hole, Ok(16)),
        (20, SeekTarget::Hole, Ok(20)),
        (29, SeekTarget::Hole, Ok(29)),
        (30, SeekTarget::Hole, Err(Errno::NoData)),
        (30, SeekTarget::Data, Err(Errno::NoData)),
    ];
    for (offset, target, expected) in cases {
        assert_eq!(
            seek(offset, target),
            expected.map(Reply::Offset),
            "{offset} {target:?}"
        );
    }
}

#[test]
fn an_open_file_outlives_its_name() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let object = world.write_object(file, 0, b"content", Sides::BOTH).unwrap();
    world.open.insert(file);
    assert_eq!(removed(world.unlink(ROOT, "file").unwrap()).links, 0);
    assert_eq!(world.usage(ROOT), (0, 1));
    world.write_inline(file, 7, b" grows").unwrap();
    world.clean_up(10);
    assert_eq!(world.content(file), b"content grows");
    world.open.clear();
    world.clean_up(10);
    assert_eq!(world.try_stat(file), Err(Errno::Stale));
    assert_eq!(
        crate::core::outbox::pending_deletions(&world.view, Side::Primary, 9).unwrap(),
        []
    );
    world.now = world.now.plus_seconds(100);
    world.clean_up(10);
    assert_eq!(
        crate::core::outbox::pending_deletions(&world.view, Side::Primary, 9).unwrap(),
        [object]
    );
}

#[test]
fn a_huge_file_is_removed_piece_by_piece() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let writes = (0..500).map(|number| FileWrite {
        file_offset: number * 2,
        length: 1,
        source: ExtentSource::Inline(Bytes::from_static(b"x")),
    });
    let files = vec![FileCommit {
        inode: file,
        writes: writes.collect(),
        modified: None,
        clear_privileges: false,
    }];
    world
        .run(&Operation::Commit {
            objects: Vec::new(),
            files,
        })
        .unwrap();
    world.unlink(ROOT, "file").unwrap();
    assert_eq!(
        world.try_stat(file),
        Err(Errno::Stale),
        "what is half gone can not be used"
    );
    assert!(world.clean_up(50) >= 8);
    assert_eq!(crate::core::volume::totals(&world.view).unwrap().orphans.count, 0);
}

/// One commit of so many pieces of one byte, every other byte of the file.
fn pieces(inode: InodeNumber, count: u64) -> Operation {
    let writes = (0..count).map(|number| FileWrite {
        file_offset: number * 2,
        length: 1,
        source: ExtentSource::Inline(Bytes::from_static(b"x")),
    });
    let files = vec![FileCommit {
        inode,
        writes: writes.collect(),
        modified: None,
        clear_privileges: false,
    }];
    Operation::Commit {
        objects: Vec::new(),
        files,
    }
}

/// Runs an operation part by part: each is bounded and leaves a sound state. Tells how many there were.
fn parts_of(world: &mut World, operation: &Operation) -> usize {
    for parts in 1..100 {
        if let Some(result) = world.run_part(operation) {
            result.unwrap();
            return parts;
        }
    }
    panic!("{operation:?} does not end")
}

#[test]
fn a_file_of_very_many_extents_is_cut_in_bounded_parts() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    world.run(&pieces(file, 10_000)).unwrap();
    let cut = Operation::SetAttributes {
        inode: file,
        changes: AttributeChanges {
            size_bytes: Some(101),
            ..AttributeChanges::default()
        },
    };
    assert_eq!(world.run_part(&cut), None);
    let between = world.stat(file);
    assert_eq!(
        (between.size_bytes, between.allocated_bytes),
        (19_999, 10_000 - 4096)
    );
    assert_eq!(world.content(file)[..101], [b"x\0".repeat(51)].concat()[..101]);
    assert_eq!(parts_of(&mut world, &cut), 2);
    let after = world.stat(file);
    assert_eq!((after.size_bytes, after.allocated_bytes), (101, 51));
    assert_eq!(world.usage(ROOT).0, 51);
    let truncate = Operation::Open {
        inode: file,
        truncate: true,
    };
    world.run(&pieces(file, 5_000)).unwrap();
    assert_eq!(parts_of(&mut world, &truncate), 2);
    assert_eq!(world.stat(file).size_bytes, 0);
}

#[test]
fn very_many_extents_are_punched_reserved_and_overwritten_in_bounded_parts() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let allocate = |mode| Operation::Allocate {
        inode: file,
        offset: 0,
        length: 19_999,
        mode,
    };
    world.run(&pieces(file, 10_000)).unwrap();
    assert_eq!(parts_of(&mut world, &allocate(AllocateMode::PunchHole)), 3);
    assert_eq!(world.stat(file).allocated_bytes, 0);
    world.run(&pieces(file, 10_000)).unwrap();
    let reserve = allocate(AllocateMode::Reserve { keep_size: true });
    assert_eq!(parts_of(&mut world, &reserve), 3);
    assert_eq!(world.stat(file).allocated_bytes, 19_999);
    let zero = allocate(AllocateMode::Zero { keep_size: true });
    assert!(parts_of(&mut world, &zero) >= 5);
    assert_eq!(world.content(file), vec![0; 19_999]);
    world.run(&pieces(file, 10_000)).unwrap();
    // New content grows from the beginning: no part shows anything but old or new bytes.
    let content: Vec<u8> = (0..30_000_u32).map(|at| at.to_le_bytes()[0] | 1).collect();
    let new = world.new_object(&content, Sides::BOTH);
    let source = ExtentSource::Object {
        object: new.object,
        object_offset: 0,
        present: new.present,
    };
    let files = vec![FileCommit {
        inode: file,
        writes: vec![FileWrite {
            file_offset: 0,
            length: 30_000,
            source,
        }],
        modified: None,
        clear_privileges: false,
    }];
    let overwrite = Operation::Commit {
        objects: vec![new],
        files,
    };
    let old = world.content(file);
    while world.run_part(&overwrite).is_none() {
        let found = world.content(file);
        let new_until = found
            .iter()
            .zip(&content)
            .take_while(|(found, new)| found == new)
            .count();
        assert!(
            new_until >= 4096 && found[new_until..] == old[new_until..],
            "torn at {new_until}"
        );
    }
    assert_eq!(world.content(file), content);
}
