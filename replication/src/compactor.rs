//! Compaction: writes what is left of sparse objects, and what lies in many small extents, anew into one object after the other.
//!
//! # Flow
//!
//! 1. `ListCompaction`: the service names extents that are worth rewriting, in the order of their files.
//! 2. Their bytes are read, near first, and become one object: neighbours in a file are neighbours in it, so that the service joins them.
//! 3. The object is stored in **every** bucket that has one of the old objects.
//! 4. `Repoint`: each extent that still stands as it was read names the new object from now on. An old object that has lost its last extent
//!    dies, and is deleted like any other.
//!
//! # Guarantees
//!
//! * Content never changes: bytes are verified when they are read, and exchanged only where the old extent still stands.
//! * What is safe stays safe: the new object is named only when it is in all the buckets where the old ones are. While one of them
//!   fails there is no compaction.
//!
//! # Failure cases
//!
//! A failed store takes back what it stored elsewhere, as far as it can. A crash between 3 and 4 leaves an object that nobody names; the full
//! synchronisation removes it. A file with a damaged or missing extent is not compacted: the extent is left out, and told.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use twinshore_protocol::extent::{Extent, ExtentSource};
use twinshore_protocol::operation::{ExtentExchange, NewObject};
use twinshore_protocol::session::{RequestError, Session};
use twinshore_protocol::{Caller, InodeNumber, ObjectId, Operation, Reply, Side, Sides};
use twinshore_storage::bucket::BucketError;
use twinshore_storage::object::{self, BLOCK_BYTES, EncodedObject, object_key};
use twinshore_storage::pair::{BucketPair, PairError};

use crate::replicator::Replicator;

/// Content of one object. Larger ones would make reading a little cheaper and each mistake dearer.
const OBJECT_BYTES: u64 = 8 << 20;

/// Ranges of one old object that are closer than this are read together.
const READ_TOGETHER_BYTES: u64 = 256 << 10;

/// One read at most, unless a single extent is longer.
const READ_MAX_BYTES: u64 = 8 << 20;

/// Reads at a time.
const READS_AT_A_TIME: usize = 8;

/// How long one bucket has for one object.
const STORE_DEADLINE: Duration = Duration::from_mins(1);

/// Between two looks when there is nothing to compact: the service says so from memory.
const PAUSE: Duration = Duration::from_secs(2);

/// After an error, doubled each time up to the longest.
const FAILED_PAUSE_FIRST: Duration = Duration::from_secs(1);
const FAILED_PAUSE_LONGEST: Duration = Duration::from_mins(1);

