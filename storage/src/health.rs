//! The health of a bucket: a circuit breaker and the latencies of the recent past. Pure: time is an argument.
//!
//! ```text
//!            failures in a row                 back-off over: one request may try
//!   Closed ---------------------> Open(until) ----------------------------------> Trial(until)
//!     ^                            ^                                                |   |
//!     |                            +---------------- it fails: back-off doubles ----+   |
//!     +------------------------------------ any request succeeds -----------------------+
//! ```
//!
//! Invariants: while the breaker is open or a trial is under way, no other request is admitted, so a dead bucket costs one request
//! per back-off. A trial whose request vanished (its task was dropped) is over after [`TRIAL_PATIENCE`], so the breaker
//! cannot stay shut for ever. Whoever has no other bucket waits until [`Admission::Refused`] says.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which a bucket counts as down. One may be chance, and a burst of two an expired connection
/// pool.
const FAILURES_TO_OPEN: u32 = 3;
/// How long a bucket is left alone at first. A restart of a store takes some seconds.
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
/// How long at most: it bounds how late a bucket that has come back is used again.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);
/// How long a trial keeps others out.
pub const TRIAL_PATIENCE: Duration = Duration::from_secs(3);

/// May a request be sent to the bucket?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Normal,
    /// Yes, as the one that finds out whether the bucket is back.
    Trial,
    /// No, not before this moment.
    Refused {
        /// When to ask again.
        until: Instant,
    },
}

/// The breaker's state, for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// The bucket is used.
    Closed,
    /// It is left alone for a while.
    Open,
    /// One request is finding out.
    Trial,
}

/// A circuit breaker. See the head of this module.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    failures_in_a_row: u32,
    back_off: Duration,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Instant },
    Trial { until: Instant },
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed,
            failures_in_a_row: 0,
            back_off: FIRST_BACK_OFF,
        }
    }
}

impl Breaker {
    /// Asks whether a request may be sent now. `Trial` obliges to report its outcome.
    pub fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed => Admission::Normal,
            State::Open { until } | State::Trial { until } if now < until => Admission::Refused { until },
            State::Open { .. } | State::Trial { .. } => {
                self.state = State::Trial {
                    until: now + TRIAL_PATIENCE,
                };
                Admission::Trial
            }
        }
    }

    /// Would a request be sent now? Changes nothing.
    pub fn would_admit(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until } | State::Trial { until } => now >= until,
        }
    }

    /// A request was answered, with whatever the bucket had to say.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// A request failed, or is so slow that it will be taken for failed.
    pub fn failed(&mut self, now: Instant) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let opens = match self.state {
            State::Closed => self.failures_in_a_row >= FAILURES_TO_OPEN,
            State::Trial { .. } => true,
            // Sent before it opened: says nothing new, and must not lengthen the back-off.
            State::Open { .. } => false,
        };
        if opens {
            self.state = State::Open {
                until: now + self.back_off,
            };
            self.back_off = (self.back_off * 2).min(LONGEST_BACK_OFF);
        }
    }

    /// The state, for people.
    pub const fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::Trial { .. } => BreakerState::Trial,
        }
    }
}

/// Requests that are remembered for each class of sizes.
const WINDOW: usize = 128;
/// How many requests must be known before a quantile of them means something.
const LEAST_SAMPLES: usize = 16;
/// Sizes up to which requests form a class: small reads, parts of an object, whole objects, and what is larger.
const CLASSES: [u64; 3] = [256 << 10, 2 << 20, 8 << 20];

/// Latencies of the recent requests, by size.
#[derive(Debug, Default)]
pub struct Latencies {
    classes: [Window; CLASSES.len() + 1],
}

#[derive(Debug, Default)]
struct Window {
    recent: VecDeque<Duration>,
    /// Median and 95th percentile, refreshed every [`LEAST_SAMPLES`] requests.
    quantiles: Option<(Duration, Duration)>,
    until_refresh: usize,
}

impl Latencies {
    /// Remembers a request of so many bytes that was answered after so long.
    pub fn record(&mut self, bytes: u64, latency: Duration) {
        let window = &mut self.classes[class(bytes)];
        if window.recent.len() == WINDOW {
            window.recent.pop_front();
        }
        window.recent.push_back(latency);
        window.until_refresh += 1;
        if window.until_refresh >= LEAST_SAMPLES {
            window.until_refresh = 0;
            let mut sorted: Vec<Duration> = window.recent.iter().copied().collect();
            sorted.sort_unstable();
            window.quantiles = Some((sorted[sorted.len() / 2], sorted[sorted.len() * 95 / 100]));
        }
    }

