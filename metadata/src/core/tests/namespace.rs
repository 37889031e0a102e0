//! Names, links, directories: what POSIX and Linux say of each operation on the tree.

use super::*;

#[test]
fn directories_count_their_sub_directories_as_links() {
    let mut world = World::new();
    let a = world.mkdir(ROOT, "a");
    let b = world.mkdir(ROOT, "b");
    world.mkdir(a, "x");
    world.create(a, "file");
    assert_eq!(
        (world.stat(ROOT).links, world.stat(a).links, world.stat(b).links),
        (4, 3, 2)
    );
    world.rename((a, "x"), (b, "x"), RenameMode::Replace).unwrap();
    assert_eq!((world.stat(a).links, world.stat(b).links), (2, 3));
    world.rmdir(b, "x").unwrap();
    assert_eq!(world.stat(b).links, 2);
}

#[test]
fn every_change_of_names_touches_the_times_of_the_directory() {
    let mut world = World::new();
    let (a, b) = (world.mkdir(ROOT, "a"), world.mkdir(ROOT, "b"));
    let file = world.create(a, "file");
    let times = |attributes: Attributes| (attributes.modified, attributes.changed);
    assert_eq!(
        times(world.stat(a)),
        (world.stat(file).changed, world.stat(file).changed)
    );

    let linked = world.link(file, b, "other").unwrap().changed;
    assert_eq!(times(world.stat(b)), (linked, linked));
    assert_eq!(world.stat(file).changed, linked);
    assert!(
        world.stat(file).modified < linked,
        "a link does not change the content"
    );

    world
        .rename((a, "file"), (b, "moved"), RenameMode::Replace)
        .unwrap();
    let moved = world.stat(file).changed;
    assert!(moved > linked);
    assert_eq!(
        (times(world.stat(a)), times(world.stat(b))),
        ((moved, moved), (moved, moved))
    );

    let gone = removed(world.unlink(b, "moved").unwrap());
    assert_eq!(
        (gone.links, times(world.stat(b))),
        (1, (gone.changed, gone.changed))
    );
}

#[test]
fn others_who_cache_hear_of_every_change() {
    let mut world = World::new();
    let directory = world.mkdir(ROOT, "a");
    let file = world.create(directory, "file");
    assert_eq!(
        world.changes,
        [
            Invalidation::Entry(directory, name("file")),
            Invalidation::Attributes(directory)
        ]
    );
    world.write_inline(file, 0, b"x").unwrap();
    assert_eq!(
        world.changes,
        [Invalidation::Content(file), Invalidation::Attributes(file)]
    );
    world
        .rename((directory, "file"), (ROOT, "moved"), RenameMode::Replace)
        .unwrap();
    for expected in [
        Invalidation::Entry(directory, name("file")),
        Invalidation::Entry(ROOT, name("moved")),
        Invalidation::Attributes(directory),
        Invalidation::Attributes(ROOT),
        Invalidation::Attributes(file),
    ] {
        assert!(world.changes.contains(&expected), "{expected:?}");
    }
    world.unlink(ROOT, "moved").unwrap();
    assert!(world.changes.contains(&Invalidation::Attributes(file)));
    world.stat(ROOT);
    assert!(world.changes.is_empty());
}

#[test]
fn names_that_exist_or_do_not_are_told_apart() {
    let mut world = World::new();
    let directory = world.mkdir(ROOT, "dir");
    let file = world.create(ROOT, "file");
    assert_eq!(world.lookup(ROOT, "nothing"), Err(Errno::NotFound));
    assert_eq!(world.lookup(file, "x"), Err(Errno::NotDirectory));
    assert_eq!(
        world.mkdir_as(&Caller::ROOT, ROOT, "dir", 0o755),
        Err(Errno::Exists)
    );
    assert_eq!(world.link(file, ROOT, "dir"), Err(Errno::Exists));
    assert_eq!(world.link(directory, ROOT, "other"), Err(Errno::NotPermitted));
    assert_eq!(world.unlink(ROOT, "dir"), Err(Errno::IsDirectory));
    assert_eq!(world.rmdir(ROOT, "file"), Err(Errno::NotDirectory));
    world.create(directory, "inside");
    assert_eq!(world.rmdir(ROOT, "dir"), Err(Errno::NotEmpty));
    assert_eq!(world.try_stat(InodeNumber(999)), Err(Errno::Stale));
}

#[test]
fn nothing_can_be_made_in_a_directory_that_has_lost_its_name() {
    let mut world = World::new();
    let directory = world.mkdir(ROOT, "dir");
    world.open.insert(directory);
    world.rmdir(ROOT, "dir").unwrap();
    assert_eq!(world.stat(directory).links, 0);
    assert_eq!(
        world.create_as(&Caller::ROOT, directory, "x", 0o644),
        Err(Errno::NotFound)
    );
    assert!(world.list(directory, 10).is_empty());
    world.open.clear();
    assert_eq!(world.clean_up(10), 1);
    assert_eq!(world.try_stat(directory), Err(Errno::Stale));
}

