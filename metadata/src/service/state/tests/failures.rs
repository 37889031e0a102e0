//! A full journal, a broken one, and the deliberate faults.

use std::time::Duration;

use twinshore_protocol::message::{ClientMessage, Reclaim};
use twinshore_protocol::{Errno, InodeNumber, Operation, Reply};

use super::world::{World, create, lookup};
use crate::service::state::{AppendError, Fault, Input, ServiceOptions};

#[test]
fn a_full_journal_refuses_changes_and_goes_on_reading() {
    let mut world = World::new();
    let (mut client, mut reader) = (world.client(), world.client());
    world.create(&mut client, "old");
    world.automatic = false;
    let operation = create(&mut client, "first");
    let first = world.ask(&mut client, operation);
    let operation = create(&mut client, "second");
    let second = world.ask(&mut client, operation);
    let read = world.ask(&mut reader, lookup("first"));
    world.fill_disk();
    assert_eq!(world.reply(&client, first), Some(Err(Errno::NoSpace)));
    assert_eq!(world.reply(&client, second), Some(Err(Errno::NoSpace)));
    assert_eq!(
        world.reply(&reader, read),
        Some(Err(Errno::NotFound)),
        "it will never be"
    );
    let old = world.ask(&mut reader, lookup("old"));
    let answered = world.reply(&reader, old);
    assert!(
        matches!(answered, Some(Ok(Reply::Entry(_)))),
        "{answered:?} {:?} {:?}",
        world.closed,
        world.stopped
    );
    assert!(world.service.numbers().full);
    world.automatic = true;
    let operation = create(&mut client, "third");
    let third = world.ask(&mut client, operation);
    world.acknowledge_all(&reader);
    assert!(matches!(
        world.reply(&client, third),
        Some(Ok(Reply::Created { new: true, .. }))
    ));
    assert!(!world.service.numbers().full);
}

#[test]
fn on_a_nearly_full_disk_nothing_grows_but_removing_and_sessions_go_on() {
    let mut world = World::new();
    let mut client = world.client();
    world.create(&mut client, "old");
    world.input(Input::Disk { is_low: true });
    let operation = create(&mut client, "new");
    let refused = world.ask(&mut client, operation);
    assert_eq!(world.reply(&client, refused), Some(Err(Errno::NoSpace)));
    assert!(world.service.numbers().full);
    let mut other = world.client();
    let found = world.ask(&mut other, lookup("old"));
    assert!(matches!(world.reply(&other, found), Some(Ok(Reply::Entry(_)))));
    let unlink = Operation::Unlink {
        parent: InodeNumber::ROOT,
        name: "old".parse().unwrap(),
    };
    let removed = world.ask(&mut client, unlink);
    world.acknowledge_all(&other);
    assert!(matches!(
        world.reply(&client, removed),
        Some(Ok(Reply::Removed { .. }))
    ));
    assert!(
        world.service.numbers().full,
        "what was committed freed no space yet"
    );
    world.input(Input::Disk { is_low: false });
    let operation = create(&mut client, "new");
    let made = world.ask(&mut client, operation);
    world.acknowledge_all(&other);
    assert!(matches!(
        world.reply(&client, made),
        Some(Ok(Reply::Created { new: true, .. }))
    ));
}

#[test]
fn a_create_that_found_a_full_journal_holds_nothing_open() {
    let mut world = World::new();
    let mut client = world.client();
    world.automatic = false;
    let operation = create(&mut client, "a");
    world.ask(&mut client, operation);
    assert_eq!(world.service.numbers().opens, 1);
    world.fill_disk();
    assert_eq!(world.service.numbers().opens, 0);
}

#[test]
fn a_session_that_could_not_expire_expires_later() {
    let mut world = World::new();
    world.client();
    world.automatic = false;
    world.pass(Duration::from_secs(61), &[]);
    world.fill_disk();
    assert_eq!(world.service.numbers().sessions, 1);
    world.automatic = true;
    world.pass(Duration::from_secs(10), &[]);
    assert_eq!(world.service.numbers().sessions, 0);
}

#[test]
fn a_broken_journal_stops_the_service_and_nothing_more_is_answered() {
    let mut world = World::new();
    let mut client = world.client();
    world.automatic = false;
    let operation = create(&mut client, "a");
    let number = world.ask(&mut client, operation);
    world.append = None;
    world.input(Input::Appended(Err(AppendError::Final(
        "the disk is on fire".into(),
    ))));
    assert!(world.stopped.as_ref().unwrap().contains("on fire"));
    assert!(world.reply(&client, number).is_none());
    let later = world.ask(
        &mut client,
        Operation::GetAttributes {
            inode: InodeNumber::ROOT,
        },
    );
    assert!(world.reply(&client, later).is_none());
}

fn faulty(fault: Fault) -> World {
    World::with(ServiceOptions {
        fault: Some(fault),
        ..ServiceOptions::default()
    })
}

#[test]
fn the_fault_of_acknowledging_before_the_journal_is_visible() {
    let mut world = faulty(Fault::AcknowledgeBeforeJournal);
    let mut client = world.client();
    world.automatic = false;
    let operation = create(&mut client, "a");
    assert!(world.get(&mut client, operation).is_ok());
    let mut world = world.restart();
    world.resume(&mut client, Reclaim::default());
    assert_eq!(world.get(&mut client, lookup("a")), Err(Errno::NotFound));
}

#[test]
fn the_fault_of_losing_one_recall_is_visible() {
    let mut world = faulty(Fault::LoseOneRecall);
    let (mut writer, mut reader) = (world.client(), world.client());
    let mut told = Vec::new();
    for text in ["a", "b", "c"] {
        world.get(&mut reader, lookup(text)).unwrap_err();
        let operation = create(&mut writer, text);
        world.ask(&mut writer, operation);
        told.push(world.acknowledge_all(&reader));
    }
    assert_eq!(told, [1, 0, 1]);
}

#[test]
fn the_fault_of_applying_a_retry_twice_is_visible() {
    let mut world = faulty(Fault::ApplyRetryTwice);
    let mut client = world.client();
    let operation = create(&mut client, "a");
    let number = world.ask(&mut client, operation.clone());
    world.disconnect(&client);
    world.resume(&mut client, Reclaim::default());
    world.send(&client, number, operation);
    assert!(
        matches!(world.reply(&client, number), Some(Err(_))),
        "a create that succeeded now fails"
    );
}

#[test]
fn the_fault_of_skipping_the_check_of_the_session_is_visible() {
    let mut world = faulty(Fault::SkipEpochOrSessionCheck);
    let mut client = world.client();
    let inode = world.create(&mut client, "a");
    world.pass(Duration::from_secs(61), &[]);
    world.message(&client, ClientMessage::Heartbeat { number: 1 });
    let changes = twinshore_protocol::attributes::AttributeChanges {
        mode: Some(0o600),
        ..Default::default()
    };
    assert!(
        world
            .get(&mut client, Operation::SetAttributes { inode, changes })
            .is_ok()
    );
}
