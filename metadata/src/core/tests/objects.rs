//! Objects, the outbox, and changes of the target.

use super::*;
use crate::core::outbox::{self, pending, pending_deletions, watermark};
use twinshore_protocol::replication::{
    CopyReport, SynchronisationCounts, SynchronisationReport, TaskOutcome,
};

fn report(world: &mut World, object: ObjectId, side: Side, deletion: bool, outcome: TaskOutcome) {
    let reports = vec![CopyReport {
        object,
        side,
        deletion,
        outcome,
    }];
    assert_eq!(world.run(&Operation::ReportCopies { reports }), Ok(Reply::Done));
}

fn owed(world: &World, side: Side) -> Vec<ObjectId> {
    pending(&world.view, side, None, 100)
        .unwrap()
        .into_iter()
        .map(|copy| copy.object)
        .collect()
}

fn settings_of(world: &mut World, change: impl FnOnce(&mut VolumeSettings)) -> Result<Reply, Errno> {
    let mut settings = crate::core::volume::format(&world.view)
        .unwrap()
        .unwrap()
        .settings;
    change(&mut settings);
    world.run(&Operation::SetSettings { settings })
}

#[test]
fn a_watermark_stands_before_the_first_copy_owed() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let first = world
        .write_object(file, 0, b"one", Sides::only(Side::Primary))
        .unwrap();
    let at = world.position();
    let second = world
        .write_object(file, 3, b"two", Sides::only(Side::Primary))
        .unwrap();
    let tail = world.position();
    assert_eq!(owed(&world, Side::Target), [first, second]);
    assert_eq!(
        watermark(&world.view, Side::Target, tail).unwrap(),
        Position(at.0 - 1)
    );
    assert_eq!(watermark(&world.view, Side::Primary, tail).unwrap(), tail);
    report(&mut world, first, Side::Target, false, TaskOutcome::Done);
    assert_eq!(owed(&world, Side::Target), [second]);
    let totals = outbox::totals(&world.view, Side::Target).unwrap();
    assert_eq!((totals.objects, totals.bytes), (1, 13));
    report(&mut world, second, Side::Target, false, TaskOutcome::Done);
    let tail = world.position();
    assert_eq!(watermark(&world.view, Side::Target, tail).unwrap(), tail);
}

#[test]
fn inline_bytes_hold_the_watermarks_of_both_sides() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    world.write_inline(file, 0, b"inline").unwrap();
    let at = world.position();
    for side in Side::BOTH {
        assert_eq!(
            watermark(&world.view, side, world.position()).unwrap(),
            Position(at.0 - 1)
        );
        assert_eq!(outbox::totals(&world.view, side).unwrap().bytes, 6);
    }
    // Packed into an object, they are still owed since the same position to the side that lacks it.
    world.create(ROOT, "later");
    let Reply::InlineExtents(extents) = world.run(&Operation::ListInline { limit_bytes: 100 }).unwrap()
    else {
        panic!()
    };
    let new = world.new_object(b"inline", Sides::only(Side::Primary));
    let source = ExtentSource::Object {
        object: new.object,
        object_offset: 0,
        present: new.present,
    };
    let (inode, old) = extents[0].clone();
    let before = world.stat(file);
    let exchanges = vec![twinshore_protocol::operation::ExtentExchange {
        inode,
        old,
        new: source,
    }];
    world
        .run(&Operation::Repoint {
            objects: vec![new],
            exchanges,
        })
        .unwrap();
    assert_eq!(world.stat(file), before, "the same bytes: no attribute changes");
    assert_eq!(world.content(file), b"inline");
    let tail = world.position();
    assert_eq!(watermark(&world.view, Side::Primary, tail).unwrap(), tail);
    assert_eq!(
        watermark(&world.view, Side::Target, tail).unwrap(),
        Position(at.0 - 1)
    );
}

