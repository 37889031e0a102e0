//! Leases: who is told, and who is waited for.

use std::time::Duration;

use twinshore_protocol::attributes::AttributeChanges;
use twinshore_protocol::lock::LockKind;
use twinshore_protocol::message::{ClientMessage, Hello, Invalidation, Reclaim, ServerMessage};
use twinshore_protocol::{InodeNumber, Operation, Reply};

use super::soft_state::record;
use super::world::{World, create, hello, lookup, unlink};

pub fn chmod(inode: InodeNumber, mode: u16) -> Operation {
    Operation::SetAttributes {
        inode,
        changes: AttributeChanges {
            mode: Some(mode),
            ..AttributeChanges::default()
        },
    }
}

#[test]
fn a_change_is_answered_after_every_other_holder_has_acknowledged_it() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    world.attributes(&mut reader, inode).unwrap();
    let number = world.ask(&mut writer, chmod(inode, 0o600));
    assert!(world.reply(&writer, number).is_none());
    let invalidations = world.invalidations(&reader);
    assert_eq!(invalidations.len(), 1);
    assert!(
        invalidations[0].1.contains(&Invalidation::Attributes(inode)),
        "{invalidations:?}"
    );
    assert!(
        world.invalidations(&writer).is_empty(),
        "who made the change is not told"
    );
    world.message(
        &reader,
        ClientMessage::Acknowledge {
            number: invalidations[0].0,
        },
    );
    assert!(matches!(
        world.reply(&writer, number),
        Some(Ok(Reply::Attributes(_)))
    ));
}

/// Found by random operations from both regions: after the packer had exchanged a file's extents, a reader in the far region
/// was still dropping its pages for that when the next write was answered, and it read the old bytes.
#[test]
fn a_change_waits_for_a_session_that_has_not_acknowledged_an_earlier_change_of_the_same_inode() {
    let mut world = World::new();
    let (mut packer, mut writer, mut reader) = (world.client(), world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    world.attributes(&mut reader, inode).unwrap();
    world.ask(&mut packer, chmod(inode, 0o600));
    world.acknowledge_all(&writer);
    let number = world.ask(&mut writer, chmod(inode, 0o640));
    assert!(
        world.reply(&writer, number).is_none(),
        "the reader may still show what was there before both"
    );
    // The packer holds what its own reply will tell.
    world.acknowledge_all(&packer);
    assert!(world.reply(&writer, number).is_none());
    world.acknowledge_all(&reader);
    assert!(matches!(
        world.reply(&writer, number),
        Some(Ok(Reply::Attributes(_)))
    ));
}

#[test]
fn a_negative_entry_is_recalled_when_the_name_appears() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    world.get(&mut reader, lookup("a")).unwrap_err();
    let operation = create(&mut writer, "a");
    let number = world.ask(&mut writer, operation);
    assert!(world.reply(&writer, number).is_none());
    let told: Vec<_> = world
        .invalidations(&reader)
        .into_iter()
        .flat_map(|(_, items)| items)
        .collect();
    assert!(
        told.contains(&Invalidation::Entry(InodeNumber::ROOT, super::world::name("a"))),
        "{told:?}"
    );
}

#[test]
fn nobody_waits_for_a_session_that_holds_nothing() {
    let mut world = World::new();
    let (mut writer, other) = (world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    world.get(&mut writer, chmod(inode, 0o600)).unwrap();
    assert!(world.invalidations(&other).is_empty());
}

#[test]
fn a_silent_holder_is_waited_for_until_its_lease_ends() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    world.attributes(&mut reader, inode).unwrap();
    world.disconnect(&reader);
    let number = world.ask(&mut writer, chmod(inode, 0o600));
    world.pass(Duration::from_secs(10), &[writer]);
    assert!(
        world.reply(&writer, number).is_none(),
        "its clock may be slower by 1 %"
    );
    world.pass(Duration::from_millis(100), &[writer]);
    assert!(world.reply(&writer, number).is_some());
}

