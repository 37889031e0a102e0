//! The bandwidth limit of one direction: a token bucket, and a gate that holds callers back by it.
//!
//! An object passes as soon as the account is not overdrawn, and is then charged in full: so an object that is larger than
//! what a second allows passes too, and the average is exact. Callers pass in the order in which they came.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How much may be saved up while nothing is copied: a burst after a pause is as long as this at most.
const SAVED: Duration = Duration::from_millis(250);

/// Pure: time is an argument.
#[derive(Debug)]
pub struct TokenBucket {
    /// 0 for no limit.
    bytes_per_second: u64,
    /// Bytes that may pass; negative while overdrawn.
    balance_bytes: f64,
    as_of: Instant,
}

impl TokenBucket {
    /// With a limit in bytes per second, 0 for none.
    pub const fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self {
            bytes_per_second,
            balance_bytes: 0.0,
            as_of: now,
        }
    }

    /// Changes the limit. What was overdrawn under the old one is paid back at the new rate.
    pub fn set_limit(&mut self, bytes_per_second: u64, now: Instant) {
        self.advance(now);
        if self.bytes_per_second == 0 {
            self.balance_bytes = 0.0;
        }
        self.bytes_per_second = bytes_per_second;
    }

    /// Charges so many bytes, or tells after which time to ask again.
    pub fn charge(&mut self, bytes: u64, now: Instant) -> Result<(), Duration> {
        if self.bytes_per_second == 0 {
            return Ok(());
        }
        self.advance(now);
        if self.balance_bytes < 0.0 {
            // At least a microsecond, so that rounding cannot make a caller spin.
            let wait = Duration::from_secs_f64(-self.balance_bytes / self.rate());
            return Err(wait.max(Duration::from_micros(1)));
        }
        #[allow(clippy::cast_precision_loss)] // Sizes of objects are far below 2^52.
        let bytes = bytes as f64;
        self.balance_bytes -= bytes;
        Ok(())
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.as_of);
        self.as_of = self.as_of.max(now);
        let saved_most = self.rate() * SAVED.as_secs_f64();
        self.balance_bytes = (self.balance_bytes + self.rate() * passed.as_secs_f64()).min(saved_most);
    }

    fn rate(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)] // A rate needs no more than 52 bits.
        let rate = self.bytes_per_second as f64;
        rate
    }
}

/// Callers wait here until a [`TokenBucket`] lets them pass.
#[derive(Debug)]
pub struct Gate {
    tokens: Mutex<TokenBucket>,
    /// Held by the one who is next.
    turn: tokio::sync::Mutex<()>,
    changed: Notify,
}

impl Gate {
    /// With a limit in bytes per second, 0 for none.
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            tokens: Mutex::new(TokenBucket::new(bytes_per_second, Instant::now())),
            turn: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
        }
    }

    /// Changes the limit, for those who wait too.
    pub fn set_limit(&self, bytes_per_second: u64) {
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set_limit(bytes_per_second, Instant::now());
        self.changed.notify_one();
    }

    /// Waits until so many bytes may pass.
    pub async fn pass(&self, bytes: u64) {
        let _turn = self.turn.lock().await;
        loop {
            let charged = self
                .tokens
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .charge(bytes, Instant::now());
            let Err(wait) = charged else { return };
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_average_keeps_to_the_limit_whatever_the_sizes() {
        let gate = Gate::new(1_000_000);
        let start = Instant::now();
        for bytes in [4_000_000, 1, 500_000, 3_000_000, 2_499_999] {
            gate.pass(bytes).await;
        }
        gate.pass(0).await;
        assert_eq!(start.elapsed().as_millis(), 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let gate = Gate::new(0);
        let start = Instant::now();
        for _ in 0..1000 {
            gate.pass(1 << 30).await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_saves_up_no_more_than_a_short_burst() {
        let gate = Gate::new(1_000_000);
        tokio::time::advance(Duration::from_hours(1)).await;
        let start = Instant::now();
        for _ in 0..3 {
            gate.pass(1_000_000).await;
        }
        assert_eq!(start.elapsed().as_millis(), 1750);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_holds_for_those_who_wait_already() {
        let gate = Arc::new(Gate::new(1000));
        gate.pass(1_000_000).await;
        let start = Instant::now();
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.pass(1).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        gate.set_limit(999_000);
        waiting.await.expect("it passes");
        assert_eq!(start.elapsed().as_millis(), 2000);
    }
}
