//! Buckets that fail, objects that are damaged, sessions that end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use twinshore_protocol::replication::TaskOutcome;
use twinshore_protocol::{Caller, Errno, Operation, Side};
use twinshore_storage::object::object_key;

use super::world::{World, pattern, until};

#[tokio::test(start_paused = true)]
async fn with_the_near_bucket_down_nothing_fails() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    world.shores[0].set_down(true);
    let file = mount.create("f").await;
    let data = pattern(1, 300_000);
    mount.write(file, 0, &data).await;
    mount.flush(file).await.unwrap();
    assert_eq!(world.shores[1].puts(), 1);
    mount.blocks.map.lock().unwrap().clear();
    assert_eq!(mount.read(file, 0, 300_000).await, data);
}

#[tokio::test(start_paused = true)]
async fn with_both_buckets_down_a_flush_fails_after_the_limit_and_says_so_once() {
    let world = World::new();
    let mut options = World::options();
    options.write_limit = Duration::from_secs(20);
    let mount = world.mount_with(Side::Primary, options).await;
    let file = mount.create("f").await;
    mount.write(file, 0, &pattern(1, 100_000)).await;
    mount.flush(file).await.unwrap();
    for shore in &world.shores {
        shore.set_down(true);
    }
    let started = tokio::time::Instant::now();
    mount.write(file, 0, &pattern(2, 100_000)).await;
    assert_eq!(mount.flush(file).await, Err(Errno::InputOutput));
    assert!(started.elapsed() >= Duration::from_secs(19));
    assert_eq!(mount.flush(file).await, Ok(()));
    // What is cached goes on being read, and is what was stored.
    assert_eq!(mount.read(file, 0, 100_000).await, pattern(1, 100_000));
    assert_eq!(mount.vfs.unwritten_bytes(), 0);
    let dropped = mount.kernel.dropped.lock().unwrap().clone();
    assert!(dropped.contains(&twinshore_protocol::message::Invalidation::Content(file.0)));
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_of_both_buckets_costs_only_time() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    for shore in &world.shores {
        shore.set_down(true);
    }
    mount.write(file, 0, &pattern(2, 100_000)).await;
    let (flushed, ()) = tokio::join!(mount.flush(file), async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        for shore in &world.shores {
            shore.set_down(false);
        }
    });
    assert_eq!(flushed, Ok(()));
    assert_eq!(mount.read(file, 0, 100_000).await, pattern(2, 100_000));
}