    /// The median for requests of this size, once enough are known.
    pub fn median(&self, bytes: u64) -> Option<Duration> {
        self.classes[class(bytes)].quantiles.map(|(median, _)| median)
    }

    /// The 95th percentile for requests of this size, once enough are known.
    pub fn p95(&self, bytes: u64) -> Option<Duration> {
        self.classes[class(bytes)].quantiles.map(|(_, p95)| p95)
    }
}

fn class(bytes: u64) -> usize {
    CLASSES
        .iter()
        .position(|most| bytes <= *most)
        .unwrap_or(CLASSES.len())
}

/// How many requests may be sent twice: one in twenty, and a burst of some.
///
/// Without it a bucket that slows down under load would see its readers' load double, and the WAN with it.
#[derive(Debug)]
pub struct HedgeBudget {
    /// In twentieths of a request.
    twentieths: u32,
}

impl HedgeBudget {
    const COST: u32 = 20;
    const MOST: u32 = 16 * Self::COST;

    /// A request was sent.
    pub fn earn(&mut self) {
        self.twentieths = (self.twentieths + 1).min(Self::MOST);
    }

    /// May this one be sent twice?
    pub fn spend(&mut self) -> bool {
        let may = self.twentieths >= Self::COST;
        if may {
            self.twentieths -= Self::COST;
        }
        may
    }
}

impl Default for HedgeBudget {
    fn default() -> Self {
        Self {
            twentieths: Self::MOST,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_TO_OPEN {
            assert_eq!(breaker.admit(now), Admission::Normal);
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_single_ones_do_not() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker.failed(now);
            breaker.failed(now);
            breaker.answered();
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(
            opened(now).admit(now),
            Admission::Refused {
                until: now + FIRST_BACK_OFF
            }
        );
    }

    #[test]
    fn one_request_at_a_time_tries_an_open_bucket() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + FIRST_BACK_OFF;
        assert_eq!(breaker.admit(later), Admission::Trial);
        assert_eq!(
            breaker.admit(later),
            Admission::Refused {
                until: later + TRIAL_PATIENCE
            }
        );
        breaker.answered();
        assert_eq!(breaker.admit(later), Admission::Normal);
    }

    #[test]
    fn a_failed_trial_doubles_the_back_off_up_to_a_bound() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let mut waits = Vec::new();
        for _ in 0..6 {
            let Admission::Refused { until } = breaker.admit(now) else {
                panic!("it is open")
            };
            waits.push(until - now);
            now = until;
            assert_eq!(breaker.admit(now), Admission::Trial);
            breaker.failed(now);
        }
        assert_eq!(waits[..4], [500, 1_000, 2_000, 4_000].map(Duration::from_millis));
        assert_eq!(waits[5], LONGEST_BACK_OFF);
    }

    #[test]
    fn a_trial_that_vanished_does_not_shut_the_bucket_out_for_ever() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let trial = now + FIRST_BACK_OFF;
        assert_eq!(breaker.admit(trial), Admission::Trial);
        assert_eq!(breaker.admit(trial + TRIAL_PATIENCE), Admission::Trial);
    }

    #[test]
    fn a_late_failure_does_not_lengthen_the_back_off() {
        let now = Instant::now();
        let mut breaker = opened(now);
        for _ in 0..20 {
            breaker.failed(now);
        }
        assert_eq!(
            breaker.admit(now),
            Admission::Refused {
                until: now + FIRST_BACK_OFF
            }
        );
    }

    #[test]
    fn quantiles_follow_the_recent_past_of_each_size() {
        let mut latencies = Latencies::default();
        for n in 1..=100 {
            latencies.record(4096, Duration::from_millis(n));
        }
        assert_eq!(latencies.p95(4096), Some(Duration::from_millis(92))); // of the first 96
        assert_eq!(latencies.p95(4 << 20), None);
        for _ in 0..WINDOW {
            latencies.record(4096, Duration::from_millis(7));
        }
        assert_eq!(latencies.p95(1), Some(Duration::from_millis(7)));
    }

    #[test]
    fn the_hedge_budget_allows_a_burst_and_then_one_in_twenty() {
        let mut budget = HedgeBudget::default();
        let burst = std::iter::from_fn(|| budget.spend().then_some(())).count();
        assert_eq!(burst, 16);
        let spent = (0..200)
            .filter(|_| {
                budget.earn();
                budget.spend()
            })
            .count();
        assert_eq!(spent, 10);
    }
}
