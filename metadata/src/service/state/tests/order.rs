//! Group commit, order, exactly once.

use twinshore_protocol::message::Reclaim;
use twinshore_protocol::{Errno, InodeNumber, Operation, Reply, RequestNumber};

use super::world::{Client, World, create, lookup, unlink};
use crate::service::state::ServiceOptions;

#[test]
fn a_mutation_is_answered_when_its_record_is_committed() {
    let mut world = World::new();
    let mut client = world.client();
    world.automatic = false;
    let operation = create(&mut client, "a");
    let number = world.ask(&mut client, operation);
    assert!(world.reply(&client, number).is_none());
    world.commit();
    assert!(matches!(
        world.reply(&client, number),
        Some(Ok(Reply::Created { new: true, .. }))
    ));
}

#[test]
fn requests_fill_one_batch_while_another_is_in_flight() {
    let mut world = World::new();
    let mut client = world.client();
    let before = world.position();
    world.automatic = false;
    for index in 0..10 {
        let operation = create(&mut client, &format!("file{index}"));
        world.ask(&mut client, operation);
    }
    world.commit();
    world.commit();
    assert!(world.append.is_none());
    assert_eq!(
        world.position().0,
        before.0 + 2,
        "the first request alone, then the nine others together"
    );
    for number in 1..=10 {
        assert!(
            matches!(world.reply(&client, RequestNumber(number)), Some(Ok(_))),
            "request {number}"
        );
    }
}

#[test]
fn a_read_of_committed_state_is_answered_at_once() {
    let mut world = World::new();
    let mut client = world.client();
    let old = world.create(&mut client, "old");
    world.automatic = false;
    let operation = create(&mut client, "new");
    world.ask(&mut client, operation);
    assert!(world.attributes(&mut client, old).is_ok());
}

#[test]
fn a_read_that_depends_on_an_uncommitted_record_waits_for_it() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    world.automatic = false;
    let operation = create(&mut writer, "first");
    world.ask(&mut writer, operation);
    let first = world.ask(&mut reader, lookup("first"));
    let operation = create(&mut writer, "second");
    world.ask(&mut writer, operation);
    let second = world.ask(&mut reader, lookup("second"));
    assert!(world.reply(&reader, first).is_none());
    world.commit();
    assert!(matches!(world.reply(&reader, first), Some(Ok(Reply::Entry(_)))));
    assert!(world.reply(&reader, second).is_none());
    world.commit();
    assert!(matches!(world.reply(&reader, second), Some(Ok(Reply::Entry(_)))));
}

#[test]
fn absence_in_an_uncommitted_record_is_an_answer_too() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    world.create(&mut writer, "gone");
    world.automatic = false;
    world.ask(&mut writer, unlink("gone"));
    let number = world.ask(&mut reader, lookup("gone"));
    assert!(world.reply(&reader, number).is_none());
    world.commit();
    assert_eq!(world.reply(&reader, number), Some(Err(Errno::NotFound)));
}

#[test]
fn a_batch_takes_no_more_than_its_limit_and_the_rest_follows() {
    let mut world = World::with(ServiceOptions {
        batch_operations_max: 4,
        ..ServiceOptions::default()
    });
    let mut client = world.client();
    world.automatic = false;
    for index in 0..12 {
        let operation = create(&mut client, &format!("file{index}"));
        world.ask(&mut client, operation);
    }
    let mut commits = 0;
    while world.append.is_some() {
        world.commit();
        commits += 1;
    }
    assert_eq!(commits, 1 + 3, "one, then eleven in batches of four");
    assert!((1..=12).all(|number| matches!(world.reply(&client, RequestNumber(number)), Some(Ok(_)))));
}

#[test]
fn a_request_whose_reply_was_lost_is_applied_once_over_a_reconnect() {
    let mut world = World::new();
    let mut client = world.client();
    let operation = create(&mut client, "a");
    let number = world.ask(&mut client, operation.clone());
    world.disconnect(&client);
    world.resume(&mut client, Reclaim::default());
    world.send(&client, number, operation);
    assert!(matches!(
        world.reply(&client, number),
        Some(Ok(Reply::Created { new: true, .. }))
    ));
}

