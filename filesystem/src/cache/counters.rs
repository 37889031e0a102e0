//! What the caches count: read by the metrics page, never by a decision.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Live counters of a mount's block caches.
        #[derive(Debug, Default)]
        pub struct CacheCounters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The values of [`CacheCounters`] at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CacheSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl CacheCounters {
            /// Reads all counters. They are read one after the other, not at one instant.
            pub fn snapshot(&self) -> CacheSnapshot {
                CacheSnapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl CacheSnapshot {
            /// Names and values, in the order of declaration.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Blocks answered from memory.
    memory_hits,
    /// Blocks that memory did not have.
    memory_misses,
    /// Blocks that memory dropped to stay within its limit.
    memory_evictions,
    /// Bytes that memory holds now.
    memory_bytes,
    /// Blocks answered from disk, verified.
    disk_hits,
    /// Blocks that the disk did not have.
    disk_misses,
    /// Bytes of blocks read from disk.
    disk_read_bytes,
    /// Bytes of blocks written to disk.
    disk_written_bytes,
    /// Blocks on disk whose checksum was wrong; each was read again from a bucket.
    disk_damaged_blocks,
    /// Blocks that were not written because the disk could not keep up.
    disk_dropped_blocks,
    /// Reads and writes that the disk failed.
    disk_errors,
    /// Blocks that were dropped from disk to stay within the limits.
    disk_evictions,
    /// Bytes of the cache's files now.
    disk_bytes,
    /// 1 after a failing disk has switched the cache off.
    disk_off,
}

impl CacheCounters {
    /// Adds to a counter.
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Takes from a gauge.
    pub(crate) fn subtract(gauge: &AtomicU64, amount: u64) {
        gauge.fetch_sub(amount, Ordering::Relaxed);
    }
}
