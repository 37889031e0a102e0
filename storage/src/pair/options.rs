//! The limits of a pair.

use std::time::Duration;

/// Limits of memory, requests and time. The defaults suit a mount.
#[derive(Clone, Debug)]
pub struct PairOptions {
    /// How long a store tries before it fails. Models the patience of a program in `fsync`: longer than a restart of a
    /// store or a failover of its network.
    pub store_deadline: Duration,
    /// How long a fetch tries before it fails.
    pub fetch_deadline: Duration,
    /// How long one attempt may take, besides the time for its bytes.
    pub attempt_limit: Duration,
    /// The slowest rate, in bytes per second, at which an attempt is waited for.
    pub slowest_bytes_per_second: u64,
    /// A hedge starts no earlier than this, whatever the percentile says: it bounds what the far side costs when near is
    /// faster than a timer.
    pub hedge_least: Duration,
    /// A hedge starts after this as long as too few latencies are known.
    pub hedge_unknown: Duration,
    /// Requests in flight on each side, at most.
    pub requests_in_flight: usize,
    /// Bytes that reads in flight may hold, at most.
    pub read_memory_bytes: u64,
    /// Bytes of headers that are kept.
    pub header_cache_bytes: usize,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self {
            store_deadline: Duration::from_mins(1),
            fetch_deadline: Duration::from_secs(30),
            attempt_limit: Duration::from_secs(8),
            slowest_bytes_per_second: 1 << 20,
            hedge_least: Duration::from_millis(20),
            hedge_unknown: Duration::from_secs(1),
            requests_in_flight: 64,
            read_memory_bytes: 256 << 20,
            header_cache_bytes: 16 << 20,
        }
    }
}

impl PairOptions {
    /// How long an attempt of so many bytes may take.
    pub(super) fn attempt_limit(&self, bytes: u64) -> Duration {
        self.attempt_limit + self.time_for(bytes)
    }

    /// After how long an attempt counts as failed although it goes on: well beyond what is usual for its size.
    pub(super) fn suspicious_after(&self, bytes: u64, p95: Option<Duration>) -> Duration {
        let usual = p95.map_or(self.time_for(bytes), |p95| p95 * 4);
        (Duration::from_secs(1) + usual).min(self.attempt_limit(bytes))
    }

    /// After how long a second attempt starts on the other side: when a request is slower than nearly all. The quarter
    /// on top is for stores whose answers all take about equally long: there the percentile is the usual case.
    pub(super) fn hedge_after(&self, p95: Option<Duration>) -> Duration {
        p95.map_or(self.hedge_unknown, |p95| {
            p95 + (p95 / 4).max(Duration::from_millis(5))
        })
        .max(self.hedge_least)
    }

    /// The permits of the read memory's semaphore, which counts in KiB (its counts are 32 bits wide).
    pub(super) fn read_memory_kibibytes(&self) -> usize {
        usize::try_from(self.read_memory_bytes >> 10)
            .unwrap_or(usize::MAX)
            .clamp(1, tokio::sync::Semaphore::MAX_PERMITS.min(u32::MAX as usize))
    }

    fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_millis(bytes.saturating_mul(1_000) / self.slowest_bytes_per_second.max(1))
    }
}
