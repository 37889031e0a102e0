//! Durability `fsync`: files that only their maker knows.

use std::time::Duration;

use bytes::Bytes;
use twinshore_protocol::format::Durability;
use twinshore_protocol::message::{ClientMessage, Invalidation, Reclaim};
use twinshore_protocol::operation::{FileCommit, FileWrite};
use twinshore_protocol::{ExtentSource, InodeNumber, Operation, Reply};

use super::world::{Client, World, create, format, lookup};

fn at_durability_fsync() -> World {
    let mut world = World::new();
    let mut admin = world.admin();
    let mut settings = format().settings;
    settings.durability = Durability::Fsync;
    let set = world.get(&mut admin, Operation::SetSettings { settings });
    assert_eq!(set, Ok(Reply::Done));
    world.message(&admin, ClientMessage::Goodbye);
    world
}

/// Makes a file that is private to its maker.
fn private(world: &mut World, client: &mut Client, text: &str) -> InodeNumber {
    let operation = create(client, text);
    match world.get(client, operation) {
        Ok(Reply::Created {
            attributes,
            new: true,
            private: true,
        }) => attributes.inode,
        other => panic!("not made, or not private: {other:?}"),
    }
}

fn write(inode: InodeNumber) -> Operation {
    let content = Bytes::from_static(b"abc");
    Operation::Commit {
        objects: Vec::new(),
        files: vec![FileCommit {
            inode,
            writes: vec![FileWrite {
                file_offset: 0,
                length: 3,
                source: ExtentSource::Inline(content),
            }],
            modified: None,
            clear_privileges: false,
        }],
    }
}

/// The number of the only invalidation, which must be of the content of a file.
fn recall(world: &mut World, client: &Client, inode: InodeNumber) -> u64 {
    let invalidations = world.invalidations(client);
    let recalls: Vec<_> = invalidations
        .iter()
        .filter(|(_, items)| items.contains(&Invalidation::Content(inode)))
        .collect();
    assert_eq!(recalls.len(), 1, "{invalidations:?}");
    recalls[0].0
}

#[test]
fn others_are_told_of_a_private_file_only_after_its_maker_has_stored_it() {
    let mut world = at_durability_fsync();
    let (mut maker, mut reader) = (world.client(), world.client());
    let inode = private(&mut world, &mut maker, "a");
    assert!(world.attributes(&mut maker, inode).is_ok(), "its maker may look");
    let number = world.ask(&mut reader, lookup("a"));
    let other = world.ask(&mut reader, lookup("a"));
    assert_eq!(world.reply(&reader, number), None);
    let absent = world.get(&mut reader, lookup("b"));
    assert!(absent.is_err(), "who waits does not hold up what follows");
    let recalled = recall(&mut world, &maker, inode);
    let stored = world.get(&mut maker, write(inode));
    assert!(matches!(stored, Ok(Reply::Committed { .. })), "{stored:?}");
    assert_eq!(world.reply(&reader, number), None);
    world.message(&maker, ClientMessage::Acknowledge { number: recalled });
    for number in [number, other] {
        match world.reply(&reader, number) {
            Some(Ok(Reply::Entry(attributes))) => assert_eq!(attributes.size_bytes, 3),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_released_file_and_one_whose_maker_is_gone_are_told_of_at_once() {
    let mut world = at_durability_fsync();
    let (mut maker, mut reader) = (world.client(), world.client());
    let inode = private(&mut world, &mut maker, "a");
    private(&mut world, &mut maker, "b");
    assert_eq!(
        world.get(&mut maker, Operation::Release { inode }),
        Ok(Reply::Done)
    );
    assert!(matches!(world.get(&mut reader, lookup("a")), Ok(Reply::Entry(_))));
    let number = world.ask(&mut reader, lookup("b"));
    assert_eq!(world.reply(&reader, number), None);
    world.pass(Duration::from_secs(70), std::slice::from_ref(&reader));
    assert!(matches!(world.reply(&reader, number), Some(Ok(Reply::Entry(_)))));
}

#[test]
fn a_maker_that_has_lost_its_stream_is_told_again_on_the_next() {
    let mut world = at_durability_fsync();
    let (mut maker, mut reader) = (world.client(), world.client());
    let inode = private(&mut world, &mut maker, "a");
    let number = world.ask(&mut reader, lookup("a"));
    recall(&mut world, &maker, inode);
    let held = Reclaim {
        opens: vec![(inode, 1)],
        ..Reclaim::default()
    };
    world.resume(&mut maker, held);
    assert_eq!(world.reply(&reader, number), None);
    let recalled = recall(&mut world, &maker, inode);
    world.message(&maker, ClientMessage::Acknowledge { number: recalled });
    assert!(matches!(world.reply(&reader, number), Some(Ok(Reply::Entry(_)))));
}

#[test]
fn after_a_restart_files_are_told_of_when_every_older_session_has_come_back() {
    let mut world = at_durability_fsync();
    let (mut maker, mut reader) = (world.client(), world.client());
    let inode = private(&mut world, &mut maker, "a");
    let mut world = world.restart();
    world.resume(&mut reader, Reclaim::default());
    let number = world.ask(&mut reader, lookup("a"));
    assert_eq!(world.reply(&reader, number), None);
    let held = Reclaim {
        opens: vec![(inode, 1)],
        ..Reclaim::default()
    };
    world.resume(&mut maker, held);
    assert_eq!(world.reply(&reader, number), None);
    let recalled = recall(&mut world, &maker, inode);
    world.message(&maker, ClientMessage::Acknowledge { number: recalled });
    assert!(matches!(world.reply(&reader, number), Some(Ok(Reply::Entry(_)))));
}
