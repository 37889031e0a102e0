//! One direction of the line: packets that wait until they have travelled far enough. No clock and no thread in it.
//!
//! Invariants: packets leave in the order in which they came, also when the delay becomes shorter; none leaves before its time;
//! what waits is bounded in bytes and in number. While the line is cut every packet that comes is lost, and cutting it loses those under
//! way: as a cable that is cut.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What may be under way. At 15 ms it lets 2 GB/s through, far more than the line's two system calls for each packet do.
const BYTES_MAX: usize = 32 << 20;

/// Packets under way, so that small ones cannot fill the memory with their bookkeeping.
const PACKETS_MAX: usize = 200_000;

struct InFlight {
    arrives: Instant,
    packet: Vec<u8>,
}

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Arrived.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Lost, as the line was cut or too much was under way.
    pub lost: u64,
}

/// One direction.
pub struct Line {
    delay: Duration,
    is_open: bool,
    under_way: VecDeque<InFlight>,
    bytes_under_way: usize,
    counts: Counts,
}

/// What the far end of a line does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A packet has arrived.
    Deliver(Vec<u8>),
    /// Nothing arrives before this.
    WaitUntil(Instant),
    /// Nothing is under way.
    Wait,
}

impl Line {
    /// An open line.
    pub fn new(delay: Duration) -> Self {
        Self {
            delay,
            is_open: true,
            under_way: VecDeque::new(),
            bytes_under_way: 0,
            counts: Counts::default(),
        }
    }

    /// How long a packet travels.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Changes it for packets that come from now on.
    pub fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    /// Whether packets get through.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Opens or cuts it.
    pub fn set_open(&mut self, is_open: bool) {
        self.is_open = is_open;
        if !is_open {
            self.counts.lost += self.under_way.len() as u64;
            self.under_way.clear();
            self.bytes_under_way = 0;
        }
    }

    /// What became of packets.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A packet comes in at the near end.
    pub fn send(&mut self, packet: &[u8], now: Instant) {
        let is_full = self.bytes_under_way + packet.len() > BYTES_MAX || self.under_way.len() >= PACKETS_MAX;
        if !self.is_open || is_full {
            self.counts.lost += 1;
            return;
        }
        let last = self.under_way.back().map_or(now, |packet| packet.arrives);
        self.bytes_under_way += packet.len();
        self.under_way.push_back(InFlight {
            arrives: (now + self.delay).max(last),
            packet: packet.to_vec(),
        });
    }

    /// What the far end does now.
    pub fn next(&mut self, now: Instant) -> Next {
        let Some(first) = self.under_way.front() else {
            return Next::Wait;
        };
        if first.arrives > now {
            return Next::WaitUntil(first.arrives);
        }
        match self.under_way.pop_front() {
            Some(InFlight { packet, .. }) => {
                self.bytes_under_way -= packet.len();
                self.counts.packets += 1;
                self.counts.bytes += packet.len() as u64;
                Next::Deliver(packet)
            }
            None => Next::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(15);

    #[test]
    fn a_packet_arrives_after_the_delay_and_not_before() {
        let start = Instant::now();
        let mut line = Line::new(DELAY);
        line.send(b"one", start);
        assert_eq!(line.next(start), Next::WaitUntil(start + DELAY));
        assert_eq!(line.next(start + DELAY), Next::Deliver(b"one".to_vec()));
        assert_eq!(line.next(start + DELAY), Next::Wait);
        assert_eq!(
            line.counts(),
            Counts {
                packets: 1,
                bytes: 3,
                lost: 0
            }
        );
    }

    #[test]
    fn packets_keep_their_order_when_the_delay_becomes_shorter() {
        let start = Instant::now();
        let mut line = Line::new(DELAY);
        line.send(b"one", start);
        line.set_delay(Duration::ZERO);
        line.send(b"two", start);
        assert_eq!(line.next(start), Next::WaitUntil(start + DELAY));
        assert_eq!(line.next(start + DELAY), Next::Deliver(b"one".to_vec()));
        assert_eq!(line.next(start + DELAY), Next::Deliver(b"two".to_vec()));
    }

    #[test]
    fn a_cut_loses_what_is_under_way_and_what_comes() {
        let start = Instant::now();
        let mut line = Line::new(DELAY);
        line.send(b"one", start);
        line.set_open(false);
        line.send(b"two", start);
        assert_eq!(line.next(start + DELAY), Next::Wait);
        line.set_open(true);
        line.send(b"three", start + DELAY);
        assert_eq!(line.next(start + DELAY * 2), Next::Deliver(b"three".to_vec()));
        assert_eq!(line.counts().lost, 2);
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let start = Instant::now();
        let mut line = Line::new(DELAY);
        let packet = vec![0; 1500];
        let fits = BYTES_MAX / packet.len();
        for _ in 0..fits + 5 {
            line.send(&packet, start);
        }
        assert_eq!(line.counts().lost, 5);
    }
}
