//! Beginning and end of sessions.

use std::time::Duration;

use twinshore_protocol::lock::LockKind;
use twinshore_protocol::message::{ClientMessage, Hello, Reclaim, Refusal, ServerMessage};
use twinshore_protocol::{Operation, Position, Reply, VolumeId};

use super::soft_state::record;
use super::world::{VOLUME, World, create, hello, lookup};
use crate::service::state::ServiceOptions;

#[test]
fn a_session_is_welcomed_when_its_record_is_committed() {
    let mut world = World::new();
    world.automatic = false;
    let connection = world.open_stream(hello());
    assert!(world.inbox(connection).is_empty());
    world.commit();
    assert!(
        matches!(&world.inbox(connection)[..], [ServerMessage::Welcome(welcome)] if !welcome.inodes.is_empty())
    );
}

#[test]
fn a_hello_that_does_not_fit_is_refused_with_the_reason() {
    let mut world = World::with(ServiceOptions {
        sessions_max: 2,
        ..ServiceOptions::default()
    });
    let client = world.client();
    let version = world.refusal(Hello {
        protocol_version: 99,
        ..hello()
    });
    assert_eq!(
        version,
        Refusal::Version {
            offered: 99,
            served: 1
        }
    );
    let expected = VolumeId([8; 16]);
    let other = world.refusal(Hello {
        volume: Some(expected),
        ..hello()
    });
    assert_eq!(
        other,
        Refusal::OtherVolume {
            served: VOLUME,
            expected
        }
    );
    let unknown = twinshore_protocol::SessionId(12345);
    assert_eq!(
        world.refusal(Hello {
            session: Some(unknown),
            ..hello()
        }),
        Refusal::SessionExpired
    );
    let seen = Some((client.epoch, Position(u64::MAX)));
    assert_eq!(
        world.refusal(Hello {
            session: Some(client.session),
            seen,
            ..hello()
        }),
        Refusal::Behind
    );
    world.client();
    assert_eq!(world.refusal(hello()), Refusal::TooManySessions { limit: 2 });
}

#[test]
fn messages_before_hello_close_the_stream() {
    let mut world = World::new();
    let mut client = world.client();
    client.connection = twinshore_connection(&mut world);
    world.message(&client, ClientMessage::Heartbeat { number: 1 });
    assert_eq!(world.closed, [client.connection]);
}

fn twinshore_connection(world: &mut World) -> crate::service::state::ConnectionId {
    let connection = crate::service::state::ConnectionId(1000);
    world.input(crate::service::state::Input::Connected { connection });
    connection
}

#[test]
fn the_newest_stream_of_a_session_wins() {
    let mut world = World::new();
    let mut client = world.client();
    let old = client.connection;
    world.resume(&mut client, Reclaim::default());
    assert_eq!(world.closed, [old]);
    assert!(world.get(&mut client, lookup("a")).is_err());
}

#[test]
fn a_resumed_session_of_an_older_epoch_gets_numbers_of_the_new_one() {
    let mut world = World::new();
    let mut client = world.client();
    let before = client.epoch;
    let mut world = world.restart();
    world.resume(&mut client, Reclaim::default());
    assert!(client.epoch > before);
    assert!(!client.objects.is_empty());
    world.create(&mut client, "a");
}

#[test]
fn heartbeats_are_answered_and_keep_a_session() {
    let mut world = World::new();
    let client = world.client();
    world.message(&client, ClientMessage::Heartbeat { number: 17 });
    assert!(matches!(
        &world.inbox(client.connection)[..],
        [ServerMessage::HeartbeatReply { number: 17 }]
    ));
    world.pass(Duration::from_secs(200), &[client]);
    assert_eq!(world.service.numbers().sessions, 1);
}

#[test]
fn a_silent_session_expires_and_what_it_holds_is_given_back() {
    let mut world = World::new();
    let (mut silent, mut other) = (world.client(), world.client());
    let inode = world.create(&mut silent, "a");
    let lock = record(LockKind::Write, 0, 9, 1);
    world
        .get(
            &mut silent,
            Operation::SetLock {
                inode,
                lock,
                wait: false,
            },
        )
        .unwrap();
    let waiting = world.ask(
        &mut other,
        Operation::SetLock {
            inode,
            lock,
            wait: true,
        },
    );
    world.pass(Duration::from_secs(59), &[other]);
    assert!(world.reply(&other, waiting).is_none());
    world.pass(Duration::from_secs(2), &[other]);
    assert_eq!(world.reply(&other, waiting), Some(Ok(Reply::Done)));
    assert!(matches!(
        world.inbox(silent.connection).last(),
        Some(ServerMessage::Expired)
    ));
    assert!(world.closed.contains(&silent.connection));
    assert_eq!(
        world.refusal(Hello {
            session: Some(silent.session),
            ..hello()
        }),
        Refusal::SessionExpired
    );
    let operation = create(&mut silent, "late");
    world.ask(&mut silent, operation);
    assert!(world.get(&mut other, lookup("late")).is_err());
    let mut world = world.restart();
    assert_eq!(
        world.refusal(Hello {
            session: Some(silent.session),
            ..hello()
        }),
        Refusal::SessionExpired
    );
}

#[test]
fn a_session_that_expires_after_a_restart_expires_by_the_new_clock() {
    let mut world = World::new();
    let client = world.client();
    world.pass(Duration::from_secs(50), &[]);
    let mut world = world.restart();
    world.pass(Duration::from_secs(50), &[]);
    assert_eq!(world.service.numbers().sessions, 1);
    world.pass(Duration::from_secs(11), &[]);
    assert_eq!(world.service.numbers().sessions, 0);
    assert_eq!(
        world.refusal(Hello {
            session: Some(client.session),
            ..hello()
        }),
        Refusal::SessionExpired
    );
}

#[test]
fn after_goodbye_nobody_waits_for_the_session() {
    let mut world = World::new();
    let (mut writer, mut reader) = (world.client(), world.client());
    let inode = world.create(&mut writer, "a");
    world.attributes(&mut reader, inode).unwrap();
    world.message(&reader, ClientMessage::Goodbye);
    assert_eq!(world.service.numbers().sessions, 1);
    let changes = twinshore_protocol::attributes::AttributeChanges {
        mode: Some(0o600),
        ..Default::default()
    };
    assert!(
        world
            .get(&mut writer, Operation::SetAttributes { inode, changes })
            .is_ok()
    );
}

#[test]
fn status_tells_of_sessions_and_usage() {
    let mut world = World::new();
    let mut client = world.client();
    world.create(&mut client, "a");
    let Ok(Reply::Status(status)) = world.get(&mut client, Operation::GetStatus) else {
        panic!("no status")
    };
    assert_eq!(status.sessions.len(), 1);
    assert!(status.sessions[0].connected);
    assert_eq!(status.sessions[0].open_inodes, 1);
    assert_eq!(status.usage.used_inodes, 2, "the root and the file");
    assert_eq!(status.replication.len(), 2);
    assert_eq!(status.replication[0].lag_seconds, 0);
    assert_eq!(status.position, world.position());
}

#[test]
fn new_settings_are_told_to_every_session() {
    let mut world = World::new();
    let (mut admin, other) = (world.admin(), world.client());
    let mut settings = world.service.format().settings.clone();
    settings.trash_retention_seconds = 7;
    world
        .get(
            &mut admin,
            Operation::SetSettings {
                settings: settings.clone(),
            },
        )
        .unwrap();
    let messages = world.inbox(other.connection);
    assert!(
        matches!(&messages[..], [ServerMessage::FormatChanged(format)] if format.settings == settings),
        "{messages:?}"
    );
}
