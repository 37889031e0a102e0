//! One task at one pair of buckets: what is done, and how what happens is judged.

use std::sync::Arc;

use bytes::Bytes;
use twinshore_protocol::replication::TaskOutcome;
use twinshore_protocol::{ObjectId, Side};
use twinshore_storage::bucket::{Bucket, BucketError};
use twinshore_storage::object::object_key;

/// The longest reason that is reported, in bytes: stores like to answer with pages of XML.
const REASON_MAX_BYTES: usize = 300;

/// How often a body that does not match is read: once more, because it may have been damaged on the way.
const READS: usize = 2;

/// What metadata knows of the object to be copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub object: ObjectId,
    pub stored_bytes: u64,
    pub checksum: u32,
}

impl Expected {
    /// Are these the bytes that were stored?
    pub fn matches(&self, body: &Bytes) -> bool {
        body.len() as u64 == self.stored_bytes && crc32c::crc32c(body) == self.checksum
    }
}

/// What reading a whole object found.
pub(crate) enum Body {
    Good(Bytes),
    Missing,
    Damaged,
}

/// Reads a whole object and verifies it.
pub(crate) async fn read_verified(bucket: &dyn Bucket, expected: Expected) -> Result<Body, BucketError> {
    let key = object_key(expected.object);
    for _ in 0..READS {
        match bucket.get(&key, None).await {
            Ok(body) if expected.matches(&body) => return Ok(Body::Good(body)),
            Ok(_) => {}
            Err(BucketError::NotFound { .. }) => return Ok(Body::Missing),
            Err(error) => return Err(error),
        }
    }
    Ok(Body::Damaged)
}

/// Copies an object to a side. Only bytes that match what metadata knows are ever stored.
pub(crate) async fn copy(
    source: &dyn Bucket,
    destination: &dyn Bucket,
    side: Side,
    expected: Expected,
) -> TaskOutcome {
    let body = match read_verified(source, expected).await {
        Ok(Body::Good(body)) => body,
        Ok(Body::Missing) => return TaskOutcome::SourceMissing,
        Ok(Body::Damaged) => return TaskOutcome::SourceDamaged,
        Err(error) => return failed(&format!("reading from the {} bucket", side.other()), &error),
    };
    match destination
        .put_with_checksum(&object_key(expected.object), body, expected.checksum)
        .await
    {
        Ok(()) => TaskOutcome::Done,
        Err(error) => failed(&format!("storing in the {side} bucket"), &error),
    }
}

/// Deletes objects from a side, together: the outcome is the same for all.
pub(crate) async fn delete(bucket: &dyn Bucket, side: Side, objects: &[ObjectId]) -> TaskOutcome {
    let keys: Vec<_> = objects.iter().map(|object| object_key(*object)).collect();
    match bucket.delete(&keys).await {
        Ok(()) => TaskOutcome::Done,
        Err(error) => failed(&format!("deleting from the {side} bucket"), &error),
    }
}

/// There is no bucket to work with. It may come: with a new target its settings arrive before its credentials.
pub(crate) fn no_bucket(side: Side) -> TaskOutcome {
    TaskOutcome::Failed {
        reason: format!("this worker has no access to the {side} bucket: give it the bucket's credentials"),
    }
}

/// A bucket of a side, or the outcome that says that there is none.
pub(crate) fn bucket(
    pair: &twinshore_storage::pair::BucketPair,
    side: Side,
) -> Result<Arc<dyn Bucket>, TaskOutcome> {
    pair.bucket(side).ok_or_else(|| no_bucket(side))
}

fn failed(doing: &str, error: &BucketError) -> TaskOutcome {
    let mut reason = format!("{doing}: {error}");
    let end = reason.floor_char_boundary(REASON_MAX_BYTES);
    reason.truncate(end);
    TaskOutcome::Failed { reason }
}
