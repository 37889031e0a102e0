//! The headers of objects read lately, so that a ranged read of a known object is one request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use twinshore_protocol::{ObjectId, Side};

use crate::object::Header;

/// A cache of verified headers, bounded in bytes, the least recently used leaving first.
///
/// Objects are immutable and the same on both sides, so an entry is never stale.
#[derive(Debug)]
pub(super) struct HeaderCache {
    limit_bytes: usize,
    used_bytes: usize,
    tick: u64,
    entries: BTreeMap<ObjectId, Entry>,
    by_use: BTreeMap<u64, ObjectId>,
}

#[derive(Debug)]
struct Entry {
    header: Arc<Header>,
    last_use: u64,
}

/// Bytes of the two trees' nodes for one entry, about.
const ENTRY_OVERHEAD_BYTES: usize = 128;

impl HeaderCache {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            used_bytes: 0,
            tick: 0,
            entries: BTreeMap::new(),
            by_use: BTreeMap::new(),
        }
    }

    pub(super) fn get(&mut self, id: ObjectId) -> Option<Arc<Header>> {
        self.tick += 1;
        let entry = self.entries.get_mut(&id)?;
        self.by_use.remove(&entry.last_use);
        entry.last_use = self.tick;
        self.by_use.insert(self.tick, id);
        Some(Arc::clone(&entry.header))
    }

    pub(super) fn insert(&mut self, id: ObjectId, header: Arc<Header>) {
        self.remove(id);
        self.tick += 1;
        self.used_bytes += cost(&header);
        self.entries.insert(
            id,
            Entry {
                header,
                last_use: self.tick,
            },
        );
        self.by_use.insert(self.tick, id);
        while self.used_bytes > self.limit_bytes {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            self.remove(oldest);
        }
    }

    pub(super) fn remove(&mut self, id: ObjectId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.by_use.remove(&entry.last_use);
            self.used_bytes -= cost(&entry.header);
        }
    }
}

fn cost(header: &Header) -> usize {
    header.memory_bytes() + ENTRY_OVERHEAD_BYTES
}

/// Copies that were found damaged, so that a repair overwrites them although they exist. Bounded: the oldest id is
/// forgotten first, and then found damaged again by its next reader.
#[derive(Debug, Default)]
pub(super) struct DamagedCopies {
    copies: BTreeSet<(ObjectId, Side)>,
}

impl DamagedCopies {
    const MOST: usize = 4_096;

    pub(super) fn insert(&mut self, id: ObjectId, side: Side) {
        self.copies.insert((id, side));
        if self.copies.len() > Self::MOST {
            self.copies.pop_first();
        }
    }

    pub(super) fn contains(&self, id: ObjectId, side: Side) -> bool {
        self.copies.contains(&(id, side))
    }

    pub(super) fn remove(&mut self, id: ObjectId, side: Side) {
        self.copies.remove(&(id, side));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use bytes::Bytes;
    use twinshore_protocol::Epoch;
    use twinshore_protocol::format::Compression;

    use super::*;
    use crate::object::encode;

    fn id(number: u64) -> ObjectId {
        ObjectId {
            epoch: Epoch(1),
            number,
        }
    }

    fn header() -> Arc<Header> {
        Arc::new(Header::parse(&encode(&[Bytes::from_static(b"x")], Compression::None).body).unwrap())
    }

    #[test]
    fn the_least_recently_used_header_leaves_first_and_the_bytes_add_up() {
        let mut cache = HeaderCache::new(3 * cost(&header()));
        for number in 0..3 {
            cache.insert(id(number), header());
        }
        assert!(cache.get(id(0)).is_some());
        cache.insert(id(3), header());
        assert!(cache.get(id(1)).is_none());
        assert!(cache.get(id(0)).is_some());
        assert_eq!(cache.used_bytes, 3 * cost(&header()));
        cache.insert(id(3), header());
        for number in 0..4 {
            cache.remove(id(number));
        }
        assert_eq!(
            (cache.used_bytes, cache.entries.len(), cache.by_use.len()),
            (0, 0, 0)
        );
    }
}