/// Found by the simulation (seeds 44, 93, 190): the wait ended with `Hello`, and programs read what the kernel was still dropping.
#[test]
fn a_holder_that_comes_back_is_waited_for_until_its_kernel_has_dropped_everything() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let (told, kept) = (world.create(&mut writer, "a"), world.create(&mut writer, "b"));
    for inode in [told, kept] {
        world.attributes(&mut reader, inode).unwrap();
    }
    let before = world.ask(&mut writer, chmod(told, 0o600));
    world.disconnect(&reader);
    let without_stream = world.ask(&mut writer, chmod(kept, 0o600));
    let beginning = world.resume_slowly(&mut reader, Reclaim::default());
    let again = world.ask(&mut writer, chmod(told, 0o640));
    for number in [before, without_stream, again] {
        assert!(world.reply(&writer, number).is_none());
    }
    world.message(&reader, ClientMessage::Acknowledge { number: beginning });
    for number in [before, without_stream] {
        assert!(world.reply(&writer, number).is_some());
    }
    assert!(world.reply(&writer, again).is_none(), "told over the new stream");
    assert_eq!(world.acknowledge_all(&reader), 1);
    assert!(world.reply(&writer, again).is_some());
}

#[test]
fn what_was_cached_over_an_older_stream_is_told_over_the_new_one_until_it_is_dropped() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let (a, b) = (world.create(&mut writer, "a"), world.create(&mut writer, "b"));
    for inode in [a, b] {
        world.attributes(&mut reader, inode).unwrap();
    }
    world.disconnect(&reader);
    world.resume_slowly(&mut reader, Reclaim::default());
    world.disconnect(&reader);
    let beginning = world.resume_slowly(&mut reader, Reclaim::default());
    let number = world.ask(&mut writer, chmod(a, 0o600));
    assert!(world.reply(&writer, number).is_none(), "two streams later");
    assert_eq!(world.acknowledge_all(&reader), 1);
    assert!(world.reply(&writer, number).is_some());
    world.message(&reader, ClientMessage::Acknowledge { number: beginning });
    let number = world.ask(&mut writer, chmod(b, 0o600));
    assert!(world.reply(&writer, number).is_some());
    assert!(world.invalidations(&reader).is_empty());
}

#[test]
fn a_client_that_never_says_that_its_kernel_is_through_is_given_up() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    world.attributes(&mut reader, inode).unwrap();
    world.disconnect(&reader);
    world.resume_slowly(&mut reader, Reclaim::default());
    let number = world.ask(&mut writer, chmod(inode, 0o600));
    world.pass(Duration::from_secs(29), &[writer, reader]);
    assert!(world.reply(&writer, number).is_none());
    world.pass(Duration::from_secs(2), &[writer, reader]);
    assert_eq!(world.closed, [reader.connection]);
    assert!(world.reply(&writer, number).is_some());
    world.resume_slowly(&mut reader, Reclaim::default());
    let number = world.ask(&mut writer, chmod(inode, 0o640));
    assert!(
        world.reply(&writer, number).is_some(),
        "two that wait for each other's pages would do so for ever"
    );
}

#[test]
fn a_holder_that_comes_back_with_nothing_left_is_not_waited_for_any_more() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    world.attributes(&mut reader, inode).unwrap();
    world.disconnect(&reader);
    let number = world.ask(&mut writer, chmod(inode, 0o600));
    assert!(world.reply(&writer, number).is_none());
    world.resume(&mut reader, Reclaim::default());
    assert!(world.reply(&writer, number).is_some());
    assert!(
        world.invalidations(&reader).is_empty(),
        "a new stream holds nothing"
    );
}

#[test]
fn a_holder_that_lives_but_never_acknowledges_is_cut_off() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    world.attributes(&mut reader, inode).unwrap();
    let number = world.ask(&mut writer, chmod(inode, 0o600));
    world.pass(Duration::from_secs(29), &[writer, reader]);
    assert!(world.reply(&writer, number).is_none());
    world.pass(Duration::from_secs(15), &[writer, reader]);
    assert_eq!(world.closed, [reader.connection]);
    assert!(world.reply(&writer, number).is_some());
}

/// Found by the simulation: a session that waited itself was not waited for, so that what others had written and closed was
/// not what its kernel showed.
#[test]
fn two_sessions_that_change_what_the_other_caches_wait_for_each_other() {
    let mut world = World::new();
    let (mut first, mut second) = (world.client(), world.client());
    let (a, b) = (world.create(&mut first, "a"), world.create(&mut first, "b"));
    world.attributes(&mut second, a).unwrap();
    let of_first = world.ask(&mut first, chmod(a, 0o600));
    assert!(world.reply(&first, of_first).is_none());
    let of_second = world.ask(&mut second, chmod(b, 0o600));
    assert!(
        world.reply(&second, of_second).is_none(),
        "the first holds `b`, and may show what it was although it waits itself"
    );
    assert_eq!(world.acknowledge_all(&first), 1);
    assert!(world.reply(&second, of_second).is_some());
    assert!(world.reply(&first, of_first).is_none());
    assert_eq!(world.acknowledge_all(&second), 1);
    assert!(world.reply(&first, of_first).is_some());
}