#[test]
fn a_request_that_is_still_under_way_is_answered_over_the_new_stream() {
    let mut world = World::new();
    let mut client = world.client();
    world.automatic = false;
    let operation = create(&mut client, "a");
    let number = world.ask(&mut client, operation.clone());
    world.disconnect(&client);
    let old = client;
    client.connection = world.open_stream(twinshore_protocol::message::Hello {
        session: Some(client.session),
        ..super::world::hello()
    });
    world.commit();
    world.commit();
    world.send(&client, number, operation);
    world.automatic = true;
    assert!(matches!(
        world.reply(&client, number),
        Some(Ok(Reply::Created { new: true, .. }))
    ));
    assert!(world.reply(&old, number).is_none());
}

#[test]
fn a_committed_request_is_applied_once_over_a_restart() {
    let mut world = World::new();
    let mut client = world.client();
    let operation = create(&mut client, "a");
    let number = world.ask(&mut client, operation.clone());
    let unlinked = world.ask(&mut client, unlink("a"));
    let mut world = world.restart();
    world.resume(&mut client, Reclaim::default());
    world.send(&client, number, operation);
    world.send(&client, unlinked, unlink("a"));
    assert!(matches!(
        world.reply(&client, number),
        Some(Ok(Reply::Created { new: true, .. }))
    ));
    assert!(matches!(
        world.reply(&client, unlinked),
        Some(Ok(Reply::Removed { .. }))
    ));
    assert_eq!(world.get(&mut client, lookup("a")), Err(Errno::NotFound));
}

#[test]
fn an_uncommitted_request_is_lost_with_a_restart_and_applied_when_it_is_sent_again() {
    let mut world = World::new();
    let mut client = world.client();
    world.automatic = false;
    let operation = create(&mut client, "a");
    let number = world.ask(&mut client, operation.clone());
    let mut world = world.restart();
    world.resume(&mut client, Reclaim::default());
    assert_eq!(world.get(&mut client, lookup("a")), Err(Errno::NotFound));
    world.disconnect(&client);
    world.resume(&mut client, Reclaim::default());
    world.send(&client, number, operation);
    assert!(matches!(
        world.reply(&client, number),
        Some(Ok(Reply::Created { new: true, .. }))
    ));
}

#[test]
fn a_failed_request_fails_again_when_it_is_repeated() {
    let mut world = World::new();
    let mut client = world.client();
    let number = world.ask(&mut client, unlink("a"));
    assert_eq!(world.reply(&client, number), Some(Err(Errno::NotFound)));
    world.create(&mut client, "a");
    world.disconnect(&client);
    world.resume(&mut client, Reclaim::default());
    world.send(&client, number, unlink("a"));
    assert_eq!(world.reply(&client, number), Some(Err(Errno::NotFound)));
    assert!(matches!(world.get(&mut client, lookup("a")), Ok(Reply::Entry(_))));
}

#[test]
fn a_stream_with_numbers_out_of_order_is_closed() {
    let mut world = World::new();
    let mut client = world.client();
    world
        .get(
            &mut client,
            Operation::GetAttributes {
                inode: InodeNumber::ROOT,
            },
        )
        .unwrap();
    world.send(
        &client,
        RequestNumber(1),
        Operation::GetAttributes {
            inode: InodeNumber::ROOT,
        },
    );
    assert_eq!(world.closed, [client.connection]);
}

