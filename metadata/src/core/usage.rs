//! Usage of directories and their limits.
//!
//! # Invariants
//!
//! * `U<directory>` is exactly the allocated bytes and the inodes of everything below the directory, at any depth, without
//!   the directory itself. A file with several names is counted once, in the directory of its first name.
//! * What has no name (trash, orphans) is counted in no directory, but in the totals of the volume. Removed trees have a root of their own, in which they
//!   are counted ([`super::trees`]).
//! * `claimed` is the number of claimed directories at or below a directory.
//! * An operation that increases what a directory's limits count, beyond a limit, fails; one that does not, never does.
//!   So a limit may be set below what is used.

use twinshore_protocol::reply::FileSystemUsage;
use twinshore_protocol::{Errno, InodeNumber};

use super::CoreError;
use super::keys;
use super::transaction::{Attempt, Transaction, corrupt, read};
use super::values::{InodeRow, Place, QuotaRow, UsageRow};
use crate::view::View;

/// The usage of a directory during an operation.
pub(super) struct UsageState {
    pub(super) row: Option<UsageRow>,
    pub(super) original: Option<UsageRow>,
    /// What the operation added, as far as limits apply to it.
    growth: Change,
}

/// A change of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) bytes: i64,
    pub(super) inodes: i64,
}

impl Change {
    /// So much more.
    pub(super) fn plus(bytes: u64, inodes: u64) -> Self {
        Self {
            bytes: bytes.cast_signed(),
            inodes: inodes.cast_signed(),
        }
    }

    /// The opposite.
    pub(super) fn negated(self) -> Self {
        Self {
            bytes: -self.bytes,
            inodes: -self.inodes,
        }
    }

    fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// Do limits apply to a change?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limits {
    /// Yes.
    Apply,
    /// No: nobody asked for it. (The second name of a file becomes its first because another was removed.)
    Ignore,
}

/// Is there room for so many more inodes below a directory, whatever limits apply to it?
pub fn has_room(view: &dyn View, directory: InodeNumber, inodes: u64) -> Result<bool, CoreError> {
    let mut next = directory;
    for _ in 0..DEPTH_MAX {
        let Some(row) = read::<UsageRow>(view, &keys::usage(next))? else {
            return Ok(false);
        };
        if row.limited
            && let Some(quota) = read::<QuotaRow>(view, &keys::quota(next))?
            && quota
                .limit_inodes
                .is_some_and(|limit| row.inodes.saturating_add(1).saturating_add(inodes) > limit)
        {
            return Ok(false);
        }
        if next == row.parent {
            // What lies in the trash, or in a copy that is not in its place, has a top of its own.
            return Ok(next == InodeNumber::ROOT);
        }
        next = row.parent;
    }
    Err(corrupt(
        &keys::usage(directory),
        "the directory is not below a root",
    ))
}

/// The deepest tree. Only a cycle, which is damage, is deeper.
const DEPTH_MAX: usize = 1 << 20;

/// The volume's own limit looks like a full disk, as statfs reports it.
fn beyond_limit(directory: InodeNumber) -> Errno {
    if directory == InodeNumber::ROOT {
        Errno::NoSpace
    } else {
        Errno::QuotaExceeded
    }
}

