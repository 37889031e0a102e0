//! Which session holds which inode open.
//!
//! Soft state: sessions say `Open` and `Release` in the order of their stream and claim again what they hold when they
//! resume. After a start there is a time of *grace*: until every session that the volume knows has claimed or expired,
//! every inode counts as open (decided in [`super::Service`], which knows the sessions).

use std::collections::{BTreeMap, HashMap};

use twinshore_protocol::{InodeNumber, SessionId};

/// How many inodes one session may hold open: a process table full of files, and a bound on memory.
pub const OPEN_INODES_MAX: usize = 1 << 20;

/// The table.
#[derive(Debug, Default)]
pub struct Opens {
    /// How often each inode is open, over all sessions. Only looked up, never walked.
    total: HashMap<InodeNumber, u32>,
    by_session: BTreeMap<SessionId, BTreeMap<InodeNumber, u32>>,
}

impl Opens {
    /// Does any session hold the inode open?
    pub fn is_open(&self, inode: InodeNumber) -> bool {
        self.total.contains_key(&inode)
    }

    /// Does this session hold the inode open?
    pub fn is_open_by(&self, session: SessionId, inode: InodeNumber) -> bool {
        (self.by_session.get(&session)).is_some_and(|inodes| inodes.contains_key(&inode))
    }

    /// Does any session but this one hold the inode open?
    pub fn is_open_by_other(&self, session: SessionId, inode: InodeNumber) -> bool {
        let own = (self.by_session.get(&session)).and_then(|inodes| inodes.get(&inode));
        self.total
            .get(&inode)
            .is_some_and(|total| *total > own.copied().unwrap_or(0))
    }

    /// How many inodes a session holds open.
    pub fn count(&self, session: SessionId) -> usize {
        self.by_session.get(&session).map_or(0, BTreeMap::len)
    }

    /// How many inodes are open.
    pub fn count_all(&self) -> usize {
        self.total.len()
    }

    /// Adds `times` opens. `false`: the session has reached [`OPEN_INODES_MAX`].
    #[must_use]
    pub fn open(&mut self, session: SessionId, inode: InodeNumber, times: u32) -> bool {
        let inodes = self.by_session.entry(session).or_default();
        if !inodes.contains_key(&inode) && inodes.len() >= OPEN_INODES_MAX {
            return false;
        }
        let count = inodes.entry(inode).or_default();
        *count = count.saturating_add(times);
        let total = self.total.entry(inode).or_default();
        *total = total.saturating_add(times);
        true
    }

    /// Takes one open back. `false`: the session does not hold it open. What is not open any more can be cleaned up.
    pub fn release(&mut self, session: SessionId, inode: InodeNumber) -> bool {
        let Some(inodes) = self.by_session.get_mut(&session) else {
            return false;
        };
        let Some(count) = inodes.get_mut(&inode) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            inodes.remove(&inode);
        }
        self.forget(inode, 1);
        true
    }

    /// Takes back everything that a session holds open.
    pub fn release_all(&mut self, session: SessionId) {
        for (inode, times) in self.by_session.remove(&session).unwrap_or_default() {
            self.forget(inode, times);
        }
    }

    fn forget(&mut self, inode: InodeNumber, times: u32) {
        if let Some(total) = self.total.get_mut(&inode) {
            *total = total.saturating_sub(times);
            if *total == 0 {
                self.total.remove(&inode);
            }
        }
    }
}