#[test]
fn a_request_beyond_the_window_closes_the_stream_but_waiting_locks_do_not_count() {
    let mut world = World::new();
    let (mut client, mut other) = (world.client(), world.client());
    let inode = world.create(&mut client, "a");
    let lock = super::soft_state::record(twinshore_protocol::lock::LockKind::Write, 0, 9, 1);
    world
        .get(
            &mut other,
            Operation::SetLock {
                inode,
                lock,
                wait: false,
            },
        )
        .unwrap();
    let waiting = world.ask(
        &mut client,
        Operation::SetLock {
            inode,
            lock,
            wait: true,
        },
    );
    client.next += 5000;
    world
        .get(&mut client, Operation::GetAttributes { inode })
        .unwrap();
    assert!(world.closed.is_empty());
    assert!(world.reply(&client, waiting).is_none());
    world.automatic = false;
    let operation = create(&mut client, "b");
    world.ask(&mut client, operation);
    client.next += 1023;
    let operation = create(&mut client, "c");
    world.ask(&mut client, operation);
    assert_eq!(world.closed, [client.connection]);
}

/// A file of so many extents that cutting it takes several records.
fn very_many_extents(world: &mut World, client: &mut Client) -> InodeNumber {
    use twinshore_protocol::operation::{FileCommit, FileWrite};
    let inode = world.create(client, "many");
    let writes = (0..30_000).map(|number| FileWrite {
        file_offset: number * 2,
        length: 1,
        source: twinshore_protocol::ExtentSource::Inline(bytes::Bytes::from_static(b"x")),
    });
    let files = vec![FileCommit {
        inode,
        writes: writes.collect(),
        modified: None,
        clear_privileges: false,
    }];
    let objects = Vec::new();
    let done = world.get(client, Operation::Commit { objects, files });
    assert!(done.is_ok(), "{done:?}");
    inode
}

fn cut(inode: InodeNumber) -> Operation {
    Operation::SetAttributes {
        inode,
        changes: twinshore_protocol::attributes::AttributeChanges {
            size_bytes: Some(0),
            ..Default::default()
        },
    }
}

#[test]
fn a_request_that_needs_several_records_keeps_its_place_and_lets_others_pass() {
    // A record holds one part of it.
    let mut world = World::with(ServiceOptions {
        batch_bytes_max: 1000,
        ..ServiceOptions::default()
    });
    let (mut client, mut other) = (world.client(), world.client());
    let inode = very_many_extents(&mut world, &mut client);
    world.automatic = false;
    let cutting = world.ask(&mut client, cut(inode));
    let following = world.ask(&mut client, Operation::GetAttributes { inode });
    let operation = create(&mut other, "other");
    let passing = world.ask(&mut other, operation);
    let mut records = 0;
    let mut passed_after = 0;
    while world.append.is_some() {
        records += 1;
        assert_eq!(
            world.reply(&client, following),
            None,
            "it is behind the request that goes on"
        );
        world.commit();
        // It holds the directory that the other one changes.
        world.acknowledge_all(&client);
        if passed_after == 0 && world.reply(&other, passing).is_some() {
            passed_after = records;
        }
        if let Some(reply) = world.reply(&client, cutting) {
            assert!(reply.is_ok());
            break;
        }
        assert!(records < 40);
    }
    assert!(records >= 3, "{records} records");
    assert!(
        0 < passed_after && passed_after < records,
        "after {passed_after} of {records} records"
    );
    let Some(Ok(Reply::Attributes(attributes))) = world.reply(&client, following) else {
        panic!("what followed is answered")
    };
    assert_eq!((attributes.size_bytes, attributes.allocated_bytes), (0, 0));
}

#[test]
fn a_request_in_parts_fails_when_the_disk_is_full_and_goes_on_when_it_is_repeated() {
    let mut world = World::with(ServiceOptions {
        batch_bytes_max: 1000,
        ..ServiceOptions::default()
    });
    let mut client = world.client();
    let inode = very_many_extents(&mut world, &mut client);
    world.automatic = false;
    let cutting = world.ask(&mut client, cut(inode));
    world.commit();
    assert_eq!(world.reply(&client, cutting), None);
    world.fill_disk();
    assert_eq!(world.reply(&client, cutting), Some(Err(Errno::NoSpace)));
    assert!(world.append.is_none(), "it is not tried again and again");
    world.automatic = true;
    let again = world.ask(&mut client, cut(inode));
    assert!(
        matches!(world.reply(&client, again), Some(Ok(Reply::Attributes(found))) if found.allocated_bytes == 0)
    );
}
