//! Tasks.

use std::time::Duration;

use bytes::Bytes;
use twinshore_protocol::message::{Hello, Role, ServerMessage};
use twinshore_protocol::operation::{FileCommit, FileWrite, NewObject};
use twinshore_protocol::replication::{
    CopyReport, SynchronisationCounts, SynchronisationReport, Task, TaskKind, TaskOutcome,
};
use twinshore_protocol::status::VolumeStatus;
use twinshore_protocol::{ExtentSource, ObjectId, Operation, Position, Reply, Side, Sides};

use super::super::Input;
use super::world::{Client, World, hello};

fn worker(world: &mut World, near: Side, task_slots: u32) -> Client {
    world.connect(Hello {
        role: Role::Worker,
        near,
        task_slots,
        ..hello()
    })
}

/// Writes a file whose object is stored on the primary side.
fn write(world: &mut World, client: &mut Client, text: &str) -> ObjectId {
    let inode = world.create(client, text);
    let object = ObjectId {
        epoch: client.epoch,
        number: client.objects.take().unwrap(),
    };
    let new = NewObject {
        object,
        stored_bytes: 4200,
        content_bytes: 4096,
        checksum: 1,
        present: Sides::only(Side::Primary),
    };
    let source = ExtentSource::Object {
        object,
        object_offset: 0,
        present: new.present,
    };
    let writes = vec![FileWrite {
        file_offset: 0,
        length: 4096,
        source,
    }];
    let file = FileCommit {
        inode,
        writes,
        modified: None,
        clear_privileges: false,
    };
    let done = world.get(
        client,
        Operation::Commit {
            objects: vec![new],
            files: vec![file],
        },
    );
    assert!(matches!(done, Ok(Reply::Committed { .. })), "{done:?}");
    object
}

fn tasks(world: &mut World, client: &Client) -> Vec<Task> {
    let messages = world.inbox(client.connection);
    messages
        .into_iter()
        .flat_map(|message| {
            if let ServerMessage::Tasks(tasks) = message {
                tasks
            } else {
                vec![]
            }
        })
        .collect()
}

fn report(world: &mut World, client: &mut Client, task: &Task, outcome: TaskOutcome) {
    let deletion = task.kind == TaskKind::Delete;
    let reports = vec![CopyReport {
        object: task.object,
        side: task.side,
        deletion,
        outcome,
    }];
    world.get(client, Operation::ReportCopies { reports }).unwrap();
}

fn status(world: &mut World, client: &mut Client) -> VolumeStatus {
    match world.get(client, Operation::GetStatus) {
        Ok(Reply::Status(status)) => *status,
        other => panic!("no status but {other:?}"),
    }
}

#[test]
fn a_copy_owed_is_handed_to_a_worker_and_counted_when_it_is_done() {
    let mut world = World::new();
    let mut client = world.client();
    let mut worker = worker(&mut world, Side::Target, 4);
    let object = write(&mut world, &mut client, "a");
    world.pass(Duration::from_secs(1), &[client, worker]);
    let copy = Task {
        object,
        side: Side::Target,
        kind: TaskKind::Copy {
            stored_bytes: 4200,
            checksum: 1,
        },
    };
    assert_eq!(tasks(&mut world, &worker), [copy]);
    let before = &status(&mut world, &mut client).replication[1];
    assert_eq!((before.pending_objects, before.pending_bytes), (1, 4200));
    assert!(before.lag_seconds >= 1);
    report(&mut world, &mut worker, &copy, TaskOutcome::Done);
    let after = status(&mut world, &mut client);
    let target = &after.replication[1];
    assert_eq!(
        (target.pending_objects, target.lag_seconds, target.watermark),
        (0, 0, after.position)
    );
    assert_eq!((target.copied_objects, target.copied_bytes), (1, 4200));
    world.pass(Duration::from_secs(200), &[client, worker]);
    assert!(tasks(&mut world, &worker).is_empty());
}

