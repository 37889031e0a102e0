//! Heartbeats of a stream, and how long the lease lasts. Pure: time is an argument.
//!
//! The stream is given up at the latest when the lease ends: what the kernel caches has no end of its own, so it has to be
//! dropped before the service stops waiting for a holder that has fallen silent.
//!
//! The lease counts from when the heartbeat that was answered was *sent*: the service counts from when it received it,
//! which is later. Both clocks may differ in rate by 1 % either way, so 2 % of the lease are not used.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{HEARTBEAT_SECONDS, LEASE_SECONDS};

/// Between two heartbeats.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(HEARTBEAT_SECONDS);

/// Heartbeats without an answer that are remembered: the silence limit ends the stream long before there are more.
const UNANSWERED_MAX: usize = 64;

/// The heartbeats of one stream.
#[derive(Debug)]
pub struct Heartbeats {
    lease: Duration,
    next_number: u64,
    next_due: Instant,
    unanswered: VecDeque<(u64, Instant)>,
    until: Option<Instant>,
    /// Until the first answer: the service counts from its `Welcome`, which was not sent before the `Hello`.
    given_up_at: Instant,
    last_received: Instant,
}

impl Heartbeats {
    /// Of a stream that was asked for at `asked` and is welcomed now. The first heartbeat is due at once: there is no lease
    /// before its answer.
    pub fn new(asked: Instant, now: Instant, lease_seconds: u64) -> Self {
        let lease = Duration::from_secs(lease_seconds).mul_f64(0.98);
        Self {
            lease,
            given_up_at: asked + lease,
            next_number: 1,
            next_due: now,
            unanswered: VecDeque::new(),
            until: None,
            last_received: now,
        }
    }

    /// Is a heartbeat due?
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next_due
    }

    /// The number of the heartbeat to send now, if one is due.
    pub fn due(&mut self, now: Instant) -> Option<u64> {
        if !self.is_due(now) {
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.next_due = now + HEARTBEAT_INTERVAL;
        if self.unanswered.len() == UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back((number, now));
        Some(number)
    }

    /// Something has arrived.
    pub fn received(&mut self, now: Instant) {
        self.last_received = now;
    }

    /// A heartbeat was answered, and with it the older ones. Returns until when the lease lasts now.
    pub fn answered(&mut self, number: u64) -> Option<Instant> {
        while let Some((oldest, sent)) = self.unanswered.front().copied() {
            if oldest > number {
                break;
            }
            self.unanswered.pop_front();
            if oldest == number {
                self.until = Some(sent + self.lease);
                self.given_up_at = sent + self.lease;
            }
        }
        self.until
    }

    /// Has the service been silent for so long that the stream must be taken as broken? It answers every heartbeat; a whole
    /// lease without an answer means that the caches are lost anyway, whatever else arrives.
    pub fn is_silent(&self, now: Instant) -> bool {
        now >= self.silent_at()
    }

    /// When [`Self::due`] or [`Self::is_silent`] is to be asked again. While nothing can be sent, a heartbeat that is due
    /// is no event.
    pub fn next_event(&self, can_send: bool) -> Instant {
        if can_send {
            self.next_due.min(self.silent_at())
        } else {
            self.silent_at()
        }
    }

    fn silent_at(&self) -> Instant {
        (self.last_received + Duration::from_secs(LEASE_SECONDS)).min(self.given_up_at)
    }
}