#[test]
fn a_copy_without_a_source_is_set_aside_but_stays_owed() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let object = world
        .write_object(file, 0, b"one", Sides::only(Side::Primary))
        .unwrap();
    let at = world.position();
    report(
        &mut world,
        object,
        Side::Target,
        false,
        TaskOutcome::SourceDamaged,
    );
    assert_eq!(owed(&world, Side::Target), []);
    assert_eq!(
        outbox::quarantined(&world.view, Side::Target, 9).unwrap()[0].0,
        object
    );
    assert!(watermark(&world.view, Side::Target, world.position()).unwrap() < at);
    world.clean_up(10);
    assert_eq!(owed(&world, Side::Target), []);
    world.now = world.now.plus_seconds(outbox::QUARANTINE_SECONDS);
    world.clean_up(10);
    assert_eq!(owed(&world, Side::Target), [object]);
    report(
        &mut world,
        object,
        Side::Target,
        false,
        TaskOutcome::Failed {
            reason: "later".into(),
        },
    );
    assert_eq!(owed(&world, Side::Target), [object]);
}

#[test]
fn a_dead_object_is_deleted_on_both_sides_and_forgotten() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let object = world
        .write_object(file, 0, b"one", Sides::only(Side::Primary))
        .unwrap();
    world.truncate(file, 0).unwrap();
    assert_eq!(owed(&world, Side::Target), [], "nobody needs the copy any more");
    world.clean_up(10);
    assert_eq!(
        pending_deletions(&world.view, Side::Primary, 9).unwrap(),
        [],
        "not yet: somebody may be reading"
    );
    world.now = world.now.plus_seconds(100);
    world.clean_up(10);
    for side in Side::BOTH {
        assert_eq!(pending_deletions(&world.view, side, 9).unwrap(), [object]);
        report(&mut world, object, side, true, TaskOutcome::Done);
    }
    assert_eq!(
        world.run(&Operation::ListObjects {
            after: None,
            limit: 9
        }),
        Ok(Reply::Objects(Vec::new()))
    );
    // The copy that was under way all the while arrives: it is deleted again.
    report(&mut world, object, Side::Target, false, TaskOutcome::Done);
    assert_eq!(pending_deletions(&world.view, Side::Target, 9).unwrap(), [object]);
    report(&mut world, object, Side::Target, true, TaskOutcome::Done);
}

#[test]
fn a_dead_object_can_be_named_again_until_it_is_being_deleted() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let new = world.new_object(b"packed", Sides::only(Side::Primary));
    let source = ExtentSource::Object {
        object: new.object,
        object_offset: 0,
        present: new.present,
    };
    world
        .run(&Operation::Commit {
            objects: vec![new],
            files: Vec::new(),
        })
        .unwrap();
    assert_eq!(owed(&world, Side::Target), []);
    world.write_source(file, 0, 6, source.clone(), &[new]).unwrap();
    assert_eq!(owed(&world, Side::Target), [new.object]);
    world.truncate(file, 0).unwrap();
    world.now = world.now.plus_seconds(100);
    world.clean_up(10);
    assert_eq!(
        world.write_source(file, 0, 6, source.clone(), &[new]),
        Err(Errno::Invalid)
    );
    assert_eq!(world.write_source(file, 0, 6, source, &[]), Err(Errno::Invalid));
}

#[test]
fn an_object_registered_twice_is_one_but_never_another() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let object = world
        .write_object(file, 0, b"one", Sides::only(Side::Primary))
        .unwrap();
    let again = |checksum, present| twinshore_protocol::operation::NewObject {
        object,
        stored_bytes: 13,
        content_bytes: 3,
        checksum,
        present,
    };
    let commit = |new| Operation::Commit {
        objects: vec![new],
        files: Vec::new(),
    };
    assert_eq!(world.run(&commit(again(6, Sides::BOTH))), Err(Errno::Invalid));
    assert_eq!(world.run(&commit(again(5, Sides::NONE))), Err(Errno::Invalid));
    assert!(world.run(&commit(again(5, Sides::only(Side::Target)))).is_ok());
    assert_eq!(owed(&world, Side::Target), [], "it is on both sides now");
}

