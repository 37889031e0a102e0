//! Who waits for the copy of a directory, and who does not; and what roles may ask for.

use std::time::Duration;

use twinshore_protocol::claims::{ClaimDisplay, ClaimKey, ClaimRequest, NewDirectory, Refused, SnapshotKey};
use twinshore_protocol::operation::NewInode;
use twinshore_protocol::{Errno, InodeNumber, Operation, Reply};

use super::world::{Client, World, create, format, name};

fn claim_key() -> ClaimKey {
    "east/pvc-1".parse().unwrap()
}

fn snapshot_key() -> SnapshotKey {
    "east/snap-1".parse().unwrap()
}

fn create_in(client: &mut Client, parent: InodeNumber, text: &str) -> Operation {
    Operation::Create {
        parent,
        name: name(text),
        new: NewInode {
            inode: InodeNumber(client.inodes.take().unwrap()),
            mode: 0o644,
            umask: 0,
        },
        exclusive: true,
        truncate: false,
    }
}

/// A claimed directory of so many files that a copy takes several records.
fn large(world: &mut World, client: &mut Client) -> InodeNumber {
    let request = ClaimRequest {
        key: claim_key(),
        display: ClaimDisplay {
            namespace: "team".into(),
            name: "data".into(),
        },
        path: "/data".parse().unwrap(),
        capacity_bytes: 0,
        source: None,
        new: NewDirectory::default(),
    };
    let directory = match world.get(client, Operation::ClaimDirectory(Box::new(request))) {
        Ok(Reply::Claim(claim)) => claim.directory,
        other => panic!("{other:?}"),
    };
    for at in 0..5000 {
        let operation = create_in(client, directory, &format!("file-{at}"));
        world.get(client, operation).unwrap();
    }
    directory
}

fn begin(world: &mut World, client: &mut Client) {
    world.automatic = false;
    let operation = Operation::CreateSnapshot {
        key: snapshot_key(),
        source: claim_key(),
    };
    let number = world.ask(client, operation);
    world.commit();
    match world.reply(client, number) {
        Some(Ok(Reply::Snapshot(snapshot))) => assert!(!snapshot.ready),
        other => panic!("{other:?}"),
    }
}

fn finish(world: &mut World) -> usize {
    let mut records = 0;
    while world.append.is_some() {
        world.commit();
        records += 1;
    }
    world.automatic = true;
    records
}

fn snapshot(world: &mut World, client: &mut Client) -> Result<(bool, u64), Refused> {
    match world.get(client, Operation::GetSnapshot { key: snapshot_key() }) {
        Ok(Reply::Snapshot(snapshot)) => Ok((snapshot.ready, snapshot.inodes)),
        Ok(Reply::Refused(refused)) => Err(*refused),
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_would_change_a_directory_waits_while_it_is_copied_and_nobody_else() {
    let mut world = World::new();
    let (mut controller, mut writer, mut other) = (world.client(), world.client(), world.client());
    let directory = large(&mut world, &mut controller);
    begin(&mut world, &mut controller);
    let late = create_in(&mut writer, directory, "late");
    let late = world.ask(&mut writer, late);
    let after = world.ask(&mut writer, Operation::GetAttributes { inode: directory });
    let read = world.ask(&mut other, Operation::GetAttributes { inode: directory });
    let elsewhere = create(&mut other, "elsewhere");
    let elsewhere = world.ask(&mut other, elsewhere);
    assert!(world.reply(&other, read).is_some(), "reading never waits");
    world.commit();
    world.commit();
    assert!(world.reply(&other, elsewhere).is_some());
    assert!(world.reply(&writer, late).is_none());
    assert!(
        world.reply(&writer, after).is_none(),
        "a session's requests keep their order"
    );
    assert!(finish(&mut world) > 0);
    world.acknowledge_all(&other);
    world.acknowledge_all(&controller);
    assert!(matches!(
        world.reply(&writer, late),
        Some(Ok(Reply::Created { .. }))
    ));
    assert!(world.reply(&writer, after).is_some());
    assert_eq!(
        snapshot(&mut world, &mut controller),
        Ok((true, 5001)),
        "without the late one"
    );
}

#[test]
fn a_copy_goes_on_after_a_restart() {
    let mut world = World::new();
    let mut controller = world.client();
    large(&mut world, &mut controller);
    begin(&mut world, &mut controller);
    world.append = None;
    let mut world = world.restart();
    let mut again = world.client();
    assert_eq!(snapshot(&mut world, &mut again), Ok((true, 5001)));
}

#[test]
fn a_copy_that_holds_writers_up_for_too_long_fails() {
    let mut world = World::new();
    let (mut controller, mut writer) = (world.client(), world.client());
    let directory = large(&mut world, &mut controller);
    begin(&mut world, &mut controller);
    let late = create_in(&mut writer, directory, "late");
    let late = world.ask(&mut writer, late);
    world.now += Duration::from_secs(31);
    finish(&mut world);
    world.acknowledge_all(&controller);
    assert!(matches!(
        world.reply(&writer, late),
        Some(Ok(Reply::Created { .. }))
    ));
    let failed = snapshot(&mut world, &mut controller).unwrap_err();
    assert!(failed.to_string().contains("30 s"), "{failed}");
}

#[test]
fn a_full_disk_ends_no_copy_and_a_session_that_is_over_waits_for_none() {
    let mut world = World::new();
    let (mut controller, mut writer) = (world.client(), world.client());
    let directory = large(&mut world, &mut controller);
    begin(&mut world, &mut controller);
    let late = create_in(&mut writer, directory, "late");
    world.ask(&mut writer, late);
    world.message(&writer, twinshore_protocol::message::ClientMessage::Goodbye);
    world.fill_disk();
    assert!(world.append.is_none(), "it is left alone for a while");
    world.now += Duration::from_secs(6);
    world.input(crate::service::state::Input::Tick);
    assert!(finish(&mut world) > 0);
    assert_eq!(snapshot(&mut world, &mut controller), Ok((true, 5001)));
}

#[test]
fn a_client_does_not_administer() {
    let mut world = World::new();
    let mut client = world.client();
    let settings = format().settings;
    assert_eq!(
        world.get(&mut client, Operation::SetSettings { settings }),
        Err(Errno::NotPermitted)
    );
    assert!(world.get(&mut client, Operation::GetStatus).is_ok());
}