#[test]
fn rename_follows_the_table_of_linux() {
    use RenameMode::{Exchange, NoReplace, Replace};
    let cases: &[(&str, &str, RenameMode, Result<(), Errno>)] = &[
        ("file", "new", Replace, Ok(())),
        ("file", "other", Replace, Ok(())),
        ("file", "other", NoReplace, Err(Errno::Exists)),
        ("file", "new", NoReplace, Ok(())),
        ("file", "new", Exchange, Err(Errno::NotFound)),
        ("file", "empty", Exchange, Ok(())),
        ("file", "empty", Replace, Err(Errno::IsDirectory)),
        ("full", "file", Replace, Err(Errno::NotDirectory)),
        ("full", "empty", Replace, Ok(())),
        ("empty", "full", Replace, Err(Errno::NotEmpty)),
        ("full", "empty", Exchange, Ok(())),
        ("nothing", "new", Replace, Err(Errno::NotFound)),
        ("file", "file", Replace, Ok(())),
        ("file", "file", NoReplace, Err(Errno::Exists)),
        ("file", "same", Replace, Ok(())),
    ];
    for (from, to, mode, expected) in cases {
        let mut world = World::new();
        let file = world.create(ROOT, "file");
        world.create(ROOT, "other");
        world.link(file, ROOT, "same").unwrap();
        world.mkdir(ROOT, "empty");
        let full = world.mkdir(ROOT, "full");
        world.create(full, "inside");
        let result = world.rename((ROOT, from), (ROOT, to), *mode);
        assert_eq!(result.map(|_| ()), *expected, "{from} to {to}, {mode:?}");
    }
}

#[test]
fn renaming_a_name_to_another_name_of_the_same_file_does_nothing() {
    let mut world = World::new();
    let file = world.create(ROOT, "a");
    world.link(file, ROOT, "b").unwrap();
    let before = world.stat(ROOT);
    let Reply::Renamed { moved, replaced } = world
        .rename((ROOT, "a"), (ROOT, "b"), RenameMode::Replace)
        .unwrap()
    else {
        panic!()
    };
    assert_eq!((moved.inode, replaced.unwrap().inode), (file, file));
    assert_eq!(
        (world.lookup(ROOT, "a"), world.lookup(ROOT, "b")),
        (Ok(file), Ok(file))
    );
    assert_eq!(world.stat(ROOT), before);
}

#[test]
fn a_directory_never_gets_below_itself() {
    let mut world = World::new();
    let a = world.mkdir(ROOT, "a");
    let b = world.mkdir(a, "b");
    let c = world.mkdir(b, "c");
    for (to, mode) in [
        (a, RenameMode::Replace),
        (b, RenameMode::Replace),
        (c, RenameMode::Replace),
    ] {
        assert_eq!(world.rename((ROOT, "a"), (to, "x"), mode), Err(Errno::Invalid));
    }
    assert_eq!(
        world.rename((b, "c"), (ROOT, "a"), RenameMode::Replace),
        Err(Errno::NotEmpty)
    );
    assert_eq!(
        world.rename((b, "c"), (ROOT, "a"), RenameMode::Exchange),
        Err(Errno::Invalid)
    );
    assert_eq!(
        world.rename((ROOT, "a"), (b, "c"), RenameMode::Exchange),
        Err(Errno::Invalid)
    );
}

#[test]
fn a_file_has_at_most_65_000_names() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    // As if it had the names: making them all would only take time.
    let mut row: crate::core::values::InodeRow =
        crate::core::transaction::read(&world.view, &crate::core::keys::inode(file))
            .unwrap()
            .unwrap();
    row.attributes.links = 65_000;
    let key = crate::core::keys::inode(file);
    let mutation = crate::view::Mutation {
        key,
        value: Some(twinshore_protocol::wire::encode(&row)),
    };
    world
        .view
        .apply(world.view.applied().next(), &[mutation])
        .unwrap();
    let operation = Operation::Link {
        inode: file,
        parent: ROOT,
        name: name("more"),
    };
    let outcome = world
        .in_context(|context| step(&world.view, context, &operation))
        .unwrap();
    assert_eq!(outcome.result, Err(Errno::TooManyLinks));
}

#[test]
fn a_listing_goes_on_while_the_directory_changes() {
    let mut world = World::new();
    for number in 0..60 {
        world.create(ROOT, &format!("stays{number}"));
    }
    let mut seen = Vec::new();
    let mut after = 0;
    for round in 0.. {
        let asked = Operation::ReadDirectory {
            directory: ROOT,
            after,
            limit: 7,
            with_attributes: false,
            until: None,
        };
        let Reply::Directory {
            entries, complete, ..
        } = world.run(&asked).unwrap()
        else {
            panic!()
        };
        for entry in entries {
            assert!((3..1 << 63).contains(&entry.cookie));
            after = entry.cookie;
            seen.push(entry.name.to_string());
        }
        if complete {
            break;
        }
        world.create(ROOT, &format!("comes{round}"));
        if round > 0 {
            world.unlink(ROOT, &format!("comes{}", round - 1)).unwrap();
        }
    }
    for number in 0..60 {
        assert_eq!(
            seen.iter()
                .filter(|name| **name == format!("stays{number}"))
                .count(),
            1
        );
    }
}

