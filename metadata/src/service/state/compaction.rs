//! Handing out compaction, and who keeps house.
//!
//! # Compaction
//!
//! A pass searches the state for what is worth rewriting ([`crate::core::compaction`]), a bounded piece with each `ListCompaction` of a worker.
//! The place of the pass is in memory: after a restart, or when a worker was given something and failed, the next pass finds what is left.
//! A pass begins when something is sparse or fragmented and the last one is [`CompactionOptions::pause`] ago, and ten times as long as it took;
//! or when somebody asks for it. One that was asked for is repeated until it finds nothing, [`REQUESTED_ROUNDS_MAX`] times at most.
//!
//! # Housekeeping
//!
//! Packing of inline data and compaction are searches whose findings several workers would only do redundantly. So one session at a time is
//! given them: the *housekeeper*, whoever asks first, as long as it keeps asking. A session near the primary takes over from one near the
//! target: what it stores is near to the metadata. Losing the role while at work is harmless (`Repoint` skips what another has done).

use std::time::Duration;

use twinshore_protocol::operation::ExtentExchange;
use twinshore_protocol::status::CompactionStatus;
use twinshore_protocol::{ExtentSource, Reply, SessionId, Side};

use super::{Service, ServiceError};
use crate::core::compaction::{Cursor, Limits, find};
use crate::core::values::TotalsRow;
use crate::core::volume;
use crate::view::ViewStore;

/// How long a housekeeper may be silent: longer than it takes to store an object in slow buckets.
const HOUSEKEEPER_LEASE: Duration = Duration::from_secs(30);

/// Rows that one request looks at: a few milliseconds, in which nobody else is served.
const ROWS_MAX: usize = 2048;

/// Extents that one reply names: with their rows, `Repoint` of them takes as long as the search.
const EXTENTS_MAX: usize = 2048;

/// Bytes of content that one reply names at most, whatever was asked: they become one object.
const BYTES_MAX: u64 = 16 << 20;

/// How often a compaction that was asked for starts over, because the last pass found something: a worker that fails all the time must
/// not make it endless.
const REQUESTED_ROUNDS_MAX: u32 = 16;

/// After a pass this many times its duration passes before the next: so it takes a small share of the service's time.
const PAUSE_PER_PASS: u32 = 10;

/// When compaction is worth while.
#[derive(Clone, Copy, Debug)]
pub struct CompactionOptions {
    /// Between two passes that nobody asked for.
    pub pause: Duration,
    /// Files that were modified in this time before a pass are left to it, unless somebody asked for it.
    pub idle_seconds: i64,
    /// Sparse objects with fewer bytes to gain are left.
    pub least_sparse_bytes: u64,
    /// Fragmented files with fewer extents are left.
    pub least_extents: u64,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self {
            pause: Duration::from_mins(10),
            idle_seconds: 60,
            // The rewriting itself costs some requests.
            least_sparse_bytes: 16 << 10,
            // Read one after the other, 64 requests take less than a second in the same region.
            least_extents: 64,
        }
    }
}

/// The state of compaction.
#[derive(Debug)]
pub(super) struct Compaction {
    /// Where the running pass goes on.
    cursor: Option<Cursor>,
    requested: bool,
    rounds: u32,
    /// Extents that the running pass has handed out.
    handed_out: u64,
    started: Duration,
    /// The next pass that nobody asks for does not begin before this.
    not_before: Duration,
    passes: u64,
    rewritten_extents: u64,
    rewritten_bytes: u64,
    rows: u64,
}

impl Compaction {
    pub fn new(now: Duration) -> Self {
        Self {
            cursor: None,
            requested: false,
            rounds: 0,
            handed_out: 0,
            started: now,
            not_before: Duration::ZERO,
            passes: 0,
            rewritten_extents: 0,
            rewritten_bytes: 0,
            rows: 0,
        }
    }

    /// Somebody wants everything compacted now.
    pub fn request(&mut self) {
        // A pass that is under way leaves young files out.
        if !self.requested {
            self.cursor = None;
        }
        self.requested = true;
        self.rounds = 0;
    }

