//! Who may do what.

use super::*;
use twinshore_protocol::attributes::TimeChange;

fn mode(bits: u16) -> AttributeChanges {
    AttributeChanges {
        mode: Some(bits),
        ..AttributeChanges::default()
    }
}

fn owner(user: Option<u32>, group: Option<u32>) -> AttributeChanges {
    AttributeChanges {
        user,
        group,
        ..AttributeChanges::default()
    }
}

#[test]
fn a_directory_can_be_changed_only_by_who_may_write_and_search_it() {
    for (bits, expected) in [
        (0o777, Ok(())),
        (0o776, Err(Errno::AccessDenied)),
        (0o775, Err(Errno::AccessDenied)),
        (0o773, Ok(())),
    ] {
        let mut world = World::new();
        let directory = world.mkdir_as(&Caller::ROOT, ROOT, "dir", bits).unwrap().inode;
        world.create(directory, "file");
        let operations = [
            Operation::Unlink {
                parent: directory,
                name: name("file"),
            },
            Operation::MakeDirectory {
                parent: directory,
                name: name("new"),
                new: NewInode {
                    inode: world.new_inode(),
                    mode: 0o755,
                    umask: 0,
                },
            },
        ];
        for operation in operations {
            assert_eq!(
                world.run_as(&user(7), &operation).map(|_| ()),
                expected,
                "{bits:o}"
            );
        }
    }
}

#[test]
fn groups_and_supplementary_groups_grant() {
    let mut world = World::new();
    let directory = world.mkdir_as(&Caller::ROOT, ROOT, "dir", 0o770).unwrap().inode;
    world
        .set(&Caller::ROOT, directory, owner(None, Some(50)))
        .unwrap();
    let member = Caller {
        user: 7,
        group: 7,
        groups: vec![50],
        ..Caller::ROOT
    };
    assert!(world.create_as(&member, directory, "by-member", 0o644).is_ok());
    assert_eq!(
        world.create_as(&user(7), directory, "by-other", 0o644),
        Err(Errno::AccessDenied)
    );
}

#[test]
fn in_a_sticky_directory_only_owners_remove_and_rename() {
    let mut world = World::new();
    let shared = world.mkdir_as(&Caller::ROOT, ROOT, "tmp", 0o1777).unwrap().inode;
    world.create_as(&user(1), shared, "mine", 0o644).unwrap();
    world.create_as(&user(2), shared, "theirs", 0o644).unwrap();
    let unlink = Operation::Unlink {
        parent: shared,
        name: name("mine"),
    };
    assert_eq!(world.run_as(&user(2), &unlink), Err(Errno::NotPermitted));
    for (from, to) in [("mine", "x"), ("theirs", "mine")] {
        let (name, new_name, mode) = (name(from), name(to), RenameMode::Replace);
        let operation = Operation::Rename {
            parent: shared,
            name,
            new_parent: shared,
            new_name,
            mode,
        };
        assert_eq!(
            world.run_as(&user(2), &operation),
            Err(Errno::NotPermitted),
            "{from} to {to}"
        );
    }
    assert!(world.run_as(&user(1), &unlink).is_ok());
}

#[test]
fn a_directory_that_changes_its_parent_must_be_writable() {
    let mut world = World::new();
    let (a, b) = (
        world.mkdir_as(&Caller::ROOT, ROOT, "a", 0o777).unwrap().inode,
        world.mkdir_as(&Caller::ROOT, ROOT, "b", 0o777).unwrap().inode,
    );
    world.mkdir(a, "theirs");
    let rename = |new_parent| {
        let (name, new_name, mode) = (name("theirs"), name("moved"), RenameMode::Replace);
        Operation::Rename {
            parent: a,
            name,
            new_parent,
            new_name,
            mode,
        }
    };
    assert_eq!(world.run_as(&user(7), &rename(b)), Err(Errno::AccessDenied));
    assert!(world.run_as(&user(7), &rename(a)).is_ok());
}

#[test]
fn a_setgid_directory_hands_its_group_down() {
    let mut world = World::new();
    let shared = world
        .mkdir_as(&Caller::ROOT, ROOT, "shared", 0o777)
        .unwrap()
        .inode;
    world.set(&Caller::ROOT, shared, owner(None, Some(50))).unwrap();
    world.set(&Caller::ROOT, shared, mode(0o2777)).unwrap();
    let below = world.mkdir_as(&user(7), shared, "dir", 0o755).unwrap();
    assert_eq!((below.group, below.mode), (50, 0o2755));
    let file = world.create_as(&user(7), shared, "file", 0o2755).unwrap();
    assert_eq!(
        (file.group, file.mode),
        (50, 0o755),
        "who is not in the group makes no program that runs as it"
    );
    let member = Caller {
        user: 7,
        group: 7,
        groups: vec![50],
        ..Caller::ROOT
    };
    assert_eq!(
        world.create_as(&member, shared, "program", 0o2755).unwrap().mode,
        0o2755
    );
    assert_eq!(
        world.mkdir_as(&user(7), ROOT, "x", 0o755),
        Err(Errno::AccessDenied)
    );
}

