//! Who waits for names to be dropped, and what becomes of that while this mount changes names itself. Pure.
//!
//! # The circle
//!
//! The kernel drops a name under the lock of its directory. An operation that changes names holds that lock until it is
//! answered. Its answer waits until other mounts have dropped names; these may be changing names too, and be waiting for this
//! mount to drop one.
//!
//! # The rule
//!
//! From the beginning of such an operation to its end nobody waits for a name to be dropped. Those who wait are taken over by
//! something that needs no lock: all names are looked up again.

use std::collections::BTreeMap;

/// The mark of a batch in the queue of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// Batches (`B`) that wait for names to be dropped.
#[derive(Debug)]
pub struct PendingNames<B> {
    /// Operations of this mount that change names.
    changing: usize,
    next: u64,
    pending: BTreeMap<Mark, B>,
}

impl<B> Default for PendingNames<B> {
    fn default() -> Self {
        Self {
            changing: 0,
            next: 0,
            pending: BTreeMap::new(),
        }
    }
}

impl<B> PendingNames<B> {
    /// A batch is to wait until what is queued now is sent; then [`Self::sent`] is called with the mark. `Err` gives it back:
    /// nothing may wait now.
    pub fn add(&mut self, batch: B) -> Result<Mark, B> {
        if self.changing > 0 {
            return Err(batch);
        }
        let mark = Mark(self.next);
        self.next += 1;
        self.pending.insert(mark, batch);
        Ok(mark)
    }

    /// What was queued before the mark is sent. `None` if the batch was taken over.
    pub fn sent(&mut self, mark: Mark) -> Option<B> {
        self.pending.remove(&mark)
    }

    /// An operation begins: these must not wait any longer.
    pub fn began(&mut self) -> Vec<B> {
        self.changing += 1;
        std::mem::take(&mut self.pending).into_values().collect()
    }

    /// One has ended.
    pub fn ended(&mut self) {
        self.changing = self.changing.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nobody_waits_for_a_name_while_names_are_changed() {
        let mut names = PendingNames::default();
        let first = names.add("first").unwrap();
        let second = names.add("second").unwrap();
        assert_eq!(names.sent(first), Some("first"));
        assert_eq!(names.began(), ["second"]);
        assert_eq!(names.sent(second), None);
        assert_eq!(names.add("third"), Err("third"));
        assert!(names.began().is_empty());
        names.ended();
        assert!(names.add("third").is_err());
        names.ended();
        assert!(names.add("third").is_ok());
    }
}
