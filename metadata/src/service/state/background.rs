//! Work that nobody waits for: what has lost its last name is taken apart, in chunks that stall no one.
//!
//! One chunk at a time rides in a batch: under load it shares the append with requests, and when nothing else is to be done,
//! chunks follow each other. When there is nothing left, the next look is a second later, or when something was released.

use std::time::Duration;

use twinshore_protocol::{Position, Reply};

use super::batch::Entry;
use super::{Fault, Service, ServiceError};
use crate::core::Maintenance;
use crate::view::ViewStore;

/// Rows per chunk: at a few microseconds each, a request waits less than a millisecond for one.
const CHUNK_ROWS: usize = 128;

/// How often to look when there was nothing to do: trash expires by the second.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After a failed append: how long to leave a full disk alone.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Whether there is something to do.
#[derive(Debug, Default)]
pub(super) struct Background {
    active: bool,
    look_at: Duration,
}

impl Background {
    pub fn tick(&mut self, now: Duration) {
        if now >= self.look_at {
            self.active = true;
        }
    }

    /// Something was released that may now be cleaned up: look at the next tick.
    pub fn poke(&mut self) {
        self.look_at = Duration::ZERO;
    }

    pub fn failed(&mut self, now: Duration) {
        self.active = false;
        self.look_at = now + AFTER_FAILURE;
    }
}

impl<V: ViewStore> Service<V> {
    /// Adds one chunk to the filling batch, if there is work.
    pub(super) fn clean_up(&mut self) -> Result<(), ServiceError> {
        if !self.background.active || self.filling_is_full() {
            return Ok(());
        }
        let archived = if self.faults.is(Fault::DeleteBeforeArchived) {
            Position(u64::MAX)
        } else {
            self.archived
        };
        let outcome = self.maintain(&Maintenance::CleanUp {
            limit: CHUNK_ROWS,
            archived,
        })?;
        let Ok(Reply::Offset(done)) = outcome.result else {
            return Err(ServiceError::Unexpected { what: "to clean up" });
        };
        if done == 0 {
            self.background.active = false;
            self.background.look_at = self.now.monotonic + LOOK_EVERY;
        }
        if outcome.mutations.is_empty() {
            return Ok(());
        }
        self.numbers.cleaned_rows += done;
        self.filling.add_mutations(&outcome.mutations);
        if !outcome.changes.is_empty() {
            self.filling.entries.push(Entry::Changes(outcome.changes));
        }
        Ok(())
    }
}