#[test]
fn a_reply_that_was_overtaken_while_it_waited_names_what_has_changed() {
    let mut world = World::new();
    let (mut first, mut second) = (world.client(), world.client());
    let a = world.create(&mut first, "a");
    world.attributes(&mut second, a).unwrap();
    let waiting = world.ask(&mut first, chmod(a, 0o600));
    let overtaking = world.ask(&mut second, chmod(a, 0o644));
    assert_eq!(world.acknowledge_all(&first), 1);
    assert!(world.reply(&second, overtaking).is_some());
    world.inbox(first.connection);
    world.acknowledge_all(&second);
    let messages = world.inbox(first.connection);
    assert!(
        matches!(&messages[..], [
            ServerMessage::Reply { number, superseded, .. },
        ] if *number == waiting && superseded.contains(&Invalidation::Attributes(a))),
        "{messages:?}"
    );
}

#[test]
fn an_invalidation_comes_after_replies_that_are_older_than_its_change() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    world.automatic = false;
    let operation = create(&mut writer, "a");
    let inode = InodeNumber(writer.inodes.start - 1);
    world.ask(&mut writer, operation);
    let old = world.ask(&mut reader, Operation::GetAttributes { inode });
    world.ask(&mut writer, chmod(inode, 0o600));
    world.commit();
    world.commit();
    let messages = world.inbox(reader.connection);
    assert!(
        matches!(&messages[..], [ServerMessage::Reply { number, .. }, ServerMessage::Invalidate { .. }] if *number == old),
        "{messages:?}"
    );
}

#[test]
fn after_a_restart_changes_wait_for_sessions_whose_caches_are_not_known() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    let mut world = world.restart();
    world.resume(&mut writer, Reclaim::default());
    let number = world.ask(&mut writer, chmod(inode, 0o600));
    assert!(world.reply(&writer, number).is_none());
    world.resume(&mut reader, Reclaim::default());
    assert!(world.reply(&writer, number).is_some());

    let mut world = world.restart();
    world.resume(&mut writer, Reclaim::default());
    let number = world.ask(&mut writer, chmod(inode, 0o644));
    world.pass(Duration::from_secs(10), &[writer]);
    assert!(world.reply(&writer, number).is_none());
    world.pass(Duration::from_secs(1), &[writer]);
    assert!(world.reply(&writer, number).is_some());
}

#[test]
fn after_a_restart_a_session_counts_as_holder_of_everything_until_its_kernel_is_through() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    let mut world = world.restart();
    world.resume(&mut writer, Reclaim::default());
    let beginning = world.resume_slowly(&mut reader, Reclaim::default());
    let number = world.ask(&mut writer, chmod(inode, 0o600));
    assert!(world.reply(&writer, number).is_none());
    world.message(&reader, ClientMessage::Acknowledge { number: beginning });
    assert!(world.reply(&writer, number).is_some());
}

#[test]
fn a_busy_directory_is_dropped_whole_by_a_holder_that_does_not_come_back() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    world.get(&mut reader, lookup("x")).unwrap_err();
    for index in 0..30 {
        let operation = create(&mut writer, &format!("file{index}"));
        let number = world.ask(&mut writer, operation);
        world.acknowledge_all(&reader);
        assert!(world.reply(&writer, number).is_some());
        if index > 16 {
            assert!(world.invalidations(&reader).is_empty());
        }
    }
}

#[test]
fn an_inode_is_not_cleaned_up_before_its_holders_have_acknowledged() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    world.get(&mut writer, Operation::Release { inode }).unwrap();
    world.attributes(&mut reader, inode).unwrap();
    world.ask(&mut writer, unlink("a"));
    world.pass(Duration::from_secs(5), &[writer, reader]);
    // The open was under way when the name went.
    assert!(matches!(
        world.get(
            &mut reader,
            Operation::Open {
                inode,
                truncate: false
            }
        ),
        Ok(Reply::Attributes(_))
    ));
    world.acknowledge_all(&reader);
    world.pass(Duration::from_secs(5), &[writer, reader]);
    assert!(world.attributes(&mut reader, inode).is_ok(), "it is open");
    world.get(&mut reader, Operation::Release { inode }).unwrap();
    // Who asked for the attributes of a file without a name would hold it: nobody may have, for it to go.
    world.acknowledge_all(&reader);
    world.disconnect(&reader);
    world.resume(&mut reader, Reclaim::default());
    world.pass(Duration::from_secs(5), &[writer, reader]);
    assert!(world.attributes(&mut writer, inode).is_err());
}

