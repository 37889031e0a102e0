//! Who keeps house, and when compaction passes begin and end.

use std::time::Duration;

use bytes::Bytes;
use twinshore_protocol::attributes::AttributeChanges;
use twinshore_protocol::message::{Hello, Role};
use twinshore_protocol::operation::{ExtentExchange, FileCommit, FileWrite, NewObject};
use twinshore_protocol::status::CompactionStatus;
use twinshore_protocol::{Extent, ExtentSource, InodeNumber, ObjectId, Operation, Reply, Side, Sides};

use super::world::{Client, World, hello};

fn worker(world: &mut World, near: Side) -> Client {
    world.connect(Hello {
        role: Role::Worker,
        near,
        ..hello()
    })
}

fn new_object(client: &mut Client, content_bytes: u64) -> NewObject {
    NewObject {
        object: ObjectId {
            epoch: client.epoch,
            number: client.objects.take().unwrap(),
        },
        stored_bytes: content_bytes + 100,
        content_bytes,
        checksum: 1,
        present: Sides::BOTH,
    }
}

/// A file of 100 KiB whose object loses all but the first 10 KiB.
fn sparse(world: &mut World, client: &mut Client, text: &str) -> InodeNumber {
    let inode = world.create(client, text);
    let new = new_object(client, 100 << 10);
    let source = ExtentSource::Object {
        object: new.object,
        object_offset: 0,
        present: new.present,
    };
    let writes = vec![FileWrite {
        file_offset: 0,
        length: new.content_bytes,
        source,
    }];
    let files = vec![FileCommit {
        inode,
        writes,
        modified: None,
        clear_privileges: false,
    }];
    let commit = Operation::Commit {
        objects: vec![new],
        files,
    };
    world.get(client, commit).unwrap();
    let changes = AttributeChanges {
        size_bytes: Some(10 << 10),
        ..AttributeChanges::default()
    };
    world
        .get(client, Operation::SetAttributes { inode, changes })
        .unwrap();
    inode
}

fn list(world: &mut World, client: &mut Client) -> (Vec<(InodeNumber, Extent)>, bool) {
    let limit_bytes = 1 << 20;
    match world.get(client, Operation::ListCompaction { limit_bytes }) {
        Ok(Reply::Compaction { extents, more }) => (extents, more),
        other => panic!("{other:?}"),
    }
}

/// The holder of a lease drops what it caches of the file.
fn rewrite(world: &mut World, worker: &mut Client, holder: &Client, extents: Vec<(InodeNumber, Extent)>) {
    let new = new_object(worker, extents.iter().map(|(_, extent)| extent.length).sum());
    let mut object_offset = 0;
    let mut exchanges = Vec::new();
    for (inode, old) in extents {
        let source = ExtentSource::Object {
            object: new.object,
            object_offset,
            present: new.present,
        };
        object_offset += old.length;
        exchanges.push(ExtentExchange {
            inode,
            old,
            new: source,
        });
    }
    let objects = vec![new];
    let number = world.ask(worker, Operation::Repoint { objects, exchanges });
    assert_eq!(world.acknowledge_all(holder), 1);
    assert_eq!(world.reply(worker, number), Some(Ok(Reply::Done)));
}

fn status(world: &mut World, client: &mut Client) -> CompactionStatus {
    match world.get(client, Operation::GetStatus) {
        Ok(Reply::Status(status)) => status.compaction,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_requested_pass_rewrites_what_is_young_and_ends_when_nothing_is_left() {
    let mut world = World::new();
    let mut client = world.admin();
    let mut worker = worker(&mut world, Side::Primary);
    let inode = sparse(&mut world, &mut client, "a");
    assert_eq!(list(&mut world, &mut worker).0, [], "it may change again soon");
    let before = status(&mut world, &mut client);
    assert_eq!(
        (before.running, before.sparse_objects, before.sparse_bytes),
        (false, 1, 90 << 10)
    );
    world.get(&mut client, Operation::RequestCompaction).unwrap();
    assert!(status(&mut world, &mut client).running);
    let (extents, more) = list(&mut world, &mut worker);
    assert!(more, "another pass looks whether anything is left");
    assert_eq!(extents.len(), 1);
    assert_eq!((extents[0].0, extents[0].1.length), (inode, 10 << 10));
    rewrite(&mut world, &mut worker, &client, extents);
    assert_eq!(list(&mut world, &mut worker), (Vec::new(), false));
    let after = status(&mut world, &mut client);
    assert_eq!(
        (after.running, after.sparse_objects, after.sparse_bytes),
        (false, 0, 0)
    );
    assert_eq!((after.rewritten_extents, after.rewritten_bytes), (1, 10 << 10));
}

#[test]
fn a_pass_begins_by_itself_when_files_have_come_to_rest() {
    let mut world = World::new();
    let mut client = world.client();
    let mut worker = worker(&mut world, Side::Primary);
    sparse(&mut world, &mut client, "a");
    world.pass(Duration::from_secs(61), &[client, worker]);
    assert_eq!(list(&mut world, &mut worker).0.len(), 1);
    // The worker failed: it is given again, but not before the pause.
    assert_eq!(list(&mut world, &mut worker).0, []);
    world.pass(Duration::from_mins(11), &[client, worker]);
    assert_eq!(list(&mut world, &mut worker).0.len(), 1);
}

#[test]
fn a_requested_compaction_ends_although_its_worker_fails_every_time() {
    let mut world = World::new();
    let mut client = world.admin();
    let mut worker = worker(&mut world, Side::Primary);
    sparse(&mut world, &mut client, "a");
    world.get(&mut client, Operation::RequestCompaction).unwrap();
    let mut asked = 0;
    while list(&mut world, &mut worker).1 {
        asked += 1;
        assert!(asked < 100);
    }
    assert!(!status(&mut world, &mut client).running);
}

#[test]
fn one_session_at_a_time_keeps_house_and_one_near_the_primary_takes_over() {
    let mut world = World::new();
    let mut client = world.client();
    let mut far = worker(&mut world, Side::Target);
    let mut near = worker(&mut world, Side::Primary);
    let mut other = worker(&mut world, Side::Primary);
    let inode = world.create(&mut client, "a");
    let writes = vec![FileWrite {
        file_offset: 0,
        length: 5,
        source: ExtentSource::Inline(Bytes::from_static(b"hello")),
    }];
    let files = vec![FileCommit {
        inode,
        writes,
        modified: None,
        clear_privileges: false,
    }];
    let objects = Vec::new();
    world
        .get(&mut client, Operation::Commit { objects, files })
        .unwrap();
    let given = |world: &mut World, client: &mut Client| match world
        .get(client, Operation::ListInline { limit_bytes: 1000 })
    {
        Ok(Reply::InlineExtents(extents)) => extents.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(given(&mut world, &mut far), 1, "better than nobody");
    assert_eq!(
        given(&mut world, &mut near),
        1,
        "its objects are near to the metadata"
    );
    assert_eq!(given(&mut world, &mut far), 0);
    assert_eq!(given(&mut world, &mut other), 0);
    world.disconnect(&near);
    assert_eq!(given(&mut world, &mut other), 1, "the first one is gone");
    assert_eq!(given(&mut world, &mut far), 0);
    world.pass(Duration::from_secs(31), &[client, far, other]);
    assert_eq!(given(&mut world, &mut far), 1, "the other one is silent");
}
