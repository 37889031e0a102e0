//! Packs inline data: many small pieces, of many files, into one object.
//!
//! # Flow
//!
//! 1. `ListInline`: the oldest inline extents, with their bytes.
//! 2. One object of all of them is stored (near, or far while near is failing).
//! 3. `Repoint`: each extent that still stands as it was read names the object from now on.
//!
//! A crash between 2 and 3 leaves an object that nobody names; the full synchronisation removes it. The service gives the list to
//! one session at a time. Should two pack at once all the same, one of the objects is dead from the start: harmless, but wasted.

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use twinshore_protocol::extent::{Extent, ExtentSource};
use twinshore_protocol::operation::{ExtentExchange, NewObject};
use twinshore_protocol::session::{RequestError, Session};
use twinshore_protocol::{Caller, InodeNumber, Operation, Reply, Sides};
use twinshore_storage::object;
use twinshore_storage::pair::{BucketPair, PairError};

/// Content of one object at most. `Repoint` carries the bytes back, so that the service can tell whether they still
/// stand, and with its other fields it has to fit a message (4 MiB).
const PACK_BYTES: u64 = 3 << 20;

/// What `Repoint` may weigh: below the largest message by what its fixed fields need.
const REPOINT_BYTES: usize = (4 << 20) - (64 << 10);

/// What one exchange weighs besides its bytes, at most.
const EXCHANGE_BYTES: usize = 3 * 96;

/// Between two looks when there is little to pack. Inline data is not in the far bucket before it is packed, so this is
/// part of the lag.
const PAUSE: Duration = Duration::from_secs(1);

/// After an error, doubled each time up to the longest.
const FAILED_PAUSE_FIRST: Duration = Duration::from_secs(1);
const FAILED_PAUSE_LONGEST: Duration = Duration::from_secs(30);

/// Why a round did not work. The next may.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The metadata service did not do its part.
    #[error("inline data cannot be packed now: {0}")]
    Metadata(#[from] RequestError),
    /// No bucket took the object.
    #[error("the packed object cannot be stored: {0}")]
    Store(#[from] PairError),
    /// The service answered something else than it was asked.
    #[error("the metadata service answered {0} with something else: upgrade the older of the two")]
    UnexpectedReply(&'static str),
}

/// Packs the inline data of a volume.
#[derive(Clone)]
pub struct Packer {
    session: Session,
    buckets: BucketPair,
}

impl Packer {
    /// A packer that stores in these buckets.
    pub const fn new(session: Session, buckets: BucketPair) -> Self {
        Self { session, buckets }
    }

    /// Packs whatever there is, for ever. Ends when it is dropped.
    pub async fn run(&self) {
        let mut failed_pause = FAILED_PAUSE_FIRST;
        loop {
            match self.pack_once().await {
                Ok(packed_bytes) => {
                    failed_pause = FAILED_PAUSE_FIRST;
                    // While objects come out full there is more.
                    if packed_bytes < PACK_BYTES / 2 {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "packing failed and will be tried again");
                    tokio::time::sleep(failed_pause).await;
                    failed_pause = (failed_pause * 2).min(FAILED_PAUSE_LONGEST);
                }
            }
        }
    }

    /// Packs one object. Tells how many bytes went into it: 0 if there was nothing.
    pub async fn pack_once(&self) -> Result<u64, PackError> {
        let list = Operation::ListInline {
            limit_bytes: PACK_BYTES,
        };
        let Reply::InlineExtents(extents) = self.session.request(Caller::ROOT, list).await? else {
            return Err(PackError::UnexpectedReply("ListInline"));
        };
        let chosen = choose(extents);
        if chosen.is_empty() {
            return Ok(0);
        }
        let content: Vec<Bytes> = chosen.iter().map(|piece| piece.bytes.clone()).collect();
        let id = self.session.take_object().await?;
        let encoded = object::encode(&content, self.session.format().settings.compression);
        let side = self.buckets.store(id, &encoded).await?;
        let new = NewObject {
            object: id,
            stored_bytes: encoded.stored_bytes(),
            content_bytes: encoded.content_bytes,
            checksum: encoded.checksum,
            present: Sides::only(side),
        };
        let mut object_offset = 0;
        let mut exchanges = Vec::with_capacity(chosen.len());
        for Piece { inode, extent, .. } in chosen {
            let source = ExtentSource::Object {
                object: id,
                object_offset,
                present: new.present,
            };
            object_offset += extent.length;
            exchanges.push(ExtentExchange {
                inode,
                old: extent,
                new: source,
            });
        }
        let repoint = Operation::Repoint {
            objects: vec![new],
            exchanges,
        };
        match self.session.request(Caller::ROOT, repoint).await? {
            Reply::Done => Ok(encoded.content_bytes),
            _ => Err(PackError::UnexpectedReply("Repoint")),
        }
    }
}

struct Piece {
    inode: InodeNumber,
    bytes: Bytes,
    extent: Extent,
}

/// As many of the oldest as one `Repoint` carries; what is not inline after all is passed over.
fn choose(extents: Vec<(InodeNumber, Extent)>) -> Vec<Piece> {
    let mut chosen = Vec::new();
    let mut weight = 0;
    for (inode, extent) in extents {
        let ExtentSource::Inline(bytes) = &extent.source else {
            continue;
        };
        if bytes.len() as u64 != extent.length {
            continue;
        }
        weight += bytes.len() + EXCHANGE_BYTES;
        if weight > REPOINT_BYTES && !chosen.is_empty() {
            break;
        }
        let bytes = bytes.clone();
        chosen.push(Piece { inode, bytes, extent });
    }
    chosen
}
