//! Directories that one session answers for.

use std::time::Duration;

use twinshore_protocol::message::{ClientMessage, Delegated, Hello, Reclaim, ServerMessage};
use twinshore_protocol::operation::NewInode;
use twinshore_protocol::{Caller, Errno, InodeNumber, Operation, Reply, RequestNumber, Timestamp};

use super::world::{Client, World, hello, lookup, name, wall};
use crate::service::state::ServiceOptions;

fn mount(world: &mut World) -> Client {
    world.connect(Hello {
        delegations: true,
        ..hello()
    })
}

fn make_directory(client: &mut Client, text: &str) -> Operation {
    Operation::MakeDirectory {
        parent: InodeNumber::ROOT,
        name: name(text),
        new: new(client),
    }
}

fn new(client: &mut Client) -> NewInode {
    NewInode {
        inode: InodeNumber(client.inodes.take().unwrap()),
        mode: 0o755,
        umask: 0,
    }
}

fn create_in(client: &mut Client, parent: InodeNumber, text: &str) -> Operation {
    Operation::Create {
        parent,
        name: name(text),
        new: new(client),
        exclusive: true,
        truncate: false,
    }
}

/// The directories that a reply says are delegated.
fn delegated(world: &mut World, client: &Client, number: RequestNumber) -> Vec<InodeNumber> {
    all_delegated(world, client, number).directories
}

/// What a reply says is delegated.
fn all_delegated(world: &mut World, client: &Client, number: RequestNumber) -> Delegated {
    let mut told = None;
    for message in world.inbox(client.connection) {
        if let ServerMessage::Reply {
            number: of,
            delegated,
            result,
            ..
        } = message
            && of == number
        {
            assert!(result.is_ok(), "{result:?}");
            told = Some(delegated);
        }
    }
    told.expect("it is answered")
}

/// Makes a directory that is delegated to its maker from then on.
fn delegated_directory(world: &mut World, client: &mut Client, text: &str) -> InodeNumber {
    let operation = make_directory(client, text);
    let number = world.ask(client, operation);
    let directories = delegated(world, client, number);
    let made = directories.iter().find(|inode| **inode != InodeNumber::ROOT);
    *made.expect("a new directory is delegated")
}

/// Sends what was answered already.
fn answered(world: &mut World, client: &mut Client, at: Timestamp, operation: Operation) -> RequestNumber {
    let number = RequestNumber(client.next);
    client.next += 1;
    let request = ClientMessage::Request {
        number,
        caller: Caller {
            answered: Some(at),
            ..Caller::ROOT
        },
        operation,
    };
    world.message(client, request);
    number
}

fn recalls(world: &mut World, client: &Client) -> Vec<(u64, Vec<InodeNumber>)> {
    let messages = world.inbox(client.connection);
    let recalls = messages.into_iter().filter_map(|message| match message {
        ServerMessage::Recall { number, directories } => Some((number, directories)),
        _ => None,
    });
    recalls.collect()
}

fn the_recall(world: &mut World, client: &Client, directory: InodeNumber) -> u64 {
    match recalls(world, client).as_slice() {
        [(number, directories)] if directories.contains(&directory) => *number,
        other => panic!("not one recall of {directory} but {other:?}"),
    }
}

fn get_attributes(inode: InodeNumber) -> Operation {
    Operation::GetAttributes { inode }
}