#[tokio::test(start_paused = true)]
async fn a_refused_commit_is_told_to_its_file_once_and_to_no_other() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let (full, fine) = (mount.create("full").await, mount.create("fine").await);
    for errno in [Errno::NoSpace, Errno::QuotaExceeded, Errno::Stale] {
        world.service.state.lock().unwrap().commit_faults.push_back(errno);
        mount.write(full, 0, b"x").await;
        mount.write(fine, 0, b"y").await;
        assert_eq!(mount.flush(full).await, Err(errno));
        assert_eq!(mount.flush(full).await, Ok(()));
        assert_eq!(mount.flush(fine).await, Ok(()));
    }
    assert_eq!(world.service.attributes(full.0).size_bytes, 0);
    // The background told nobody yet: the next write does.
    world
        .service
        .state
        .lock()
        .unwrap()
        .commit_faults
        .push_back(Errno::NoSpace);
    mount.write(full, 0, b"x").await;
    until(|| mount.vfs.unwritten_bytes() == 0).await;
    let write = || {
        mount
            .vfs
            .write(Caller::ROOT, full.0, full.1, 0, Bytes::from_static(b"z"))
    };
    assert_eq!(write().await, Err(Errno::NoSpace));
    assert_eq!(write().await, Ok(1));
    assert_eq!(mount.flush(full).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn one_file_without_space_does_not_fail_those_packed_with_it() {
    let world = World::new();
    *world.shores[0].put_takes.lock().unwrap() = Duration::from_millis(50);
    let mount = world.mount(Side::Primary).await;
    let mut files = Vec::new();
    for number in 0..8 {
        let file = mount.create(&format!("f{number}")).await;
        mount.write(file, 0, &pattern(number, 10_000)).await;
        files.push(file);
    }
    // The first flush goes alone, the others together: their commit fails as a whole, then for one of them.
    {
        let mut state = world.service.state.lock().unwrap();
        state.commit_faults.extend([Errno::QuotaExceeded; 2]);
    }
    let answers = futures::future::join_all(files.iter().map(|file| mount.flush(*file))).await;
    let failed = answers
        .iter()
        .filter(|answer| **answer == Err(Errno::QuotaExceeded))
        .count();
    assert!(
        (1..=2).contains(&failed) && answers.iter().filter(|answer| answer.is_ok()).count() == 8 - failed,
        "{answers:?}"
    );
    for (number, (file, answer)) in files.iter().zip(&answers).enumerate() {
        let expected = if answer.is_ok() {
            pattern(number as u64, 10_000)
        } else {
            Vec::new()
        };
        assert_eq!(mount.read(*file, 0, 10_000).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_far_read_repairs_the_near_copy_and_reports_it() {
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Target).await);
    let file = one.create("f").await;
    let data = pattern(5, 100_000);
    one.write(file, 0, &data).await;
    one.flush(file).await.unwrap();
    let there = two.open("f").await;
    assert_eq!(two.read(there, 0, 100_000).await, data);
    let reported = |operation: &Operation| match operation {
        Operation::ReportCopies { reports } => reports
            .iter()
            .all(|report| report.side == Side::Target && report.outcome == TaskOutcome::Done),
        _ => false,
    };
    until(|| world.service.count(reported) == 1).await;
    assert_eq!(world.shores[1].bucket.keys(), world.shores[0].bucket.keys());
}

#[tokio::test(start_paused = true)]
async fn damage_in_one_bucket_is_read_around_and_in_both_is_an_error() {
    let world = World::new();
    let (one, two) = (world.mount(Side::Primary).await, world.mount(Side::Primary).await);
    let file = one.create("f").await;
    let data = pattern(5, 100_000);
    one.write(file, 0, &data).await;
    one.flush(file).await.unwrap();
    let object = *world.service.state.lock().unwrap().objects.keys().next().unwrap();
    let key = object_key(object);
    let body = world.shores[0].bucket.body(&key).unwrap();
    let mut damaged = body.to_vec();
    damaged[50_000] ^= 1;
    world.shores[0].bucket.tamper(&key, Some(damaged.clone().into()));
    world.shores[1].bucket.tamper(&key, Some(body.clone()));
    let there = two.open("f").await;
    assert_eq!(two.read(there, 0, 100_000).await, data);
    until(|| world.shores[0].bucket.body(&key).unwrap() == body).await;

    let third = world.mount(Side::Primary).await;
    let there = third.open("f").await;
    for shore in &world.shores {
        shore.bucket.tamper(&key, Some(damaged.clone().into()));
    }
    assert_eq!(third.try_read(there, 0, 100_000).await, Err(Errno::InputOutput));
    for shore in &world.shores {
        shore.bucket.tamper(&key, None);
    }
    assert_eq!(third.try_read(there, 0, 100_000).await, Err(Errno::InputOutput));
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_loses_unwritten_data_with_an_error_and_keeps_open_files() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let (file, gone) = (mount.create("f").await, mount.create("gone").await);
    mount.write(file, 0, b"stored").await;
    mount.flush(file).await.unwrap();
    mount.write(file, 0, b"lost!!").await;
    world.service.expire_all();
    world.service.destroy(gone.0);
    until(|| mount.kernel.everything.load(Ordering::SeqCst) > 0).await;
    assert_eq!(mount.vfs.unwritten_bytes(), 0);
    assert_eq!(mount.flush(file).await, Err(Errno::InputOutput));
    assert_eq!(mount.flush(file).await, Ok(()));
    assert_eq!(mount.read(file, 0, 100).await, "stored");
    until(|| {
        world
            .service
            .state
            .lock()
            .unwrap()
            .opens
            .keys()
            .any(|(_, inode)| *inode == file.0)
    })
    .await;
    assert_eq!(mount.try_read(gone, 0, 1).await, Err(Errno::Stale));
    let write = mount
        .vfs
        .write(Caller::ROOT, gone.0, gone.1, 0, Bytes::from_static(b"x"))
        .await;
    assert_eq!(write, Err(Errno::Stale));
    mount.write(file, 0, b"anew").await;
    mount.flush(file).await.unwrap();
    assert_eq!(mount.read(file, 0, 100).await, "anewed");
}

#[tokio::test(start_paused = true)]
async fn a_read_only_mount_refuses_every_change() {
    let world = World::new();
    let (inode, _) = world.mount(Side::Primary).await.create("f").await;
    let mut options = World::options();
    options.read_only = true;
    let mount = world.mount_with(Side::Primary, options).await;
    let vfs = &mount.vfs;
    let root = twinshore_protocol::InodeNumber::ROOT;
    let name = super::world::name;
    assert_eq!(
        vfs.open(Caller::ROOT, inode, super::world::WRITE).await,
        Err(Errno::ReadOnly)
    );
    assert_eq!(
        vfs.unlink(Caller::ROOT, root, name("f")).await,
        Err(Errno::ReadOnly)
    );
    assert_eq!(
        vfs.make_directory(Caller::ROOT, root, name("d"), 0o755, 0).await,
        Err(Errno::ReadOnly)
    );
    assert!(
        vfs.open(Caller::ROOT, inode, crate::vfs::OpenFlags::default())
            .await
            .is_ok()
    );
}
