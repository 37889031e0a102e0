//! Limits of directories and of the volume.

use super::*;

#[test]
fn nested_limits_all_hold() {
    let mut world = World::new();
    let outer = world.mkdir(ROOT, "outer");
    let inner = world.mkdir(outer, "inner");
    let file = world.create(inner, "file");
    world.set_quota(outer, Some(10), None);
    world.set_quota(inner, Some(100), Some(2));
    assert!(world.write_inline(file, 0, &[1; 10]).is_ok());
    assert_eq!(world.write_inline(file, 10, b"x"), Err(Errno::QuotaExceeded));
    assert!(
        world.write_inline(file, 0, &[2; 10]).is_ok(),
        "overwriting needs no more"
    );
    assert_eq!(
        world.create_as(&Caller::ROOT, inner, "more", 0o644),
        Err(Errno::QuotaExceeded)
    );
    assert!(world.create_as(&Caller::ROOT, outer, "more", 0o644).is_ok());
    assert_eq!(world.usage(outer), (10, 4));
}

#[test]
fn the_volumes_limit_is_a_full_disk() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    world.set_quota(ROOT, Some(4), Some(2));
    assert_eq!(world.write_inline(file, 0, &[1; 5]), Err(Errno::NoSpace));
    assert_eq!(
        world.create_as(&Caller::ROOT, ROOT, "more", 0o644),
        Err(Errno::NoSpace)
    );
    world.write_inline(file, 0, &[1; 4]).unwrap();
    world.set_quota(ROOT, Some(1), None);
    assert!(world.truncate(file, 3).is_ok(), "who shrinks is never refused");
}

#[test]
fn renaming_moves_usage_exactly() {
    let mut world = World::new();
    let (a, b) = (world.mkdir(ROOT, "a"), world.mkdir(ROOT, "b"));
    let tree = world.mkdir(a, "tree");
    let below = world.mkdir(tree, "below");
    let file = world.create(below, "file");
    world.write_inline(file, 0, &[1; 50]).unwrap();
    assert_eq!((world.usage(a), world.usage(b)), ((50, 4), (0, 1)));
    world.set_quota(b, Some(49), None);
    assert_eq!(
        world.rename((a, "tree"), (b, "tree"), RenameMode::Replace),
        Err(Errno::QuotaExceeded)
    );
    world.set_quota(b, Some(50), None);
    world
        .rename((a, "tree"), (b, "tree"), RenameMode::Replace)
        .unwrap();
    assert_eq!(
        (world.usage(a), world.usage(b), world.usage(ROOT)),
        ((0, 1), (50, 4), (50, 6))
    );
    world.set_quota(ROOT, Some(1), Some(1));
    assert!(
        world
            .rename((b, "tree"), (a, "tree"), RenameMode::Replace)
            .is_ok(),
        "the volume does not grow"
    );
}

#[test]
fn files_with_several_names_stay_within_their_limits() {
    let mut world = World::new();
    let (a, b) = (world.mkdir(ROOT, "a"), world.mkdir(ROOT, "b"));
    let file = world.create(a, "file");
    world.set_quota(a, Some(100), None);
    assert_eq!(world.link(file, b, "link"), Err(Errno::CrossDevice));
    world.link(file, a, "link").unwrap();
    assert_eq!(world.usage(a), (0, 2), "counted once");
    assert_eq!(
        world.rename((a, "link"), (b, "link"), RenameMode::Replace),
        Err(Errno::CrossDevice)
    );
    world.unlink(a, "file").unwrap();
    assert!(
        world
            .rename((a, "link"), (b, "link"), RenameMode::Replace)
            .is_ok()
    );
    assert_eq!((world.usage(a), world.usage(b)), ((0, 1), (0, 2)));
}

#[test]
fn statfs_tells_of_the_nearest_limits() {
    let mut world = World::new();
    let outer = world.mkdir(ROOT, "outer");
    let inner = world.mkdir(outer, "inner");
    let file = world.create(inner, "file");
    world.write_inline(file, 0, &[1; 5]).unwrap();
    let mut statfs = |inode| match world.run(&Operation::StatFileSystem { inode }).unwrap() {
        Reply::FileSystem(usage) => usage,
        other => panic!("{other:?}"),
    };
    assert_eq!((statfs(file).used_inodes, statfs(file).limit_bytes), (4, None));
    world.set_quota(outer, Some(9), None);
    let mut statfs = |inode| match world.run(&Operation::StatFileSystem { inode }).unwrap() {
        Reply::FileSystem(usage) => usage,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (
            statfs(file).used_bytes,
            statfs(inner).used_inodes,
            statfs(file).limit_bytes
        ),
        (5, 3, Some(9))
    );
    assert_eq!(statfs(ROOT).limit_bytes, None);
    let stranger = Operation::SetQuota {
        directory: outer,
        limit_bytes: None,
        limit_inodes: None,
    };
    assert_eq!(world.run_as(&user(3), &stranger), Err(Errno::NotPermitted));
}

#[test]
fn taking_a_name_away_is_never_refused_by_a_limit() {
    let mut world = World::new();
    let (a, b) = (world.mkdir(ROOT, "a"), world.mkdir(ROOT, "b"));
    let file = world.create(a, "file");
    world.write_inline(file, 0, &[1; 50]).unwrap();
    world.link(file, b, "link").unwrap();
    world.set_quota(b, Some(10), Some(1));
    assert!(
        world.unlink(a, "file").is_ok(),
        "its other name takes over, whatever the limit there"
    );
    assert_eq!((world.usage(a), world.usage(b)), ((0, 1), (50, 2)));
}
