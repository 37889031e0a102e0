//! `twinshore volume destroy`.

use twinshore_metadata::archive::catalogue::PREFIX as METADATA_PREFIX;
use twinshore_metadata::archive::{MARKER_KEY, MarkerError, read_marker};
use twinshore_protocol::{Side, VolumeId};
use twinshore_storage::bucket::{Bucket, BucketError};
use twinshore_storage::object::OBJECTS_PREFIX;

use crate::arguments::DestroyArguments;
use crate::buckets;
use crate::error::CommandError;

/// Keys of one listing and of one deletion: as many as S3 allows.
const BATCH: usize = 1000;

/// Removes everything that a volume has in its buckets.
pub async fn run(arguments: DestroyArguments) -> Result<(), CommandError> {
    let DestroyArguments {
        id,
        bucket,
        bucket2,
        yes,
        credentials,
    } = arguments;
    let mut opened = vec![(
        Side::Primary,
        buckets::open_url(&bucket, Side::Primary, &credentials).await?,
    )];
    if let Some(bucket2) = bucket2 {
        opened.push((
            Side::Target,
            buckets::open_url(&bucket2, Side::Target, &credentials).await?,
        ));
    }
    // All are looked at before anything is removed from one.
    for (side, bucket) in &opened {
        refuse_foreign(&**bucket, *side, id).await?;
    }
    for (side, bucket) in &opened {
        let removed = empty(&**bucket, yes).await.map_err(CommandError::failed(format!(
            "empty the bucket of the {side} region"
        )))?;
        let what = if yes { "removed" } else { "would remove" };
        println!("volume: {what} {removed} objects of the bucket of the {side} region");
    }
    if !yes {
        println!("volume: nothing was removed; add --yes to do it");
    }
    Ok(())
}

/// A bucket without a mark holds nothing of a volume, or was emptied before: its mark goes last.
async fn refuse_foreign(bucket: &dyn Bucket, side: Side, id: VolumeId) -> Result<(), CommandError> {
    let what = format!("empty the bucket of the {side} region");
    match read_marker(bucket)
        .await
        .map_err(CommandError::failed(what.clone()))?
    {
        Some(format) if format.volume != id => Err(CommandError::failed(what)(MarkerError::OtherVolume {
            found: format.volume,
            name: format.name,
            expected: id,
        })),
        Some(_) | None => Ok(()),
    }
}

/// Removes what is ours, the mark last: whoever is interrupted can begin again. Without a mark nothing is removed. How many there were.
async fn empty(bucket: &dyn Bucket, is_meant: bool) -> Result<u64, BucketError> {
    match bucket.size(MARKER_KEY).await {
        Ok(_) => {}
        Err(BucketError::NotFound { .. }) => return Ok(0),
        Err(error) => return Err(error),
    }
    let mut removed = 0;
    for prefix in [OBJECTS_PREFIX, METADATA_PREFIX] {
        let mut after: Option<String> = None;
        loop {
            let listed = bucket.list(prefix, after.as_deref(), BATCH).await?;
            let keys: Vec<String> = listed.into_iter().map(|listed| listed.key).collect();
            let Some(last) = keys.last() else { break };
            after = Some(last.clone());
            removed += keys.len() as u64;
            if is_meant {
                bucket.delete(&keys).await?;
            }
        }
    }
    if is_meant {
        bucket.delete(&[MARKER_KEY.to_owned()]).await?;
    }
    Ok(removed + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use bytes::Bytes;
    use twinshore_storage::memory::MemoryBucket;

    use super::*;

    async fn filled() -> MemoryBucket {
        let bucket = MemoryBucket::default();
        for key in [
            MARKER_KEY,
            "objects/ab/00000001-000000000001",
            "metadata/reigns/1",
            "somebody/else",
        ] {
            bucket.put(key, Bytes::from_static(b"x")).await.unwrap();
        }
        bucket
    }

    #[tokio::test]
    async fn only_what_belongs_to_a_volume_is_removed_and_only_if_it_is_meant() {
        let bucket = filled().await;
        assert_eq!(empty(&bucket, false).await.unwrap(), 3);
        assert_eq!(bucket.list("", None, 10).await.unwrap().len(), 4);
        assert_eq!(empty(&bucket, true).await.unwrap(), 3);
        let rest = bucket.list("", None, 10).await.unwrap();
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].key, "somebody/else");
        assert_eq!(empty(&bucket, true).await.unwrap(), 0, "it can be repeated");
    }
}
