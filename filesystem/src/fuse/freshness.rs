//! Keeps an answer that is older than an invalidation from being cached by the kernel after it.
//!
//! # The race
//!
//! A request is answered with leased attributes; before the reply reaches the kernel, an invalidation arrives, is sent to the kernel (which
//! has nothing to drop yet) and acknowledged; then the reply lands and the kernel relies on it for the whole lease. The kernel
//! protects itself only for inodes that it knows already.
//!
//! # The rule
//!
//! Each answer is made between [`Freshness::now`], taken before the caches are read, and [`Freshness::answer`], which writes it. If one of the
//! inodes or directories that it tells of has been invalidated in between, it is written with a time to live of zero. Writing and
//! noting exclude each other, and noting comes before notifying, so a reply is either written before the notification, which then
//! drops it, or after the note, and is not kept.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use twinshore_protocol::InodeNumber;
use twinshore_protocol::message::Invalidation;

/// How many invalidations are remembered: what arrives within one round trip. An answer that took longer is not kept by the kernel.
const REMEMBERED_MAX: usize = 4096;

/// A moment, in invalidations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

#[derive(Default)]
struct Recent {
    /// The number of the next note.
    next: u64,
    /// Everything before this one is forgotten: an older answer may not be kept.
    forgotten: u64,
    notes: VecDeque<InodeNumber>,
}

/// What has been invalidated lately.
#[derive(Default)]
pub struct Freshness {
    recent: RwLock<Recent>,
}

/// Decides for one answer how long each part may be kept.
pub struct Verdict<'a> {
    recent: &'a Recent,
    since: Moment,
}

impl Verdict<'_> {
    /// How long what concerns these inodes may be kept: an inode's attributes concern the inode, a name its directory.
    pub fn time_to_live(&self, offered: Duration, concerned: &[InodeNumber]) -> Duration {
        if self.since.0 == self.recent.next {
            return offered;
        }
        if self.since.0 < self.recent.forgotten {
            return Duration::ZERO;
        }
        let skipped = usize::try_from(self.since.0 - self.recent.forgotten).unwrap_or(usize::MAX);
        let stale = self
            .recent
            .notes
            .iter()
            .skip(skipped)
            .any(|inode| concerned.contains(inode));
        if stale { Duration::ZERO } else { offered }
    }
}

impl Freshness {
    /// To be taken before anything is read that the answer will tell of.
    pub fn now(&self) -> Moment {
        Moment(self.recent.read().unwrap_or_else(PoisonError::into_inner).next)
    }

    /// Writes an answer that was made since a moment.
    pub fn answer<T>(&self, since: Moment, write: impl FnOnce(&Verdict<'_>) -> T) -> T {
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        write(&Verdict {
            recent: &recent,
            since,
        })
    }

    /// Notes what is invalidated, before the kernel is told.
    pub fn note(&self, items: &[Invalidation]) {
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        for item in items {
            let (Invalidation::Attributes(inode)
            | Invalidation::Content(inode)
            | Invalidation::Entry(inode, _)
            | Invalidation::Everything(inode)) = item;
            recent.notes.push_back(*inode);
            recent.next += 1;
            if recent.notes.len() > REMEMBERED_MAX {
                recent.notes.pop_front();
                recent.forgotten += 1;
            }
        }
    }

    /// Notes that nothing may be kept any more.
    pub fn note_everything(&self) {
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        recent.next += 1;
        recent.forgotten = recent.next;
        recent.notes.clear();
    }
}

#[cfg(test)]
#[path = "freshness_tests.rs"]
mod tests;
