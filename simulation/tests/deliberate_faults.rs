//! The simulation finds what it is there to find: each deliberate fault of the service breaks an invariant within some seeds.

#![allow(clippy::panic)]

use twinshore_metadata::service::state::Fault;
use twinshore_simulation::{Options, run};

/// A fault that survives so many seeds counts as overlooked.
const SEEDS: std::ops::Range<u64> = 1..60;

/// Simulated seconds under faults.
const SECONDS: u64 = 90;

/// A finding counts only if the same seed is clean without the fault.
fn assert_found(fault: Fault) {
    let broken = |seed, fault| {
        let report = run(Options {
            seed,
            seconds: SECONDS,
            fault,
        });
        report.broken.first().cloned()
    };
    let found = SEEDS.into_iter().find_map(|seed| {
        let broken_by_fault = broken(seed, Some(fault))?;
        broken(seed, None).is_none().then_some((seed, broken_by_fault))
    });
    let (seed, broken) = found.unwrap_or_else(|| panic!("{fault:?} was overlooked"));
    println!("{fault:?} was found by seed {seed}: {broken}");
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
