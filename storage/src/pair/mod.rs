//! The pair of buckets: one store to whoever uses it.
//!
//! * **Store**: near first; far when near fails, is slow beyond reason, or its breaker is open. The answer says where
//!   the object is now.
//! * **Fetch**: near first, unless it is known not to have the object; far when near does not have it, has it damaged, fails, or is
//!   slower than its 95th percentile (a hedge, within a budget). What is answered has been verified.
//! * **Repair**: copies an object, verified, to the side that lacks it.
//!
//! Invariants: an answer is either the bytes that were stored or an error; `Missing` and `Damaged` are said only after
//! every bucket has answered; everything else is tried again, with pauses, until a deadline, and then `Unavailable`.
//! No call takes longer than its deadline, and no more requests and bytes are in flight than the options allow.
//!
//! Cancellation: dropping a call is harmless. An attempt that was started goes on to its own end: a store may still store the
//! object (its name is unique, so nobody minds), and its outcome is known to the breaker.

mod counters;
mod fetch;
mod headers;
mod options;
mod race;
mod read;
mod repair;
mod side;
mod store;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use twinshore_protocol::{ObjectId, Side};

pub use counters::SideCounters;
pub use options::PairOptions;
pub use side::BucketHealth;

use crate::bucket::Bucket;
use crate::health::HedgeBudget;
use headers::{DamagedCopies, HeaderCache};
use side::{AttemptError, Patience, SideState, Use};

/// The two buckets of a volume, as one client sees them. Clones are the same pair.
#[derive(Clone)]
pub struct BucketPair {
    shared: Arc<Shared>,
}

struct Shared {
    near: Side,
    /// Indexed by [`Side`].
    sides: [Arc<SideState>; 2],
    options: PairOptions,
    headers: Mutex<HeaderCache>,
    damaged: Mutex<DamagedCopies>,
    hedges: Mutex<HedgeBudget>,
    /// Kibibytes that reads may hold at once.
    read_memory: Arc<Semaphore>,
}

/// Blocks that were asked for, verified and decoded.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The number of the first block: its content begins at `first_block * BLOCK_BYTES`.
    pub first_block: u64,
    /// The content of consecutive blocks, one after the other: each [`crate::object::BLOCK_BYTES`] long but for the object's last. It
    /// keeps little more memory alive than its own length.
    pub content: Bytes,
    /// Where they were read.
    pub read_from: Side,
    /// The near bucket exists and lacks the object: it was asked, or `present` said so. [`BucketPair::repair`] it.
    pub near_missing: bool,
    /// The near bucket's copy is damaged. [`BucketPair::repair`] it.
    pub near_damaged: bool,
}

/// Why the pair could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// Every bucket answered, and none has the object.
    #[error("object {object} is in neither bucket: run a full synchronisation and see what else is lost")]
    Missing {
        /// The object.
        object: ObjectId,
    },
    /// Every bucket answered, and no copy is intact.
    #[error("no copy of object {object} is intact: {what}")]
    Damaged {
        /// The object.
        object: ObjectId,
        /// What is wrong with each copy.
        what: String,
    },
    /// It may work later. For a store: whether anything was stored is unknown.
    #[error("no bucket answers: {what}")]
    Unavailable {
        /// What each bucket said last.
        what: String,
    },
}

impl BucketPair {
    /// The pair as seen from a side. A side without a bucket is never asked.
    pub fn new(
        near_side: Side,
        primary: Option<Arc<dyn Bucket>>,
        target: Option<Arc<dyn Bucket>>,
        options: PairOptions,
    ) -> Self {
        let side = |side, bucket| Arc::new(SideState::new(side, bucket, options.requests_in_flight));
        Self {
            shared: Arc::new(Shared {
                near: near_side,
                sides: [side(Side::Primary, primary), side(Side::Target, target)],
                headers: Mutex::new(HeaderCache::new(options.header_cache_bytes)),
                damaged: Mutex::default(),
                hedges: Mutex::default(),
                read_memory: Arc::new(Semaphore::new(options.read_memory_kibibytes())),
                options,
            }),
        }
    }

    /// The side that is near.
    pub fn near_side(&self) -> Side {
        self.shared.near
    }

    /// The bucket on a side.
    pub fn bucket(&self, side: Side) -> Option<Arc<dyn Bucket>> {
        self.shared.side(side).bucket()
    }

    /// Exchanges the bucket on a side, while the pair is in use: new credentials, another endpoint, another bucket. What is under way
    /// ends on the old one; its health is forgotten.
    pub fn replace(&self, side: Side, bucket: Option<Arc<dyn Bucket>>) {
        self.shared.side(side).replace(bucket);
    }

    /// How the bucket on a side is doing.
    pub fn health(&self, side: Side) -> BucketHealth {
        self.shared.side(side).report()
    }

    /// What was done on a side since the pair was made.
    pub fn counters(&self, side: Side) -> SideCounters {
        self.shared.side(side).counting.read()
    }

    /// Bytes that reads hold now, and may hold.
    pub fn read_memory_bytes(&self) -> (u64, u64) {
        let all = self.shared.options.read_memory_kibibytes();
        let free = self.shared.read_memory.available_permits();
        ((all.saturating_sub(free) as u64) << 10, (all as u64) << 10)
    }
}

impl Shared {
    fn side(&self, side: Side) -> &Arc<SideState> {
        &self.sides[side as usize]
    }

    fn far(&self) -> Side {
        self.near.other()
    }

    fn headers(&self) -> MutexGuard<'_, HeaderCache> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self) -> MutexGuard<'_, DamagedCopies> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hedges(&self) -> MutexGuard<'_, HedgeBudget> {
        self.hedges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How patient an attempt of this size is, when it must end at a deadline.
    fn patience(&self, side: &SideState, usage: Use, bytes: u64, deadline: Instant) -> Patience {
        let limit = self
            .options
            .attempt_limit(bytes)
            .min(deadline.saturating_duration_since(Instant::now()));
        Patience {
            suspicious: self.options.suspicious_after(bytes, side.p95(usage, bytes)),
            limit,
        }
    }

    /// Keeps only the last word of each side.
    fn remember(failed: &mut Vec<(Side, AttemptError)>, side: Side, error: AttemptError) {
        failed.retain(|(of, _)| *of != side);
        failed.push((side, error));
    }

    /// What each side said last, for an error.
    fn describe(failed: &[(Side, AttemptError)]) -> String {
        let said: Vec<String> = Side::BOTH
            .into_iter()
            .filter_map(|side| {
                let (_, error) = failed.iter().rev().find(|(of, _)| *of == side)?;
                Some(match error {
                    AttemptError::Missing => format!("{side}: not there"),
                    AttemptError::Damaged(error) => format!("{side}: {error}"),
                    AttemptError::Failed(what) => format!("{side}: {what}"),
                })
            })
            .collect();
        if said.is_empty() {
            "no bucket could be asked before the deadline".to_owned()
        } else {
            said.join("; ")
        }
    }
}

/// The pauses between rounds over all sides: doubling, bounded.
struct Pauses {
    next: Duration,
}

impl Pauses {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(2);

    fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// Waits before the next round: a pause, but no longer than until a breaker admits a request. False if the deadline
    /// is before that.
    async fn pause(&mut self, admitted: Option<Instant>, deadline: Instant) -> bool {
        let now = Instant::now();
        let until = admitted.unwrap_or(now + self.next).max(now + Self::FIRST);
        self.next = (self.next * 2).min(Self::LONGEST);
        if until >= deadline {
            return false;
        }
        tokio::time::sleep_until(until).await;
        true
    }
}
