//! The state as it will be: a store, and over it the mutations of records that are not committed yet.
//!
//! At most two batches are uncommitted: the one *in flight* (being appended) and the one that is *filling*. An operation
//! executes against all three layers and [`Layered`] remembers the youngest uncommitted one that it read from. Its answer
//! may leave only when that layer is committed. A key that an uncommitted layer *removes* counts as read too: absence is
//! an answer.
//!
//! Failure cases: only those of the store below.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;

use bytes::Bytes;

use crate::view::{Mutation, View, ViewError};

#[cfg(test)]
mod tests;

/// The mutations of one uncommitted batch, by key: the last one of a key wins.
#[derive(Debug, Default)]
pub struct Overlay {
    entries: BTreeMap<Bytes, Option<Bytes>>,
}

impl Overlay {
    /// Adds the mutations of one more operation.
    pub fn extend(&mut self, mutations: &[Mutation]) {
        for mutation in mutations {
            self.entries.insert(mutation.key.clone(), mutation.value.clone());
        }
    }

    fn range<'a>(&'a self, start: &[u8], end: &[u8]) -> impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)> {
        let empty = start >= end;
        self.entries
            .range::<[u8], _>((
                Bound::Included(start),
                if empty {
                    Bound::Included(start)
                } else {
                    Bound::Excluded(end)
                },
            ))
            .filter(move |_| !empty)
    }
}

/// The youngest layer that a reader has depended on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Only committed state.
    Committed,
    /// The batch that is being appended.
    Flight,
    /// The batch that is being filled.
    Filling,
}

/// A view over a store and the uncommitted batches. Made anew for each operation.
pub struct Layered<'a, V: View + ?Sized> {
    store: &'a V,
    flight: Option<&'a Overlay>,
    filling: &'a Overlay,
    depth: Cell<Depth>,
}

impl<'a, V: View + ?Sized> Layered<'a, V> {
    /// Lays the batches over the store.
    pub fn new(store: &'a V, flight: Option<&'a Overlay>, filling: &'a Overlay) -> Self {
        Self {
            store,
            flight,
            filling,
            depth: Cell::new(Depth::Committed),
        }
    }

    /// The youngest layer read so far.
    pub fn depth(&self) -> Depth {
        self.depth.get()
    }

    fn touch(&self, depth: Depth) {
        self.depth.set(self.depth.get().max(depth));
    }
}

impl<V: View + ?Sized> View for Layered<'_, V> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        if let Some(value) = self.filling.entries.get(key) {
            self.touch(Depth::Filling);
            return Ok(value.clone());
        }
        if let Some(value) = self.flight.and_then(|flight| flight.entries.get(key)) {
            self.touch(Depth::Flight);
            return Ok(value.clone());
        }
        self.store.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, ViewError> {
        let mut flight = self
            .flight
            .into_iter()
            .flat_map(|overlay| overlay.range(start, end))
            .peekable();
        let mut filling = self.filling.range(start, end).peekable();
        if flight.peek().is_none() && filling.peek().is_none() {
            return self.store.scan(start, end, limit);
        }
        let mut store = Pages {
            store: self.store,
            next: start.to_vec(),
            end,
            rows: Vec::new().into_iter().peekable(),
            done: false,
        };
        let mut found = Vec::new();
        while found.len() < limit {
            let wanted = limit - found.len();
            let below = store.peek(wanted)?.cloned();
            let Some((layer, key, value)) = younger(&mut flight, &mut filling) else {
                // Nothing uncommitted is left in the range: the rest is the store's.
                let Some(row) = below else { break };
                store.pop();
                found.push(row);
                continue;
            };
            match below {
                Some(row) if row.0 < *key => {
                    store.pop();
                    found.push(row);
                }
                below => {
                    if below.is_some_and(|row| row.0 == *key) {
                        store.pop();
                    }
                    self.touch(layer);
                    if let Some(value) = value {
                        found.push((key.clone(), value.clone()));
                    }
                    if flight.peek().is_some_and(|(other, _)| *other == key) {
                        flight.next();
                    }
                    if filling.peek().is_some_and(|(other, _)| *other == key) {
                        filling.next();
                    }
                }
            }
        }
        Ok(found)
    }
}

/// The first key of both overlays, with the value of the younger one where both have it.
fn younger<'a>(
    flight: &mut Peekable<impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>>,
    filling: &mut Peekable<impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>>,
) -> Option<(Depth, &'a Bytes, &'a Option<Bytes>)> {
    match (flight.peek().copied(), filling.peek().copied()) {
        (None, None) => None,
        (Some((key, value)), None) => Some((Depth::Flight, key, value)),
        (Some((older, value)), Some((newer, _))) if older < newer => Some((Depth::Flight, older, value)),
        (_, Some((key, value))) => Some((Depth::Filling, key, value)),
    }
}

/// A range of the store, read page by page: uncommitted removals can make any number of its rows disappear.
struct Pages<'a, V: View + ?Sized> {
    store: &'a V,
    next: Vec<u8>,
    end: &'a [u8],
    rows: Peekable<std::vec::IntoIter<(Bytes, Bytes)>>,
    done: bool,
}

impl<V: View + ?Sized> Pages<'_, V> {
    fn peek(&mut self, wanted: usize) -> Result<Option<&(Bytes, Bytes)>, ViewError> {
        if self.rows.peek().is_none() && !self.done {
            let rows = self.store.scan(&self.next, self.end, wanted)?;
            self.done = rows.len() < wanted;
            if let Some((last, _)) = rows.last() {
                self.next.clear();
                self.next.extend_from_slice(last);
                // The successor of a key in the order of bytes.
                self.next.push(0);
            }
            self.rows = rows.into_iter().peekable();
        }
        Ok(self.rows.peek())
    }

    fn pop(&mut self) {
        self.rows.next();
    }
}
