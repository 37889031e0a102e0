//! Snapshots, clones, and what is restored.

use twinshore_protocol::claims::{ClaimRequest, CopySource, Refused, Snapshot, SnapshotKey, SnapshotsPage};

use super::claims::{ask, claim, claim_with, get, key, path, release, request};
use super::*;

fn snapshot_key(text: &str) -> SnapshotKey {
    text.parse().unwrap()
}

fn snapshot(world: &mut World, snapshot: &str, claim: &str) -> Result<Snapshot, Refused> {
    let operation = Operation::CreateSnapshot {
        key: snapshot_key(snapshot),
        source: key(claim),
    };
    match ask(world, &operation)? {
        Reply::Snapshot(snapshot) => Ok(*snapshot),
        other => panic!("{other:?}"),
    }
}

fn get_snapshot(world: &mut World, snapshot: &str) -> Result<Snapshot, Refused> {
    let key = snapshot_key(snapshot);
    match ask(world, &Operation::GetSnapshot { key })? {
        Reply::Snapshot(snapshot) => Ok(*snapshot),
        other => panic!("{other:?}"),
    }
}

fn delete(world: &mut World, snapshot: &str) -> Result<(), Refused> {
    let key = snapshot_key(snapshot);
    ask(world, &Operation::DeleteSnapshot { key }).map(|reply| assert_eq!(reply, Reply::Done))
}

fn from(claim: &str, directory: &str, source: CopySource) -> ClaimRequest {
    ClaimRequest {
        source: Some(source),
        ..request(claim, directory, 0)
    }
}

/// Copies until nothing is under way. Tells how many pieces it took.
fn copy_all(world: &mut World) -> usize {
    for pieces in 0..10_000 {
        if world.maintain(&Maintenance::CopyOn) == Ok(Reply::Offset(0)) {
            return pieces;
        }
    }
    panic!("copying does not end");
}

/// A tree with some of everything.
fn furnish(world: &mut World, directory: InodeNumber) {
    let inner = world.mkdir(directory, "inner");
    world.set_quota(inner, Some(1 << 20), Some(100));
    let file = world.create(inner, "file");
    world.write_object(file, 0, b"object", Sides::BOTH).unwrap();
    world.write_inline(file, 10, b"inline").unwrap();
    world.link(file, inner, "hard").unwrap();
    world
        .run(&Operation::SetExtendedAttribute {
            inode: file,
            name: Bytes::from_static(b"user.color"),
            value: Bytes::from_static(b"red"),
            mode: twinshore_protocol::operation::SetMode::Any,
        })
        .unwrap();
    let inode = world.new_inode();
    world
        .run(&Operation::SymbolicLink {
            parent: directory,
            name: name("link"),
            inode,
            target: Bytes::from_static(b"inner/file"),
        })
        .unwrap();
    let new = NewInode {
        inode: world.new_inode(),
        mode: 0o600,
        umask: 0,
    };
    world
        .run(&Operation::MakeNode {
            parent: directory,
            name: name("pipe"),
            new,
            kind: FileType::Fifo,
            device: 0,
        })
        .unwrap();
    world.create(directory, "empty");
}

/// All that a tree shows, by path.
fn shown(world: &mut World, directory: InodeNumber) -> BTreeMap<String, String> {
    world.checked = false;
    let mut all = BTreeMap::new();
    let mut todo = vec![(String::new(), directory)];
    while let Some((at, directory)) = todo.pop() {
        let operation = Operation::ReadDirectory {
            directory,
            after: 0,
            limit: 10_000,
            with_attributes: true,
            until: None,
        };
        let Ok(Reply::Directory { entries, .. }) = world.run(&operation) else {
            panic!()
        };
        for entry in entries {
            let at = format!("{at}/{}", entry.name);
            let attributes = entry.attributes.unwrap();
            let content = match entry.kind {
                FileType::Regular => format!("{:?}", world.content(entry.inode)),
                FileType::SymbolicLink => {
                    format!("{:?}", world.run(&Operation::ReadLink { inode: entry.inode }))
                }
                FileType::Directory => format!("{:?}", world.usage(entry.inode)),
                _ => String::new(),
            };
            let names = world.run(&Operation::ListExtendedAttributes { inode: entry.inode });
            let comparable = Attributes {
                inode: ROOT,
                content_version: Position::ZERO,
                ..attributes
            };
            all.insert(at.clone(), format!("{comparable:?} {content} {names:?}"));
            if entry.kind == FileType::Directory {
                todo.push((at, entry.inode));
            }
        }
    }
    world.checked = true;
    all
}