impl Transaction<'_> {
    /// The usage of a directory.
    pub(super) fn usage(&mut self, directory: InodeNumber) -> Attempt<UsageRow> {
        self.load_usage(directory)?;
        let row = self.usage.get(&directory).and_then(|state| state.row);
        Ok(row.ok_or_else(|| corrupt(&keys::usage(directory), "a directory has no usage"))?)
    }

    fn load_usage(&mut self, directory: InodeNumber) -> Attempt<()> {
        if !self.usage.contains_key(&directory) {
            let row = self.get(&keys::usage(directory))?;
            self.usage.insert(
                directory,
                UsageState {
                    row,
                    original: row,
                    growth: Change::default(),
                },
            );
        }
        Ok(())
    }

    /// Writes, or removes, the usage of a directory.
    pub(super) fn set_usage(&mut self, directory: InodeNumber, row: Option<UsageRow>) -> Attempt<()> {
        self.load_usage(directory)?;
        if let Some(state) = self.usage.get_mut(&directory) {
            state.row = row;
        }
        Ok(())
    }

    /// Counts a change below a directory, in it and in all that hold it.
    pub(super) fn charge(&mut self, directory: InodeNumber, change: Change, limits: Limits) -> Attempt<()> {
        if change.is_nothing() {
            return Ok(());
        }
        let mut next = directory;
        for _ in 0..DEPTH_MAX {
            let mut row = self.usage(next)?;
            let (Some(bytes), Some(inodes)) = (
                row.bytes.checked_add_signed(change.bytes),
                row.inodes.checked_add_signed(change.inodes),
            ) else {
                return Err(corrupt(&keys::usage(next), "more is removed than was counted").into());
            };
            (row.bytes, row.inodes) = (bytes, inodes);
            if let Some(state) = self.usage.get_mut(&next) {
                state.row = Some(row);
                if limits == Limits::Apply {
                    state.growth.bytes += change.bytes;
                    state.growth.inodes += change.inodes;
                }
            }
            if next == row.parent {
                return Ok(());
            }
            next = row.parent;
        }
        Err(corrupt(&keys::usage(directory), "the directory is not below a root").into())
    }

    /// Counts claimed directories at or below a directory, in it and in all that hold it.
    pub(super) fn count_claimed(&mut self, directory: InodeNumber, change: i32) -> Attempt<()> {
        let mut next = directory;
        for _ in 0..DEPTH_MAX {
            let mut row = self.usage(next)?;
            row.claimed = (row.claimed.checked_add_signed(change))
                .ok_or_else(|| corrupt(&keys::usage(next), "more claims are given up than there were"))?;
            self.set_usage(next, Some(row))?;
            if next == row.parent {
                return Ok(());
            }
            next = row.parent;
        }
        Err(corrupt(&keys::usage(directory), "the directory is not below a root").into())
    }

    /// `EBUSY` if a claim holds the directory, or one below it.
    pub(super) fn require_unclaimed(&mut self, row: &InodeRow) -> Attempt<()> {
        if row.is_directory() && self.usage(row.number())?.claimed > 0 {
            return Err(Errno::Busy.into());
        }
        Ok(())
    }

    /// Fails if so much more below a directory would be beyond a limit.
    pub(super) fn require_room(&mut self, directory: InodeNumber, more: Change) -> Attempt<()> {
        let mut next = directory;
        for _ in 0..DEPTH_MAX {
            let row = self.usage(next)?;
            if let Some(quota) = (row.limited)
                .then(|| self.get::<QuotaRow>(&keys::quota(next)))
                .transpose()?
                .flatten()
            {
                let beyond = |limit: Option<u64>, used: u64, more: i64| {
                    more > 0 && limit.is_some_and(|limit| used.saturating_add_signed(more) > limit)
                };
                if beyond(quota.limit_bytes, row.bytes, more.bytes)
                    || beyond(quota.limit_inodes, row.inodes + 1, more.inodes)
                {
                    return Err(beyond_limit(next).into());
                }
            }
            if next == row.parent {
                return Ok(());
            }
            next = row.parent;
        }
        Err(corrupt(&keys::usage(directory), "the directory is not below a root").into())
    }

    /// The allocated bytes of an inode have changed by this much.
    pub(super) fn charge_bytes(&mut self, row: &InodeRow, bytes: i64) -> Attempt<()> {
        match row.place {
            Place::Named { parent } => self.charge(parent, Change { bytes, inodes: 0 }, Limits::Apply),
            Place::Trash { .. } => {
                let tally = &mut self.totals()?.trash;
                tally.bytes = tally.bytes.saturating_add_signed(bytes);
                Ok(())
            }
            Place::Orphan { .. } => {
                let tally = &mut self.totals()?.orphans;
                tally.bytes = tally.bytes.saturating_add_signed(bytes);
                Ok(())
            }
        }
    }

    /// Is a directory the same as another or below it?
    pub(super) fn is_within(&mut self, directory: InodeNumber, ancestor: InodeNumber) -> Attempt<bool> {
        let mut next = directory;
        for _ in 0..DEPTH_MAX {
            if next == ancestor {
                return Ok(true);
            }
            let parent = self.usage(next)?.parent;
            if next == parent {
                return Ok(false);
            }
            next = parent;
        }
        Err(corrupt(&keys::usage(directory), "the directory is not below a root").into())
    }

    /// The nearest directory with limits, this one included, or the root.
    pub(super) fn quota_directory(&mut self, directory: InodeNumber) -> Attempt<InodeNumber> {
        let mut next = directory;
        for _ in 0..DEPTH_MAX {
            let row = self.usage(next)?;
            if row.limited || next == row.parent {
                return Ok(next);
            }
            next = row.parent;
        }
        Err(corrupt(&keys::usage(directory), "the directory is not below a root").into())
    }

    /// Usage and limits of a directory, itself included.
    pub(super) fn directory_usage(&mut self, directory: InodeNumber) -> Attempt<FileSystemUsage> {
        let row = self.usage(directory)?;
        let quota = if row.limited {
            self.get::<QuotaRow>(&keys::quota(directory))?
        } else {
            None
        };
        Ok(FileSystemUsage {
            used_bytes: row.bytes,
            limit_bytes: quota.and_then(|quota| quota.limit_bytes),
            used_inodes: row.inodes + 1,
            limit_inodes: quota.and_then(|quota| quota.limit_inodes),
        })
    }

    /// Fails if a directory has grown beyond its limits. What was answered already is only noted.
    pub(super) fn check_quotas(&mut self) -> Attempt<()> {
        let grown: Vec<_> = (self.usage.iter())
            .filter(|(_, state)| state.growth.bytes > 0 || state.growth.inodes > 0)
            .filter_map(|(directory, state)| {
                Some((*directory, state.row.filter(|row| row.limited)?, state.growth))
            })
            .collect();
        for (directory, row, growth) in grown {
            let Some(quota) = self.get::<QuotaRow>(&keys::quota(directory))? else {
                return Err(corrupt(&keys::quota(directory), "a limited directory has no limits").into());
            };
            let bytes = growth.bytes > 0 && quota.limit_bytes.is_some_and(|limit| row.bytes > limit);
            let inodes = growth.inodes > 0 && quota.limit_inodes.is_some_and(|limit| row.inodes + 1 > limit);
            if (bytes || inodes) && self.context.caller.answered.is_some() {
                self.beyond_limits = true;
            } else if bytes || inodes {
                return Err(beyond_limit(directory).into());
            }
        }
        Ok(())
    }
}
