//! What one mount sees of another's changes, and what it answers without asking.

use twinshore_protocol::lock::{Lock, LockFamily, LockKind};
use twinshore_protocol::message::Invalidation;
use twinshore_protocol::{Caller, Errno, InodeNumber, Operation, Side};

use super::world::{World, name, pattern};
use crate::vfs::{Found, OpenFlags};

const ROOT: InodeNumber = InodeNumber::ROOT;

#[tokio::test(start_paused = true)]
async fn what_is_closed_on_one_mount_is_read_on_the_other() {
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Target).await);
    let file = one.create("f").await;
    one.write(file, 0, b"first").await;
    one.flush(file).await.unwrap();
    let there = two.open("f").await;
    assert_eq!(two.read(there, 0, 100).await, "first");
    two.write(there, 0, b"SECOND!").await;
    assert_eq!(one.read(file, 0, 100).await, "first");
    two.flush(there).await.unwrap();
    assert!(
        one.kernel
            .dropped
            .lock()
            .unwrap()
            .contains(&Invalidation::Content(file.0))
    );
    assert!(one.vfs.cached_attributes(file.0).is_none());
    assert_eq!(one.read(file, 0, 100).await, "SECOND!");
}

#[tokio::test(start_paused = true)]
async fn names_are_answered_without_asking_until_they_are_recalled() {
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Target).await);
    let absent = two.vfs.lookup(Caller::ROOT, ROOT, name("f")).await.unwrap();
    assert!(matches!(absent, Found::Absent(time_to_live) if !time_to_live.is_zero()));
    assert!(matches!(
        two.vfs.cached_lookup(ROOT, &name("f")),
        Some(Found::Absent(_))
    ));
    let (inode, _) = one.create("f").await;
    assert_eq!(two.vfs.cached_lookup(ROOT, &name("f")), None);
    let found = two.vfs.lookup(Caller::ROOT, ROOT, name("f")).await.unwrap();
    assert!(
        matches!(found, Found::Entry(entry) if entry.attributes.inode == inode && !entry.time_to_live.is_zero())
    );
    let asked = world.service.state.lock().unwrap().log.len();
    two.vfs.lookup(Caller::ROOT, ROOT, name("f")).await.unwrap();
    two.vfs.attributes(Caller::ROOT, inode).await.unwrap();
    assert_eq!(world.service.state.lock().unwrap().log.len(), asked);
    one.vfs.unlink(Caller::ROOT, ROOT, name("f")).await.unwrap();
    assert!(matches!(
        two.vfs.lookup(Caller::ROOT, ROOT, name("f")).await.unwrap(),
        Found::Absent(_)
    ));
    assert!(matches!(
        one.vfs.cached_lookup(ROOT, &name("f")),
        Some(Found::Absent(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_rename_moves_what_is_known() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let (inode, _) = mount.create("a").await;
    mount
        .vfs
        .rename(
            Caller::ROOT,
            ROOT,
            name("a"),
            ROOT,
            name("b"),
            twinshore_protocol::operation::RenameMode::Replace,
        )
        .await
        .unwrap();
    assert!(matches!(
        mount.vfs.cached_lookup(ROOT, &name("a")),
        Some(Found::Absent(_))
    ));
    assert!(
        matches!(mount.vfs.cached_lookup(ROOT, &name("b")), Some(Found::Entry(entry)) if entry.attributes.inode == inode)
    );
}

#[tokio::test(start_paused = true)]
async fn a_large_directory_is_listed_completely_from_pages_ahead() {
    const FILES: usize = 9000;
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Target).await);
    for number in 0..FILES {
        one.create(&format!("f{number:04}")).await;
    }
    let handle = two.vfs.open_directory(ROOT);
    let list = async |after| {
        let listed = two.vfs.list(Caller::ROOT, ROOT, handle, after, 100, false).await;
        listed.unwrap()
    };
    // The kernel may go back, and on from anywhere.
    let first = list(0).await;
    let apart = first.entries[1].cookie - first.entries[0].cookie;
    let jumped = list(first.entries[50].cookie + 4000 * apart).await;
    assert_eq!(jumped.entries[0].name.to_string(), "f4051");
    let (mut after, mut listed) = (0, 0);
    loop {
        let page = list(after).await;
        for entry in &page.entries {
            assert_eq!(entry.name.to_string(), format!("f{listed:04}"));
            listed += 1;
            after = entry.cookie;
        }
        if page.complete {
            break;
        }
    }
    assert_eq!(listed, FILES);
    assert!(matches!(
        two.vfs.cached_lookup(ROOT, &name("nothing")),
        Some(Found::Absent(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_listed_directory_answers_names_and_absence() {
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Target).await);
    for number in 0..1500 {
        one.create(&format!("f{number:04}")).await;
    }
    let handle = two.vfs.open_directory(ROOT);
    let (mut after, mut listed) = (0, Vec::new());
    loop {
        let page = two
            .vfs
            .list(Caller::ROOT, ROOT, handle, after, 100, true)
            .await
            .unwrap();
        after = page.entries.last().map_or(after, |entry| entry.cookie);
        assert!(page.entries.iter().all(|entry| entry.attributes.is_some()));
        listed.extend(page.entries.into_iter().map(|entry| entry.name.to_string()));
        if page.complete {
            break;
        }
    }
    assert_eq!(
        listed,
        (0..1500)
            .map(|number| format!("f{number:04}"))
            .collect::<Vec<_>>()
    );
    assert!(
        world
            .service
            .count(|operation| matches!(operation, Operation::ReadDirectory { .. }))
            <= 3
    );
    assert!(matches!(
        two.vfs.cached_lookup(ROOT, &name("f0700")),
        Some(Found::Entry(_))
    ));
    assert!(matches!(
        two.vfs.cached_lookup(ROOT, &name("nothing")),
        Some(Found::Absent(_))
    ));
    // A second listing needs no message, until something changes.
    assert_eq!(
        two.vfs
            .cached_list(ROOT, handle, 0, 10, true)
            .unwrap()
            .entries
            .len(),
        10
    );
    one.create("another").await;
    assert_eq!(two.vfs.cached_list(ROOT, handle, 0, 10, true), None);
    assert_eq!(two.vfs.cached_lookup(ROOT, &name("another")), None);
    assert!(matches!(
        two.vfs.cached_lookup(ROOT, &name("nothing")),
        Some(Found::Absent(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn the_kernel_keeps_its_pages_as_long_as_nobody_else_writes() {
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Target).await);
    let file = one.create("f").await;
    one.write(file, 0, b"mine").await;
    one.flush(file).await.unwrap();
    let reopen = || one.vfs.open(Caller::ROOT, file.0, OpenFlags::default());
    assert!(reopen().await.unwrap().keep_cache);
    let there = two.open("f").await;
    two.write(there, 0, b"else").await;
    two.flush(there).await.unwrap();
    assert!(!reopen().await.unwrap().keep_cache);
    one.vfs.attributes(Caller::ROOT, file.0).await.unwrap();
    reopen().await.unwrap();
    assert!(reopen().await.unwrap().keep_cache);
}

#[tokio::test(start_paused = true)]
async fn extended_attributes_and_their_absence_are_leased() {
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Target).await);
    let (inode, _) = one.create("f").await;
    let get = || one.vfs.extended_attribute(Caller::ROOT, inode, "user.a".into());
    assert_eq!(get().await, Err(Errno::NoData));
    assert_eq!(
        one.vfs.cached_extended_attribute(inode, b"user.a"),
        Some(Err(Errno::NoData))
    );
    let mode = twinshore_protocol::operation::SetMode::Any;
    two.vfs
        .set_extended_attribute(Caller::ROOT, inode, "user.a".into(), "1".into(), mode)
        .await
        .unwrap();
    assert_eq!(one.vfs.cached_extended_attribute(inode, b"user.a"), None);
    assert_eq!(get().await.unwrap(), "1");
}

#[tokio::test(start_paused = true)]
async fn whoever_gets_a_lock_sees_what_was_written_under_it() {
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Target).await);
    let file = one.create("f").await;
    let there = two.open("f").await;
    let lock = |kind| Lock {
        family: LockFamily::Record,
        kind,
        start: 0,
        end: u64::MAX,
        owner: 5,
        process: 1,
    };
    one.vfs
        .set_lock(Caller::ROOT, file.0, lock(LockKind::Write), false)
        .await
        .unwrap();
    one.write(file, 0, b"under the lock").await;
    assert_eq!(
        two.vfs
            .set_lock(Caller::ROOT, file.0, lock(LockKind::Write), false)
            .await,
        Err(Errno::Again)
    );
    one.vfs
        .set_lock(Caller::ROOT, file.0, lock(LockKind::Unlock), false)
        .await
        .unwrap();
    two.vfs
        .set_lock(Caller::ROOT, file.0, lock(LockKind::Write), false)
        .await
        .unwrap();
    assert_eq!(two.read(there, 0, 100).await, "under the lock");
    // Closing gives record locks back.
    two.vfs.flush(Caller::ROOT, there.0, there.1, 5).await.unwrap();
    one.vfs
        .set_lock(Caller::ROOT, file.0, lock(LockKind::Write), false)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_readers_of_a_cold_file_fetch_each_block_once() {
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Primary).await);
    let file = one.create("f").await;
    let data = pattern(1, 3 << 20);
    one.write(file, 0, &data).await;
    one.flush(file).await.unwrap();
    let there = two.open("f").await;
    let reads = (0..32).map(|_| two.read(there, 1 << 20, 64 << 10));
    for bytes in futures::future::join_all(reads).await {
        assert_eq!(bytes, data[1 << 20..(1 << 20) + (64 << 10)]);
    }
    // The header of the object, and the block.
    assert!(world.shores[0].gets.load(std::sync::atomic::Ordering::SeqCst) <= 2);
    assert!(two.vfs.cached_read(there.0, there.1, 1 << 20, 64 << 10).is_some());
    assert!(two.vfs.cached_read(there.0, there.1, 2 << 20, 64 << 10).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_sequential_reader_finds_its_blocks_fetched_ahead() {
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Primary).await);
    let file = one.create("f").await;
    let data = pattern(2, 24 << 20);
    for (index, part) in data.chunks(4 << 20).enumerate() {
        one.write(file, (index as u64) << 22, part).await;
    }
    one.flush(file).await.unwrap();
    let there = two.open("f").await;
    let mut cached = 0;
    for index in 0..192usize {
        let offset = (index as u64) << 17;
        let expected = &data[index << 17..(index + 1) << 17];
        if let Some(bytes) = two.vfs.cached_read(there.0, there.1, offset, 1 << 17) {
            cached += 1;
            assert_eq!(bytes, expected);
        } else {
            assert_eq!(two.read(there, offset, 1 << 17).await, expected);
        }
        // Lets what was fetched ahead arrive.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert!(cached > 180, "{cached} of 192 reads were answered from memory");
}
