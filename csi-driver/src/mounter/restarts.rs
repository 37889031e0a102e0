//! When a mount process that has ended is followed by another one, and when no more. Pure: time is an argument.
//!
//! One that served for a while is followed at once: it was killed, or has a defect that shows now and then. Processes that end soon after another are
//! followed later and later, and after [`FAILURES_MAX`] not at all: programs then get an error instead of waiting for ever.

use std::time::{Duration, Instant};

/// A process that has served for so long has not failed at once.
const SERVED: Duration = Duration::from_secs(2);

/// Failures in a row. With the pauses between them about ten seconds.
const FAILURES_MAX: u32 = 5;

/// The pause after the second failure; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// How often processes have failed in a row.
#[derive(Debug, Default)]
pub struct Restarts {
    failures: u32,
}

impl Restarts {
    /// A process that was ready at `ready`, if it ever was, has ended. After what pause the next one is started; `None` for not at all.
    pub fn ended(&mut self, ready: Option<Instant>, now: Instant) -> Option<Duration> {
        let served = ready.is_some_and(|ready| now.saturating_duration_since(ready) >= SERVED);
        self.failures = if served { 1 } else { self.failures + 1 };
        match self.failures {
            0 | 1 => Some(Duration::ZERO),
            failures if failures < FAILURES_MAX => Some(PAUSE * (1 << (failures - 2))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_at_once_is_followed_later_and_later_and_then_no_more() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        let pauses: Vec<_> = (0..6).map(|_| restarts.ended(Some(now), now)).collect();
        let milliseconds = |number| Some(Duration::from_millis(number));
        assert_eq!(
            pauses,
            [
                milliseconds(0),
                milliseconds(500),
                milliseconds(1000),
                milliseconds(2000),
                None,
                None
            ]
        );
    }

    #[test]
    fn who_has_served_for_a_while_is_followed_at_once() {
        let mut restarts = Restarts::default();
        let began = Instant::now();
        assert_eq!(restarts.ended(None, began), Some(Duration::ZERO));
        assert_eq!(restarts.ended(None, began), Some(PAUSE));
        assert_eq!(restarts.ended(Some(began), began + SERVED), Some(Duration::ZERO));
        assert_eq!(restarts.ended(Some(began), began), Some(PAUSE));
    }
}
