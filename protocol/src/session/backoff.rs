//! How long to wait before the next attempt to connect. Pure and seeded.

use std::time::Duration;

/// The first pause. A restarting metadata service is back within a second or so.
const FIRST: Duration = Duration::from_millis(50);

/// The longest pause: a person who brings the service back should not have to wait longer.
const LONGEST: Duration = Duration::from_secs(2);

/// Exponential back-off with jitter: after a restart of the service its clients must not come all at once.
#[derive(Debug)]
pub struct Backoff {
    state: u64,
    next: Duration,
}

impl Backoff {
    /// With a seed of its own for each client.
    pub const fn new(seed: u64) -> Self {
        Self {
            state: seed,
            next: FIRST,
        }
    }

    /// The next pause: between half and all of a step that doubles each time up to a limit.
    pub fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LONGEST);
        // SplitMix64: the upper 32 bits as a fraction.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let fraction =
            f64::from(u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        step.mul_f64(0.5 + fraction / 2.0)
    }

    /// It worked: start again with the shortest pause.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_follow_from_the_seed() {
        let mut backoff = Backoff::new(7);
        let pauses: Vec<_> = (0..12).map(|_| backoff.pause()).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST);
        assert!(pauses[11] >= LONGEST / 2 && pauses[11] <= LONGEST);
        let mut same = Backoff::new(7);
        assert_eq!(pauses, (0..12).map(|_| same.pause()).collect::<Vec<_>>());
        let mut other = Backoff::new(8);
        assert_ne!(pauses, (0..12).map(|_| other.pause()).collect::<Vec<_>>());
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
