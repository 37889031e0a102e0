//! How full the data directory's disk is, so that the service refuses changes before anything on it fails.
//!
//! The journal survives a full disk, the view need not: it writes what was committed, and if it cannot, the process has to
//! end. So two thresholds lie before that.
//!
//! * *Low*: what grows is refused with `ENOSPC`; removing, sessions and reading go on.
//! * *Exhausted*: nothing is appended any more, as if the journal's disk were full. Reading goes on.

use std::path::PathBuf;

/// Below this share of the disk it is low, as a divisor: what merging the view's tables takes for a while.
const LOW_DIVISOR: u64 = 20;
/// It is not low with more than this, however large it is.
const LOW_MAX_BYTES: u64 = 1 << 30;
/// It is low with less than this, however small it is. Between two looks far less can be written.
const LOW_MIN_BYTES: u64 = 16 << 20;
/// Exhausted: what the view may still have to write of what is committed.
const EXHAUSTED_BYTES: u64 = 8 << 20;

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// Enough.
    Enough,
    /// Nothing may grow.
    Low,
    /// Nothing may be written.
    Exhausted,
}

/// Looks at a disk.
#[derive(Clone, Debug)]
pub(super) struct DiskSpace {
    directory: PathBuf,
    segment_bytes: u64,
}

impl DiskSpace {
    /// Of a data directory whose journal has segments of this size.
    pub(super) fn new(directory: PathBuf, segment_bytes: u64) -> Self {
        Self {
            directory,
            segment_bytes,
        }
    }

    /// A look costs a microsecond. A disk that cannot be asked is said to have enough: what is written next will tell.
    pub(super) fn look(&self) -> Space {
        match rustix::fs::statvfs(&self.directory) {
            Ok(found) => judge(
                found.f_bavail.saturating_mul(found.f_frsize),
                found.f_blocks.saturating_mul(found.f_frsize),
                self.segment_bytes,
            ),
            Err(_) => Space::Enough,
        }
    }
}

/// Pure. The journal's next segment has to have room beside what is low.
fn judge(available: u64, total: u64, segment_bytes: u64) -> Space {
    let low = segment_bytes.saturating_add((total / LOW_DIVISOR).clamp(LOW_MIN_BYTES, LOW_MAX_BYTES));
    if available < EXHAUSTED_BYTES {
        Space::Exhausted
    } else if available < low {
        Space::Low
    } else {
        Space::Enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_low_before_it_is_exhausted_whatever_its_size() {
        const MIB: u64 = 1 << 20;
        for (available, total, expected) in [
            (100 * MIB, 320 * MIB, Space::Enough),
            (79 * MIB, 320 * MIB, Space::Low),
            (8 * MIB, 320 * MIB, Space::Low),
            (7 * MIB, 320 * MIB, Space::Exhausted),
            (0, 320 * MIB, Space::Exhausted),
            (2000 * MIB, 1 << 50, Space::Enough),
            (1000 * MIB, 1 << 50, Space::Low),
        ] {
            assert_eq!(
                judge(available, total, 64 * MIB),
                expected,
                "{available} of {total}"
            );
        }
    }
}