#[test]
fn a_new_target_is_owed_everything() {
    let mut world = World::with(VolumeSettings {
        target: None,
        ..settings()
    });
    let file = world.create(ROOT, "file");
    let objects: Vec<_> = (0..10)
        .map(|at| {
            world
                .write_object(file, at * 3, b"abc", Sides::only(Side::Primary))
                .unwrap()
        })
        .collect();
    assert_eq!(
        world.write_object(file, 0, b"x", Sides::only(Side::Target)),
        Err(Errno::Invalid)
    );
    assert_eq!(owed(&world, Side::Target), []);
    let tail = world.position();
    assert_eq!(watermark(&world.view, Side::Primary, tail).unwrap(), tail);

    settings_of(&mut world, |new| new.target = settings().target).unwrap();
    assert_eq!(
        watermark(&world.view, Side::Target, world.position()).unwrap(),
        Position::ZERO
    );
    assert_eq!(outbox::totals(&world.view, Side::Target).unwrap().objects, 10);
    let late = world.write_object(file, 100, b"late", Sides::BOTH).unwrap();
    world.clean_up(3);
    assert!(!crate::core::volume::is_backfilling(&world.view).unwrap());
    assert_eq!(
        owed(&world, Side::Target),
        objects,
        "not {late}, which is there already"
    );

    // Nothing that only the target has may be lost with it.
    let only_there = world
        .write_object(file, 200, b"far", Sides::only(Side::Target))
        .unwrap();
    assert_eq!(settings_of(&mut world, |new| new.target = None), Err(Errno::Busy));
    report(&mut world, only_there, Side::Primary, false, TaskOutcome::Done);
    assert!(settings_of(&mut world, |new| new.target = None).is_ok());
    world.clean_up(3);
    let tail = world.position();
    assert_eq!(owed(&world, Side::Target), []);
    assert_eq!(
        outbox::totals(&world.view, Side::Target).unwrap(),
        outbox::Totals::default()
    );
    assert_eq!(watermark(&world.view, Side::Primary, tail).unwrap(), tail);
    settings_of(&mut world, |new| new.target = settings().target).unwrap();
    world.clean_up(3);
    assert_eq!(owed(&world, Side::Target).len(), 12);
}

#[test]
fn while_replication_is_off_the_lag_stays_true() {
    let mut world = World::new();
    settings_of(&mut world, |new| new.replication_enabled = false).unwrap();
    let file = world.create(ROOT, "file");
    let object = world
        .write_object(file, 0, b"abc", Sides::only(Side::Primary))
        .unwrap();
    assert_eq!(owed(&world, Side::Target), [], "nothing is handed out");
    assert!(watermark(&world.view, Side::Target, world.position()).unwrap() < world.position());
    settings_of(&mut world, |new| new.replication_enabled = true).unwrap();
    assert_eq!(owed(&world, Side::Target), [object]);
    let same = |new: &mut VolumeSettings| new.target.as_mut().unwrap().bucket = new.primary.bucket.clone();
    assert_eq!(settings_of(&mut world, same), Err(Errno::Invalid));
}

#[test]
fn a_full_synchronisation_corrects_what_metadata_believes() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let lost = world.write_object(file, 0, b"abc", Sides::BOTH).unwrap();
    let found = world
        .write_object(file, 9, b"abc", Sides::only(Side::Primary))
        .unwrap();
    world.run(&Operation::RequestSynchronisation).unwrap();
    assert!(crate::core::volume::synchronisation(&world.view).unwrap().running);
    let report = SynchronisationReport {
        absent: vec![(lost, Side::Primary)],
        present: vec![(found, Side::Target)],
        counts: SynchronisationCounts {
            objects_checked: 2,
            missing: 1,
            ..SynchronisationCounts::default()
        },
        checked_until: Some(found),
        finished: false,
    };
    world
        .run(&Operation::ReportSynchronisation {
            report: report.clone(),
        })
        .unwrap();
    assert_eq!(
        (owed(&world, Side::Primary), owed(&world, Side::Target)),
        (vec![lost], vec![])
    );
    assert_eq!(
        crate::core::volume::synchronisation(&world.view)
            .unwrap()
            .checked_until,
        Some(found)
    );
    world
        .run(&Operation::ReportSynchronisation {
            report: SynchronisationReport {
                finished: true,
                ..report
            },
        })
        .unwrap();
    let row = crate::core::volume::synchronisation(&world.view).unwrap();
    assert!(!row.running && row.finished.is_some());
}