/// Found by the simulation (seed 350): the session was no holder of what it was told, and nobody said so.
#[test]
fn a_reply_that_was_made_between_hello_and_welcome_says_that_it_must_not_be_kept() {
    let mut world = World::new();
    let (mut first, mut second) = (world.client(), world.client());
    let inode = world.create(&mut first, "a");
    world.attributes(&mut second, inode).unwrap();
    world.automatic = false;
    let waiting = world.ask(&mut first, chmod(inode, 0o600));
    first.connection = world.open_stream(Hello {
        session: Some(first.session),
        ..hello()
    });
    world.commit();
    world.commit();
    world.inbox(first.connection);
    assert_eq!(world.acknowledge_all(&second), 1);
    let messages = world.inbox(first.connection);
    assert!(
        matches!(&messages[..], [
            ServerMessage::Reply { number, superseded, .. },
        ] if *number == waiting && superseded.contains(&Invalidation::Everything(inode))),
        "{messages:?}"
    );
}

/// Found by the simulation (seed 385): the writer gave up waiting for its commit and unlocked; the commit was executed, and the lock
/// granted to a reader whose kernel still held the old pages.
#[test]
fn a_lock_is_given_back_after_what_was_requested_before_is_answered() {
    let mut world = World::new();
    let (mut holder, mut next) = (world.client(), world.client());
    let inode = world.create(&mut holder, "a");
    world.attributes(&mut next, inode).unwrap();
    let lock = |kind, owner, wait| Operation::SetLock {
        inode,
        lock: record(kind, 0, u64::MAX, owner),
        wait,
    };
    world.get(&mut holder, lock(LockKind::Write, 1, false)).unwrap();
    let waiting = world.ask(&mut next, lock(LockKind::Write, 2, true));
    let change = world.ask(&mut holder, chmod(inode, 0o600));
    let unlock = world.ask(&mut holder, lock(LockKind::Unlock, 1, false));
    assert!(world.reply(&holder, unlock).is_none());
    assert!(world.reply(&next, waiting).is_none());
    assert_eq!(world.acknowledge_all(&next), 1);
    for number in [change, unlock] {
        assert!(world.reply(&holder, number).is_some());
    }
    assert!(world.reply(&next, waiting).is_some());
}

#[test]
fn after_a_restart_a_repeated_change_waits_for_those_who_had_been_told_of_it() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    world.attributes(&mut reader, inode).unwrap();
    let number = world.ask(&mut writer, chmod(inode, 0o600));
    let mut world = world.restart();
    world.resume(&mut writer, Reclaim::default());
    world.send(&writer, number, chmod(inode, 0o600));
    assert!(world.reply(&writer, number).is_none());
    world.resume(&mut reader, Reclaim::default());
    assert!(world.reply(&writer, number).is_some());
}

#[test]
fn who_removes_many_files_that_another_session_caches_does_not_wait_for_it_at_each_of_them() {
    let mut world = World::new();
    let (mut remover, mut reader) = (world.client(), world.client());
    let names: Vec<String> = (0..40).map(|number| format!("file-{number}")).collect();
    for name in &names {
        let inode = world.create(&mut remover, name);
        world.attributes(&mut reader, inode).unwrap();
    }
    world.acknowledge_all(&reader);
    let listing = Operation::ReadDirectory {
        directory: InodeNumber::ROOT,
        after: 0,
        limit: 100,
        with_attributes: false,
        until: None,
    };
    let Ok(Reply::Directory { entries, .. }) = world.get(&mut remover, listing) else {
        panic!("it is listed");
    };
    let mut waited = 0;
    for entry in entries {
        let operation = Operation::Unlink {
            parent: InodeNumber::ROOT,
            name: entry.name,
        };
        let number = world.ask(&mut remover, operation);
        if world.reply(&remover, number).is_none() {
            waited += 1;
            world.acknowledge_all(&reader);
            assert!(matches!(
                world.reply(&remover, number),
                Some(Ok(Reply::Removed { .. }))
            ));
        }
    }
    assert!(waited < 12, "it waited for the reader {waited} times");
}
