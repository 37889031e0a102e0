//! All objects of a bucket in order of their names, as a stream.
//!
//! The keys of a bucket are sorted by a hash first and the name second: 256 shards, each sorted by name. Merging the shards
//! gives the order of the names, which is the order in which metadata lists objects.
//!
//! Memory: at most [`PAGE`] entries more than a quarter of it for each shard, 32 bytes each: 10 MB, however large the bucket.
//! Shards are refilled together, several at a time, when one has run dry: names are spread evenly, so all run dry at about
//! the same time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use futures::{StreamExt, TryStreamExt, stream};
use twinshore_protocol::ObjectId;
use twinshore_storage::bucket::{Bucket, BucketError};
use twinshore_storage::object::{OBJECTS_PREFIX, parse_object_key};

/// Keys in one listing: what S3 returns at most.
const PAGE: usize = 1000;

/// Shards with no more entries than this are refilled when any shard is refilled.
const LOW: usize = PAGE / 4;

/// Listings at a time.
const PARALLEL: usize = 16;

/// The shards of the keys: two hexadecimal digits.
const SHARDS: usize = 256;

/// An object in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub object: ObjectId,
    /// Its size.
    pub size_bytes: u64,
    /// When it was stored, in seconds since 1970.
    pub modified_seconds: i64,
}

struct Shard {
    prefix: String,
    after: Option<String>,
    entries: VecDeque<Entry>,
    complete: bool,
}

/// See the module.
pub struct Listing {
    shards: Vec<Shard>,
    /// The first entry of each shard that has one.
    heads: BinaryHeap<Reverse<(ObjectId, usize)>>,
    /// Shards that have run dry.
    dry: bool,
    /// Keys that are not the key of any object: nobody's, left alone.
    pub foreign_keys: u64,
}

impl Listing {
    /// Of all objects after `after`.
    pub fn new(after: Option<ObjectId>) -> Self {
        let shards = (0..SHARDS)
            .map(|shard| {
                let prefix = format!("{OBJECTS_PREFIX}{shard:02x}/");
                let after = after.map(|after| format!("{prefix}{after}"));
                Shard {
                    prefix,
                    after,
                    entries: VecDeque::new(),
                    complete: false,
                }
            })
            .collect();
        Self {
            shards,
            heads: BinaryHeap::new(),
            dry: true,
            foreign_keys: 0,
        }
    }

    /// The next object, without taking it. After an error it can be asked again: nothing is lost.
    pub async fn peek(&mut self, bucket: &dyn Bucket) -> Result<Option<Entry>, BucketError> {
        if self.dry {
            self.refill(bucket).await?;
        }
        let Some(Reverse((_, shard))) = self.heads.peek() else {
            return Ok(None);
        };
        Ok(self.shards[*shard].entries.front().copied())
    }

    /// Takes what [`Self::peek`] has shown.
    pub fn take(&mut self) {
        let Some(Reverse((_, number))) = self.heads.pop() else {
            return;
        };
        let shard = &mut self.shards[number];
        shard.entries.pop_front();
        match shard.entries.front() {
            Some(entry) => self.heads.push(Reverse((entry.object, number))),
            None if shard.complete => {}
            None => self.dry = true,
        }
    }

    async fn refill(&mut self, bucket: &dyn Bucket) -> Result<(), BucketError> {
        let low = self
            .shards
            .iter()
            .enumerate()
            .filter(|(_, shard)| !shard.complete && shard.entries.len() <= LOW);
        let requests: Vec<_> = low
            .map(|(number, shard)| (number, shard.prefix.clone(), shard.after.clone()))
            .collect();
        let mut pages = stream::iter(requests)
            .map(|(number, prefix, after)| async move {
                let page = bucket.list(&prefix, after.as_deref(), PAGE).await?;
                Ok::<_, BucketError>((number, page))
            })
            .buffered(PARALLEL);
        while let Some((number, page)) = pages.try_next().await? {
            let shard = &mut self.shards[number];
            // A page may be shorter than asked for and not be the last: only an empty one is the end.
            shard.complete = page.is_empty();
            let was_dry = shard.entries.is_empty();
            for listed in &page {
                match parse_object_key(&listed.key) {
                    Some(object) => shard.entries.push_back(Entry {
                        object,
                        size_bytes: listed.size_bytes,
                        modified_seconds: listed.modified_seconds,
                    }),
                    None => self.foreign_keys += 1,
                }
            }
            if let Some(last) = page.last() {
                shard.after = Some(last.key.clone());
            }
            if was_dry && let Some(first) = shard.entries.front() {
                self.heads.push(Reverse((first.object, number)));
            }
        }
        // A page of nothing but foreign keys leaves a shard dry.
        self.dry = self
            .shards
            .iter()
            .any(|shard| !shard.complete && shard.entries.is_empty());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use twinshore_protocol::Epoch;
    use twinshore_storage::memory::MemoryBucket;
    use twinshore_storage::object::object_key;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn objects_come_in_order_of_their_names_whatever_their_keys() {
        let bucket = MemoryBucket::new();
        let id = |number| ObjectId {
            epoch: Epoch(1 + number / 2000),
            number,
        };
        for number in 0..5000 {
            bucket
                .put(&object_key(id(number)), Bytes::from(vec![0; 3]))
                .await
                .unwrap();
        }
        bucket.put("objects/00/README", Bytes::new()).await.unwrap();
        bucket.put("journal/1", Bytes::new()).await.unwrap();
        for after in [None, Some(id(1234)), Some(id(4999))] {
            let mut listing = Listing::new(after);
            let mut expected = after.map_or(0, |after| after.number + 1);
            while let Some(entry) = listing.peek(&bucket).await.unwrap() {
                assert_eq!((entry.object, entry.size_bytes), (id(expected), 3));
                expected += 1;
                listing.take();
            }
            assert_eq!(expected, 5000);
        }
    }
}