    /// A committed `Repoint`.
    pub fn rewritten(&mut self, exchanges: &[ExtentExchange]) {
        for ExtentExchange { old, .. } in exchanges {
            if matches!(old.source, ExtentSource::Object { .. }) {
                self.rewritten_extents += 1;
                self.rewritten_bytes += old.length;
            }
        }
    }

    pub fn status(&self, sums: &TotalsRow) -> CompactionStatus {
        CompactionStatus {
            running: self.requested || self.cursor.is_some(),
            passes: self.passes,
            sparse_objects: sums.sparse.count,
            sparse_bytes: sums.sparse.bytes,
            fragmented_files: sums.fragmented,
            rewritten_extents: self.rewritten_extents,
            rewritten_bytes: self.rewritten_bytes,
            rows_looked_at: self.rows,
        }
    }

    fn begin(&mut self, now: Duration) {
        self.cursor = Some(Cursor::START);
        self.started = now;
        self.handed_out = 0;
        self.rows = 0;
    }

    /// The pass has come to its end.
    fn end(&mut self, now: Duration, pause: Duration) {
        self.passes += 1;
        let took = now.saturating_sub(self.started);
        self.not_before = now + pause.max(took.saturating_mul(PAUSE_PER_PASS));
        if self.requested && self.handed_out > 0 && self.rounds < REQUESTED_ROUNDS_MAX {
            self.rounds += 1;
            self.begin(now);
        } else {
            self.requested = false;
        }
    }
}

/// Who packs and compacts.
#[derive(Debug, Default)]
pub(super) struct Housekeeper {
    present: Option<(SessionId, Side, Duration)>,
}

impl Housekeeper {
    /// A session is gone: the next that asks takes over.
    pub fn lost(&mut self, session: SessionId) {
        if self.present.is_some_and(|(present, ..)| present == session) {
            self.present = None;
        }
    }

    fn asks(&mut self, session: SessionId, near: Side, now: Duration) -> bool {
        let stays = self.present.is_some_and(|(present, its_near, until)| {
            let better = near == Side::Primary && its_near == Side::Target;
            present != session && until > now && !better
        });
        if !stays {
            self.present = Some((session, near, now + HOUSEKEEPER_LEASE));
        }
        !stays
    }
}

impl<V: ViewStore> Service<V> {
    /// May this session pack and compact? By asking it becomes the housekeeper, if nobody else is.
    pub(super) fn keeps_house(&mut self, id: SessionId) -> bool {
        let now = self.now.monotonic;
        self.sessions
            .get(&id)
            .is_some_and(|session| self.housekeeper.asks(id, session.near, now))
    }

    /// The next piece of compaction: of the committed state.
    pub(super) fn list_compaction(
        &mut self,
        session: SessionId,
        limit_bytes: u64,
    ) -> Result<Reply, ServiceError> {
        let nothing = Reply::Compaction {
            extents: Vec::new(),
            more: false,
        };
        if !self.keeps_house(session) {
            return Ok(nothing);
        }
        let now = self.now.monotonic;
        let options = self.options.compaction;
        if self.compaction.cursor.is_none() {
            let sums = volume::totals(&self.store)?;
            let due = now >= self.compaction.not_before && (sums.sparse.count > 0 || sums.fragmented > 0);
            if !self.compaction.requested && !due {
                return Ok(nothing);
            }
            self.compaction.begin(now);
        }
        let modified_before =
            (!self.compaction.requested).then(|| self.now.wall.plus_seconds(-options.idle_seconds));
        let limits = Limits {
            rows: ROWS_MAX,
            extents: EXTENTS_MAX,
            bytes: limit_bytes.min(BYTES_MAX),
            modified_before,
            least_sparse_bytes: options.least_sparse_bytes,
            least_extents: options.least_extents,
        };
        let at = self.compaction.cursor.unwrap_or(Cursor::START);
        let found = find(&self.store, at, limits)?;
        self.compaction.handed_out += found.extents.len() as u64;
        self.compaction.rows += found.rows as u64;
        self.compaction.cursor = found.next;
        if found.next.is_none() {
            self.compaction.end(now, options.pause);
        }
        Ok(Reply::Compaction {
            extents: found.extents,
            more: self.compaction.cursor.is_some(),
        })
    }
}
