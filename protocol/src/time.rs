//! Points in time, as POSIX `struct timespec`.

use minicbor::{Decode, Encode};

/// Time since the epoch, with nanoseconds. May be before 1970: `utimensat` accepts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    #[n(0)]
    pub seconds: i64,
    /// The rest, below 1,000,000,000.
    #[n(1)]
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Converts a duration since the epoch.
    pub const fn since_epoch(duration: std::time::Duration) -> Self {
        Self {
            seconds: duration.as_secs().cast_signed(),
            nanoseconds: duration.subsec_nanos(),
        }
    }

    /// Seconds from `earlier` to this, or 0 if it is not earlier.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        #[allow(clippy::cast_precision_loss)] // A difference in seconds is far below 2^52.
        let seconds = (self.seconds - earlier.seconds) as f64;
        (seconds + (f64::from(self.nanoseconds) - f64::from(earlier.nanoseconds)) / 1e9).max(0.0)
    }

    /// This time, later by a duration.
    #[must_use]
    pub const fn plus(self, duration: std::time::Duration) -> Self {
        const SECOND: u32 = 1_000_000_000;
        let nanoseconds = self.nanoseconds + duration.subsec_nanos();
        Self {
            seconds: self
                .seconds
                .saturating_add_unsigned(duration.as_secs())
                .saturating_add((nanoseconds / SECOND) as i64),
            nanoseconds: nanoseconds % SECOND,
        }
    }

    /// This time, later by whole seconds.
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self {
            seconds: self.seconds.saturating_add(seconds),
            nanoseconds: self.nanoseconds,
        }
    }
}