#[test]
fn a_directory_that_nobody_else_knows_is_delegated_and_told_of_to_others_when_it_is_returned() {
    let mut world = World::new();
    let (mut maker, mut reader) = (mount(&mut world), mount(&mut world));
    let directory = delegated_directory(&mut world, &mut maker, "d");
    let at = wall(Duration::ZERO).plus(Duration::from_millis(5));
    let operation = create_in(&mut maker, directory, "a");
    let first = answered(&mut world, &mut maker, at, operation);
    assert!(matches!(
        world.reply(&maker, first),
        Some(Ok(Reply::Created { attributes, new: true, .. })) if attributes.changed == at
    ));

    let number = world.ask(&mut reader, lookup("d"));
    assert_eq!(world.reply(&reader, number), None);
    let usage = Operation::StatFileSystem {
        inode: InodeNumber::ROOT,
    };
    let follows = world.get(&mut reader, usage);
    assert!(
        follows.is_ok(),
        "who waits does not hold up what follows: {follows:?}"
    );
    let recall = the_recall(&mut world, &maker, directory);
    let operation = create_in(&mut maker, directory, "b");
    answered(&mut world, &mut maker, at, operation);
    assert_eq!(world.reply(&reader, number), None);
    world.message(&maker, ClientMessage::Returned { number: recall });
    match world.reply(&reader, number) {
        Some(Ok(Reply::Entry(attributes))) => {
            assert_eq!((attributes.size_bytes, attributes.changed), (64, at));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_sessions_that_wait_for_each_others_directories_are_no_circle() {
    let mut world = World::new();
    let (mut one, mut other) = (mount(&mut world), mount(&mut world));
    let directories = [delegated_directory(&mut world, &mut one, "one"), {
        // The root is the first one's until it returns it.
        let operation = make_directory(&mut other, "other");
        let number = world.ask(&mut other, operation);
        let root = the_recall(&mut world, &one, InodeNumber::ROOT);
        world.message(&one, ClientMessage::Returned { number: root });
        world.acknowledge_all(&one);
        *delegated(&mut world, &other, number).last().unwrap()
    }];
    let asked = [
        world.ask(&mut one, get_attributes(directories[1])),
        world.ask(&mut other, get_attributes(directories[0])),
    ];
    assert_eq!(world.reply(&one, asked[0]), None);
    assert_eq!(world.reply(&other, asked[1]), None);
    let recalled = [
        the_recall(&mut world, &one, directories[0]),
        the_recall(&mut world, &other, directories[1]),
    ];
    for (client, number) in [&one, &other].into_iter().zip(recalled) {
        world.message(client, ClientMessage::Returned { number });
    }
    assert!(matches!(world.reply(&one, asked[0]), Some(Ok(_))));
    assert!(matches!(world.reply(&other, asked[1]), Some(Ok(_))));
}

#[test]
fn a_silent_holder_is_waited_for_until_its_lease_ends_and_what_it_answered_is_executed_when_it_is_back() {
    let mut world = World::new();
    let (mut maker, mut reader) = (mount(&mut world), mount(&mut world));
    let directory = delegated_directory(&mut world, &mut maker, "d");
    let number = world.ask(&mut reader, get_attributes(directory));
    world.pass(Duration::from_secs(5), std::slice::from_ref(&reader));
    assert_eq!(world.reply(&reader, number), None);
    world.pass(Duration::from_secs(6), std::slice::from_ref(&reader));
    assert!(matches!(world.reply(&reader, number), Some(Ok(_))));
    let operation = create_in(&mut reader, directory, "theirs");
    assert!(world.get(&mut reader, operation).is_ok());

    // It may be alive, and its lease begin anew: before that it has heard that it holds nothing.
    the_recall(&mut world, &maker, directory);
    let at = wall(Duration::ZERO);
    let operation = create_in(&mut maker, directory, "mine");
    let late = answered(&mut world, &mut maker, at, operation);
    world.acknowledge_all(&reader);
    assert!(matches!(
        world.reply(&maker, late),
        Some(Ok(Reply::Created { new: true, .. }))
    ));
}

#[test]
fn a_holder_with_a_new_stream_returns_behind_what_it_sends_again() {
    let mut world = World::new();
    let (mut maker, mut reader) = (mount(&mut world), mount(&mut world));
    let directory = delegated_directory(&mut world, &mut maker, "d");
    world.disconnect(&maker);
    let number = world.ask(&mut reader, get_attributes(directory));
    world.greet_again(&mut maker, true);
    world.claim(&maker, Reclaim::default());
    assert!(recalls(&mut world, &maker).is_empty(), "it returns by itself");
    let at = wall(Duration::ZERO);
    let operation = create_in(&mut maker, directory, "a");
    answered(&mut world, &mut maker, at, operation);
    assert_eq!(world.reply(&reader, number), None);
    world.message(&maker, ClientMessage::Returned { number: 0 });
    match world.reply(&reader, number) {
        Some(Ok(Reply::Attributes(attributes))) => assert_eq!(attributes.size_bytes, 32),
        other => panic!("{other:?}"),
    }
}

#[test]
fn after_a_restart_nobody_is_told_of_a_directory_before_older_sessions_have_returned_theirs() {
    let mut world = World::new();
    let (mut maker, mut reader, dead) = (mount(&mut world), mount(&mut world), mount(&mut world));
    let directory = delegated_directory(&mut world, &mut maker, "d");
    let mut world = world.restart();
    world.greet_again(&mut reader, true);
    world.claim(&reader, Reclaim::default());
    let number = world.ask(&mut reader, get_attributes(directory));
    world.greet_again(&mut maker, true);
    world.claim(&maker, Reclaim::default());
    let at = wall(Duration::ZERO);
    let operation = create_in(&mut maker, directory, "a");
    answered(&mut world, &mut maker, at, operation);
    world.message(&maker, ClientMessage::Returned { number: 0 });
    assert_eq!(
        world.reply(&reader, number),
        None,
        "a third may hold it: {dead:?}"
    );
    world.pass(Duration::from_secs(11), &[maker, reader]);
    match world.reply(&reader, number) {
        Some(Ok(Reply::Attributes(attributes))) => assert_eq!(attributes.size_bytes, 32),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_returned_behind_requests_in_the_queue_is_held_until_they_are_executed() {
    let mut world = World::with(ServiceOptions {
        batch_operations_max: 1,
        ..ServiceOptions::default()
    });
    let (mut maker, mut reader) = (mount(&mut world), mount(&mut world));
    let directory = delegated_directory(&mut world, &mut maker, "d");
    let number = world.ask(&mut reader, get_attributes(directory));
    let recall = the_recall(&mut world, &maker, directory);
    world.automatic = false;
    let at = wall(Duration::ZERO);
    for text in ["a", "b", "c", "d"] {
        let operation = create_in(&mut maker, directory, text);
        answered(&mut world, &mut maker, at, operation);
    }
    world.message(&maker, ClientMessage::Returned { number: recall });
    for _ in 0..4 {
        assert_eq!(world.reply(&reader, number), None);
        world.commit();
    }
    match world.reply(&reader, number) {
        Some(Ok(Reply::Attributes(attributes))) => assert_eq!(attributes.size_bytes, 4 * 32),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_answered_is_not_refused_for_a_limit_but_ends_the_delegation() {
    let mut world = World::new();
    let mut maker = mount(&mut world);
    let mut admin = world.admin();
    let directory = delegated_directory(&mut world, &mut maker, "d");
    let set = world.ask(
        &mut admin,
        Operation::SetQuota {
            directory: InodeNumber::ROOT,
            limit_bytes: None,
            limit_inodes: Some(3),
        },
    );
    assert_eq!(world.reply(&admin, set), Some(Ok(Reply::Done)));
    let recall = the_recall(&mut world, &maker, directory);
    for text in ["a", "b", "c"] {
        let operation = create_in(&mut maker, directory, text);
        let number = answered(&mut world, &mut maker, wall(Duration::ZERO), operation);
        assert!(matches!(
            world.reply(&maker, number),
            Some(Ok(Reply::Created { .. }))
        ));
    }
    world.message(&maker, ClientMessage::Returned { number: recall });
    let operation = create_in(&mut maker, directory, "d");
    assert_eq!(world.get(&mut maker, operation), Err(Errno::NoSpace));
    let unlink = Operation::Unlink {
        parent: directory,
        name: name("a"),
    };
    let number = world.ask(&mut maker, unlink);
    assert!(
        delegated(&mut world, &maker, number).is_empty(),
        "there is no room"
    );
}

#[test]
fn what_somebody_else_caches_or_has_to_drop_is_not_delegated() {
    let mut world = World::new();
    let (mut maker, mut reader) = (mount(&mut world), mount(&mut world));
    let made = world.client();
    let directory = {
        let mut plain = made;
        let operation = make_directory(&mut plain, "d");
        match world.get(&mut plain, operation) {
            Ok(Reply::Entry(attributes)) => attributes.inode,
            other => panic!("{other:?}"),
        }
    };
    world.message(&made, ClientMessage::Goodbye);
    let looked = Operation::Lookup {
        parent: directory,
        name: name("x"),
    };
    assert_eq!(world.get(&mut reader, looked), Err(Errno::NotFound));
    for round in 0..16 {
        let operation = create_in(&mut maker, directory, &format!("f{round}"));
        let number = world.ask(&mut maker, operation);
        assert_eq!(
            world.reply(&maker, number),
            None,
            "the reader has not dropped the name"
        );
        world.acknowledge_all(&reader);
        assert!(delegated(&mut world, &maker, number).is_empty());
    }
    // The reader has not come back: it has dropped the directory whole.
    let operation = create_in(&mut maker, directory, "last");
    let number = world.ask(&mut maker, operation);
    assert_eq!(delegated(&mut world, &maker, number), [directory]);
}

/// A file that the client makes in a directory.
fn file_in(world: &mut World, client: &mut Client, directory: InodeNumber, text: &str) -> InodeNumber {
    let operation = create_in(client, directory, text);
    match world.get(client, operation) {
        Ok(Reply::Created { attributes, .. }) => attributes.inode,
        other => panic!("{other:?}"),
    }
}

/// The files that the client is told to be sole when it looks one up.
fn sole(world: &mut World, client: &mut Client, parent: InodeNumber, text: &str) -> Vec<InodeNumber> {
    let operation = Operation::Lookup {
        parent,
        name: name(text),
    };
    let number = world.ask(client, operation);
    all_delegated(world, client, number).sole
}

#[test]
fn a_file_that_nobody_else_holds_anything_of_is_told_to_be_sole() {
    let mut world = World::new();
    let mut maker = mount(&mut world);
    let directory = delegated_directory(&mut world, &mut maker, "d");
    let file = file_in(&mut world, &mut maker, directory, "f");
    assert_eq!(sole(&mut world, &mut maker, directory, "f"), [file]);
    let list = Operation::ReadDirectory {
        directory,
        after: 0,
        limit: 100,
        with_attributes: true,
        until: None,
    };
    let number = world.ask(&mut maker, list);
    let told = all_delegated(&mut world, &maker, number);
    assert_eq!((told.directories, told.sole), (vec![directory], vec![file]));
}

#[test]
fn who_asks_for_a_sole_file_by_its_number_waits_for_its_directory() {
    let mut world = World::new();
    let (mut maker, mut other) = (mount(&mut world), mount(&mut world));
    let directory = delegated_directory(&mut world, &mut maker, "d");
    let file = file_in(&mut world, &mut maker, directory, "f");
    assert_eq!(sole(&mut world, &mut maker, directory, "f"), [file]);
    let asked = world.ask(&mut other, get_attributes(file));
    assert_eq!(world.reply(&other, asked), None);
    let recall = the_recall(&mut world, &maker, directory);
    let unlink = Operation::Unlink {
        parent: directory,
        name: name("f"),
    };
    answered(&mut world, &mut maker, wall(Duration::from_millis(5)), unlink);
    world.message(&maker, ClientMessage::Returned { number: recall });
    match world.reply(&other, asked) {
        Some(Ok(Reply::Attributes(attributes))) => assert_eq!(attributes.links, 0, "its maker has it open"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_somebody_else_has_open_is_not_sole_and_its_holder_does_not_wait() {
    let mut world = World::new();
    let (mut maker, mut other) = (mount(&mut world), mount(&mut world));
    let directory = delegated_directory(&mut world, &mut maker, "d");
    let file = file_in(&mut world, &mut maker, directory, "f");
    let open = Operation::Open {
        inode: file,
        truncate: false,
    };
    let opened = world.ask(&mut other, open);
    let recall = the_recall(&mut world, &maker, directory);
    world.message(&maker, ClientMessage::Returned { number: recall });
    assert!(matches!(world.reply(&other, opened), Some(Ok(_))));
    let operation = create_in(&mut maker, directory, "g");
    let number = world.ask(&mut maker, operation);
    assert_eq!(
        delegated(&mut world, &maker, number),
        [directory],
        "nobody else holds anything of its names"
    );
    assert!(sole(&mut world, &mut maker, directory, "f").is_empty());
    let asked = world.ask(&mut other, get_attributes(file));
    assert!(world.reply(&other, asked).is_some());
}
