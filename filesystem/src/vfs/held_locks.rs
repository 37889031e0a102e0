//! The locks that the service has granted to this session: what is claimed again when the session resumes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use twinshore_protocol::InodeNumber;
use twinshore_protocol::lock::{Lock, LockFamily, LockKind};

/// The locks, by inode, in the order in which they were granted.
#[derive(Debug, Default)]
pub struct HeldLocks {
    by_inode: BTreeMap<InodeNumber, Vec<Lock>>,
    /// Owners of requests whose outcome is not known: they may hold something.
    uncertain: BTreeSet<(InodeNumber, LockFamily, u64)>,
}

impl HeldLocks {
    /// The service has granted this (or taken it back, if it is an unlock): it replaces what its owner had in its range.
    pub fn granted(&mut self, inode: InodeNumber, lock: Lock) {
        if lock.kind == LockKind::Unlock && (lock.start, lock.end) == (0, u64::MAX) {
            self.uncertain.remove(&(inode, lock.family, lock.owner));
        }
        let held = self.by_inode.entry(inode).or_default();
        let mut kept = Vec::with_capacity(held.len() + 1);
        for old in held.drain(..) {
            let same = old.family == lock.family && old.owner == lock.owner;
            if !same || old.end < lock.start || lock.end < old.start {
                kept.push(old);
                continue;
            }
            if old.start < lock.start {
                kept.push(Lock {
                    end: lock.start - 1,
                    ..old
                });
            }
            if lock.end < old.end {
                kept.push(Lock {
                    start: lock.end + 1,
                    ..old
                });
            }
        }
        if lock.kind != LockKind::Unlock {
            kept.push(lock);
        }
        if kept.is_empty() {
            self.by_inode.remove(&inode);
        } else {
            self.by_inode.insert(inode, kept);
        }
    }

    /// Nobody waits for the answer to this request any more; it may still be granted.
    pub fn unanswered(&mut self, inode: InodeNumber, lock: Lock) {
        self.uncertain.insert((inode, lock.family, lock.owner));
    }

    /// Does this owner hold locks of the family, or may it?
    pub fn holds(&self, inode: InodeNumber, family: LockFamily, owner: u64) -> bool {
        self.uncertain.contains(&(inode, family, owner))
            || self.by_inode.get(&inode).is_some_and(|locks| {
                locks
                    .iter()
                    .any(|lock| lock.family == family && lock.owner == owner)
            })
    }

    /// Those on an inode.
    pub fn of(&self, inode: InodeNumber) -> &[Lock] {
        self.by_inode.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// All of them.
    pub fn all(&self) -> Vec<(InodeNumber, Lock)> {
        self.by_inode
            .iter()
            .flat_map(|(inode, locks)| locks.iter().map(|lock| (*inode, *lock)))
            .collect()
    }

    /// The session is over: the locks are lost. Returns whose.
    pub fn take_inodes(&mut self) -> Vec<InodeNumber> {
        self.uncertain.clear();
        std::mem::take(&mut self.by_inode).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn an_unlock_in_the_middle_leaves_both_ends() {
        let mut held = HeldLocks::default();
        let inode = InodeNumber(7);
        held.granted(inode, lock(LockKind::Write, 0, u64::MAX, 1));
        held.granted(inode, lock(LockKind::Read, 5, 9, 2));
        held.granted(inode, lock(LockKind::Unlock, 10, 19, 1));
        held.unanswered(inode, lock(LockKind::Write, 0, 9, 3));
        assert!(held.holds(inode, LockFamily::Record, 3), "it may be granted yet");
        held.granted(inode, lock(LockKind::Unlock, 0, u64::MAX, 3));
        assert!(!held.holds(inode, LockFamily::Record, 3));
        let all: Vec<_> = held
            .all()
            .into_iter()
            .map(|(_, lock)| (lock.start, lock.end, lock.owner))
            .collect();
        assert_eq!(all, [(0, 9, 1), (20, u64::MAX, 1), (5, 9, 2)]);
        assert!(held.holds(inode, LockFamily::Record, 1) && !held.holds(inode, LockFamily::Flock, 1));
        held.granted(inode, lock(LockKind::Unlock, 0, u64::MAX, 1));
        held.granted(inode, lock(LockKind::Unlock, 0, u64::MAX, 2));
        assert!(held.all().is_empty());
    }
}
