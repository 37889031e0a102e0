//! All inodes that this client knows something of: bounded, the least recently used are forgotten.

use std::sync::{Arc, Mutex};

use twinshore_protocol::InodeNumber;

use super::inode::{Inode, lock};
use super::lru::Lru;

/// Inodes looked at for one that may be forgotten, when there are too many. More than so many in use in a row means that
/// nearly all are; then the table grows until they are released.
const CANDIDATES: usize = 8;

/// The table.
#[derive(Debug)]
pub struct Inodes {
    table: Mutex<Lru<InodeNumber, Arc<Inode>>>,
    weight_max: u64,
}

impl Inodes {
    /// An empty table that forgets inodes beyond this weight (of [`super::inode::InodeState::weight`]).
    pub fn new(weight_max: u64) -> Self {
        Self {
            table: Mutex::new(Lru::new()),
            weight_max,
        }
    }

    /// The inode, if anything is known of it.
    pub fn find(&self, number: InodeNumber) -> Option<Arc<Inode>> {
        lock(&self.table).get_mut(&number).cloned()
    }

    /// The inode, new if nothing was known of it.
    pub fn get(&self, number: InodeNumber) -> Arc<Inode> {
        let mut table = lock(&self.table);
        if let Some(inode) = table.get_mut(&number) {
            return Arc::clone(inode);
        }
        let inode = Arc::new(Inode::new(number));
        table.insert(number, Arc::clone(&inode), 2);
        for _ in 0..CANDIDATES {
            if table.weight() <= self.weight_max {
                break;
            }
            let Some((oldest, candidate)) =
                table.oldest().map(|(number, inode)| (*number, Arc::clone(inode)))
            else {
                break;
            };
            // Two references: the table's and the one just made. With more, somebody works with it, and a second
            // inode of the same number would miss what the first is told.
            if Arc::strong_count(&candidate) == 2 && candidate.state().is_idle() {
                table.remove(&oldest);
            } else {
                table.get_mut(&oldest);
            }
        }
        inode
    }

    /// Says anew how heavy an inode is.
    pub fn reweigh(&self, number: InodeNumber, weight: u64) {
        lock(&self.table).reweigh(&number, weight);
    }

    /// All of them, in the order of their numbers.
    pub fn all(&self) -> Vec<Arc<Inode>> {
        let mut all: Vec<_> = lock(&self.table)
            .iter()
            .map(|(_, inode)| Arc::clone(inode))
            .collect();
        all.sort_unstable_by_key(|inode| inode.number);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_in_use_are_never_forgotten() {
        let inodes = Inodes::new(20);
        let used = inodes.get(InodeNumber(1));
        inodes.get(InodeNumber(2)).state().handles = 1;
        for number in 3..100 {
            inodes.get(InodeNumber(number));
        }
        assert!(Arc::ptr_eq(&used, &inodes.get(InodeNumber(1))));
        assert_eq!(inodes.get(InodeNumber(2)).state().handles, 1);
        assert!(inodes.all().len() <= 12);
    }
}