#[test]
fn the_parts_of_a_directory_together_are_the_whole() {
    let mut world = World::new();
    let mut made: Vec<String> = (0..100).map(|number| format!("file{number}")).collect();
    for text in &made {
        world.create(ROOT, text);
    }
    let part = (1 << 63) / 7;
    let mut seen = Vec::new();
    for number in 0..8 {
        let asked = Operation::ReadDirectory {
            directory: ROOT,
            after: number * part,
            limit: 1000,
            with_attributes: true,
            until: Some((number + 1) * part),
        };
        let Reply::Directory {
            entries, complete, ..
        } = world.run(&asked).unwrap()
        else {
            panic!()
        };
        assert!(complete);
        for entry in entries {
            assert!((number * part + 1..=(number + 1) * part).contains(&entry.cookie));
            assert_eq!(entry.attributes.unwrap().inode, entry.inode);
            seen.push(entry.name.to_string());
        }
    }
    seen.sort();
    made.sort();
    assert_eq!(seen, made);
}

#[test]
fn create_finds_what_exists_unless_it_must_not() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    world.write_inline(file, 0, b"content").unwrap();
    world.mkdir(ROOT, "dir");
    let mut create = |text: &str, exclusive, truncate| {
        let new = NewInode {
            inode: world.new_inode(),
            mode: 0o600,
            umask: 0,
        };
        let result = world.run(&Operation::Create {
            parent: ROOT,
            name: name(text),
            new,
            exclusive,
            truncate,
        });
        result.map(|reply| match reply {
            Reply::Created { attributes, new, .. } => (attributes.inode, attributes.size_bytes, new),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(create("file", true, false), Err(Errno::Exists));
    assert_eq!(create("dir", false, false), Err(Errno::IsDirectory));
    assert_eq!(create("file", false, false), Ok((file, 7, false)));
    assert_eq!(create("file", false, true), Ok((file, 0, false)));
    assert!(create("fresh", false, false).unwrap().2);
}

#[test]
fn nodes_of_every_type_can_be_made_but_devices_only_by_root() {
    let mut world = World::new();
    let shared = world
        .mkdir_as(&Caller::ROOT, ROOT, "shared", 0o777)
        .unwrap()
        .inode;
    let kinds = [
        FileType::Regular,
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
        FileType::BlockDevice,
    ];
    for (caller, device_result) in [(Caller::ROOT, Ok(0x803)), (user(5), Err(Errno::NotPermitted))] {
        for kind in kinds {
            let new = NewInode {
                inode: world.new_inode(),
                mode: 0o644,
                umask: 0,
            };
            let made = name(&format!("{kind:?}{}", caller.user));
            let operation = Operation::MakeNode {
                parent: shared,
                name: made,
                new,
                kind,
                device: 0x803,
            };
            let result = world.run_as(&caller, &operation).map(|reply| entry(reply).device);
            let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
            assert_eq!(
                result,
                if is_device { device_result } else { Ok(0) },
                "{kind:?} by {}",
                caller.user
            );
        }
    }
}

#[test]
fn a_symbolic_link_keeps_its_target() {
    let mut world = World::new();
    let mut make = |target: &[u8]| {
        let operation = Operation::SymbolicLink {
            parent: ROOT,
            name: name("link"),
            inode: world.new_inode(),
            target: Bytes::copy_from_slice(target),
        };
        world.run(&operation).map(entry)
    };
    assert_eq!(make(b""), Err(Errno::NotFound));
    assert_eq!(make(&[b'a'; 4096]), Err(Errno::NameTooLong));
    let link = make(b"a/b").unwrap();
    assert_eq!(
        (link.kind, link.mode, link.size_bytes),
        (FileType::SymbolicLink, 0o777, 3)
    );
    assert_eq!(
        world.run(&Operation::ReadLink { inode: link.inode }),
        Ok(Reply::Bytes(Bytes::from_static(b"a/b")))
    );
    assert_eq!(
        world.run(&Operation::ReadLink { inode: ROOT }),
        Err(Errno::Invalid)
    );
    world.unlink(ROOT, "link").unwrap();
}

#[test]
fn numbers_that_were_not_granted_make_nothing() {
    let mut world = World::new();
    let used = world.create(ROOT, "used");
    for inode in [used, InodeNumber(1 << 40), ROOT] {
        let new = NewInode {
            inode,
            mode: 0o644,
            umask: 0,
        };
        let operation = Operation::MakeDirectory {
            parent: ROOT,
            name: name("x"),
            new,
        };
        assert_eq!(world.run(&operation), Err(Errno::Invalid));
    }
}
