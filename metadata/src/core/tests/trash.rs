//! The trash.

use super::*;

fn trash(world: &mut World) -> Vec<(InodeNumber, String)> {
    let Reply::Trash(items) = world
        .run(&Operation::ListTrash {
            after: None,
            limit: 100,
        })
        .unwrap()
    else {
        panic!()
    };
    items
        .into_iter()
        .map(|item| (item.inode, item.name.to_string()))
        .collect()
}

#[test]
fn what_was_removed_comes_back_whole() {
    let mut world = World::with_trash();
    let directory = world.mkdir(ROOT, "dir");
    let file = world.create(directory, "file");
    world.write_object(file, 0, b"content", Sides::BOTH).unwrap();
    world.set_quota(directory, Some(7), None);
    assert_eq!(removed(world.unlink(directory, "file").unwrap()).links, 0);
    assert_eq!(world.usage(directory), (0, 1), "the trash counts in no directory");
    assert_eq!(crate::core::volume::trash(&world.view).unwrap().used_bytes, 7);
    world.rmdir(ROOT, "dir").unwrap();
    assert_eq!(
        trash(&mut world),
        [(file, "file".into()), (directory, "dir".into())]
    );

    let restore = |inode, to| Operation::RestoreTrash { inode, to };
    assert_eq!(
        world.run(&restore(file, None)),
        Err(Errno::NotFound),
        "its directory is in the trash"
    );
    assert_eq!(
        world.run_as(&user(5), &restore(file, None)),
        Err(Errno::NotPermitted)
    );
    let other = entry(
        world
            .run(&restore(file, Some((ROOT, name("elsewhere")))))
            .unwrap(),
    );
    assert_eq!((other.inode, other.links), (file, 1));
    assert_eq!(world.content(file), b"content");

    entry(world.run(&restore(directory, None)).unwrap());
    assert_eq!(
        (world.lookup(ROOT, "dir"), world.stat(directory).links),
        (Ok(directory), 2)
    );
    let quota = world.run(&Operation::GetUsage { directory }).unwrap();
    let Reply::DirectoryUsage(quota) = quota else {
        panic!()
    };
    assert_eq!(quota.limit_bytes, Some(7));
    assert_eq!(world.run(&restore(directory, None)), Err(Errno::NotFound));
}

#[test]
fn restoring_respects_names_and_limits() {
    let mut world = World::with_trash();
    let file = world.create(ROOT, "file");
    world.write_inline(file, 0, b"content").unwrap();
    world.unlink(ROOT, "file").unwrap();
    world.create(ROOT, "file");
    let back = Operation::RestoreTrash {
        inode: file,
        to: None,
    };
    assert_eq!(world.run(&back), Err(Errno::Exists));
    world.unlink(ROOT, "file").unwrap();
    world.set_quota(ROOT, Some(3), None);
    assert_eq!(world.run(&back), Err(Errno::NoSpace));
}

#[test]
fn trash_expires_after_its_time_and_when_purged() {
    let mut world = World::with_trash();
    let (a, b) = (world.create(ROOT, "a"), world.create(ROOT, "b"));
    world.unlink(ROOT, "a").unwrap();
    world.now = world.now.plus_seconds(80_000);
    world.unlink(ROOT, "b").unwrap();
    world.clean_up(10);
    assert_eq!(trash(&mut world).len(), 2);
    world.now = world.now.plus_seconds(10_000);
    world.clean_up(10);
    assert_eq!(trash(&mut world), [(b, "b".into())]);
    assert_eq!(world.try_stat(a), Err(Errno::Stale));
    let before = world.now;
    world.run(&Operation::PurgeTrash { before }).unwrap();
    world.clean_up(10);
    assert_eq!(trash(&mut world), []);
    assert_eq!(crate::core::volume::trash(&world.view).unwrap().used_inodes, 0);
}

#[test]
fn an_open_file_outlives_the_trash_too() {
    let mut world = World::with_trash();
    let file = world.create(ROOT, "a");
    world.write_inline(file, 0, b"content").unwrap();
    world.open.insert(file);
    world.unlink(ROOT, "a").unwrap();
    world.now = world.now.plus_seconds(100_000);
    world.clean_up(10);
    assert_eq!(trash(&mut world), []);
    assert_eq!(world.content(file), b"content");
    world.open.clear();
    world.clean_up(10);
    assert_eq!(world.try_stat(file), Err(Errno::Stale));
}

#[test]
fn a_replaced_file_goes_to_the_trash() {
    let mut world = World::with_trash();
    world.create(ROOT, "a");
    let b = world.create(ROOT, "b");
    world
        .rename((ROOT, "a"), (ROOT, "b"), RenameMode::Replace)
        .unwrap();
    assert_eq!(trash(&mut world), [(b, "b".into())]);
}
