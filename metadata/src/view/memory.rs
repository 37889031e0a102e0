//! A view in memory: a sorted map. For tests, the simulation, and volumes small enough.
//!
//! A snapshot shares the map; the first change after it copies the map once.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use twinshore_protocol::Position;

use super::{Mutation, Persister, View, ViewError, ViewStore};

type Rows = BTreeMap<Bytes, Bytes>;

/// The state of a volume in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryView {
    rows: Arc<Rows>,
    applied: Position,
}

impl MemoryView {
    /// An empty view, before the first record.
    pub fn new() -> Self {
        Self::default()
    }

    /// A view that begins with the rows of a checkpoint.
    pub fn restored(rows: impl IntoIterator<Item = (Bytes, Bytes)>, applied: Position) -> Self {
        Self {
            rows: Arc::new(rows.into_iter().collect()),
            applied,
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Is there nothing?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl View for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, ViewError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = self
            .rows
            .range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)));
        Ok(range
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

impl ViewStore for MemoryView {
    fn applied(&self) -> Position {
        self.applied
    }

    fn apply(&mut self, position: Position, mutations: &[Mutation]) -> Result<(), ViewError> {
        if position != self.applied.next() {
            return Err(ViewError::OutOfOrder {
                applied: self.applied,
                offered: position,
            });
        }
        let rows = Arc::make_mut(&mut self.rows);
        for mutation in mutations {
            match &mutation.value {
                Some(value) => rows.insert(mutation.key.clone(), value.clone()),
                None => rows.remove(&mutation.key),
            };
        }
        self.applied = position;
        Ok(())
    }

    fn persister(&self) -> Persister {
        // Its restart begins with nothing, or with a checkpoint.
        Box::new(|| Ok(()))
    }

    fn snapshot(&self) -> Result<Box<dyn View + Send>, ViewError> {
        Ok(Box::new(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn put(key: &'static [u8], value: &'static [u8]) -> Mutation {
        Mutation {
            key: Bytes::from_static(key),
            value: Some(Bytes::from_static(value)),
        }
    }

    #[test]
    fn a_snapshot_does_not_see_what_is_applied_later() {
        let mut view = MemoryView::new();
        view.apply(Position(1), &[put(b"a", b"1"), put(b"b", b"2")])
            .unwrap();
        let snapshot = view.snapshot().unwrap();
        view.apply(
            Position(2),
            &[
                put(b"a", b"3"),
                Mutation {
                    key: Bytes::from_static(b"b"),
                    value: None,
                },
            ],
        )
        .unwrap();
        assert_eq!(snapshot.scan(b"", b"z", 9).unwrap().len(), 2);
        assert_eq!(snapshot.get(b"a").unwrap().unwrap(), "1");
        assert_eq!(
            view.scan(b"", b"z", 9).unwrap(),
            [(Bytes::from_static(b"a"), Bytes::from_static(b"3"))]
        );
        assert_eq!(view.applied(), Position(2));
    }

    #[test]
    fn a_record_out_of_order_is_refused() {
        let mut view = MemoryView::new();
        assert!(matches!(
            view.apply(Position(2), &[]),
            Err(ViewError::OutOfOrder { .. })
        ));
        assert_eq!(view.applied(), Position::ZERO);
    }
}
