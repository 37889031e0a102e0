//! The simulation finds what it is there to find: each deliberate fault of the service, or of the mounts, breaks an invariant within some seeds.

#![allow(clippy::panic)]

use twinshore_filesystem::vfs::Fault as MountFault;
use twinshore_metadata::service::state::Fault;
use twinshore_simulation::{Options, run};

/// A fault that survives so many seeds counts as overlooked.
const SEEDS: std::ops::Range<u64> = 1..60;

/// Simulated seconds under faults.
const SECONDS: u64 = 90;

/// A finding counts only if the same seed is clean without the fault.
fn assert_found(fault: Fault) {
    assert_finds(Some(fault), None);
}

fn assert_finds(fault: Option<Fault>, mount_fault: Option<MountFault>) {
    let broken = |seed, fault, mount_fault| {
        let report = run(Options {
            seed,
            seconds: SECONDS,
            fault,
            mount_fault,
        });
        report.broken.first().cloned()
    };
    let found = SEEDS.into_iter().find_map(|seed| {
        let broken_by_fault = broken(seed, fault, mount_fault)?;
        broken(seed, None, None)
            .is_none()
            .then_some((seed, broken_by_fault))
    });
    let what = format!("{fault:?} {mount_fault:?}");
    let (seed, broken) = found.unwrap_or_else(|| panic!("{what} was overlooked"));
    println!("{what} was found by seed {seed}: {broken}");
}

#[test]
fn an_answer_before_the_journal_is_found() {
    assert_found(Fault::AcknowledgeBeforeJournal);
}

#[test]
fn a_lost_task_is_found() {
    assert_found(Fault::ForgetOutboxEntry);
}

#[test]
fn a_deleted_object_that_files_still_name_is_found() {
    assert_found(Fault::DeleteReferencedObject);
}

#[test]
fn a_deletion_that_a_restored_volume_does_not_know_of_is_found() {
    assert_found(Fault::DeleteBeforeArchived);
}

#[test]
fn a_retry_that_is_applied_twice_is_found() {
    assert_found(Fault::ApplyRetryTwice);
}

#[test]
fn a_lost_recall_is_found() {
    assert_found(Fault::LoseOneRecall);
}

#[test]
fn a_session_that_goes_on_after_its_end_is_found() {
    assert_found(Fault::SkipEpochOrSessionCheck);
}

#[test]
fn a_request_that_does_not_wait_for_a_delegated_directory_is_found() {
    assert_found(Fault::ExecuteWithoutRecall);
}

#[test]
fn a_sole_file_that_somebody_else_is_told_of_is_found() {
    assert_found(Fault::TellOfSoleFiles);
}

#[test]
fn an_answer_after_the_directory_was_returned_is_found() {
    assert_finds(None, Some(MountFault::AnswerAfterRecall));
}

#[test]
fn an_answer_that_is_never_carried_out_is_found() {
    assert_finds(None, Some(MountFault::ForgetAnswered));
}
