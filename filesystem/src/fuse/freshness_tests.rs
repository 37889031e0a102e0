#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use twinshore_protocol::FileName;

use super::*;

const OFFERED: Duration = Duration::from_secs(9);

fn lives(freshness: &Freshness, since: Moment, concerned: u64) -> Duration {
    freshness.answer(since, |verdict| {
        verdict.time_to_live(OFFERED, &[InodeNumber(concerned)])
    })
}

fn attributes(inode: u64) -> Invalidation {
    Invalidation::Attributes(InodeNumber(inode))
}

#[test]
fn only_answers_that_an_invalidation_has_overtaken_are_not_kept() {
    let freshness = Freshness::default();
    let before = freshness.now();
    assert_eq!(lives(&freshness, before, 5), OFFERED);
    freshness.note(&[
        attributes(5),
        Invalidation::Entry(InodeNumber(6), FileName::new(*b"a").unwrap()),
    ]);
    assert_eq!(lives(&freshness, before, 5), Duration::ZERO);
    assert_eq!(lives(&freshness, before, 6), Duration::ZERO);
    assert_eq!(lives(&freshness, before, 7), OFFERED);
    assert_eq!(lives(&freshness, freshness.now(), 5), OFFERED);
}

#[test]
fn an_answer_older_than_what_is_remembered_is_not_kept() {
    let freshness = Freshness::default();
    let before = freshness.now();
    for _ in 0..=REMEMBERED_MAX {
        freshness.note(&[attributes(5)]);
    }
    assert_eq!(lives(&freshness, before, 7), Duration::ZERO);
    let after = freshness.now();
    freshness.note(&[attributes(8)]);
    assert_eq!(lives(&freshness, after, 7), OFFERED);
    assert_eq!(lives(&freshness, after, 8), Duration::ZERO);
}

#[test]
fn after_everything_was_dropped_no_earlier_answer_is_kept() {
    let freshness = Freshness::default();
    freshness.note(&[attributes(1)]);
    let before = freshness.now();
    freshness.note_everything();
    assert_eq!(lives(&freshness, before, 7), Duration::ZERO);
    let after = freshness.now();
    freshness.note(&[attributes(8)]);
    assert_eq!(lives(&freshness, after, 8), Duration::ZERO);
    assert_eq!(lives(&freshness, after, 9), OFFERED);
}
