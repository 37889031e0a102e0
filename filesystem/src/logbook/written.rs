//! What was written to one inode, is acknowledged, and is not in a commit yet: which records hold it. Pure.
//!
//! # Invariants
//!
//! * Writes are numbered in the order in which they were made. A piece that is committed knows the last write before it was sealed
//!   (its *bound*): in its range it has the bytes of all writes up to that one, and of none after it.
//! * So a commit settles, of every write up to the bound, what lies in its range. What remains of a write is one range: where the middle is
//!   settled the whole stays, and is written again with the same bytes only if the rest is.

use std::collections::VecDeque;

use super::store::Slot;

/// Writes that are looked at for one that a new write replaces: programs that overwrite do so soon.
const LOOK_BACK: usize = 64;

/// A write.
#[derive(Clone, Debug)]
pub struct Write {
    /// Its number.
    pub number: u64,
    /// Where it is recorded.
    pub slot: Slot,
    /// Where it begins in the file, as recorded.
    pub offset: u64,
    /// What of it counts.
    pub start: u64,
    /// The end of that.
    pub end: u64,
    /// The request of the kernel that it came with.
    pub call: u64,
}

impl Write {
    /// What counts, in the recorded bytes.
    pub fn part(&self) -> (u32, u32) {
        let at = |position: u64| u32::try_from(position - self.offset).unwrap_or(u32::MAX);
        (at(self.start), at(self.end))
    }
}

/// What is to be done about a record.
#[derive(Debug)]
pub enum Change {
    /// Nothing of it counts.
    Remove(Write),
    /// Less of it counts.
    Shorten(Write),
}

/// The writes of an inode.
#[derive(Debug, Default)]
pub struct Writes {
    writes: VecDeque<Write>,
    bytes: u64,
}

impl Writes {
    /// Adds one. `sealed`: writes up to this one are in pieces already. What the new one replaces is returned.
    pub fn add(&mut self, write: Write, sealed: u64) -> Option<Write> {
        let replaced = self
            .writes
            .iter()
            .rev()
            .take(LOOK_BACK)
            .position(|other| other.number > sealed && (other.start, other.end) == (write.start, write.end))
            .map(|back| self.writes.len() - 1 - back);
        let replaced = replaced.and_then(|at| self.writes.remove(at));
        if let Some(replaced) = &replaced {
            self.bytes -= replaced.end - replaced.start;
        }
        self.bytes += write.end - write.start;
        self.writes.push_back(write);
        replaced
    }

    /// How many bytes count.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A range is committed, with what was written up to `bound`.
    pub fn commit(&mut self, start: u64, end: u64, bound: u64, changes: &mut Vec<Change>) {
        self.settle(bound, changes, |write| {
            if start <= write.start {
                write.start = write.start.max(end).min(write.end);
            } else if end >= write.end {
                write.end = write.end.min(start).max(write.start);
            }
        });
    }

    /// The file is cut.
    pub fn cut(&mut self, size: u64, changes: &mut Vec<Change>) {
        self.settle(u64::MAX, changes, |write| {
            write.end = write.end.min(size).max(write.start);
        });
    }

    /// Everything is settled.
    pub fn clear(&mut self) -> impl Iterator<Item = Write> + use<> {
        self.bytes = 0;
        std::mem::take(&mut self.writes).into_iter()
    }

    fn settle(&mut self, bound: u64, changes: &mut Vec<Change>, mut shorten: impl FnMut(&mut Write)) {
        let bytes = &mut self.bytes;
        self.writes.retain_mut(|write| {
            if write.number > bound {
                return true;
            }
            let before = (write.start, write.end);
            shorten(write);
            *bytes -= (before.1 - before.0) - (write.end - write.start);
            if write.start >= write.end {
                changes.push(Change::Remove(write.clone()));
                return false;
            }
            if before != (write.start, write.end) {
                changes.push(Change::Shorten(write.clone()));
            }
            true
        });
    }
}

/// What remains of a range when these are taken out of it.
pub fn remaining(range: (u64, u64), taken: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut left = vec![range];
    for (start, end) in taken {
        left = left
            .into_iter()
            .flat_map(|(from, to)| [(from, to.min(start)), (from.max(end), to)])
            .filter(|(from, to)| from < to)
            .collect();
    }
    left
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::store::Store;
    use super::*;

    fn write(store: &Store, number: u64, start: u64, end: u64) -> Write {
        Write {
            number,
            slot: store.put(1, b"", b"").unwrap(),
            offset: start,
            start,
            end,
            call: 0,
        }
    }

    fn summary(changes: &[Change]) -> Vec<(u64, u64, u64)> {
        let text = |change: &Change| match change {
            Change::Remove(write) => (write.number, 0, 0),
            Change::Shorten(write) => (write.number, write.start, write.end),
        };
        changes.iter().map(text).collect()
    }

    #[test]
    fn a_commit_settles_what_was_written_before_it_was_sealed_and_nothing_later() {
        let store = Store::create(tempfile::tempfile().unwrap()).unwrap();
        let mut writes = Writes::default();
        writes.add(write(&store, 1, 0, 10), 0);
        writes.add(write(&store, 2, 10, 20), 0);
        writes.add(write(&store, 3, 0, 10), 2);
        let mut changes = Vec::new();
        writes.commit(0, 15, 2, &mut changes);
        assert_eq!(summary(&changes), [(1, 0, 0), (2, 15, 20)]);
        assert_eq!(writes.bytes(), 15);
        changes.clear();
        writes.commit(15, 40, 9, &mut changes);
        writes.commit(2, 5, 9, &mut changes);
        assert_eq!(summary(&changes), [(2, 0, 0)], "the middle of a write stays");
        writes.cut(4, &mut changes);
        assert_eq!(writes.bytes(), 4);
    }

    #[test]
    fn an_overwrite_replaces_only_what_is_not_sealed() {
        let store = Store::create(tempfile::tempfile().unwrap()).unwrap();
        let mut writes = Writes::default();
        writes.add(write(&store, 1, 0, 10), 0);
        assert!(writes.add(write(&store, 2, 0, 10), 1).is_none());
        assert_eq!(writes.add(write(&store, 3, 0, 10), 1).unwrap().number, 2);
        assert!(writes.add(write(&store, 4, 0, 9), 1).is_none());
        assert_eq!(writes.bytes(), 29);
    }

    #[test]
    fn what_remains_of_a_range_may_be_several_ranges() {
        let taken = [(0, 2), (4, 6), (9, 30)];
        assert_eq!(remaining((0, 10), taken.into_iter()), [(2, 4), (6, 9)]);
        assert_eq!(remaining((4, 5), taken.into_iter()), []);
    }
}