#[test]
fn tasks_of_a_lost_worker_are_handed_to_another() {
    let mut world = World::new();
    let mut client = world.client();
    let first = worker(&mut world, Side::Target, 4);
    write(&mut world, &mut client, "a");
    world.pass(Duration::from_secs(1), &[client, first]);
    let handed_out = tasks(&mut world, &first);
    assert_eq!(handed_out.len(), 1);
    let second = worker(&mut world, Side::Primary, 4);
    world.pass(Duration::from_secs(1), &[client, first, second]);
    assert!(tasks(&mut world, &second).is_empty(), "one at a time");
    world.disconnect(&first);
    world.pass(Duration::from_secs(1), &[client, second]);
    assert_eq!(tasks(&mut world, &second), handed_out);
}

#[test]
fn a_worker_that_is_late_loses_its_task() {
    let mut world = World::new();
    let mut client = world.client();
    let first = worker(&mut world, Side::Target, 1);
    write(&mut world, &mut client, "a");
    world.pass(Duration::from_secs(1), &[client, first]);
    assert_eq!(tasks(&mut world, &first).len(), 1);
    let second = worker(&mut world, Side::Target, 9);
    world.pass(Duration::from_secs(125), &[client, first, second]);
    assert_eq!(tasks(&mut world, &second).len(), 1);
}

#[test]
fn a_worker_gets_no_more_than_its_slots_and_those_near_the_changed_side_come_first() {
    let mut world = World::new();
    let mut client = world.client();
    let far = worker(&mut world, Side::Primary, 2);
    let near = worker(&mut world, Side::Target, 2);
    world.automatic = true;
    for index in 0..5 {
        write(&mut world, &mut client, &format!("file{index}"));
    }
    world.pass(Duration::from_secs(1), &[client, far, near]);
    assert_eq!(tasks(&mut world, &near).len(), 2);
    assert_eq!(tasks(&mut world, &far).len(), 2);
}

#[test]
fn a_task_that_fails_is_tried_again_later_and_does_not_stall_the_others() {
    let mut world = World::new();
    let mut client = world.client();
    let mut worker = worker(&mut world, Side::Target, 1);
    let (bad, good) = (
        write(&mut world, &mut client, "bad"),
        write(&mut world, &mut client, "good"),
    );
    let mut failures = 0;
    let mut copied = Vec::new();
    for _ in 0..400 {
        world.pass(Duration::from_secs(1), &[client, worker]);
        for task in tasks(&mut world, &worker) {
            let outcome = if task.object == bad {
                failures += 1;
                TaskOutcome::Failed {
                    reason: "broken".into(),
                }
            } else {
                copied.push(task.object);
                TaskOutcome::Done
            };
            report(&mut world, &mut worker, &task, outcome);
        }
    }
    assert_eq!(copied, [good]);
    assert!(
        (8..12).contains(&failures),
        "{failures} attempts, further and further apart"
    );
    let target = &status(&mut world, &mut client).replication[1];
    assert_eq!(target.pending_objects, 1, "it is still owed");
    assert_eq!(target.quarantined, [(bad, "broken".to_owned())]);
}

/// A file was copied and removed; its object is dead.
fn world_with_a_dead_object() -> (World, Client, Client, ObjectId) {
    let mut world = World::new();
    let mut client = world.client();
    let mut worker = worker(&mut world, Side::Target, 8);
    let object = write(&mut world, &mut client, "a");
    world.pass(Duration::from_secs(1), &[client, worker]);
    for task in tasks(&mut world, &worker) {
        report(&mut world, &mut worker, &task, TaskOutcome::Done);
    }
    let inode = match world.get(&mut client, super::world::lookup("a")) {
        Ok(Reply::Entry(attributes)) => attributes.inode,
        other => panic!("{other:?}"),
    };
    world.get(&mut client, Operation::Release { inode }).unwrap();
    world.get(&mut client, super::world::unlink("a")).unwrap();
    (world, client, worker, object)
}

fn archive_everything(world: &mut World) {
    let archived = world.position();
    world.input(Input::Archived {
        checkpoint: Position::ZERO,
        archived,
    });
}

