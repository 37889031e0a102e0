//! What the pair has done, per side, for metrics and tests.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one side since the pair was made. Plain numbers: whoever exports metrics turns them into counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideCounters {
    /// Objects stored.
    pub stores: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Requests for bytes of objects.
    pub reads: u64,
    /// Bytes received.
    pub read_bytes: u64,
    /// Attempts that failed: timeouts, refused connections, errors of the store.
    pub failures: u64,
    /// Attempts made again after all sides had failed.
    pub retries: u64,
    /// Attempts started on this side because the other was slow.
    pub hedges: u64,
    /// Hedges that answered first.
    pub hedges_won: u64,
    /// Objects that this side should have had and did not have.
    pub missing: u64,
    /// Objects whose bytes did not match their checksums.
    pub damaged: u64,
    /// Objects copied here from the other side by a repair.
    pub repairs: u64,
}

/// The counts while they run.
#[derive(Debug, Default)]
pub(super) struct Counting {
    pub(super) stores: Count,
    pub(super) stored_bytes: Count,
    pub(super) reads: Count,
    pub(super) read_bytes: Count,
    pub(super) failures: Count,
    pub(super) retries: Count,
    pub(super) hedges: Count,
    pub(super) hedges_won: Count,
    pub(super) missing: Count,
    pub(super) damaged: Count,
    pub(super) repairs: Count,
}

impl Counting {
    pub(super) fn read(&self) -> SideCounters {
        // Taken apart without `..`, so that a new count cannot be forgotten here.
        let Self {
            stores,
            stored_bytes,
            reads,
            read_bytes,
            failures,
            retries,
            hedges,
            hedges_won,
            missing,
            damaged,
            repairs,
        } = self;
        SideCounters {
            stores: stores.value(),
            stored_bytes: stored_bytes.value(),
            reads: reads.value(),
            read_bytes: read_bytes.value(),
            failures: failures.value(),
            retries: retries.value(),
            hedges: hedges.value(),
            hedges_won: hedges_won.value(),
            missing: missing.value(),
            damaged: damaged.value(),
            repairs: repairs.value(),
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn one(&self) {
        self.add(1);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
