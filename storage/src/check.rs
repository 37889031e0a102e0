//! Is a bucket usable, and are two buckets two? Asked before a volume is created or mounted, so that a mistake is told at once and
//! in words, and not as an I/O error later.

use std::ops::Range;

use bytes::Bytes;

use crate::bucket::{Bucket, BucketError};

/// Keys of probes begin with this; a probe that a crash has left behind is removed by a full synchronisation.
pub const PROBES_PREFIX: &str = "probes/";

/// What a probe holds.
const PROBE: &[u8] =
    b"This object was stored by Twinshore to see whether the bucket can be used. It can be deleted.\n";
/// A range of it, to see whether the store answers ranges.
const RANGE: Range<usize> = 5..11;

/// Stores, reads, lists and deletes a probe. `unique` is a part of its key that nobody else uses.
pub async fn check(bucket: &dyn Bucket, unique: &str) -> Result<(), BucketError> {
    let key = format!("{PROBES_PREFIX}{unique}");
    // First: some stores make a bucket out of the first put into one that does not exist.
    bucket.list(PROBES_PREFIX, None, 1).await?;
    bucket.put(&key, Bytes::from_static(PROBE)).await?;
    let read = bucket
        .get(&key, Some(RANGE.start as u64..RANGE.end as u64))
        .await?;
    let listed = bucket.list(&key, None, 1).await?;
    bucket.delete(std::slice::from_ref(&key)).await?;
    if read != PROBE[RANGE] {
        return Err(BucketError::Invalid {
            what: "the bucket does not answer ranged reads with what was stored".to_owned(),
        });
    }
    if listed
        .first()
        .is_none_or(|listed| listed.key != key || listed.size_bytes != PROBE.len() as u64)
    {
        return Err(BucketError::Invalid {
            what: "the bucket does not list what was stored in it".to_owned(),
        });
    }
    Ok(())
}

/// Are the two the same bucket (under whatever names)? What is stored in the one is looked for in the other.
pub async fn are_the_same(one: &dyn Bucket, other: &dyn Bucket, unique: &str) -> Result<bool, BucketError> {
    let key = format!("{PROBES_PREFIX}{unique}");
    one.put(&key, Bytes::from_static(PROBE)).await?;
    let seen = other.get(&key, None).await;
    one.delete(std::slice::from_ref(&key)).await?;
    match seen {
        Ok(_) => Ok(true),
        Err(BucketError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::memory::MemoryBucket;

    #[tokio::test]
    async fn one_bucket_under_two_names_is_found_out_and_nothing_is_left_behind() {
        let (east, west) = (MemoryBucket::new(), MemoryBucket::new());
        check(&east, "1").await.unwrap();
        assert!(are_the_same(&east, &east.clone(), "1").await.unwrap());
        assert!(!are_the_same(&east, &west, "1").await.unwrap());
        assert_eq!((east.keys(), west.keys()), (vec![], vec![]));
    }
}