#[test]
fn chmod_is_the_owners_and_clears_setgid_of_strangers() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    assert_eq!(world.set(&user(7), file, mode(0o777)), Err(Errno::NotPermitted));
    world.set(&Caller::ROOT, file, owner(Some(7), Some(50))).unwrap();
    assert_eq!(world.set(&user(7), file, mode(0o6755)).unwrap().mode, 0o4755);
    let member = Caller {
        user: 7,
        group: 7,
        groups: vec![50],
        ..Caller::ROOT
    };
    assert_eq!(world.set(&member, file, mode(0o6755)).unwrap().mode, 0o6755);
    let attributes = world.stat(file);
    assert_eq!(attributes.changed, attributes.changed.max(attributes.modified));
}

#[test]
fn chown_follows_linux() {
    type Case = (Caller, Option<u32>, Option<u32>, Result<(), Errno>);
    let cases: &[Case] = &[
        (Caller::ROOT, Some(9), Some(9), Ok(())),
        (user(7), Some(9), None, Err(Errno::NotPermitted)),
        (user(7), Some(7), None, Ok(())),
        (user(7), None, Some(9), Err(Errno::NotPermitted)),
        (
            Caller {
                user: 7,
                group: 7,
                groups: vec![9],
                ..Caller::ROOT
            },
            None,
            Some(9),
            Ok(()),
        ),
        (user(8), None, Some(8), Err(Errno::NotPermitted)),
    ];
    for (caller, new_user, new_group, expected) in cases {
        let mut world = World::new();
        let file = world.create(ROOT, "file");
        world.set(&Caller::ROOT, file, owner(Some(7), Some(7))).unwrap();
        let result = world.set(caller, file, owner(*new_user, *new_group)).map(|_| ());
        assert_eq!(result, *expected, "{caller:?} to {new_user:?}:{new_group:?}");
    }
}

#[test]
fn chown_clears_privileges_of_files_only() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    for (before, after) in [(0o6755, 0o755), (0o6644, 0o2644), (0o755, 0o755)] {
        world.set(&Caller::ROOT, file, mode(before)).unwrap();
        assert_eq!(
            world.set(&Caller::ROOT, file, owner(Some(3), None)).unwrap().mode,
            after
        );
    }
    let directory = world.mkdir(ROOT, "dir");
    world.set(&Caller::ROOT, directory, mode(0o6755)).unwrap();
    assert_eq!(
        world
            .set(&Caller::ROOT, directory, owner(Some(3), None))
            .unwrap()
            .mode,
        0o6755
    );
}

#[test]
fn writing_by_somebody_else_than_root_clears_privileges() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let set = |world: &mut World| world.set(&Caller::ROOT, file, mode(0o6777)).unwrap();
    set(&mut world);
    world.write_inline(file, 0, b"x").unwrap();
    assert_eq!(world.stat(file).mode, 0o6777);
    let files = vec![FileCommit {
        inode: file,
        writes: Vec::new(),
        modified: None,
        clear_privileges: true,
    }];
    world
        .run(&Operation::Commit {
            objects: Vec::new(),
            files,
        })
        .unwrap();
    assert_eq!(world.stat(file).mode, 0o777);
    set(&mut world);
    let size = AttributeChanges {
        size_bytes: Some(9),
        ..AttributeChanges::default()
    };
    assert_eq!(world.set(&Caller::ROOT, file, size).unwrap().mode, 0o6777);
    assert_eq!(world.set(&user(7), file, size).unwrap().mode, 0o777);
}

#[test]
fn times_are_set_by_the_owner_and_to_now_also_by_writers() {
    let now = Some(TimeChange::Now);
    let given = Some(TimeChange::To(Timestamp {
        seconds: -5,
        nanoseconds: 7,
    }));
    let cases = [
        (user(1), 0o600, given, given, Ok(())),
        (user(2), 0o666, now, now, Ok(())),
        (user(2), 0o644, now, now, Err(Errno::AccessDenied)),
        (user(2), 0o666, given, now, Err(Errno::NotPermitted)),
        (user(2), 0o666, None, now, Err(Errno::NotPermitted)),
        (Caller::ROOT, 0o000, given, now, Ok(())),
    ];
    for (caller, bits, accessed, modified, expected) in cases {
        let mut world = World::new();
        let file = world.create(ROOT, "file");
        world.set(&Caller::ROOT, file, owner(Some(1), Some(1))).unwrap();
        world.set(&Caller::ROOT, file, mode(bits)).unwrap();
        let changes = AttributeChanges {
            accessed,
            modified,
            ..AttributeChanges::default()
        };
        let result = world.set(&caller, file, changes);
        assert_eq!(
            result.map(|_| ()),
            expected,
            "{caller:?} {bits:o} {accessed:?} {modified:?}"
        );
        if let Ok(attributes) = result {
            assert_eq!(attributes.changed, world.stat(file).changed);
            if let Some(TimeChange::To(time)) = accessed {
                assert_eq!(attributes.accessed, time);
            }
        }
    }
}

#[test]
fn who_may_not_open_what_another_made_is_sent_back_to_look() {
    let mut world = World::new();
    let shared = world
        .mkdir_as(&Caller::ROOT, ROOT, "shared", 0o777)
        .unwrap()
        .inode;
    world.create_as(&user(1), shared, "secret", 0o600).unwrap();
    let new = NewInode {
        inode: world.new_inode(),
        mode: 0o644,
        umask: 0,
    };
    let operation = Operation::Create {
        parent: shared,
        name: name("secret"),
        new,
        exclusive: false,
        truncate: false,
    };
    assert_eq!(world.run_as(&user(2), &operation), Err(Errno::Stale));
    assert!(world.run_as(&user(1), &operation).is_ok());
}
