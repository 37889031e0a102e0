//! What the service does itself: volumes, epochs, sessions, results.

use super::*;
use crate::core::results::{Stored, remember, stored};
use crate::core::volume;
use twinshore_protocol::RequestNumber;

#[test]
fn a_volume_is_made_once_and_epochs_only_rise() {
    let mut world = World::new();
    let format = volume::format(&world.view).unwrap().unwrap();
    assert_eq!(
        world.maintain(&Maintenance::CreateVolume {
            format,
            limits: VolumeLimits::default()
        }),
        Err(Errno::Exists)
    );
    assert_eq!(
        world.maintain(&Maintenance::StartEpoch { epoch: Epoch(1) }),
        Err(Errno::Invalid)
    );
    assert_eq!(
        world.maintain(&Maintenance::StartEpoch { epoch: Epoch(5) }),
        Ok(Reply::Done)
    );
    assert_eq!(volume::epoch(&world.view).unwrap(), Epoch(5));
    assert_eq!(volume::usage(&world.view).unwrap().used_inodes, 1);
}

#[test]
fn numbers_are_never_granted_twice() {
    let mut world = World::new();
    let mut seen = BTreeSet::new();
    for number in 2..6 {
        let (session, role, near) = (SessionId(number), Role::Worker, Side::Target);
        let description = SessionDescription::default();
        let open = Maintenance::OpenSession {
            session,
            role,
            near,
            description,
        };
        let Ok(Reply::Granted { inodes, objects }) = world.maintain(&open) else {
            panic!()
        };
        assert_eq!(world.maintain(&open), Err(Errno::Exists));
        assert!(seen.insert((inodes.start, objects.start)));
        world.maintain(&Maintenance::CloseSession { session }).unwrap();
    }
    let Ok(Reply::Granted { inodes, .. }) = world.run(&Operation::GrantNumbers) else {
        panic!()
    };
    assert!(seen.iter().all(|(start, _)| *start < inodes.start));
    assert_eq!(volume::sessions(&world.view).unwrap().len(), 1);
}

#[test]
fn objects_of_an_older_epoch_may_still_be_committed() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let before = world.new_object(b"abc", Sides::BOTH);
    world.epoch = Epoch(2);
    world.run(&Operation::GrantNumbers).unwrap();
    let source = ExtentSource::Object {
        object: before.object,
        object_offset: 0,
        present: Sides::BOTH,
    };
    assert!(world.write_source(file, 0, 3, source, &[before]).is_ok());
    let forged = world.new_object(b"abc", Sides::BOTH);
    let source = ExtentSource::Object {
        object: forged.object,
        object_offset: 0,
        present: Sides::BOTH,
    };
    assert_eq!(
        world.write_source(file, 0, 3, source, &[forged]),
        Err(Errno::Invalid),
        "granted in another epoch"
    );
}

#[test]
fn a_result_is_kept_until_its_slot_is_needed() {
    let mut world = World::new();
    let keep = |world: &mut World, number| {
        let mutation = remember(SESSION, RequestNumber(number), &Reply::Offset(number));
        world
            .view
            .apply(world.view.applied().next(), &[mutation])
            .unwrap();
    };
    keep(&mut world, 7);
    let known = |world: &World, number| stored(&world.view, SESSION, RequestNumber(number)).unwrap();
    assert_eq!(known(&world, 7), Stored::Replay(Reply::Offset(7)));
    assert_eq!(known(&world, 8), Stored::Fresh);
    assert_eq!(known(&world, 7 + 1024), Stored::Fresh);
    keep(&mut world, 7 + 1024);
    assert_eq!(known(&world, 7), Stored::TooOld);
    world
        .maintain(&Maintenance::CloseSession { session: SESSION })
        .unwrap();
    assert_eq!(known(&world, 7 + 1024), Stored::Fresh);
    assert_eq!(
        world.run(&Operation::GrantNumbers),
        Err(Errno::Invalid),
        "the session is over"
    );
}

#[test]
fn what_the_service_answers_itself_never_comes_here() {
    let mut world = World::new();
    assert_eq!(world.run(&Operation::GetStatus), Err(Errno::NotImplemented));
}

#[test]
fn a_contradiction_in_the_state_is_found() {
    use crate::core::keys;
    use crate::view::Mutation;
    let victims = [
        keys::inode(InodeNumber(2)),
        keys::usage(InodeNumber(2)),
        keys::extent(InodeNumber(3), 3),
        keys::owed_position(
            Side::Target,
            ObjectId {
                epoch: Epoch(1),
                number: 1,
            },
        ),
        keys::object(ObjectId {
            epoch: Epoch(1),
            number: 1,
        }),
        Bytes::from_static(keys::TOTALS),
    ];
    for key in victims {
        let mut world = World::new();
        let directory = world.mkdir(ROOT, "dir");
        let file = world.create(directory, "file");
        world
            .write_object(file, 0, b"abc", Sides::only(Side::Primary))
            .unwrap();
        assert!(
            crate::view::View::get(&world.view, &key).unwrap().is_some(),
            "{key:?}"
        );
        world
            .view
            .apply(
                world.view.applied().next(),
                &[Mutation {
                    key: key.clone(),
                    value: None,
                }],
            )
            .unwrap();
        assert!(!check::consistency(&world.view).unwrap().is_empty(), "{key:?}");
    }
}
