//! Attribute changes that wait for the writes before them.

use twinshore_protocol::attributes::{AttributeChanges, TimeChange};
use twinshore_protocol::{Attributes, Caller, Errno, InodeNumber, Operation, Side, Timestamp};

use super::world::{Mount, World, until};
use crate::vfs::Handle;

fn user(user: u32) -> Caller {
    Caller {
        user,
        group: user,
        groups: Vec::new(),
        ..Caller::ROOT
    }
}

fn time(seconds: i64) -> TimeChange {
    TimeChange::To(Timestamp {
        seconds,
        nanoseconds: 0,
    })
}

async fn set(
    mount: &Mount,
    caller: Caller,
    file: (InodeNumber, Handle),
    changes: AttributeChanges,
) -> Attributes {
    let told = mount.vfs.set_attributes(caller, file.0, changes).await.unwrap();
    told.attributes
}

fn requests_for_attributes(world: &World) -> usize {
    world
        .service
        .count(|operation| matches!(operation, Operation::SetAttributes { .. }))
}

#[tokio::test(start_paused = true)]
async fn what_an_unpacking_program_sets_is_seen_at_once_and_sent_with_the_data() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    mount.write(file, 0, b"content").await;
    let times = AttributeChanges {
        accessed: Some(time(7)),
        modified: Some(time(9)),
        ..AttributeChanges::default()
    };
    let owner = AttributeChanges {
        user: Some(12),
        group: Some(13),
        ..AttributeChanges::default()
    };
    let mode = AttributeChanges {
        mode: Some(0o640),
        ..AttributeChanges::default()
    };
    for changes in [times, owner, mode] {
        set(&mount, Caller::ROOT, file, changes).await;
    }
    assert_eq!(requests_for_attributes(&world), 0);
    let seen = mount.vfs.cached_attributes(file.0).unwrap().attributes;
    assert_eq!((seen.mode, seen.user, seen.group), (0o640, 12, 13));
    assert_eq!((seen.accessed.seconds, seen.modified.seconds), (7, 9));

    mount.flush(file).await.unwrap();
    assert_eq!(requests_for_attributes(&world), 1);
    let stored = world.service.attributes(file.0);
    assert_eq!((stored.mode, stored.user, stored.group), (0o640, 12, 13));
    assert_eq!((stored.modified.seconds, stored.size_bytes), (9, 7));
}

#[tokio::test(start_paused = true)]
async fn a_write_after_a_time_was_set_is_younger() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    mount.write(file, 0, b"content").await;
    let changes = AttributeChanges {
        accessed: Some(time(7)),
        modified: Some(time(9)),
        ..AttributeChanges::default()
    };
    set(&mount, Caller::ROOT, file, changes).await;
    mount.write(file, 7, b" and more").await;
    mount.flush(file).await.unwrap();
    let stored = world.service.attributes(file.0);
    assert_eq!(stored.accessed.seconds, 7);
    assert_ne!(stored.modified.seconds, 9);
}

#[tokio::test(start_paused = true)]
async fn nobody_need_close_for_others_to_see_it() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    mount.write(file, 0, b"content").await;
    let changes = AttributeChanges {
        mode: Some(0o600),
        ..AttributeChanges::default()
    };
    set(&mount, Caller::ROOT, file, changes).await;
    until(|| world.service.attributes(file.0).mode == 0o600).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_service_has_to_decide_does_not_wait() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    let mode = |mode| AttributeChanges {
        mode: Some(mode),
        ..AttributeChanges::default()
    };
    // Nothing is unwritten.
    set(&mount, Caller::ROOT, file, mode(0o600)).await;
    assert_eq!(requests_for_attributes(&world), 1);
    mount.write(file, 0, b"content").await;
    // Set-id bits, a size, the time of the service, somebody else's file.
    set(&mount, Caller::ROOT, file, mode(0o4755)).await;
    assert_eq!(requests_for_attributes(&world), 2);
    set(&mount, Caller::ROOT, file, mode(0o755)).await;
    mount.write(file, 0, b"content").await;
    let size = AttributeChanges {
        size_bytes: Some(3),
        ..AttributeChanges::default()
    };
    set(&mount, Caller::ROOT, file, size).await;
    mount.write(file, 0, b"content").await;
    let now = AttributeChanges {
        modified: Some(TimeChange::Now),
        ..AttributeChanges::default()
    };
    set(&mount, Caller::ROOT, file, now).await;
    mount.write(file, 0, b"content").await;
    set(&mount, user(1000), file, mode(0o600)).await;
    assert_eq!(requests_for_attributes(&world), 6);
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_with_the_session_is_told_at_close() {
    let world = World::new();
    let mount = world.mount(Side::Primary).await;
    let file = mount.create("f").await;
    mount.write(file, 0, b"content").await;
    let changes = AttributeChanges {
        mode: Some(0o600),
        ..AttributeChanges::default()
    };
    set(&mount, Caller::ROOT, file, changes).await;
    world.service.expire_all();
    until(|| mount.vfs.unwritten_bytes() == 0).await;
    assert_eq!(mount.flush(file).await, Err(Errno::InputOutput));
}