#[test]
fn a_small_snapshot_is_complete_at_once_and_shows_its_moment_for_ever() {
    let mut world = World::new();
    let data = claim(&mut world, "east/pvc-1", "/team/data", 1 << 20).unwrap();
    furnish(&mut world, data.directory);
    let before = shown(&mut world, data.directory);
    let made = snapshot(&mut world, "east/snap-1", "east/pvc-1").unwrap();
    let used = get(&mut world, "east/pvc-1").unwrap();
    assert!(made.ready);
    assert_eq!(
        (made.size_bytes, made.inodes),
        (used.used_bytes, used.used_inodes)
    );
    assert_eq!(
        snapshot(&mut world, "east/snap-1", "east/pvc-1"),
        Ok(made.clone())
    );

    // Everything goes, the snapshot stays, and what it names in the buckets.
    let inner = world.lookup(data.directory, "inner").unwrap();
    let hard = world.lookup(inner, "hard").unwrap();
    world
        .write_inline(hard, 0, b"overwritten with something else")
        .unwrap();
    world.unlink(inner, "hard").unwrap();
    release(&mut world, "east/pvc-1").unwrap();
    world.now = world.now.plus_seconds(1000);
    world.clean_up(3);
    assert_eq!(crate::core::volume::objects(&world.view).unwrap().len(), 1);

    let restored = from(
        "west/pvc-2",
        "/team/restored",
        CopySource::Snapshot(snapshot_key("east/snap-1")),
    );
    let restored = claim_with(&mut world, restored).unwrap();
    assert!(restored.ready);
    assert_eq!(shown(&mut world, restored.directory), before);
    let inner = world.lookup(restored.directory, "inner").unwrap();
    assert_eq!(
        world.lookup(inner, "file"),
        world.lookup(inner, "hard"),
        "two names, one file"
    );
    let quota = world.run(&Operation::GetUsage { directory: inner });
    assert!(matches!(quota, Ok(Reply::DirectoryUsage(usage)) if usage.limit_inodes == Some(100)));

    delete(&mut world, "east/snap-1").unwrap();
    delete(&mut world, "east/snap-1").unwrap();
    release(&mut world, "west/pvc-2").unwrap();
    world.clean_up(2);
    assert!(crate::core::volume::objects(&world.view).unwrap().is_empty());
    assert_eq!(
        world.usage(ROOT),
        (0, 3),
        "the root, the directory of the team, what is hidden"
    );
}

#[test]
fn a_clone_is_a_directory_of_its_own_and_begins_only_where_there_is_nothing() {
    let mut world = World::new();
    let data = claim(&mut world, "east/pvc-1", "/team/data", 1 << 20).unwrap();
    furnish(&mut world, data.directory);
    let before = shown(&mut world, data.directory);
    let source = || CopySource::Claim(key("east/pvc-1"));
    let clone = claim_with(&mut world, from("east/pvc-2", "/team/clone", source())).unwrap();
    assert!(clone.ready);
    assert_eq!(shown(&mut world, clone.directory), before);
    assert_eq!(
        claim_with(&mut world, from("east/pvc-2", "/team/clone", source())),
        Ok(clone.clone())
    );
    world.unlink(clone.directory, "empty").unwrap();
    assert_eq!(shown(&mut world, data.directory), before);

    // The same of the other cluster joins; who asks for something else does not.
    assert!(claim_with(&mut world, from("west/pvc-2", "/team/clone", source())).is_ok());
    assert!(claim(&mut world, "north/pvc-2", "/team/clone", 0).is_ok());
    let other = CopySource::Claim(key("east/pvc-2"));
    for occupied in ["/team/clone", "/team/data"] {
        assert_eq!(
            claim_with(&mut world, from("east/pvc-3", occupied, other.clone())),
            Err(Refused::Occupied(path(occupied)))
        );
    }
    let small = ClaimRequest {
        capacity_bytes: 3,
        ..from("east/pvc-4", "/team/small", source())
    };
    let refused = claim_with(&mut world, small);
    assert!(
        matches!(refused, Err(Refused::SourceTooLarge { asked_bytes: 3, .. })),
        "{refused:?}"
    );
}

/// A claim of many files, and one of many extents.
fn large(world: &mut World, directory: InodeNumber) {
    world.checked = false;
    for at in 0..2500 {
        world.create(directory, &format!("file-{at}"));
    }
    let file = world.create(directory, "extents");
    for at in 0..400 {
        world.write_inline(file, at * 100, b"x").unwrap();
    }
    world.checked = true;
    world.assert_consistent(&"a large tree");
}

