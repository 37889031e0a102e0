//! When what the ledger holds is sent: pure.
//!
//! A request that somebody waits for is sent at once. One whose program has been answered already lingers: what follows it soon (the
//! `Commit` of a file that was just made) travels in the same frame, is executed under the same lock, and shares its journal record. Without
//! that, a program that makes small files waits for two appends, of which it needs one.
//!
//! # States
//!
//! *Nothing to hurry for* → *lingering* until [`LINGER`] has passed or [`LINGERING_MAX`] are there → *urgent* → (everything is sent) →
//! *nothing to hurry for*. Whatever somebody waits for makes it urgent from any state.
//!
//! Beside it stands what the programs did last: where somebody waited for what lingered, and nothing had followed it (empty files), the next
//! leaves at once, so that it is executed while its program goes on; until a request follows one closely again.
//!
//! # Guarantees
//!
//! The order of requests is the ledger's, and does not depend on this. Nobody waits for what lingers without saying so
//! ([`Departure::hurry_what_lingers`]), so lingering delays nothing that can be observed: a directory is seen by others only when it is
//! recalled, and returning it is urgent.

use std::time::Duration;

use tokio::time::Instant;

/// How long a request that nobody waits for is held back: some times what a program needs from making a file to closing it.
const LINGER: Duration = Duration::from_millis(4);

/// How many are held back: fewer than half of what may be under way, so that one half can be executed while the other gathers.
const LINGERING_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Departure {
    urgent: bool,
    lingering: usize,
    until: Option<Instant>,
    /// Nothing followed what lingered last.
    is_eager: bool,
    /// When a request was added last that nobody waits for.
    last: Option<Instant>,
}

impl Departure {
    /// Something is to be sent at once.
    pub const fn hurry(&mut self) {
        self.urgent = true;
    }

    /// A request was added that somebody waits for.
    pub fn request(&mut self, now: Instant) {
        self.urgent = true;
        if self.last.is_some_and(|last| now < last + LINGER) {
            self.is_eager = false;
        }
    }

    /// Somebody waits for what lingers, or has left.
    pub const fn hurry_what_lingers(&mut self) {
        self.urgent = true;
        if self.lingering > 0 {
            self.is_eager = true;
        }
    }

    /// A request was added that nobody waits for. Answers whether the driver is to hear of it.
    pub fn linger(&mut self, now: Instant) -> bool {
        self.lingering += 1;
        self.last = Some(now);
        if self.is_eager || self.lingering >= LINGERING_MAX {
            return !std::mem::replace(&mut self.urgent, true);
        }
        let begins = self.until.is_none();
        self.until.get_or_insert(now + LINGER);
        begins
    }

    /// Is everything to be sent now?
    pub fn is_due(&self, now: Instant) -> bool {
        self.urgent || self.until.is_none_or(|until| now >= until)
    }

    /// When to look again, if it is not due.
    pub const fn next_event(&self) -> Option<Instant> {
        if self.urgent { None } else { self.until }
    }

    /// Everything that may be sent has been sent.
    pub const fn departed(&mut self) {
        self.urgent = false;
        self.lingering = 0;
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_lingers_and_then_leaves() {
        let mut departure = Departure::default();
        let start = Instant::now();
        assert!(departure.is_due(start), "what is there without lingering leaves");
        assert!(departure.linger(start), "the driver hears of the first");
        assert!(!departure.linger(start), "and need not hear of the second");
        assert!(!departure.is_due(start));
        assert_eq!(departure.next_event(), Some(start + LINGER));
        assert!(departure.is_due(start + LINGER));
        departure.departed();
        assert_eq!(departure.next_event(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_waits_for_takes_along_what_lingers() {
        let mut departure = Departure::default();
        let start = Instant::now();
        departure.linger(start);
        departure.hurry();
        assert!(departure.is_due(start));
        assert_eq!(departure.next_event(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_wait_for_what_lingers_the_next_leaves_at_once_until_a_request_follows_one() {
        let mut departure = Departure::default();
        let start = Instant::now();
        departure.linger(start);
        departure.hurry_what_lingers();
        departure.departed();
        departure.linger(start);
        assert!(departure.is_due(start), "nothing followed the last");
        departure.departed();
        departure.request(start + LINGER / 2);
        departure.departed();
        departure.linger(start + LINGER);
        assert!(!departure.is_due(start + LINGER), "a request followed the last");
    }

    #[tokio::test(start_paused = true)]
    async fn many_do_not_linger() {
        let mut departure = Departure::default();
        let start = Instant::now();
        let heard = (0..LINGERING_MAX).filter(|_| departure.linger(start)).count();
        assert_eq!(heard, 2, "of the first, and of the one that fills it");
        assert!(departure.is_due(start));
    }
}