#[test]
fn a_file_that_is_removed_is_deleted_from_both_buckets() {
    let (mut world, mut client, mut worker, object) = world_with_a_dead_object();
    let mut deleted = Vec::new();
    for _ in 0..4000 {
        archive_everything(&mut world);
        world.pass(Duration::from_secs(1), &[client, worker]);
        for task in tasks(&mut world, &worker) {
            assert_eq!((task.object, task.kind), (object, TaskKind::Delete));
            deleted.push(task.side);
            report(&mut world, &mut worker, &task, TaskOutcome::Done);
        }
        if deleted.len() == 2 {
            break;
        }
    }
    deleted.sort();
    assert_eq!(deleted, Side::BOTH);
    assert_eq!(
        status(&mut world, &mut client).replication[0].pending_deletions,
        0
    );
}

#[test]
fn a_dead_object_stays_until_the_archive_knows_of_its_death() {
    let (mut world, client, worker, object) = world_with_a_dead_object();
    world.pass(Duration::from_hours(2), &[client, worker]);
    assert_eq!(
        tasks(&mut world, &worker),
        [],
        "a restored volume may still name it"
    );
    archive_everything(&mut world);
    world.pass(Duration::from_secs(2), &[client, worker]);
    let deletions = tasks(&mut world, &worker);
    assert!(
        deletions
            .iter()
            .all(|task| (task.object, task.kind) == (object, TaskKind::Delete)),
        "{deletions:?}"
    );
    assert_eq!(deletions.len(), 2, "{deletions:?}");
}

#[test]
fn a_full_synchronisation_is_resumed_by_another_worker_where_the_first_one_stopped() {
    let mut world = World::new();
    let mut client = world.admin();
    let object = write(&mut world, &mut client, "a");
    let mut first = worker(&mut world, Side::Target, 1);
    let synchronise = |world: &mut World, client: &Client| {
        world
            .inbox(client.connection)
            .into_iter()
            .find_map(|message| match message {
                ServerMessage::Synchronise { after } => Some(after),
                _ => None,
            })
    };
    world.get(&mut client, Operation::RequestSynchronisation).unwrap();
    assert_eq!(synchronise(&mut world, &first), Some(None));
    let report = |checked_until, finished| Operation::ReportSynchronisation {
        report: SynchronisationReport {
            absent: Vec::new(),
            present: Vec::new(),
            counts: SynchronisationCounts {
                objects_checked: 1,
                ..SynchronisationCounts::default()
            },
            checked_until,
            finished,
        },
    };
    world.get(&mut first, report(Some(object), false)).unwrap();
    assert!(status(&mut world, &mut client).synchronisation.running);
    world.disconnect(&first);
    let mut second = worker(&mut world, Side::Target, 1);
    world.pass(Duration::from_secs(1), &[client, second]);
    assert_eq!(synchronise(&mut world, &second), Some(Some(object)));
    world.get(&mut second, report(None, true)).unwrap();
    let synchronisation = status(&mut world, &mut client).synchronisation;
    assert!(!synchronisation.running);
    assert!(synchronisation.finished.is_some());
    world.pass(Duration::from_secs(10), &[client, second]);
    assert_eq!(synchronise(&mut world, &second), None);
}

#[test]
fn inline_bytes_count_as_owed_until_an_object_holds_them() {
    let mut world = World::new();
    let mut client = world.client();
    let inode = world.create(&mut client, "a");
    let source = ExtentSource::Inline(Bytes::from_static(b"hello"));
    let file = FileCommit {
        inode,
        writes: vec![FileWrite {
            file_offset: 0,
            length: 5,
            source,
        }],
        modified: None,
        clear_privileges: false,
    };
    world
        .get(
            &mut client,
            Operation::Commit {
                objects: Vec::new(),
                files: vec![file],
            },
        )
        .unwrap();
    let status = status(&mut world, &mut client);
    assert_eq!(status.inline_bytes, 5);
    assert_eq!(status.replication[1].pending_bytes, 5);
    assert!(status.replication[1].watermark < status.position);
}