#[test]
fn a_large_copy_goes_on_in_the_background_and_is_not_seen_before_it_is_complete() {
    let mut world = World::new();
    let data = claim(&mut world, "east/pvc-1", "/data", 0).unwrap();
    large(&mut world, data.directory);
    let before = shown(&mut world, data.directory);
    let source = CopySource::Claim(key("east/pvc-1"));
    let clone = claim_with(&mut world, from("east/pvc-2", "/clone", source)).unwrap();
    assert!(!clone.ready);
    assert_eq!(world.lookup(ROOT, "clone"), Err(Errno::NotFound));
    let under_way = crate::core::copying::under_way(&world.view).unwrap();
    assert_eq!(under_way[0].frozen, Some(data.directory));
    let busy = release(&mut world, "east/pvc-1");
    assert!(matches!(busy, Err(Refused::BeingCopied(_))), "{busy:?}");
    let busy = snapshot(&mut world, "east/snap-1", "east/pvc-2");
    assert!(matches!(busy, Err(Refused::BeingCopied(_))), "{busy:?}");

    assert!(copy_all(&mut world) > 1);
    let clone = get(&mut world, "east/pvc-2").unwrap();
    assert!(clone.ready);
    assert_eq!(world.lookup(ROOT, "clone"), Ok(clone.directory));
    assert_eq!(shown(&mut world, clone.directory), before);
    release(&mut world, "east/pvc-1").unwrap();
}

#[test]
fn a_copy_that_is_given_up_leaves_nothing() {
    let mut world = World::new();
    let data = claim(&mut world, "east/pvc-1", "/data", 0).unwrap();
    large(&mut world, data.directory);
    let before = world.usage(ROOT).1;
    assert!(!snapshot(&mut world, "east/snap-1", "east/pvc-1").unwrap().ready);
    delete(&mut world, "east/snap-1").unwrap();
    let source = || CopySource::Claim(key("east/pvc-1"));
    claim_with(&mut world, from("east/pvc-2", "/clone", source())).unwrap();
    release(&mut world, "east/pvc-2").unwrap();
    copy_all(&mut world);
    world.clean_up(1000);
    assert_eq!(world.usage(ROOT).1, before + 1, "what is hidden");

    // A name that is taken meanwhile, and a copy that takes too long: it says why until it is released.
    claim_with(&mut world, from("east/pvc-3", "/clone", source())).unwrap();
    world.mkdir(ROOT, "clone");
    copy_all(&mut world);
    let failed = get(&mut world, "east/pvc-3").unwrap_err();
    assert!(failed.to_string().contains("was made meanwhile"), "{failed}");
    release(&mut world, "east/pvc-3").unwrap();
    snapshot(&mut world, "east/snap-1", "east/pvc-1").unwrap();
    let copy = crate::core::copying::under_way(&world.view).unwrap()[0].copy;
    let reason = "too slow".to_owned();
    world.maintain(&Maintenance::FailCopy { copy, reason }).unwrap();
    let failed = get_snapshot(&mut world, "east/snap-1").unwrap_err();
    assert!(failed.to_string().contains("too slow"), "{failed}");
    delete(&mut world, "east/snap-1").unwrap();
    copy_all(&mut world);
    world.clean_up(1000);
    assert_eq!(
        world.usage(ROOT).1,
        before + 2,
        "what is hidden, and the directory in the way"
    );
}

#[test]
fn a_copy_needs_room_in_the_volume() {
    let mut world = World::new();
    let data = claim(&mut world, "east/pvc-1", "/data", 0).unwrap();
    let file = world.create(data.directory, "file");
    world.write_inline(file, 0, &[1; 600]).unwrap();
    world.set_quota(ROOT, Some(1000), None);
    let create = Operation::CreateSnapshot {
        key: snapshot_key("east/snap-1"),
        source: key("east/pvc-1"),
    };
    assert_eq!(world.run(&create), Err(Errno::NoSpace));
    world.set_quota(ROOT, Some(1200), None);
    assert!(world.run(&create).is_ok());
    assert_eq!(world.usage(ROOT).0, 1200, "a snapshot counts in the volume");
}

#[test]
fn snapshots_are_listed_by_cluster_and_source() {
    let mut world = World::new();
    for claim_key in ["east/a", "east/b"] {
        claim(&mut world, claim_key, &format!("/{claim_key}"), 0).unwrap();
    }
    for (snapshot_key, source) in [("east/2", "east/a"), ("east/1", "east/b"), ("west/1", "east/a")] {
        snapshot(&mut world, snapshot_key, source).unwrap();
    }
    let mut list = |region: Option<&str>, source: Option<&str>, from, limit| {
        let operation = Operation::ListSnapshots {
            region: region.map(|region| region.parse().unwrap()),
            source: source.map(key),
            from,
            limit,
        };
        let Ok(Reply::Snapshots(SnapshotsPage { snapshots, next })) = ask(&mut world, &operation) else {
            panic!()
        };
        let keys: Vec<_> = snapshots
            .iter()
            .map(|snapshot| snapshot.key.to_string())
            .collect();
        (keys.join(" "), next)
    };
    assert_eq!(
        list(None, None, None, 10),
        ("east/1 east/2 west/1".to_owned(), None)
    );
    assert_eq!(
        list(Some("east"), Some("east/a"), None, 10),
        ("east/2".to_owned(), None)
    );
    let (first, next) = list(None, None, None, 2);
    assert_eq!(first, "east/1 east/2");
    assert_eq!(list(None, None, next, 2), ("west/1".to_owned(), None));
}
