//! A map that knows which of its entries has not been used for longest, and how heavy they are together.
//!
//! It never evicts by itself: its owner knows what may go.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

#[derive(Debug)]
struct Slot<V> {
    value: V,
    used: u64,
    weight: u64,
}

/// The map. Every look-up with [`Lru::get_mut`] counts as a use.
#[derive(Debug)]
pub struct Lru<K, V> {
    slots: HashMap<K, Slot<V>>,
    by_use: BTreeMap<u64, K>,
    uses: u64,
    weight: u64,
}

impl<K: Eq + Hash + Clone, V> Lru<K, V> {
    /// An empty map.
    pub fn new() -> Self {
        Self {
            slots: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            weight: 0,
        }
    }

    /// The sum of the weights.
    pub const fn weight(&self) -> u64 {
        self.weight
    }

    /// How many entries there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Looks an entry up, which makes it the most recently used.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let slot = self.slots.get_mut(key)?;
        // The newest entry needs no move: files are often used many times in a row.
        if slot.used != self.uses {
            self.uses += 1;
            if let Some(key) = self.by_use.remove(&slot.used) {
                self.by_use.insert(self.uses, key);
            }
            slot.used = self.uses;
        }
        Some(&mut slot.value)
    }

    /// Looks an entry up without using it.
    pub fn peek_mut(&mut self, key: &K) -> Option<&mut V> {
        self.slots.get_mut(key).map(|slot| &mut slot.value)
    }

    /// Adds an entry, as the most recently used. One of the same key is replaced.
    pub fn insert(&mut self, key: K, value: V, weight: u64) {
        self.remove(&key);
        self.uses += 1;
        self.by_use.insert(self.uses, key.clone());
        self.slots.insert(
            key,
            Slot {
                value,
                used: self.uses,
                weight,
            },
        );
        self.weight += weight;
    }

    /// Says anew how heavy an entry is.
    pub fn reweigh(&mut self, key: &K, weight: u64) {
        if let Some(slot) = self.slots.get_mut(key) {
            self.weight = self.weight - slot.weight + weight;
            slot.weight = weight;
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.slots.remove(key)?;
        self.by_use.remove(&slot.used);
        self.weight -= slot.weight;
        Some(slot.value)
    }

    /// The entry that has not been used for longest.
    pub fn oldest(&self) -> Option<(&K, &V)> {
        let key = self.by_use.values().next()?;
        self.slots.get(key).map(|slot| (key, &slot.value))
    }

    /// All entries, the least recently used first: an order that does not depend on hashing.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.by_use
            .values()
            .filter_map(|key| self.slots.get(key).map(|slot| (key, &slot.value)))
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.by_use.clear();
        self.weight = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_that_was_not_used_for_longest_is_the_oldest() {
        let mut lru = Lru::new();
        for key in 0..3 {
            lru.insert(key, key * 10, 2);
        }
        assert_eq!(lru.get_mut(&0), Some(&mut 0));
        assert_eq!(lru.oldest().map(|(key, _)| *key), Some(1));
        lru.peek_mut(&1);
        assert_eq!(lru.oldest().map(|(key, _)| *key), Some(1));
        assert_eq!(lru.remove(&1), Some(10));
        assert_eq!(lru.oldest().map(|(key, _)| *key), Some(2));
        lru.reweigh(&2, 7);
        assert_eq!((lru.weight(), lru.len()), (9, 2));
        assert_eq!(lru.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [2, 0]);
    }
}
