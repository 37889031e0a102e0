#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

const FILE: InodeNumber = InodeNumber(7);

fn lock(kind: LockKind, start: u64, end: u64, owner: u64) -> Lock {
    Lock {
        family: LockFamily::Record,
        kind,
        start,
        end,
        owner,
        process: 1,
    }
}

fn waiter(session: u64, number: u64, lock: Lock) -> Waiter {
    Waiter {
        session: SessionId(session),
        number: RequestNumber(number),
        lock,
    }
}

fn ranges(locks: &Locks, session: u64) -> Vec<(u64, u64, bool)> {
    let file = locks.files.get(&(FILE, LockFamily::Record));
    let mut found: Vec<_> = file
        .into_iter()
        .flat_map(|file| &file.held)
        .filter(|held| held.owner.session == SessionId(session))
        .map(|held| (held.start, held.end, held.write))
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn a_new_lock_splits_and_merges_what_its_owner_holds() {
    use LockKind::{Read, Unlock, Write};
    type Case = (&'static [(LockKind, u64, u64)], &'static [(u64, u64, bool)]);
    let cases: &[Case] = &[
        (&[(Write, 0, 9), (Unlock, 3, 5)], &[(0, 2, true), (6, 9, true)]),
        (
            &[(Write, 0, 9), (Read, 3, 5)],
            &[(0, 2, true), (3, 5, false), (6, 9, true)],
        ),
        (&[(Read, 0, 4), (Read, 5, 9)], &[(0, 9, false)]),
        (&[(Read, 5, 9), (Read, 0, 4)], &[(0, 9, false)]),
        (&[(Read, 0, 4), (Write, 5, 9)], &[(0, 4, false), (5, 9, true)]),
        (&[(Write, 0, u64::MAX), (Unlock, 10, u64::MAX)], &[(0, 9, true)]),
        (&[(Write, 5, 5), (Write, 0, u64::MAX)], &[(0, u64::MAX, true)]),
        (&[(Write, 5, 9), (Unlock, 0, u64::MAX)], &[]),
    ];
    for (steps, expected) in cases {
        let mut locks = Locks::default();
        for (kind, start, end) in *steps {
            let outcome = locks.set(
                FILE,
                waiter(1, 1, lock(*kind, *start, *end, 1)),
                false,
                &mut Vec::new(),
            );
            assert_eq!(outcome, SetOutcome::Granted);
        }
        assert_eq!(ranges(&locks, 1), *expected, "{steps:?}");
        assert_eq!(locks.count_all(), expected.len());
    }
}

#[test]
fn families_do_not_see_each_other() {
    let mut locks = Locks::default();
    let flock = Lock {
        family: LockFamily::Flock,
        ..lock(LockKind::Write, 0, u64::MAX, 1)
    };
    assert_eq!(
        locks.set(FILE, waiter(1, 1, flock), false, &mut Vec::new()),
        SetOutcome::Granted
    );
    let record = lock(LockKind::Write, 0, u64::MAX, 1);
    assert_eq!(
        locks.set(FILE, waiter(2, 1, record), false, &mut Vec::new()),
        SetOutcome::Granted
    );
}

#[test]
fn owners_of_one_session_exclude_each_other() {
    let mut locks = Locks::default();
    locks.set(
        FILE,
        waiter(1, 1, lock(LockKind::Write, 0, 9, 1)),
        false,
        &mut Vec::new(),
    );
    let other = waiter(1, 2, lock(LockKind::Write, 0, 9, 2));
    assert_eq!(
        locks.set(FILE, other, false, &mut Vec::new()),
        SetOutcome::Conflict
    );
}

#[test]
fn a_deadlock_over_three_owners_is_found_and_flock_has_none() {
    let files = [InodeNumber(1), InodeNumber(2), InodeNumber(3)];
    for (family, expected) in [
        (LockFamily::Record, SetOutcome::Deadlock),
        (LockFamily::Flock, SetOutcome::Waiting),
    ] {
        let mut locks = Locks::default();
        let write = |owner| Lock {
            family,
            ..lock(LockKind::Write, 0, 9, owner)
        };
        for (session, file) in (1..).zip(files) {
            assert_eq!(
                locks.set(file, waiter(session, 1, write(1)), true, &mut Vec::new()),
                SetOutcome::Granted
            );
        }
        assert_eq!(
            locks.set(files[1], waiter(1, 2, write(1)), true, &mut Vec::new()),
            SetOutcome::Waiting
        );
        assert_eq!(
            locks.set(files[2], waiter(2, 2, write(1)), true, &mut Vec::new()),
            SetOutcome::Waiting
        );
        assert_eq!(
            locks.set(files[0], waiter(3, 2, write(1)), true, &mut Vec::new()),
            expected
        );
    }
}

#[test]
fn the_queue_is_served_in_order_and_readers_share() {
    let mut locks = Locks::default();
    locks.set(
        FILE,
        waiter(1, 1, lock(LockKind::Write, 0, 9, 1)),
        false,
        &mut Vec::new(),
    );
    for (session, kind) in [(2, LockKind::Read), (3, LockKind::Read), (4, LockKind::Write)] {
        locks.set(
            FILE,
            waiter(session, 5, lock(kind, 0, 9, 1)),
            true,
            &mut Vec::new(),
        );
    }
    let mut granted = Vec::new();
    locks.release_session(SessionId(1), &mut granted);
    assert_eq!(
        granted.iter().map(|waiter| waiter.session.0).collect::<Vec<_>>(),
        [2, 3]
    );
    granted.clear();
    locks.release_session(SessionId(2), &mut granted);
    assert!(granted.is_empty());
    locks.release_session(SessionId(3), &mut granted);
    assert_eq!(
        granted.iter().map(|waiter| waiter.session.0).collect::<Vec<_>>(),
        [4]
    );
    locks.release_session(SessionId(4), &mut granted);
    assert_eq!(
        (locks.count_all(), locks.files.len(), locks.by_session.len()),
        (0, 0, 0)
    );
}

#[test]
fn claims_keep_what_is_named_and_give_back_the_rest() {
    let mut locks = Locks::default();
    locks.set(
        FILE,
        waiter(1, 1, lock(LockKind::Write, 0, 9, 1)),
        false,
        &mut Vec::new(),
    );
    locks.set(
        FILE,
        waiter(1, 2, lock(LockKind::Write, 20, 29, 1)),
        false,
        &mut Vec::new(),
    );
    locks.set(
        FILE,
        waiter(2, 9, lock(LockKind::Write, 0, 9, 1)),
        true,
        &mut Vec::new(),
    );
    locks.set(
        FILE,
        waiter(3, 9, lock(LockKind::Write, 20, 29, 1)),
        true,
        &mut Vec::new(),
    );
    let mut granted = Vec::new();
    let claims = [
        (FILE, lock(LockKind::Write, 0, 9, 1)),
        (FILE, lock(LockKind::Write, 40, 39, 1)),
    ];
    assert_eq!(
        locks.reclaim(SessionId(1), &claims, &mut granted),
        1,
        "a range that makes no sense"
    );
    assert_eq!(
        granted.iter().map(|waiter| waiter.session.0).collect::<Vec<_>>(),
        [3]
    );
    assert_eq!(ranges(&locks, 1), [(0, 9, true)]);
}

proptest! {
    #[test]
    fn locks_agree_with_a_table_of_single_bytes(
        steps in proptest::collection::vec((0..3_u8, 1..4_u64, 0..12_u64, 0..6_u64), 0..60)
    ) {
        let mut locks = Locks::default();
        // For each byte, who holds it how.
        let mut bytes: Vec<BTreeMap<u64, bool>> = vec![BTreeMap::new(); 20];
        for (kind, session, start, length) in steps {
            let end = start + length;
            let kind = [LockKind::Read, LockKind::Write, LockKind::Unlock][kind as usize];
            let range = usize::try_from(start).unwrap()..=usize::try_from(end).unwrap();
            let blocked = kind != LockKind::Unlock && bytes[range.clone()].iter().any(|holders| {
                holders.iter().any(|(other, write)| *other != session && (*write || kind == LockKind::Write))
            });
            let outcome = locks.set(FILE, waiter(session, 1, lock(kind, start, end, 1)), false, &mut Vec::new());
            prop_assert_eq!(outcome, if blocked { SetOutcome::Conflict } else { SetOutcome::Granted });
            if !blocked {
                for holders in &mut bytes[range] {
                    match kind {
                        LockKind::Unlock => holders.remove(&session),
                        kind => holders.insert(session, kind == LockKind::Write),
                    };
                }
            }
            for session in 1..4 {
                let mut expected: Vec<(u64, u64, bool)> = Vec::new();
                for (at, holders) in (0..).zip(&bytes) {
                    let Some(write) = holders.get(&session) else { continue };
                    match expected.last_mut() {
                        Some(last) if last.1 + 1 == at && last.2 == *write => last.1 = at,
                        _ => expected.push((at, at, *write)),
                    }
                }
                prop_assert_eq!(ranges(&locks, session), expected);
            }
        }
    }
}
