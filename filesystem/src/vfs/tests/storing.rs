//! How written bytes are stored: inline, packed, in objects of their own.

use std::time::Duration;

use twinshore_protocol::attributes::{AttributeChanges, TimeChange};
use twinshore_protocol::operation::{AllocateMode, FileCommit};
use twinshore_protocol::{Caller, ExtentSource, InodeNumber, Operation, Side, Timestamp};

use super::world::{World, name, pattern, until};
use crate::vfs::OpenFlags;

fn commits(world: &World) -> Vec<(usize, Vec<FileCommit>)> {
    let state = world.service.state.lock().unwrap();
    state
        .log
        .iter()
        .filter_map(|operation| match operation {
            Operation::Commit { objects, files } => Some((objects.len(), files.clone())),
            _ => None,
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_read_before_and_after_it_is_stored() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    let data = pattern(1, 1 << 20);
    mount.write(file, 0, &data).await;
    mount.write(file, 1000, b"over").await;
    let mut expected = data.clone();
    expected[1000..1004].copy_from_slice(b"over");
    assert_eq!(mount.read(file, 0, 2 << 20).await, expected);
    assert_eq!(
        mount.vfs.cached_attributes(file.0).unwrap().attributes.size_bytes,
        1 << 20
    );
    mount.flush(file).await.unwrap();
    assert_eq!(mount.vfs.unwritten_bytes(), 0);
    assert_eq!(mount.read(file, 0, 2 << 20).await, expected);
    assert_eq!(world.service.attributes(file.0).size_bytes, 1 << 20);

    let other = world.mount(Side::Target).await;
    let file = other.open("f").await;
    assert_eq!(other.read(file, 0, 2 << 20).await, expected);
    assert_eq!(other.read(file, 500_000, 777).await, expected[500_000..500_777]);
}

#[tokio::test(start_paused = true)]
async fn a_small_file_is_committed_inline_without_a_put() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    mount.write(file, 0, b"hello").await;
    mount.write(file, 5, b" world").await;
    mount.flush(file).await.unwrap();
    let commits = commits(&world);
    assert_eq!(commits.len(), 1);
    assert_eq!(commits[0].0, 0);
    assert!(
        matches!(&commits[0].1[0].writes[..], [write] if write.source == ExtentSource::Inline("hello world".into()))
    );
    assert_eq!(world.shores[0].puts(), 0);
    assert_eq!(mount.read(file, 0, 100).await, "hello world");
}

#[tokio::test(start_paused = true)]
async fn files_flushed_together_share_an_object_and_a_commit() {
    let world = World::new();
    *world.shores[0].put_takes.lock().unwrap() = Duration::from_millis(50);
    let mount = world.mount(Side::Primary).await;
    let mut files = Vec::new();
    for number in 0..64 {
        let file = mount.create(&format!("f{number}")).await;
        mount.write(file, 0, &pattern(number, 10_000)).await;
        files.push(file);
    }
    let flushes = files.iter().map(|file| mount.flush(*file));
    for flushed in futures::future::join_all(flushes).await {
        flushed.unwrap();
    }
    let commits = commits(&world);
    assert_eq!(commits.iter().map(|(_, files)| files.len()).sum::<usize>(), 64);
    assert!(commits.len() <= 4, "{} commits", commits.len());
    assert_eq!(world.shores[0].puts(), commits.len());
    mount.blocks.map.lock().unwrap().clear();
    for (number, file) in files.iter().enumerate() {
        assert_eq!(mount.read(*file, 0, 20_000).await, pattern(number as u64, 10_000));
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_file_is_uploaded_in_parallel_while_it_is_written() {
    let world = World::new();
    *world.shores[0].put_takes.lock().unwrap() = Duration::from_millis(100);
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    let data = pattern(3, 33 << 20);
    let started = tokio::time::Instant::now();
    for (index, part) in data.chunks(1 << 20).enumerate() {
        mount.write(file, (index as u64) << 20, part).await;
    }
    mount.flush(file).await.unwrap();
    assert!(
        started.elapsed() < Duration::from_millis(350),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(world.service.state.lock().unwrap().objects.len(), 9);
    mount.blocks.map.lock().unwrap().clear();
    for offset in [0, 5 << 20, (32 << 20) + 17] {
        assert_eq!(
            mount.read(file, offset, 300_000).await,
            data[offset as usize..offset as usize + 300_000]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_memory_instead_of_growing() {
    let world = World::new();
    *world.shores[0].put_takes.lock().unwrap() = Duration::from_millis(20);
    let mut options = World::options();
    options.buffer_size_bytes = 16 << 20;
    let mount = world.mount_with(Side::Primary, options).await;
    let file = mount.create("f").await;
    let part = pattern(4, 1 << 20);
    for index in 0..100u64 {
        mount.write(file, index << 20, &part).await;
        assert!(mount.vfs.unwritten_bytes() <= 16 << 20);
    }
    mount.flush(file).await.unwrap();
    assert_eq!(world.service.attributes(file.0).size_bytes, 100 << 20);
}

#[tokio::test(start_paused = true)]
async fn unflushed_data_is_written_out_when_idle() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    mount.write(file, 0, b"idle").await;
    assert_eq!(world.service.attributes(file.0).size_bytes, 0);
    until(|| world.service.attributes(file.0).size_bytes == 4).await;
    assert_eq!(mount.flush(file).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_time_set_after_a_write_stays_after_close() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    mount.write(file, 0, b"x").await;
    let set = Timestamp {
        seconds: 42,
        nanoseconds: 7,
    };
    let changes = AttributeChanges {
        modified: Some(TimeChange::To(set)),
        ..AttributeChanges::default()
    };
    mount
        .vfs
        .set_attributes(Caller::ROOT, file.0, changes)
        .await
        .unwrap();
    mount.flush(file).await.unwrap();
    mount.vfs.release(file.0, file.1, None);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.service.attributes(file.0).modified, set);
    assert_eq!(
        mount
            .vfs
            .attributes(Caller::ROOT, file.0)
            .await
            .unwrap()
            .attributes
            .modified,
        set
    );
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_write_is_that_of_the_write_and_not_of_the_close() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    mount.write(file, 0, b"x").await;
    let seen = mount
        .vfs
        .attributes(Caller::ROOT, file.0)
        .await
        .unwrap()
        .attributes
        .modified;
    tokio::time::sleep(Duration::from_millis(500)).await;
    mount.flush(file).await.unwrap();
    assert_eq!(
        mount
            .vfs
            .attributes(Caller::ROOT, file.0)
            .await
            .unwrap()
            .attributes
            .modified,
        seen
    );
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_write_clears_privileges_and_a_later_chmod_stays() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    let mode = |mode| AttributeChanges {
        mode: Some(mode),
        ..AttributeChanges::default()
    };
    mount
        .vfs
        .set_attributes(Caller::ROOT, file.0, mode(0o4755))
        .await
        .unwrap();
    let user = Caller {
        user: 1000,
        group: 1000,
        groups: Vec::new(),
        ..Caller::ROOT
    };
    mount
        .vfs
        .write(user.clone(), file.0, file.1, 0, "x".into())
        .await
        .unwrap();
    mount.flush(file).await.unwrap();
    assert_eq!(world.service.attributes(file.0).mode, 0o755);
    mount
        .vfs
        .write(user, file.0, file.1, 0, "y".into())
        .await
        .unwrap();
    mount
        .vfs
        .set_attributes(Caller::ROOT, file.0, mode(0o4755))
        .await
        .unwrap();
    mount.flush(file).await.unwrap();
    assert_eq!(world.service.attributes(file.0).mode, 0o4755);
}

#[tokio::test(start_paused = true)]
async fn truncating_and_allocating_see_what_was_written_before() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    mount.write(file, 0, &[1; 10_000]).await;
    let size = |size| AttributeChanges {
        size_bytes: Some(size),
        ..AttributeChanges::default()
    };
    let cut = mount
        .vfs
        .set_attributes(Caller::ROOT, file.0, size(5000))
        .await
        .unwrap();
    assert_eq!(cut.attributes.size_bytes, 5000);
    mount
        .vfs
        .set_attributes(Caller::ROOT, file.0, size(8000))
        .await
        .unwrap();
    mount.write(file, 7999, &[2]).await;
    mount
        .vfs
        .allocate(Caller::ROOT, file.0, 100, 50, AllocateMode::PunchHole)
        .await
        .unwrap();
    let mut expected = vec![0; 8000];
    expected[..5000].fill(1);
    expected[100..150].fill(0);
    expected[7999] = 2;
    assert_eq!(mount.read(file, 0, 9000).await, expected);
}

#[tokio::test(start_paused = true)]
async fn an_append_goes_to_the_end_that_the_service_knows() {
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Target).await);
    let first = one.create("log").await;
    one.write(first, 0, b"one\n").await;
    one.flush(first).await.unwrap();
    let (inode, _) = two.open("log").await;
    let flags = OpenFlags {
        append: true,
        write: true,
        ..OpenFlags::default()
    };
    let handle = two.vfs.open(Caller::ROOT, inode, flags).await.unwrap().handle;
    // What the kernel believes to be the end is out of date.
    two.write((inode, handle), 0, b"two\n").await;
    two.flush((inode, handle)).await.unwrap();
    assert_eq!(one.read(first, 0, 100).await, "one\ntwo\n");
}

#[tokio::test(start_paused = true)]
async fn a_synchronous_write_is_stored_when_it_returns() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let (inode, _) = mount.create("f").await;
    for flags in [
        OpenFlags {
            write: true,
            synchronous: true,
            ..OpenFlags::default()
        },
        OpenFlags {
            write: true,
            direct: true,
            ..OpenFlags::default()
        },
    ] {
        let handle = mount.vfs.open(Caller::ROOT, inode, flags).await.unwrap().handle;
        assert!(
            mount
                .vfs
                .try_write(&Caller::ROOT, inode, handle, 0, b"x")
                .is_none()
        );
        mount.write((inode, handle), 0, b"x").await;
        assert_eq!(mount.vfs.unwritten_bytes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_tells_the_service_once_and_a_last_release_takes_it_back() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let (inode, first) = mount.create("f").await;
    let second = mount
        .vfs
        .cached_open(inode, OpenFlags::default())
        .unwrap()
        .unwrap();
    let third = mount
        .vfs
        .open(Caller::ROOT, inode, OpenFlags::default())
        .await
        .unwrap();
    assert_eq!(
        world
            .service
            .count(|operation| matches!(operation, Operation::Open { .. })),
        0
    );
    for handle in [first, second.handle] {
        mount.vfs.release(inode, handle, None);
    }
    assert_eq!(world.service.state.lock().unwrap().opens.len(), 1);
    mount.vfs.release(inode, third.handle, None);
    until(|| world.service.state.lock().unwrap().opens.is_empty()).await;
    mount
        .vfs
        .cached_open(inode, OpenFlags::default())
        .unwrap()
        .unwrap();
    until(|| world.service.state.lock().unwrap().opens.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn shutting_down_writes_everything_out() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let mut files = Vec::new();
    for number in 0..10u64 {
        let file = mount.create(&format!("f{number}")).await;
        mount
            .write(file, 0, &pattern(number, 5000 * number as usize + 1))
            .await;
        files.push(file);
    }
    mount.vfs.shut_down().await.unwrap();
    for (number, file) in files.iter().enumerate() {
        assert_eq!(
            world.service.attributes(file.0).size_bytes,
            5000 * number as u64 + 1
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_subdirectory_is_the_root_of_its_mount() {
    let world = World::new();
    let whole = world.mount(Side::Primary).await;
    let made = whole
        .vfs
        .make_directory(Caller::ROOT, InodeNumber::ROOT, name("sub"), 0o755, 0)
        .await
        .unwrap();
    let mut options = World::options();
    options.subdirectory = vec![name("sub")];
    let part = world.mount_with(Side::Primary, options).await;
    assert_eq!(
        part.vfs
            .attributes(Caller::ROOT, InodeNumber::ROOT)
            .await
            .unwrap()
            .attributes
            .inode,
        InodeNumber::ROOT
    );
    let file = part.create("inside").await;
    part.write(file, 0, b"x").await;
    part.flush(file).await.unwrap();
    let found = whole
        .vfs
        .lookup(Caller::ROOT, made.attributes.inode, name("inside"))
        .await
        .unwrap();
    assert!(matches!(found, crate::vfs::Found::Entry(entry) if entry.attributes.inode == file.0));
}