/// Why a round did not work. A later one may.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The metadata service did not do its part.
    #[error("nothing can be compacted now: {0}")]
    Metadata(#[from] RequestError),
    /// A bucket does not answer.
    #[error("what is to be compacted cannot be read: {0}")]
    Read(#[from] PairError),
    /// A bucket did not take the object.
    #[error("the compacted object cannot be stored in the {side} bucket: {reason}")]
    Store {
        /// Whose.
        side: Side,
        /// What it said.
        reason: String,
    },
    /// The service answered something else than it was asked.
    #[error("the metadata service answered {0} with something else: upgrade the older of the two")]
    UnexpectedReply(&'static str),
    /// A task of this process failed.
    #[error("a read was given up: {0}")]
    GivenUp(#[from] tokio::task::JoinError),
}

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Bytes of content written anew.
    pub bytes: u64,
    /// The service has more to look at.
    pub more: bool,
}

/// Compacts a volume.
#[derive(Clone)]
pub struct Compactor {
    session: Session,
    buckets: BucketPair,
    /// Whose limits of bandwidth hold here too.
    replicator: Replicator,
}

impl Compactor {
    /// A compactor that works in these buckets, under the bandwidth limits of the replicator.
    pub const fn new(session: Session, buckets: BucketPair, replicator: Replicator) -> Self {
        Self {
            session,
            buckets,
            replicator,
        }
    }

    /// Compacts whatever the service names, for ever. Ends when it is dropped.
    pub async fn run(&self) {
        let mut failed_pause = FAILED_PAUSE_FIRST;
        loop {
            match self.compact_once().await {
                Ok(Round { more, .. }) => {
                    failed_pause = FAILED_PAUSE_FIRST;
                    if !more {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "compaction failed and will be tried again");
                    tokio::time::sleep(failed_pause).await;
                    failed_pause = (failed_pause * 2).min(FAILED_PAUSE_LONGEST);
                }
            }
        }
    }

    /// Rewrites what the service names next, as one object.
    pub async fn compact_once(&self) -> Result<Round, CompactError> {
        let list = Operation::ListCompaction {
            limit_bytes: OBJECT_BYTES,
        };
        let Reply::Compaction { extents, more } = self.session.request(Caller::ROOT, list).await? else {
            return Err(CompactError::UnexpectedReply("ListCompaction"));
        };
        let sides = places(&extents);
        let mut content = self.read_all(&extents).await?;
        let mut pieces = Vec::with_capacity(extents.len());
        let mut exchanges = Vec::with_capacity(extents.len());
        let id = if content.is_empty() {
            return Ok(Round { bytes: 0, more });
        } else {
            self.session.take_object().await?
        };
        let mut object_offset = 0;
        for (index, (inode, extent)) in extents.into_iter().enumerate() {
            let Some(bytes) = content.remove(&index) else {
                continue;
            };
            let new = ExtentSource::Object {
                object: id,
                object_offset,
                present: sides,
            };
            object_offset += extent.length;
            pieces.push(bytes);
            exchanges.push(ExtentExchange {
                inode,
                old: extent,
                new,
            });
        }
        let encoded = object::encode(&pieces, self.session.format().settings.compression);
        drop(pieces);
        self.store(id, &encoded, sides).await?;
        let new = NewObject {
            object: id,
            stored_bytes: encoded.stored_bytes(),
            content_bytes: encoded.content_bytes,
            checksum: encoded.checksum,
            present: sides,
        };
        let repoint = Operation::Repoint {
            objects: vec![new],
            exchanges,
        };
        match self.session.request(Caller::ROOT, repoint).await? {
            Reply::Done => Ok(Round {
                bytes: encoded.content_bytes,
                more,
            }),
            _ => Err(CompactError::UnexpectedReply("Repoint")),
        }
    }

    /// The content of extents, by their index. One that is lost or damaged everywhere is left out.
    async fn read_all(
        &self,
        extents: &[(InodeNumber, Extent)],
    ) -> Result<BTreeMap<usize, Bytes>, CompactError> {
        let permits = Arc::new(Semaphore::new(READS_AT_A_TIME));
        let mut reads = JoinSet::new();
        for read in plan(extents) {
            let (buckets, permits) = (self.buckets.clone(), Arc::clone(&permits));
            reads.spawn(async move {
                let _permit = permits.acquire_owned().await;
                read.carry_out(&buckets).await
            });
        }
        let mut content = BTreeMap::new();
        while let Some(read) = reads.join_next().await {
            match read? {
                Ok(pieces) => content.extend(pieces),
                Err(error @ PairError::Unavailable { .. }) => return Err(error.into()),
                Err(error @ (PairError::Missing { .. } | PairError::Damaged { .. })) => {
                    tracing::error!(%error, "an object cannot be compacted");
                }
            }
        }
        Ok(content)
    }

    /// Stores an object in all these buckets, or in none.
    async fn store(&self, id: ObjectId, encoded: &EncodedObject, sides: Sides) -> Result<(), CompactError> {
        // Far first: it is the one that fails more often, and then nothing has to be taken back.
        let mut order: Vec<Side> = sides.iter().collect();
        order.sort_by_key(|side| *side == self.buckets.near_side());
        let mut stored = Vec::new();
        for side in order {
            if let Err(error) = self.store_in(id, encoded, side).await {
                for side in stored {
                    self.take_back(id, side).await;
                }
                return Err(error);
            }
            stored.push(side);
        }
        Ok(())
    }

    async fn store_in(&self, id: ObjectId, encoded: &EncodedObject, side: Side) -> Result<(), CompactError> {
        let failed = |reason: String| CompactError::Store { side, reason };
        let bucket = self
            .buckets
            .bucket(side)
            .ok_or_else(|| failed("this worker has no access to it: give it the credentials".to_owned()))?;
        if side != self.buckets.near_side() {
            self.replicator.pass(side, encoded.stored_bytes()).await;
        }
        let key = object_key(id);
        let put = bucket.put_with_checksum(&key, encoded.body.clone(), encoded.checksum);
        match tokio::time::timeout(STORE_DEADLINE, put).await {
            Ok(stored) => stored.map_err(|error: BucketError| failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer for {} s", STORE_DEADLINE.as_secs()))),
        }
    }

    /// What cannot be taken back is removed by a full synchronisation.
    async fn take_back(&self, id: ObjectId, side: Side) {
        let Some(bucket) = self.buckets.bucket(side) else {
            return;
        };
        let keys = [object_key(id)];
        if !matches!(
            tokio::time::timeout(STORE_DEADLINE, bucket.delete(&keys)).await,
            Ok(Ok(()))
        ) {
            tracing::warn!(%side, object = %id, "an object that nobody names stays until the next full synchronisation");
        }
    }
}

/// Where any of the old objects is: there the new one has to be.
fn places(extents: &[(InodeNumber, Extent)]) -> Sides {
    let mut sides = Sides::NONE;
    for (_, extent) in extents {
        if let ExtentSource::Object { present, .. } = extent.source {
            sides = present.iter().fold(sides, Sides::with);
        }
    }
    sides
}

/// One request of content of one object, and which extents lie in it.
#[derive(Debug)]
struct Read {
    object: ObjectId,
    present: Sides,
    start: u64,
    end: u64,
    /// Index, start and end of each.
    extents: Vec<(usize, u64, u64)>,
}

impl Read {
    async fn carry_out(self, buckets: &BucketPair) -> Result<Vec<(usize, Bytes)>, PairError> {
        let fetched = buckets
            .fetch(self.object, self.present, self.start..self.end)
            .await?;
        let begins = fetched.first_block * BLOCK_BYTES as u64;
        let pieces = self
            .extents
            .into_iter()
            .map(|(index, start, end)| (index, copied(&fetched.content, start - begins, end - begins)));
        Ok(pieces.collect())
    }
}

/// A copy of a range: a slice would keep all that was fetched in memory.
fn copied(content: &Bytes, start: u64, end: u64) -> Bytes {
    #[allow(clippy::cast_possible_truncation)] // Within what was fetched, which is in memory.
    let range = (start as usize).min(content.len())..(end as usize).min(content.len());
    Bytes::copy_from_slice(&content[range])
}

/// From and to where in the content of an object, and for which extent.
type Wanted = (u64, u64, usize);

/// As few reads as can be, each of bounded size.
fn plan(extents: &[(InodeNumber, Extent)]) -> Vec<Read> {
    let mut wanted: BTreeMap<ObjectId, (Sides, Vec<Wanted>)> = BTreeMap::new();
    for (index, (_, extent)) in extents.iter().enumerate() {
        if let ExtentSource::Object {
            object,
            object_offset,
            present,
        } = extent.source
        {
            let (_, ranges) = wanted.entry(object).or_insert((present, Vec::new()));
            ranges.push((object_offset, object_offset + extent.length, index));
        }
    }
    let mut reads: Vec<Read> = Vec::new();
    for (object, (present, mut ranges)) in wanted {
        ranges.sort_unstable();
        let mut reading: Option<Read> = None;
        for (start, end, index) in ranges {
            if let Some(read) = &mut reading
                && start <= read.end + READ_TOGETHER_BYTES
                && end.max(read.end) - read.start <= READ_MAX_BYTES
            {
                read.end = read.end.max(end);
                read.extents.push((index, start, end));
                continue;
            }
            reads.extend(reading.replace(Read {
                object,
                present,
                start,
                end,
                extents: vec![(index, start, end)],
            }));
        }
        reads.extend(reading);
    }
    reads
}
