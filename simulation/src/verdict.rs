//! Whether an invariant was broken.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The verdict on a run. Clones share it.
#[derive(Clone, Default)]
pub struct Verdict(Arc<Mutex<Vec<String>>>);

impl Verdict {
    /// An invariant is broken.
    pub fn guilty(&self, what: String) {
        self.lock().push(what);
    }

    /// Was one broken?
    pub fn is_guilty(&self) -> bool {
        !self.lock().is_empty()
    }

    /// All that was found.
    pub fn found(&self) -> Vec<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
